"""The networks of some checkpoints as one: which files they are, how each wants its windows, the mean of their answers."""

import copy
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.precision import Precision, choose_precision
from vesuvius_kit.inference.predict import choose_device, predict_ensemble
from vesuvius_kit.models import SegmentationModel
from vesuvius_kit.models.checkpoint import (
    CheckpointFile,
    find_checkpoints,
    have_same_weights,
    inspect_checkpoint,
    load_model,
)

logger = logging.getLogger(__name__)


class Ensemble:
    """The networks of some checkpoints with the settings they predict under; loaded when first used."""

    def __init__(self, checkpoints: Iterable[Path | str], predict: PredictConfig) -> None:
        files = [inspect_checkpoint(path) for path in find_checkpoints(checkpoints)]
        # In an order of their own, so that it does not matter in which they were given.
        files.sort(key=lambda file: (file.digest, file.path))
        _refuse_duplicates(files)
        self.paths = [file.path for file in files]
        self.digests = [file.digest for file in files]
        self.predict_settings = predict
        choose_device(predict.device)
        self.windows: list[tuple[int, ...]] = [
            tuple(predict.window) if all(predict.window) else _trained_window(file) for file in files
        ]
        for path, digest, window in zip(self.paths, self.digests, self.windows):
            logger.info("weights %s (%s), window %s", path, digest, "x".join(map(str, window)))
        if len(self.paths) > 1:
            logger.info("the probabilities of these %d networks are averaged", len(self.paths))
        self._threads = torch.get_num_threads()
        self._models: list[SegmentationModel] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What is noted beside the results. Without device, precision and batch size: another machine may go on."""
        windows = [list(window) for window in self.windows]
        is_one = len(set(self.windows)) == 1
        return {
            "weights": self.digests,
            **({"window": windows[0]} if is_one else {"windows": windows}),
            "overlap": self.predict_settings.overlap,
            "tta": self.predict_settings.tta,
        }

    def at(self, precision: Precision) -> "Ensemble":
        """Return the same ensemble in a precision that has been chosen, for every process that shares the work."""
        other = copy.copy(self)
        other.predict_settings = replace(self.predict_settings, precision=precision.name)
        return other

    def on(self, device: str) -> "Ensemble":
        """Return the same ensemble for another device, its networks not loaded."""
        other = copy.copy(self)
        other.predict_settings = replace(self.predict_settings, device=device)
        other._models = None
        return other

    def predict(
        self, name: str, volume: NDArray[Any], deadline: float | None = None, progress: Progress = no_progress
    ) -> NDArray[np.float32]:
        """Return the mean probability of a volume, (Z, Y, X) in [0, 1]; ``name`` is its id in messages."""
        settings = self.predict_settings
        if self._models is None:
            # The digest is that of the bytes that predict, in whichever process.
            self._models = [load_model(path, digest) for path, digest in zip(self.paths, self.digests)]
        device = choose_device(settings.device)
        # A CPU sums in another order with another number of threads, so every process takes the caller's; and starting
        # numba's threads, as the repair of the volume before may have done, resets the number.
        torch.set_num_threads(self._threads)
        return predict_ensemble(
            self._models,
            volume,
            windows=self.windows,
            names=[f"volume {name}: the network of {path}" for path in self.paths],
            overlap=settings.overlap,
            batch_size=settings.batch_size,
            tta=settings.tta,
            device=device,
            dtype=choose_precision(settings.precision, device).dtype,
            deadline=deadline,
            progress=progress,
        )


def _trained_window(file: CheckpointFile) -> tuple[int, ...]:
    """The patch size a network was trained with, which is its window unless another is given."""
    try:
        return tuple(file.header.state["config"]["patches"]["size"])
    except (KeyError, TypeError) as error:
        raise InputValueError(
            f"predict.window must be given for weights that do not know their patch size, got {file.path} without one"
        ) from error


def _refuse_duplicates(files: Sequence[CheckpointFile]) -> None:
    """Averaging a network with itself takes twice the time and changes nothing: nobody means it."""
    for index, file in enumerate(files):
        for other in files[:index]:
            if file.digest == other.digest or have_same_weights(file.path, other.path):
                raise InputValueError(
                    f"checkpoints must hold different weights, got the same in {other.path} and {file.path}"
                )
