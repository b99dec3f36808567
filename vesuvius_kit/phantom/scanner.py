"""What the scanner makes of the scroll: bright grains, artefacts, blur and rounding."""

import math

import numpy as np
from numba import prange
from numpy.typing import NDArray

from vesuvius_kit.phantom.noise import noise2, smooth_noise
from vesuvius_kit.voxel.compilation import compiled


@compiled()
def add_specks(image: NDArray[np.float32], specks: NDArray[np.float64]) -> None:
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
def add_rings_and_drift(
    image: NDArray[np.float32],
    centre: NDArray[np.float64],
    rings: float,
    drift: float,
    slope: NDArray[np.float64],
    tile: NDArray[np.float32],
    sheet: NDArray[np.float32],
) -> None:
    """Add rings about the point ``centre`` (y, x) of each slice and a slow change of brightness, both in grey values.

    ``slope`` (z, y, x) is the direction in which the brightness rises, of length 1.
    """
    nz, ny, nx = image.shape
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                radius = math.sqrt((y - centre[0]) ** 2 + (x - centre[1]) ** 2)
                ring = noise2(sheet, z / 160.0 + 88.0, radius / 1.6)
                rise = 2.0 * (slope[0] * (z / nz - 0.5) + slope[1] * (y / ny - 0.5) + slope[2] * (x / nx - 0.5))
                slow = smooth_noise(tile, z / 130.0 + 21.0, y / 130.0, x / 130.0)
                image[z, y, x] += rings * ring + drift * (rise + 0.5 * slow)


@compiled()
def add_streaks(image: NDArray[np.float32], streaks: NDArray[np.float64]) -> None:
    """Add thin streaks within slices: rows of a point z, y, x, an angle, grey values at that point and length."""
    nz, ny, nx = image.shape
    for s in range(streaks.shape[0]):
        cz, cy, cx, angle, strength, length = streaks[s]
        sine, cosine = math.sin(angle), math.cos(angle)
        for z in range(max(int(cz) - 1, 0), min(int(cz) + 2, nz)):
            for t in range(-int(3 * length), int(3 * length) + 1):
                y, x = math.floor(cy + t * sine), math.floor(cx + t * cosine)
                if 0 <= y < ny and 0 <= x < nx:
                    image[z, y, x] += strength * math.exp(-abs(t) / length)


@compiled(parallel=True, nogil=True)
def blur_rows(source: NDArray[np.float32], target: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
    """Filter the middle axis of a (blocks, rows, columns) array into ``target``; the ends repeat."""
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
def finish_scan(
    source: NDArray[np.float32], weights: NDArray[np.float32], border: int, image: NDArray[np.uint8]
) -> None:
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
