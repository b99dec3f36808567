"""Thinning: to the curve skeleton of Lee, Kashyap and Chu, and to a medial surface of unchanged topology.

Voxels are visited through the list of those that are left, in raster order; what a voxel means to its neighbours is asked of
`vesuvius_kit.voxel.neighbourhood`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.voxel.bits import pack_mask, unpack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.neighbourhood import CENTRE, is_connected, is_isthmus, is_simple, read_neighbourhood


def _list_cells() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List the other voxels that share each vertex, edge and face of the middle voxel, with the cell's sign."""
    offsets = [(z, y, x) for z in range(-1, 2) for y in range(-1, 2) for x in range(-1, 2)]
    masks, signs = [], []
    for cell in offsets:
        # A cell lies towards ``cell``: the voxels that share it are those that lie nowhere else.
        if cell != (0, 0, 0):
            shared = [i for i, voxel in enumerate(offsets) if all(v in (0, c) for v, c in zip(voxel, cell))]
            masks.append(sum(1 << i for i in shared if i != 13))
            signs.append(-1 if sum(map(abs, cell)) == 2 else 1)
    return np.array(masks, dtype=np.int64), np.array(signs, dtype=np.int64)


_CELLS, _SIGNS = _list_cells()


def skeletonize(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Thin a mask (Z, Y, X) to curves one voxel wide.

    The result is a subset of the mask and equals ``skimage.morphology.skeletonize`` of the volume. A sheet becomes curves, too:
    `thin_to_surface` keeps it a sheet.

    Notes
    -----
    T.-C. Lee, R. L. Kashyap, C.-N. Chu: Building skeleton models via 3-D medial surface/axis thinning algorithms, CVGIP 1994.
    """
    padded = _pad(mask)
    steps = _steps(padded)
    left = np.flatnonzero(padded)
    flat = padded.ravel()
    directions = [-steps[1], steps[1], steps[2], -steps[2], steps[0], -steps[0]]
    if mask.shape[0] == 1:  # a plane is thinned as a plane
        directions = directions[:4]
    unchanged = 0
    while unchanged < len(directions):
        unchanged = 0
        for away in directions:
            candidates = _find_ends_of_lee(flat, left, steps, away, _CELLS, _SIGNS)
            unchanged += not _delete_connecting(flat, candidates, steps)
        left = left[flat[left] != 0]
    return _unpad(padded)


def thin_to_surface(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Thin a mask (Z, Y, X) to sheets and curves one voxel thick, without changing its topology.

    The result is a subset of the mask with the same 26-connected components, tunnels and 6-connected cavities. Beyond the
    faces of the volume lies background, so a sheet recedes from them, as from its own rim, by half its thickness and one voxel
    at most.

    Notes
    -----
    Directional thinning that keeps isthmuses: voxels that, at some moment, part the background (of a sheet) or connect two
    parts of the foreground (of a curve) stay (G. Bertrand, M. Couprie: Isthmus based parallel and symmetric 3D thinning
    algorithms, Graphical Models 2015; K. Palagyi: Parallel 3D 12-subiteration thinning algorithms based on isthmuses, 2013).
    Simple points by their topological numbers (Bertrand and Malandain, Pattern Recognition Letters 1994).
    """
    padded = _pad(mask)
    steps = _steps(padded)
    left = np.flatnonzero(padded)
    flat = padded.ravel()
    changed = True
    while changed:
        changed = False
        for away in (-steps[0], steps[0], -steps[1], steps[1], -steps[2], steps[2]):
            _keep_isthmuses(flat, left, steps)
            changed |= _delete_simple(flat, _find_border(flat, left, away), steps)
        left = left[flat[left] == 1]
    return _unpad(padded)


def _pad(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Copy a mask into a volume with a rim of one background voxel."""
    octets = unpack_mask(pack_mask(mask), mask.shape[2]).view(np.uint8)
    return np.pad(octets, 1)


def _unpad(padded: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return padded[1:-1, 1:-1, 1:-1] != 0


def _steps(padded: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return the distance of neighbours along z, y, x in the flat volume."""
    return padded.shape[1] * padded.shape[2], padded.shape[2], 1


@compiled(nogil=True)
def _find_ends_of_lee(
    flat: NDArray[np.uint8],
    left: NDArray[np.intp],
    steps: tuple[int, int, int],
    away: int,
    cells: NDArray[np.int64],
    signs: NDArray[np.int64],
) -> NDArray[np.int64]:
    found = np.empty(left.size, dtype=np.int64)
    n = 0
    for at in left:
        if flat[at] == 0 or flat[at + away] != 0:
            continue
        code = read_neighbourhood(flat, at, steps)
        others = code & ~CENTRE
        if others & (others - 1) == 0 and others != 0:  # the end of a curve
            continue
        # Of the centre's cells those vanish with it that no other voxel shares, and the cube itself.
        change = -1
        for i in range(cells.size):
            if others & cells[i] == 0:
                change += signs[i]
        if change == 0 and is_connected(code):
            found[n] = at
            n += 1
    return found[:n]


@compiled(nogil=True)
def _delete_connecting(flat: NDArray[np.uint8], candidates: NDArray[np.int64], steps: tuple[int, int, int]) -> bool:
    """Delete candidates one after the other while their neighbours stay connected."""
    changed = False
    for at in candidates:
        if is_connected(read_neighbourhood(flat, at, steps)):
            flat[at] = 0
            changed = True
    return changed


@compiled(nogil=True)
def _keep_isthmuses(flat: NDArray[np.uint8], left: NDArray[np.intp], steps: tuple[int, int, int]) -> None:
    """Mark with 2 the voxels that are isthmuses now."""
    for at in left:
        if flat[at] == 1 and is_isthmus(read_neighbourhood(flat, at, steps)):
            flat[at] = 2


@compiled(nogil=True)
def _find_border(flat: NDArray[np.uint8], left: NDArray[np.intp], away: int) -> NDArray[np.int64]:
    found = np.empty(left.size, dtype=np.int64)
    n = 0
    for at in left:
        if flat[at] == 1 and flat[at + away] == 0:
            found[n] = at
            n += 1
    return found[:n]


@compiled(nogil=True)
def _delete_simple(flat: NDArray[np.uint8], candidates: NDArray[np.int64], steps: tuple[int, int, int]) -> bool:
    changed = False
    for at in candidates:
        if is_simple(read_neighbourhood(flat, at, steps)):
            flat[at] = 0
            changed = True
    return changed
