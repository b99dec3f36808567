"""Augmentation of patches: the symmetries of a scroll and changes of grey value, on albumentations' 3-D pipeline.

A scroll's axis lies along z and the writing surface (recto) has horizontal fibres. The 48 symmetries of a cube would turn
them upright and so make a verso of it; the 16 used here keep z an axis. Grey values change as nnU-Net's "light" end does:
contrast and brightness, gamma, noise, blur, low resolution (Isensee et al., "nnU-Net", Nature Methods 2021, supplement
4), since heavier augmentation did not pay in the competition.

Each transform is albumentations' two-step kind: `get_params` draws, `apply_to_volume` applies. A call's seed determines
every draw, so any patch can be made again from the run's seed, its epoch and its index.
"""

import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar

# albumentations would otherwise ask a package registry for updates while it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputTypeError, check_array, check_choice, check_integer, check_same_shape

# OpenCV's threads do not survive the fork of a loader process; one plane of a patch is too small for them anyway.
cv2.setNumThreads(0)

LEVELS = ("none", "symmetries", "light")
N_SYMMETRIES = 16
_FLIP_Z, _FLIP_Y, _FLIP_X, _SWAP_YX = 1, 2, 4, 8

_Scalar = TypeVar("_Scalar", bound=np.generic)
_Filter = Callable[[NDArray[np.uint8]], NDArray[Any]]


def apply_symmetry(array: NDArray[_Scalar], index: int) -> NDArray[_Scalar]:
    """Return a view under one of the 16 symmetries of a square prism that keep z an axis; 0 is the identity.

    The bits of ``index``, from the lowest: flip z, flip y, flip x, and then swap y and x, which makes (Z, X, Y) of (Z, Y, X).
    """
    check_array("array", array)
    check_integer("index", index, minimum=0, maximum=N_SYMMETRIES - 1)
    flipped = array[tuple(slice(None, None, -1 if index & bit else 1) for bit in (_FLIP_Z, _FLIP_Y, _FLIP_X))]
    return flipped.transpose(0, 2, 1) if index & _SWAP_YX else flipped


class Augmentation:
    """A random change of a patch, the label moving along with the image.

    Parameters
    ----------
    level
        "symmetries": one of the 16 that keep z, of which a patch with unequal y and x edges uses the 8 that keep its
        shape. "light": those, then each of the five grey-value changes with its own small probability.

    Notes
    -----
    Black voxels (0) lie outside the scan or in the padding; contrast, brightness, gamma and noise leave them black.
    """

    def __init__(self, level: Literal["none", "symmetries", "light"] = "light") -> None:
        self.level = check_choice("augmentation level", level, LEVELS)
        transforms = [] if level == "none" else [_ScrollSymmetry(p=1.0)]
        if level == "light":
            transforms += [
                _GaussianBlur(p=0.15),
                _LowResolution(p=0.15),
                _BrightnessContrast(p=0.3),
                _Gamma(p=0.2),
                _GaussianNoise(p=0.15),
            ]
        self._compose = A.Compose(transforms)

    def __call__(
        self, image: NDArray[np.uint8], label: NDArray[_Scalar], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[_Scalar]]:
        """Return augmented copies of a patch (Z, Y, X) and its label, in C order; the same seed gives the same result.

        Only the symmetry changes the label.
        """
        check_array("image", image)
        if image.dtype != np.uint8:
            raise InputTypeError(f"image must be uint8, got {image.dtype}")
        check_array("label", label)
        check_same_shape("image", image, "label", label)
        check_integer("seed", seed, minimum=0)
        if self.level == "none":
            return image.copy(), label.copy()
        # Compose.set_random_seed would give every transform the same seed, so that all of them act or none does.
        seeds = np.random.SeedSequence(seed).generate_state(len(self._compose.transforms))
        for transform, own_seed in zip(self._compose.transforms, seeds):
            transform.set_random_seed(int(own_seed))
        result = self._compose(volume=image, mask3d=label)
        # A flipped axis of length 1 keeps its negative stride in `ascontiguousarray`, and torch takes none.
        return result["volume"].copy(), result["mask3d"].copy()


