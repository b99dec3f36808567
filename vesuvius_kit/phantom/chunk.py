"""One chunk of a scroll phantom: image, label and full truth."""

import math
import zlib
from typing import NamedTuple

import numpy as np

from vesuvius_kit.checks import check_choice, check_integer, check_size
from vesuvius_kit.phantom import labels, laminae, papyrus, scanner, spiral
from vesuvius_kit.phantom.styles import STYLES

BORDER = 3  # outer voxels that are black in the image and unlabelled
# 1.8 voxels across: most runs along the axis nearest to the normal are 2 long, and none has a gap.
HALF_THICKNESS = 0.9
LABEL_MARGIN = 5.0  # voxels of background beyond the outermost labelled wraps of a group
_BEND_STEP = 8.0  # voxels between the coefficients of the bends
_SPIRAL_STEP = 12.0  # voxels between the coefficients of the spiral, along the sheet and along z


class Phantom(NamedTuple):
    """A synthetic chunk with its truth; the three arrays have the same shape (Z, Y, X).

    Attributes
    ----------
    image : numpy.ndarray
        uint8 grey values.
    label : numpy.ndarray
        uint8, 0 background, 1 surface, 2 unlabelled: what a competitor gets.
    surface : numpy.ndarray
        bool, the recto of every wrap, labelled or not; False in the outer 3 voxels.
    """

    image: np.ndarray
    label: np.ndarray
    surface: np.ndarray


def make_phantom(shape=(320, 320, 320), seed: int = 0, style: str = "even") -> Phantom:
    """Make one chunk of a carbonised scroll as a scanner would see it, labelled as the competition labels.

    The wraps are a spiral around an umbilicus that runs along z and lies inside or outside the chunk; the distance from
    wrap to wrap, bends, folds, holes, splits and fibres are drawn from smooth noise. ``docs/phantom.md`` tells how, and
    what is still unlike a real chunk.

    Parameters
    ----------
    shape : int or sequence of int
        Size in voxels, (z, y, x), each at least 1; one integer means a cube.
    seed : int
        Not negative. The same shape, seed and style give the same arrays.
    style : str
        One of `list_styles`: the imaginary scroll the chunk comes from.

    Returns
    -------
    Phantom
        ``image`` uint8, ``label`` uint8 in {0, 1, 2}, ``surface`` bool. A chunk of 6 voxels or less along an axis is all
        border: a black image, a label of 2, no surface.

    Raises
    ------
    InputTypeError, InputValueError
        A shape that is not three positive integers, a negative seed, an unknown style.
    """
    shape = check_size("shape", shape)
    seed = check_integer("seed", seed, minimum=0)
    scroll = STYLES[check_choice("style", style, STYLES)]
    rng = np.random.default_rng([seed, zlib.crc32(style.encode())])
    broad_tile = rng.standard_normal((64, 64, 64), dtype=np.float32)
    sheet_tile = rng.standard_normal((256, 256), dtype=np.float32)
    space_tile = rng.standard_normal((64, 64, 64), dtype=np.float32)

    wrap = np.empty(shape, np.int16)
    inner, outer, arc = (np.empty(shape, np.float32) for _ in range(3))
    level = np.empty(shape, np.uint8)
    # Levels that the noises exceed over the wanted share of a sheet's area.
    tear_level = 1.04 * _normal_quantile(1.0 - scroll.tears)
    turns, start = _trace(rng, scroll, broad_tile, sheet_tile, tear_level, wrap, inner, outer, arc, level)

    label, surface = np.empty(shape, np.uint8), np.empty(shape, np.bool_)
    area, near = labels.measure_wraps(wrap, inner, outer, labels.NEAREST_LABELS, turns)
    chosen = labels.choose_wraps(rng, wrap, area, near, turns)
    ends = labels.draw_ends(rng, wrap, arc, turns)
    labels.mark_surfaces(
        wrap, inner, outer, arc, level, chosen, ends, start, scroll.spacing, sheet_tile, int(rng.integers(2**62)),
        HALF_THICKNESS, LABEL_MARGIN, BORDER, label, surface,
    )  # fmt: skip
    del level

    response = _scanner_response(scroll.blur, scroll.halo)
    # The response dampens white noise by the norm of its weights along each axis.
    grain = scroll.noise / np.linalg.norm(response) ** 3
    image = np.empty(shape, np.float32)
    hash_seed = int(rng.integers(2**62))
    hole_level = 1.1 * _normal_quantile(1.0 - scroll.holes)
    if scroll.laminae:
        part_level = 1.06 * _normal_quantile(1.0 - scroll.parting)
        laminae.paint_laminae(
            image, wrap, inner, outer, arc, scroll, sheet_tile, space_tile, hash_seed, hole_level, part_level, tear_level,
            grain,
        )  # fmt: skip
    else:
        split_level = 1.04 * _normal_quantile(1.0 - scroll.splits)
        papyrus.paint_papyrus(
            image, wrap, inner, outer, arc, scroll, sheet_tile, space_tile, hash_seed, hole_level, split_level, grain
        )
    del wrap, outer, arc
    specks = _draw_specks(rng, shape, scroll.specks)
    scanner.add_specks(image, specks)
    if scroll.streaks:
        scanner.add_streaks(image, _draw_streaks(rng, specks, scroll.streaks))
    if scroll.rings or scroll.drift:
        slope = rng.normal(size=3)
        scanner.add_rings_and_drift(
            image, rng.uniform(-2.0, 3.0, size=2) * shape[1:], scroll.rings, scroll.drift, slope / np.linalg.norm(slope),
            broad_tile, sheet_tile,
        )  # fmt: skip
    return Phantom(_scan(image, inner, response), label, surface)


