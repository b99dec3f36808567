"""What a configuration says of an epoch: its controller, its loss, its patches, the volumes that are scored."""

import math
from collections.abc import Collection, Sequence

import torch

from vesuvius_kit.config import RunConfig, Size, config_to_dict
from vesuvius_kit.constants import UNLABELLED
from vesuvius_kit.data.competition import Chunk
from vesuvius_kit.data.patches import PatchDataset
from vesuvius_kit.losses import WeightedLoss
from vesuvius_kit.models.normalisation import Normalisation
from vesuvius_kit.training.learning_rate import BoundedLR


def make_controller(config: RunConfig) -> BoundedLR:
    """Return the learning-rate controller of a configuration, at epoch 0."""
    settings = config_to_dict(config.lr)
    del settings["allow_raise"]  # asked again at every step
    return BoundedLR(config.train.learning_rate, n_epochs=config.train.num_epochs, **settings)


def make_loss(config: RunConfig, epoch: int, report: Collection[str] = ()) -> WeightedLoss:
    """Return the loss of an epoch, by the schedule of its weights.

    ``report`` names weights (such as ``variance_weight``) whose components are computed even where they weigh nothing.
    """
    return WeightedLoss(
        config.loss.weights(epoch),
        focal_gamma=config.loss.focal_gamma,
        focal_alpha=config.loss.focal_alpha,
        class_weights=config.loss.class_weights,
        report=[name.removesuffix("_weight") for name in report],
    )


def inference_window(config: RunConfig) -> Size:
    """Return the window of whole-volume inference: the configured one, or the patch size of the training."""
    z, y, x = config.predict.window if all(config.predict.window) else config.patches.size
    return (z, y, x)


def labelled_share(labels: torch.Tensor) -> torch.Tensor:
    """Return the share of a batch's patches, (B, Z, Y, X), that hold a labelled voxel, as 0-d float32."""
    return (labels != UNLABELLED).flatten(1).any(1).float().mean()


def make_validation_patches(
    config: RunConfig, chunks: Sequence[Chunk], normalisation: Normalisation | None
) -> PatchDataset:
    """Return the fixed patches on which the validation loss is taken; held at epoch 0, so they are always the same."""
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


def choose_scored(config: RunConfig, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return the validation chunks that are predicted whole and scored: at most so many, evenly spread over the fold."""
    count = config.train.validation_volumes
    if count == 0 or count >= len(chunks):
        return list(chunks)
    return [chunks[round(index * (len(chunks) - 1) / max(1, count - 1))] for index in range(count)]
