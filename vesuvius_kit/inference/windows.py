"""One network over all windows of one volume: the loop, what it does when memory runs out, and what a network may answer."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.console import Progress
from vesuvius_kit.inference.blending import Greys
from vesuvius_kit.inference.grid import Grid, Place
from vesuvius_kit.inference.precision import autocast
from vesuvius_kit.inference.stores import DeviceStore, HostStore, SlabStore, Store
from vesuvius_kit.inference.tta import Symmetry
from vesuvius_kit.models.rules import PredictionRules

logger = logging.getLogger(__name__)


class Model(Protocol):
    """What predicts: any torch module, or another callable."""

    def __call__(self, image: torch.Tensor, /) -> torch.Tensor:
        """Return finite logits (B, C, Z, Y, X), of a floating type, for ``image``: float32 (B, 1, Z, Y, X).

        C is 1 unless the model's rules say otherwise. The image is overwritten once the answer has been used.
        """


class OutOfTimeError(Exception):
    """The deadline passed before the volume was done; what had been predicted of it is dropped."""


class NotFiniteError(InputValueError):
    """A network answered with NaN or infinity: spoilt weights, or numbers too large for half precision."""


class WindowJob(NamedTuple):
    """What is predicted, and how: checked by whoever makes it."""

    model: Model
    """In evaluation mode on the device, if it is a module."""
    image: NDArray[Any]
    """(Z, Y, X), in no axis shorter than the window."""
    greys: Greys
    """How the image is normalised on the way."""
    grid: Grid
    """Where the windows lie."""
    places: Sequence[Place]
    """Windows to predict, in the order of the grid."""
    views: Sequence[Symmetry]
    """Test-time augmentation."""
    rules: PredictionRules
    """What the answer means and how it is averaged."""
    batch_size: int
    """Windows in one forward pass."""
    device: torch.device
    """Of the model."""
    dtype: torch.dtype
    """Autocast type."""
    deadline: float | None
    """Reading of `time.monotonic` after which no window is started."""
    progress: Progress
    """Over the batches."""


def predict_windows(job: WindowJob) -> NDArray[np.float32]:
    """Return the blended answer (C, Z, Y, X): probabilities, or logits where the rules average those.

    Where the device's memory does not do, the batch shrinks, then the answer is kept there in a slab, then in main memory.

    Raises
    ------
    NotFiniteError
        The model answered with NaN or infinity; the message lacks the model's name.
    OutOfTimeError
        The deadline passed.
    """
    forward = _Forward(job)
    (make_store, instead), *others = _places_to_keep(job.device)
    while True:
        try:
            store = make_store(job.image, job.greys, job.grid, forward.channels, job.device)
            return _sweep(job, store, forward)
        except torch.cuda.OutOfMemoryError as error:
            if not others:
                edges = "x".join(map(str, job.grid.window))
                raise InputValueError(f"window must fit the memory of {job.device}, got {edges}") from error
        # Only here has the exception let go of what the store and the forward pass held.
        torch.cuda.empty_cache()
        logger.warning("the memory of %s is too small for volume and answer: %s from here on", job.device, instead)
        (make_store, instead), *others = others


_StoreMaker = Callable[[NDArray[Any], Greys, Grid, int, torch.device], Store]


def _places_to_keep(device: torch.device) -> list[tuple[_StoreMaker, str]]:
    """Where volume and answer may lie, the fastest first, and what follows each when memory runs out."""
    if device.type == "cpu":
        return [(HostStore, "")]
    return [(DeviceStore, "a slab of the answer lies there"), (SlabStore, "both lie in main memory"), (HostStore, "")]


def _sweep(job: WindowJob, store: Store, forward: "_Forward") -> NDArray[np.float32]:
    batches = [job.places[first : first + job.batch_size] for first in range(0, len(job.places), job.batch_size)]
    forward.start(store.takes_logits)
    is_finite = True
    with torch.inference_mode(), autocast(job.device, job.dtype):
        for number, batch in enumerate(job.progress(batches, desc="windows", total=len(batches))):
            if job.deadline is not None and time.monotonic() > job.deadline:
                raise OutOfTimeError(f"the deadline passed inside a volume of shape {job.image.shape}")
            answer = forward(store.cut(batch))
            is_finite = store.add(batch, answer, forward.gives_logits) and is_finite
            # Spoilt weights show in the first window. A GPU is then not waited for until the volume is done.
            if not is_finite or (number == 0 and not forward.is_finite()):
                raise _not_finite(job.dtype)
    if not forward.is_finite():
        raise _not_finite(job.dtype)
    return store.finish()


def _not_finite(dtype: torch.dtype) -> NotFiniteError:
    return NotFiniteError(f"must return finite logits, got NaN or infinity in {str(dtype).removeprefix('torch.')}")


class _Forward:
    """A model's forward pass, over every view and in as many parts as the memory of a GPU asks for."""

    def __init__(self, job: WindowJob) -> None:
        self._model, self._views, self._rules = job.model, job.views, job.rules
        self._averages_logits = job.rules.average == "logits"
        self.channels = job.rules.output.n_stored if self._averages_logits else 1
        # Windows; fewer once so many did not fit.
        self._at_once = job.batch_size
        self.gives_logits = self._looks = False
        self._strange: torch.Tensor | None = None

    def start(self, store_takes_logits: bool) -> None:
        """Begin a volume; one view of a single channel leaves its probability to a store that can make it."""
        is_one = len(self._views) == 1 and self._rules.output.kind == "sigmoid"
        self.gives_logits = store_takes_logits and is_one and not self._averages_logits
        self._looks = not (store_takes_logits and (self.gives_logits or self._averages_logits))
        # 0 until a logit is not finite.
        self._strange = None

    def is_finite(self) -> bool:
        """Return whether all logits so far were finite, as far as the store does not look itself."""
        return self._strange is None or bool(torch.isfinite(self._strange))

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the answer, float32 (B, C, z, y, x), to windows (B, 1, z, y, x), the mean over the views."""
        parts = []
        while len(windows):
            try:
                parts.append(self._predict(windows[: self._at_once]))
                windows = windows[self._at_once :]
                continue
            except torch.cuda.OutOfMemoryError:
                if self._at_once == 1:
                    raise
            # Only here has the exception let go of what the forward pass held.
            self._at_once = (min(self._at_once, len(windows)) + 1) // 2
            torch.cuda.empty_cache()
            logger.warning(
                "the memory of %s is too small for so many windows: %d at once from here on",
                windows.device,
                self._at_once,
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _predict(self, windows: torch.Tensor) -> torch.Tensor:
        output, total = self._rules.output, None
        for view in self._views:
            turned = view.turn(windows)
            logits = check_logits(self._model(turned), turned, output.n_channels).to(windows.device, torch.float32)
            if self._looks:
                # 0 times a number is 0, and 0 times infinity is NaN.
                strange = (torch.stack(torch.aminmax(logits)) * 0.0).sum()
                self._strange = strange if self._strange is None else self._strange + strange
            answer = output.to_stored(logits)
            if not (self._averages_logits or self.gives_logits):
                answer = output.to_probability(answer)
            answer = view.turn_back(answer)
            total = answer if total is None else total + answer
        assert total is not None
        return total if len(self._views) == 1 else total / len(self._views)


@contextmanager
def evaluating(model: Model, device: torch.device) -> Iterator[None]:
    """Keep a module on the device and in evaluation mode, part by part as it was afterwards; another callable as it is."""
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


def check_logits(output: object, windows: torch.Tensor, n_channels: int) -> torch.Tensor:
    """Return what a model returned, if it is logits (B, n_channels, z, y, x) for windows (B, 1, z, y, x)."""
    wanted = (windows.shape[0], n_channels, *windows.shape[2:])
    if isinstance(output, torch.Tensor) and output.shape == wanted and output.is_floating_point():
        return output
    shape = "the input's shape (B, 1, Z, Y, X)" if n_channels == 1 else f"shape (B, {n_channels}, Z, Y, X)"
    raise InputValueError(
        f"model must return one tensor of logits of {shape} = {wanted}, of a floating type, got {_describe(output)}"
    )


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
