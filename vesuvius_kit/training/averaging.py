"""Stochastic weight averaging (Izmailov et al., UAI 2018): what a run and its checkpoints ask of torch's `AveragedModel`."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vesuvius_kit.models import SegmentationModel


def count_of(average: AveragedModel | None) -> int:
    """Return how many weights have gone into a mean."""
    return 0 if average is None else int(average.n_averaged)


def averaged_model(average: AveragedModel | None) -> SegmentationModel:
    """Return the network that has the mean weights, of a run that averages."""
    if average is None or not isinstance(average.module, SegmentationModel):
        raise TypeError(f"average must be that of a network of the kit, got {type(average).__name__}")
    return average.module


def tensors_of(average: AveragedModel | None) -> dict[str, torch.Tensor]:
    """Return the mean as a checkpoint holds it; empty where nothing has been averaged."""
    return {} if average is None or not count_of(average) else average.module.state_dict()


def restore_average(average: AveragedModel | None, count: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Go back to a mean of ``count`` weights; without tensors, as ``best`` has none, to a mean of nothing."""
    if average is not None:
        average.n_averaged.fill_(count if tensors else 0)
        if tensors:
            average.module.load_state_dict(tensors)


def make_average(model: nn.Module, device: torch.device) -> AveragedModel:
    """Return an empty mean of a network's weights on a device; other buffers are taken as they are last.

    The statistics of batch normalisation belong to no mean of weights: `measure_statistics` takes them anew before the mean
    is used. `torch.optim.swa_utils.update_bn` would do so in training mode, with whatever drops out there.
    """
    return AveragedModel(model, device=device)
