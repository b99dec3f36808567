"""What the papyrus of the hard styles is made of: sheets that come apart into laminae of fibres and vessels."""

import math

import numpy as np
from numba import prange
from numpy.typing import NDArray

from vesuvius_kit.phantom.noise import even_noise2, hash_voxel, noise2, noise3
from vesuvius_kit.phantom.spiral import read_tear
from vesuvius_kit.phantom.styles import Style
from vesuvius_kit.voxel.compilation import compiled

_CELL = 5.5  # voxels from one vessel of a lamina to the next


@compiled(parallel=True, nogil=True)
def paint_laminae(
    image: NDArray[np.float32],
    wrap: NDArray[np.int16],
    inner: NDArray[np.float32],
    outer: NDArray[np.float32],
    arc: NDArray[np.float32],
    style: Style,
    sheet: NDArray[np.float32],
    space: NDArray[np.float32],
    hash_seed: int,
    hole_level: float,
    part_level: float,
    tear_level: float,
    grain: float,
) -> None:
    """Fill ``image`` with the scroll before it is scanned, white noise of deviation ``grain`` included.

    A sheet is a braid of ``style.laminae`` laminae at most, whose fibres run along the wrap and along z in turn. They part and
    rejoin, each thins out at places of its own, and the outer ones cross to the next wrap's recto here and there. Where there
    is little room there are fewer of them.
    """
    nz, ny, nx = image.shape
    contrast = style.sheet_grey - style.gap_grey
    scale = grain * math.sqrt(12.0) / 2.0**63
    for z in prange(nz):
        high, lies = np.zeros(style.laminae), np.zeros(style.laminae)
        for y in range(ny):
            for x in range(nx):
                k, a, depth = wrap[z, y, x], arc[z, y, x], inner[z, y, x]
                room = depth + outer[z, y, x]
                crumb = noise3(space, z / 5.0 + 8.0, y / 5.0, x / 5.0)
                rough = 0.6 * even_noise2(sheet, z / 26.0 + 60.0, a / 24.0)
                rough += style.fray * (0.2 * noise2(sheet, z / 5.0 + 170.0, a / 5.0) + 0.12 * crumb)
                lift = min(max(rough, -0.8), max(0.2 * room - 1.0, 0.3))
                face = _stack_laminae(sheet, z, a, crumb, room, lift, style, hole_level, tear_level, high, lies)
                squeeze = min((room + 0.4 - lift) / max(face - lift, 0.1), 1.0)
                nearest, within, cover = _find_lamina(sheet, z, a, depth, room, lift, squeeze, part_level, high, lies)
                speckled = noise3(space, z / 2.7, y / 2.7, x / 2.7)
                film = abs(noise3(space, z / 14.0 + 3.0, y / 14.0, x / 14.0) + 0.3 * speckled)
                litter = 0.35 * max(1.0 - 7.0 * film, 0.0) + 0.5 * max(crumb - 1.6, 0.0)
                value = style.gap_grey + (1.0 - cover) * contrast * style.debris * litter
                if cover > 0.0:
                    matter = _fill_lamina(sheet, space, z, a, nearest, within, speckled, style, contrast)
                    matter = _cut_vessel(matter, sheet, k, z, a, nearest, within, style.vessels, hash_seed)
                    matter = _add_grain(matter, z, y, x, cover, hash_seed)
                    value += cover * contrast * max(matter, 0.0)
                value += 1.5 * noise3(space, z / 40.0 + 5.0, y / 40.0, x / 40.0)
                bits = hash_voxel((z * ny + y) * nx + x, hash_seed)
                image[z, y, x] = value + scale * np.int64(bits)


@compiled(inline="always")
def _stack_laminae(
    sheet: NDArray[np.float32],
    z: int,
    a: float,
    crumb: float,
    room: float,
    lift: float,
    style: Style,
    hole_level: float,
    tear_level: float,
    high: NDArray[np.float64],
    lies: NDArray[np.float64],
) -> float:
    """Fill in how thick the laminae are and where their middles lie if there is room, and return where the last one ends."""
    n = style.laminae
    usual = style.thickness / n
    hole = noise2(sheet, z / 44.0, a / 40.0) + 0.25 * noise2(sheet, z / 9.0 + 31.0, a / 9.0)
    torn = read_tear(sheet, z, a, tear_level)
    stout = math.exp(0.3 * even_noise2(sheet, z / 60.0 + 77.0, a / 52.0))
    # Laminae as far apart as the braid is loose here; openings between them are lenses.
    face = lift
    for j in range(n):
        end = even_noise2(sheet, z / 34.0 + 43.0 * j, a / 30.0 + 97.0 * j) + 0.3 * crumb
        own = even_noise2(sheet, z / 21.0 + 13.0 * j, a / 26.0 + 31.0 * j)
        size = 0.78 * usual * stout * math.exp(0.3 * own) + 0.25 * crumb
        size *= min(max((hole_level + (0.8 if j == 0 else 0.3) - hole - 0.5 * end) * 0.9, 0.0), 1.0)
        size *= min(max(0.8 - 1.5 * (torn + 0.25 * end), 0.0), 1.0)
        if j > 0:
            size *= min(max((1.5 - end) * 1.2, 0.0), 1.0)
            size *= min(max(room / 3.4 - j, 0.0), 1.0)
            lens = even_noise2(sheet, z / 75.0 + 29.0 * j, a / 42.0 + 71.0 * j)
            lens += 0.15 * even_noise2(sheet, z / 22.0 + 3.0 * j, a / 15.0 + 7.0 * j)
            face += 0.22 * usual + usual * min(max(lens - 0.05, 0.0), 2.0)
        high[j] = size
        lies[j] = face + 0.5 * size
        face += size
    return face


