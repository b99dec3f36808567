"""What only nnU-Net writes: a Dice for each class in one list, and the record of the training in its checkpoints."""

import math
import re
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.diagnosis.readers.rows import Row

_DICE = re.compile(r"(?P<name>Pseudo dice|Average global foreground Dice)\s*:?\s*(?P<values>\[[^\]]*\])", re.IGNORECASE)
_WRAPPER = re.compile(r"(?:np\.|numpy\.)?float(?:16|32|64)\(|array\(|,?\s*dtype=(?:np\.)?float\d+|\)")
_VALUE = re.compile(r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)", re.IGNORECASE)
# The keys of the dictionary `logging`, as the releases name them.
_LOGGED = {
    "train_losses": "train_loss",
    "val_losses": "val_loss",
    "mean_fg_dice": "mean_fg_dice",
    "ema_fg_dice": "ema_fg_dice",
    "lrs": "lr",
}


def read_dice_line(line: str, number: int) -> Row | None:
    """Return the Dice of each class and their mean, as any release writes them: `Pseudo dice [0.81, nan]`."""
    match = _DICE.search(line)
    if not match:
        return None
    values = [float(value) for value in _VALUE.findall(_WRAPPER.sub("", match["values"]))]
    if not values:
        return None
    known = [value for value in values if math.isfinite(value)]
    row = Row(number, source="console")
    if not known:
        return row
    row.values[match["name"]] = sum(known) / len(known)
    if len(values) > 1:
        row.values.update(
            (f"{match['name']} of class {place}", value)
            for place, value in enumerate(values, start=1)
            if math.isfinite(value)
        )
    return row


def read_checkpoint(path: Path) -> list[Row]:
    """Return the epochs that nnU-Net keeps in its `checkpoint_*.pth`.

    It is unpickled with torch's own list of harmless types and NumPy's numbers; a file with anything else in it is refused.
    """
    # torch takes seconds to import: only a checkpoint pays for it.
    from vesuvius_kit.models.pickled import read_pickled

    try:
        loaded = read_pickled(path, is_lazy=True)
    except InputValueError as error:
        raise InputValueError(f"{error}; give its training_log_*.txt instead") from error
    logged = loaded.get("logging") if isinstance(loaded, dict) else None
    if not isinstance(logged, dict):
        raise InputValueError(f"checkpoint must hold nnU-Net's dictionary 'logging', got none in {path}")
    series = {
        name: [_number(value) for value in logged[key]]
        for key, name in _LOGGED.items()
        if isinstance(logged.get(key), list)
    }
    classes = logged.get("dice_per_class_or_region")
    classes = classes if isinstance(classes, list) else []
    length = max((len(values) for values in series.values()), default=0)
    rows = []
    for epoch in range(length):
        row = Row(epoch + 1, epoch=epoch, source="checkpoint")
        row.values = {name: values[epoch] for name, values in series.items() if epoch < len(values)}
        if epoch < len(classes) and isinstance(classes[epoch], (list, tuple)) and len(classes[epoch]) > 1:
            for place, value in enumerate(classes[epoch], start=1):
                if math.isfinite(_number(value)):
                    row.values[f"dice of class {place}"] = _number(value)
        rows.append(row)
    return rows


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
