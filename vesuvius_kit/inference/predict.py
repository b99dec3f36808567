"""From a volume to probabilities: Gaussian-weighted windows, test-time augmentation and ensembles, on a GPU or a CPU."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

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
)
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.grid import blend_profiles, window_starts
from vesuvius_kit.inference.precision import autocast, choose_precision
from vesuvius_kit.models import Normalisation
from vesuvius_kit.models.normalisation import grey_statistics

logger = logging.getLogger(__name__)

Z, Y, X = -3, -2, -1

# Probabilities are averaged in units of this part.
_FIXED_POINT = np.float64(2**40)


class Model(Protocol):
    """What predicts: any torch module, or another callable."""

    def __call__(self, image: torch.Tensor, /) -> torch.Tensor:
        """Return finite logits, of a floating type, of the shape of ``image``: float32 (B, 1, Z, Y, X)."""


class Transform(NamedTuple):
    """One transform of test-time augmentation."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    """Turns the volume."""
    back: Callable[[torch.Tensor], torch.Tensor]
    """Turns the prediction back."""


_IDENTITY = Transform(lambda x: x, lambda x: x)


def _flip(*axes: int) -> Transform:
    return Transform(lambda x: x.flip(axes), lambda x: x.flip(axes))


def _quarter_turns(count: int) -> Transform:
    return Transform(lambda x: torch.rot90(x, count, (Y, X)), lambda x: torch.rot90(x, -count, (Y, X)))


TTA_TRANSFORMS = {
    "none": [_IDENTITY],
    "mirror": [_IDENTITY, *[_flip(*axes) for axes in ((Z,), (Y,), (X,), (Z, Y), (Z, X), (Y, X), (Z, Y, X))]],
    "seven": [_IDENTITY, _flip(Z), _flip(Y), _flip(X), *[_quarter_turns(count) for count in (1, 2, 3)]],
}


class OutOfTimeError(Exception):
    """The deadline passed before the volume was done; what had been predicted of it is dropped."""


class NotFiniteError(InputValueError):
    """A network answered with NaN or infinity: spoilt weights, or numbers too large for half precision."""


def choose_device(device: str = PredictConfig.device) -> torch.device:
    """Return the torch device meant by a name, which must be one of this machine.

    ``auto`` is the first GPU, or the CPU where there is none. Else it is ``cpu``, or ``cuda`` or ``xpu`` with a number or
    without. Apple's ``mps`` is not supported: it lacks float64 and some 3-D layers of the networks.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputValueError(f"device must be auto or a torch device, got {device!r}") from error
    if chosen.type not in ("cpu", "cuda", "xpu"):
        raise InputValueError(f"device must be auto, cpu, cuda or xpu, got {device!r}")
    # A number of "cpu" means nothing to torch, which takes any.
    count = 1 if chosen.type == "cpu" else getattr(torch, chosen.type).device_count()
    if (chosen.index or 0) >= count:
        raise InputValueError(f"device must exist, got {device!r} on a machine with {count} of {chosen.type}")
    return chosen


