"""Slits instead of tunnels: a mask grown anew from one voxel of each component, never closing a way round a hole.

The score counts tunnels octant by octant, and a label has next to none: a sheet is a piece of paper. Holes that can be filled
should be filled first; what is left here are bridges between wraps and holes that no sheet spans.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_integer, check_same_shape
from vesuvius_kit.postprocess.promises import REMOVES_ONLY, promise
from vesuvius_kit.postprocess.steps import remove_small_components
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import label_components
from vesuvius_kit.voxel.neighbourhood import CENTRE, FACES, is_simple
from vesuvius_kit.voxel.slabs import for_slabs

_WAITS = 1 << 27  # beside the 27 bits of a neighbourhood


@promise(REMOVES_ONLY)
def slit_tunnels(
    probability: NDArray[np.floating[Any]], mask: NDArray[np.bool_], min_size: int = 0
) -> NDArray[np.bool_]:
    """Remove the weakest voxels whose removal leaves no octant with a tunnel or a cavity.

    Each octant of the score (halves along each axis, the first takes the odd voxel) is grown again from the strongest voxel of
    each of its 6-connected components, those of high probability first, by simple points, which do not change the topology
    (Bertrand and Malandain, Pattern Recognition Letters 15, 1994). A voxel that would close a ring stays out: the result has
    the same number of components, and every one of them is a lump without holes. Background is 26-connected. Components of an
    octant with fewer than ``min_size`` voxels are removed. Both arrays are (Z, Y, X), the probability is in [0, 1].

    Growing in the order of grey values is the idea of watershed cuts that keep topology: Couprie, Najman, Bertrand, JMIV 22,
    2005.
    """
    check_array("probability", probability, kinds="f")
    check_array("mask", mask, kinds="b")
    check_same_shape("probability", probability, "mask", mask)
    min_size = check_integer("min_size", min_size, minimum=0)
    result = np.zeros_like(mask)
    halves = [(slice(0, -(-size // 2)), slice(-(-size // 2), size)) for size in mask.shape]
    blocks = [(z, y, x) for z in halves[0] for y in halves[1] for x in halves[2]]

    def work(start: int, stop: int) -> None:
        for block in blocks[start:stop]:
            result[block] = _grow_octant(probability[block], remove_small_components(mask[block], min_size))

    for_slabs(work, len(blocks))
    return result


def _grow_octant(probability: NDArray[np.floating[Any]], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    levels = np.zeros(tuple(size + 2 for size in mask.shape), dtype=np.uint8)
    inner = (slice(1, -1),) * 3
    top = max(float(probability.max()), 1e-6)
    # No kernel takes float16.
    _rank(probability.astype(np.float32, copy=probability.dtype == np.float16), mask, 254 / top, levels[inner])
    seeds = _strongest(levels[inner], *label_components(mask, 6)) + 1
    return grow_simple(levels, seeds)[inner]


@compiled(nogil=True)
def _rank(
    probability: NDArray[np.floating[Any]], mask: NDArray[np.bool_], factor: float, levels: NDArray[np.uint8]
) -> None:
    """Write 1 to 255 where the mask is."""
    for z in range(mask.shape[0]):
        for y in range(mask.shape[1]):
            for x in range(mask.shape[2]):
                if mask[z, y, x]:
                    levels[z, y, x] = np.uint8(1 + probability[z, y, x] * factor)


@compiled(nogil=True)
def _strongest(levels: NDArray[np.uint8], labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """The voxel of the highest level of each component, the first in raster order."""
    best = np.zeros(count + 1, dtype=np.int64)
    at = np.zeros((count + 1, 3), dtype=np.int64)
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                label = labels[z, y, x]
                if label > 0 and levels[z, y, x] > best[label]:
                    best[label] = levels[z, y, x]
                    at[label, 0], at[label, 1], at[label, 2] = z, y, x
    return at[1:]


@compiled(nogil=True)
def grow_simple(levels: NDArray[np.uint8], seeds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Grow seeds within the voxels of level > 0, highest level first, by simple points.

    The result, foreground 6-connected and background 26-connected, has the topology of the seeds.

    Parameters
    ----------
    levels
        (Z, Y, X), 0 on the border. A seed of level 0 is in the result all the same.
    seeds
        (n, 3), voxels that do not lie on the border.
    """
    _, n_y, n_x = levels.shape
    step_y, step_z = n_x, n_y * n_x
    flat = levels.ravel()
    # What has grown round a voxel, as the code of its neighbourhood, and whether the voxel waits to be asked.
    codes = np.zeros(flat.size, dtype=np.int32)
    # One chain a level, a voxel stands in one chain at most.
    following = np.full(flat.size, -1, dtype=np.int32)
    first = np.full(256, -1, dtype=np.int64)
    last = np.full(256, -1, dtype=np.int64)
    offsets = np.empty(27, dtype=np.int64)
    for k in range(27):
        offsets[k] = (k // 9 - 1) * step_z + (k // 3 % 3 - 1) * step_y + k % 3 - 1
    top = 0
    for s in range(seeds.shape[0]):
        at = seeds[s, 0] * step_z + seeds[s, 1] * step_y + seeds[s, 2]
        top = max(top, _add(at, offsets, flat, codes, following, first, last))
    while top > 0:
        at = first[top]
        if at < 0:
            top -= 1
            continue
        first[top] = following[at]
        if first[top] < 0:
            last[top] = -1
        following[at] = -1
        codes[at] &= ~_WAITS
        # The mask is 6-connected, its background 26-connected. What is refused is asked again when a voxel beside it is added.
        if is_simple(~np.int64(codes[at])):  # type: ignore[arg-type]  # an int64 is an int to numba
            top = max(top, _add(at, offsets, flat, codes, following, first, last))
    return ((codes & CENTRE) != 0).reshape(levels.shape)


@compiled(nogil=True)
def _add(
    voxel: int,
    offsets: NDArray[np.int64],
    flat: NDArray[np.uint8],
    codes: NDArray[np.int32],
    following: NDArray[np.int32],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
) -> int:
    """Add a voxel, let all wait that may be simple now, each at the end of its level's chain; return their highest level."""
    top = 0
    for k in range(27):
        at = voxel + offsets[k]
        code = codes[at] | 1 << (26 - k)
        # Only a face neighbour of what has grown can be simple.
        if flat[at] > 0 and code & (CENTRE | _WAITS) == 0 and code & FACES != 0:
            code |= _WAITS
            level = flat[at]
            if last[level] < 0:
                first[level] = at
            else:
                following[last[level]] = at
            last[level] = at
            top = max(top, level)
        codes[at] = code
    return top
