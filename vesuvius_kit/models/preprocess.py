"""A volume as its network wants it, and the way back: axes, crop, grey values, voxel size.

For the kit's own networks that is the normalisation and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_array, check_spacing
from vesuvius_kit.models.normalisation import Affine, Normalisation
from vesuvius_kit.models.resampling import resample_channels, resampled_shape
from vesuvius_kit.models.rules import PredictionRules
from vesuvius_kit.voxel.holes import fill_cavities
from vesuvius_kit.voxel.layout import copy_contiguous
from vesuvius_kit.voxel.slabs import for_slabs

Box = tuple[slice, slice, slice]
Axes3 = tuple[int, int, int]
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Restore:
    """The way back from a network's frame to that of the volume."""

    shape: Axes3
    """Of the volume."""
    box: Box
    """What is predicted of it, in the network's axes."""
    network_shape: Axes3
    """Of the prepared volume; that of the box, unless it was resampled."""
    spacing: tuple[float, float, float] | None
    """Of the volume, in the network's axes; None: that of the training."""
    rules: PredictionRules
    """Those of the network."""

    @property
    def box_shape(self) -> Axes3:
        """The edges of the box in voxels."""
        z, y, x = (part.stop - part.start for part in self.box)
        return z, y, x

    @property
    def is_resampled(self) -> bool:
        """Whether the network's frame has other voxels than the volume."""
        return self.network_shape != self.box_shape

    @property
    def is_whole(self) -> bool:
        """Whether the network's frame is that of the volume, so that nothing has to be restored."""
        return not self.is_resampled and self.rules.transpose == (0, 1, 2) and self.box_shape == self.shape

    def cut(self, volume: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return the box of a volume (Z, Y, X), a view in the network's axes."""
        return volume.transpose(self.rules.transpose)[self.box]

    def resample(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a network answered, float32 (C, z, y, x), with the voxels of the volume; unchanged where it has them."""
        check_array("stored", stored, ndim=4, kinds="f")
        if stored.shape[1:] != self.network_shape:
            raise InputValueError(
                f"stored must have the shape of the prepared volume {self.network_shape}, got {stored.shape[1:]}"
            )
        if not self.is_resampled or self.rules.resampling is None or self.rules.spacing is None or self.spacing is None:
            return stored
        return resample_channels(stored, self.box_shape, self.rules.spacing, self.spacing, self.rules.resampling.answer)

    def place(self, probability: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return a volume of the original shape (Z, Y, X) with what was predicted of the box, 0 around it.

        ``probability`` has the voxels of the volume (see `resample`) and the network's axes. Where the frames are the same it
        is returned itself.
        """
        if tuple(probability.shape) != self.box_shape:
            raise InputValueError(
                f"probability must have the shape of the box {self.box_shape}, got {probability.shape}"
            )
        if self.box_shape == self.shape and self.rules.transpose == (0, 1, 2):
            return probability
        turned = copy_contiguous(probability.transpose(self.rules.backward))
        if turned.shape == self.shape:
            return turned
        volume = np.zeros(self.shape, probability.dtype)
        volume[tuple(self.box[axis] for axis in self.rules.backward)] = turned
        return volume


def prepare(
    volume: NDArray[Any],
    rules: PredictionRules,
    normalisation: Normalisation | None,
    spacing: Sequence[float] | None = None,
) -> tuple[NDArray[np.float32], Restore]:
    """Return a volume in its network's frame, float32, contiguous, normalised, and the way back.

    As nnU-Net does it (Isensee et al., Nature Methods 2021), in this order: axes transposed, cropped to the box of what is not
    0, normalised, resampled to the voxel size of the training.

    Parameters
    ----------
    volume
        (Z, Y, X), any numeric type, not empty; NaN, infinity and marks for "no data" are refused where grey values are
        measured.
    normalisation
        None: the grey values as they are.
    spacing
        Voxel size along (Z, Y, X), in the unit of ``rules.spacing``; None: that of the training.
    """
    check_array("volume", volume)
    if volume.size == 0:
        raise InputValueError(f"volume must not be empty, got shape {volume.shape}")
    frame = find_frame(volume, rules)
    # Turned before it is converted: bytes instead of floats.
    cropped = frame.cut(volume) if rules.transpose == (0, 1, 2) else copy_contiguous(frame.cut(volume))
    mask = None
    if normalisation is not None and normalisation.masked:
        mask = fill_cavities(cropped != 0, 6)
    image = Affine().apply(cropped) if normalisation is None else normalisation.apply_to_volume(cropped, mask)
    if spacing is None or rules.spacing is None or rules.resampling is None:
        return image, frame
    z, y, x = (check_spacing("spacing", spacing)[axis] for axis in rules.transpose)
    shape = resampled_shape(image.shape, (z, y, x), rules.spacing)
    image = resample_channels(image[None], shape, (z, y, x), rules.spacing, rules.resampling.data)[0]
    return image, replace(frame, network_shape=_three(shape), spacing=(z, y, x))


def find_frame(volume: NDArray[Any], rules: PredictionRules) -> Restore:
    """Return which part of a volume its network is shown and in which axes, its voxels being as large as in training."""
    # In the volume's own axes: planes lie together there.
    own_box = find_box(volume) if rules.crop else _whole(volume.shape)
    box = (own_box[rules.transpose[0]], own_box[rules.transpose[1]], own_box[rules.transpose[2]])
    z, y, x = (part.stop - part.start for part in box)
    return Restore(_three(volume.shape), box, (z, y, x), None, rules)


def find_box(volume: NDArray[Any]) -> Box:
    """Return the box of what is not 0 in a volume (Z, Y, X); of a volume of zeros, the whole."""

    def look(start: int, stop: int) -> tuple[list[bool], NDArray[np.bool_], NDArray[np.bool_]]:
        planes, rows, columns = [], np.zeros(volume.shape[1], bool), np.zeros(volume.shape[2], bool)
        for plane in volume[start:stop]:
            is_there = plane != 0
            along = is_there.any(axis=1)
            planes.append(bool(along.any()))
            rows |= along
            columns |= is_there.any(axis=0)
        return planes, rows, columns

    slabs = for_slabs(look, len(volume))
    planes = np.array([is_there for part in slabs for is_there in part[0]], bool)
    if not planes.any():
        return _whole(volume.shape)
    rows, columns = np.any([part[1] for part in slabs], axis=0), np.any([part[2] for part in slabs], axis=0)
    z, y, x = (slice(int(there.argmax()), len(there) - int(there[::-1].argmax())) for there in (planes, rows, columns))
    return z, y, x


def _whole(shape: Sequence[int]) -> Box:
    z, y, x = (slice(0, int(edge)) for edge in shape)
    return z, y, x


def _three(edges: Sequence[int]) -> Axes3:
    z, y, x = map(int, edges)
    return z, y, x
