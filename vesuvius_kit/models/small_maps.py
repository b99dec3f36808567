"""Convolutions over a few voxels, whose gradients torch gets wrong in bfloat16 on a CPU."""

from collections.abc import Sequence

import torch
from torch import nn

# Seen with torch 2.10 and 2.14 where the result is 2 deep (1, with a stride): the gradient of the weights holds memory that
# nobody wrote, now and then NaN. Results from 3 voxels on are right, whatever the kernel.
_LARGEST = 2


class CarefulConv3d(nn.Conv3d):
    """A `torch.nn.Conv3d` that computes in float32 on a CPU where an axis of its result has 2 voxels or fewer.

    So small a convolution takes no time in either type.
    """

    def _get_name(self) -> str:
        return "Conv3d"

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if input.device.type == "cpu" and torch.is_autocast_enabled("cpu") and self._has_small_result(input.shape):
            with torch.autocast("cpu", enabled=False):
                return super()._conv_forward(input.float(), weight, bias)
        return super()._conv_forward(input, weight, bias)

    def _has_small_result(self, shape: Sequence[int]) -> bool:
        if not isinstance(self.padding, tuple):
            return min(shape[-3:]) <= _LARGEST * max(self.stride)
        axes = zip(shape[-3:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return min((n + 2 * pad - gap * (k - 1) - 1) // step + 1 for n, k, step, pad, gap in axes) <= _LARGEST


def mind_small_maps(model: nn.Module) -> None:
    """Make every `torch.nn.Conv3d` of a network a `CarefulConv3d`, in place; weights and their names stay."""
    for module in model.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = CarefulConv3d
