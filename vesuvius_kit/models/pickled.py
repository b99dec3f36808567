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

# As NumPy's pickles call the types of numbers; no objects, which are addresses in memory.
_NUMBER = re.compile(r"[<>=|]?(f[248]|[iu][1248]|b1)")
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


class _NumberType:
    """Stands in for ``numpy.dtype`` while a pickle is read: a type of numbers, nothing else."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not _NUMBER.fullmatch(name):
            raise pickle.UnpicklingError("global numpy.dtype of other than numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("global numpy.dtype of an unknown order of bytes")
        self.dtype = self.dtype.newbyteorder(state[1])


class _NumberArray(np.ndarray[Any, Any]):
    """Stands in for ``numpy.ndarray``, whose own constructor would read objects from any address that a pickle names."""

    def __new__(cls) -> "_NumberArray":
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, data = state
        if not isinstance(kind, _NumberType) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("global numpy.ndarray of other than numbers")
        super().__setstate__((1, shape, kind.dtype, is_fortran, data))


def _make_array(*_: object) -> _NumberArray:
    return _NumberArray()


def _make_number(kind: object, data: object) -> Any:
    if not isinstance(kind, _NumberType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("global numpy.core.multiarray.scalar of other than a number")
    (number,) = np.frombuffer(data, kind.dtype)
    return number


def _allowed() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What reads NumPy's numbers and arrays, by the names that they have in its releases 1 and 2.

    NumPy's own ``dtype`` and ``ndarray`` are not among them: called by a pickle, they make arrays of objects out of bytes.
    """
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_NumberType, "numpy.dtype"),
        (_NumberArray, "numpy.ndarray"),
    ]
    for core in ("core", "_core"):
        allowed.append((_make_number, f"numpy.{core}.multiarray.scalar"))
        allowed.append((_make_array, f"numpy.{core}.multiarray._reconstruct"))
    return allowed
