"""Where the wraps run: the spiral, the bends that all wraps follow, and each voxel's place between two wraps.

No loop adds up across threads, so the result does not depend on how many of them there are.
"""

import math

import numpy as np
from numba import prange
from numpy.typing import NDArray

from vesuvius_kit.phantom.noise import Weights, even_noise2, smooth_noise, spline, spline_slope
from vesuvius_kit.voxel.compilation import compiled


@compiled(inline="always")
def read_tear(sheet: NDArray[np.float32], z: float, arc: float, level: float) -> float:
    """How far a place of the unrolled sheet lies within a tear, about -3 to 3; the papyrus is missing where it is above 0."""
    return even_noise2(sheet, z / 110.0 + 133.0, arc / 90.0 + 17.0) - level


@compiled(inline="always")
def _unroll(turn: float, start: float, pitch: float) -> float:
    """The place along the unrolled sheet, in voxels, of a turn of the even spiral."""
    return 2.0 * math.pi * (start * turn + 0.5 * pitch * turn * turn)


@compiled(parallel=True, nogil=True)
def draw_spacing(
    radius: NDArray[np.float64],
    turn: int,
    height_step: float,
    start: float,
    pitch: float,
    spread: float,
    nearest: float,
    farthest: float,
    tile: NDArray[np.float32],
    sheet: NDArray[np.float32],
    tear_level: float,
) -> NDArray[np.float64]:
    """Distance from each point of one turn of the spiral, at ``radius``, to the next turn, (heights, columns).

    Two noises multiply the pitch: one over space, which squeezes several neighbouring wraps together, and one along the
    unrolled sheet, which no two wraps share. A wrap that has strayed from its place in an even spiral is drawn back
    slowly, or the errors of many wraps would add up to hills. Where the sheet is torn the next wrap moves in. A hyperbolic
    tangent keeps the product between ``nearest`` and ``farthest``.
    """
    heights, columns = radius.shape
    spacing = np.empty((heights, columns))
    middle, reach = math.sqrt(nearest * farthest), 0.5 * math.log(farthest / nearest)
    usual = reach * math.atanh(math.log(pitch / middle) / reach)
    for column in prange(columns):
        u = turn + column / columns
        # The first turn starts regular, so that the spiral has no step where it begins.
        ramp = min(u, 1.0)
        ramp = ramp * ramp * (3.0 - 2.0 * ramp)
        angle = 2.0 * math.pi * u
        even = start + pitch * u
        y, x = even * math.sin(angle), even * math.cos(angle)
        arc = _unroll(u, start, pitch)
        for height in range(heights):
            z = height * height_step
            shared = smooth_noise(tile, z / 140.0, y / 140.0 + 7.0, x / 140.0)
            own = smooth_noise(tile, z / 120.0, arc / 165.0, 11.5)
            stray = (radius[height, column] - even) / pitch
            change = usual + ramp * (spread * (0.6 * shared + 0.8 * own) - 0.08 * stray)
            change -= 0.7 * ramp * min(max(0.6 + 0.7 * read_tear(sheet, z, arc, tear_level), 0.0), 1.0)
            spacing[height, column] = middle * math.exp(reach * math.tanh(change / reach))
    return spacing


@compiled(parallel=True, nogil=True)
def draw_bends(
    bends: NDArray[np.float64],
    step: float,
    tile: NDArray[np.float32],
    amplitude: float,
    restless: float,
    folds: NDArray[np.float64],
    swirls: NDArray[np.float64],
) -> None:
    """Fill ``bends`` (2, Z, Y, X), spline coefficients of a displacement in y and x that all wraps follow.

    Each row of ``folds`` is a sharp fold: a plane (its point z, y, x and its normal z, y, x), the direction y, x in
    which the sheets step aside near that plane, how far, and half the width of the fold. Each row of ``swirls`` turns the
    sheets about a line along z, by an angle that falls with the distance from a point, so that they double back: the point
    z, y, x, the angle at it and the reach. ``restless`` is the share of the shorter waves.
    """
    _, nz, ny, nx = bends.shape
    for k in prange(nz):
        z = (k - 1) * step
        for j in range(ny):
            y = (j - 1) * step
            for i in range(nx):
                x = (i - 1) * step
                for axis in range(2):
                    shift = 40.0 * axis
                    broad = smooth_noise(tile, z / 150.0 + shift, y / 150.0, x / 150.0)
                    fine = smooth_noise(tile, z / 36.0 + shift, y / 34.0 + 9.0, x / 34.0)
                    bends[axis, k, j, i] = amplitude * (broad + restless * fine)
                for f in range(folds.shape[0]):
                    across = (z - folds[f, 0]) * folds[f, 3] + (y - folds[f, 1]) * folds[f, 4]
                    across = (across + (x - folds[f, 2]) * folds[f, 5]) / folds[f, 9]
                    if abs(across) < 4.0:
                        away = (z - folds[f, 0]) ** 2 + (y - folds[f, 1]) ** 2 + (x - folds[f, 2]) ** 2
                        size = folds[f, 8] * math.exp(-0.5 * across * across - away / (2.0 * 80.0**2))
                        bends[0, k, j, i] += size * folds[f, 6]
                        bends[1, k, j, i] += size * folds[f, 7]
                # A turn of the whole plane, less from circle to circle, has an inverse: no wrap crosses another.
                for s in range(swirls.shape[0]):
                    dz, dy, dx = z - swirls[s, 0], y - swirls[s, 1], x - swirls[s, 2]
                    away = (dy * dy + dx * dx + 0.4 * dz * dz) / (swirls[s, 4] * swirls[s, 4])
                    if away < 9.0:
                        angle = swirls[s, 3] * math.exp(-away)
                        sine, cosine = math.sin(angle), math.cos(angle) - 1.0
                        bends[0, k, j, i] += cosine * dy + sine * dx
                        bends[1, k, j, i] += cosine * dx - sine * dy


