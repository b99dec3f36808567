"""Volumes in another order of axes."""

from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array
from vesuvius_kit.voxel.slabs import for_each

_Scalar = TypeVar("_Scalar", bound=np.generic)

# Edge of the blocks that are turned one after the other; their rows stay in the cache.
_TILE = 32


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
