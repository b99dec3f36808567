"""How a model wants its grey values: part of the model's record, so that prediction repeats what training did."""

import dataclasses

import numpy as np
import torch

from vesuvius_kit.checks import InputTypeError, InputValueError, check_choice, check_real
from vesuvius_kit.io.volume import check_grey_values

SCHEMES = ("volume", "fixed")


def grey_statistics(volume: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of a volume, in float64 whatever its type.

    NumPy sums float16 in float16, whose deviation of a volume of 160^3 is infinite, and float32 in float32.

    Parameters
    ----------
    volume : numpy.ndarray
        Not empty; real numbers of any type.

    Returns
    -------
    mean, std : float

    Raises
    ------
    InputValueError
        NaN, infinity or a mark for "no data" among the grey values.
    """
    check_grey_values("volume", volume)
    dtype = np.float64 if volume.dtype.kind == "f" else None
    return float(volume.mean(dtype=dtype)), float(volume.std(dtype=dtype))


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """A shift and a scale of the grey values.

    Parameters
    ----------
    scheme : {"volume", "fixed"}
        "volume": z-score with the mean and standard deviation of the whole volume a patch was cut from (never of the
        patch: the same voxel would look different in every window). "fixed": `mean` and `std` below, as nnU-Net's CT
        scheme has them.
    mean, std : float
        Grey values; used by "fixed" alone. `std` must be above 0.
    """

    scheme: str = "volume"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        check_choice("normalisation scheme", self.scheme, SCHEMES)
        object.__setattr__(self, "mean", check_real("normalisation mean", self.mean))
        object.__setattr__(self, "std", check_real("normalisation std", self.std, above=0.0))

    def apply(self, array, volume_mean: float, volume_std: float):
        """Return the normalised grey values.

        Parameters
        ----------
        array : numpy.ndarray or torch.Tensor
            Grey values of any shape and real dtype; a part of the volume or all of it.
        volume_mean, volume_std : float
            Mean and standard deviation of the whole volume, in grey values; `volume_std` 0 (a constant volume) gives
            zeros. "fixed" does not use them.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            float32 of the same shape, kind and device; empty input gives an empty result.

        Raises
        ------
        InputTypeError
            `array` is neither a NumPy array nor a tensor.
        InputValueError
            A statistic that is needed is not finite, or `volume_std` is negative.
        """
        if isinstance(array, torch.Tensor):
            array = array.to(torch.float32)
        elif isinstance(array, np.ndarray):
            array = array.astype(np.float32)
        else:
            raise InputTypeError(f"array must be a NumPy array or a tensor, got {type(array).__name__}")
        if self.scheme == "fixed":
            return (array - self.mean) / self.std
        mean = check_real("volume_mean", float(volume_mean))
        std = check_real("volume_std", float(volume_std), minimum=0.0)
        if std == 0.0:
            return array * 0.0
        return (array - mean) / std

    @classmethod
    def of(cls, value) -> "Normalisation":
        """Return a `Normalisation` from what a configuration may hold.

        Parameters
        ----------
        value : Normalisation, str or dict
            A scheme's name, or the three fields by name.

        Returns
        -------
        Normalisation

        Raises
        ------
        InputTypeError, InputValueError
            Another kind, an unknown scheme or field, a number that cannot be used.
        """
        if isinstance(value, Normalisation):
            return value
        if isinstance(value, str):
            return cls(scheme=value)
        if not isinstance(value, dict):
            raise InputTypeError(f"normalisation must be a name or a mapping, got {type(value).__name__}")
        fields = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(map(str, value)) - fields)
        if unknown:
            raise InputValueError(f"normalisation must have the keys {', '.join(sorted(fields))}, got {unknown[0]!r}")
        return cls(**value)
