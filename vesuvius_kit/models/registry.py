"""Models by name: what a configuration says becomes a network, and a network says how it can be built again."""

import abc
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from vesuvius_kit.checks import InputTypeError, InputValueError, check_choice
from vesuvius_kit.models.normalisation import Normalisation
from vesuvius_kit.models.rules import KIT_RULES, PredictionRules
from vesuvius_kit.models.small_maps import mind_small_maps

_ModelClass = TypeVar("_ModelClass", bound="type[SegmentationModel]")

# By name: the class, and its options that are not recorded.
_BUILDERS: dict[str, tuple["type[SegmentationModel]", tuple[str, ...]]] = {}


def _plain(value: Any) -> Any:
    """Return `value` with every sequence as a tuple, the form in which options are compared."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _listed(value: Any) -> Any:
    """Return `value` with every sequence as a list, the form in which JSON and YAML give it back."""
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """All that is needed to build a model again, weights apart."""

    name: str
    """The registered name."""
    options: dict[str, Any]
    """Every option of the model, defaults included: a default that changes later does not change an old checkpoint."""
    normalisation: Normalisation
    """How the model wants its grey values."""
    rules: PredictionRules = KIT_RULES
    """How a volume is shown to the model, and what its channels mean."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _plain(self.options))

    def to_dict(self) -> dict[str, Any]:
        """Return the record, its fields by name, as plain types that JSON and YAML keep."""
        return {
            "name": self.name,
            "options": _listed(self.options),
            "normalisation": self.normalisation.to_dict(),
            "rules": self.rules.to_dict(),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "ModelRecord":
        """Return the record that `to_dict` wrote; other keys are refused, and without ``rules`` they are the kit's own."""
        if not isinstance(record, dict):
            raise InputTypeError(f"model record must be a mapping, got {type(record).__name__}")
        # Older checkpoints have no rules.
        if set(record) - {"rules"} != {"name", "options", "normalisation"} or not isinstance(record["options"], dict):
            raise InputValueError(
                f"model record must have the keys name, options (a mapping), normalisation, rules, got {sorted(record)}"
            )
        return cls(
            str(record["name"]),
            record["options"],
            Normalisation.of(record["normalisation"]),
            PredictionRules.from_dict(record.get("rules", {})),
        )


class SegmentationModel(nn.Module, abc.ABC):
    """Base of every model: one channel in, logits out at the input's resolution; one channel unless the record says more."""

    size_divisor: int = 1
    """Every edge of the input must be a multiple of it, in voxels; where axes differ, the greatest of `size_divisors`."""
    record: ModelRecord | None = None
    """Set by `create_model`."""

    @property
    def size_divisors(self) -> tuple[int, int, int]:
        """What the input's edges, (z, y, x), must be multiples of, in voxels."""
        return (self.size_divisor,) * 3

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits, (B, C, Z, Y, X) in the dtype autocast gives; of a single channel, positive means surface.

        The image is float (B, 1, Z, Y, X), normalised as the record says, its edges multiples of `size_divisors`. C is the
        record's ``rules.output.n_channels``, 1 for all of the kit's own models.
        """
        if image.ndim != 5 or image.shape[1] != 1:
            raise InputValueError(f"image must have the shape (B, 1, Z, Y, X), got {tuple(image.shape)}")
        if any(edge == 0 or edge % divisor for edge, divisor in zip(image.shape[2:], self.size_divisors)):
            one_for_all = len(set(self.size_divisors)) == 1
            divisor = self.size_divisor if one_for_all else self.size_divisors
            raise InputValueError(f"image edges must be multiples of {divisor}, got {tuple(image.shape[2:])}")
        if image.device.type == "cpu" and not torch.is_grad_enabled():
            # Convolutions of the CPU run a quarter faster on channels that lie together, where no backward pass follows.
            # A plain conversion would leave one channel as it is.
            image = torch.empty_like(image, memory_format=torch.channels_last_3d).copy_(image)
        return self.compute_logits(image)

    def require_record(self) -> ModelRecord:
        """Return `record`, which a model that was not made by `create_model` does not have."""
        if self.record is None:
            raise InputTypeError(f"model must be made by create_model, got a {type(self).__name__} without a record")
        return self.record

    @abc.abstractmethod
    def compute_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits, float (B, C, Z, Y, X), of a checked `image`, (B, 1, Z, Y, X); each model defines it."""


def register_model(name: str, *, not_recorded: tuple[str, ...] = ()) -> Callable[[_ModelClass], _ModelClass]:
    """Return a decorator that makes a model class known under a new name; its keyword parameters are the model's options.

    ``not_recorded`` are options that matter at the first start alone (a file of pretrained weights) and go into the record as
    their default: a checkpoint must not need that file again.
    """
    if name in _BUILDERS:
        raise InputValueError(f"model name must be new, got {name!r}")

    def register(model_class: _ModelClass) -> _ModelClass:
        _BUILDERS[name] = (model_class, not_recorded)
        return model_class

    return register


def list_models() -> list[str]:
    """Return the names `create_model` knows, sorted.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> vk.list_models()
    ['nnunet', 'resenc_unet', 'timm_unet', 'unet3d']
    """
    return sorted(_BUILDERS)


def create_model(
    name: str,
    *,
    normalisation: Normalisation | str | dict[str, Any] = "volume",
    rules: PredictionRules = KIT_RULES,
    **options: Any,
) -> SegmentationModel:
    """Build a model with fresh weights: float32, on the CPU, in training mode, with its `record`.

    Parameters
    ----------
    name
        One of `list_models`.
    normalisation
        How the model wants its grey values; see `Normalisation`.
    rules
        How a volume is shown to the model, and what its channels mean; kept in the record.
    **options
        The model's own options; the class's docstring lists them.

    Examples
    --------
    >>> import torch, vesuvius_kit as vk
    >>> model = vk.create_model("unet3d", initial_filters=4, depth=2)
    >>> model.size_divisor
    4
    >>> model(torch.zeros(1, 1, 16, 16, 16)).shape
    torch.Size([1, 1, 16, 16, 16])
    """
    check_choice("model name", name, list_models())
    model_class, not_recorded = _BUILDERS[name]
    defaults = {key: p.default for key, p in inspect.signature(model_class).parameters.items()}
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise InputValueError(
            f"options of model {name} must be among {', '.join(sorted(defaults))}, got {unknown[0]!r}"
        )
    normalisation = Normalisation.of(normalisation)
    model = model_class(**options)
    mind_small_maps(model)
    recorded = {key: value for key, value in options.items() if key not in not_recorded}
    model.record = ModelRecord(name, {**defaults, **recorded}, normalisation, rules)
    return model
