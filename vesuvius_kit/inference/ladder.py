"""The plans that a run may follow, largest first: which networks predict, with how many views, with which overlap.

When the time does not suffice for the first, a run takes a later one. Views are shed first, then networks, then overlap: the
order in which the competition's teams gave them up, and in which they cost the least score. The last plan needs no network.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputValueError, check_choice, check_integer, check_real
from vesuvius_kit.config.settings import TTA
from vesuvius_kit.config.yaml_file import load_yaml

CountViews = Callable[[int, TTA], int]
"""``count_views(number, tta)``: the views of a network, by its number, under a name of test-time augmentation."""

# Of test-time augmentation, from many views to one; a name is a step down where it has fewer views.
_FEWER_VIEWS: tuple[TTA, ...] = ("mirror", "mirror4", "none")
# Shares of the overlap asked for.
_LESS_OVERLAP = (0.75, 0.5, 0.25, 0.0)
_RIDGE = "ridge"


@dataclass(frozen=True)
class Rung:
    """One plan: how a volume is predicted."""

    members: tuple[tuple[int, TTA], ...]
    """Of each network that predicts: its number, from 0 in the order in which the checkpoints were given, and its test-time
    augmentation. Empty: no network, the ridge filter `simple_mask`."""
    overlap: float = 0.0
    """Smallest share of a window that the next one covers again, in [0, 1)."""

    @property
    def is_ridge(self) -> bool:
        """Whether no network predicts."""
        return not self.members

    def without(self, numbers: Collection[int]) -> "Rung":
        """Return the plan for the networks that are not among ``numbers``."""
        members = tuple(member for member in self.members if member[0] not in numbers)
        return Rung(members, self.overlap) if members else RIDGE

    def to_text(self) -> str:
        """Return the plan in a few words."""
        if self.is_ridge:
            return "ridge filter"
        views = [tta for _, tta in self.members]
        tta = views[0] if len(set(views)) == 1 else ",".join(views)
        n = len(views)
        return f"{n} network{'s' * (n > 1)}, tta {tta}, overlap {self.overlap:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return what is kept in a run's record, as JSON holds it."""
        return {"members": [list(member) for member in self.members], "overlap": self.overlap}


RIDGE = Rung(())
"""The plan without a network."""


def make_ladder(
    n_models: int, tta: TTA, overlap: float, count_views: CountViews, weights: Sequence[float] | None = None
) -> list[Rung]:
    """Return the plans in their order: all that was asked for, fewer views, fewer networks, less overlap, the ridge filter.

    Within a step the network with the least of the ``weights`` gives way first, of equal ones the last. Where a network has no
    more views than a preset, that step is left out.
    """
    check_integer("n_models", n_models, minimum=1)
    weights = [1.0] * n_models if weights is None else weights
    leaving = sorted(range(n_models), key=lambda number: (weights[number], -number))
    members = {number: tta for number in range(n_models)}
    rungs = [Rung(tuple(members.items()), overlap)]
    for fewer in _FEWER_VIEWS:
        for number in leaving:
            if count_views(number, fewer) < count_views(number, members[number]):
                members[number] = fewer
                rungs.append(Rung(tuple(members.items()), overlap))
    for number in leaving[:-1]:
        del members[number]
        rungs.append(Rung(tuple(members.items()), overlap))
    rungs += [Rung(tuple(members.items()), share * overlap) for share in _LESS_OVERLAP if overlap]
    return [*rungs, RIDGE]


def read_ladder(path: Path | str, n_models: int, tta: TTA, overlap: float, presets: Collection[str]) -> list[Rung]:
    """Read the plans from a YAML file, a list, largest first; the ridge filter is added at its end where it is missing.

    An entry is ``ridge``, or a mapping with ``models`` (how many, or a list of numbers counted from 1 in the order in which the
    checkpoints were given; all by default), ``tta`` (a name, or one for each of the models) and ``overlap``; what is left out
    is as it was asked for.

    Parameters
    ----------
    path
        The file.
    n_models
        Networks there are.
    tta
        What was asked for, as is ``overlap``.
    presets
        Names of test-time augmentation.
    """
    entries = load_yaml(path, "plan")
    if not isinstance(entries, list) or not entries:
        raise InputValueError(f"{path} must hold a list of plans, largest first, got {_describe(entries)}")
    rungs = []
    for number, entry in enumerate(entries, start=1):
        try:
            rungs.append(_read_rung(entry, n_models, tta, overlap, presets))
        except InputValueError as error:
            raise InputValueError(f"{path}, plan {number}: {error}") from error
    return check_ladder(rungs, n_models, presets)


def check_ladder(rungs: Sequence[Rung], n_models: int, presets: Collection[str]) -> list[Rung]:
    """Return plans that were given, once each, with the ridge filter at the end, after checking them against the networks."""
    for rung in rungs:
        check_real("overlap", rung.overlap, minimum=0, below=1)
        numbers = [number for number, _ in rung.members]
        if len(set(numbers)) < len(numbers):
            raise InputValueError(f"models must be named once, got {[number + 1 for number in numbers]}")
        for number, tta in rung.members:
            check_integer("models", number + 1, minimum=1, maximum=n_models)
            check_choice("tta", tta, presets)
    kept = [rung for rung in dict.fromkeys(rungs) if not rung.is_ridge]
    if not kept:
        raise InputValueError("plans must hold at least one with a network, got none")
    return [*kept, RIDGE]


def _read_rung(entry: Any, n_models: int, tta: TTA, overlap: float, presets: Collection[str]) -> Rung:
    if entry == _RIDGE:
        return RIDGE
    if not isinstance(entry, dict) or not entry.keys() <= {"models", "tta", "overlap"}:
        raise InputValueError(f"it must be {_RIDGE} or hold models, tta and overlap, got {_describe(entry)}")
    models = entry.get("models", n_models)
    numbers = models if isinstance(models, list) else range(1, _integer("models", models, n_models) + 1)
    numbers = [_integer("models", number, n_models) - 1 for number in numbers]
    if not numbers:
        raise InputValueError(f"models must be at least one, got none; {_RIDGE} is the plan without")
    names = entry.get("tta", tta)
    names = names if isinstance(names, list) else [names] * len(numbers)
    if len(names) != len(numbers) or not all(isinstance(name, str) for name in names):
        raise InputValueError(f"tta must be a name, or one for each of the {len(numbers)} models, got {names}")
    overlap = entry.get("overlap", overlap)
    if isinstance(overlap, bool) or not isinstance(overlap, (int, float)):
        raise InputValueError(f"overlap must be a number, got {overlap!r}")
    rung = Rung(tuple(zip(numbers, names)), float(overlap))
    check_ladder([rung], n_models, presets)
    return rung


def _integer(name: str, value: Any, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputValueError(f"{name} must be integers, got {value!r}")
    return check_integer(name, value, minimum=1, maximum=maximum)


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return f"a mapping with {', '.join(map(str, value)) or 'nothing'}"
    return "nothing" if value is None else "an empty list" if value == [] else repr(value)
