"""What the papyrus of the regular styles is made of: sheets of two layers."""

import math

import numpy as np
from numba import prange
from numpy.typing import NDArray

from vesuvius_kit.phantom.noise import hash_voxel, noise2, noise3
from vesuvius_kit.phantom.styles import Style
from vesuvius_kit.voxel.compilation import compiled


@compiled(parallel=True, nogil=True)
def paint_papyrus(
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
    split_level: float,
    grain: float,
) -> None:
    """Fill ``image`` with the scroll before it is scanned, white noise of deviation ``grain`` included.

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
                crumb = noise3(space, z / 5.0 + 8.0, y / 5.0, x / 5.0)
                thickness, opening, middle, rough, ragged = _shape_sheet(
                    sheet, z, a, crumb, room, style, hole_level, split_level
                )
                depth = inner[z, y, x] + 0.5 - max(rough, -0.5)
                outside = thickness + opening + 1.0 + min(ragged, 1.5)
                cover = min(max(depth, 0.0), 1.0) * min(max((outside - depth) * 0.4, 0.0), 1.0)
                if opening > 0.0:
                    crack = min(depth - middle, middle + opening - depth) + 0.5
                    cover *= 1.0 - min(max(crack, 0.0), 1.0)
                speckled = noise3(space, z / 2.0, y / 2.0, x / 2.0)
                patchy = noise3(space, z / 40.0 + 5.0, y / 40.0, x / 40.0)
                fibre = _read_fibre(space, z, a, depth, middle, opening)
                lamina = noise3(space, depth / 1.7 + 40.0, z / 12.0, a / 12.0)
                papyrus = contrast * (
                    1.0 + style.texture * (0.8 * fibre + 0.45 * speckled + 0.35 * lamina) + 0.12 * patchy
                )
                # The recto is dense, the verso loose: the sheet darkens from one to the other.
                papyrus += style.recto_excess * (1.0 - 2.0 * min(depth / (thickness + opening + 0.1), 1.0))
                # Debris: thin films and crumbs, faint.
                film = abs(noise3(space, z / 14.0 + 3.0, y / 14.0, x / 14.0) + 0.3 * speckled)
                litter = 0.35 * max(1.0 - 6.0 * film, 0.0) + 0.2 * max(crumb - 1.2, 0.0)
                air = contrast * style.debris * litter + 2.0 * patchy
                value = style.gap_grey + cover * papyrus + (1.0 - cover) * air
                bits = hash_voxel((z * ny + y) * nx + x, hash_seed)
                image[z, y, x] = value + scale * np.int64(bits)


@compiled(inline="always")
def _shape_sheet(
    sheet: NDArray[np.float32],
    z: int,
    a: float,
    crumb: float,
    room: float,
    style: Style,
    hole_level: float,
    split_level: float,
) -> tuple[float, float, float, float, float]:
    """Thickness of the sheet, width and depth of the split between its layers, roughness of recto and verso, in voxels."""
    # Holes: the papyrus thins out towards a ragged edge, its verso layer first.
    hole = noise2(sheet, z / 30.0, a / 26.0) + 0.5 * noise2(sheet, z / 7.0 + 31.0, a / 7.0) + 0.35 * crumb
    whole = min(max((hole_level - hole) * 1.6, 0.0), 1.0)
    thickness = style.thickness * math.exp(0.25 * noise2(sheet, z / 40.0 + 77.0, a / 32.0))
    thickness = min(max(thickness, 5.0), max(12.0, style.thickness)) * whole
    ragged = style.fray * (noise2(sheet, z / 9.0 + 111.0, a / 9.0) + 0.6 * noise2(sheet, z / 4.0 + 140.0, a / 4.0))
    # The sheet wobbles about the smooth line that a human would trace; the recto face is the crisper one.
    wobble = 0.5 * noise2(sheet, z / 12.0 + 60.0, a / 12.0)
    rough = wobble + 0.3 * style.fray * noise2(sheet, z / 5.0 + 170.0, a / 5.0)
    # Splits: a lens of air opens between the layers and pushes the verso layer out into the gap.
    split = noise2(sheet, z / 55.0 + 200.0, a / 38.0) + 0.3 * noise2(sheet, z / 13.0 + 9.0, a / 13.0)
    opening = min(max((split + 0.2 * crumb - split_level) * 4.0, 0.0), max(0.8 * (room - thickness), 1.5))
    middle = thickness * (0.45 + 0.1 * noise2(sheet, z / 20.0 + 230.0, a / 20.0))
    return thickness, opening, middle, rough, ragged


@compiled(inline="always")
def _read_fibre(space: NDArray[np.float32], z: int, a: float, depth: float, middle: float, opening: float) -> float:
    """Noise drawn out along the fibres: those of the recto layer run along the wrap, those of the verso layer along z."""
    if depth < middle + 0.5 * opening:
        return noise3(space, depth / 2.0, z / 2.4, a / 18.0)
    return noise3(space, (depth - opening) / 2.0 + 20.0, z / 18.0, a / 2.4)