@compiled(inline="always")
def _find_lamina(
    sheet: NDArray[np.float32],
    z: int,
    a: float,
    depth: float,
    room: float,
    lift: float,
    squeeze: float,
    part_level: float,
    high: NDArray[np.float64],
    lies: NDArray[np.float64],
) -> tuple[int, float, float]:
    """The nearest lamina, how deep within it the voxel lies, and the share of the voxel that is papyrus."""
    nearest, within, cover, part, last = 0, 0.0, 0.0, 0.0, -100.0
    loose = 0.22 + 0.2 * even_noise2(sheet, z / 28.0 + 90.0, a / 28.0 + 23.0)
    loose += 0.5 * max(noise2(sheet, z / 80.0 + 190.0, a / 60.0 + 23.0) - 1.2, 0.0)
    for j in range(high.shape[0]):
        size = high[j] * max(squeeze, 0.6)
        middle = lift + (lies[j] - lift) * squeeze
        if j > 0:
            parting = even_noise2(sheet, z / 90.0 + 129.0 * j, a / 70.0 + 171.0 * j)
            part = max(part, min(max((parting - part_level) * 1.1, 0.0), 1.0))
            middle += part * part * (3.0 - 2.0 * part) * max(room - 0.5 * size - middle, 0.0)
        share = (0.5 * size + 0.5 - abs(depth - middle)) * min(size, 1.0)
        if share > cover:
            nearest, within, cover = j, depth - middle, share
        # Between laminae that lie close the papyrus is loose rather than missing.
        first = middle - 0.5 * size
        if j > 0 and last < depth < first:
            filled = loose * min(max(1.5 - 0.35 * (first - last), 0.0), 1.0) * min(size, 1.0)
            if filled > cover:
                nearest, within, cover = j, depth - middle, filled
        if size > 0.5:
            last = middle + 0.5 * size
    return nearest, within, min(cover, 1.0)


@compiled(inline="always")
def _fill_lamina(
    sheet: NDArray[np.float32],
    space: NDArray[np.float32],
    z: int,
    a: float,
    lamina: int,
    within: float,
    speckled: float,
    style: Style,
    contrast: float,
) -> float:
    """How dense the papyrus is, 1 on average."""
    # Fibres along the wrap in even laminae, along z in odd ones.
    along, across = (a, z * 1.0) if lamina % 2 == 0 else (z * 1.0, a)
    fibre = noise3(space, within / 2.0 + 20.0 * lamina, across / 2.2, along / 22.0)
    density = noise2(sheet, z / 33.0 + 19.0 * lamina, a / 33.0 + 41.0 * lamina)
    matter = 1.0 + style.texture * (0.7 * fibre + 0.7 * speckled) + 0.16 * density
    # Which face is the denser changes from place to place.
    facing = 1.0 + 0.9 * noise2(sheet, z / 90.0 + 150.0, a / 80.0)
    return matter + style.recto_excess / contrast * facing * (1.0 - 2.0 * (lamina + 0.5) / style.laminae)


@compiled(inline="always")
def _cut_vessel(
    matter: float,
    sheet: NDArray[np.float32],
    k: int,
    z: int,
    a: float,
    lamina: int,
    within: float,
    vessels: float,
    hash_seed: int,
) -> float:
    """The density with that of a vessel's wall added and its lumen taken away, where there is one."""
    along, across = (a, z * 1.0) if lamina % 2 == 0 else (z * 1.0, a)
    cell = math.floor(across / _CELL)
    bits = hash_voxel((np.int64(k) * 4096 + np.int64(cell)) * 8 + lamina, hash_seed)
    if (bits & np.uint64(1023)) < vessels * 1024.0:
        sway = noise2(sheet, along / 45.0, 7.3 * cell + 3.1 * lamina)
        u = ((bits >> np.uint64(12)) & np.uint64(1023)) / 1024.0
        v = ((bits >> np.uint64(24)) & np.uint64(1023)) / 1024.0
        off = across - (cell + 0.35 + 0.3 * u) * _CELL - 0.6 * sway
        size = 1.2 + 0.8 * v
        away = math.sqrt(off * off + within * within)
        wall = max(1.0 - abs(away - size), 0.0)
        lumen = min(max(size - away, 0.0), 1.0)
        matter += 0.45 * wall - 0.6 * lumen
    return matter


@compiled(inline="always")
def _add_grain(matter: float, z: int, y: int, x: int, cover: float, hash_seed: int) -> float:
    """The density with that of a mineral grain added, where one sticks to the papyrus."""
    bits = hash_voxel((z // 4 * 4096 + y // 4) * 4096 + x // 4, hash_seed)
    if (bits & np.uint64(4095)) < 24.0 * cover:
        off = (z % 4 - 1.5) ** 2 + (y % 4 - 1.5) ** 2 + (x % 4 - 1.5) ** 2
        matter += 3.5 * max(1.0 - off / 4.0, 0.0)
    return matter
