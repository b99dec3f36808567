"""Random numbers of the phantom: tiles of white noise read through splines, and a hash of the voxel's index."""

import math

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.voxel.compilation import compiled

Weights = tuple[float, float, float, float]
"""Weights of the four cubic B-splines that cover a point, or their derivatives."""


@compiled(inline="always")
def spline(t: float) -> Weights:
    """Weights of the four cubic B-splines that cover a point at ``t`` in 0..1 of its cell."""
    s = 1.0 - t
    return (s * s * s / 6.0, (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0,
            (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0, t * t * t / 6.0)  # fmt: skip


@compiled(inline="always")
def spline_slope(t: float) -> Weights:
    """Derivatives of the weights of `spline` with respect to ``t``."""
    s = 1.0 - t
    return (-0.5 * s * s, 0.5 * t * (3.0 * t - 4.0), 0.5 * s * (4.0 - 3.0 * s), 0.5 * t * t)


@compiled()
def smooth_noise(tile: NDArray[np.float32], z: float, y: float, x: float) -> float:
    """Twice differentiable noise of unit variance, about: a periodic tile of white noise through cubic B-splines."""
    size = tile.shape[0] - 1
    iz, iy, ix = math.floor(z), math.floor(y), math.floor(x)
    wz, wy, wx = spline(z - iz), spline(y - iy), spline(x - ix)
    total = 0.0
    for a in range(4):
        for b in range(4):
            row = 0.0
            for c in range(4):
                row += wx[c] * tile[(int(iz) + a) & size, (int(iy) + b) & size, (int(ix) + c) & size]
            total += wz[a] * wy[b] * row
    return 3.0 * total


@compiled(inline="always")
def noise2(tile: NDArray[np.float32], y: float, x: float) -> float:
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
def even_noise2(tile: NDArray[np.float32], y: float, x: float) -> float:
    """As `noise2`, without kinks: what is drawn with it has a smooth outline."""
    size = tile.shape[0] - 1
    iy, ix = math.floor(y), math.floor(x)
    v, u = y - iy, x - ix
    v, u = v * v * (3.0 - 2.0 * v), u * u * (3.0 - 2.0 * u)
    j, i = int(iy) & size, int(ix) & size
    j1, i1 = (j + 1) & size, (i + 1) & size
    low = tile[j, i] + u * (tile[j, i1] - tile[j, i])
    high = tile[j1, i] + u * (tile[j1, i1] - tile[j1, i])
    return 1.35 * (low + v * (high - low))


@compiled(inline="always")
def noise3(tile: NDArray[np.float32], z: float, y: float, x: float) -> float:
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
def hash_voxel(index: int | np.int64, seed: int) -> np.uint64:
    """Return 64 well mixed bits for a voxel (the finaliser of SplitMix64)."""
    h = np.uint64(index) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))