@compiled(parallel=True, nogil=True)
def trace_wraps(
    wrap: NDArray[np.int16],
    inner: NDArray[np.float32],
    outer: NDArray[np.float32],
    arc: NDArray[np.float32],
    level: NDArray[np.uint8],
    bends: NDArray[np.float64],
    bend_step: float,
    axis: NDArray[np.float64],
    turn_origin: float,
    hand: float,
    spiral: NDArray[np.float64],
    columns: int,
    height_step: float,
    start: float,
    pitch: float,
) -> None:
    """Find for each voxel the wrap it follows, its distance from that wrap's recto and from the next one's.

    ``wrap``, ``inner``, ``outer`` and ``arc``, all (Z, Y, X), are filled: the number of the last recto passed on the way out
    from the umbilicus, the distances to it (below 0 within the first turn) and to the next in voxels, and the place along the
    unrolled sheet. ``level`` gets how thick a hand draws the recto's line, 255 where its normal is along y or x: less where it
    runs obliquely in the axial plane, and by how far the normal leaves that plane. ``axis`` (4, Z) holds the umbilicus' y, x
    and their slopes in z, ``hand`` is 1.0 or -1.0, the sense of the winding, and ``spiral`` (heights, turns x columns) the
    spline coefficients of the radius along the unrolled spiral. A difference of radii becomes a distance through division by
    the gradient's norm, so oblique sheets are as thick as others.
    """
    nz, ny, nx = wrap.shape
    last_turn = spiral.shape[1] // columns - 2
    sin0, cos0 = math.sin(turn_origin), math.cos(turn_origin)
    for z in prange(nz):
        radii, climb = _cut_spiral(spiral, z, height_step)
        plane = _cut_bends(bends, z, bend_step)
        line = np.empty((6, bends.shape[3]))
        k = 0
        for y in range(ny):
            _cut_plane(plane, y, bend_step, line)
            for x in range(nx):
                shift = _read_bend(line, x, bend_step)
                qy, qx = y + shift[0] - axis[0, z], x + shift[1] - axis[1, z]
                radius = max(math.sqrt(qy * qy + qx * qx), 1.0)
                angle = math.atan2(hand * (cos0 * qy - sin0 * qx), cos0 * qx + sin0 * qy)
                cell = (angle / (2.0 * math.pi) + 0.5) * columns
                column = min(int(cell), columns - 1)
                w, dw = spline(cell - column), spline_slope(cell - column)
                # The neighbour's wrap is nearly always this voxel's: walk from there.
                k, r0, r1 = _find_wrap(radii, k, columns, column, w, radius, last_turn)
                wrap[z, y, x] = k
                arc[z, y, x] = _unroll(k + cell / columns, start, pitch)
                for side in range(2):
                    place = (k + side) * columns + column
                    bend = hand * _read(radii, place, dw) * columns / (2.0 * math.pi) / radius
                    rise = _read(climb, place, w)
                    gy, gx, steepness = _find_slope(qy, qx, radius, bend, shift, axis[2, z], axis[3, z], rise)
                    if side == 0:
                        level[z, y, x] = _find_level(gy, gx, steepness)
                        # Within the first turn there is no wrap yet.
                        inner[z, y, x] = (radius - r0 if k == 0 else max(radius - r0, 0.0)) / steepness
                    else:
                        outer[z, y, x] = max(r1 - radius, 0.0) / steepness


