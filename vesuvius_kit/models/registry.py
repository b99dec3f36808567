"""Models by name: what a configuration says becomes a network, and a network says how it can be built again."""

import dataclasses
import inspect

import torch
from torch import nn

from vesuvius_kit.checks import InputTypeError, InputValueError, check_choice
from vesuvius_kit.models.normalisation import Normalisation
from vesuvius_kit.models.small_maps import mind_small_maps

_BUILDERS = {}


def _plain(value):
    """Return `value` with every sequence as a tuple, the form in which options are compared."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _listed(value):
    """Return `value` with every sequence as a list, the form in which JSON and YAML give it back."""
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """All that is needed to build a model again, weights apart.

    Parameters
    ----------
    name : str
        The registered name.
    options : dict
        Every option of the model, defaults included: a default that changes later does not change an old checkpoint.
    normalisation : Normalisation
        How the model wants its grey values.
    """

    name: str
    options: dict
    normalisation: Normalisation

    def __post_init__(self):
        object.__setattr__(self, "options", _plain(self.options))

    def to_dict(self) -> dict:
        """Return the record as plain types that JSON and YAML keep.

        Returns
        -------
        dict
            With the keys "name", "options" and "normalisation".
        """
        return {
            "name": self.name,
            "options": _listed(self.options),
            "normalisation": dataclasses.asdict(self.normalisation),
        }

    @classmethod
    def from_dict(cls, record: dict) -> "ModelRecord":
        """Return the record that `to_dict` wrote.

        Parameters
        ----------
        record : dict
            With the keys "name", "options" and "normalisation".

        Returns
        -------
        ModelRecord

        Raises
        ------
        InputTypeError, InputValueError
            Not a mapping, or other keys.
        """
        if not isinstance(record, dict):
            raise InputTypeError(f"model record must be a mapping, got {type(record).__name__}")
        if set(record) != {"name", "options", "normalisation"} or not isinstance(record["options"], dict):
            raise InputValueError(
                f"model record must have the keys name, options (a mapping), normalisation, got {sorted(record)}"
            )
        return cls(str(record["name"]), record["options"], Normalisation.of(record["normalisation"]))


class SegmentationModel(nn.Module):
    """Base of every model: one channel in, one channel of logits out, at the input's resolution.

    Attributes
    ----------
    size_divisor : int
        Every edge of the input must be a multiple of it, in voxels.
    record : ModelRecord
        Set by `create_model`.
    """

    size_divisor: int = 1
    record: ModelRecord | None = None

    def forward(self, image):
        """Return the logits of `image`.

        Parameters
        ----------
        image : torch.Tensor
            float (B, 1, Z, Y, X), normalised as the record says.

        Returns
        -------
        torch.Tensor
            float (B, 1, Z, Y, X), in the dtype autocast gives; positive means surface.

        Raises
        ------
        InputValueError
            Another number of axes or channels, or an edge that is not a multiple of `size_divisor`.
        """
        if image.ndim != 5 or image.shape[1] != 1:
            raise InputValueError(f"image must have the shape (B, 1, Z, Y, X), got {tuple(image.shape)}")
        if any(edge == 0 or edge % self.size_divisor for edge in image.shape[2:]):
            raise InputValueError(f"image edges must be multiples of {self.size_divisor}, got {tuple(image.shape[2:])}")
        if image.device.type == "cpu" and not torch.is_grad_enabled():
            # Convolutions of the CPU run a quarter faster on channels that lie together, where no backward pass follows.
            # A plain conversion would leave one channel as it is.
            image = torch.empty_like(image, memory_format=torch.channels_last_3d).copy_(image)
        return self.compute_logits(image)

    def compute_logits(self, image):
        """Return the logits of a checked `image`; each model defines it.

        Parameters
        ----------
        image : torch.Tensor
            float (B, 1, Z, Y, X).

        Returns
        -------
        torch.Tensor
            float (B, 1, Z, Y, X).
        """
        raise NotImplementedError


def register_model(name: str, *, not_recorded: tuple[str, ...] = ()):
    """Return a decorator that makes a model class known under `name`.

    Parameters
    ----------
    name : str
        What configurations call it.
    not_recorded : tuple of str
        Options that matter at the first start alone (a file of pretrained weights) and go into the record as their
        default: a checkpoint must not need that file again.

    Returns
    -------
    callable
        Takes and returns the class, whose keyword parameters are the model's options.

    Raises
    ------
    InputValueError
        The name is taken.
    """
    if name in _BUILDERS:
        raise InputValueError(f"model name must be new, got {name!r}")

    def register(model_class):
        _BUILDERS[name] = (model_class, not_recorded)
        return model_class

    return register


def list_models() -> list[str]:
    """Return the names `create_model` knows.

    Returns
    -------
    list of str
        Sorted.
    """
    return sorted(_BUILDERS)


def create_model(name: str, *, normalisation="volume", **options) -> SegmentationModel:
    """Build a model with fresh weights.

    Parameters
    ----------
    name : str
        One of `list_models`.
    normalisation : Normalisation, str or dict
        How the model wants its grey values; see `Normalisation`.
    **options
        The model's own options; the class's docstring lists them.

    Returns
    -------
    SegmentationModel
        float32, on the CPU, in training mode, with its `record`.

    Raises
    ------
    InputTypeError, InputValueError
        An unknown name or option, or a value that cannot be used.
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
    model.record = ModelRecord(name, {**defaults, **recorded}, normalisation)
    return model
