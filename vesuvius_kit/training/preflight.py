"""Everything a run will need, looked at before its first step and before anything is written or moved aside.

What a run meets in its fifth epoch for the first time (the window of the inference, the pipeline of the repair) costs these
epochs otherwise, and the same command would run into it again and again.
"""

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vesuvius_kit.checks import InputError, InputOSError, InputTypeError, InputValueError, name_os_errors
from vesuvius_kit.config import RunConfig, config_to_dict
from vesuvius_kit.constants import BACKGROUND, SURFACE, UNLABELLED
from vesuvius_kit.data.competition import Chunk
from vesuvius_kit.inference.predict import choose_device
from vesuvius_kit.inference.threads import keep_torch_threads
from vesuvius_kit.io.folder_lock import lock_folder
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.models import SegmentationModel, check_takes, create_model
from vesuvius_kit.models.normalisation import Normalisation
from vesuvius_kit.postprocess.pipeline import choose_pipeline, try_pipeline
from vesuvius_kit.training.from_config import (
    choose_scored,
    inference_window,
    make_controller,
    make_loss,
    make_validation_patches,
)

logger = logging.getLogger(__name__)


def check_run(
    config: RunConfig,
    splits: Sequence[tuple[Sequence[Chunk], Sequence[Chunk]]],
    label_transform: Callable[[Tensor], Tensor],
) -> None:
    """Raise if a run could not come to its end: what it needs is missing, unreadable or does not fit.

    Parameters
    ----------
    splits
        Training and validation chunks of every fold, from pairs that have been audited.
    label_transform
        Gives labels as the loss is to see them.

    Raises
    ------
    InputError
        One line that names the setting, the fold or the file.
    """
    with _naming("predict.device"):
        choose_device(config.predict.device)
    if config.predict.weights:
        names = ", ".join(config.predict.weights)
        raise InputValueError(
            f"predict.weights must be left out for a training: they are of an ensemble of trained networks, got {names}"
        )
    make_controller(config)
    for epoch in {0, config.train.num_epochs - 1}:
        make_loss(config, epoch)
    # Torch computes again right after it, in a forked process on one thread only.
    with _naming("postprocess.pipeline"), keep_torch_threads():
        try_pipeline(choose_pipeline(**config_to_dict(config.postprocess)))
    model = _try_model(config)
    for fold in config.fold_list:
        _check_fold(config, fold, *splits[fold], model.require_record().normalisation, label_transform)
    # Only one process writes.
    if _is_main_process():
        _check_output(config, model)


@contextmanager
def lock_folds(config: RunConfig) -> Iterator[None]:
    """Hold the folders of a run's folds within the ``with`` statement; of several processes, the main one does.

    Raises
    ------
    InputError
        Another command trains one of them; the folder cannot be written.
    """
    with ExitStack() as stack:
        for fold in config.fold_list if _is_main_process() else ():
            # Beside the fold's folder, which is renamed when it moves aside.
            stack.enter_context(lock_folder(config.output, f".fold_{fold}.lock"))
        yield


def _is_main_process() -> bool:
    # Every launcher sets it, and no accelerator has been started yet.
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _naming(setting: str) -> Iterator[None]:
    """Let an error name the setting it comes from."""
    try:
        yield
    except InputError as error:
        kind = InputTypeError if isinstance(error, TypeError) else InputValueError
        raise kind(f"{setting}: {error}") from error


def _try_model(config: RunConfig) -> SegmentationModel:
    """The network, built and asked for the shapes of training and inference; mostly nothing is computed."""
    with _naming("model"), torch.random.fork_rng(devices=[]):
        model = create_model(config.model.name, normalisation=config.model.normalisation, **config.model.options)
    window, divisor = inference_window(config), model.size_divisor
    for setting, edges in (("patches.size", config.patches.size), ("predict.window", window)):
        if any(edge % divisor for edge in edges):
            raise InputValueError(
                f"{setting} must be multiples of {divisor} for model {config.model.name}, got {list(edges)}"
            )
    # One patch or several is all that batch normalisation asks, which sees those of all processes.
    check_takes(model, min(config.train.batch_size, 2), config.patches.size, training=True, name="patches.size")
    check_takes(model, 1, window, training=False, name="predict.window")
    return model


def _check_fold(
    config: RunConfig,
    fold: int,
    train_chunks: Sequence[Chunk],
    validation_chunks: Sequence[Chunk],
    normalisation: Normalisation | None,
    read_labels: Callable[[Tensor], Tensor],
) -> None:
    labelled = _require_labelled(train_chunks, f"training chunks of fold {fold}")
    _require_both_classes(train_chunks, fold, read_labels)
    _require_labelled(choose_scored(config, validation_chunks), f"scored validation chunks of fold {fold}")
    patches = make_validation_patches(config, validation_chunks, normalisation)
    labels = (read_labels(patches[index]["label"]) for index in range(len(patches)))
    if not any(bool((label != UNLABELLED).any()) for label in labels):
        raise InputValueError(
            f"train.validation_patches must reach a labelled voxel of fold {fold}, got {len(patches)} patches of label 2"
        )
    if any(edge > length for edge, length in zip(config.patches.size, labelled.shape)):
        logger.warning(
            "patches.size %s is larger than chunks of %s: what is missing is black and unlabelled",
            list(config.patches.size),
            list(labelled.shape),
        )


def _require_labelled(chunks: Sequence[Chunk], what: str) -> NDArray[Any]:
    """The first label among the chunks that holds a voxel of 0 or 1; mostly the first is read and no other."""
    for chunk in chunks:
        label = read_volume(chunk.require_label())
        if np.any(label != UNLABELLED):
            return label
    names = ", ".join(chunk.id for chunk in chunks[:5]) + (" ..." if len(chunks) > 5 else "")
    raise InputValueError(f"{what} must hold a labelled voxel, got label 2 alone in {names}")


def _require_both_classes(chunks: Sequence[Chunk], fold: int, read_labels: Callable[[Tensor], Tensor]) -> None:
    """Raise unless the loss will see surface and background; mostly the first label holds both and no other is read."""
    missing = {SURFACE: "surface (1)", BACKGROUND: "background (0)"}
    for chunk in chunks:
        label = read_labels(torch.from_numpy(read_volume(chunk.require_label())))
        missing = {value: name for value, name in missing.items() if not bool((label == value).any())}
        if not missing:
            return
    raise InputValueError(
        f"training chunks of fold {fold} must hold surface (1) and background (0), got no voxel of "
        f"{' or '.join(missing.values())} in {len(chunks)} labels"
    )


def _check_output(config: RunConfig, model: SegmentationModel) -> None:
    """Whether the run's folder can be written and has room for a checkpoint."""
    tensors = model.state_dict().values()
    # Weights, two moments of the optimiser, and the mean of the weights.
    copies = 4 if config.train.swa_start_epoch else 3
    needed = copies * sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors)
    for fold in config.fold_list:
        folder = Path(config.output, f"fold_{fold}")
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise InputOSError(f"output must be a folder, got the file {folder}")
        with name_os_errors(f"write into {folder}, for output {config.output}"):
            tempfile.TemporaryFile(dir=folder).close()
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise InputOSError(
                f"output must have room for a checkpoint of {needed / 1e6:.0f} MB, got {free / 1e6:.0f} MB in {folder}"
            )
