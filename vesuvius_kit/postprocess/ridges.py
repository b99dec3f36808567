"""The sheet as a ridge of the probability: thin, smooth, and where the probability is highest."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_array, check_real
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import for_each, for_slabs

_TRUNCATE = 3.0  # the Gaussian ends at this many standard deviations
_PROFILES: dict[str, float] = {"parabola": 0.0, "gaussian": 1.0}
_PLANES = 24  # smoothed at a time
_LEAST_TILTED = 0.77  # of the thickness: what a sheet that leans far has along its normal
_LEAST_USUAL = 0.02  # what a usual ridge has at least, so that the noise of an empty volume is no sheet


def _fit_cosine() -> NDArray[np.float32]:
    """Coefficients of ``cos((acos(h) + 2 pi) / 3)`` as a polynomial in ``sqrt(1 - h)``, good to 3e-8 for h in [-1, 1]."""
    s = np.sqrt(2) * (0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 512)))
    values = np.cos((np.arccos(np.clip(1 - s * s, -1, 1)) + 2 * np.pi) / 3)
    fitted = np.polynomial.Chebyshev.fit(s, values, 7, domain=[0, np.sqrt(2)])
    return fitted.convert(kind=np.polynomial.Polynomial).coef.astype(np.float32)


_COSINE = _fit_cosine()


def trace_ridges(
    probability: NDArray[np.floating[Any]],
    sigma: float = 2.5,
    thickness: float = 3.0,
    profile: Literal["parabola", "gaussian"] = "gaussian",
    plate: float = 1.0,
    axial: bool = True,
    relative: bool = True,
) -> NDArray[np.float16]:
    """Return how strong a ridge the smoothed probability is, within slabs of constant thickness round the ridge surfaces.

    Along the direction of strongest curvature the smoothed probability is a parabola near its top; a voxel is taken when its
    centre lies within half the thickness of that top. So two wraps whose probabilities run into one another stay two slabs,
    and a sheet is as thick where the network is sure as where it is not. A threshold of the result makes a mask.

    The strength, in [0, 1], is ``sigma**2`` times the curvature across the ridge, 0 outside of the slabs. A plane layer of
    probability 1 and two voxels' thickness has 0.31 for a ``sigma`` of 2.5; half the probability, half of it.

    Parameters
    ----------
    probability
        (Z, Y, X), in [0, 1].
    sigma
        Standard deviation of the smoothing, in voxels, > 0.
    thickness
        Of the slabs, in voxels, > 0.
    profile
        What the smoothed probability is taken for across a ridge. A ``parabola`` takes a voxel beside the top for farther
        away than it is, so that slabs come out thinner than ``thickness``, the more so the smaller ``sigma`` is; the
        slabs of a ``gaussian`` are as thick as they should be.
    plate
        In [0, 1]: the part of the second strongest curvature that is taken off the strength. A sheet is flat along itself
        and loses nothing; a rod between two wraps, and the seam where it meets a wrap, lose most of theirs.
    axial
        Measure the thickness within the axial plane (y, x), as those who label do: a sheet that leans by an angle a has
        ``cos(a)`` of it along its normal, but never less than ``0.77``.
    relative
        Give ``s / (s + m)`` in place of the strength s, where m is the mean strength weighted by itself, at least 0.02: one
        half is what a sheet usually has in this volume, however sure the network is of anything.

    Notes
    -----
    The offset to the top is Steger's (IEEE PAMI 20, 1998) in three dimensions, the normalised strength Lindeberg's (IJCV 30,
    1998); plates are told from tubes as by Sato et al. (IEEE TVCG 6, 2000). Derivatives are central differences of the
    Gaussian. The saturation ``s / (s + m)`` is Naka and Rushton's (J. Physiology 185, 1966).
    """
    check_array("probability", probability, kinds="f")
    sigma = check_real("sigma", sigma, above=0)
    check_real("thickness", thickness, above=0)
    plate = check_real("plate", plate, minimum=0, maximum=1)
    if profile not in _PROFILES:
        raise InputValueError(f"profile must be one of {', '.join(_PROFILES)}, got {profile!r}")
    strength = np.empty(probability.shape, dtype=np.float16)
    # Sums of planes, so that the number of threads changes no bit.
    sums = np.zeros((len(strength), 2))

    def work(smooth: NDArray[np.float32], offset: int, start: int, stop: int) -> None:
        found = measure_ridges(smooth, offset, start, stop, sigma, thickness, profile, plate, axial)
        _sum_planes(found, sums[start:stop])
        strength[start:stop] = found

    for_smooth_planes(probability, sigma, work)
    first, second = sums.sum(axis=0)
    if relative and first > 0:
        _make_relative(strength, np.float32(max(second / first, _LEAST_USUAL)))
    return strength


def measure_ridges(
    smooth: NDArray[np.float32],
    offset: int,
    start: int,
    stop: int,
    sigma: float,
    thickness: float,
    profile: Literal["parabola", "gaussian"] = "gaussian",
    plate: float = 0.0,
    axial: bool = True,
) -> NDArray[np.float32]:
    """Return the strength of the planes from ``start`` to ``stop`` of a volume, as `trace_ridges` does without ``relative``.

    ``smooth``, (Z, Y, X), begins with plane ``offset`` of the volume; see `for_smooth_planes`.
    """
    out = np.empty((stop - start, *smooth.shape[1:]), dtype=np.float32)
    tilted = _LEAST_TILTED**2 if axial else 1.0
    _measure_ridges(smooth, sigma**2, thickness / 2, _PROFILES[profile], plate, tilted, start - offset, out)
    return out


def for_smooth_planes(
    volume: NDArray[Any],
    sigma: float,
    function: Callable[[NDArray[np.float32], int, int, int], None],
    margin: int = 1,
) -> None:
    """Smooth a volume some planes at a time and hand them on, so that the whole never stands in memory.

    Parameters
    ----------
    volume
        (Z, Y, X), float or bool.
    sigma
        Standard deviation of the Gaussian, in voxels, > 0.
    function
        Called as ``function(smooth, offset, start, stop)`` in threads. ``smooth`` holds the planes from ``offset`` on: those
        from ``start`` to ``stop`` and ``margin`` more on either side, where there are so many. The groups are the same for any
        number of threads.
    """
    weights = _weigh(sigma)
    source = volume if volume.dtype in (np.float32, np.float64, bool) else volume.astype(np.float32)
    n_z = len(source)

    planes = max(_PLANES, 2 * margin)

    def work(start: int) -> None:
        stop = min(start + planes, n_z)
        low, high = max(start - margin, 0), min(stop + margin, n_z)
        smooth = np.empty((high - low, *source.shape[1:]), dtype=np.float32)
        _blur_across_planes(source, weights, low, high, smooth)
        _blur_within_planes(smooth, weights)
        function(smooth, low, start, stop)

    if source.size:
        for_each(work, range(0, n_z, planes))


def _make_relative(strength: NDArray[np.float16], usual: np.float32) -> None:
    """Replace the strength s by s / (s + usual), in place; see `trace_ridges`."""
    # A float16 from 0 to 1 is one of 15361 words: what each becomes is computed once.
    values = np.arange(np.float16(1).view(np.uint16) + 1, dtype=np.uint16).view(np.float16).astype(np.float32)
    table = (values / (values + usual)).astype(np.float16).view(np.uint16)
    words = strength.view(np.uint16)
    for_slabs(lambda start, stop: _translate(words[start:stop], table), len(words))


@compiled(nogil=True)
def _translate(words: NDArray[np.uint16], table: NDArray[np.uint16]) -> None:
    """Replace every word by the entry of that number."""
    for z in range(words.shape[0]):
        for y in range(words.shape[1]):
            for x in range(words.shape[2]):
                words[z, y, x] = table[words[z, y, x]]


def _weigh(sigma: float) -> NDArray[np.float32]:
    """The half of a Gaussian's weights, from the middle."""
    reach = max(1, int(_TRUNCATE * sigma + 0.5))
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    return (weights / (2 * weights.sum() - weights[0])).astype(np.float32)


