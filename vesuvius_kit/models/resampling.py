"""Volumes of another voxel size, resampled as nnU-Net does (Isensee et al., Nature Methods 2021): splines, a coarse axis apart.

Interpolation by a tensor product of splines is one small matrix an axis, its boundary included. So a volume is resampled by
three matrix products in float32, which are faster than a spline at every voxel and need no float64 copy of it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array
from vesuvius_kit.models.rules import ANISOTROPY_THRESHOLD, Interpolation

Spacing = Sequence[float]


def resampled_shape(shape: Sequence[int], spacing: Spacing, new_spacing: Spacing) -> tuple[int, int, int]:
    """Return the shape of a volume of ``spacing`` after resampling to ``new_spacing``, axis by axis to the nearest voxel."""
    z, y, x = (round(old / new * length) for old, new, length in zip(spacing, new_spacing, shape, strict=True))
    return max(z, 1), max(y, 1), max(x, 1)


def find_coarse_axis(spacing: Spacing, new_spacing: Spacing, interpolation: Interpolation) -> int | None:
    """Return the axis that is resampled apart, None for none: of the spacing it comes from, else of the one it goes to.

    Two axes that are equally coarse are not resampled apart.
    """
    if interpolation.separate_z is not None:
        return _coarsest(spacing) if interpolation.separate_z else None
    for candidate in (spacing, new_spacing):
        if max(candidate) / min(candidate) > ANISOTROPY_THRESHOLD:
            return _coarsest(candidate)
    return None


def _coarsest(spacing: Spacing) -> int | None:
    coarsest = [axis for axis, step in enumerate(spacing) if max(spacing) / step == 1]
    return coarsest[0] if len(coarsest) == 1 else None


def resample_channels(
    channels: NDArray[np.float32],
    new_shape: Sequence[int],
    spacing: Spacing,
    new_spacing: Spacing,
    interpolation: Interpolation,
) -> NDArray[np.float32]:
    """Return float32 (C, Z', Y', X') of ``channels`` (C, Z, Y, X); where no edge changes, the array itself.

    The spacings, (z, y, x), decide which axis is resampled apart. No value lies beyond the extremes of its channel (of its
    slice, where an axis is resampled apart).
    """
    check_array("channels", channels, ndim=4, kinds="f")
    new_shape = tuple(new_shape)
    if channels.shape[1:] == new_shape:
        return channels
    coarse = find_coarse_axis(spacing, new_spacing, interpolation)
    resampled = np.empty((len(channels), *new_shape), np.float32)
    for channel, own in zip(channels.astype(np.float32, copy=False), resampled):
        own[...] = _resample(channel, new_shape, coarse, interpolation)
    return resampled


def _resample(
    volume: NDArray[np.float32], new_shape: Sequence[int], coarse: int | None, interpolation: Interpolation
) -> NDArray[np.float32]:
    others = [axis for axis in range(3) if axis != coarse]
    within = tuple(others)
    low, high = volume.min(axis=within, keepdims=True), volume.max(axis=within, keepdims=True)
    changes = False
    for axis in sorted(others, key=lambda axis: new_shape[axis] / volume.shape[axis]):
        changes |= volume.shape[axis] != new_shape[axis]
        volume = _along(volume, axis, new_shape[axis], interpolation.order)
    if changes and interpolation.order > 1:
        # Splines of higher order swing beyond their knots.
        volume = np.clip(volume, low, high, out=volume)
    return volume if coarse is None else _along(volume, coarse, new_shape[coarse], interpolation.order_z)


def _along(volume: NDArray[np.float32], axis: int, length: int, order: int) -> NDArray[np.float32]:
    """Resample one axis."""
    if volume.shape[axis] == length:
        return volume
    matrix = _interpolation_matrix(volume.shape[axis], length, order)
    if order == 0:
        return np.take(volume, matrix.argmax(axis=1), axis=axis)
    if axis == 0:
        return (matrix @ volume.reshape(len(volume), -1)).reshape(length, *volume.shape[1:])
    return np.matmul(matrix, volume) if axis == 1 else np.matmul(volume, matrix.T)


@lru_cache(maxsize=32)
def _interpolation_matrix(length: int, new_length: int, order: int) -> NDArray[Any]:
    """What every old voxel of an axis gives to every new one, float32 (new_length, length).

    Voxels are intervals: the first and the last end where the axis ends. Beyond it the last voxel goes on.
    """
    from scipy.ndimage import zoom

    # Row by row, each a signal of one voxel; a column of the identity would be filtered along the other axis too.
    rows = [zoom(unit, new_length / length, order=order, mode="nearest", grid_mode=True) for unit in np.eye(length)]
    return np.ascontiguousarray(np.stack(rows, axis=1).astype(np.float32))
