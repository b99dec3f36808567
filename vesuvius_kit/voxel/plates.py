"""How much a grey volume looks like a plate at each voxel, from the eigenvalues of its Hessian."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vesuvius_kit.checks import check_array, check_real
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import for_slabs, map_slabs

_TRUNCATE = 4.0  # the Gaussian ends at this many standard deviations
_ALPHA = 0.5  # of Frangi et al.: what ratio of eigenvalues still counts as a plate


def smooth_volume(volume: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    """Smooth a volume (Z, Y, X) with a Gaussian; beyond the faces it continues with the nearest voxel.

    ``sigma`` is the standard deviation in voxels, >= 0; the Gaussian ends at four of them.
    """
    check_array("volume", volume)
    sigma = check_real("sigma", sigma, minimum=0)
    volume = np.ascontiguousarray(volume, dtype=np.float32)
    halo = int(_TRUNCATE * sigma + 0.5)

    def smooth(part: NDArray[np.float32], _: tuple[bool, bool]) -> NDArray[np.float32]:
        return ndimage.gaussian_filter(part, sigma, mode="nearest", truncate=_TRUNCATE)

    return map_slabs(smooth, volume, halo)


def measure_plates(volume: NDArray[Any], sigma: float, dark: bool = False) -> NDArray[np.float32]:
    """Measure, from 0 to 1, how much each voxel of a finite volume (Z, Y, X) lies on a bright (or dark) plate.

    With eigenvalues of the Hessian ordered by size, ``|a| <= |b| <= |c|``, a bright plate has ``c < 0`` and ``a`` and ``b``
    near 0. The measure is ``exp(-(b / c)**2 / (2 * 0.5**2)) * (1 - exp(-S**2 / (2 * h**2)))`` where ``S`` is the
    root of the sum of squares and ``h`` half the largest ``S`` of the volume; 0 where ``c`` has the other sign, and
    everywhere in a constant volume. ``sigma`` is the standard deviation of the smoothing in voxels, > 0: about half the plate's
    thickness.

    Notes
    -----
    Plate-like structures of A. F. Frangi et al.: Multiscale vessel enhancement filtering, MICCAI 1998, table 1. The second
    derivatives are differences of the smoothed volume; eigenvalues by the trigonometric solution of the cubic (O. K. Smith,
    Communications of the ACM 1961).
    """
    check_real("sigma", sigma, above=0)
    smooth = smooth_volume(volume, sigma)
    strength = np.empty_like(smooth)
    plates = np.empty_like(smooth)
    if not smooth.size:
        return plates
    sign = -1.0 if dark else 1.0
    largest = max(for_slabs(lambda start, stop: _measure(smooth, sign, start, stop, plates, strength), len(smooth)))
    if largest > 0:
        plates *= 1 - np.exp(strength * np.float32(-2 / largest))
    return plates


@compiled(nogil=True)
def _measure(
    volume: NDArray[np.float32],
    sign: float,
    start: int,
    stop: int,
    plates: NDArray[np.float32],
    strength: NDArray[np.float32],
) -> float:
    """Fill in the plate factor and the sum of squared eigenvalues; return the largest of these."""
    n_z, n_y, n_x = volume.shape
    largest = 0.0
    for z in range(start, stop):
        up, down = max(z - 1, 0), min(z + 1, n_z - 1)
        for y in range(n_y):
            left, right = max(y - 1, 0), min(y + 1, n_y - 1)
            for x in range(n_x):
                near, far = max(x - 1, 0), min(x + 1, n_x - 1)
                middle = 2.0 * volume[z, y, x]
                zz = sign * (volume[up, y, x] + volume[down, y, x] - middle)
                yy = sign * (volume[z, left, x] + volume[z, right, x] - middle)
                xx = sign * (volume[z, y, near] + volume[z, y, far] - middle)
                zy = volume[up, left, x] + volume[down, right, x] - volume[up, right, x] - volume[down, left, x]
                zx = volume[up, y, near] + volume[down, y, far] - volume[up, y, far] - volume[down, y, near]
                yx = volume[z, left, near] + volume[z, right, far] - volume[z, left, far] - volume[z, right, near]
                zy, zx, yx = sign * 0.25 * zy, sign * 0.25 * zx, sign * 0.25 * yx
                squares = zz * zz + yy * yy + xx * xx + 2.0 * (zy * zy + zx * zx + yx * yx)
                strength[z, y, x] = squares
                largest = max(largest, squares)
                ratio = _plate_ratio(zz, yy, xx, zy, zx, yx)
                plates[z, y, x] = np.exp(-ratio * ratio / (2.0 * _ALPHA * _ALPHA)) if ratio >= 0 else 0.0
    return largest


@compiled(nogil=True)
def _plate_ratio(zz: float, yy: float, xx: float, zy: float, zx: float, yx: float) -> float:
    """Return the second largest eigenvalue by the largest, in size; -1 if the largest is not negative."""
    mean = (zz + yy + xx) / 3.0
    off = zy * zy + zx * zx + yx * yx
    spread = np.sqrt(((zz - mean) ** 2 + (yy - mean) ** 2 + (xx - mean) ** 2 + 2.0 * off) / 6.0)
    if spread == 0.0:
        return 1.0 if mean < 0.0 else -1.0
    a, b, c = (zz - mean) / spread, (yy - mean) / spread, (xx - mean) / spread
    d, e, f = zy / spread, zx / spread, yx / spread
    half = 0.5 * (a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e))
    angle = np.arccos(min(1.0, max(-1.0, half))) / 3.0
    highest = mean + 2.0 * spread * np.cos(angle)
    lowest = mean + 2.0 * spread * np.cos(angle + 2.0 * np.pi / 3.0)
    if lowest >= 0.0 or highest > -lowest:
        return -1.0
    return max(abs(3.0 * mean - highest - lowest), abs(highest)) / -lowest
