"""Slits instead of tunnels: a mask grown anew from one voxel of each component, never closing a way round a hole.

The score counts tunnels octant by octant, and a label has next to none: a sheet is a piece of paper. Holes that can be filled
should be filled first; what is left here are bridges between wraps and holes that no sheet spans.
"""

import numpy as np
from numba import njit

from vesuvius_kit.checks import check_array, check_integer, check_same_shape
from vesuvius_kit.postprocess.promises import REMOVES_ONLY, promise
from vesuvius_kit.postprocess.steps import remove_small_components
from vesuvius_kit.voxel.components import label_components
from vesuvius_kit.voxel.slabs import for_slabs


@promise(REMOVES_ONLY)
def slit_tunnels(probability, mask, min_size=0) -> np.ndarray:
    """Remove the weakest voxels whose removal leaves no octant with a tunnel or a cavity.

    Each octant is grown again from the strongest voxel of each of its 6-connected components, strong voxels first, by voxels
    that do not change the topology (simple points). A voxel that would close a ring stays out: the result has the same number
    of components, and every one of them is a lump without holes.

    Parameters
    ----------
    probability : numpy.ndarray
        (Z, Y, X), float in [0, 1]: decides where a ring is cut.
    mask : numpy.ndarray
        (Z, Y, X) bool.
    min_size : int
        Components of an octant with fewer voxels are removed.

    Returns
    -------
    numpy.ndarray
        bool of the same shape, within ``mask``. Octants are those of the score: halves along each axis, the first takes the
        odd voxel; foreground is 6-connected, background 26-connected.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind, dimension or shapes that differ, a negative size.

    Notes
    -----
    Simple points: Bertrand and Malandain, Pattern Recognition Letters 15, 1994. Growing in the order of grey values is the
    idea of watershed cuts that keep topology: Couprie, Najman, Bertrand, JMIV 22, 2005.
    """
    check_array("probability", probability, kinds="f")
    check_array("mask", mask, kinds="b")
    check_same_shape("probability", probability, "mask", mask)
    min_size = check_integer("min_size", min_size, minimum=0)
    result = np.zeros_like(mask)
    halves = [(slice(0, -(-size // 2)), slice(-(-size // 2), size)) for size in mask.shape]
    blocks = [(z, y, x) for z in halves[0] for y in halves[1] for x in halves[2]]

    def work(start, stop):
        for block in blocks[start:stop]:
            result[block] = _grow_octant(probability[block], remove_small_components(mask[block], min_size))

    for_slabs(work, len(blocks))
    return result


def _grow_octant(probability, mask):
    if not mask.any():
        return mask
    labels, count = label_components(mask, 6)
    levels = np.zeros(tuple(size + 2 for size in mask.shape), dtype=np.uint8)
    inner = (slice(1, -1),) * 3
    top = max(float(probability.max()), 1e-6)
    levels[inner] = np.where(mask, 1 + probability * (254 / top), 0)
    return _grow(levels, _strongest(levels[inner], labels, count) + 1)[inner]


@njit(cache=True, nogil=True)
def _strongest(levels, labels, count):
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


@njit(cache=True, nogil=True)
def _grow(levels, seeds):
    """Grow seeds within the voxels of level > 0, highest level first, by simple points; the border must be 0."""
    _, n_y, n_x = levels.shape
    step_y, step_z = n_x, n_y * n_x
    flat = levels.ravel()
    grown = np.zeros(flat.size, dtype=np.bool_)
    waiting = np.zeros(flat.size, dtype=np.bool_)
    # One chain a level, a voxel stands in one chain at most.
    following = np.full(flat.size, -1, dtype=np.int32)
    first = np.full(256, -1, dtype=np.int64)
    last = np.full(256, -1, dtype=np.int64)
    steps = np.array([-step_z, -step_y, -1, 1, step_y, step_z])
    around = np.empty(27, dtype=np.bool_)
    stack = np.empty(27, dtype=np.int64)
    seen = np.empty(27, dtype=np.bool_)
    offsets = np.empty(27, dtype=np.int64)
    for k in range(27):
        offsets[k] = (k // 9 - 1) * step_z + (k // 3 % 3 - 1) * step_y + k % 3 - 1
    top = 0
    for s in range(seeds.shape[0]):
        at = seeds[s, 0] * step_z + seeds[s, 1] * step_y + seeds[s, 2]
        grown[at] = True
        for step in steps:
            to = at + step
            if flat[to] > 0 and not grown[to] and not waiting[to]:
                top = max(top, _append(to, flat, waiting, following, first, last))
    while top > 0:
        at = first[top]
        if at < 0:
            top -= 1
            continue
        first[top] = following[at]
        if first[top] < 0:
            last[top] = -1
        following[at] = -1
        waiting[at] = False
        for k in range(27):
            around[k] = grown[at + offsets[k]]
        if not _is_simple(around, seen, stack):
            continue  # asked again when a voxel beside it is added
        grown[at] = True
        for k in range(27):
            to = at + offsets[k]
            if flat[to] == 0 or grown[to] or waiting[to]:
                continue
            # Only a face neighbour of the grown set can be simple.
            if (
                grown[to - step_z] or grown[to + step_z] or grown[to - step_y] or grown[to + step_y]
                or grown[to - 1] or grown[to + 1]
            ):  # fmt: skip
                top = max(top, _append(to, flat, waiting, following, first, last))
    return grown.reshape(levels.shape)


@njit(cache=True, nogil=True)
def _append(voxel, flat, waiting, following, first, last):
    """Put a voxel at the end of the chain of its level and return the level."""
    level = flat[voxel]
    waiting[voxel] = True
    if last[level] < 0:
        first[level] = voxel
    else:
        following[last[level]] = voxel
    last[level] = voxel
    return level


@njit(cache=True, nogil=True)
def _is_simple(around, seen, stack):
    """Whether adding the centre of 3x3x3 voxels changes no component, tunnel or cavity (6 and 26 neighbours)."""
    # Foreground: the 18-neighbours, 6-connected, must have one component that touches the centre by a face.
    touched = 0
    for k in range(27):
        seen[k] = False
    for start in (4, 10, 12, 14, 16, 22):
        if not around[start] or seen[start]:
            continue
        touched += 1
        if touched > 1:
            return False
        n = 1
        stack[0] = start
        seen[start] = True
        while n > 0:
            n -= 1
            k = stack[n]
            z, y, x = k // 9, k // 3 % 3, k % 3
            for axis in range(3):
                for step in (-1, 1):
                    a, b, c = z, y, x
                    if axis == 0:
                        a += step
                    elif axis == 1:
                        b += step
                    else:
                        c += step
                    if a < 0 or a > 2 or b < 0 or b > 2 or c < 0 or c > 2:
                        continue
                    to = 9 * a + 3 * b + c
                    if to == 13 or seen[to] or not around[to] or (a != 1 and b != 1 and c != 1):
                        continue
                    seen[to] = True
                    stack[n] = to
                    n += 1
    if touched == 0:
        return False
    # Background: the 26 neighbours must have one 26-connected component.
    for k in range(27):
        seen[k] = False
    pieces = 0
    for start in range(27):
        if start == 13 or around[start] or seen[start]:
            continue
        pieces += 1
        if pieces > 1:
            return False
        n = 1
        stack[0] = start
        seen[start] = True
        while n > 0:
            n -= 1
            k = stack[n]
            z, y, x = k // 9, k // 3 % 3, k % 3
            for a in range(max(z - 1, 0), min(z + 2, 3)):
                for b in range(max(y - 1, 0), min(y + 2, 3)):
                    for c in range(max(x - 1, 0), min(x + 2, 3)):
                        to = 9 * a + 3 * b + c
                        if to != 13 and not around[to] and not seen[to]:
                            seen[to] = True
                            stack[n] = to
                            n += 1
    return pieces == 1
