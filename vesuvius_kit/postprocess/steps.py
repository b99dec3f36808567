"""Single steps from a probability to a mask, and the composition that most of the competition used."""

import itertools

import numpy as np
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

# Of the mask that stands in for a prediction: about the share of surface in labelled regions, and half a sheet's thickness.
SIMPLE_SHARE = 0.1
SIMPLE_SIGMA = 2.5


def hysteresis_threshold(probability, t_low, t_high) -> np.ndarray:
    """Return the voxels of at least ``t_low`` that are 26-connected to one of at least ``t_high``.

    Parameters
    ----------
    probability : numpy.ndarray
        (Z, Y, X), float in [0, 1]. Thresholds are rounded to its type before comparing.
    t_low, t_high : float
        In [0, 1], ``t_low <= t_high``.

    Returns
    -------
    numpy.ndarray
        bool of the same shape; all False when no voxel reaches ``t_high``.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind or dimension, NaN, values or thresholds out of range, ``t_low`` above ``t_high``.

    Notes
    -----
    Hysteresis thresholding: Canny, IEEE PAMI 1986, section VI.
    """
    weak, strong = _pack_levels(probability, t_low, t_high)
    return unpack_mask(propagate_words(strong, weak), probability.shape[2])


def close_cylinder(mask, z_radius, xy_radius) -> np.ndarray:
    """Return the mask closed by a cylinder along z; beyond the faces counts as background when eroding.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground.
    z_radius : int
        Half height: the cylinder has ``2 * z_radius + 1`` discs.
    xy_radius : int
        Radius of the discs: ``dy**2 + dx**2 <= xy_radius**2``.

    Returns
    -------
    numpy.ndarray
        bool of the same shape; equal to the mask where both radii are 0.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind or dimension, a negative radius.
    """
    rows = cylinder_rows(
        check_integer("z_radius", z_radius, minimum=0), check_integer("xy_radius", xy_radius, minimum=0)
    )
    return close_mask(check_array("mask", mask), rows)


def close_ball(mask, radius) -> np.ndarray:
    """Return the mask closed by a ball; beyond the faces counts as background when eroding.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground.
    radius : float
        In voxels: ``dz**2 + dy**2 + dx**2 <= radius**2``.

    Returns
    -------
    numpy.ndarray
        bool of the same shape; equal to the mask where the radius is below 1.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind or dimension, a negative radius.
    """
    return close_mask(check_array("mask", mask), ball_rows(radius, (1, 1, 1)))


def remove_small_components(mask, min_size, connectivity=6) -> np.ndarray:
    """Return the mask without its connected components of fewer than ``min_size`` voxels.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground.
    min_size : int
        Voxels; smaller components are removed.
    connectivity : int
        6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).

    Returns
    -------
    numpy.ndarray
        bool of the same shape.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind or dimension, a negative size.
    """
    min_size = check_integer("min_size", min_size, minimum=0)
    words = _remove_dust(pack_mask(mask), min_size, connectivity, mask.shape)
    return unpack_mask(words, mask.shape[2])


def fill_cavities(mask) -> np.ndarray:
    """Return the mask with its cavities filled: background that is 6-connected to no face of the volume.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground.

    Returns
    -------
    numpy.ndarray
        bool of the same shape.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind or dimension.
    """
    return holes.fill_cavities(mask, connectivity=6)


