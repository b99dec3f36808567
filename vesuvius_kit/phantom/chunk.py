"""One chunk of a scroll phantom: image, label and full truth."""

import math
import zlib
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_choice, check_integer, check_size
from vesuvius_kit.phantom import labels, laminae, papyrus, scanner, spiral
from vesuvius_kit.phantom.styles import STYLES, Style

BORDER = 3
"""Outer voxels that are black in the image and unlabelled."""
HALF_THICKNESS = 0.9
"""Of a recto: at 1.8 voxels across most runs along the axis nearest to the normal are 2 long, and none has a gap."""
LABEL_MARGIN = 5.0
"""Voxels of background beyond the outermost labelled wraps of a group."""
_BEND_STEP = 8.0  # voxels between the coefficients of the bends
_SPIRAL_STEP = 12.0  # voxels between the coefficients of the spiral, along the sheet and along z


class Phantom(NamedTuple):
    """A synthetic chunk with its truth; the three arrays have the same shape (Z, Y, X).

    Attributes
    ----------
    image
        Grey values.
    label
        0 background, 1 surface, 2 unlabelled: what a competitor gets.
    surface
        The recto of every wrap, labelled or not; False in the outer 3 voxels.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> image, label, surface = vk.make_phantom((32, 48, 64), seed=3)
    >>> [str(array.dtype) for array in (image, label, surface)]
    ['uint8', 'uint8', 'bool']
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    surface: NDArray[np.bool_]


class _Tiles(NamedTuple):
    """Periodic tiles of white noise, float32, that all else is read from."""

    broad: NDArray[np.float32]
    """(64, 64, 64), for what bends, presses and brightens."""
    sheet: NDArray[np.float32]
    """(256, 256), for what varies along a sheet."""
    space: NDArray[np.float32]
    """(64, 64, 64), for fibres and debris."""


class _Wraps(NamedTuple):
    """The spiral, and where each voxel lies in it: what `spiral.trace_wraps` finds."""

    turns: int
    start: float
    """Radius of the first turn."""
    wrap: NDArray[np.int16]
    inner: NDArray[np.float32]
    outer: NDArray[np.float32]
    arc: NDArray[np.float32]


def make_phantom(shape: int | Sequence[int] = (320, 320, 320), seed: int = 0, style: str = "even") -> Phantom:
    """Make one chunk of a carbonised scroll as a scanner would see it, labelled as the competition labels.

    The wraps are a spiral around an umbilicus that runs along z and lies inside or outside the chunk; the distance from
    wrap to wrap, bends, folds, holes, splits and fibres are drawn from smooth noise. ``docs/phantom.md`` tells how, and
    what is still unlike a real chunk.

    Parameters
    ----------
    shape
        Size in voxels, (z, y, x), each at least 1; one integer means a cube. A chunk of 6 voxels or less along an axis is all
        border: a black image, a label of 2, no surface.
    seed
        Not negative. The same shape, seed and style give the same arrays.
    style
        One of `list_styles` or `REPORT_STYLES`: the imaginary scroll the chunk comes from.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> phantom = vk.make_phantom((32, 48, 64), seed=3, style="wavy")
    >>> phantom.image.shape
    (32, 48, 64)
    >>> sorted({int(value) for value in phantom.label.flat})
    [0, 1, 2]
    >>> again = vk.make_phantom((32, 48, 64), seed=3, style="wavy")
    >>> bool((phantom.image == again.image).all())
    True
    """
    shape = check_size("shape", shape)
    seed = check_integer("seed", seed, minimum=0)
    scroll = STYLES[check_choice("style", style, STYLES)]
    rng = np.random.default_rng([seed, zlib.crc32(style.encode())])
    tiles = _Tiles(*(rng.standard_normal(size, dtype=np.float32) for size in ((64, 64, 64), (256, 256), (64, 64, 64))))
    level = np.empty(shape, np.uint8)
    wraps = _trace(rng, scroll, tiles, level)
    label, surface = _label(rng, scroll, tiles, wraps, level)
    del level
    response = _scanner_response(scroll.blur, scroll.halo)
    # The response dampens white noise by the norm of its weights along each axis.
    grain = float(scroll.noise / np.linalg.norm(response) ** 3)
    image = _paint(rng, scroll, tiles, wraps, grain)
    buffer = wraps.inner
    del wraps
    _add_artefacts(rng, scroll, tiles, image)
    return Phantom(_scan(image, buffer, response), label, surface)


def _trace(rng: np.random.Generator, scroll: Style, tiles: _Tiles, level: NDArray[np.uint8]) -> _Wraps:
    """Draw umbilicus, bends and spiral, and find each voxel's place in it; ``level`` is filled, see `spiral.trace_wraps`."""
    shape = level.shape
    axis, direction, distance, hand = _draw_umbilicus(rng, shape, scroll.tilt)
    bends = np.empty((2, *(math.ceil(edge / _BEND_STEP) + 4 for edge in shape)))
    folds, swirls = _draw_folds(rng, shape, direction, scroll.folds), _draw_swirls(rng, shape, scroll.swirls)
    spiral.draw_bends(bends, _BEND_STEP, tiles.broad, scroll.waviness, scroll.restless, folds, swirls)

    # The spiral has to reach from inside the nearest voxel to beyond the farthest.
    y, x = np.meshgrid([0, shape[1] - 1], [0, shape[2] - 1], indexing="ij")
    offsets = np.hypot(y.reshape(1, -1) - axis[0][:, None], x.reshape(1, -1) - axis[1][:, None])
    slack = float(np.abs(bends).max()) * math.sqrt(2.0) + scroll.spacing
    nearest = distance - _half_diagonal(shape) - np.ptp(axis[0]) - np.ptp(axis[1])
    start = float(max(2.0, nearest - slack - 2 * scroll.spacing))
    reach = float(offsets.max()) + slack
    columns = max(math.ceil(2 * math.pi * reach / _SPIRAL_STEP), 16)
    heights = math.ceil(shape[0] / _SPIRAL_STEP) + 4
    # One turn inside the first would be even, so the first rises by the pitch.
    turns = [np.broadcast_to(start + scroll.spacing * np.arange(columns) / columns, (heights, columns)).copy()]
    while len(turns) < 4 or turns[-3].min() < reach:
        spacing = spiral.draw_spacing(
            turns[-1], len(turns) - 1, _SPIRAL_STEP, start, scroll.spacing, scroll.spacing_spread, scroll.nearest,
            scroll.farthest, tiles.broad, tiles.sheet, _find_level(scroll.tears, 1.04),
        )  # fmt: skip
        turns.append(turns[-1] + spacing)
    radii = np.concatenate(turns, axis=1)
    radii = np.concatenate([2 * radii[:, :1] - radii[:, 1:2], radii], axis=1)
    wraps = _Wraps(len(turns), start, np.empty(shape, np.int16), *(np.empty(shape, np.float32) for _ in range(3)))
    spiral.trace_wraps(
        wraps.wrap, wraps.inner, wraps.outer, wraps.arc, level, bends, _BEND_STEP, axis, direction, hand, radii, columns,
        _SPIRAL_STEP, start, scroll.spacing,
    )  # fmt: skip
    return wraps


