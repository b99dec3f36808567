"""Stochastic weight averaging (Izmailov et al., UAI 2018): the mean of weights taken along the end of a run."""

from collections.abc import Iterable
from contextlib import contextmanager

import torch

from vesuvius_kit.training.batch_norm import measure_statistics


class WeightAverage:
    """Running mean of a network's weights; empty at first.

    Floating-point buffers are averaged with the weights; others are taken as they are last. The statistics of batch
    normalisation belong to no mean of weights: `renew_statistics` takes them anew before the mean is used.
    """

    def __init__(self):
        self.count = 0
        self.tensors = {}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Take the model's weights into the mean, each time with the same weight.

        Parameters
        ----------
        model : torch.nn.Module
            The same network each time.
        """
        self.count += 1
        for name, tensor in model.state_dict().items():
            if name not in self.tensors or not tensor.is_floating_point():
                self.tensors[name] = tensor.detach().clone()
            else:
                self.tensors[name] += (tensor - self.tensors[name]) / self.count

    @contextmanager
    def applied_to(self, model: torch.nn.Module):
        """Within the ``with`` statement the model has the mean weights; afterwards its own again.

        Parameters
        ----------
        model : torch.nn.Module
            The network whose weights are averaged.

        Yields
        ------
        torch.nn.Module
            The model.
        """
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.tensors)
        try:
            yield model
        finally:
            model.load_state_dict(own)

    def renew_statistics(self, model: torch.nn.Module, batches: Iterable) -> None:
        """Take the running statistics of batch normalisation anew, with the mean weights.

        Parameters
        ----------
        model : torch.nn.Module
            The network whose weights are averaged; it keeps its own weights and statistics.
        batches : iterable of torch.Tensor
            Images on the model's device, the same after every resume.
        """
        with self.applied_to(model):
            measure_statistics(model, batches)
            self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def restore(self, count: int, tensors: dict, device) -> None:
        """Go back to a mean that a checkpoint holds.

        Parameters
        ----------
        count : int
            How many weights went into it.
        tensors : dict of str to torch.Tensor
            The mean; empty where the checkpoint has none, as ``best``, and then nothing is counted either.
        device : torch.device
            Where the model is.
        """
        self.count = count if tensors else 0
        self.tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
