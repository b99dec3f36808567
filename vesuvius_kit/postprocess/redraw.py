"""Sheets drawn at one thickness, without joining two or opening one."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_real
from vesuvius_kit.postprocess.promises import JOINS_NOTHING, KEEPS_OCTANTS, promise
from vesuvius_kit.postprocess.ridges import differentiate, find_sharpest, for_smooth_planes, measure_ridges
from vesuvius_kit.postprocess.slits import grow_simple
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import label_components
from vesuvius_kit.voxel.neighbourhood import is_simple, read_neighbourhood
from vesuvius_kit.voxel.slabs import for_each, for_slabs


@promise(JOINS_NOTHING, KEEPS_OCTANTS)
def redraw_sheets(
    mask: NDArray[np.bool_], thickness: float = 3.0, sigma: float = 2.5, axial: bool = True
) -> NDArray[np.bool_]:
    """Draw every sheet at one thickness round its middle, by voxels that change no topology.

    The middle is the ridge of the smoothed mask. First what lies farther from it than half the thickness goes: spurs vanish,
    and what holds two parts together is worn down to a thread. Then the sheets grow across, within that distance, those voxels
    first that lie on the strongest ridge. Only simple points of an octant of the score come and go (foreground 6-connected,
    background 26-connected), and no voxel comes that lies within two voxels of another sheet, so that no two sheets meet: a
    hole stays a hole, a slit a slit, and a seam a seam. Deformation by simple points is Bertrand and Malandain's (Pattern
    Recognition Letters 15, 1994); the winners' solutions that drew their sheets anew had a thickness round a skeleton.

    Parameters
    ----------
    mask
        (Z, Y, X), of sheets that are no thicker than about three times ``sigma``.
    thickness
        In voxels, > 0. A sheet grows by at most ``(thickness - 1) / 2`` voxels, rounded up, on either side.
    sigma
        Standard deviation of the smoothing, in voxels, > 0.
    axial
        Measure the thickness within the axial plane, see `vesuvius_kit.postprocess.ridges.trace_ridges`.
    """
    check_array("mask", mask, kinds="b")
    thickness = check_real("thickness", thickness, above=0)
    sigma = check_real("sigma", sigma, above=0)
    if not mask.any():
        return mask.copy()
    levels = _rank_ridges(mask, sigma, thickness, axial)
    result = mask.copy()
    halves = [(slice(0, -(-size // 2)), slice(-(-size // 2), size)) for size in mask.shape]
    octants = [block for block in itertools.product(*halves) if mask[block].any()]
    for layer in range(max(1, math.ceil((thickness - 1) / 2))):
        near = _find_layers(result, levels)

        def work(block: tuple[slice, ...]) -> None:
            result[block] = _redraw_octant(result[block], levels[block], near[block], trim=layer == 0)  # noqa: B023

        for_each(work, octants)
    return result


def _rank_ridges(mask: NDArray[np.bool_], sigma: float, thickness: float, axial: bool) -> NDArray[np.uint8]:
    """The ridges of the smoothed mask in 255 levels; 0 where neither side along the normal leads to the mask."""
    levels = np.zeros(mask.shape, dtype=np.uint8)
    reach = math.ceil(thickness / 2)

    def work(smooth: NDArray[np.float32], offset: int, start: int, stop: int) -> None:
        strength = measure_ridges(smooth, offset, start, stop, sigma, thickness, axial=axial)
        levels[start:stop] = np.where(strength > 0, 1 + 254 * strength, 0)
        _keep_across(mask, smooth, offset, start, stop, reach, levels)

    for_smooth_planes(mask, sigma, work)
    return levels


def _find_layers(mask: NDArray[np.bool_], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    near = np.zeros(mask.shape, dtype=np.uint8)
    labels, _ = label_components(mask, 26)
    for_slabs(lambda start, stop: _find_layer(labels, levels, start, stop, near), len(mask))
    return near


@compiled(nogil=True)
def _keep_across(
    mask: NDArray[np.bool_],
    smooth: NDArray[np.float32],
    offset: int,
    start: int,
    stop: int,
    reach: int,
    levels: NDArray[np.uint8],
) -> None:
    """Set to 0 the levels of background voxels from which no step along the normal leads to the mask: those beyond a rim."""
    n_z, n_y, n_x = mask.shape
    gradient, hessian, normal = np.empty(3), np.empty(6), np.empty(3)
    for z in range(start, stop):
        for y in range(n_y):
            for x in range(n_x):
                if levels[z, y, x] == 0 or mask[z, y, x]:
                    continue
                differentiate(smooth, z - offset, y, x, gradient, hessian)
                find_sharpest(hessian, normal)
                found = False
                for step in range(-reach, reach + 1):
                    a, b, c = round(z + step * normal[0]), round(y + step * normal[1]), round(x + step * normal[2])
                    if 0 <= a < n_z and 0 <= b < n_y and 0 <= c < n_x:
                        found |= mask[a, b, c]
                if not found:
                    levels[z, y, x] = 0


def _redraw_octant(
    mask: NDArray[np.bool_], levels: NDArray[np.uint8], near: NDArray[np.uint8], trim: bool
) -> NDArray[np.bool_]:
    """Wear off the mask outside of the slabs, then grow it within ``near``."""
    state = np.zeros(tuple(size + 2 for size in mask.shape), dtype=np.uint8)
    inner = (slice(1, -1),) * 3
    state[inner] = mask
    if trim:
        state[inner] += mask & (levels == 0)
        _wear_off(state, np.flatnonzero(state == 2))
    seeds = np.argwhere(state > 0)
    state[:] = 0
    state[inner] = near
    return grow_simple(state, seeds)[inner]


@compiled(nogil=True)
def _find_layer(
    labels: NDArray[np.int32], levels: NDArray[np.uint8], start: int, stop: int, near: NDArray[np.uint8]
) -> None:
    """Copy the levels of the background voxels that touch one sheet and have no other within two voxels."""
    n_z, n_y, n_x = labels.shape
    for z in range(start, stop):
        for y in range(n_y):
            for x in range(n_x):
                if levels[z, y, x] == 0 or labels[z, y, x] != 0:
                    continue
                own = 0
                for a in range(max(z - 1, 0), min(z + 2, n_z)):
                    for b in range(max(y - 1, 0), min(y + 2, n_y)):
                        for c in range(max(x - 1, 0), min(x + 2, n_x)):
                            own = max(own, labels[a, b, c])
                if own == 0:
                    continue
                free = True
                for a in range(max(z - 2, 0), min(z + 3, n_z)):
                    for b in range(max(y - 2, 0), min(y + 3, n_y)):
                        for c in range(max(x - 2, 0), min(x + 3, n_x)):
                            free &= (labels[a, b, c] == 0) | (labels[a, b, c] == own)
                if free:
                    near[z, y, x] = levels[z, y, x]


@compiled(nogil=True)
def _wear_off(state: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
    """Set to 0 what may go (2) as long as it is simple; the border must be 0."""
    steps = (state.shape[1] * state.shape[2], state.shape[2], 1)
    flat = state.ravel()
    n = places.size
    while True:
        kept = 0
        for k in range(n):
            at = places[k]
            # The mask is 6-connected, its background 26-connected.
            if is_simple(~read_neighbourhood(flat, at, steps)):
                flat[at] = 0
            else:
                places[kept] = at
                kept += 1
        if kept == n:
            return
        n = kept
