"""What turns a network's channels into the probability of the surface, and how a volume has to be shown to it.

Both belong to the model's record. The kit's own networks need none of it, so every default means "as the kit does"; networks
that others trained carry the rules of their training along.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.checks import (
    InputTypeError,
    InputValueError,
    check_array,
    check_choice,
    check_integer,
    check_size,
    check_spacing,
)
from vesuvius_kit.voxel.slabs import for_slabs

OutputKind = Literal["sigmoid", "softmax", "regions"]
Averaged = Literal["probabilities", "logits"]
GridKind = Literal["kit", "nnunet"]
Axes3 = tuple[int, int, int]

_CHANNELS = -4


@dataclasses.dataclass(frozen=True)
class OutputRule:
    """How a network's channels become the probability of the surface."""

    kind: OutputKind = "sigmoid"
    """``sigmoid``: one channel of its own; ``softmax``: the channels are classes that exclude each other; ``regions``: a
    sigmoid each, and the classes may overlap."""
    n_channels: int = 1
    """Channels of the network's output."""
    surface: tuple[int, ...] = (0,)
    """The channels that are surface. ``sigmoid``: one; ``softmax``: their probabilities are summed; ``regions``: the greatest
    counts."""

    def __post_init__(self) -> None:
        check_choice("output kind", self.kind, get_args(OutputKind))
        check_integer("output n_channels", self.n_channels, minimum=2 if self.kind == "softmax" else 1)
        if not isinstance(self.surface, (tuple, list)):
            raise InputTypeError(f"output surface must be channel numbers, got {type(self.surface).__name__}")
        surface = tuple(
            check_integer("output surface", c, minimum=0, maximum=self.n_channels - 1) for c in self.surface
        )
        if len(set(surface)) != len(surface) or not surface or (self.kind == "sigmoid" and len(surface) > 1):
            wanted = "one channel" if self.kind == "sigmoid" else "different channels, at least one"
            raise InputValueError(f"output surface must be {wanted} for {self.kind}, got {list(surface)}")
        if self.kind == "softmax" and len(surface) == self.n_channels:
            raise InputValueError(f"output surface must leave a class that is not surface, got {list(surface)}")
        object.__setattr__(self, "surface", tuple(sorted(surface)))

    @property
    def n_stored(self) -> int:
        """Channels to keep while logits are averaged; of two classes their difference says all, of regions those that count."""
        if self.kind == "softmax":
            return 1 if self.n_channels == 2 else self.n_channels
        return len(self.surface)

    def to_stored(self, logits: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, n_stored, Z, Y, X), linear in ``logits``, (B, n_channels, Z, Y, X)."""
        logits = logits.to(torch.float32)
        if self.kind != "softmax":
            if len(self.surface) == self.n_channels:
                return logits
            first, last = self.surface[0], self.surface[-1]
            if last - first + 1 == len(self.surface):
                return logits[:, first : last + 1]
            return logits[:, list(self.surface)]
        if self.n_channels > 2:
            return logits
        (surface,) = self.surface
        return logits[:, surface : surface + 1] - logits[:, 1 - surface : 2 - surface]

    def to_probability(self, stored: torch.Tensor) -> torch.Tensor:
        """Return the probability in [0, 1], (..., 1, Z, Y, X), of averaged ``stored`` channels, (..., n_stored, Z, Y, X)."""
        if stored.shape[_CHANNELS] != self.n_stored:
            raise InputValueError(
                f"stored must have {self.n_stored} channels for {self.kind}, got {stored.shape[_CHANNELS]}"
            )
        if self.kind == "softmax" and self.n_stored > 1:
            chosen = torch.softmax(stored, _CHANNELS)[..., list(self.surface), :, :, :]
            return chosen.sum(_CHANNELS, keepdim=True).clamp_(max=1.0)
        return torch.sigmoid(stored if self.n_stored == 1 else stored.amax(_CHANNELS, keepdim=True))

    def probability_of(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what `to_probability` does, float32 (Z, Y, X), of a whole volume, (n_stored, Z, Y, X), over all cores."""
        check_array("stored", stored, ndim=4, kinds="f")
        if len(stored) != self.n_stored:
            raise InputValueError(f"stored must have {self.n_stored} channels for {self.kind}, got {len(stored)}")
        probability = np.empty(stored.shape[1:], np.float32)

        def work(start: int, stop: int) -> None:
            # Plane by plane, so that what lies in between stays in the cache.
            for z in range(start, stop):
                with np.errstate(over="ignore"):
                    probability[z] = self._probability_of_plane(stored[:, z].astype(np.float32, copy=False))

        for_slabs(work, stored.shape[1])
        return probability

    def _probability_of_plane(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.kind == "softmax" and self.n_stored > 1:
            powers = np.exp(stored - stored.max(axis=0))
            return np.minimum(powers[list(self.surface)].sum(axis=0) / powers.sum(axis=0), np.float32(1))
        greatest = stored[0] if len(stored) == 1 else stored.max(axis=0)
        return 1 / (1 + np.exp(-greatest))


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """How one kind of values is resampled: by splines, along a coarse axis by another order or the nearest plane."""

    order: int
    """Of the splines, 0 (nearest) to 5."""
    order_z: int = 0
    """Along the coarse axis, where it is resampled apart."""
    separate_z: bool | None = None
    """Whether the coarsest axis is resampled apart; None: where a spacing is more than `ANISOTROPY_THRESHOLD` times another."""

    def __post_init__(self) -> None:
        check_integer("interpolation order", self.order, minimum=0, maximum=5)
        check_integer("interpolation order_z", self.order_z, minimum=0, maximum=5)
        if self.separate_z is not None and not isinstance(self.separate_z, bool):
            raise InputTypeError(f"interpolation separate_z must be a bool or none, got {self.separate_z!r}")


ANISOTROPY_THRESHOLD = 3.0
"""Ratio of the coarsest spacing to the finest above which an axis is resampled apart (Isensee et al., Nature Methods 2021)."""


@dataclasses.dataclass(frozen=True)
class ResamplingRule:
    """How a volume of another spacing is brought to that of the training, and the answer back."""

    data: Interpolation = Interpolation(3)
    """Of grey values."""
    answer: Interpolation = Interpolation(1)
    """Of what the network answered."""


@dataclasses.dataclass(frozen=True)
class PredictionRules:
    """How a volume is shown to a network, and how its answers are put together."""

    output: OutputRule = OutputRule()
    """How channels become a probability."""
    average: Averaged = "probabilities"
    """What is averaged over windows and over the views of test-time augmentation."""
    window: Axes3 | None = None
    """Patch size of the training in voxels, in the network's axes."""
    grid: GridKind = "kit"
    """Where windows lie and how they are weighted."""
    mirror_axes: tuple[int, ...] | None = None
    """The network's axes over all subsets of which the predictions are mirrored when ``tta`` is ``auto``; none of them, or
    None: the volume is predicted as it lies."""
    transpose: Axes3 = (0, 1, 2)
    """The volume's axis that becomes each of the network's."""
    crop: bool = False
    """Whether only the box of what is not 0 is predicted."""
    spacing: tuple[float, float, float] | None = None
    """Voxel size of the training, in the network's axes and the plans' unit."""
    resampling: ResamplingRule | None = None
    """How another voxel size is treated; None: it is not looked at."""

    def __post_init__(self) -> None:
        check_choice("average", self.average, get_args(Averaged))
        check_choice("grid", self.grid, get_args(GridKind))
        if self.window is not None:
            object.__setattr__(self, "window", check_size("rules window", self.window))
        if self.mirror_axes is not None:
            axes = (check_integer("mirror_axes", axis, minimum=0, maximum=2) for axis in self.mirror_axes)
            object.__setattr__(self, "mirror_axes", tuple(sorted(set(axes))))
        if sorted(self.transpose) != [0, 1, 2]:
            raise InputValueError(f"transpose must be an order of the axes 0, 1, 2, got {list(self.transpose)}")
        object.__setattr__(self, "transpose", tuple(map(int, self.transpose)))
        if self.spacing is not None:
            object.__setattr__(self, "spacing", check_spacing("rules spacing", self.spacing))
        if not isinstance(self.crop, bool):
            raise InputTypeError(f"crop must be a bool, got {type(self.crop).__name__}")

    @property
    def backward(self) -> Axes3:
        """The network's axis that becomes each of the volume's: what undoes `transpose`."""
        z, y, x = (self.transpose.index(axis) for axis in range(3))
        return z, y, x

    def to_dict(self) -> dict[str, Any]:
        """Return the rules, their fields by name, as plain types that JSON and YAML keep."""
        return _listed(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, rules: Mapping[str, Any]) -> "PredictionRules":
        """Return the rules that `to_dict` wrote; unknown keys are refused, missing ones are the defaults."""
        fields = _check_fields(cls, "prediction rules", rules)
        if fields.get("output") is not None:
            fields["output"] = OutputRule(**_check_fields(OutputRule, "output rule", fields["output"]))
        if fields.get("resampling") is not None:
            parts = _check_fields(ResamplingRule, "resampling rule", fields["resampling"])
            fields["resampling"] = ResamplingRule(
                **{
                    name: Interpolation(**_check_fields(Interpolation, f"resampling {name}", part))
                    for name, part in parts.items()
                }
            )
        for name in ("window", "mirror_axes", "transpose", "spacing"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        return cls(**fields)


KIT_RULES = PredictionRules()
"""Those of the kit's own networks."""


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _check_fields(cls: type, name: str, value: object) -> dict[str, Any]:
    """The fields of a dataclass by name, as JSON holds them."""
    if not isinstance(value, Mapping):
        raise InputTypeError(f"{name} must be a mapping, got {type(value).__name__}")
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(map(str, value)) - known):
        raise InputValueError(f"{name} must have the keys {', '.join(sorted(known))}, got {unknown[0]!r}")
    return dict(value)