def _trace(rng, scroll, tile, sheet, tear_level, wrap, inner, outer, arc, level) -> tuple[int, float]:
    """Draw umbilicus, bends and spiral, fill the five arrays; return the number of turns and the radius of the first."""
    shape = wrap.shape
    z = np.arange(shape[0])
    centre = (np.array(shape) - 1) / 2
    half_diagonal = float(np.hypot(centre[1], centre[2]))
    direction = rng.uniform(0, 2 * math.pi)
    if rng.random() < 0.15:
        distance = rng.uniform(0.0, 0.7) * half_diagonal
    else:
        distance = half_diagonal + rng.uniform(80.0, 900.0)
    slope = rng.uniform(-scroll.tilt, scroll.tilt, size=2)
    hand = rng.choice([-1.0, 1.0])
    sway, phase = rng.uniform(0.0, 12.0, size=2), rng.uniform(0, 2 * math.pi, size=2)
    axis = np.empty((4, shape[0]))
    for c, part in enumerate((math.sin(direction), math.cos(direction))):
        wave = (z - centre[0]) * (2 * math.pi / 400.0) + phase[c]
        axis[c] = centre[1 + c] - distance * part + slope[c] * (z - centre[0]) + sway[c] * np.sin(wave)
        axis[2 + c] = slope[c] + sway[c] * (2 * math.pi / 400.0) * np.cos(wave)

    bends = np.empty((2, *(math.ceil(edge / _BEND_STEP) + 4 for edge in shape)))
    folds, swirls = _draw_folds(rng, shape, direction, scroll), _draw_swirls(rng, shape, scroll)
    spiral.draw_bends(bends, _BEND_STEP, tile, scroll.waviness, scroll.restless, folds, swirls)

    # The spiral has to reach from inside the nearest voxel to beyond the farthest.
    y, x = np.meshgrid([0, shape[1] - 1], [0, shape[2] - 1], indexing="ij")
    offsets = np.hypot(y.reshape(1, -1) - axis[0][:, None], x.reshape(1, -1) - axis[1][:, None])
    slack = float(np.abs(bends).max()) * math.sqrt(2.0) + scroll.spacing
    start = max(2.0, distance - half_diagonal - np.ptp(axis[0]) - np.ptp(axis[1]) - slack - 2 * scroll.spacing)
    reach = float(offsets.max()) + slack
    columns = max(math.ceil(2 * math.pi * reach / _SPIRAL_STEP), 16)
    heights = math.ceil(shape[0] / _SPIRAL_STEP) + 4
    # One turn inside the first would be even, so the first rises by the pitch.
    turns = [np.broadcast_to(start + scroll.spacing * np.arange(columns) / columns, (heights, columns)).copy()]
    while len(turns) < 4 or turns[-3].min() < reach:
        spacing = spiral.draw_spacing(
            turns[-1], len(turns) - 1, _SPIRAL_STEP, start, scroll.spacing, scroll.spacing_spread, scroll.nearest,
            scroll.farthest, tile, sheet, tear_level,
        )  # fmt: skip
        turns.append(turns[-1] + spacing)
    radii = np.concatenate(turns, axis=1)
    radii = np.concatenate([2 * radii[:, :1] - radii[:, 1:2], radii], axis=1)
    spiral.trace_wraps(
        wrap, inner, outer, arc, level, bends, _BEND_STEP, axis, direction, hand, radii, columns, _SPIRAL_STEP, start,
        scroll.spacing,
    )  # fmt: skip
    return len(turns), start


