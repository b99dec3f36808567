"""Which seed a voxel of a mask is nearest to, going through the mask."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_same_shape
from vesuvius_kit.voxel.compilation import compiled


def spread_labels(seeds: NDArray[np.integer[Any]], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Give every voxel of a mask the label of the seed that is the fewest steps away, through the mask.

    A step leads to one of the 26 neighbours. Of seeds equally near, the one counts that a search in the raster order of the
    seeds meets first. Voxels that no seed reaches, and those outside of the mask, are 0.

    Parameters
    ----------
    seeds
        (Z, Y, X), labels above 0; 0 is no seed, and seeds outside of the mask do not count.
    mask
        The same shape.

    Examples
    --------
    >>> import numpy as np
    >>> from vesuvius_kit.voxel.spreading import spread_labels
    >>> seeds = np.array([[[1, 0, 0, 0, 0, 2, 0, 0]]])
    >>> spread_labels(seeds, np.array([[[1, 1, 1, 1, 1, 1, 0, 1]]], dtype=bool)).tolist()
    [[[1, 1, 1, 2, 2, 2, 0, 0]]]
    """
    check_array("seeds", seeds, kinds="iu")
    check_array("mask", mask, kinds="b")
    check_same_shape("seeds", seeds, "mask", mask)
    labels = np.where(mask, seeds, 0).astype(np.int32)
    if labels.size:
        _spread(labels.ravel(), np.ascontiguousarray(mask).ravel(), labels.shape, int(np.count_nonzero(mask)))
    return labels


@compiled(nogil=True)
def _spread(labels: NDArray[np.int32], mask: NDArray[np.bool_], shape: Sequence[int], n_voxels: int) -> None:
    """Search in breadth; ``labels`` and ``mask`` are flat."""
    n_z, n_y, n_x = shape
    queue = np.empty(n_voxels, dtype=np.int64)
    first, last = 0, 0
    for voxel in range(labels.size):
        if labels[voxel] > 0:
            queue[last] = voxel
            last += 1
    while first < last:
        voxel = queue[first]
        first += 1
        z, y, x = voxel // (n_y * n_x), voxel // n_x % n_y, voxel % n_x
        for other_z in range(max(z - 1, 0), min(z + 2, n_z)):
            for other_y in range(max(y - 1, 0), min(y + 2, n_y)):
                for other_x in range(max(x - 1, 0), min(x + 2, n_x)):
                    other = (other_z * n_y + other_y) * n_x + other_x
                    if mask[other] and labels[other] == 0:
                        labels[other] = labels[voxel]
                        queue[last] = other
                        last += 1
