"""Where windows lie in a volume and how their predictions are blended: arithmetic on one axis at a time.

The windows of a volume form a product grid and the blend weight is a product of one profile an axis. So the sum of all weights
at a voxel is a product too, and each profile can be divided by it beforehand: what is accumulated is the answer already,
without a second volume of weights and without a division at the end.
"""

import math

import numpy as np

from vesuvius_kit.checks import check_integer, check_real

DEFAULT_OVERLAP = 0.5
DEFAULT_SIGMA = 0.125


def window_starts(length, window, overlap=DEFAULT_OVERLAP) -> list[int]:
    """Return the first voxel of each window along one axis, evenly spread so that the last one ends at the border.

    Parameters
    ----------
    length : int
        Voxels along the axis, at least ``window`` (pad a smaller volume first).
    window : int
        Voxels of a window along the axis.
    overlap : float
        Smallest share of a window that the next one covers again, in [0, 1).

    Returns
    -------
    list of int
        Ascending, the first is 0 and the last ``length - window``.

    Raises
    ------
    InputTypeError, InputValueError
        An argument of the wrong kind or out of range.
    """
    window = check_integer("window", window, minimum=1)
    length = check_integer("length", length, minimum=window)
    overlap = check_real("overlap", overlap, minimum=0.0, below=1.0)
    # An overlap such as .8 is no binary fraction: 80 * (1 - .8) is 15.999999999999996, and one voxel less is more windows.
    step = max(1, math.floor(window * (1.0 - overlap) + 1e-6))
    count = 1 + math.ceil((length - window) / step)
    if count == 1:
        return [0]
    return [round(index * (length - window) / (count - 1)) for index in range(count)]


def blend_profiles(length, window, starts, sigma=DEFAULT_SIGMA) -> np.ndarray:
    """Return the blend weight of each window along one axis; at every voxel the weights of all windows sum to 1.

    Parameters
    ----------
    length : int
        Voxels along the axis.
    window : int
        Voxels of a window along the axis.
    starts : sequence of int
        First voxel of each window, as `window_starts` gives them; together they must cover the axis.
    sigma : float
        Standard deviation of the Gaussian profile in window lengths.

    Returns
    -------
    numpy.ndarray
        float32 of shape (len(starts), window).

    Raises
    ------
    InputValueError
        ``sigma`` is not positive, or the windows leave a voxel uncovered.

    Notes
    -----
    Gaussian importance weighting follows Isensee et al., "nnU-Net", Nature Methods 2021, section "Inference".
    """
    sigma = check_real("sigma", sigma, above=0.0)
    offset = (np.arange(window) - (window - 1) / 2.0) / (sigma * window)
    # The floor keeps a corner voxel, which only the edge of one window sees, well above rounding.
    profile = np.maximum(np.exp(-0.5 * offset**2), 1e-3)
    total = np.zeros(length)
    for start in starts:
        total[start : start + window] += profile
    if (total == 0).any():
        check_integer("uncovered voxels", int((total == 0).sum()), maximum=0)
    return np.stack([profile / total[start : start + window] for start in starts]).astype(np.float32)