def _draw_umbilicus(
    rng: np.random.Generator, shape: Sequence[int], tilt: float
) -> tuple[NDArray[np.float64], float, float, float]:
    """Draw the umbilicus: y, x and their slopes in each slice (4, Z), its direction and distance, the sense of the winding."""
    z = np.arange(shape[0])
    centre = (np.array(shape) - 1) / 2
    direction = rng.uniform(0, 2 * math.pi)
    if rng.random() < 0.15:
        distance = rng.uniform(0.0, 0.7) * _half_diagonal(shape)
    else:
        distance = _half_diagonal(shape) + rng.uniform(80.0, 900.0)
    slope = rng.uniform(-tilt, tilt, size=2)
    hand = rng.choice([-1.0, 1.0])
    sway, phase = rng.uniform(0.0, 12.0, size=2), rng.uniform(0, 2 * math.pi, size=2)
    axis = np.empty((4, shape[0]))
    for c, part in enumerate((math.sin(direction), math.cos(direction))):
        wave = (z - centre[0]) * (2 * math.pi / 400.0) + phase[c]
        axis[c] = centre[1 + c] - distance * part + slope[c] * (z - centre[0]) + sway[c] * np.sin(wave)
        axis[2 + c] = slope[c] + sway[c] * (2 * math.pi / 400.0) * np.cos(wave)
    return axis, direction, distance, hand


def _half_diagonal(shape: Sequence[int]) -> float:
    """Half the diagonal of a slice."""
    return float(np.hypot((shape[1] - 1) / 2, (shape[2] - 1) / 2))


