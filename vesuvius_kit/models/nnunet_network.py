"""The networks of nnU-Net's plans (Isensee et al., Nature Methods 2021 and MICCAI 2024), plain and residual-encoder U-Nets.

Parts are named as in nnU-Net's checkpoints, so that weights are matched name by name.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from vesuvius_kit.checks import InputTypeError, InputValueError, check_choice, check_integer, check_real, check_size
from vesuvius_kit.models.blocks import InstanceNorm, check_counts, initialise_weights
from vesuvius_kit.models.registry import SegmentationModel, register_model

EncoderKind = Literal["plain", "residual", "bottleneck"]
NormKind = Literal["instance", "batch", "none"]
Axes3 = tuple[int, int, int]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Tanh)
}
"""By the names of their classes in torch; "none" is no activation."""


class _Style:
    """What all blocks of a network share."""

    def __init__(
        self,
        conv_bias: bool,
        norm: NormKind,
        norm_options: Mapping[str, Any],
        activation: str,
        activation_options: Mapping[str, Any],
        activation_first: bool,
    ) -> None:
        self.conv_bias = conv_bias
        self.norm = check_choice("norm", norm, get_args(NormKind))
        self.norm_options = _check_norm_options(norm_options)
        self.activation = check_choice("activation", activation, (*ACTIVATIONS, "none"))
        if not isinstance(activation_options, Mapping):
            raise InputTypeError(f"activation_options must be a mapping, got {type(activation_options).__name__}")
        self.activation_options = dict(activation_options)
        self.activation_first = activation_first

    def make_norm(self, channels: int) -> nn.Module | None:
        if self.norm == "none":
            return None
        if self.norm == "batch":
            return nn.BatchNorm3d(channels, **self.norm_options)
        options = dict(self.norm_options)
        affine, tracked = options.pop("affine", False), options.pop("track_running_stats", False)
        if affine and not tracked:
            return InstanceNorm(channels, eps=options.get("eps", 1e-5))
        return nn.InstanceNorm3d(channels, affine=affine, track_running_stats=tracked, **options)

    def make_activation(self) -> nn.Module | None:
        if self.activation == "none":
            return None
        try:
            return ACTIVATIONS[self.activation](**self.activation_options)
        except TypeError as error:
            raise InputValueError(
                f"activation_options must suit {self.activation}, got {self.activation_options}"
            ) from error


def _check_norm_options(options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise InputTypeError(f"norm_options must be a mapping, got {type(options).__name__}")
    checked = dict(options)
    for name, value in checked.items():
        if name in ("affine", "track_running_stats"):
            if not isinstance(value, bool):
                raise InputTypeError(f"norm_options {name} must be a bool, got {value!r}")
        elif name in ("eps", "momentum"):
            if name == "eps" or value is not None:
                checked[name] = check_real(f"norm_options {name}", value, minimum=0.0)
        else:
            raise InputValueError(
                f"norm_options must be among affine, eps, momentum, track_running_stats, got {name!r}"
            )
    return checked


class _Conv(nn.Module):
    """Convolution, norm, activation; the last two where there are any."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Axes3,
        stride: Axes3,
        style: _Style,
        *,
        is_shortcut: bool = False,
        is_last: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2),
            bias=style.conv_bias and not is_shortcut,
        )
        # Absent parts are no attributes: a list of names is compared with the checkpoint's.
        if (norm := style.make_norm(out_channels)) is not None:
            self.norm = norm
        if not (is_shortcut or is_last) and (activation := style.make_activation()) is not None:
            self.nonlin = activation
        parts = ["norm", "nonlin"]
        if style.activation_first and hasattr(self, "norm") and hasattr(self, "nonlin"):
            parts.reverse()
        self._parts = ["conv", *(part for part in parts if hasattr(self, part))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self._parts:
            x = getattr(self, part)(x)
        return x


class _Stack(nn.Module):
    """Convolutions one after the other; the stride is the first one's."""

    def __init__(
        self, n_convs: int, in_channels: int, out_channels: int, kernel: Axes3, stride: Axes3, style: _Style
    ) -> None:
        super().__init__()
        first = _Conv(in_channels, out_channels, kernel, stride, style)
        rest = (_Conv(out_channels, out_channels, kernel, _ONE, style) for _ in range(n_convs - 1))
        self.convs = nn.Sequential(first, *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class _ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (ResNet-D, He et al., 2019); with ``bottleneck`` channels three: 1^3, kernel, 1^3."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Axes3,
        stride: Axes3,
        style: _Style,
        bottleneck: int | None,
    ) -> None:
        super().__init__()
        if bottleneck is None:
            self.conv1 = _Conv(in_channels, out_channels, kernel, stride, style)
            self.conv2 = _Conv(out_channels, out_channels, kernel, _ONE, style, is_last=True)
        else:
            self.conv1 = _Conv(in_channels, bottleneck, _ONE, _ONE, style)
            self.conv2 = _Conv(bottleneck, bottleneck, kernel, stride, style)
            self.conv3 = _Conv(bottleneck, out_channels, _ONE, _ONE, style, is_last=True)
        # Its name tells where it stands in the block, as in the checkpoints.
        self._last = "nonlin2" if bottleneck is None else "nonlin3"
        if (activation := style.make_activation()) is not None:
            setattr(self, self._last, activation)
        shortcut: list[nn.Module] = [nn.AvgPool3d(stride, stride)] if stride != _ONE else []
        if in_channels != out_channels:
            shortcut.append(_Conv(in_channels, out_channels, _ONE, _ONE, style, is_shortcut=True))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = self.conv2(self.conv1(x))
        if hasattr(self, "conv3"):
            answer = self.conv3(answer)
        answer += self.skip(x)
        return getattr(self, self._last)(answer) if hasattr(self, self._last) else answer


class _ResidualStage(nn.Module):
    def __init__(self, blocks: Sequence[_ResidualBlock]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class _Encoder(nn.Module):
    """One feature a stage, shallowest first."""

    def __init__(self, layout: "_Layout", style: _Style) -> None:
        super().__init__()
        in_channels = 1
        if layout.encoder != "plain":
            in_channels = layout.stem_channels or layout.channels[0]
            self.stem = _Stack(1, 1, in_channels, layout.kernels[0], _ONE, style)
        stages: list[nn.Module] = []
        per_stage = (layout.channels, layout.kernels, layout.strides, layout.blocks, layout.bottlenecks)
        for width, kernel, stride, n_blocks, bottleneck in zip(*per_stage, strict=True):
            if layout.encoder == "plain":
                stages.append(nn.Sequential(_Stack(n_blocks, in_channels, width, kernel, stride, style)))
            else:
                first = _ResidualBlock(in_channels, width, kernel, stride, style, bottleneck)
                rest = (_ResidualBlock(width, width, kernel, _ONE, style, bottleneck) for _ in range(n_blocks - 1))
                stages.append(_ResidualStage([first, *rest]))
            in_channels = width
        self.stages = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if hasattr(self, "stem"):
            x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class _Decoder(nn.Module):
    """From the deepest feature up; a head a level, of which the last is the answer and the others are deep supervision's."""

    def __init__(self, layout: "_Layout", style: _Style, n_classes: int) -> None:
        super().__init__()
        stages, upsamplings, heads = [], [], []
        below = layout.channels[::-1]
        for level, (deep, width) in enumerate(itertools.pairwise(below), start=1):
            stride = layout.strides[-level]
            upsamplings.append(nn.ConvTranspose3d(deep, width, stride, stride, bias=style.conv_bias))
            kernel = layout.kernels[-level - 1]
            stages.append(_Stack(layout.decoder_blocks[level - 1], 2 * width, width, kernel, _ONE, style))
            heads.append(nn.Conv3d(width, n_classes, 1))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(upsamplings)
        self.seg_layers = nn.ModuleList(heads)
        # There for their weights: the kit trains without deep supervision.
        self.seg_layers[:-1].requires_grad_(False)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        *skips, x = features
        for upsample, stage, skip in zip(self.transpconvs, self.stages, skips[::-1], strict=True):
            x = stage(torch.cat([upsample(x), skip], dim=1))
        return self.seg_layers[-1](x)


class _UNet(nn.Module):
    """One network of one training."""

    def __init__(self, layout: "_Layout", style: _Style, n_classes: int) -> None:
        super().__init__()
        self.encoder = _Encoder(layout, style)
        self.decoder = _Decoder(layout, style, n_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(image))


_ONE: Axes3 = (1, 1, 1)


class _Layout:
    """The checked numbers of every stage, shallowest first."""

    def __init__(
        self,
        encoder: EncoderKind,
        channels: Sequence[int],
        kernels: Sequence[int | Sequence[int]],
        strides: Sequence[int | Sequence[int]],
        blocks: Sequence[int],
        decoder_blocks: Sequence[int],
        stem_channels: int | None,
        bottleneck_channels: Sequence[int] | None,
    ) -> None:
        self.encoder = check_choice("encoder", encoder, get_args(EncoderKind))
        self.channels = check_counts("channels", channels)
        n_stages = len(self.channels)
        if n_stages < 2:
            raise InputValueError(f"channels must have 2 or more stages, got {n_stages}")
        self.kernels = _check_sizes("kernel_sizes", kernels, n_stages)
        self.strides = _check_sizes("strides", strides, n_stages)
        if self.strides[0] != _ONE:
            raise InputValueError(
                f"strides must begin with 1, so that logits have the image's size, got {self.strides[0]}"
            )
        for kernel in self.kernels:
            if any(edge % 2 == 0 for edge in kernel):
                raise InputValueError(f"kernel_sizes must be odd, so that features keep their size, got {kernel}")
        self.blocks = _of_length("blocks", check_counts("blocks", blocks), n_stages)
        self.decoder_blocks = _of_length("decoder_blocks", check_counts("decoder_blocks", decoder_blocks), n_stages - 1)
        self.stem_channels = None
        if stem_channels is not None:
            self.stem_channels = check_integer("stem_channels", stem_channels, minimum=1)
        self.bottlenecks: list[int | None] = [None] * n_stages
        if encoder == "bottleneck":
            if bottleneck_channels is None:
                raise InputValueError("bottleneck_channels must be given for a bottleneck encoder, got none")
            counts = check_counts("bottleneck_channels", bottleneck_channels)
            self.bottlenecks = [*_of_length("bottleneck_channels", counts, n_stages)]


def _check_sizes(name: str, sizes: Sequence[int | Sequence[int]], n_stages: int) -> list[Axes3]:
    if not isinstance(sizes, (list, tuple)):
        raise InputTypeError(f"{name} must be a list, got {type(sizes).__name__}")
    return [check_size(f"{name}[{stage}]", size) for stage, size in enumerate(_of_length(name, sizes, n_stages))]


def _of_length(name: str, values: Sequence[Any], length: int) -> Sequence[Any]:
    if len(values) != length:
        raise InputValueError(f"{name} must have {length} values, got {len(values)}")
    return values


@register_model("nnunet")
class NnUNet(SegmentationModel):
    """Any plain or residual-encoder U-Net of nnU-Net's plans; several of one layout answer with the mean of their logits.

    `load_nnunet` builds it from a results folder; the defaults are a small network of nnU-Net's usual kind.

    Parameters
    ----------
    encoder
        Stacked convolutions, residual blocks, or residual blocks with a bottleneck.
    channels
        Channels of each stage, shallowest first.
    kernel_sizes, strides
        Of each stage in voxels, one number or (z, y, x); the first stage must have stride 1.
    blocks
        Convolutions, or residual blocks, of each stage.
    decoder_blocks
        Convolutions of each level of the decoder, deepest first.
    n_classes
        Channels of the logits.
    n_members
        Networks, for instance the folds of one training.
    conv_bias
        Whether convolutions have a bias.
    norm, norm_options
        Normalisation after each convolution, with torch's options.
    activation, activation_options
        A name of `ACTIVATIONS`, with torch's options.
    activation_first
        The activation comes before the norm.
    stem_channels
        Of a residual encoder's first convolution; default: those of the first stage.
    bottleneck_channels
        Of each stage, for a bottleneck encoder alone.
    """

    def __init__(
        self,
        encoder: EncoderKind = "residual",
        channels: Sequence[int] = (32, 64, 128),
        kernel_sizes: Sequence[int | Sequence[int]] = (3, 3, 3),
        strides: Sequence[int | Sequence[int]] = (1, 2, 2),
        blocks: Sequence[int] = (1, 3, 4),
        decoder_blocks: Sequence[int] = (1, 1),
        n_classes: int = 1,
        n_members: int = 1,
        conv_bias: bool = True,
        norm: NormKind = "instance",
        norm_options: Mapping[str, Any] = {"affine": True, "eps": 1e-5},
        activation: str = "LeakyReLU",
        activation_options: Mapping[str, Any] = {},
        activation_first: bool = False,
        stem_channels: int | None = None,
        bottleneck_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_integer("n_classes", n_classes, minimum=1)
        check_integer("n_members", n_members, minimum=1)
        layout = _Layout(
            encoder, channels, kernel_sizes, strides, blocks, decoder_blocks, stem_channels, bottleneck_channels
        )
        style = _Style(conv_bias, norm, norm_options, activation, activation_options, activation_first)
        self.members = nn.ModuleList(_UNet(layout, style, n_classes) for _ in range(n_members))
        divisors = [1, 1, 1]
        for stride in layout.strides:
            divisors = [divisor * step for divisor, step in zip(divisors, stride)]
        self._divisors = (divisors[0], divisors[1], divisors[2])
        self.size_divisor = max(divisors)
        initialise_weights(self)

    @property
    def size_divisors(self) -> Axes3:
        """What the input's edges, (z, y, x), must be multiples of, in voxels: the product of the strides."""
        return self._divisors

    def compute_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the mean of the members' logits, (B, n_classes, Z, Y, X), of a checked `image`."""
        first, *others = self.members
        logits: torch.Tensor = first(image)
        for member in others:
            logits = logits + member(image)
        return logits / len(self.members) if others else logits
