"""Batch normalisation (Ioffe and Szegedy, ICML 2015) in a run: over the batch of all processes, and for averaged weights.

No network of the kit's own has it; the encoders of timm-3d do, and so may a user's network.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from vesuvius_kit.checks import InputValueError


class SharedBatchNorm(TorchFunctionMode):
    """Within the ``with`` statement every batch normalisation takes its statistics over the batches of all processes.

    `torch.nn.SyncBatchNorm` does so on GPUs alone, and a network that is converted to it loses what a subclass of batch norm
    adds, such as timm's activations. Here the function that all of them call is replaced, so that any device and any subclass
    will do. All processes must run the same network, each on its own batch.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.batch_norm:
            return _normalise(*args, **kwargs)
        return function(*args, **kwargs)


def has_batch_norm(model: torch.nn.Module) -> bool:
    """Return whether a network keeps running statistics of its batches."""
    return bool(_layers(model))


@torch.no_grad()
def measure_statistics(model: torch.nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics by plain means over some batches, as the network's present weights give them.

    Parameters
    ----------
    model
        With the weights in question; afterwards in evaluation mode. Everything but batch normalisation is in that mode
        meanwhile, so that nothing is dropped out.
    batches
        Images on the model's device; each counts the same.
    """
    layers = _layers(model)
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        # None: a plain mean over the batches.
        layer.momentum = None
        layer.train()
    for image in batches:
        model(image)
    for layer, momentum in zip(layers, momenta):
        layer.momentum = momentum
    model.eval()


def _layers(model: torch.nn.Module) -> list[_BatchNorm]:
    return [part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]


def _normalise(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` with the statistics of all processes."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    values = x.float()
    count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
    sums: Tensor = _Sum.apply(torch.cat([values.sum(axes), count]))
    sums, count = sums[:-1], sums[-1].detach()
    if count <= 1:
        raise InputValueError("batch normalisation must see more than one value a channel in all processes, got 1")
    mean = sums / count
    # In two passes: the difference of two large numbers would lose the small one.
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    normalised = centred * torch.rsqrt(variance + eps).view(shape)
    if weight is not None:
        normalised = normalised * weight.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total
