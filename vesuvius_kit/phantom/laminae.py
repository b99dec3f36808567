"""What the papyrus of the hard styles is made of: sheets that come apart into laminae of fibres and vessels."""

import math

import numpy as np
from numba import prange

from vesuvius_kit.compilation import compiled
from vesuvius_kit.phantom.noise import even_noise2, hash_voxel, noise2, noise3
from vesuvius_kit.phantom.spiral import read_tear

_CELL = 5.5  # voxels from one vessel of a lamina to the next


@compiled(parallel=True, nogil=True)
def paint_laminae(
    image, wrap, inner, outer, arc, style, sheet, space, hash_seed, hole_level, part_level, tear_level, grain
):
    """Fill ``image`` (float32) with the scroll before it is scanned, white noise of deviation ``grain`` included.

    A sheet is a stack of ``style.laminae`` laminae whose fibres run along the wrap and along z in turn. Where they part, the
    outer ones lie nearer to the next wrap's recto, and against it at the most. Where there is less room than papyrus, the
    stack fills the room.
    """
    nz, ny, nx = image.shape
    contrast = style.sheet_grey - style.gap_grey
    scale = grain * math.sqrt(12.0) / 2.0**63
    n = style.laminae
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                k, a, depth = wrap[z, y, x], arc[z, y, x], inner[z, y, x]
                room = depth + outer[z, y, x]
                crumb = noise3(space, z / 5.0 + 8.0, y / 5.0, x / 5.0)
                hole = noise2(sheet, z / 34.0, a / 30.0) + 0.5 * noise2(sheet, z / 8.0 + 31.0, a / 8.0) + 0.35 * crumb
                torn = read_tear(sheet, z, a, tear_level) + 0.3 * noise2(sheet, z / 12.0 + 51.0, a / 12.0)
                whole = min(max((hole_level - hole) * 1.6, 0.0), 1.0) * min(max(1.0 - 3.0 * torn, 0.0), 1.0)
                thickness = style.thickness * math.exp(0.45 * even_noise2(sheet, z / 45.0 + 77.0, a / 38.0)) * whole
                thickness = min(max(thickness, 2.0 * whole), room)
                rough = 0.7 * even_noise2(sheet, z / 14.0 + 60.0, a / 14.0)
                rough += style.fray * (0.25 * noise2(sheet, z / 5.0 + 170.0, a / 5.0) + 0.15 * crumb)
                lift = min(max(rough, -0.8), max(0.3 * (room - thickness), 0.0) + 0.4)
                # The nearest lamina, how deep within it the voxel lies, and the share of the voxel that is papyrus.
                nearest, within, cover, part = 0, 0.0, 0.0, 0.0
                for j in range(n):
                    own = even_noise2(sheet, z / 21.0 + 13.0 * j, a / 19.0 + 31.0 * j)
                    high = max(0.72 * thickness / n * math.exp(0.4 * own), 1.4 * whole)
                    end = even_noise2(sheet, z / 30.0 + 43.0 * j, a / 26.0 + 97.0 * j) + 0.4 * crumb
                    if j > 0:
                        high *= min(max((1.9 - end) * 1.5, 0.0), 1.0)
                        parting = even_noise2(sheet, z / 90.0 + 29.0 * j, a / 75.0 + 71.0 * j)
                        parting += 0.1 * even_noise2(sheet, z / 22.0 + 3.0 * j, a / 20.0 + 7.0 * j)
                        part = max(part, min(max((parting - part_level) * 1.1, 0.0), 1.0))
                    lies = (
                        lift
                        + thickness * (j + 0.5) / n
                        + 0.45 * even_noise2(sheet, z / 14.0 + 17.0 * j, a / 14.0 + 5.0 * j)
                    )
                    lies += part * part * (3.0 - 2.0 * part) * max(room - 0.5 * high - lies, 0.0)
                    share = 0.5 * high + 0.5 - abs(depth - lies)
                    # Laminae stick together in places and are parted by a seam in others.
                    share += (0.3 * even_noise2(sheet, z / 24.0 + 11.0 * j, a / 24.0 + 61.0 * j) - 0.35) * min(
                        high, 1.0
                    )
                    share *= min(high, 1.0)
                    if share > cover:
                        nearest, within, cover = j, depth - lies, share
                # Between laminae that lie close the papyrus is loose rather than missing.
                if 0.0 < depth < lift + thickness:
                    loose = 0.65 + 0.25 * even_noise2(sheet, z / 28.0 + 90.0, a / 28.0 + 23.0)
                    cover = max(cover, min(max(loose, 0.0), 1.0) * (1.0 - part) * whole)
                cover = min(cover, 1.0)
                speckled = noise3(space, z / 2.0, y / 2.0, x / 2.0)
                film = abs(noise3(space, z / 14.0 + 3.0, y / 14.0, x / 14.0) + 0.3 * speckled)
                litter = 0.35 * max(1.0 - 7.0 * film, 0.0) + 0.2 * max(crumb - 1.4, 0.0)
                value = style.gap_grey + (1.0 - cover) * contrast * style.debris * litter
                if cover > 0.0:
                    # Fibres along the wrap in even laminae, along z in odd ones.
                    along, across = (a, z * 1.0) if nearest % 2 == 0 else (z * 1.0, a)
                    fibre = noise3(space, within / 2.0 + 20.0 * nearest, across / 2.2, along / 22.0)
                    density = noise2(sheet, z / 33.0 + 19.0 * nearest, a / 33.0 + 41.0 * nearest)
                    matter = 1.0 + style.texture * (0.8 * fibre + 0.3 * speckled) + 0.14 * density
                    # Which face is the denser changes from place to place.
                    facing = 0.8 + noise2(sheet, z / 90.0 + 150.0, a / 80.0)
                    matter += style.recto_excess / contrast * facing * (1.0 - 2.0 * (nearest + 0.5) / n)
                    cell = math.floor(across / _CELL)
                    bits = hash_voxel((np.int64(k) * 4096 + np.int64(cell)) * 8 + nearest, hash_seed)
                    if (bits & np.uint64(1023)) < style.vessels * 1024.0:
                        sway = noise2(sheet, along / 45.0, 7.3 * cell + 3.1 * nearest)
                        u = ((bits >> np.uint64(12)) & np.uint64(1023)) / 1024.0
                        v = ((bits >> np.uint64(24)) & np.uint64(1023)) / 1024.0
                        off = across - (cell + 0.35 + 0.3 * u) * _CELL - 0.6 * sway
                        size = 1.2 + 0.8 * v
                        away = math.sqrt(off * off + within * within)
                        wall = max(1.0 - abs(away - size), 0.0)
                        lumen = min(max(size - away, 0.0), 1.0)
                        matter += 0.45 * wall - 0.6 * lumen
                    value += cover * contrast * max(matter, 0.0)
                value += 1.5 * noise3(space, z / 40.0 + 5.0, y / 40.0, x / 40.0)
                bits = hash_voxel((z * ny + y) * nx + x, hash_seed)
                image[z, y, x] = value + scale * np.int64(bits)
