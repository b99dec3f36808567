"""The Euclidean distance to the background, up to a cap.

The squared distance is separable: along x by two scans, then along y and z as the lower envelope of parabolas (Felzenszwalb
and Huttenlocher, Theory of Computing 2012, section 2). Below a small cap each parabola reaches few voxels, so the envelope
is taken by trying them all, a whole row at a time: vector arithmetic without a branch.
"""

import numpy as np

from vesuvius_kit.checks import check_array, check_real, check_spacing
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import for_slabs


def measure_distance(mask, cap, spacing=(1, 1, 1)):
    """Measure the distance of each foreground voxel to the nearest background voxel, centre to centre.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype and memory order; non-zero is foreground.
    cap : float
        In the unit of ``spacing``, above 0; the time grows with it.
    spacing : sequence of 3 floats
        Voxel size along z, y, x.

    Returns
    -------
    numpy.ndarray
        float32, the same shape: 0 for background, at most ``cap``. What lies beyond the volume is not background. Up to the
        rounding of float32, and without any where squared voxel sizes are integers.

    Raises
    ------
    InputTypeError, InputValueError
        Not a numeric array of three dimensions, a cap or a spacing that is not positive.

    Notes
    -----
    For the distance to a mask, measure that of its complement.
    """
    check_array("mask", mask)
    cap = np.float32(check_real("cap", cap, above=0))
    steps = np.float32(check_spacing("spacing", spacing))
    words = pack_mask(mask)
    n_z, n_y, _ = mask.shape
    squared = np.empty(mask.shape, dtype=np.float32)
    distance = np.empty(mask.shape, dtype=np.float32)
    if not distance.size:
        return distance

    def measure_columns(start, stop):
        _measure_along_z(squared, steps[0], cap, start, stop, distance)

    for_slabs(lambda start, stop: _measure_planes(words, steps[1], steps[2], cap, start, stop, squared), n_z)
    for_slabs(measure_columns, n_y)
    return distance


@compiled(nogil=True)
def _measure_planes(words, step_y, step_x, cap, start, stop, squared):
    """Measure within each plane; ``squared`` is infinite where the cap lies nearer than any background."""
    _, n_y, n_x = squared.shape
    along_x = np.empty((n_y, 1, n_x), dtype=np.float32)
    far = np.float32(np.inf)
    for z in range(start, stop):
        for y in range(n_y):
            row = along_x[y, 0]
            steps = far
            for x in range(n_x):
                steps += np.float32(1)
                if not (words[z, y, x >> 6] >> np.uint64(x & 63)) & np.uint64(1):
                    steps = np.float32(0)
                row[x] = steps
            steps = far
            for x in range(n_x - 1, -1, -1):
                steps = min(steps + np.float32(1), row[x])
                row[x] = (steps * step_x) * (steps * step_x)
        for y in range(n_y):
            _lower(along_x, y, 0, step_y, cap, squared[z, y])


@compiled(nogil=True)
def _measure_along_z(squared, step_z, cap, start, stop, distance):
    for y in range(start, stop):
        for z in range(squared.shape[0]):
            row = distance[z, y]
            _lower(squared, z, y, step_z, cap, row)
            for x in range(row.size):
                row[x] = min(np.sqrt(row[x]), cap)


@compiled(nogil=True)
def _lower(rows, at, column, step, cap, out):
    """Take the lower envelope of the parabolas along the first axis that start below the cap, for the row ``at``."""
    out[:] = rows[at, column]
    away = np.int32(1)
    while np.float32(away) * step < cap and away < rows.shape[0]:
        reach = np.float32(away) * step
        height = reach * reach
        if at >= away:
            row = rows[at - away, column]
            for x in range(out.size):
                out[x] = min(out[x], row[x] + height)
        if at + away < rows.shape[0]:
            row = rows[at + away, column]
            for x in range(out.size):
                out[x] = min(out[x], row[x] + height)
        away += 1
