"""Quantities of a run by epoch, taken from the lines of its log; whatever is missing or no number is left out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

Line = Mapping[str, Any]
"""One epoch in the form of ``log.jsonl``; every key but `epoch` may be missing, a number may be NaN or None.

Logs of others may have `scores` (name to value), `batches` (losses of single batches), `begins_trained` (weights of an
earlier run were loaded) and `told_labels` (the line in which the log tells of a wrong share of surface)."""
Config = Mapping[str, Any]
"""A run's settings as plain types, by section."""
Part = Literal["train", "validation"]
Curve = list[tuple[int, float]]
"""Epoch and value, in the order of the log."""

# Half of a per cent of the best loss in ten epochs: what the controller calls a plateau, twice its patience.
PLATEAU_DELTA = 0.005
PLATEAU_EPOCHS = 10


@dataclass(frozen=True)
class Plateau:
    """The epochs since the last improvement that counts."""

    best_epoch: int
    """The last epoch that was better than all before by `PLATEAU_DELTA`."""
    last_epoch: int
    """The run's last."""
    best_loss: float
    """The loss of `best_epoch`."""


def series(lines: Sequence[Line], part: Part, name: str) -> Curve:
    """Return a quantity such as ``loss`` by epoch, of the epochs where it is finite."""
    found = ((line["epoch"], number_of((line.get(part) or {}).get(name))) for line in lines)
    return [(epoch, value) for epoch, value in found if math.isfinite(value)]


def loss_curve(lines: Sequence[Line]) -> Curve:
    """Return the validation loss by epoch, or the training loss of a log without one."""
    return series(lines, "validation", "loss") or series(lines, "train", "loss")


def floor_of(lines: Sequence[Line]) -> float | None:
    """Return the lowest value that the losses of a run can have, by what they had.

    0 for losses that were never negative, -1 for those that never fell below it, as the sum of a negative Dice and a cross
    entropy is; None for any other, of which no share can be told.
    """
    values = [value for part in ("train", "validation") for _, value in series(lines, part, "loss")]
    lowest = min(values, default=0.0)
    return 0.0 if lowest >= 0 else -1.0 if lowest >= -1 else None


def heights(lines: Sequence[Line], part: Part) -> Curve:
    """Return how far the loss is above its floor, by epoch: what there is left to learn. Empty where the floor is not known."""
    floor = floor_of(lines)
    return [] if floor is None else [(epoch, loss - floor) for epoch, loss in series(lines, part, "loss")]


def scores_of(lines: Sequence[Line]) -> dict[str, Curve]:
    """Return the scores that a log of others holds, by name, of the epochs where they are finite."""
    found: dict[str, Curve] = {}
    for line in lines:
        scores = line.get("scores")
        for name, value in scores.items() if isinstance(scores, dict) else ():
            if math.isfinite(number_of(value)):
                found.setdefault(name, []).append((line["epoch"], number_of(value)))
    return found


def begins_anew(lines: Sequence[Line]) -> bool:
    """Return whether the log begins where the training began, with weights that had learned nothing."""
    return lines[0]["epoch"] <= 1 and not lines[0].get("begins_trained")


def find_plateau(lines: Sequence[Line]) -> Plateau | None:
    """Return the plateau a run is on, if it is on one."""
    curve = loss_curve(lines)
    best: tuple[int, float] | None = None
    floor = floor_of(lines)
    spread = 0.0 if floor is not None or not curve else max(loss for _, loss in curve) - min(loss for _, loss in curve)
    for epoch, loss in curve:
        if best is None or loss < best[1] - PLATEAU_DELTA * (spread if floor is None else best[1] - floor):
            best = (epoch, loss)
    if best is None or curve[-1][0] - best[0] < PLATEAU_EPOCHS:
        return None
    return Plateau(best[0], curve[-1][0], best[1])


def base_rate(lines: Sequence[Line], config: Config | None = None) -> float | None:
    """Return the base learning rate of a run; None where no rate was logged.

    Without the settings the highest rate before the first intervention, or of the first 15 epochs, counts.
    """
    configured = number_of(setting_of(config, "train", "learning_rate"))
    if configured > 0:
        return configured
    early = []
    for line in since_new_base(lines)[:15]:
        early.append(number_of(line.get("rate")))
        if line.get("interventions"):
            break
    early = [rate for rate in early if math.isfinite(rate) and rate > 0]
    return max(early) if early else None


def number_of(value: object) -> float:
    """Return a float; NaN for null, for what is missing and for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def setting_of(config: Config | None, section: str, name: str) -> Any:
    """Return one setting of a run; None where it is not known."""
    found = (config or {}).get(section)
    return found.get(name) if isinstance(found, dict) else None


def span_of(lines: Sequence[Line]) -> list[int]:
    """Return the first and the last epoch."""
    return [lines[0]["epoch"], lines[-1]["epoch"]]


def part_of(line: Line) -> Part:
    """Return the part of an epoch in which its components are best read."""
    return "validation" if "loss" in (line.get("validation") or {}) else "train"


# What stands beside the components in a part of an epoch.
_NOT_COMPONENTS = ("loss", "gradient_norm", "skipped_steps", "output_mean", "output_std", "surface_share")
COMPONENTS = ("boundary", "cldice", "connectivity", "cross_entropy", "dice", "focal", "variance")


def mean_components(lines: Sequence[Line]) -> dict[str, float]:
    """Return the mean of each component that is never negative over some epochs."""
    names = {name for line in lines for name in (line.get(part_of(line)) or {}) if name not in _NOT_COMPONENTS}
    means = {}
    for name in sorted(names):
        values = [value for line in lines for _, value in series([line], part_of(line), name)]
        if values and min(values) >= 0:
            means[name] = fmean(values)
    return means


def weights_of(line: Line, config: Config | None) -> dict[str, float] | None:
    """Return the weights of the loss in an epoch that are above 0; None where they are not known."""
    weights = line.get("loss_weights")
    if not isinstance(weights, dict) and isinstance((config or {}).get("loss"), dict):
        found = {name: setting_of(config, "loss", f"{name}_weight") for name in COMPONENTS}
        weights = {name: value for name, value in found.items() if isinstance(value, (int, float))}
    if not weights:
        return None
    return {name: number_of(value) for name, value in weights.items() if number_of(value) > 0}


def mean_diagnostics(lines: Sequence[Line], name: Literal["gradient_norms", "cosines"]) -> dict[str, float]:
    """Return the mean of each entry of the gradient diagnostics over some epochs."""
    sums: dict[str, list[float]] = {}
    for line in lines:
        values = (line.get("gradient_diagnostics") or {}).get(name)
        for key, value in values.items() if isinstance(values, dict) else ():
            if math.isfinite(number_of(value)):
                sums.setdefault(key, []).append(number_of(value))
    return {key: fmean(values) for key, values in sums.items()}


def since_new_weights(lines: Sequence[Line]) -> Sequence[Line]:
    """Return the epochs under the weights of the last: losses under other weights cannot be compared."""
    start = 0
    for number in range(1, len(lines)):
        if lines[number].get("loss_weights") != lines[number - 1].get("loss_weights"):
            start = number
    return lines[start:]


def since_new_base(lines: Sequence[Line]) -> Sequence[Line]:
    """Return the epochs since the run was last resumed, which may have been with another rate."""
    start = 0
    for number, line in enumerate(lines):
        if any(event.get("kind") == "resumed" for event in line.get("events") or ()):
            start = number
    return lines[start:]
