"""The patches of a fold as batches, for training, validation and gradient diagnostics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Subset

from vesuvius_kit.config import RunConfig
from vesuvius_kit.data.augment import Augmentation
from vesuvius_kit.data.competition import Chunk
from vesuvius_kit.data.patches import PatchDataset
from vesuvius_kit.models import SegmentationModel
from vesuvius_kit.training.from_config import make_validation_patches
from vesuvius_kit.training.gradient_diagnostics import N_PATCHES
from vesuvius_kit.training.interrupts import ignore_interrupts


@dataclass
class Loaders:
    """Batches are dicts of ``image`` (B, 1, Z, Y, X) and ``label`` (B, Z, Y, X)."""

    train: Any
    """Batches of the whole run, which Accelerate splits over the processes once it has prepared the loader."""
    validation: DataLoader[Any]
    """This process's share of the fixed validation patches."""
    probe: list[dict[str, torch.Tensor]]
    """Training patches, unaltered, for the gradient diagnostics; empty where these are not wanted."""


def make_loaders(
    config: RunConfig,
    accelerator: Accelerator,
    model: SegmentationModel,
    train_chunks: Sequence[Chunk],
    validation_chunks: Sequence[Chunk],
) -> Loaders:
    """Return the loaders of a fold, at its beginning."""
    patches, settings = config.patches, config.train
    shared: dict[str, Any] = {
        "patch_size": patches.size,
        "surface_fraction": patches.surface_fraction,
        "max_unlabelled_fraction": patches.max_unlabelled_fraction,
        "cache_volumes": patches.cache_volumes,
        "normalise": model.require_record().normalisation,
        "seed": settings.seed,
    }
    train_set = PatchDataset(
        train_chunks,
        samples_per_epoch=settings.steps_per_epoch * settings.batch_size,
        patches_per_volume=patches.per_volume,
        augmentation=Augmentation(patches.augmentation),
        **shared,
    )
    validation_set = make_validation_patches(config, validation_chunks, model.require_record().normalisation)
    wanted = settings.gradient_diagnostics_every_epochs > 0 and accelerator.is_main_process
    probe = PatchDataset(train_chunks, samples_per_epoch=N_PATCHES, **shared) if wanted else None
    pinned, processes = torch.cuda.is_available(), accelerator.num_processes
    mine = Subset(validation_set, range(accelerator.process_index, settings.validation_patches, processes))
    return Loaders(
        DataLoader(
            train_set,
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            pin_memory=pinned,
            worker_init_fn=ignore_interrupts,
        ),
        DataLoader(mine, batch_size=settings.batch_size // processes, pin_memory=pinned),
        [] if probe is None else [probe[index] for index in range(len(probe))],
    )