def predict_volume(
    model: Model,
    volume: NDArray[Any],
    *,
    window: int | Sequence[int],
    overlap: float = PredictConfig.overlap,
    batch_size: int = PredictConfig.batch_size,
    tta: Literal["none", "mirror", "seven"] = PredictConfig.tta,
    device: torch.device | str = PredictConfig.device,
    dtype: torch.dtype | None = None,
    normalisation: Normalisation | str | dict[str, Any] | None = None,
    deadline: float | None = None,
    name: str = "model",
    progress: Progress = no_progress,
) -> NDArray[np.float32]:
    """Return the surface probability of every voxel, in [0, 1], predicted window by window and blended.

    Parameters
    ----------
    model
        A module is moved to ``device`` and is in evaluation mode during the call, as it was afterwards; another callable is
        called as it is.
    volume
        (Z, Y, X), any numeric type, any size; smaller than the window is padded with grey 0.
    window
        Window edges in voxels, (z, y, x), multiples of ``model.size_divisor`` where the model has one.
    overlap
        Smallest share of a window that the next one covers again, in [0, 1).
    batch_size
        Windows in one forward pass.
    tta
        Test-time augmentation, one of ``TTA_TRANSFORMS``; the probabilities are averaged.
    device
        ``auto`` is the first GPU, or the CPU.
    dtype
        Autocast type; by default the fastest of the device, as `choose_precision` measures it. When the answer in float16 is
        not finite, the volume is predicted once more in float32, with a warning.
    normalisation
        How the model wants its grey values; by default as its ``record`` says, or, without a record, as they are.
    deadline
        A reading of `time.monotonic` after which no window is started.
    name
        What messages call the model.

    Raises
    ------
    NotFiniteError
        The model answered with NaN or infinity, in float32 too.
    OutOfTimeError
        The deadline passed.

    Examples
    --------
    >>> import numpy as np, torch, vesuvius_kit as vk
    >>> model = vk.create_model("unet3d", initial_filters=2, depth=1)
    >>> volume = np.arange(4096, dtype=np.uint16).reshape(16, 16, 16)
    >>> probability = vk.predict_volume(model, volume, window=16, device="cpu", dtype=torch.float32)
    >>> probability.shape, probability.dtype.name
    ((16, 16, 16), 'float32')

    Any callable from a batch of windows to logits is a model:

    >>> halves = vk.predict_volume(lambda image: image * 0.0, volume, window=16, device="cpu", dtype=torch.float32)
    >>> round(float(halves.max()), 3)
    0.5
    """
    if not callable(model):
        raise InputTypeError(f"model must be a torch module or a callable, got {type(model).__name__}")
    check_array("volume", volume)
    if volume.size == 0:
        raise InputValueError(f"volume must not be empty, got shape {volume.shape}")
    window = check_size("window", window)
    check_integer("batch_size", batch_size, minimum=1)
    check_choice("tta", tta, TTA_TRANSFORMS)
    if tta == "seven" and window[1] != window[2]:
        raise InputValueError(f"window must be square in y and x for tta 'seven', got {window}")
    divisor = check_integer("size_divisor of the model", getattr(_unwrap(model), "size_divisor", 1), minimum=1)
    for edge in window:
        if edge % divisor:
            raise InputValueError(f"window must be multiples of {divisor} for this model, got {window}")
    device = choose_device(device) if isinstance(device, str) else device
    dtype = choose_precision("auto", device).dtype if dtype is None else dtype
    normalisation = _normalisation_of(model) if normalisation is None else Normalisation.of(normalisation)
    plan = _Plan(window, overlap, batch_size, TTA_TRANSFORMS[tta], device, normalisation, deadline, progress)
    try:
        return _predict_once(model, volume, dtype, plan)
    except NotFiniteError as error:
        if dtype != torch.float16:
            raise NotFiniteError(f"{name} {error}") from error
        logger.warning("%s %s: the volume is predicted once more, in float32", name, error)
    try:
        return _predict_once(model, volume, torch.float32, plan)
    except NotFiniteError as error:
        raise NotFiniteError(f"{name} {error} as well as in float16") from error


class _Plan(NamedTuple):
    """Checked arguments of `predict_volume`."""

    window: tuple[int, int, int]
    overlap: float
    batch_size: int
    transforms: Sequence[Transform]
    device: torch.device
    normalisation: Normalisation | None
    deadline: float | None
    progress: Progress


def _predict_once(model: Model, volume: NDArray[Any], dtype: torch.dtype, plan: _Plan) -> NDArray[np.float32]:
    """As `predict_volume`, in one type."""
    window, device = plan.window, plan.device
    statistics = grey_statistics(volume)
    # Beyond the scan is black, as in training patches; the statistics are those of the volume alone.
    missing = [(0, max(0, edge - length)) for edge, length in zip(window, volume.shape)]
    padded = np.pad(volume, missing) if any(after for _, after in missing) else volume
    normalised = padded if plan.normalisation is None else plan.normalisation.apply(padded, *statistics)
    image = torch.from_numpy(np.ascontiguousarray(normalised, dtype=np.float32)).to(device)

    probability = torch.zeros_like(image)
    starts = [window_starts(length, edge, plan.overlap) for length, edge in zip(image.shape, window)]
    profiles = [
        torch.from_numpy(blend_profiles(length, edge, first)).to(device)
        for length, edge, first in zip(image.shape, window, starts)
    ]
    places = [(k, j, i) for k in range(len(starts[0])) for j in range(len(starts[1])) for i in range(len(starts[2]))]
    batches = [places[first : first + plan.batch_size] for first in range(0, len(places), plan.batch_size)]
    forward = _Forward(model, plan.transforms, plan.batch_size)
    # 0 until a logit is not finite. Read when the volume is done, so that a GPU need not be waited for window by window.
    strange = torch.zeros((), device=device)
    with _evaluating(model, device), torch.inference_mode(), autocast(device, dtype):
        for number, batch in enumerate(plan.progress(batches, desc="windows", total=len(batches))):
            if plan.deadline is not None and time.monotonic() > plan.deadline:
                raise OutOfTimeError(f"the deadline passed inside a volume of shape {volume.shape}")
            corners = [(starts[0][k], starts[1][j], starts[2][i]) for k, j, i in batch]
            blocks = [tuple(slice(at, at + edge) for at, edge in zip(corner, window)) for corner in corners]
            patches = torch.stack([image[block] for block in blocks])[:, None]
            predicted, ends = forward(patches)
            # 0 times a number is 0, and 0 times infinity is NaN.
            strange += (ends * 0.0).sum()
            if number == 0:
                # Spoilt weights show in the first window.
                _check_finite(strange, dtype)
            for (k, j, i), block, patch in zip(batch, blocks, predicted[:, 0]):
                weight = profiles[0][k][:, None, None] * profiles[1][j][:, None] * profiles[2][i]
                probability[block] += patch * weight
    _check_finite(strange, dtype)
    depth, height, width = volume.shape
    return probability[:depth, :height, :width].clamp_(0.0, 1.0).cpu().numpy()


