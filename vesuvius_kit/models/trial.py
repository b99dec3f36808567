"""Whether a network takes the batches it will be given, found before the first step of a run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from vesuvius_kit.checks import InputError, InputValueError

# What torch, and networks of other people, raise for a shape that does not fit.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError, AssertionError)


def check_takes(model: nn.Module, batch_size: int, size: Sequence[int], *, training: bool, name: str) -> None:
    """Raise unless a network turns a batch of images into logits of that shape.

    Its weights, statistics and mode stay as they are.

    Parameters
    ----------
    size
        Edges of the images in voxels, (z, y, x).
    training
        Whether it is tried in training mode, where batch normalisation needs more than one value a channel.
    name
        The setting that asks for it, as the message calls it: ``patches.size``.
    """
    shape = (int(batch_size), 1, *map(int, size))
    was_training = model.training
    model.train(training)
    try:
        output = _answer(model, shape)
    except _REFUSALS as error:
        reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())
        raise InputValueError(
            f"{name} must suit {_describe(model)}, got {list(shape[2:])} in batches of {batch_size}: {reason}"
        ) from error
    finally:
        model.train(was_training)
    arrived = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if arrived != shape:
        raise InputValueError(f"{_describe(model)} must return logits of shape {shape} for {name}, got {arrived}")


@torch.no_grad()
def _answer(model: nn.Module, shape: Sequence[int]) -> Any:
    """What a network returns for a batch of that shape, computed on shapes alone where that is possible."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    try:
        # Shapes alone, without a number: it takes neither time nor memory.
        return functional_call(
            model, {name: tensor.to("meta") for name, tensor in tensors.items()}, torch.empty(shape, device="meta")
        )
    except InputError:
        raise
    except _REFUSALS:
        # Some operations cannot be told without numbers: what refuses these as well is meant.
        buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
        device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
        return functional_call(model, buffers, torch.zeros(shape, device=device))


def _describe(model: nn.Module) -> str:
    record = getattr(model, "record", None)
    return f"model {record.name}" if record is not None else type(model).__name__
