"""The pieces the networks share: convolution blocks, and one decoder for every encoder."""

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from vesuvius_kit.checks import InputTypeError, check_choice, check_integer

NEGATIVE_SLOPE = 0.01
"""Of every leaky ReLU."""
UpsamplingKind = Literal["transposed", "trilinear", "nearest"]
"""A transposed convolution of kernel and stride 2, or a 1^3 convolution before an interpolation."""


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift (Ulyanov et al., 2016).

    Unlike `torch.nn.InstanceNorm3d` it accepts a single voxel, which becomes the shift: the smallest allowed input
    can be trained on.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, (B, C, Z, Y, X), normalised over its voxels, sample by sample and channel by channel."""
        channels_lie_together = x.is_contiguous(memory_format=torch.channels_last_3d)
        if x.device.type == "cpu" and channels_lie_together and not torch.is_grad_enabled():
            # The same numbers without copying every channel apart first; only its backward pass is slow.
            return torch.group_norm(x, x.shape[1], self.weight, self.bias, eps=self.eps)
        return torch.instance_norm(
            x, self.weight, self.bias, None, None, use_input_stats=True, momentum=0.0, eps=self.eps, cudnn_enabled=True
        )


class ConvBlock(nn.Sequential):
    """3^3 convolution, instance norm, leaky ReLU; the stride, in voxels, is the convolution's along all axes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(
            # No bias: the norm would take it away again.
            nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            InstanceNorm(out_channels),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
        )


class Upsampling(nn.Module):
    """Twice the resolution, with a change of channels."""

    def __init__(self, in_channels: int, out_channels: int, kind: UpsamplingKind) -> None:
        super().__init__()
        self.kind = check_choice("upsampling", kind, get_args(UpsamplingKind))
        self.conv: nn.Conv3d | nn.ConvTranspose3d
        if kind == "transposed":
            self.conv = nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2)
        else:
            # The convolution comes first: both are linear, so the order changes nothing but an eighth of the work.
            self.conv = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, 2 Z, 2 Y, 2 X) for `x` of (B, in_channels, Z, Y, X)."""
        x = self.conv(x)
        return x if self.kind == "transposed" else F.interpolate(x, scale_factor=2, mode=self.kind)


class Decoder(nn.Module):
    """The way back up: upsample, join the encoder's feature, convolve; then one channel of logits.

    Parameters
    ----------
    in_channels
        Channels of the deepest feature.
    skip_channels
        Channels of the feature that joins at each level, deepest first; 0: none joins there.
    channels
        Channels of each level, deepest first.
    n_convs
        Convolution blocks per level.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: Sequence[int],
        channels: Sequence[int],
        *,
        n_convs: int,
        upsampling: UpsamplingKind,
    ) -> None:
        super().__init__()
        self.upsamplings = nn.ModuleList()
        self.levels = nn.ModuleList()
        for skip, width in zip(skip_channels, channels, strict=True):
            self.upsamplings.append(Upsampling(in_channels, width, upsampling))
            widths = [width + skip] + [width] * n_convs
            self.levels.append(nn.Sequential(*(ConvBlock(a, b) for a, b in itertools.pairwise(widths))))
            in_channels = width
        self.head: nn.Conv3d | nn.ConvTranspose3d = nn.Conv3d(in_channels, 1, 1)

    def forward(self, x: torch.Tensor, skips: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Return the logits, (B, 1, Z, Y, X) at the resolution of the last level, of the deepest feature `x`.

        ``skips`` are the features that join, deepest first; None where ``skip_channels`` is 0.
        """
        for upsample, level, skip in zip(self.upsamplings, self.levels, skips, strict=True):
            x = upsample(x)
            x = level(x if skip is None else torch.cat([x, skip], dim=1))
        return self.head(x)


def check_counts(name: str, counts: Sequence[int]) -> list[int]:
    """Check an option that has one count for each level, each at least 1; ``name`` is what the message calls it."""
    if not isinstance(counts, (list, tuple)):
        raise InputTypeError(f"{name} must be a list of integers, got {type(counts).__name__}")
    return [check_integer(f"{name}[{level}]", count, minimum=1) for level, count in enumerate(counts)]


def initialise_weights(module: nn.Module) -> None:
    """Draw the weights of every convolution inside for leaky ReLU (He et al., 2015), in place; biases become zero.

    They are drawn from torch's global generator.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv3d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(part.weight, a=NEGATIVE_SLOPE)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