def _draw_folds(rng, shape, direction, scroll) -> np.ndarray:
    """Sharp folds, one a row, as `spiral.draw_bends` wants them; they lie across the sheets and step along radii."""
    count = rng.poisson(scroll.folds * math.prod(shape) / 320**3)
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


def _draw_swirls(rng, shape, scroll) -> np.ndarray:
    """Places where sheets double back, one a row, as `spiral.draw_bends` wants them."""
    count = rng.poisson(scroll.swirls * math.prod(shape) / 320**3)
    swirls = np.empty((count, 5))
    for swirl in swirls:
        swirl[:3] = rng.uniform(0, shape)
        swirl[3] = rng.choice([-1.0, 1.0]) * rng.uniform(1.6, 2.6)
        swirl[4] = rng.uniform(26.0, 48.0)
    return swirls


def _draw_streaks(rng, specks, strength) -> np.ndarray:
    """Streaks through the larger grains, bright and dark ones in turn, as `scanner.add_streaks` wants them."""
    rows = []
    for speck in specks[specks[:, 3:6].max(axis=1) > 2.0] if len(specks) else specks:
        for _ in range(3):
            rows.append([*speck[:3], rng.uniform(0, math.pi), rng.normal(0.0, strength), rng.uniform(10.0, 40.0)])
    return np.array(rows).reshape(-1, 6)


def _draw_specks(rng, shape, per_million) -> np.ndarray:
    """Bright grains, most of them small: clusters of ellipsoids, so that the large ones are irregular."""
    rows = []
    for _ in range(rng.poisson(per_million * math.prod(shape) / 1e6)):
        centre = rng.uniform(0, shape)
        size = min(0.8 * rng.pareto(2.0) + 1.0, 5.0)
        bright = rng.uniform(260.0, 600.0)
        for _ in range(1 + int(size)):
            rows.append([*(centre + rng.normal(0, 0.5 * size, 3)), *(size * rng.uniform(0.6, 1.2, 3)), bright])
    return np.array(rows).reshape(-1, 7)


def _scanner_response(blur, halo) -> np.ndarray:
    """Weights of the scanner's response along one axis: a Gaussian with a slight ring from its sharpening."""
    offset = np.arange(-4, 5)
    narrow = np.exp(-0.5 * (offset / blur) ** 2)
    wide = np.exp(-0.5 * (offset / (2.0 * blur)) ** 2)
    return ((1.0 + halo) * narrow / narrow.sum() - halo * wide / wide.sum()).astype(np.float32)


def _scan(image, buffer, response) -> np.ndarray:
    """Blur along the three axes and round; both float32 arrays are overwritten."""
    nz, ny, nx = image.shape
    scanner.blur_rows(image.reshape(1, nz, ny * nx), buffer.reshape(1, nz, ny * nx), response)
    scanner.blur_rows(buffer, image, response)
    scan = np.empty(image.shape, np.uint8)
    scanner.finish_scan(image, response, BORDER, scan)
    return scan


def _normal_quantile(share) -> float:
    """Quantile of the standard normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(min(max(share, 1e-6), 1 - 1e-6))
