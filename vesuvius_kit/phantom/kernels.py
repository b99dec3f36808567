"""The loops of the phantom: where the wraps run, what the papyrus is made of, what the scanner sees.

Every random number comes from a tile of white noise drawn beforehand or from a hash of the voxel's index, and no loop
adds up across threads, so the result does not depend on how many of them there are.
"""

import math

import numpy as np
from numba import prange

from vesuvius_kit.compilation import compiled

NEAREST, FARTHEST = 8.0, 40.0  # voxels between neighbouring wraps
_MIDDLE = math.sqrt(NEAREST * FARTHEST)
_REACH = 0.5 * math.log(FARTHEST / NEAREST)


@compiled(inline="always")
def _spline(t):
    """Weights of the four cubic B-splines that cover a point at ``t`` in 0..1 of its cell."""
    s = 1.0 - t
    return (s * s * s / 6.0, (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0,
            (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0, t * t * t / 6.0)  # fmt: skip


@compiled(inline="always")
def _spline_slope(t):
    """Derivatives of the weights of `_spline` with respect to ``t``."""
    s = 1.0 - t
    return (-0.5 * s * s, 0.5 * t * (3.0 * t - 4.0), 0.5 * s * (4.0 - 3.0 * s), 0.5 * t * t)


@compiled()
def _smooth_noise(tile, z, y, x):
    """Twice differentiable noise of unit variance, about: a periodic tile of white noise through cubic B-splines."""
    size = tile.shape[0] - 1
    iz, iy, ix = math.floor(z), math.floor(y), math.floor(x)
    wz, wy, wx = _spline(z - iz), _spline(y - iy), _spline(x - ix)
    total = 0.0
    for a in range(4):
        for b in range(4):
            row = 0.0
            for c in range(4):
                row += wx[c] * tile[(int(iz) + a) & size, (int(iy) + b) & size, (int(ix) + c) & size]
            total += wz[a] * wy[b] * row
    return 3.0 * total


@compiled(inline="always")
def _noise2(tile, y, x):
    """Noise of unit variance, about: a periodic tile of white noise, bilinear."""
    size = tile.shape[0] - 1
    iy, ix = math.floor(y), math.floor(x)
    v, u = y - iy, x - ix
    j, i = int(iy) & size, int(ix) & size
    j1, i1 = (j + 1) & size, (i + 1) & size
    low = tile[j, i] + u * (tile[j, i1] - tile[j, i])
    high = tile[j1, i] + u * (tile[j1, i1] - tile[j1, i])
    return 1.5 * (low + v * (high - low))


@compiled(inline="always")
def _noise3(tile, z, y, x):
    """Noise of unit variance, about: a periodic tile of white noise, trilinear."""
    size = tile.shape[0] - 1
    iz, iy, ix = math.floor(z), math.floor(y), math.floor(x)
    w, v, u = z - iz, y - iy, x - ix
    k, j, i = int(iz) & size, int(iy) & size, int(ix) & size
    k1, j1, i1 = (k + 1) & size, (j + 1) & size, (i + 1) & size
    a = tile[k, j, i] + u * (tile[k, j, i1] - tile[k, j, i])
    b = tile[k, j1, i] + u * (tile[k, j1, i1] - tile[k, j1, i])
    c = tile[k1, j, i] + u * (tile[k1, j, i1] - tile[k1, j, i])
    d = tile[k1, j1, i] + u * (tile[k1, j1, i1] - tile[k1, j1, i])
    a += v * (b - a)
    c += v * (d - c)
    return 1.84 * (a + w * (c - a))


@compiled(inline="always")
def _hash(index, seed):
    """Return 64 well mixed bits for a voxel (the finaliser of SplitMix64)."""
    h = np.uint64(index) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@compiled(parallel=True, nogil=True)
def draw_spacing(radius, turn, height_step, start, pitch, spread, tile):
    """Distance from each point of one turn of the spiral, at ``radius``, to the next turn, (heights, columns).

    Two noises multiply the pitch: one over space, which squeezes several neighbouring wraps together, and one along the
    unrolled sheet, which no two wraps share. A wrap that has strayed from its place in an even spiral is drawn back
    slowly, or the errors of many wraps would add up to hills. A hyperbolic tangent keeps the product between `NEAREST`
    and `FARTHEST`.
    """
    heights, columns = radius.shape
    spacing = np.empty((heights, columns))
    usual = _REACH * math.atanh(math.log(pitch / _MIDDLE) / _REACH)
    for column in prange(columns):
        u = turn + column / columns
        # The first turn starts regular, so that the spiral has no step where it begins.
        ramp = min(u, 1.0)
        ramp = ramp * ramp * (3.0 - 2.0 * ramp)
        angle = 2.0 * math.pi * u
        even = start + pitch * u
        y, x = even * math.sin(angle), even * math.cos(angle)
        arc = 2.0 * math.pi * (start * u + 0.5 * pitch * u * u)
        for height in range(heights):
            z = height * height_step
            shared = _smooth_noise(tile, z / 90.0, y / 60.0 + 7.0, x / 60.0)
            own = _smooth_noise(tile, z / 60.0, arc / 55.0, 11.5)
            stray = (radius[height, column] - even) / pitch
            change = usual + ramp * (spread * (0.6 * shared + 0.8 * own) - 0.08 * stray)
            spacing[height, column] = _MIDDLE * math.exp(_REACH * math.tanh(change / _REACH))
    return spacing


@compiled(parallel=True, nogil=True)
def draw_bends(bends, step, tile, amplitude, folds):
    """Fill ``bends`` (2, Z, Y, X), spline coefficients of a displacement in y and x that all wraps follow.

    Each row of ``folds`` is a sharp fold: a plane (its point z, y, x and its normal z, y, x), the direction y, x in
    which the sheets step aside near that plane, how far, and half the width of the fold.
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
                    broad = _smooth_noise(tile, z / 150.0 + shift, y / 150.0, x / 150.0)
                    fine = _smooth_noise(tile, z / 36.0 + shift, y / 34.0 + 9.0, x / 34.0)
                    bends[axis, k, j, i] = amplitude * (broad + 0.15 * fine)
                for f in range(folds.shape[0]):
                    across = (z - folds[f, 0]) * folds[f, 3] + (y - folds[f, 1]) * folds[f, 4]
                    across = (across + (x - folds[f, 2]) * folds[f, 5]) / folds[f, 9]
                    if abs(across) < 4.0:
                        away = (z - folds[f, 0]) ** 2 + (y - folds[f, 1]) ** 2 + (x - folds[f, 2]) ** 2
                        size = folds[f, 8] * math.exp(-0.5 * across * across - away / (2.0 * 80.0**2))
                        bends[0, k, j, i] += size * folds[f, 6]
                        bends[1, k, j, i] += size * folds[f, 7]


@compiled(parallel=True, nogil=True)
def trace_wraps(
    wrap, inner, outer, arc, bends, bend_step, axis, turn_origin, spiral, columns, height_step, start, pitch
):
    """Find for each voxel the wrap it follows, its distance from that wrap's recto and from the next one's.

    ``wrap`` int16, ``inner``, ``outer``, ``arc`` float32, all (Z, Y, X), are filled: the number of the last recto passed
    on the way out from the umbilicus, the distances to it and to the next in voxels, both >= 0, and the place along the
    unrolled sheet. ``axis`` (4, Z) holds the umbilicus' y, x and their slopes in z, ``spiral`` (heights, turns x columns)
    the spline coefficients of the radius along the unrolled spiral. A difference of radii becomes a distance through
    division by the gradient's norm, so oblique sheets are as thick as others.
    """
    nz, ny, nx = wrap.shape
    last_turn = spiral.shape[1] // columns - 2
    sin0, cos0 = math.sin(turn_origin), math.cos(turn_origin)
    for z in prange(nz):
        cell = z / height_step
        low = int(cell)
        w, dw = _spline(cell - low), _spline_slope(cell - low)
        radii, climb = np.zeros(spiral.shape[1]), np.zeros(spiral.shape[1])
        for a in range(4):
            for i in range(spiral.shape[1]):
                radii[i] += w[a] * spiral[low + a, i]
                climb[i] += dw[a] / height_step * spiral[low + a, i]
        cell = z / bend_step
        low = int(cell)
        w, dw = _spline(cell - low), _spline_slope(cell - low)
        plane = np.zeros((4, bends.shape[2], bends.shape[3]))
        for a in range(4):
            for j in range(bends.shape[2]):
                for i in range(bends.shape[3]):
                    for c in range(2):
                        plane[c, j, i] += w[a] * bends[c, low + a, j, i]
                        plane[2 + c, j, i] += dw[a] / bend_step * bends[c, low + a, j, i]
        line = np.empty((6, bends.shape[3]))
        k = 0
        for y in range(ny):
            cell = y / bend_step
            low = int(cell)
            w, dw = _spline(cell - low), _spline_slope(cell - low)
            for i in range(bends.shape[3]):
                for c in range(4):
                    line[c, i] = (w[0] * plane[c, low, i] + w[1] * plane[c, low + 1, i]
                                  + w[2] * plane[c, low + 2, i] + w[3] * plane[c, low + 3, i])  # fmt: skip
                for c in range(2):
                    line[4 + c, i] = (dw[0] * plane[c, low, i] + dw[1] * plane[c, low + 1, i]
                                      + dw[2] * plane[c, low + 2, i] + dw[3] * plane[c, low + 3, i]) / bend_step  # fmt: skip
            for x in range(nx):
                cell = x / bend_step
                low = int(cell)
                w, dw = _spline(cell - low), _spline_slope(cell - low)
                dy = dx = dy_dz = dx_dz = dy_dy = dx_dy = dy_dx = dx_dx = 0.0
                for a in range(4):
                    dy += w[a] * line[0, low + a]
                    dx += w[a] * line[1, low + a]
                    dy_dz += w[a] * line[2, low + a]
                    dx_dz += w[a] * line[3, low + a]
                    dy_dy += w[a] * line[4, low + a]
                    dx_dy += w[a] * line[5, low + a]
                    dy_dx += dw[a] / bend_step * line[0, low + a]
                    dx_dx += dw[a] / bend_step * line[1, low + a]
                qy, qx = y + dy - axis[0, z], x + dx - axis[1, z]
                radius = max(math.sqrt(qy * qy + qx * qx), 1.0)
                angle = math.atan2(cos0 * qy - sin0 * qx, cos0 * qx + sin0 * qy)
                cell = (angle / (2.0 * math.pi) + 0.5) * columns
                column = min(int(cell), columns - 1)
                w, dw = _spline(cell - column), _spline_slope(cell - column)
                # The neighbour's wrap is nearly always this voxel's: walk from there.
                r0 = _read(radii, k * columns + column, w)
                while r0 > radius and k > 0:
                    k -= 1
                    r0 = _read(radii, k * columns + column, w)
                r1 = _read(radii, (k + 1) * columns + column, w)
                while r1 <= radius and k < last_turn - 1:
                    k += 1
                    r0 = r1
                    r1 = _read(radii, (k + 1) * columns + column, w)
                wrap[z, y, x] = k
                turn = k + cell / columns
                arc[z, y, x] = 2.0 * math.pi * (start * turn + 0.5 * pitch * turn * turn)
                for side in range(2):
                    place = (k + side) * columns + column
                    bend = _read(radii, place, dw) * columns / (2.0 * math.pi) / radius
                    cy, cx = (qy - bend * qx) / radius, (qx + bend * qy) / radius
                    gz = cy * (dy_dz - axis[2, z]) + cx * (dx_dz - axis[3, z]) - _read(climb, place, w)
                    gy = cy * (1.0 + dy_dy) + cx * dx_dy
                    gx = cy * dy_dx + cx * (1.0 + dx_dx)
                    steepness = max(math.sqrt(gz * gz + gy * gy + gx * gx), 0.2)
                    if side == 0:
                        inner[z, y, x] = max(radius - r0, 0.0) / steepness
                    else:
                        outer[z, y, x] = max(r1 - radius, 0.0) / steepness


@compiled(inline="always")
def _read(coefficients, place, w):
    """Value of a spline whose first coefficient lies one cell before place 0."""
    return (w[0] * coefficients[place] + w[1] * coefficients[place + 1]
            + w[2] * coefficients[place + 2] + w[3] * coefficients[place + 3])  # fmt: skip


@compiled(parallel=True, nogil=True)
def mark_surfaces(wrap, inner, outer, chosen, half_thickness, margin, border, label, surface):
    """Fill ``surface`` (bool) with every recto and ``label`` (uint8) with those of the ``chosen`` wraps.

    A recto is the voxels whose centres lie within ``half_thickness`` of it.
    """
    nz, ny, nx = wrap.shape
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                if min(z, y, x, nz - 1 - z, ny - 1 - y, nx - 1 - x) < border:
                    label[z, y, x] = 2
                    surface[z, y, x] = False
                    continue
                k = wrap[z, y, x]
                before, after = inner[z, y, x], outer[z, y, x]
                here, beyond = before < half_thickness, after <= half_thickness
                surface[z, y, x] = here or beyond
                if (here and chosen[k]) or (beyond and chosen[k + 1]):
                    label[z, y, x] = 1
                elif (chosen[k] and (chosen[k + 1] or before <= margin)) or (chosen[k + 1] and after <= margin):
                    label[z, y, x] = 0
                else:
                    label[z, y, x] = 2


@compiled(parallel=True, nogil=True)
def paint_papyrus(image, wrap, inner, outer, arc, style, sheet, space, hash_seed, hole_level, split_level, grain):
    """Fill ``image`` (float32) with the scroll before it is scanned, white noise of deviation ``grain`` included.

    ``sheet`` is a 2-D tile of white noise for what varies along a sheet, ``space`` a 3-D one for fibres and debris.
    """
    nz, ny, nx = image.shape
    contrast = style.sheet_grey - style.gap_grey
    scale = grain * math.sqrt(12.0) / 2.0**63
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                a = arc[z, y, x]
                room = inner[z, y, x] + outer[z, y, x]
                crumb = _noise3(space, z / 5.0 + 8.0, y / 5.0, x / 5.0)
                # Holes: the papyrus thins out towards a ragged edge, its verso layer first.
                hole = _noise2(sheet, z / 30.0, a / 26.0) + 0.5 * _noise2(sheet, z / 7.0 + 31.0, a / 7.0) + 0.35 * crumb
                whole = min(max((hole_level - hole) * 1.6, 0.0), 1.0)
                thickness = style.thickness * math.exp(0.25 * _noise2(sheet, z / 40.0 + 77.0, a / 32.0))
                thickness = min(max(thickness, 5.0), 12.0) * whole
                ragged = style.fray * (
                    _noise2(sheet, z / 9.0 + 111.0, a / 9.0) + 0.6 * _noise2(sheet, z / 4.0 + 140.0, a / 4.0)
                )
                # The sheet wobbles about the smooth line that a human would trace; the recto face is the crisper one.
                wobble = 0.5 * _noise2(sheet, z / 12.0 + 60.0, a / 12.0)
                rough = wobble + 0.3 * style.fray * _noise2(sheet, z / 5.0 + 170.0, a / 5.0)
                # Splits: a lens of air opens between the layers and pushes the verso layer out into the gap.
                split = _noise2(sheet, z / 55.0 + 200.0, a / 38.0) + 0.3 * _noise2(sheet, z / 13.0 + 9.0, a / 13.0)
                opening = min(max((split + 0.2 * crumb - split_level) * 4.0, 0.0), max(0.8 * (room - thickness), 1.5))
                middle = thickness * (0.45 + 0.1 * _noise2(sheet, z / 20.0 + 230.0, a / 20.0))
                depth = inner[z, y, x] + 0.5 - max(rough, -0.5)
                outside = thickness + opening + 1.0 + min(ragged, 1.5)
                cover = min(max(depth, 0.0), 1.0) * min(max((outside - depth) * 0.4, 0.0), 1.0)
                if opening > 0.0:
                    crack = min(depth - middle, middle + opening - depth) + 0.5
                    cover *= 1.0 - min(max(crack, 0.0), 1.0)
                # Recto: fibres along the wrap. Verso: fibres along z.
                if depth < middle + 0.5 * opening:
                    fibre = _noise3(space, depth / 2.0, z / 2.4, a / 18.0)
                else:
                    fibre = _noise3(space, (depth - opening) / 2.0 + 20.0, z / 18.0, a / 2.4)
                speckled = _noise3(space, z / 2.0, y / 2.0, x / 2.0)
                patchy = _noise3(space, z / 40.0 + 5.0, y / 40.0, x / 40.0)
                lamina = _noise3(space, depth / 1.7 + 40.0, z / 12.0, a / 12.0)
                papyrus = contrast * (
                    1.0 + style.texture * (0.8 * fibre + 0.45 * speckled + 0.35 * lamina) + 0.12 * patchy
                )
                # The recto is dense, the verso loose: the sheet darkens from one to the other.
                papyrus += style.recto_excess * (1.0 - 2.0 * min(depth / (thickness + opening + 0.1), 1.0))
                # Debris: thin films and crumbs, faint.
                film = abs(_noise3(space, z / 14.0 + 3.0, y / 14.0, x / 14.0) + 0.3 * speckled)
                litter = 0.35 * max(1.0 - 6.0 * film, 0.0) + 0.2 * max(crumb - 1.2, 0.0)
                air = contrast * style.debris * litter + 2.0 * patchy
                value = style.gap_grey + cover * papyrus + (1.0 - cover) * air
                bits = _hash((z * ny + y) * nx + x, hash_seed)
                image[z, y, x] = value + scale * np.int64(bits)


@compiled()
def add_specks(image, specks):
    """Paint bright grains: rows of centre z, y, x, radii z, y, x and brightness."""
    nz, ny, nx = image.shape
    for s in range(specks.shape[0]):
        cz, cy, cx, rz, ry, rx, bright = specks[s]
        for z in range(max(int(cz - rz), 0), min(int(cz + rz) + 2, nz)):
            for y in range(max(int(cy - ry), 0), min(int(cy + ry) + 2, ny)):
                for x in range(max(int(cx - rx), 0), min(int(cx + rx) + 2, nx)):
                    away = ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
                    if away < 1.0:
                        image[z, y, x] = max(image[z, y, x], bright * (1.0 - 0.5 * away))


@compiled(parallel=True, nogil=True)
def blur_rows(source, target, weights):
    """Filter the middle axis of a (blocks, rows, columns) float32 array; the ends repeat."""
    blocks, rows, columns = source.shape
    half = weights.shape[0] // 2
    for job in prange(blocks * rows):
        block, row = job // rows, job % rows
        line = np.zeros(columns, dtype=np.float32)
        for o in range(weights.shape[0]):
            other = source[block, min(max(row + o - half, 0), rows - 1)]
            weight = weights[o]
            for i in range(columns):
                line[i] += weight * other[i]
        target[block, row] = line


@compiled(parallel=True, nogil=True)
def finish_scan(source, weights, border, image):
    """Filter the last axis, round to uint8 and blacken the border."""
    nz, ny, nx = source.shape
    half = weights.shape[0] // 2
    for z in prange(nz):
        padded = np.empty(nx + 2 * half, dtype=np.float32)
        for y in range(ny):
            if min(z, y, nz - 1 - z, ny - 1 - y) < border:
                image[z, y] = 0
                continue
            for i in range(nx + 2 * half):
                padded[i] = source[z, y, min(max(i - half, 0), nx - 1)]
            for x in range(nx):
                value = np.float32(0.5)
                for o in range(weights.shape[0]):
                    value += weights[o] * padded[x + o]
                inside = border <= x < nx - border
                image[z, y, x] = np.uint8(min(max(value, np.float32(0.0)), np.float32(255.0))) if inside else 0
