"""From a volume to probabilities: Gaussian-weighted windows, views and ensembles, on a GPU or a processor."""

import logging
import time
from contextlib import nullcontext

import numpy as np
import torch

from vesuvius_kit.checks import InputValueError, check_array, check_choice, check_integer, check_size
from vesuvius_kit.console import no_progress
from vesuvius_kit.grid import DEFAULT_OVERLAP, blend_profiles, window_starts

logger = logging.getLogger(__name__)

Z, Y, X = -3, -2, -1

# Each view is (how to turn the volume, how to turn the prediction back).
_IDENTITY = (lambda x: x, lambda x: x)


def _flip(*axes):
    return (lambda x: x.flip(axes), lambda x: x.flip(axes))


def _quarter_turns(count):
    return (lambda x: torch.rot90(x, count, (Y, X)), lambda x: torch.rot90(x, -count, (Y, X)))


VIEWS = {
    "none": [_IDENTITY],
    "mirror": [_IDENTITY, *[_flip(*axes) for axes in ((Z,), (Y,), (X,), (Z, Y), (Z, X), (Y, X), (Z, Y, X))]],
    "seven": [_IDENTITY, _flip(Z), _flip(Y), _flip(X), *[_quarter_turns(count) for count in (1, 2, 3)]],
}


class OutOfTimeError(Exception):
    """The deadline passed before the volume was done; what had been predicted of it is dropped."""