def _unwrap(model: Model) -> Model:
    """The module that says how it wants its input, behind what shares it out to devices."""
    while isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def _normalisation_of(model: Model) -> Normalisation | None:
    """How a model wants its grey values, as far as it says so."""
    normalisation = getattr(getattr(_unwrap(model), "record", None), "normalisation", None)
    return normalisation if isinstance(normalisation, Normalisation) else None


@contextmanager
def _evaluating(model: Model, device: torch.device) -> Iterator[None]:
    """A module on the device and in evaluation mode, part by part as it was afterwards; another callable as it is."""
    if not isinstance(model, torch.nn.Module):
        yield
        return
    model.to(device)
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class _Forward:
    """A model's forward pass, over every transform and in as many parts as the memory of a GPU asks for."""

    def __init__(self, model: Model, transforms: Sequence[Transform], batch_size: int) -> None:
        self._model, self._transforms = model, transforms
        # Windows; fewer once so many did not fit.
        self._at_once = batch_size

    def __call__(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean probability, float32, of a batch (B, 1, Z, Y, X), and the least and greatest logits met."""
        parts = []
        while len(patches):
            try:
                parts.append(self._predict(patches[: self._at_once]))
                patches = patches[self._at_once :]
                continue
            except torch.cuda.OutOfMemoryError as error:
                if self._at_once == 1:
                    edges = "x".join(map(str, patches.shape[2:]))
                    raise InputValueError(f"window must fit the memory of {patches.device}, got {edges}") from error
            # Only here has the exception let go of what the forward pass held.
            self._at_once = (min(self._at_once, len(patches)) + 1) // 2
            torch.cuda.empty_cache()
            logger.warning(
                "the memory of %s is too small for so many windows: %d at once from here on",
                patches.device,
                self._at_once,
            )
        predicted, ends = zip(*parts)
        return torch.cat(predicted), torch.cat(ends)

    def _predict(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total, ends = torch.zeros((), device=patches.device), list[torch.Tensor]()
        for transform in self._transforms:
            turned = transform.forward(patches)
            logits = _check_logits(self._model(turned), turned).to(patches.device, torch.float32)
            ends += torch.aminmax(logits)
            total = total + transform.back(logits.sigmoid())
        return total / len(self._transforms), torch.stack(ends)


def _check_logits(output: object, patches: torch.Tensor) -> torch.Tensor:
    """What a model returned, if it is logits for every voxel."""
    if isinstance(output, torch.Tensor) and output.shape == patches.shape and output.is_floating_point():
        return output
    wanted = f"one tensor of logits of the input's shape (B, 1, Z, Y, X) = {tuple(patches.shape)}, of a floating type"
    raise InputValueError(f"model must return {wanted}, got {_describe(output)}")


def _describe(output: object) -> str:
    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {tuple(output.shape)} and type {str(output.dtype).removeprefix('torch.')}"
    if isinstance(output, np.ndarray):
        return f"a NumPy array of shape {output.shape} and type {output.dtype}"
    if isinstance(output, dict):
        return f"a dict with the keys {', '.join(map(str, output)) or 'none'}"
    if isinstance(output, (list, tuple)):
        first = f", the first of them {_describe(output[0])}" if output else ""
        return f"a {type(output).__name__} of {len(output)}{first}"
    return f"an object of type {type(output).__name__}"


def _check_finite(strange: torch.Tensor, dtype: torch.dtype) -> None:
    if torch.isfinite(strange):
        return
    raise NotFiniteError(f"must return finite logits, got NaN or infinity in {str(dtype).removeprefix('torch.')}")


def predict_ensemble(
    models: Sequence[Model],
    volume: NDArray[Any],
    *,
    windows: Sequence[int | Sequence[int]] | None = None,
    names: Sequence[str] | None = None,
    **settings: Any,
) -> NDArray[np.float32]:
    """Return the mean probability of several models, whatever their order; one model costs no second volume.

    Each normalises as its own record says.

    Parameters
    ----------
    windows
        The window of each model; by default all have the ``window`` of ``settings``.
    names
        What messages call each model.
    **settings
        Of `predict_volume`.
    """
    if not models:
        raise InputValueError("models must hold at least one model, got none")
    if windows is None:
        windows = [settings.pop("window")] * len(models)
    names = [f"model {number}" for number in range(len(models))] if names is None else names
    if not len(models) == len(windows) == len(names):
        raise InputValueError(
            f"windows and names must be {len(models)}, as the models, got {len(windows)} and {len(names)}"
        )
    if len(models) == 1:
        return predict_volume(models[0], volume, window=windows[0], name=names[0], **settings)
    total = np.zeros(check_array("volume", volume).shape, np.int64)
    for model, window, name in zip(models, windows, names):
        probability = predict_volume(model, volume, window=window, name=name, **settings)
        for plane, more in zip(total, probability):
            # A sum of whole numbers does not depend on their order.
            plane += np.rint(more * _FIXED_POINT).astype(np.int64)
    return (total / (len(models) * _FIXED_POINT)).astype(np.float32)
