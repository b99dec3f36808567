"""Where a volume and its answer lie while windows are predicted: windows are cut from one and added to the other.

`DeviceStore` keeps both on the device. `SlabStore` keeps the answer there for as many planes as a window is deep, and hands
planes that are done to the host. `HostStore` keeps both in main memory: on a CPU, or where a device has room for the network
alone.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.inference.blending import Greys, add_weighted_window, add_window, cut_window
from vesuvius_kit.inference.grid import Grid, Place, nnunet_importance

# What the kernels are compiled for; other types are converted once.
_READ_AS_THEY_ARE = ("uint8", "uint16", "float32")


class Store(Protocol):
    """A volume that is read and an answer that grows, window by window."""

    takes_logits: bool
    """Whether `add` can apply the logistic function itself, and checks that what it is given is finite."""

    def cut(self, places: Sequence[Place]) -> torch.Tensor:
        """Return windows, normalised, float32 (B, 1, z, y, x) on the device; the next call may overwrite them."""

    def add(self, places: Sequence[Place], answer: torch.Tensor, is_logits: bool) -> bool:
        """Blend in an answer, float32 (B, C, z, y, x) on the device; return False if it was looked at and is not finite."""

    def finish(self) -> NDArray[np.float32]:
        """Return the blended answer (C, Z, Y, X); the store is of no use afterwards."""


class HostStore:
    """Volume and answer in main memory."""

    takes_logits = True

    def __init__(
        self, image: NDArray[Any], greys: Greys, grid: Grid, channels: int, device: torch.device | None = None
    ) -> None:
        if image.dtype.name not in _READ_AS_THEY_ARE:
            image = image.astype(np.float32)
        self._image, self._greys, self._grid = np.ascontiguousarray(image), greys, grid
        self._device = torch.device("cpu") if device is None else device
        self._total = np.zeros((channels, *grid.shape), np.float32)
        self._windows = torch.empty(0)

    def cut(self, places: Sequence[Place]) -> torch.Tensor:
        """Return windows, normalised, float32 (B, 1, z, y, x) on the device; the next call overwrites them."""
        if len(self._windows) < len(places):
            self._windows = torch.empty((len(places), 1, *self._grid.window), pin_memory=self._device.type == "cuda")
        windows = self._windows[: len(places)]
        for place, window in zip(places, windows[:, 0].numpy()):
            cut_window(self._image, self._grid.corner(place), self._greys, window)
        return windows.to(self._device)

    def add(self, places: Sequence[Place], answer: torch.Tensor, is_logits: bool) -> bool:
        """Blend in an answer, float32 (B, C, z, y, x); return whether all of it is finite."""
        is_finite = True
        for place, channels in zip(places, answer.to("cpu").contiguous().numpy()):
            for total, values in zip(self._total, channels):
                is_finite &= self._add_channel(total, place, values, is_logits)
        return is_finite

    def finish(self) -> NDArray[np.float32]:
        """Return the blended answer (C, Z, Y, X); the store is of no use afterwards."""
        return _divided(self._total, self._grid)

    def _add_channel(
        self, total: NDArray[np.float32], place: Place, values: NDArray[np.float32], is_logits: bool
    ) -> bool:
        grid, corner = self._grid, self._grid.corner(place)
        if grid.kind == "nnunet":
            return add_weighted_window(total, corner, values, nnunet_importance(grid.window), is_logits)
        along_z, along_y, along_x = (profile[k] for profile, k in zip(grid.profiles, place))
        return add_window(total, corner, values, (along_z, along_y, along_x), is_logits)


class DeviceStore:
    """Volume and answer on the device."""

    takes_logits = False

    def __init__(self, image: NDArray[Any], greys: Greys, grid: Grid, channels: int, device: torch.device) -> None:
        self._grid = grid
        self._image = _normalised(image, greys, device)
        self._total = torch.zeros((channels, *grid.shape), device=device)
        self._weights = _Weights(grid, device)

    def cut(self, places: Sequence[Place]) -> torch.Tensor:
        """Return windows, normalised, float32 (B, 1, z, y, x) on the device."""
        return torch.stack([self._image[_block(self._grid, place)] for place in places])[:, None]

    def add(self, places: Sequence[Place], answer: torch.Tensor, is_logits: bool) -> bool:
        """Blend in an answer, float32 (B, C, z, y, x) on the device; it is not looked at."""
        for place, window in zip(places, answer):
            self._weights.add(self._total[(..., *_block(self._grid, place))], place, window)
        return True

    def finish(self) -> NDArray[np.float32]:
        """Return the blended answer (C, Z, Y, X); the store is of no use afterwards."""
        return _divided(self._total.cpu().numpy(), self._grid)


class SlabStore:
    """The volume in main memory; of the answer, the planes that the windows at hand reach lie on the device.

    Windows must come in the order of the grid.
    """

    takes_logits = False

    def __init__(self, image: NDArray[Any], greys: Greys, grid: Grid, channels: int, device: torch.device) -> None:
        self._grid = grid
        self._source = HostStore(image, greys, grid, 0, device)
        self._done = np.zeros((channels, *grid.shape), np.float32)
        self._slab = torch.zeros((channels, grid.window[0], *grid.shape[1:]), device=device)
        self._weights = _Weights(grid, device)
        self._first = 0

    def cut(self, places: Sequence[Place]) -> torch.Tensor:
        """Return windows, normalised, float32 (B, 1, z, y, x) on the device; the next call overwrites them."""
        return self._source.cut(places)

    def add(self, places: Sequence[Place], answer: torch.Tensor, is_logits: bool) -> bool:
        """Blend in an answer, float32 (B, C, z, y, x) on the device; it is not looked at."""
        for place, window in zip(places, answer):
            z, y, x = _block(self._grid, place)
            self._move_to(z.start)
            self._weights.add(self._slab[..., y, x], place, window)
        return True

    def finish(self) -> NDArray[np.float32]:
        """Return the blended answer (C, Z, Y, X); the store is of no use afterwards."""
        self._move_to(self._grid.shape[0])
        return _divided(self._done, self._grid)

    def _move_to(self, first: int) -> None:
        """Let the slab begin with another plane; those before it are done."""
        depth, count = self._slab.shape[1], first - self._first
        if count == 0:
            return
        ready = self._slab[:, : min(count, depth)].cpu().numpy()
        stop = min(self._first + ready.shape[1], self._done.shape[1])
        self._done[:, self._first : stop] = ready[:, : stop - self._first]
        rest = self._slab[:, count:].clone()
        self._slab.zero_()
        self._slab[:, : rest.shape[1]] = rest
        self._first = first


class _Weights:
    """The weights of a grid on a device."""

    def __init__(self, grid: Grid, device: torch.device) -> None:
        self._importance: torch.Tensor | None = None
        self._profiles: list[torch.Tensor] = []
        if grid.kind == "nnunet":
            self._importance = torch.from_numpy(nnunet_importance(grid.window).copy()).to(device)
        else:
            self._profiles = [torch.from_numpy(profile).to(device) for profile in grid.profiles]

    def add(self, total: torch.Tensor, place: Place, window: torch.Tensor) -> None:
        """Add a weighted window (C, z, y, x) to a part of the answer of that shape."""
        if self._importance is not None:
            total.addcmul_(window, self._importance)
            return
        along_z, along_y, along_x = (profile[k] for profile, k in zip(self._profiles, place))
        total.addcmul_(window, along_z[:, None, None] * along_y[:, None] * along_x)


def _block(grid: Grid, place: Place) -> tuple[slice, slice, slice]:
    z, y, x = (slice(first, first + edge) for first, edge in zip(grid.corner(place), grid.window))
    return z, y, x


def _normalised(image: NDArray[Any], greys: Greys, device: torch.device) -> torch.Tensor:
    """The whole volume on the device, float32; bytes are moved as bytes."""
    if image.dtype.name not in ("uint8", "float32"):
        image = image.astype(np.float32)
    values = torch.from_numpy(np.ascontiguousarray(image)).to(device, torch.float32, copy=True)
    if np.isfinite(greys.low) or np.isfinite(greys.high):
        values.clamp_(greys.low, greys.high)
    return values.sub_(greys.shift).div_(greys.scale)


def _divided(total: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """The weighted mean of a weighted sum, in place; the kit's weights have been divided beforehand."""
    if grid.kind == "nnunet":
        divide_by_importance(total, grid)
    return total


def divide_by_importance(total: NDArray[np.float32], grid: Grid) -> None:
    """Divide a sum of nnU-Net's grid (C, Z, Y, X) by the sum of the weights at each voxel, in place."""
    importance = nnunet_importance(grid.window)
    weights = np.zeros(grid.shape, np.float32)
    ones = (
        np.ones(grid.window[0], np.float32),
        np.ones(grid.window[1], np.float32),
        np.ones(grid.window[2], np.float32),
    )
    for place in grid.places:
        add_window(weights, grid.corner(place), importance, ones, False)
    total /= weights