@compiled(inline="always")
def _cut_spiral(
    spiral: NDArray[np.float64], z: int, height_step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spline coefficients along the sheet, at one height, of the radius and of its slope in z."""
    cell = z / height_step
    low = int(cell)
    w, dw = spline(cell - low), spline_slope(cell - low)
    radii, climb = np.zeros(spiral.shape[1]), np.zeros(spiral.shape[1])
    for a in range(4):
        for i in range(spiral.shape[1]):
            radii[i] += w[a] * spiral[low + a, i]
            climb[i] += dw[a] / height_step * spiral[low + a, i]
    return radii, climb


@compiled(inline="always")
def _cut_bends(bends: NDArray[np.float64], z: int, step: float) -> NDArray[np.float64]:
    """Spline coefficients in one slice, (4, Y, X), of the displacements in y and x and of their slopes in z."""
    cell = z / step
    low = int(cell)
    w, dw = spline(cell - low), spline_slope(cell - low)
    plane = np.zeros((4, bends.shape[2], bends.shape[3]))
    for a in range(4):
        for j in range(bends.shape[2]):
            for i in range(bends.shape[3]):
                for c in range(2):
                    plane[c, j, i] += w[a] * bends[c, low + a, j, i]
                    plane[2 + c, j, i] += dw[a] / step * bends[c, low + a, j, i]
    return plane


@compiled(inline="always")
def _cut_plane(plane: NDArray[np.float64], y: int, step: float, line: NDArray[np.float64]) -> None:
    """Fill ``line`` (6, X) with spline coefficients in one row: what ``plane`` holds, then the slopes in y."""
    cell = y / step
    low = int(cell)
    w, dw = spline(cell - low), spline_slope(cell - low)
    for i in range(plane.shape[2]):
        for c in range(4):
            line[c, i] = (w[0] * plane[c, low, i] + w[1] * plane[c, low + 1, i]
                          + w[2] * plane[c, low + 2, i] + w[3] * plane[c, low + 3, i])  # fmt: skip
        for c in range(2):
            line[4 + c, i] = (dw[0] * plane[c, low, i] + dw[1] * plane[c, low + 1, i]
                              + dw[2] * plane[c, low + 2, i] + dw[3] * plane[c, low + 3, i]) / step  # fmt: skip


# A voxel's displacement in y and x, then their slopes: both by z, both by y, both by x.
_Shift = tuple[float, float, float, float, float, float, float, float]


@compiled(inline="always")
def _read_bend(line: NDArray[np.float64], x: int, step: float) -> _Shift:
    """Read the displacement of a voxel from the coefficients that `_cut_plane` fills in."""
    cell = x / step
    low = int(cell)
    w, dw = spline(cell - low), spline_slope(cell - low)
    dy = dx = dy_dz = dx_dz = dy_dy = dx_dy = dy_dx = dx_dx = 0.0
    for a in range(4):
        dy += w[a] * line[0, low + a]
        dx += w[a] * line[1, low + a]
        dy_dz += w[a] * line[2, low + a]
        dx_dz += w[a] * line[3, low + a]
        dy_dy += w[a] * line[4, low + a]
        dx_dy += w[a] * line[5, low + a]
        dy_dx += dw[a] / step * line[0, low + a]
        dx_dx += dw[a] / step * line[1, low + a]
    return dy, dx, dy_dz, dx_dz, dy_dy, dx_dy, dy_dx, dx_dx


@compiled(inline="always")
def _find_wrap(
    radii: NDArray[np.float64], k: int, columns: int, column: int, w: Weights, radius: float, last_turn: int
) -> tuple[int, float, float]:
    """Walk from wrap ``k`` to the last one that lies within ``radius``; its number, its radius and that of the next."""
    r0 = _read(radii, k * columns + column, w)
    while r0 > radius and k > 0:
        k -= 1
        r0 = _read(radii, k * columns + column, w)
    r1 = _read(radii, (k + 1) * columns + column, w)
    while r1 <= radius and k < last_turn - 1:
        k += 1
        r0 = r1
        r1 = _read(radii, (k + 1) * columns + column, w)
    return k, r0, r1


@compiled(inline="always")
def _find_slope(
    qy: float, qx: float, radius: float, bend: float, shift: _Shift, axis_y: float, axis_x: float, rise: float
) -> tuple[float, float, float]:
    """Slopes in y and x of how far a voxel's radius lies beyond a recto's, and the norm of the gradient.

    ``qy``, ``qx`` and ``radius`` are the voxel's displaced place as seen from the umbilicus, ``bend`` the recto's slope against
    a circle, ``axis_y`` and ``axis_x`` the slopes of the umbilicus in z, ``rise`` that of the recto's radius.
    """
    cy, cx = (qy - bend * qx) / radius, (qx + bend * qy) / radius
    _, _, dy_dz, dx_dz, dy_dy, dx_dy, dy_dx, dx_dx = shift
    gz = cy * (dy_dz - axis_y) + cx * (dx_dz - axis_x) - rise
    gy = cy * (1.0 + dy_dy) + cx * dx_dy
    gx = cy * dy_dx + cx * (1.0 + dx_dx)
    return gy, gx, max(math.sqrt(gz * gz + gy * gy + gx * gx), 0.2)


@compiled(inline="always")
def _find_level(gy: float, gx: float, steepness: float) -> np.uint8:
    """How thick a hand draws a recto's line, see `trace_wraps`, from the gradient and its norm."""
    within = math.sqrt(gy * gy + gx * gx)
    oblique = max(abs(gy), abs(gx)) / max(within, 1e-9)
    return np.uint8(min(within / steepness, 1.0) * (0.52 + 0.48 * oblique) * 255.0)


@compiled(inline="always")
def _read(coefficients: NDArray[np.float64], place: int, w: Weights) -> float:
    """Value of a spline whose first coefficient lies one cell before place 0."""
    return (w[0] * coefficients[place] + w[1] * coefficients[place + 1]
            + w[2] * coefficients[place + 2] + w[3] * coefficients[place + 3])  # fmt: skip
