"""What only nnU-Net writes: a Dice for each class in one list, and the record of the training in its checkpoints."""

import math
import re
from collections.abc import Callable
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
    loaded = _load(path)
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


def _load(path: Path) -> object:
    """A checkpoint, by `weights_only` with the names that NumPy's numbers have in its releases 1 and 2."""
    import pickle
    import zipfile

    import numpy as np
    import torch
    from numpy._core.multiarray import scalar

    types = [np.dtype(kind) for kind in ("float64", "float32", "float16", "int64", "int32", "bool")]
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [np.dtype, *{type(kind) for kind in types}]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = re.search(r"GLOBAL ([\w.]+)|global ([\w.]+)", str(error))
        what = f", which names {told[1] or told[2]}" if told else ""
        raise InputValueError(
            f"checkpoint must hold plain numbers and weights only, got {path}{what}; give its training_log_*.txt instead"
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        OSError,
        zipfile.BadZipFile,
    ) as error:
        raise InputValueError(f"checkpoint cannot be read: {path} ({' '.join(str(error).split())[:100]})") from error
