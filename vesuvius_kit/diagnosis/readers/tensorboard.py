"""Event files of TensorBoard, through its own package where that is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.diagnosis.readers.names import meaning_of
from vesuvius_kit.diagnosis.readers.rows import Row

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# As many points of a curve are read; TensorBoard thins out what is longer.
MAX_POINTS = 20_000


def read_events(path: Path) -> list[Row]:
    """Return the scalars of an event file, or of a folder with several of one run, by step.

    A scalar called `epoch`, as Lightning writes it, gives the epochs.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise InputValueError(
            f"{path} is an event file of TensorBoard: to read it, install the package tensorboard, or export its scalars as CSV"
        ) from error
    import logging

    # It warns of every file that is still being written.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    accumulator = EventAccumulator(str(path), size_guidance={"scalars": MAX_POINTS, "tensors": MAX_POINTS})
    try:
        accumulator.Reload()
        by_step = _points(accumulator)
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, AttributeError, TypeError) as error:
        raise InputValueError(f"event file cannot be read: {path} ({' '.join(str(error).split())[:100]})") from error
    rows = [
        Row(place, values, step=step, level="point", source="events")
        for place, (step, values) in enumerate(by_step, start=1)
    ]
    _give_epochs(rows)
    return rows


def _points(accumulator: "EventAccumulator") -> list[tuple[int, dict[str, float]]]:
    """Names and values by step."""
    tags = accumulator.Tags()
    by_step: dict[int, dict[str, float]] = {}
    for tag in tags.get("scalars", ()):
        for event in accumulator.Scalars(tag):
            by_step.setdefault(event.step, {})[tag] = float(event.value)
    for tag in tags.get("tensors", ()):
        if meaning_of(tag).kind == "other":
            continue
        from tensorboard.util import tensor_util

        for event in accumulator.Tensors(tag):
            array = tensor_util.make_ndarray(event.tensor_proto)
            if array.size == 1 and array.dtype.kind in "fiu":
                by_step.setdefault(event.step, {})[tag] = float(array.reshape(-1)[0])
    return sorted(by_step.items())


def _give_epochs(rows: Sequence[Row]) -> None:
    """Epochs from a scalar that counts them; or the steps themselves where they are few and follow each other."""
    epoch_tag = next((name for row in rows for name in row.values if meaning_of(name).kind == "epoch"), None)
    for row in rows:
        row.values = {
            name: value
            for name, value in row.values.items()
            if meaning_of(name).kind in ("loss", "score", "rate", "bare")
        } | ({epoch_tag: row.values[epoch_tag]} if epoch_tag in row.values else {})
    if epoch_tag is not None:
        epoch = None
        for row in reversed(rows):
            epoch = row.values.pop(epoch_tag, epoch)
            row.epoch = epoch
        return
    steps = [row.step for row in rows if row.values and row.step is not None]
    if steps and len(steps) <= 2000 and steps[0] <= 1 and steps[-1] - steps[0] + 1 <= 1.2 * len(steps):
        for row in rows:
            row.epoch, row.step = row.step, None