def smooth_gaussian(volume: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    """Convolve a float or bool volume with a Gaussian that ends at three standard deviations; faces are repeated outwards."""
    check_array("volume", volume, kinds="bf")
    sigma = check_real("sigma", sigma, above=0)
    weights = _weigh(sigma)
    out = np.empty(volume.shape, dtype=np.float32)
    if out.size:
        source = volume if volume.dtype in (np.float32, np.float64, bool) else volume.astype(np.float32)
        for_slabs(lambda start, stop: _blur_across_planes(source, weights, start, stop, out[start:stop]), len(out))
        for_slabs(lambda start, stop: _blur_within_planes(out[start:stop], weights), len(out))
    return out


@compiled(nogil=True, fastmath=True)
def _blur_across_planes(
    volume: NDArray[Any], weights: NDArray[np.float32], start: int, stop: int, out: NDArray[np.float32]
) -> None:
    """Write the planes from ``start`` to ``stop``, convolved along z."""
    n_z, n_y, n_x = volume.shape
    for z in range(start, stop):
        for y in range(n_y):
            row = out[z - start, y]
            for x in range(n_x):
                row[x] = weights[0] * volume[z, y, x]
            for k in range(1, weights.size):
                before, after = volume[max(z - k, 0), y], volume[min(z + k, n_z - 1), y]
                weight = weights[k]
                for x in range(n_x):
                    row[x] += weight * (np.float32(before[x]) + np.float32(after[x]))


@compiled(nogil=True, fastmath=True)
def _blur_within_planes(out: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
    """Convolve every plane along y and x, in place."""
    n_z, n_y, n_x = out.shape
    reach = weights.size - 1
    plane = np.empty((n_y, n_x), dtype=np.float32)
    row = np.empty(n_x + 2 * reach, dtype=np.float32)
    for z in range(n_z):
        plane[:] = out[z]
        for y in range(n_y):
            line = row[reach : reach + n_x]
            for x in range(n_x):
                line[x] = weights[0] * plane[y, x]
            for k in range(1, reach + 1):
                before, after = plane[max(y - k, 0)], plane[min(y + k, n_y - 1)]
                weight = weights[k]
                for x in range(n_x):
                    line[x] += weight * (before[x] + after[x])
            row[:reach] = row[reach]
            row[reach + n_x :] = row[reach + n_x - 1]
            target = out[z, y]
            for x in range(n_x):
                target[x] = weights[0] * line[x]
            for k in range(1, reach + 1):
                # Slices, since an index that might be negative keeps the compiler from packing voxels: four times as fast.
                before, after = row[reach - k :], row[reach + k :]
                weight = weights[k]
                for x in range(n_x):
                    target[x] += weight * (before[x] + after[x])


@compiled(nogil=True)
def _measure_ridges(
    smooth: NDArray[np.float32],
    scale: float | np.float32,
    half: float | np.float32,
    log_part: float | np.float32,
    plate: float | np.float32,
    tilted: float | np.float32,
    first: int,
    strength: NDArray[np.float32],
) -> None:
    """The strength of planes of ``smooth``, from the plane ``first`` on."""
    n_z, n_y, n_x = strength.shape
    # A second difference is at most twice the value: what is left out has a strength below a hundredth.
    least = np.float32(0.005 / scale)
    scale, half, log_part = np.float32(scale), np.float32(half), np.float32(log_part)
    plate, tilted = np.float32(plate), np.float32(tilted)
    rows = np.empty((3, 3, n_x + 2), dtype=np.float32)
    for z in range(n_z):
        for y in range(n_y):
            _read_rows(smooth, first + z, y, rows)
            _measure_row(rows, least, scale, half, log_part, plate, tilted, strength[z, y])


@compiled(nogil=True)
def _read_rows(smooth: NDArray[np.float32], z: int, y: int, rows: NDArray[np.float32]) -> None:
    """Copy the rows round a row; a face is repeated outwards."""
    n_z, n_y, n_x = smooth.shape
    for k in range(9):
        source = smooth[min(max(z + k // 3 - 1, 0), n_z - 1), min(max(y + k % 3 - 1, 0), n_y - 1)]
        row = rows[k // 3, k % 3]
        row[0] = source[0]
        row[1 : n_x + 1] = source
        row[n_x + 1] = source[n_x - 1]


@compiled(nogil=True, fastmath={"contract", "reassoc"})
def _measure_row(
    rows: NDArray[np.float32],
    least: np.float32,
    scale: np.float32,
    half: np.float32,
    log_part: np.float32,
    plate: np.float32,
    tilted: np.float32,
    strength: NDArray[np.float32],
) -> None:
    """The strength of one row. Without a branch or a call, and in float32 throughout, so that voxels go in packs of eight.

    Derivatives are central differences. The lowest eigenvalue is Smith's closed form (Communications of the ACM 4, 1961) with a
    polynomial in the place of its cosine. The slope along its eigenvector n comes without n: the adjugate of the matrix less
    the eigenvalue is a multiple of n n^T. The highest eigenvalue is the lowest of the matrix with its sign changed.
    """
    one, two, half_, quarter = np.float32(1), np.float32(2), np.float32(0.5), np.float32(0.25)
    zero, tiny = np.float32(0), np.float32(1e-30)
    third, sixth = np.float32(1 / 3), np.float32(1 / 6)
    c0, c1, c2, c3 = _COSINE[0], _COSINE[1], _COSINE[2], _COSINE[3]
    c4, c5, c6, c7 = _COSINE[4], _COSINE[5], _COSINE[6], _COSINE[7]
    above, level, below = rows[0], rows[1], rows[2]
    for x in range(strength.size):
        here = level[1, x + 1]
        centre = two * here
        g_z = (below[1, x + 1] - above[1, x + 1]) * half_
        g_y = (level[2, x + 1] - level[0, x + 1]) * half_
        g_x = (level[1, x + 2] - level[1, x]) * half_
        zz = below[1, x + 1] + above[1, x + 1] - centre
        yy = level[2, x + 1] + level[0, x + 1] - centre
        xx = level[1, x + 2] + level[1, x] - centre
        zy = (below[2, x + 1] - below[0, x + 1] - above[2, x + 1] + above[0, x + 1]) * quarter
        zx = (below[1, x + 2] - below[1, x] - above[1, x + 2] + above[1, x]) * quarter
        yx = (level[2, x + 2] - level[2, x] - level[0, x + 2] + level[0, x]) * quarter

        mean = (zz + yy + xx) * third
        a, b, c = zz - mean, yy - mean, xx - mean
        spread = np.sqrt((a * a + b * b + c * c + two * (zy * zy + zx * zx + yx * yx)) * sixth)
        inverse = one / max(spread, tiny)
        a, b, c, d, e, f = a * inverse, b * inverse, c * inverse, zy * inverse, zx * inverse, yx * inverse
        cosine = (a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)) * half_
        s = np.sqrt(min(max(one - cosine, zero), two))
        lowest = c0 + s * (c1 + s * (c2 + s * (c3 + s * (c4 + s * (c5 + s * (c6 + s * c7))))))
        curvature = mean + two * spread * lowest
        s = np.sqrt(min(max(one + cosine, zero), two))
        highest = -(c0 + s * (c1 + s * (c2 + s * (c3 + s * (c4 + s * (c5 + s * (c6 + s * c7)))))))
        second = min(mean - two * spread * (lowest + highest), zero)

        # In units of the spread, so that nothing underflows.
        r0, r1, r2 = a - two * lowest, b - two * lowest, c - two * lowest
        m_zz, m_yy, m_xx = r1 * r2 - f * f, r0 * r2 - e * e, r0 * r1 - d * d
        m_zy, m_zx, m_yx = f * e - d * r2, d * f - e * r1, e * d - f * r0
        slope = g_z * g_z * m_zz + g_y * g_y * m_yy + g_x * g_x * m_xx
        slope += two * (g_z * g_y * m_zy + g_z * g_x * m_zx + g_y * g_x * m_yx)
        # The offset from the top: slope / curvature of the values, or of their logarithms.
        level_part = m_yy + m_xx
        total = level_part + m_zz
        slope /= max(total, tiny)
        reach = half * (curvature * here - log_part * slope)
        is_near = slope * here * here * total <= reach * reach * max(level_part, tilted * total)
        is_ridge = (here > least) & (curvature < zero) & is_near
        strength[x] = max(min((plate * second - curvature) * scale, one), zero) if is_ridge else zero


@compiled(nogil=True, fastmath={"reassoc"})
def _sum_planes(strength: NDArray[np.float32], sums: NDArray[np.float64]) -> None:
    """The sum of the strengths of each plane, and of their squares."""
    for z in range(len(strength)):
        for y in range(strength.shape[1]):
            for x in range(strength.shape[2]):
                value = np.float64(strength[z, y, x])
                sums[z, 0] += value
                sums[z, 1] += value * value


@compiled(nogil=True)
def differentiate(
    smooth: NDArray[np.float32],
    z: int,
    y: int,
    x: int,
    gradient: NDArray[np.float64],
    hessian: NDArray[np.float64],
) -> None:
    """Write central differences at a voxel; a face is repeated outwards. The Hessian's order is zz, yy, xx, zy, zx, yx."""
    n_z, n_y, n_x = smooth.shape
    a, b = max(z - 1, 0), min(z + 1, n_z - 1)
    c, d = max(y - 1, 0), min(y + 1, n_y - 1)
    e, f = max(x - 1, 0), min(x + 1, n_x - 1)
    here = 2 * smooth[z, y, x]
    gradient[0] = (smooth[b, y, x] - smooth[a, y, x]) / 2
    gradient[1] = (smooth[z, d, x] - smooth[z, c, x]) / 2
    gradient[2] = (smooth[z, y, f] - smooth[z, y, e]) / 2
    hessian[0] = smooth[b, y, x] + smooth[a, y, x] - here
    hessian[1] = smooth[z, d, x] + smooth[z, c, x] - here
    hessian[2] = smooth[z, y, f] + smooth[z, y, e] - here
    hessian[3] = (smooth[b, d, x] - smooth[b, c, x] - smooth[a, d, x] + smooth[a, c, x]) / 4
    hessian[4] = (smooth[b, y, f] - smooth[b, y, e] - smooth[a, y, f] + smooth[a, y, e]) / 4
    hessian[5] = (smooth[z, d, f] - smooth[z, d, e] - smooth[z, c, f] + smooth[z, c, e]) / 4


@compiled(nogil=True)
def find_sharpest(hessian: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """Return the lowest eigenvalue of a Hessian of `differentiate`; its unit eigenvector is written to ``normal``.

    Closed form: Smith, Communications of the ACM 4, 1961; the eigenvector is the longest cross product of two rows.
    """
    zz, yy, xx, zy, zx, yx = hessian
    mean = (zz + yy + xx) / 3
    off = zy * zy + zx * zx + yx * yx
    spread = math.sqrt(((zz - mean) ** 2 + (yy - mean) ** 2 + (xx - mean) ** 2 + 2 * off) / 6)
    if spread < 1e-12:
        normal[0], normal[1], normal[2] = 1.0, 0.0, 0.0
        return mean
    a, b, c = (zz - mean) / spread, (yy - mean) / spread, (xx - mean) / spread
    d, e, f = zy / spread, zx / spread, yx / spread
    half = (a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)) / 2
    angle = math.acos(min(max(half, -1.0), 1.0)) / 3
    value = mean + 2 * spread * math.cos(angle + 2 * math.pi / 3)
    r0, r1, r2 = zz - value, yy - value, xx - value
    best = 0.0
    for k in range(3):
        if k == 0:
            u, v, w = zy * yx - zx * r1, zx * zy - r0 * yx, r0 * r1 - zy * zy
        elif k == 1:
            u, v, w = zy * r2 - zx * yx, zx * zx - r0 * r2, r0 * yx - zy * zx
        else:
            u, v, w = r1 * r2 - yx * yx, yx * zx - zy * r2, zy * yx - r1 * zx
        length = u * u + v * v + w * w
        if length > best:
            best = length
            root = math.sqrt(length)
            normal[0], normal[1], normal[2] = u / root, v / root, w / root
    if best == 0.0:
        normal[0], normal[1], normal[2] = 1.0, 0.0, 0.0
    return value
