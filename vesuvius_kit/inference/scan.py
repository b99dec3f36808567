"""Where a volume holds no scan: a masked scan is exactly 0 there, and no surface may be found in it."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vesuvius_kit.checks import check_array
from vesuvius_kit.inference.grid import Grid, Place

EMPTY_EDGE = 8
"""A cube of so many voxels of grey 0 is no scan; a few voxels of 0, as dark air has them, are."""
# Any cube of EMPTY_EDGE holds a whole block of this grid of blocks.
_BLOCK = EMPTY_EDGE // 2


def find_no_scan(volume: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where a volume (Z, Y, X) holds no scan, or None if it does everywhere.

    No scan are all cubes of 8 voxels that lie in the volume and are grey 0: the opening of what is 0 by that cube.
    """
    check_array("volume", volume)
    if min(volume.shape) < EMPTY_EDGE:
        return None
    z, y, x = (length - length % _BLOCK for length in volume.shape)
    empty = np.True_
    # In most volumes no block is left after a few voxels of each.
    for k, j, i in itertools.product(range(_BLOCK), repeat=3):
        empty = empty & (volume[k:z:_BLOCK, j:y:_BLOCK, i:x:_BLOCK] == 0)
        if not empty.any():
            return None
    # Cubes reach no further than their edge from a block of zeros.
    box = tuple(
        slice(max(0, int(at.min()) * _BLOCK - EMPTY_EDGE), (int(at.max()) + 1) * _BLOCK + EMPTY_EDGE)
        for at in np.nonzero(empty)
    )
    zero = (volume[box] == 0).astype(np.uint8)
    opened = zero
    for axis in range(3):
        opened = ndimage.minimum_filter1d(opened, EMPTY_EDGE, axis, mode="constant", cval=0, origin=0)
    for axis in range(3):
        opened = ndimage.maximum_filter1d(opened, EMPTY_EDGE, axis, mode="constant", cval=0, origin=-1)
    if not opened.any():
        return None
    no_scan = np.zeros(volume.shape, bool)
    no_scan[box] = opened
    return no_scan


def drop_empty(places: list[Place], grid: Grid, no_scan: NDArray[np.bool_]) -> list[Place]:
    """Return the windows that hold some scan; ``no_scan`` (Z, Y, X) may be smaller than the grid, which then pads it."""

    def holds_scan(place: Place) -> bool:
        block = tuple(slice(first, first + edge) for first, edge in zip(grid.corner(place), grid.window))
        return not no_scan[block].all()

    return [place for place in places if holds_scan(place)]
