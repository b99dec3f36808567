"""What a configuration says of an epoch: its rate, its loss, how labels are read, whether the run may go back."""

import math

import torch

from vesuvius_kit.config import RunConfig, config_to_dict
from vesuvius_kit.constants import UNLABELLED
from vesuvius_kit.data.patches import PatchDataset
from vesuvius_kit.losses import WeightedLoss
from vesuvius_kit.training.learning_rate import BoundedLR
from vesuvius_kit.training.legacy import LegacyHandler, make_lr


def may_roll_back(config: RunConfig) -> bool:
    """Return whether a run ever goes back to its best state.

    Parameters
    ----------
    config : RunConfig
        Its sections ``train`` and ``lr`` are read.

    Returns
    -------
    bool
        Not under ``warm_restarts``, which mean to lose the best for a time, nor with a legacy handler, which knew no way
        back.
    """
    asked = config.train.rollback_tolerance > 0 or config.train.rollback_rising_epochs > 0
    sensible = config.lr.schedule != "warm_restarts" and config.lr.handler == "bounded"
    return asked and sensible and config.train.max_rollbacks > 0


def make_controller(config: RunConfig) -> BoundedLR | LegacyHandler:
    """Return the learning-rate controller of a configuration, at epoch 0.

    Parameters
    ----------
    config : RunConfig
        Its sections ``train`` and ``lr`` are read.

    Returns
    -------
    BoundedLR or LegacyHandler
    """
    settings = config_to_dict(config.lr)
    del settings["allow_raise"]  # asked again at every step
    return make_lr(settings.pop("handler"), config.train.learning_rate, n_epochs=config.train.num_epochs, **settings)


def choose_rate(config: RunConfig, controller, epoch: int) -> float:
    """Return the learning rate of an epoch: the controller's, or the constant one while weights are averaged.

    Parameters
    ----------
    config : RunConfig
        Its section ``train`` is read.
    controller : BoundedLR or LegacyHandler
        At that epoch. The legacy handlers, made to run away, are not held back by averaging either.
    epoch : int
        Counted from 0.

    Returns
    -------
    float
    """
    constant = averages_weights(config, epoch) and isinstance(controller, BoundedLR)
    return config.train.swa_learning_rate if constant else controller.rate


def averages_weights(config: RunConfig, epoch: int) -> bool:
    """Return whether an epoch belongs to those at the end whose weights are averaged.

    Parameters
    ----------
    config : RunConfig
        Its section ``train`` is read.
    epoch : int
        Counted from 0.

    Returns
    -------
    bool
    """
    return 0 < config.train.swa_start_epoch <= epoch


def make_loss(config: RunConfig, epoch: int, report=()) -> WeightedLoss:
    """Return the loss of an epoch.

    Parameters
    ----------
    config : RunConfig
        Its section ``loss`` is read.
    epoch : int
        For the schedule of the weights.
    report : collection of str
        Names of weights (such as ``variance_weight``) whose components are computed even where they weigh nothing.

    Returns
    -------
    WeightedLoss
    """
    return WeightedLoss(
        config.loss.weights(epoch),
        focal_gamma=config.loss.focal_gamma,
        focal_alpha=config.loss.focal_alpha,
        class_weights=config.loss.class_weights,
        report=[name.removesuffix("_weight") for name in report],
    )


def read_labels(config: RunConfig, labels: torch.Tensor) -> torch.Tensor:
    """Return labels as the loss is to see them: as they are, or read wrongly where the plateau study asks for it.

    Parameters
    ----------
    config : RunConfig
        Its section ``loss`` is read.
    labels : torch.Tensor
        Integers 0, 1 and 2.

    Returns
    -------
    torch.Tensor
        Of the same dtype.
    """
    return (labels > 0).to(labels.dtype) if config.loss.unlabelled_as_surface else labels


def inference_window(config: RunConfig) -> tuple[int, ...]:
    """Return the window of whole-volume inference: the configured one, or the patch size of the training.

    Parameters
    ----------
    config : RunConfig
        Its sections ``predict`` and ``patches`` are read.

    Returns
    -------
    tuple of int
        Edges in voxels, (z, y, x).
    """
    return tuple(config.predict.window) if all(config.predict.window) else tuple(config.patches.size)


def labelled_share(labels: torch.Tensor) -> torch.Tensor:
    """Return the share of a batch's patches that hold a labelled voxel.

    Parameters
    ----------
    labels : torch.Tensor
        (B, Z, Y, X), integers 0, 1 and 2.

    Returns
    -------
    torch.Tensor
        0-d float32, in [0, 1].
    """
    return (labels != UNLABELLED).flatten(1).any(1).float().mean()


def make_validation_patches(config: RunConfig, chunks: list, normalisation) -> PatchDataset:
    """Return the fixed patches on which the validation loss is taken; held at epoch 0, so they are always the same.

    Parameters
    ----------
    config : RunConfig
        Its sections ``train`` and ``patches`` are read.
    chunks : list of Chunk
        The fold's validation chunks.
    normalisation : Normalisation or None
        Of the model's record.

    Returns
    -------
    PatchDataset
    """
    patches, count = config.patches, config.train.validation_patches
    return PatchDataset(
        chunks,
        patch_size=patches.size,
        samples_per_epoch=count,
        patches_per_volume=math.ceil(count / len(chunks)),
        surface_fraction=patches.surface_fraction,
        max_unlabelled_fraction=patches.max_unlabelled_fraction,
        cache_volumes=patches.cache_volumes,
        normalise=normalisation,
        seed=config.train.seed,
    )


def choose_scored(config: RunConfig, chunks: list) -> list:
    """Return the validation chunks that are predicted whole and scored: at most so many, evenly spread over the fold.

    Parameters
    ----------
    config : RunConfig
        Its section ``train`` is read.
    chunks : list of Chunk
        The fold's validation chunks.

    Returns
    -------
    list of Chunk
    """
    count = config.train.validation_volumes
    if count == 0 or count >= len(chunks):
        return chunks
    return [chunks[round(index * (len(chunks) - 1) / max(1, count - 1))] for index in range(count)]
