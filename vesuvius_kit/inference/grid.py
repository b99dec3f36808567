"""Where windows lie in a volume, and how much each of their voxels weighs.

The windows of a volume form a product grid. Of the kit's own grid the blend weight is a product of one profile an axis too,
and so is the sum of all weights at a voxel: each profile is divided by it beforehand, and what is accumulated is the answer
already, without a second volume of weights and without a division at the end. nnU-Net rounds its weights to half precision,
which makes them no product: for its networks the sum is made, and divided by.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vesuvius_kit.checks import check_choice, check_integer, check_real
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.models.rules import GridKind

Place = tuple[int, int, int]
"""A window by its number along z, y and x."""

# Of nnU-Net's importance map, before it is rounded.
_NNUNET_PEAK = 10.0


def window_starts(
    length: int, window: int, overlap: float = PredictConfig.overlap, kind: GridKind = "kit"
) -> list[int]:
    """Return the first voxel of each window along one axis, evenly spread from 0 to ``length - window``.

    ``overlap`` is the smallest share of a window that the next one covers again, in [0, 1). An axis shorter than a window is
    refused: pad it first. The two kinds of grid differ where the step between windows is no whole number of voxels.
    """
    window = check_integer("window", window, minimum=1)
    length = check_integer("length", length, minimum=window)
    overlap = check_real("overlap", overlap, minimum=0.0, below=1.0)
    step = window * (1.0 - overlap)
    if check_choice("grid", kind, get_args(GridKind)) == "kit":
        # An overlap such as .8 is no binary fraction: 80 * (1 - .8) is 15.999999999999996, and one voxel less is more windows.
        step = max(1, math.floor(step + 1e-6))
    count = 1 + math.ceil((length - window) / step)
    if count == 1:
        return [0]
    return [round(index * (length - window) / (count - 1)) for index in range(count)]


def count_windows(
    shape: Sequence[int], window: Sequence[int], overlap: float = PredictConfig.overlap, kind: GridKind = "kit"
) -> int:
    """Return how many windows a volume of a shape (Z, Y, X) takes; one that is smaller than a window is padded."""
    return math.prod(
        len(window_starts(max(length, edge), edge, overlap, kind)) for length, edge in zip(shape, window, strict=True)
    )


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


@lru_cache(maxsize=4)
def nnunet_importance(window: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return how much each voxel of a window (z, y, x) weighs for nnU-Net: a Gaussian, rounded to half precision.

    Its standard deviation is an eighth of the window, its peak, of 10, at the voxel ``window // 2``; what half precision takes
    for 0 weighs as much as the least that it does not. Not to be written to.
    """
    profiles = []
    for edge in window:
        delta = np.zeros(edge)
        delta[edge // 2] = 1.0
        profiles.append(ndimage.gaussian_filter1d(delta, edge / 8, mode="constant"))
    product = np.multiply.outer(np.multiply.outer(profiles[0], profiles[1]), profiles[2])
    importance = (product * (_NNUNET_PEAK / product.max())).astype(np.float16).astype(np.float32)
    importance[importance == 0] = importance[importance > 0].min()
    importance.setflags(write=False)
    return importance


@dataclass(frozen=True)
class Grid:
    """The windows of one volume."""

    shape: tuple[int, int, int]
    """Of the volume (Z, Y, X), in no axis shorter than the window."""
    window: tuple[int, int, int]
    """Edges in voxels."""
    overlap: float
    """Smallest share of a window that the next one covers again."""
    kind: GridKind = "kit"
    """Whose positions and weights."""

    @cached_property
    def starts(self) -> list[list[int]]:
        """First voxels along each axis."""
        return [window_starts(length, edge, self.overlap, self.kind) for length, edge in zip(self.shape, self.window)]

    @cached_property
    def profiles(self) -> list[NDArray[np.float32]]:
        """Of the kit's grid: for each axis the weights of its windows, (number, edge), normalised."""
        axes = zip(self.shape, self.window, self.starts)
        return [blend_profiles(length, edge, starts) for length, edge, starts in axes]

    @property
    def places(self) -> list[Place]:
        """All windows, in the order of z, then y, then x."""
        z, y, x = (range(len(starts)) for starts in self.starts)
        return list(itertools.product(z, y, x))

    def corner(self, place: Place) -> tuple[int, int, int]:
        """Return the first voxel of a window."""
        (z, y, x), (k, j, i) = self.starts, place
        return z[k], y[j], x[i]
