"""How a model wants its grey values: part of the model's record, so that prediction repeats what training did.

Every scheme is a clip, a shift and a scale (`Affine`); they differ in where the numbers come from.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.checks import InputTypeError, InputValueError, check_array, check_choice, check_real
from vesuvius_kit.io.volume import check_grey_values
from vesuvius_kit.voxel.slabs import for_slabs
from vesuvius_kit.voxel.sums import mean_and_deviation

Scheme = Literal["volume", "fixed", "zscore", "ct", "rescale_to_0_1", "rgb_to_0_1", "none"]

# Below a span this small nnU-Net divides by it instead, so that nothing becomes infinite.
_LEAST_SPAN = 1e-8
_GREATEST_RGB = 255.0


class GreyStatistics(NamedTuple):
    """Of the grey values of a volume; of none, all are 0."""

    mean: float
    std: float
    least: float
    greatest: float


class Affine(NamedTuple):
    """Grey values are clipped to ``[low, high]``, ``shift`` is subtracted, then they are divided by ``scale``."""

    shift: float = 0.0
    scale: float = 1.0
    low: float | None = None
    high: float | None = None

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the normalised values as a new float32 array (Z, ...), in one pass over all cores."""
        normalised = np.empty(values.shape, np.float32)

        def work(start: int, stop: int) -> None:
            # Plane by plane: what lies between the steps stays in the cache.
            for part, own in zip(values[start:stop], normalised[start:stop]):
                np.copyto(own, part, casting="unsafe")
                if self.low is not None or self.high is not None:
                    np.clip(own, self.low, self.high, out=own)
                if self.shift != 0.0:
                    np.subtract(own, np.float32(self.shift), out=own)
                if self.scale != 1.0:
                    np.divide(own, np.float32(self.scale), out=own)

        for_slabs(work, len(values))
        return normalised