def smooth_octants(probability, sigma) -> np.ndarray:
    """Return the probability smoothed by a Gaussian in each octant alone.

    The topology score counts features octant by octant, so that what lies beyond the middle planes must not show on this
    side of them. The first half along each axis takes the odd voxel.

    Parameters
    ----------
    probability : numpy.ndarray
        (Z, Y, X), float in [0, 1].
    sigma : float
        Standard deviation in voxels, >= 0. Beyond the octant's faces the nearest voxel goes on.

    Returns
    -------
    numpy.ndarray
        Of the same shape and, in native byte order, type; an equal copy for a ``sigma`` of 0.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind or dimension, NaN, values out of range, a negative sigma.

    Notes
    -----
    A step of the 9th place of the competition.
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


def ridge_filter(volume, sigma=2.0, dark=False) -> np.ndarray:
    """Return how much each voxel lies on a bright (or dark) sheet.

    Parameters
    ----------
    volume : numpy.ndarray
        (Z, Y, X), probabilities or grey values, any numeric dtype, finite.
    sigma : float
        Scale in voxels, > 0: about half the sheet's thickness.
    dark : bool
        Look for dark sheets.

    Returns
    -------
    numpy.ndarray
        float32 in [0, 1], the same shape: 1 on the strongest flat sheet; zeros for a constant volume.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind or dimension, NaN or infinity, a sigma that is not positive.

    Notes
    -----
    See `vesuvius_kit.voxel.plates.measure_plates`. A step of the 7th place of the competition.
    """
    check_array("volume", volume)
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        raise InputValueError("volume must be finite, got NaN or infinity")
    return plates.measure_plates(volume, sigma, dark)


def topo_postprocess(probability, t_low=0.35, t_high=0.85, z_radius=3, xy_radius=2, dust_min_size=100) -> np.ndarray:
    """Return the mask of the competition's public post-processing: hysteresis, closing by a cylinder, removal of dust.

    Parameters
    ----------
    probability : numpy.ndarray
        (Z, Y, X), float in [0, 1].
    t_low, t_high : float
        See `hysteresis_threshold`.
    z_radius, xy_radius : int
        See `close_cylinder`.
    dust_min_size : int
        See `remove_small_components`.

    Returns
    -------
    numpy.ndarray
        bool of the same shape.

    Raises
    ------
    InputTypeError, InputValueError
        What the steps raise.
    """
    rows = cylinder_rows(
        check_integer("z_radius", z_radius, minimum=0), check_integer("xy_radius", xy_radius, minimum=0)
    )
    dust_min_size = check_integer("dust_min_size", dust_min_size, minimum=0)
    weak, strong = _pack_levels(probability, t_low, t_high)
    shape = probability.shape
    words = close_words(propagate_words(strong, weak), rows, shape[2])
    return unpack_mask(_remove_dust(words, dust_min_size, 6, shape), shape[2])


def simple_mask(volume, share=SIMPLE_SHARE, sigma=SIMPLE_SIGMA, min_size=100) -> np.ndarray:
    """Return a mask made without a network: the brightest ridges of the grey values.

    It fills a submission when the time is over, so that every volume has a mask.

    Parameters
    ----------
    volume : numpy.ndarray
        (Z, Y, X), any numeric type.
    share : float
        Share of the voxels that are taken, in (0, 1).
    sigma : float
        Scale of the Laplacian of Gaussian, in voxels.
    min_size : int
        Components with fewer voxels are removed.

    Returns
    -------
    numpy.ndarray
        bool of the same shape; all False for a constant volume.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind or dimension, a parameter out of range.

    Notes
    -----
    The Laplacian of Gaussian as a detector of ridges: Lindeberg, IJCV 1998.
    """
    check_array("volume", volume)
    check_real("share", share, above=0, below=1)
    check_real("sigma", sigma, above=0)
    ridge = -ndimage.gaussian_laplace(volume.astype(np.float32), sigma)
    level = np.quantile(ridge[::2, ::2, ::2], 1 - share) if ridge.size else 0.0
    return remove_small_components(ridge > max(level, 1e-3), min_size)


def _pack_levels(probability, t_low, t_high):
    """Check a probability and its thresholds; pack the voxels that reach the one and the other."""
    check_array("probability", probability, kinds="f")
    check_real("t_low", t_low, minimum=0, maximum=1)
    check_real("t_high", t_high, minimum=t_low, maximum=1)
    low, high = probability.dtype.type(t_low), probability.dtype.type(t_high)
    n_z, n_y, n_x = probability.shape
    weak, strong = np.empty((2, n_z, n_y, -(-n_x // 64)), dtype=np.uint64)
    wide = probability.dtype.itemsize > 8

    def work(start, stop):
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


def _freeze(array, dtype):
    """Return an array in native, contiguous, read-only form: one form means one compiled kernel."""
    array = np.ascontiguousarray(array, dtype=dtype)[:]
    array.flags.writeable = False
    return array


def _remove_dust(words, min_size, connectivity, shape):
    runs = find_runs(words, connectivity)
    sizes, _ = measure_components(runs, shape)
    return select_components(runs, sizes >= min_size, shape)


@compiled(nogil=True)
def _threshold(values, low, high, weak, strong):
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
