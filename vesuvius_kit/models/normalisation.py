"""How a model wants its grey values: part of the model's record, so that prediction repeats what training did."""

import dataclasses
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.checks import InputTypeError, InputValueError, check_choice, check_real
from vesuvius_kit.io.volume import check_grey_values

Scheme = Literal["volume", "fixed"]


def grey_statistics(volume: NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation of a volume, in float64 whatever its type; NaN, infinity and "no data" are refused."""
    check_grey_values("volume", volume)
    # NumPy sums float16 in float16, whose deviation of a volume of 160^3 is infinite, and float32 in float32.
    dtype = np.float64 if volume.dtype.kind == "f" else None
    return float(volume.mean(dtype=dtype)), float(volume.std(dtype=dtype))


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """A shift and a scale of the grey values."""

    scheme: Scheme = "volume"
    """``volume``: z-score with the mean and standard deviation of the whole volume a patch was cut from (never of the patch:
    the same voxel would look different in every window). ``fixed``: `mean` and `std`, as nnU-Net's CT scheme has them."""
    mean: float = 0.0
    """Grey value; of ``fixed`` alone."""
    std: float = 1.0
    """Grey value above 0; of ``fixed`` alone."""

    def __post_init__(self) -> None:
        check_choice("normalisation scheme", self.scheme, get_args(Scheme))
        object.__setattr__(self, "mean", check_real("normalisation mean", self.mean))
        object.__setattr__(self, "std", check_real("normalisation std", self.std, above=0.0))

    @overload
    def apply(self, array: NDArray[Any], volume_mean: float, volume_std: float) -> NDArray[np.float32]: ...
    @overload
    def apply(self, array: torch.Tensor, volume_mean: float, volume_std: float) -> torch.Tensor: ...
    def apply(
        self, array: NDArray[Any] | torch.Tensor, volume_mean: float, volume_std: float
    ) -> NDArray[Any] | torch.Tensor:
        """Return the normalised grey values as float32, on the same device; ``array`` may be a part of the volume.

        The statistics are those of the whole volume, in grey values; ``fixed`` does not use them. A ``volume_std`` of 0, of a
        constant volume, gives zeros.
        """
        values: NDArray[Any] | torch.Tensor
        if isinstance(array, torch.Tensor):
            values = array.to(torch.float32)
        elif isinstance(array, np.ndarray):
            values = array.astype(np.float32)
        else:
            raise InputTypeError(f"array must be a NumPy array or a tensor, got {type(array).__name__}")
        if self.scheme == "fixed":
            return (values - self.mean) / self.std
        mean = check_real("volume_mean", float(volume_mean))
        std = check_real("volume_std", float(volume_std), minimum=0.0)
        if std == 0.0:
            return values * 0.0
        return (values - mean) / std

    @classmethod
    def of(cls, value: "Normalisation | str | dict[str, Any]") -> "Normalisation":
        """Return a `Normalisation` from what a configuration may hold: a scheme's name, or fields by name."""
        if isinstance(value, Normalisation):
            return value
        if isinstance(value, str):
            value = {"scheme": value}
        if not isinstance(value, dict):
            raise InputTypeError(f"normalisation must be a name or a mapping, got {type(value).__name__}")
        fields = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(map(str, value)) - fields)
        if unknown:
            raise InputValueError(f"normalisation must have the keys {', '.join(sorted(fields))}, got {unknown[0]!r}")
        return cls(**value)
