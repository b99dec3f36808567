"""Cavities of a volume and holes of its slices: background that no face can be reached from."""

import numpy as np

from vesuvius_kit.checks import check_array, check_integer
from vesuvius_kit.voxel.bits import invert, pack_mask, unpack_mask
from vesuvius_kit.voxel.components import _find_runs, check_connectivity, measure_components, select_components


def fill_cavities(mask, connectivity=6):
    """Fill the background components that touch no face of the volume.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype and memory order; non-zero is foreground.
    connectivity : int
        How background voxels are connected: 6 (a foreground of 26-connected voxels keeps its cavities shut), 18 or 26.

    Returns
    -------
    numpy.ndarray
        bool, the same shape.

    Raises
    ------
    InputTypeError, InputValueError
        Not a numeric array of three dimensions, or another connectivity.
    """
    check_connectivity(connectivity)
    words = pack_mask(mask)
    return unpack_mask(words | _pack_enclosed(words, connectivity, mask.shape), mask.shape[2])


def fill_slice_holes(mask, axis=0):
    """Fill, slice by slice, the 4-connected background components that touch no edge of the slice.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype and memory order; non-zero is foreground.
    axis : int
        The axis that the slices stand across: 0, 1 or 2.

    Returns
    -------
    numpy.ndarray
        bool, the same shape.

    Raises
    ------
    InputTypeError, InputValueError
        Not a numeric array of three dimensions, or another axis.
    """
    check_array("mask", mask)
    axis = check_integer("axis", axis, minimum=0, maximum=2)
    slices = np.moveaxis(mask, axis, 0)
    words = pack_mask(slices)
    filled = unpack_mask(words | _pack_enclosed(words, 4, slices.shape), slices.shape[2])
    return np.ascontiguousarray(np.moveaxis(filled, 0, axis))


def _pack_enclosed(words, connectivity, shape):
    """Pack the background components that touch no face; connectivity 4 looks at each plane alone."""
    runs = _find_runs(invert(words, shape[2]), connectivity)
    _, boxes = measure_components(runs, shape)
    axes = (1, 2) if connectivity == 4 else (0, 1, 2)
    enclosed = np.ones(len(boxes), dtype=bool)
    for axis in axes:
        enclosed &= (boxes[:, axis, 0] > 0) & (boxes[:, axis, 1] < shape[axis])
    return select_components(runs, enclosed, shape)
