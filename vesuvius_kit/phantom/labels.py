"""What a competitor is told of the wraps: which are labelled, and where the line of each is drawn.

Real labels are lines drawn in one axial slice after the other: three voxels thick there, smooth within a slice and ragged from
slice to slice. They turn aside at the faces of a chunk, follow another layer for a stretch now and then, and end inside it
sometimes. What is written here was measured on real ones; `docs/phantom.md` has the figures.
"""

import math

import numpy as np
from numba import prange
from numpy.typing import NDArray

from vesuvius_kit.constants import BACKGROUND, SURFACE, UNLABELLED
from vesuvius_kit.phantom.noise import hash_voxel, noise2
from vesuvius_kit.voxel.compilation import compiled

# Half the thickness of a line in the axial plane, and the least along the sheet's normal, where that points along z.
AXIAL_HALF, NORMAL_HALF = 1.5, 1.15
# Two labelled wraps are nowhere nearer than about this; pairs that are over a larger share of their area are not both labelled.
NEAREST_LABELS, NEAR_SHARE = 9.0, 0.02
# The largest share of a chunk that lines fill, and where every wrap is labelled; and how thick a line is along the normal on
# average, from which that is foreseen.
MOST_SURFACE, MOST_FULL, _MEAN_LINE = 0.09, 0.075, 2.7
_FULL_SHARE = 0.25  # of the chunks whose wraps are far enough apart, those with every wrap labelled
_FACE_REACH = 9.0  # voxels from a face within which a line turns aside
_INWARD = 0.7  # voxels from the recto to the middle of its line, which lies on the papyrus rather than on its edge
_JITTER = 0.12  # deviation of a line from slice to slice
_FARTHEST_LAYER = 4.0  # voxels between a line on the wrong layer and its recto


def choose_wraps(
    rng: np.random.Generator,
    wrap: NDArray[np.int16],
    area: NDArray[np.float64],
    near: NDArray[np.float64],
    turns: int,
) -> NDArray[np.bool_]:
    """Choose groups of neighbouring wraps to be labelled; how much of a chunk they fill varies from all to nearly nothing.

    No choice lets lines fill more than about `MOST_SURFACE` of the chunk, so where wraps are dense some are left out: real
    chunks whose every wrap is labelled are those in which wraps are far apart. ``area`` and ``near`` come from
    `measure_wraps`, with the limit `NEAREST_LABELS`; the result has ``turns`` + 1 entries.
    """
    room = np.bincount(wrap.ravel(), minlength=turns + 1)
    apart = near <= NEAR_SHARE  # wrap k and k + 1 may both be labelled
    chosen = np.zeros(turns + 1, dtype=bool)
    # Of the area of all chosen wraps.
    most, most_full = (share * wrap.size / _MEAN_LINE for share in (MOST_SURFACE, MOST_FULL))
    kind = rng.random()
    if kind < _FULL_SHARE:
        # Every wrap, and where two are pressed together one of them.
        for k in range(turns + 1):
            chosen[k] = k == 0 or not chosen[k - 1] or apart[k - 1]
        if area[chosen].sum() <= most_full:
            return chosen
        chosen[:] = False
    target = rng.uniform(0.08, 0.9) if kind < 0.6 else float(np.clip(rng.normal(0.44, 0.11), 0.15, 0.75))
    for _ in range(50):
        if room[chosen].sum() >= target * wrap.size:
            break
        size = int(rng.integers(2, 6))
        first = max(int(rng.choice(turns + 1, p=room / wrap.size)) - int(rng.integers(size)), 0)
        # Two wraps at least stay unlabelled between groups, or they would be one group.
        if chosen[max(first - 2, 0) : first + size + 2].any():
            continue
        for k in range(first, min(first + size, turns + 1)):
            if (k > first and not apart[k - 1]) or area[chosen].sum() + area[k] > most:
                break
            chosen[k] = True
    return chosen


def draw_ends(
    rng: np.random.Generator, wrap: NDArray[np.int16], arc: NDArray[np.float32], turns: int
) -> NDArray[np.float64]:
    """Draw where labelled wraps end inside the chunk, (turns + 2, 2): place along the sheet, and the side that keeps its line.

    The side is 0 where the wrap does not end, positive or negative otherwise: 1 where background lies beyond, 2 where nothing
    is labelled there.
    """
    ends = np.zeros((turns + 2, 2))
    flat_wrap, flat_arc = wrap.ravel(), arc.ravel()
    for place in rng.integers(flat_wrap.size, size=max(1, turns)):
        if rng.random() < 0.06:
            ends[flat_wrap[place]] = flat_arc[place], rng.choice([-2.0, -2.0, -1.0, 1.0, 2.0, 2.0])
    return ends


