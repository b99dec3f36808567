"""Single steps from a probability to a mask, and the composition that most of the competition used."""

import itertools
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import ndimage

from vesuvius_kit.checks import InputValueError, check_array, check_integer, check_real
from vesuvius_kit.voxel import holes, plates
from vesuvius_kit.voxel.bits import ball_rows, pack_mask, unpack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import find_runs, measure_components, select_components
from vesuvius_kit.voxel.morphology import close_mask, close_words, cylinder_rows
from vesuvius_kit.voxel.propagation import propagate_words
from vesuvius_kit.voxel.slabs import for_slabs

_PLANES = 8  # converted at a time

# The best-known settings of the public post-processing, and the defaults of its steps.
T_LOW, T_HIGH = 0.35, 0.85
Z_RADIUS, XY_RADIUS = 3, 2
DUST_MIN_SIZE = 100

SIMPLE_SHARE = 0.1
"""Of voxels in `simple_mask`: about the share of surface in labelled regions."""
SIMPLE_SIGMA = 2.5
"""Scale of `simple_mask` in voxels: half a sheet's thickness."""


def hysteresis_threshold(
    probability: NDArray[np.floating[Any]], t_low: float = T_LOW, t_high: float = T_HIGH
) -> NDArray[np.bool_]:
    """Return the voxels of at least ``t_low`` that are 26-connected to one of at least ``t_high`` (Canny, IEEE PAMI 1986).

    ``probability`` is (Z, Y, X) in [0, 1]; the thresholds, ``t_low <= t_high``, are rounded to its type before comparing.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> vk.hysteresis_threshold(np.array([[[0.4, 0.9, 0.1, 0.6]]]), t_low=0.3, t_high=0.8).tolist()
    [[[True, True, False, False]]]
    """
    weak, strong = _pack_levels(probability, t_low, t_high)
    return unpack_mask(propagate_words(strong, weak), probability.shape[2])


def close_cylinder(mask: NDArray[Any], z_radius: int = Z_RADIUS, xy_radius: int = XY_RADIUS) -> NDArray[np.bool_]:
    """Return the mask closed by a cylinder along z; beyond the faces counts as background when eroding.

    Parameters
    ----------
    mask
        (Z, Y, X), non-zero is foreground.
    z_radius
        Half height: the cylinder has ``2 * z_radius + 1`` discs.
    xy_radius
        Radius of the discs: ``dy**2 + dx**2 <= xy_radius**2``.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> mask = np.zeros((5, 3, 3), bool)
    >>> mask[[1, 3], 1, 1] = True
    >>> vk.close_cylinder(mask, z_radius=1, xy_radius=0)[:, 1, 1].tolist()
    [False, True, True, True, False]
    """
    rows = cylinder_rows(
        check_integer("z_radius", z_radius, minimum=0), check_integer("xy_radius", xy_radius, minimum=0)
    )
    return close_mask(check_array("mask", mask), rows)


def close_ball(mask: NDArray[Any], radius: float) -> NDArray[np.bool_]:
    """Return the mask closed by a ball; beyond the faces counts as background when eroding.

    The mask is (Z, Y, X), non-zero is foreground; the ball is ``dz**2 + dy**2 + dx**2 <= radius**2`` in voxels.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> mask = np.ones((5, 5, 5), bool)
    >>> mask[2, 2, 2] = False
    >>> closed = vk.close_ball(mask, radius=1)
    >>> bool(closed[2, 2, 2]), bool(closed[0, 2, 2])  # the hole is closed, the face is worn off
    (True, False)
    """
    return close_mask(check_array("mask", mask), ball_rows(radius, (1, 1, 1)))


def remove_small_components(
    mask: NDArray[Any], min_size: int = DUST_MIN_SIZE, connectivity: Literal[6, 18, 26] = 6
) -> NDArray[np.bool_]:
    """Return the mask without its connected components of fewer than ``min_size`` voxels.

    The mask is (Z, Y, X), non-zero is foreground, connected by faces (6), faces and edges (18) or corners too (26).

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> vk.remove_small_components(np.array([[[1, 1, 0, 1]]]), min_size=2).tolist()
    [[[True, True, False, False]]]
    """
    min_size = check_integer("min_size", min_size, minimum=0)
    words = _remove_dust(pack_mask(mask), min_size, connectivity, mask.shape)
    return unpack_mask(words, mask.shape[2])


