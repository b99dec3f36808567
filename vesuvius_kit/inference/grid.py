"""Where windows lie in a volume and how their predictions are blended: arithmetic on one axis at a time.

The windows of a volume form a product grid and the blend weight is a product of one profile an axis. So the sum of all weights
at a voxel is a product too, and each profile can be divided by it beforehand: what is accumulated is the answer already,
without a second volume of weights and without a division at the end.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_integer, check_real
from vesuvius_kit.config import PredictConfig


def window_starts(length: int, window: int, overlap: float = PredictConfig.overlap) -> list[int]:
    """Return the first voxel of each window along one axis, evenly spread from 0 to ``length - window``.

    ``overlap`` is the smallest share of a window that the next one covers again, in [0, 1). An axis shorter than a window is
    refused: pad it first.
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


def blend_profiles(length: int, window: int, starts: Sequence[int], sigma: float = 0.125) -> NDArray[np.float32]:
    """Return the blend weights along one axis, (len(starts), window); at every voxel those of all windows sum to 1.

    The Gaussian profile, its standard deviation ``sigma`` in window lengths, is that of Isensee et al., "nnU-Net", Nature
    Methods 2021, section "Inference". The windows, first voxels as `window_starts` gives them, must cover the axis.
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
