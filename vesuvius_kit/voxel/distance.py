"""The Euclidean distance to the background, up to a cap.

The squared distance is separable: along x by two scans, then along y and z as the lower envelope of parabolas (Felzenszwalb
and Huttenlocher, Theory of Computing 2012, section 2). Below a small cap each parabola reaches few voxels, so the envelope
is taken by trying them all, a whole row at a time: vector arithmetic without a branch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_real, check_spacing
from vesuvius_kit.voxel.bits import Words, pack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import for_slabs


def measure_distance(mask: NDArray[Any], cap: float, spacing: Sequence[float] = (1, 1, 1)) -> NDArray[np.float32]:
    """Measure the distance of each foreground voxel to the nearest background voxel, centre to centre.

    The distance to a mask is that of its complement.

    Parameters
    ----------
    mask
        (Z, Y, X), any numeric or bool dtype and memory order; non-zero is foreground.
    cap
        In the unit of ``spacing``, above 0; the time grows with it.
    spacing
        Voxel size along z, y, x.

    Returns
    -------
    numpy.ndarray
        Of the mask's shape: 0 for background, at most ``cap``. What lies beyond the volume is not background. Up to the
        rounding of float32, and without any where squared voxel sizes are integers.

    Examples
    --------
    >>> import numpy as np
    >>> from vesuvius_kit.voxel.distance import measure_distance
    >>> mask = np.array([[[0, 1, 1, 1, 1]]])
    >>> measure_distance(mask, cap=3).tolist()
    [[[0.0, 1.0, 2.0, 3.0, 3.0]]]
    """
    check_array("mask", mask)
    limit = np.float32(check_real("cap", cap, above=0))
    steps = np.array(check_spacing("spacing", spacing), dtype=np.float32)
    words = pack_mask(mask)
    n_z, n_y, _ = mask.shape
    squared = np.empty(mask.shape, dtype=np.float32)
    distance = np.empty(mask.shape, dtype=np.float32)
    if not distance.size:
        return distance

    def measure_columns(start: int, stop: int) -> None:
        _measure_along_z(squared, steps[0], limit, start, stop, distance)

    for_slabs(lambda start, stop: _measure_planes(words, steps[1], steps[2], limit, start, stop, squared), n_z)
    for_slabs(measure_columns, n_y)
    return distance


@compiled(nogil=True)
def _measure_planes(
    words: Words,
    step_y: np.float32,
    step_x: np.float32,
    cap: np.float32,
    start: int,
    stop: int,
    squared: NDArray[np.float32],
) -> None:
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
def _measure_along_z(
    squared: NDArray[np.float32],
    step_z: np.float32,
    cap: np.float32,
    start: int,
    stop: int,
    distance: NDArray[np.float32],
) -> None:
    for y in range(start, stop):
        for z in range(squared.shape[0]):
            row = distance[z, y]
            _lower(squared, z, y, step_z, cap, row)
            for x in range(row.size):
                row[x] = min(np.sqrt(row[x]), cap)


@compiled(nogil=True)
def _lower(
    rows: NDArray[np.float32],
    at: int,
    column: int,
    step: np.float32,
    cap: np.float32,
    out: NDArray[np.float32],
) -> None:
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