def fill_cavities(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the mask with its cavities filled: background that is 6-connected to no face of the volume.

    The mask is (Z, Y, X), non-zero is foreground.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> shell = np.ones((3, 3, 3), bool)
    >>> shell[1, 1, 1] = False
    >>> bool(vk.fill_cavities(shell).all())
    True
    """
    return holes.fill_cavities(mask, connectivity=6)


def smooth_octants(probability: NDArray[np.floating[Any]], sigma: float) -> NDArray[np.floating[Any]]:
    """Return the probability smoothed by a Gaussian in each octant alone: a step of the 9th place of the competition.

    The topology score counts features octant by octant, so that what lies beyond the middle planes must not show on this
    side of them. The first half along each axis takes the odd voxel. The type stays, in native byte order.

    Parameters
    ----------
    probability
        (Z, Y, X), in [0, 1].
    sigma
        Standard deviation in voxels; 0 gives an equal copy. Beyond the octant's faces the nearest voxel goes on.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> probability = np.zeros((2, 2, 8), np.float32)
    >>> probability[..., 4:] = 1.0  # one half is empty, the other full: smoothing changes neither
    >>> bool((vk.smooth_octants(probability, sigma=2.0) == probability).all())
    True
    """
    _pack_levels(probability, 0.0, 1.0)  # for its checks
    check_real("sigma", sigma, minimum=0)
    if sigma == 0:
        return probability.astype(probability.dtype.newbyteorder("="), order="C")
    smoothed = np.empty(probability.shape, dtype=probability.dtype.newbyteorder("="))
    halves = [(slice(0, -(-size // 2)), slice(-(-size // 2), size)) for size in probability.shape]
    for octant in itertools.product(*halves):
        # The rounding of a sum of weights may exceed 1 by the last bit.
        smoothed[octant] = plates.smooth_volume(probability[octant], sigma).clip(0, 1)
    return smoothed


def ridge_filter(volume: NDArray[Any], sigma: float = 2.0, dark: bool = False) -> NDArray[np.float32]:
    """Return how much each voxel lies on a bright (or ``dark``) sheet: a step of the 7th place of the competition.

    The measure is that of `vesuvius_kit.voxel.plates.measure_plates`, in [0, 1]: 1 on the strongest flat sheet; zeros for a
    constant volume. The volume, (Z, Y, X), holds probabilities or grey values, all finite; ``sigma`` is the scale in voxels,
    about half the sheet's thickness.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> volume = np.zeros((9, 9, 9), np.uint8)
    >>> volume[:, 4] = 200
    >>> strength = vk.ridge_filter(volume, sigma=1.0)
    >>> int(strength[4, :, 4].argmax()), bool(strength[4, 0, 4] < 0.1)
    (4, True)
    """
    check_array("volume", volume)
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        raise InputValueError("volume must be finite, got NaN or infinity")
    return plates.measure_plates(volume, sigma, dark)


def topo_postprocess(
    probability: NDArray[np.floating[Any]],
    t_low: float = T_LOW,
    t_high: float = T_HIGH,
    z_radius: int = Z_RADIUS,
    xy_radius: int = XY_RADIUS,
    dust_min_size: int = DUST_MIN_SIZE,
) -> NDArray[np.bool_]:
    """Return the mask of the competition's public post-processing: hysteresis, closing by a cylinder, removal of dust.

    The steps are `hysteresis_threshold`, `close_cylinder` and, with faces as neighbours, `remove_small_components`.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> probability = np.zeros((32, 32, 32), np.float32)
    >>> probability[:, 14:17] = 0.9  # a sheet
    >>> probability[16, 14:17, 16] = 0.1  # with a hole
    >>> mask = vk.topo_postprocess(probability)
    >>> bool(mask[16, 15, 16]), int(mask[16, :, 16].sum())
    (True, 3)
    """
    rows = cylinder_rows(
        check_integer("z_radius", z_radius, minimum=0), check_integer("xy_radius", xy_radius, minimum=0)
    )
    dust_min_size = check_integer("dust_min_size", dust_min_size, minimum=0)
    weak, strong = _pack_levels(probability, t_low, t_high)
    shape = probability.shape
    words = close_words(propagate_words(strong, weak), rows, shape[2])
    return unpack_mask(_remove_dust(words, dust_min_size, 6, shape), shape[2])


def simple_mask(
    volume: NDArray[Any], share: float = SIMPLE_SHARE, sigma: float = SIMPLE_SIGMA, min_size: int = DUST_MIN_SIZE
) -> NDArray[np.bool_]:
    """Return a mask made without a network: the brightest ridges of the grey values.

    It fills a submission when the time is over, so that every volume has a mask. The Laplacian of Gaussian as a detector of
    ridges is Lindeberg's, IJCV 1998. A constant volume gives an empty mask.

    Parameters
    ----------
    volume
        (Z, Y, X), any numeric type.
    share
        Share of the voxels that are taken, in (0, 1).
    sigma
        Scale of the Laplacian of Gaussian, in voxels.
    min_size
        Components with fewer voxels are removed.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> volume = np.zeros((24, 24, 24), np.uint8)
    >>> volume[:, 10:13] = 200
    >>> mask = vk.simple_mask(volume)
    >>> bool(mask[:, 11].all()), bool(mask[:, 0].any())
    (True, False)
    """
    check_array("volume", volume)
    check_real("share", share, above=0, below=1)
    check_real("sigma", sigma, above=0)
    ridge = -ndimage.gaussian_laplace(volume.astype(np.float32), sigma)
    level = np.quantile(ridge[::2, ::2, ::2], 1 - share) if ridge.size else 0.0
    return remove_small_components(ridge > max(level, 1e-3), min_size)


def _pack_levels(
    probability: NDArray[np.floating[Any]], t_low: float, t_high: float
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Check a probability and its thresholds; pack the voxels that reach the one and the other."""
    check_array("probability", probability, kinds="f")
    check_real("t_low", t_low, minimum=0, maximum=1)
    check_real("t_high", t_high, minimum=t_low, maximum=1)
    low, high = probability.dtype.type(t_low), probability.dtype.type(t_high)
    n_z, n_y, n_x = probability.shape
    weak, strong = np.empty((2, n_z, n_y, -(-n_x // 64)), dtype=np.uint64)
    wide = probability.dtype.itemsize > 8

    def work(start: int, stop: int) -> bool:
        in_range = True
        # A few planes at a time, so that a volume of another type or order needs no whole copy.
        for z in range(start, stop, _PLANES):
            planes = probability[z : min(z + _PLANES, stop)]
            if wide:
                # No kernel takes these; the two comparisons are made here and the levels become 0, 1 and 2.
                in_range &= bool(((planes >= 0) & (planes <= 1)).all())
                levels = (planes >= low).astype(np.float32) + (planes >= high)
                _threshold(_freeze(levels / 2, np.float32), 0.5, 1.0, weak[z:stop], strong[z:stop])
            else:
                kind = np.float64 if planes.dtype.itemsize == 8 else np.float32
                in_range &= _threshold(_freeze(planes, kind), kind(low), kind(high), weak[z:stop], strong[z:stop])
        return in_range

    if weak.size and not all(for_slabs(work, n_z)):
        raise InputValueError(
            f"probability must lie in [0, 1] without NaN, got [{probability.min()}, {probability.max()}]"
        )
    return weak, strong


def _freeze(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array in native, contiguous, read-only form: one form means one compiled kernel."""
    array = np.ascontiguousarray(array, dtype=dtype)[:]
    array.flags.writeable = False
    return array


def _remove_dust(
    words: NDArray[np.uint64], min_size: int, connectivity: Literal[6, 18, 26], shape: tuple[int, ...]
) -> NDArray[np.uint64]:
    runs = find_runs(words, connectivity)
    sizes, _ = measure_components(runs, shape)
    return select_components(runs, sizes >= min_size, shape)


@compiled(nogil=True)
def _threshold(
    values: NDArray[np.floating[Any]],
    low: float | np.floating[Any],
    high: float | np.floating[Any],
    weak: NDArray[np.uint64],
    strong: NDArray[np.uint64],
) -> bool:
    """Pack the voxels of at least ``low`` and ``high``; return whether all values lie in [0, 1]."""
    n_z, n_y, n_x = values.shape
    outside = np.uint64(0)
    for z in range(n_z):
        for y in range(n_y):
            row = values[z, y]
            for k in range(n_x // 64):
                to_weak, to_strong = np.uint64(0), np.uint64(0)
                for b in range(64):  # a fixed length, which the compiler turns into vectors
                    value = row[64 * k + b]
                    to_weak |= np.uint64(value >= low) << np.uint64(b)
                    to_strong |= np.uint64(value >= high) << np.uint64(b)
                    outside |= np.uint64(not (value >= 0)) | np.uint64(value > 1)
                weak[z, y, k] = to_weak
                strong[z, y, k] = to_strong
            if n_x % 64:
                to_weak, to_strong = np.uint64(0), np.uint64(0)
                for b in range(n_x % 64):
                    value = row[n_x - n_x % 64 + b]
                    to_weak |= np.uint64(value >= low) << np.uint64(b)
                    to_strong |= np.uint64(value >= high) << np.uint64(b)
                    outside |= np.uint64(not (value >= 0)) | np.uint64(value > 1)
                weak[z, y, n_x // 64] = to_weak
                strong[z, y, n_x // 64] = to_strong
    return outside == 0
