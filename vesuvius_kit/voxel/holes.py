"""Cavities of a volume and holes of its slices: background that no face can be reached from."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_integer
from vesuvius_kit.voxel.bits import Words, invert, pack_mask, unpack_mask
from vesuvius_kit.voxel.components import (
    Connectivity,
    check_connectivity,
    connect_runs,
    measure_components,
    select_components,
)


def fill_cavities(mask: NDArray[Any], connectivity: Connectivity = 6) -> NDArray[np.bool_]:
    """Fill the background components of a mask (Z, Y, X) that touch no face of the volume.

    ``connectivity`` is that of the background: with 6 a foreground of 26-connected voxels keeps its cavities shut.
    """
    check_connectivity(connectivity)
    words = pack_mask(mask)
    return unpack_mask(words | _pack_enclosed(words, connectivity, mask.shape), mask.shape[2])


def fill_slice_holes(mask: NDArray[Any], axis: int = 0) -> NDArray[np.bool_]:
    """Fill, slice by slice, the 4-connected background components that touch no edge of the slice.

    The slices of the mask (Z, Y, X) stand across ``axis``: 0, 1 or 2.
    """
    check_array("mask", mask)
    axis = check_integer("axis", axis, minimum=0, maximum=2)
    slices = np.moveaxis(mask, axis, 0)
    words = pack_mask(slices)
    filled = unpack_mask(words | _pack_enclosed(words, 4, slices.shape), slices.shape[2])
    return np.ascontiguousarray(np.moveaxis(filled, 0, axis))


def _pack_enclosed(words: Words, connectivity: Literal[4, 6, 18, 26], shape: Sequence[int]) -> Words:
    """Pack the background components that touch no face; connectivity 4 looks at each plane alone."""
    runs = connect_runs(invert(words, shape[2]), connectivity)
    _, boxes = measure_components(runs, shape)
    axes = (1, 2) if connectivity == 4 else (0, 1, 2)
    enclosed = np.ones(len(boxes), dtype=bool)
    for axis in axes:
        enclosed &= (boxes[:, axis, 0] > 0) & (boxes[:, axis, 1] < shape[axis])
    return select_components(runs, enclosed, shape)
