"""How often each grey value occurs, and copies into another order of axes: a volume read once, whatever its layout."""

from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputTypeError, check_array
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import for_each, for_slabs

_Scalar = TypeVar("_Scalar", bound=np.generic)

# Tables that take turns: one that is added to twice running would wait for itself.
_TABLES = 4
# Edge of the blocks that are turned one after the other; their rows stay in the cache.
_TILE = 32


def count_values(volume: NDArray[Any]) -> NDArray[np.int64]:
    """Return how often each value occurs in a uint8 or uint16 volume of any layout, int64 (256,) or (65536,)."""
    check_array("volume", volume, kinds="u")
    if volume.dtype.itemsize > 2:
        raise InputTypeError(f"volume must be uint8 or uint16, got {volume.dtype}")
    # Their order does not matter: that of the memory is the fastest.
    volume = volume.transpose(np.argsort([-abs(stride) for stride in volume.strides], kind="stable"))

    def count(start: int, stop: int) -> NDArray[np.int64]:
        tables = np.zeros((_TABLES, 1 << 8 * volume.dtype.itemsize), np.int64)
        _count(np.ascontiguousarray(volume[start:stop]).reshape(-1), tables)
        return tables.sum(axis=0)

    counts: NDArray[np.int64] = np.zeros(1 << 8 * volume.dtype.itemsize, np.int64)
    for part in for_slabs(count, len(volume)):
        counts += part
    return counts


@compiled(nogil=True)
def _count(values: NDArray[Any], tables: NDArray[np.int64]) -> None:
    whole = len(values) // _TABLES * _TABLES
    for at in range(0, whole, _TABLES):
        tables[0, values[at]] += 1
        tables[1, values[at + 1]] += 1
        tables[2, values[at + 2]] += 1
        tables[3, values[at + 3]] += 1
    for at in range(whole, len(values)):
        tables[0, values[at]] += 1


def copy_contiguous(volume: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return a volume (Z, Y, X) in C order: itself where it is, else a copy made block by block over all cores."""
    check_array("volume", volume)
    if volume.flags.c_contiguous:
        return volume
    copied = np.empty(volume.shape, volume.dtype)
    tiles = [range(0, edge, _TILE) for edge in volume.shape[1:]]

    def copy(z: int) -> None:
        for y, x in product(*tiles):
            block = (slice(z, z + _TILE), slice(y, y + _TILE), slice(x, x + _TILE))
            copied[block] = volume[block]

    for_each(copy, range(0, len(volume), _TILE))
    return copied
