"""Quantities of a run by epoch, taken from its records; whatever is missing or no number is left out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, TypeVar

from vesuvius_kit.constants import COMPONENTS
from vesuvius_kit.diagnosis.logs import Config, LoggedEpoch
from vesuvius_kit.io.record import BESIDE_COMPONENTS, EpochRecord

Part = Literal["train", "validation"]
Curve = list[tuple[int, float]]
"""Epoch and value, in the order of the log."""
_Record = TypeVar("_Record", bound=EpochRecord)

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


def entries_of(record: EpochRecord, part: Part) -> Mapping[str, Any]:
    """Return what one part of an epoch holds, by name; a number may be NaN or None."""
    return record.train if part == "train" else record.validation


def series(records: Sequence[EpochRecord], part: Part, name: str) -> Curve:
    """Return a quantity such as ``loss`` by epoch, of the epochs where it is finite."""
    found = ((record.epoch, number_of(entries_of(record, part).get(name))) for record in records)
    return [(epoch, value) for epoch, value in found if math.isfinite(value)]


def loss_curve(records: Sequence[EpochRecord]) -> Curve:
    """Return the validation loss by epoch, or the training loss of a log without one."""
    return series(records, "validation", "loss") or series(records, "train", "loss")


def floor_of(records: Sequence[EpochRecord]) -> float | None:
    """Return the lowest value that the losses of a run can have, by what they had.

    0 for losses that were never negative, -1 for those that never fell below it, as the sum of a negative Dice and a cross
    entropy is; None for any other, of which no share can be told.
    """
    values = [value for part in ("train", "validation") for _, value in series(records, part, "loss")]
    lowest = min(values, default=0.0)
    return 0.0 if lowest >= 0 else -1.0 if lowest >= -1 else None


def heights(records: Sequence[EpochRecord], part: Part) -> Curve:
    """Return how far the loss is above its floor, by epoch: what there is left to learn. Empty where the floor is not known."""
    floor = floor_of(records)
    return [] if floor is None else [(epoch, loss - floor) for epoch, loss in series(records, part, "loss")]


def scores_of(records: Sequence[LoggedEpoch]) -> dict[str, Curve]:
    """Return the scores that a log of others holds, by name, of the epochs where they are finite."""
    found: dict[str, Curve] = {}
    for record in records:
        for name, value in record.scores.items():
            if math.isfinite(number_of(value)):
                found.setdefault(name, []).append((record.epoch, number_of(value)))
    return found


def begins_anew(records: Sequence[LoggedEpoch]) -> bool:
    """Return whether the log begins where the training began, with weights that had learned nothing."""
    return records[0].epoch <= 1 and not records[0].begins_trained


def find_plateau(records: Sequence[EpochRecord]) -> Plateau | None:
    """Return the plateau a run is on, if it is on one."""
    curve = loss_curve(records)
    best: tuple[int, float] | None = None
    floor = floor_of(records)
    spread = 0.0 if floor is not None or not curve else max(loss for _, loss in curve) - min(loss for _, loss in curve)
    for epoch, loss in curve:
        if best is None or loss < best[1] - PLATEAU_DELTA * (spread if floor is None else best[1] - floor):
            best = (epoch, loss)
    if best is None or curve[-1][0] - best[0] < PLATEAU_EPOCHS:
        return None
    return Plateau(best[0], curve[-1][0], best[1])


def base_rate(records: Sequence[EpochRecord], config: Config | None = None) -> float | None:
    """Return the base learning rate of a run; None where no rate was logged.

    Without the settings the highest rate before the first intervention, or of the first 15 epochs, counts.
    """
    configured = number_of(setting_of(config, "train", "learning_rate"))
    if configured > 0:
        return configured
    early = []
    for record in since_new_base(records)[:15]:
        early.append(number_of(record.rate))
        if record.interventions:
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


def span_of(records: Sequence[EpochRecord]) -> list[int]:
    """Return the first and the last epoch."""
    return [records[0].epoch, records[-1].epoch]


def part_of(record: EpochRecord) -> Part:
    """Return the part of an epoch in which its components are best read."""
    return "validation" if "loss" in record.validation else "train"


def mean_components(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Return the mean of each component that is never negative over some epochs."""
    names = {
        name for record in records for name in entries_of(record, part_of(record)) if name not in BESIDE_COMPONENTS
    }
    means = {}
    for name in sorted(names):
        values = [value for record in records for _, value in series([record], part_of(record), name)]
        if values and min(values) >= 0:
            means[name] = fmean(values)
    return means


def weights_of(record: EpochRecord, config: Config | None) -> dict[str, float] | None:
    """Return the weights of the loss in an epoch that are above 0; None where they are not known."""
    weights: Mapping[str, Any] = record.loss_weights
    if not weights and isinstance((config or {}).get("loss"), dict):
        found = {name: setting_of(config, "loss", f"{name}_weight") for name in COMPONENTS}
        weights = {name: value for name, value in found.items() if isinstance(value, (int, float))}
    if not weights:
        return None
    return {name: number_of(value) for name, value in weights.items() if number_of(value) > 0}


def mean_diagnostics(records: Sequence[EpochRecord], name: Literal["gradient_norms", "cosines"]) -> dict[str, float]:
    """Return the mean of each entry of the gradient diagnostics over some epochs."""
    sums: dict[str, list[float]] = {}
    for record in records:
        values = (record.gradient_diagnostics or {}).get(name)
        for key, value in values.items() if isinstance(values, dict) else ():
            if math.isfinite(number_of(value)):
                sums.setdefault(key, []).append(number_of(value))
    return {key: fmean(values) for key, values in sums.items()}


def since_new_weights(records: Sequence[_Record]) -> Sequence[_Record]:
    """Return the epochs under the weights of the last: losses under other weights cannot be compared."""
    start = 0
    for number in range(1, len(records)):
        if records[number].loss_weights != records[number - 1].loss_weights:
            start = number
    return records[start:]


def since_new_base(records: Sequence[_Record]) -> Sequence[_Record]:
    """Return the epochs since the run was last resumed, which may have been with another rate."""
    start = 0
    for number, record in enumerate(records):
        if any(event.get("kind") == "resumed" for event in record.events):
            start = number
    return records[start:]