def measure_grey_values(volume: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> GreyStatistics:
    """Return the statistics of a volume (Z, Y, X), or of what lies in a mask, in float64 whatever its type.

    They do not depend on the number of threads. NaN, infinity and marks for "no data" are refused.
    """
    check_grey_values("volume", volume)
    values = volume if mask is None else volume[mask].reshape(1, 1, -1)
    if values.size == 0:
        return GreyStatistics(0.0, 0.0, 0.0, 0.0)
    return GreyStatistics(*mean_and_deviation(values), float(values.min()), float(values.max()))


def grey_statistics(volume: NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation of a volume, in float64 whatever its type; NaN, infinity and "no data" are refused."""
    return measure_grey_values(volume)[:2]


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """A shift and a scale of the grey values; the schemes from ``zscore`` on are those of nnU-Net (Isensee et al., 2021)."""

    scheme: Scheme = "volume"
    """``volume``: z-score with the mean and standard deviation of the whole volume a patch was cut from (never of the patch:
    the same voxel would look different in every window). ``fixed``: `mean` and `std`. ``zscore``: as ``volume``, but of what
    is left of the volume after its crop. ``ct``: clipped to `low` and `high`, then `mean` and `std`. ``rescale_to_0_1``:
    between the crop's extremes. ``rgb_to_0_1``: over 255. ``none``: as they are."""
    mean: float = 0.0
    """Grey value; of ``fixed`` and ``ct`` alone."""
    std: float = 1.0
    """Grey value above 0; of ``fixed`` and ``ct`` alone."""
    low: float | None = None
    """Least grey value that is told apart; of ``ct`` alone."""
    high: float | None = None
    """Greatest grey value that is told apart; of ``ct`` alone."""
    masked: bool = False
    """Whether the statistics are those of what is not 0, and what is 0 stays 0; of ``zscore`` alone."""

    def __post_init__(self) -> None:
        check_choice("normalisation scheme", self.scheme, get_args(Scheme))
        object.__setattr__(self, "mean", check_real("normalisation mean", self.mean))
        object.__setattr__(self, "std", check_real("normalisation std", self.std, above=0.0))
        for name in ("low", "high"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_real(f"normalisation {name}", value))
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputValueError(f"normalisation low must be <= high, got {self.low} and {self.high}")
        if (self.low is not None or self.high is not None) and self.scheme != "ct":
            raise InputValueError(f"normalisation low and high must go with scheme ct, got {self.scheme}")
        if not isinstance(self.masked, bool):
            raise InputTypeError(f"normalisation masked must be a bool, got {type(self.masked).__name__}")
        if self.masked and self.scheme != "zscore":
            raise InputValueError(f"normalisation masked must go with scheme zscore, got {self.scheme}")

    @property
    def needs_statistics(self) -> bool:
        """Whether `as_affine` looks at the volume's statistics."""
        return self.scheme in ("volume", "zscore", "rescale_to_0_1", "rgb_to_0_1")

    def as_affine(self, statistics: GreyStatistics | None = None) -> Affine:
        """Return the clip, shift and scale for a volume; ``statistics`` may be None where `needs_statistics` is False."""
        if self.scheme in ("fixed", "ct"):
            return Affine(self.mean, self.std, self.low, self.high)
        if self.scheme == "none":
            return Affine()
        if statistics is None:
            raise InputTypeError(f"statistics must be given for scheme {self.scheme}, got none")
        if self.scheme == "rescale_to_0_1":
            return Affine(statistics.least, max(statistics.greatest - statistics.least, _LEAST_SPAN))
        if self.scheme == "rgb_to_0_1":
            if statistics.least < 0 or statistics.greatest > _GREATEST_RGB:
                raise InputValueError(
                    "volume must have grey values from 0 to 255 for scheme rgb_to_0_1, got "
                    f"{statistics.least:g} to {statistics.greatest:g}"
                )
            return Affine(0.0, _GREATEST_RGB)
        # A constant volume gives zeros: a number over infinity is one.
        return Affine(statistics.mean, statistics.std or math.inf)

    def apply_to_volume(self, volume: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return the grey values of a whole (or cropped) volume (Z, Y, X) normalised, as a new float32 array.

        ``mask`` is where the volume counts for a `masked` scheme; it is needed there and not looked at elsewhere.
        """
        check_array("volume", volume)
        if self.masked and mask is None:
            raise InputTypeError("mask must be given for a masked normalisation, got none")
        mask = mask if self.masked else None
        affine = self.as_affine(measure_grey_values(volume, mask) if self.needs_statistics else None)
        normalised = affine.apply(volume)
        if mask is not None:
            for_slabs(
                lambda start, stop: _put_back(normalised[start:stop], volume[start:stop], mask[start:stop]), len(mask)
            )
        return normalised

    @overload
    def apply(self, array: NDArray[Any], volume_mean: float, volume_std: float) -> NDArray[np.float32]: ...
    @overload
    def apply(self, array: torch.Tensor, volume_mean: float, volume_std: float) -> torch.Tensor: ...
    def apply(
        self, array: NDArray[Any] | torch.Tensor, volume_mean: float, volume_std: float
    ) -> NDArray[Any] | torch.Tensor:
        """Return the normalised grey values as float32, on the same device; ``array`` may be a part of the volume.

        The statistics are those of the whole volume, in grey values; ``fixed``, ``ct``, ``rgb_to_0_1`` and ``none`` do not use
        them. A ``volume_std`` of 0, of a constant volume, gives zeros. Schemes that need more than a mean and a deviation are
        refused: see `apply_to_volume`.
        """
        values: NDArray[Any] | torch.Tensor
        if isinstance(array, torch.Tensor):
            values = array.to(torch.float32)
        elif isinstance(array, np.ndarray):
            values = array.astype(np.float32)
        else:
            raise InputTypeError(f"array must be a NumPy array or a tensor, got {type(array).__name__}")
        if self.scheme in ("fixed", "ct"):
            low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
            values = values.clip(low, high) if self.scheme == "ct" else values
            return (values - self.mean) / self.std
        if self.scheme == "none":
            return values
        if self.scheme == "rgb_to_0_1":
            return values / _GREATEST_RGB
        if self.scheme == "rescale_to_0_1" or self.masked:
            what = "masked zscore" if self.masked else self.scheme
            raise InputValueError(f"normalisation must not need the whole volume to normalise a part of it, got {what}")
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, those left out that do not apply to the scheme; `of` reads it."""
        fields = dataclasses.asdict(self)
        return {key: value for key, value in fields.items() if value is not None and (key != "masked" or value)}


def _put_back(normalised: NDArray[np.float32], volume: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """What a masked scheme leaves alone: grey values outside the mask."""
    np.copyto(normalised, volume, where=~mask, casting="unsafe")
