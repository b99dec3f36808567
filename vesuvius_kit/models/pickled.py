"""Checkpoints that others pickled, read by torch's restricted unpickler: tensors, plain values and NumPy's numbers alone."""

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from vesuvius_kit.checks import InputValueError, name_os_errors, one_line

_NUMBERS = (
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
)
# Whatever a damaged file makes of torch's reader.
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    AssertionError,
    zipfile.BadZipFile,
)


def read_pickled(source: Path | BinaryIO, path: Path | str | None = None, *, is_lazy: bool = False) -> Any:
    """Return what a checkpoint of torch holds, on the CPU.

    Parameters
    ----------
    source
        The file, or a stream at its beginning.
    path
        What messages call a stream.
    is_lazy
        Tensors of a file are read when they are used, for who wants what stands beside them.

    Raises
    ------
    InputValueError
        The file names anything that could run code, with that name, or it is damaged.
    """
    path = source if isinstance(source, Path) else path
    try:
        with torch.serialization.safe_globals(_allowed()), name_os_errors(f"read {path}"):
            # Only torch's newer format can be mapped into memory.
            mapped = is_lazy and isinstance(source, Path) and zipfile.is_zipfile(source)
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        told = re.search(r"GLOBAL ([\w.]+)|global ([\w.]+)", str(error))
        what = f", which names {told[1] or told[2]}" if told else ""
        raise InputValueError(f"checkpoint must hold plain numbers and weights only, got {path}{what}") from error
    except _DAMAGE as error:
        raise InputValueError(f"checkpoint cannot be read: {path} ({one_line(error)[:100]})") from error


def _allowed() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """NumPy's numbers and arrays by the names that they have in its releases 1 and 2."""
    from numpy._core.multiarray import _reconstruct, scalar

    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [np.dtype, np.ndarray]
    allowed += {type(np.dtype(kind)) for kind in _NUMBERS}
    for core in ("core", "_core"):
        allowed.append((scalar, f"numpy.{core}.multiarray.scalar"))
        allowed.append((_reconstruct, f"numpy.{core}.multiarray._reconstruct"))
    return allowed
