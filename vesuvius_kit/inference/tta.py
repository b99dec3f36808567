"""Test-time augmentation: a window is also shown turned, and each answer is turned back.

Every view is one of the 48 symmetries of the cube: axes change places, then some are flipped.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch

from vesuvius_kit.checks import InputValueError, check_choice
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.config.settings import TTA


class Symmetry(NamedTuple):
    """One of the 48 symmetries of the cube."""

    order: tuple[int, int, int] = (0, 1, 2)
    """Which axis comes first, second and third."""
    flips: tuple[int, ...] = ()
    """Axes that are flipped after that."""

    def turn(self, windows: torch.Tensor) -> torch.Tensor:
        """Turn windows (..., z, y, x)."""
        return self._flip(self._reorder(windows, self.order))

    def turn_back(self, windows: torch.Tensor) -> torch.Tensor:
        """Undo `turn`."""
        inverse = tuple(self.order.index(axis) for axis in range(3))
        return self._reorder(self._flip(windows), inverse)

    def _flip(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.flip([axis - 3 for axis in self.flips]) if self.flips else windows

    @staticmethod
    def _reorder(windows: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        if tuple(order) == (0, 1, 2):
            return windows
        first = windows.ndim - 3
        return windows.permute(*range(first), *(first + axis for axis in order))


def _mirrors(axes: Sequence[int]) -> list[Symmetry]:
    subsets = (flips for count in range(len(axes) + 1) for flips in itertools.combinations(axes, count))
    return [Symmetry(flips=flips) for flips in subsets]


# Turns of the last two axes by one, two and three quarters, as torch.rot90 has them.
_QUARTER_TURNS = [Symmetry((0, 2, 1), (1,)), Symmetry(flips=(1, 2)), Symmetry((0, 2, 1), (2,))]

VIEWS: dict[str, list[Symmetry]] = {
    "none": [Symmetry()],
    "mirror4": _mirrors((1, 2)),
    "mirror": _mirrors((0, 1, 2)),
    "seven": [*(Symmetry(flips=flips) for flips in ((), (0,), (1,), (2,))), *_QUARTER_TURNS],
    "cubic": [
        Symmetry((first, second, third), view.flips)
        for first, second, third in itertools.permutations((0, 1, 2))
        for view in _mirrors((0, 1, 2))
    ],
}
"""By preset; the window as it is comes first."""


def choose_views(tta: TTA = PredictConfig.tta, mirror_axes: Sequence[int] | None = None) -> list[Symmetry]:
    """Return the views of a preset; ``auto`` flips along the axes that the model was trained with, none where it says none."""
    check_choice("tta", tta, get_args(TTA))
    return _mirrors(tuple(mirror_axes or ())) if tta == "auto" else VIEWS[tta]


def count_views(tta: TTA = PredictConfig.tta, mirror_axes: Sequence[int] | None = None) -> int:
    """Return how often a preset shows a window to the network."""
    return len(choose_views(tta, mirror_axes))


def check_views(tta: TTA, window: Sequence[int]) -> None:
    """Refuse a window (z, y, x) that a preset would turn into one of another shape."""
    if tta == "seven" and window[1] != window[2]:
        raise InputValueError(f"window must be square in y and x for tta 'seven', got {tuple(window)}")
    if tta == "cubic" and len(set(window)) > 1:
        raise InputValueError(f"window must be a cube for tta 'cubic', got {tuple(window)}")