def choose_device(device: str = "auto") -> torch.device:
    """Return the torch device meant by a name.

    Parameters
    ----------
    device : str
        ``auto`` is the first GPU, or the processor where there is none.

    Returns
    -------
    torch.device

    Raises
    ------
    InputValueError
        Not a device of this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputValueError(f"device must be auto or a torch device, got {device!r}") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputValueError(f"device must exist, got {device!r} on a machine with {torch.cuda.device_count()} GPUs")
    return chosen


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the autocast type for a precision; ``auto`` takes the fastest the device has hardware for.

    Parameters
    ----------
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    device : torch.device
        Where it will run. A T4 has fp16 but no bf16 units; processors gain from bf16 only.

    Returns
    -------
    torch.dtype

    Raises
    ------
    InputValueError
        An unknown precision.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    check_choice("precision", precision, ["auto", *dtypes])
    if precision != "auto":
        return dtypes[precision]
    if device.type == "cuda":
        # is_bf16_supported() also counts emulation, which is slower than fp32.
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16


def autocast(device: torch.device, dtype: torch.dtype):
    """Return the autocast context for a type; float32 means none.

    Parameters
    ----------
    device : torch.device
        Where the forward pass runs.
    dtype : torch.dtype
        float32, bfloat16 or float16.

    Returns
    -------
    context manager
    """
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def predict_volume(
    model,
    volume,
    *,
    window,
    overlap=DEFAULT_OVERLAP,
    batch_size=1,
    views="none",
    device="auto",
    dtype=None,
    deadline=None,
    progress=no_progress,
) -> np.ndarray:
    """Return the surface probability of every voxel, predicted window by window and blended.

    Parameters
    ----------
    model : torch.nn.Module
        (B, 1, Z, Y, X) to logits of the same shape, with ``record.normalisation``, as `create_model` returns it. Moved to
        ``device`` and put into evaluation mode.
    volume : numpy.ndarray
        (Z, Y, X), any numeric type, any size; smaller than the window is padded with grey 0.
    window : int or tuple of int
        Window edges in voxels, (z, y, x), multiples of ``model.size_divisor``.
    overlap : float
        Smallest share of a window that the next one covers again, in [0, 1).
    batch_size : int
        Windows in one forward pass.
    views : str
        Test-time augmentation, one of ``VIEWS``; the probabilities of the views are averaged.
    device : str or torch.device
        ``auto`` is the first GPU, or the processor.
    dtype : torch.dtype, optional
        Autocast type; by default the fastest of the device.
    deadline : float, optional
        A reading of `time.monotonic` after which no window is started.
    progress : callable
        Wraps the batches of windows, in tqdm's calling form.

    Returns
    -------
    numpy.ndarray
        float32 of the volume's shape, in [0, 1].

    Raises
    ------
    InputTypeError, InputValueError
        An argument of the wrong kind or out of range, an empty volume.
    OutOfTimeError
        The deadline passed.
    """
    check_array("volume", volume)
    if volume.size == 0:
        raise InputValueError(f"volume must not be empty, got shape {volume.shape}")
    window = check_size("window", window)
    check_integer("batch_size", batch_size, minimum=1)
    check_choice("views", views, VIEWS)
    if views == "seven" and window[1] != window[2]:
        raise InputValueError(f"window must be square in y and x for views 'seven', got {window}")
    for edge in window:
        if edge % model.size_divisor:
            raise InputValueError(f"window must be multiples of {model.size_divisor} for this model, got {window}")
    device = choose_device(device) if isinstance(device, str) else device
    dtype = choose_dtype("auto", device) if dtype is None else dtype

    statistics = float(volume.mean()), float(volume.std())
    # Beyond the scan is black, as in training patches; the statistics are those of the volume alone.
    missing = [(0, max(0, edge - length)) for edge, length in zip(window, volume.shape)]
    padded = np.pad(volume, missing) if any(after for _, after in missing) else volume
    normalised = model.record.normalisation.apply(padded, *statistics)
    image = torch.from_numpy(np.ascontiguousarray(normalised, dtype=np.float32)).to(device)

    model = model.to(device).eval()
    probability = torch.zeros_like(image)
    starts = [window_starts(length, edge, overlap) for length, edge in zip(image.shape, window)]
    profiles = [
        torch.from_numpy(blend_profiles(length, edge, first, sigma=0.125)).to(device)
        for length, edge, first in zip(image.shape, window, starts)
    ]
    places = [(k, j, i) for k in range(len(starts[0])) for j in range(len(starts[1])) for i in range(len(starts[2]))]
    batches = [places[first : first + batch_size] for first in range(0, len(places), batch_size)]
    with torch.inference_mode(), autocast(device, dtype):
        for batch in progress(batches, desc="windows", total=len(batches)):
            if deadline is not None and time.monotonic() > deadline:
                raise OutOfTimeError(f"the deadline passed inside a volume of shape {volume.shape}")
            corners = [(starts[0][k], starts[1][j], starts[2][i]) for k, j, i in batch]
            blocks = [tuple(slice(at, at + edge) for at, edge in zip(corner, window)) for corner in corners]
            patches = torch.stack([image[block] for block in blocks])[:, None]
            predicted = _predict_views(model, patches, VIEWS[views])[:, 0]
            for (k, j, i), block, patch in zip(batch, blocks, predicted):
                weight = profiles[0][k][:, None, None] * profiles[1][j][:, None] * profiles[2][i]
                probability[block] += patch * weight
    depth, height, width = volume.shape
    return probability[:depth, :height, :width].clamp_(0.0, 1.0).cpu().numpy()


def _predict_views(model, patches, views):
    """Mean probability over the views, float32, of a batch (B, 1, Z, Y, X)."""
    total = 0.0
    for turn, turn_back in views:
        total = total + turn_back(model(turn(patches)).float().sigmoid())
    return total / len(views)


def predict_ensemble(models, volume, **settings) -> np.ndarray:
    """Return the mean probability of several models; one model costs no second volume.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        At least one; each normalises as its own record says.
    volume : numpy.ndarray
        (Z, Y, X), any numeric type.
    **settings
        Of `predict_volume`.

    Returns
    -------
    numpy.ndarray
        float32 of the volume's shape, in [0, 1].

    Raises
    ------
    InputValueError
        No model, or what `predict_volume` raises.
    """
    if not models:
        raise InputValueError("models must hold at least one model, got none")
    probability = predict_volume(models[0], volume, **settings)
    for model in models[1:]:
        probability += predict_volume(model, volume, **settings)
    probability /= len(models)
    return probability