class _ScrollSymmetry(A.Transform3D):  # type: ignore[misc] # albumentations has no types
    """One of the symmetries of `apply_symmetry` at random, among those that keep the patch's shape."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        _, y, x = data["volume"].shape[:3]
        return {"index": int(self.random_generator.integers(N_SYMMETRIES if y == x else _SWAP_YX))}

    def apply_to_volume(self, volume: NDArray[np.uint8], index: int = 0, **_params: Any) -> NDArray[np.uint8]:
        return apply_symmetry(volume, index)


class _GreyValueTransform(A.Transform3D):  # type: ignore[misc] # albumentations has no types
    """A `Transform3D` that leaves the label as it is."""

    def apply_to_mask3d(self, mask3d: NDArray[Any], *_args: Any, **_params: Any) -> NDArray[Any]:
        return mask3d


class _BrightnessContrast(_GreyValueTransform):
    """Stretch grey values about the patch's mean by 0.75 to 1.25 and shift them by at most 20."""

    def get_params(self) -> dict[str, float]:
        return {
            "contrast": self.random_generator.uniform(0.75, 1.25),
            "brightness": self.random_generator.uniform(-20.0, 20.0),
        }

    def apply_to_volume(
        self, volume: NDArray[np.uint8], contrast: float = 1.0, brightness: float = 0.0, **_params: Any
    ) -> NDArray[np.uint8]:
        mean = float(volume.mean())
        return _look_up((np.arange(256) - mean) * contrast + mean + brightness, volume)


class _Gamma(_GreyValueTransform):
    """Raise grey values, as shares of 255, to a power of 0.7 to 1.5, drawn evenly on a logarithmic scale."""

    def get_params(self) -> dict[str, float]:
        return {"gamma": float(np.exp(self.random_generator.uniform(np.log(0.7), np.log(1.5))))}

    def apply_to_volume(self, volume: NDArray[np.uint8], gamma: float = 1.0, **_params: Any) -> NDArray[np.uint8]:
        return _look_up(255.0 * (np.arange(256) / 255.0) ** gamma, volume)


class _GaussianNoise(_GreyValueTransform):
    """Add independent normal noise of 2 to 12 grey values' standard deviation."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        deviation = np.float32(self.random_generator.uniform(2.0, 12.0))
        noise = self.random_generator.standard_normal(data["volume"].shape, dtype=np.float32)
        noise *= deviation
        return {"noise": noise}

    def apply_to_volume(
        self, volume: NDArray[np.uint8], noise: NDArray[np.float32] | float = 0.0, **_params: Any
    ) -> NDArray[np.uint8]:
        noisy = np.add(volume, noise, dtype=np.float32)
        np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy)
        noisy *= volume > 0
        return noisy.astype(np.uint8)


class _GaussianBlur(_GreyValueTransform):
    """Blur with a Gaussian of 0.5 to 1 voxels' standard deviation along all three axes."""

    def get_params(self) -> dict[str, float]:
        return {"sigma": self.random_generator.uniform(0.5, 1.0)}

    def apply_to_volume(self, volume: NDArray[np.uint8], sigma: float = 0.0, **_params: Any) -> NDArray[np.uint8]:
        kernel, one = cv2.getGaussianKernel(7, sigma), np.ones(1)

        def blur_yx(plane: NDArray[np.uint8]) -> NDArray[Any]:
            return cv2.sepFilter2D(plane, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)

        def blur_z(plane: NDArray[np.uint8]) -> NDArray[Any]:
            return cv2.sepFilter2D(plane, -1, one, kernel, borderType=cv2.BORDER_REPLICATE)

        return _by_planes(volume, blur_yx, blur_z)


class _LowResolution(_GreyValueTransform):
    """Sample down to 0.5 to 1 of the resolution along all axes, and up again linearly."""

    def get_params(self) -> dict[str, float]:
        return {"scale": self.random_generator.uniform(0.5, 1.0)}

    def apply_to_volume(self, volume: NDArray[np.uint8], scale: float = 1.0, **_params: Any) -> NDArray[np.uint8]:
        z, y, x = (max(1, round(edge * scale)) for edge in volume.shape)

        def coarsen_yx(plane: NDArray[np.uint8]) -> NDArray[Any]:
            small = cv2.resize(plane, (x, y), interpolation=cv2.INTER_AREA)
            return cv2.resize(small, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)

        def coarsen_z(plane: NDArray[np.uint8]) -> NDArray[Any]:
            small = cv2.resize(plane, (plane.shape[1], z), interpolation=cv2.INTER_AREA)
            return cv2.resize(small, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)

        return _by_planes(volume, coarsen_yx, coarsen_z)


def _look_up(table: NDArray[np.floating[Any]], volume: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    grey[0] = 0
    return grey[volume]


def _by_planes(volume: NDArray[np.uint8], change_yx: _Filter, change_z: _Filter) -> NDArray[np.uint8]:
    """Make a separable 3-D filter of OpenCV's 2-D ones: first each (y, x) plane, then each (z, x) plane along z."""
    result = np.empty(volume.shape, volume.dtype)
    for z, plane in enumerate(volume):
        result[z] = change_yx(np.ascontiguousarray(plane))
    for y in range(volume.shape[1]):
        result[:, y] = change_z(result[:, y])
    return result
