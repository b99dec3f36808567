"""The plain 3-D U-Net of the plateau case."""

import torch
from torch import nn
from torch.nn import functional as F

from vesuvius_kit.checks import check_integer
from vesuvius_kit.models.blocks import ConvBlock, Decoder, UpsamplingKind, initialise_weights
from vesuvius_kit.models.registry import SegmentationModel, register_model


@register_model("unet3d")
class UNet3D(SegmentationModel):
    """3-D U-Net (Çiçek et al., MICCAI 2016): two 3^3 convolutions a level, instance norm, leaky ReLU, max pooling.

    Parameters
    ----------
    initial_filters
        Channels at full resolution; they double with every pooling.
    depth
        Number of poolings; ``size_divisor`` is 2 to this power.
    upsampling
        How the decoder doubles the resolution.
    half_resolution
        Everything happens at half the resolution, an eighth of the work: a strided convolution comes first, and a
        transposed one gives each of the eight voxels a logit of its own. For CPUs; ``size_divisor`` doubles.
    """

    def __init__(
        self,
        initial_filters: int = 32,
        depth: int = 4,
        upsampling: UpsamplingKind = "transposed",
        half_resolution: bool = False,
    ) -> None:
        super().__init__()
        check_integer("initial_filters", initial_filters, minimum=1)
        check_integer("depth", depth, minimum=1, maximum=8)
        stride = 2 if half_resolution else 1
        self.size_divisor = stride * 2**depth
        channels = [initial_filters * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            nn.Sequential(ConvBlock(before, after, stride if level == 0 else 1), ConvBlock(after, after))
            for level, (before, after) in enumerate(zip([1, *channels[:-1]], channels, strict=True))
        )
        shallower = channels[-2::-1]
        self.decoder = Decoder(channels[-1], shallower, shallower, n_convs=2, upsampling=upsampling)
        if half_resolution:
            self.decoder.head = nn.ConvTranspose3d(initial_filters, 1, 2, stride=2)
        initialise_weights(self)

    def compute_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of a checked `image`."""
        features = [self.encoder[0](image)]
        for level in self.encoder[1:]:
            features.append(level(F.max_pool3d(features[-1], 2)))
        *skips, deepest = features
        return self.decoder(deepest, skips[::-1])
