"""The residual-encoder U-Net that nearly all of the competition's best solutions trained."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.models.blocks import (
    NEGATIVE_SLOPE,
    ConvBlock,
    Decoder,
    InstanceNorm,
    UpsamplingKind,
    check_counts,
    initialise_weights,
)
from vesuvius_kit.models.registry import SegmentationModel, register_model


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions beside a shortcut (He et al., 2016; average pooling in the shortcut as in ResNet-D).

    The stride, in voxels, is that of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvBlock(in_channels, out_channels, stride),
            nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
            InstanceNorm(out_channels),
        )
        shortcut: list[nn.Module] = [nn.AvgPool3d(stride)] if stride > 1 else []
        if in_channels != out_channels:
            shortcut += [nn.Conv3d(in_channels, out_channels, 1, bias=False), InstanceNorm(out_channels)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, Z / stride, Y / stride, X / stride) for `x` of (B, in_channels, Z, Y, X)."""
        return F.leaky_relu(self.convs(x) + self.shortcut(x), NEGATIVE_SLOPE)


@register_model("resenc_unet")
class ResidualEncoderUNet(SegmentationModel):
    """Residual-encoder U-Net as nnU-Net's (Isensee et al., MICCAI 2024): strided convolutions, a light decoder.

    The defaults are the network of the winning solutions, about 102 million parameters.

    Parameters
    ----------
    channels
        Channels of each stage, shallowest first; ``size_divisor`` is 2 to the number of stages less one.
    blocks
        Residual blocks of each stage.
    upsampling
        How the decoder doubles the resolution.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 256, 320, 320),
        blocks: Sequence[int] = (1, 3, 4, 6, 6, 6),
        upsampling: UpsamplingKind = "transposed",
    ) -> None:
        super().__init__()
        channels = check_counts("channels", channels)
        blocks = check_counts("blocks", blocks)
        if len(channels) < 2 or len(channels) != len(blocks):
            raise InputValueError(
                f"channels and blocks must have one value for each of 2 or more stages, got {channels} and {blocks}"
            )
        self.size_divisor = 2 ** (len(channels) - 1)
        self.stem = ConvBlock(1, channels[0])
        self.encoder = nn.ModuleList()
        before = channels[0]
        for stage, (width, n_blocks) in enumerate(zip(channels, blocks, strict=True)):
            first = ResidualBlock(before, width, stride=1 if stage == 0 else 2)
            self.encoder.append(nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(n_blocks - 1))))
            before = width
        shallower = channels[-2::-1]
        self.decoder = Decoder(channels[-1], shallower, shallower, n_convs=1, upsampling=upsampling)
        initialise_weights(self)

    def compute_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of a checked `image`."""
        features = []
        x = self.stem(image)
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        *skips, deepest = features
        return self.decoder(deepest, skips[::-1])