@compiled(parallel=True, nogil=True)
def measure_wraps(
    wrap: NDArray[np.int16], inner: NDArray[np.float32], outer: NDArray[np.float32], limit: float, turns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area of each wrap in voxels, and its share where the sheet beyond is nearer than ``limit``, (turns + 1,) both."""
    nz = wrap.shape[0]
    counts = np.zeros((nz, 2, turns + 1))
    for z in prange(nz):
        for y in range(wrap.shape[1]):
            for x in range(wrap.shape[2]):
                k = wrap[z, y, x]
                room = inner[z, y, x] + outer[z, y, x]
                area = 1.0 / max(room, 1.0)
                counts[z, 0, k] += area
                if room < limit:
                    counts[z, 1, k] += area
    whole = counts.sum(axis=0)
    return whole[0], whole[1] / np.maximum(whole[0], 1.0)


@compiled(inline="always")
def _offset(
    z: int,
    y: int,
    x: int,
    shape_y: int,
    shape_x: int,
    k: int,
    a: float,
    room: float,
    sheet: NDArray[np.float32],
    seed: int,
) -> float:
    """How far outwards of its recto the line of wrap ``k`` is drawn."""
    # Each slice is drawn by itself: the tile is read at whole numbers along z.
    offset = _INWARD + _JITTER * noise2(sheet, z + 300.0, a / 18.0 + 37.0 * k)
    stray = noise2(sheet, z / 42.0 + 19.5, a / 48.0 + 53.0 * k)
    astray = min(max((stray - 1.5) * 1.2, 0.0), 1.0)
    offset += astray * astray * (3.0 - 2.0 * astray) * min(_FARTHEST_LAYER, 0.4 * room)
    face = min(y, x, shape_y - 1 - y, shape_x - 1 - x) - 3.0
    if face < _FACE_REACH:
        side = 0 if face + 3.0 == y else 1 if face + 3.0 == x else 2 if face + 3.0 == shape_y - 1 - y else 3
        turn = np.int64(hash_voxel(4 * k + side, seed)) / 2.0**63
        near = (_FACE_REACH - face) / _FACE_REACH
        offset += 3.0 * turn * near * near
    return offset


@compiled(inline="always")
def _end_of_line(ends: NDArray[np.float64], k: int, a: float) -> float:
    """What lies at place ``a`` of wrap ``k``: 0 its line, beyond the line's end 1 background, 2 nothing that is labelled."""
    return abs(ends[k, 1]) if (a - ends[k, 0]) * ends[k, 1] < 0.0 else 0.0


@compiled(inline="always")
def _one_turn_on(a: float, start: float, pitch: float) -> float:
    """The place along the sheet one turn further out than place ``a``."""
    turn = (math.sqrt(start * start + pitch * a / math.pi) - start) / pitch
    return a + 2.0 * math.pi * (start + pitch * (turn + 0.5))


@compiled(parallel=True, nogil=True)
def mark_surfaces(
    wrap: NDArray[np.int16],
    inner: NDArray[np.float32],
    outer: NDArray[np.float32],
    arc: NDArray[np.float32],
    level: NDArray[np.uint8],
    chosen: NDArray[np.bool_],
    ends: NDArray[np.float64],
    start: float,
    pitch: float,
    sheet: NDArray[np.float32],
    seed: int,
    half_thickness: float,
    margin: float,
    border: int,
    label: NDArray[np.uint8],
    surface: NDArray[np.bool_],
) -> None:
    """Fill ``surface`` with every recto and ``label`` with lines near those of the ``chosen`` wraps.

    A recto is the voxels whose centres lie within ``half_thickness`` of it.
    """
    nz, ny, nx = wrap.shape
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                if min(z, y, x, nz - 1 - z, ny - 1 - y, nx - 1 - x) < border:
                    label[z, y, x] = UNLABELLED
                    surface[z, y, x] = False
                    continue
                k = wrap[z, y, x]
                before, after = inner[z, y, x], outer[z, y, x]
                surface[z, y, x] = abs(before) < half_thickness or after <= half_thickness
                a = arc[z, y, x]
                beyond = _one_turn_on(a, start, pitch)
                end, next_end = _end_of_line(ends, k, a), _end_of_line(ends, k + 1, beyond)
                mine, next_ = chosen[k] and end <= 1.0, chosen[k + 1] and next_end <= 1.0
                # Beyond the outermost line of a group the background ends half-way to the next wrap at the latest.
                edge = min(margin, 0.5 * (before + after))
                is_labelled = (mine and (next_ or abs(before) <= edge)) or (next_ and after <= edge)
                label[z, y, x] = BACKGROUND if is_labelled else UNLABELLED
                half = max(AXIAL_HALF * level[z, y, x] / 255.0, NORMAL_HALF)
                room = before + after
                if mine and end == 0.0 and before < half + 9.0:
                    drawn = _offset(z, y, x, ny, nx, k, a, room, sheet, seed)
                    label[z, y, x] = SURFACE if abs(before - drawn) <= half else label[z, y, x]
                if next_ and next_end == 0.0 and after < half + 5.0:
                    drawn = _offset(z, y, x, ny, nx, k + 1, beyond, room, sheet, seed)
                    label[z, y, x] = SURFACE if abs(after + drawn) <= half else label[z, y, x]