def _label(
    rng: np.random.Generator, scroll: Style, tiles: _Tiles, wraps: _Wraps, level: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw the label and the full truth."""
    turns, start, wrap, inner, outer, arc = wraps
    label, surface = np.empty(wrap.shape, np.uint8), np.empty(wrap.shape, np.bool_)
    area, near = labels.measure_wraps(wrap, inner, outer, labels.NEAREST_LABELS, turns)
    chosen = labels.choose_wraps(rng, wrap, area, near, turns)
    ends = labels.draw_ends(rng, wrap, arc, turns)
    labels.mark_surfaces(
        wrap, inner, outer, arc, level, chosen, ends, start, scroll.spacing, tiles.sheet, int(rng.integers(2**62)),
        HALF_THICKNESS, LABEL_MARGIN, BORDER, label, surface,
    )  # fmt: skip
    return label, surface


def _paint(rng: np.random.Generator, scroll: Style, tiles: _Tiles, wraps: _Wraps, grain: float) -> NDArray[np.float32]:
    """Paint the papyrus and the air, with white noise of deviation ``grain``."""
    _, _, wrap, inner, outer, arc = wraps
    image = np.empty(wrap.shape, np.float32)
    hash_seed = int(rng.integers(2**62))
    hole_level = _find_level(scroll.holes, 1.1)
    if scroll.laminae:
        laminae.paint_laminae(
            image, wrap, inner, outer, arc, scroll, tiles.sheet, tiles.space, hash_seed, hole_level,
            _find_level(scroll.parting, 1.06), _find_level(scroll.tears, 1.04), grain,
        )  # fmt: skip
    else:
        papyrus.paint_papyrus(
            image, wrap, inner, outer, arc, scroll, tiles.sheet, tiles.space, hash_seed, hole_level,
            _find_level(scroll.splits, 1.04), grain,
        )  # fmt: skip
    return image


def _add_artefacts(rng: np.random.Generator, scroll: Style, tiles: _Tiles, image: NDArray[np.float32]) -> None:
    """Add bright grains, and the streaks, the rings and the drift that the scanner makes."""
    specks = _draw_specks(rng, image.shape, scroll.specks)
    scanner.add_specks(image, specks)
    if scroll.streaks:
        scanner.add_streaks(image, _draw_streaks(rng, specks, scroll.streaks))
    if scroll.rings or scroll.drift:
        slope = rng.normal(size=3)
        scanner.add_rings_and_drift(
            image, rng.uniform(-2.0, 3.0, size=2) * image.shape[1:], scroll.rings, scroll.drift,
            slope / np.linalg.norm(slope), tiles.broad, tiles.sheet,
        )  # fmt: skip


def _draw_folds(
    rng: np.random.Generator, shape: Sequence[int], direction: float, per_chunk: float
) -> NDArray[np.float64]:
    """Sharp folds, one a row, as `spiral.draw_bends` wants them; they lie across the sheets and step along radii."""
    count = rng.poisson(per_chunk * math.prod(shape) / 320**3)
    folds = np.empty((count, 10))
    for fold in folds:
        fold[:3] = rng.uniform(0, shape)
        tilt = rng.uniform(-0.6, 0.6)
        normal = np.array([rng.normal(), math.cos(direction + tilt), -math.sin(direction + tilt)])
        fold[3:6] = normal / np.linalg.norm(normal)
        fold[6:8] = math.sin(direction), math.cos(direction)
        fold[8] = rng.choice([-1.0, 1.0]) * rng.uniform(8.0, 18.0)
        fold[9] = rng.uniform(9.0, 16.0)
    return folds


def _draw_swirls(rng: np.random.Generator, shape: Sequence[int], per_chunk: float) -> NDArray[np.float64]:
    """Places where sheets double back, one a row, as `spiral.draw_bends` wants them."""
    count = rng.poisson(per_chunk * math.prod(shape) / 320**3)
    swirls = np.empty((count, 5))
    for swirl in swirls:
        swirl[:3] = rng.uniform(0, shape)
        swirl[3] = rng.choice([-1.0, 1.0]) * rng.uniform(1.6, 2.6)
        swirl[4] = rng.uniform(26.0, 48.0)
    return swirls


def _draw_streaks(rng: np.random.Generator, specks: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """Streaks through the larger grains, bright and dark ones in turn, as `scanner.add_streaks` wants them."""
    rows = []
    for speck in specks[specks[:, 3:6].max(axis=1) > 2.0] if len(specks) else specks:
        for _ in range(3):
            rows.append([*speck[:3], rng.uniform(0, math.pi), rng.normal(0.0, strength), rng.uniform(10.0, 40.0)])
    return np.array(rows).reshape(-1, 6)


def _draw_specks(rng: np.random.Generator, shape: Sequence[int], per_million: float) -> NDArray[np.float64]:
    """Bright grains, most of them small: clusters of ellipsoids, so that the large ones are irregular."""
    rows = []
    for _ in range(rng.poisson(per_million * math.prod(shape) / 1e6)):
        centre = rng.uniform(0, shape)
        size = min(0.8 * rng.pareto(2.0) + 1.0, 5.0)
        bright = rng.uniform(260.0, 600.0)
        for _ in range(1 + int(size)):
            rows.append([*(centre + rng.normal(0, 0.5 * size, 3)), *(size * rng.uniform(0.6, 1.2, 3)), bright])
    return np.array(rows).reshape(-1, 7)


def _scanner_response(blur: float, halo: float) -> NDArray[np.float32]:
    """Weights of the scanner's response along one axis: a Gaussian with a slight ring from its sharpening."""
    offset = np.arange(-4, 5)
    narrow = np.exp(-0.5 * (offset / blur) ** 2)
    wide = np.exp(-0.5 * (offset / (2.0 * blur)) ** 2)
    return ((1.0 + halo) * narrow / narrow.sum() - halo * wide / wide.sum()).astype(np.float32)


def _scan(image: NDArray[np.float32], buffer: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blur along the three axes and round; image and buffer are overwritten."""
    nz, ny, nx = image.shape
    scanner.blur_rows(image.reshape(1, nz, ny * nx), buffer.reshape(1, nz, ny * nx), response)
    scanner.blur_rows(buffer, image, response)
    scan = np.empty(image.shape, np.uint8)
    scanner.finish_scan(image, response, BORDER, scan)
    return scan


def _find_level(share: float, deviation: float) -> float:
    """The level that noise of this standard deviation exceeds over a share of a sheet's area."""
    return deviation * NormalDist().inv_cdf(min(max(1.0 - share, 1e-6), 1 - 1e-6))
