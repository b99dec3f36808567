"""From a volume to probabilities: Gaussian-weighted windows, test-time augmentation and ensembles, on a GPU or a CPU."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.checks import InputTypeError, InputValueError, check_array, check_integer, check_size
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.config.settings import TTA
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.averaging import ProbabilityMean
from vesuvius_kit.inference.grid import Grid
from vesuvius_kit.inference.image import ShownImage
from vesuvius_kit.inference.precision import choose_precision
from vesuvius_kit.inference.scan import drop_empty
from vesuvius_kit.inference.tta import check_views, choose_views
from vesuvius_kit.inference.windows import (
    Model,
    NotFiniteError,
    OutOfTimeError,
    WindowJob,
    evaluating,
    predict_windows,
)
from vesuvius_kit.models import Normalisation
from vesuvius_kit.models.rules import KIT_RULES, PredictionRules

__all__ = ["Model", "NotFiniteError", "OutOfTimeError", "choose_device", "predict_ensemble", "predict_volume"]

logger = logging.getLogger(__name__)


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
    window: int | Sequence[int] | None = None,
    overlap: float = PredictConfig.overlap,
    batch_size: int = PredictConfig.batch_size,
    tta: TTA = PredictConfig.tta,
    device: torch.device | str = PredictConfig.device,
    dtype: torch.dtype | None = None,
    normalisation: Normalisation | str | dict[str, Any] | None = None,
    rules: PredictionRules | None = None,
    spacing: Sequence[float] | None = None,
    skip_empty: bool = True,
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
        (Z, Y, X), any numeric type, any size; smaller than the window is padded, with grey 0 unless the model's rules say
        otherwise.
    window
        Window edges in voxels, (z, y, x) of the network, multiples of ``model.size_divisor`` where the model has one; by
        default what the model's rules say.
    overlap
        Smallest share of a window that the next one covers again, in [0, 1).
    batch_size
        Windows in one forward pass.
    tta
        Test-time augmentation: ``none``, ``mirror4`` (flips of y and x), ``mirror`` (8 flips), ``seven`` (3 flips, 3 quarter
        turns about z, none), ``cubic`` (48), or ``auto``, which is what the model's rules say.
    device
        ``auto`` is the first GPU, or the CPU.
    dtype
        Autocast type; by default the fastest of the device, as `choose_precision` measures it. When the answer in float16 is
        not finite, the volume is predicted once more in float32, with a warning.
    normalisation
        How the model wants its grey values; by default as its ``record`` says, or, without a record, as they are.
    rules
        What the model's channels mean and how it wants to be shown a volume; by default as its ``record`` says, or, without
        one, a single channel of logits, of the volume as it lies.
    spacing
        Voxel size of the volume, (z, y, x), for rules that resample; by default that of the training.
    skip_empty
        Where the volume holds no scan (see `find_no_scan`), the probability is 0, and windows without any scan are not
        predicted.
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
    rules = rules_of(model) if rules is None else rules
    window = _check_window(model, rules.window if window is None else window, tta)
    check_integer("batch_size", batch_size, minimum=1)
    device = choose_device(device) if isinstance(device, str) else device
    dtype = choose_precision("auto", device).dtype if dtype is None else dtype
    normalisation = _normalisation_of(model) if normalisation is None else Normalisation.of(normalisation)
    views = choose_views(tta, rules.mirror_axes)
    shown = ShownImage(volume, rules, normalisation, spacing, window, skip_empty)
    grid = Grid(shown.image.shape, window, overlap, rules.grid)
    places = grid.places if shown.no_scan is None else drop_empty(grid.places, grid, shown.no_scan)
    job = WindowJob(
        model, shown.image, shown.greys, grid, places, views, rules, batch_size, device, dtype, deadline, progress
    )
    with evaluating(model, device):
        try:
            return shown.place(predict_windows(job))
        except NotFiniteError as error:
            if dtype != torch.float16:
                raise NotFiniteError(f"{name} {error}") from error
            logger.warning("%s %s: the volume is predicted once more, in float32", name, error)
        try:
            return shown.place(predict_windows(job._replace(dtype=torch.float32)))
        except NotFiniteError as error:
            raise NotFiniteError(f"{name} {error} as well as in float16") from error


def _check_window(model: Model, window: int | Sequence[int] | None, tta: TTA) -> tuple[int, int, int]:
    """The window, if the model and the views of test-time augmentation take it."""
    if window is None:
        raise InputValueError("window must be given for a model whose record does not say what it was trained with")
    window = check_size("window", window)
    check_views(tta, window)
    divisor = check_integer("size_divisor of the model", getattr(_unwrap(model), "size_divisor", 1), minimum=1)
    check_divisible(window, getattr(_unwrap(model), "size_divisors", (divisor,) * 3))
    return window


def check_divisible(window: Sequence[int], divisors: Sequence[int], model: str = "this model") -> None:
    """Refuse a window whose edges, (z, y, x), are no multiples of what a model asks for."""
    if any(edge % each for edge, each in zip(window, divisors, strict=True)):
        wanted = divisors[0] if len(set(divisors)) == 1 else tuple(divisors)
        raise InputValueError(f"window must be multiples of {wanted} for {model}, got {tuple(window)}")


def _unwrap(model: Model) -> Model:
    """The module that says how it wants its input, behind what shares it out to devices."""
    while isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def rules_of(model: Model) -> PredictionRules:
    """Return what a model's record says of how it wants to be shown a volume; the kit's own rules where it says nothing."""
    rules = getattr(getattr(_unwrap(model), "record", None), "rules", None)
    return rules if isinstance(rules, PredictionRules) else KIT_RULES


def _normalisation_of(model: Model) -> Normalisation | None:
    """How a model wants its grey values, as far as it says so."""
    normalisation = getattr(getattr(_unwrap(model), "record", None), "normalisation", None)
    return normalisation if isinstance(normalisation, Normalisation) else None


def predict_ensemble(
    models: Sequence[Model],
    volume: NDArray[Any],
    *,
    windows: Sequence[int | Sequence[int] | None] | None = None,
    names: Sequence[str] | None = None,
    **settings: Any,
) -> NDArray[np.float32]:
    """Return the mean probability of several models, whatever their order; one model costs no second volume.

    Each normalises as its own record says.

    Parameters
    ----------
    windows
        The window of each model; by default all have the ``window`` of ``settings``, or what each one's rules say.
    names
        What messages call each model.
    **settings
        Of `predict_volume`.
    """
    if not models:
        raise InputValueError("models must hold at least one model, got none")
    if windows is None:
        windows = [settings.pop("window", None)] * len(models)
    names = [f"model {number}" for number in range(len(models))] if names is None else names
    if not len(models) == len(windows) == len(names):
        raise InputValueError(
            f"windows and names must be {len(models)}, as the models, got {len(windows)} and {len(names)}"
        )
    mean = ProbabilityMean()
    for model, window, name in zip(models, windows, names):
        mean.add(predict_volume(model, volume, window=window, name=name, **settings))
    return mean.mean()
