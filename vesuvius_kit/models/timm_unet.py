"""A U-Net over any timm-3d encoder that gives features, decoded to full resolution."""

import difflib
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vesuvius_kit.checks import InputValueError, check_file, check_integer
from vesuvius_kit.models.blocks import Decoder, UpsamplingKind, check_counts, initialise_weights
from vesuvius_kit.models.registry import SegmentationModel, register_model


def list_encoders() -> list[str]:
    """Return the names timm-3d knows, sorted; not all of them give features, and `TimmUNet` refuses those."""
    import timm_3d

    return sorted(timm_3d.list_models())


def _create_encoder(name: str, window_size: int | None) -> Any:
    """The feature extractor of timm-3d, a module with ``feature_info``."""
    # timm-3d takes seconds to import: only this model pays for it.
    import timm_3d

    if not timm_3d.is_model(name):
        close = difflib.get_close_matches(name, list_encoders()) or ["resnet18", "efficientnet_b0", "convnext_tiny"]
        raise InputValueError(f"encoder must be a model of timm-3d, for example {', '.join(close)}, got {name!r}")
    options: dict[str, Any] = {} if window_size is None else {"img_size": 32 * window_size}
    if name.startswith("vgg"):
        # Its classifier is thrown away, but drawn first: 7^3 x 512 weights for each of 4096 times this ratio, 2.9 GB.
        options["mlp_ratio"] = 1 / 4096
    try:
        encoder = timm_3d.create_model(name, pretrained=False, features_only=True, in_chans=1, **options)
    except TypeError as error:
        if "img_size" in str(error):
            raise InputValueError(f"window_size must be left out for encoder {name}: it has no windows") from error
        raise InputValueError(f"encoder must give features, got {name!r} ({error})") from error
    except (RuntimeError, AttributeError, AssertionError) as error:
        # timm-3d has no common error for a family whose features or 3-D port are missing.
        raise InputValueError(f"encoder must give features, got {name!r} ({error})") from error
    if any(hasattr(part, "rel_pos") for part in encoder.modules()) and not _window_edges(encoder):
        raise InputValueError(f"encoder must take more than one input size, got {name!r}, which attends globally")
    return encoder


def _window_edges(encoder: nn.Module) -> list[int]:
    """Edges of the attention windows, which must divide the grid of every stage; empty for convolutions alone."""
    return [edge for part in encoder.modules() for edge in getattr(part, "partition_size", ())]


def _load_encoder(encoder: nn.Module, path: Path | str) -> None:
    """Load a file of timm-3d weights into the feature extractor; whatever belongs to the classifier is left out."""
    path = check_file("encoder_weights", path)
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputValueError(f"encoder_weights must be a file of plain tensors, got {path} ({reason})") from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputValueError(f"encoder_weights must be a file of plain tensors by name, got {path}")
    # The feature extractor flattens names: "stages.0.blocks" is "stages_0.blocks" there.
    weights = {name.replace(".", "_"): value for name, value in weights.items()}
    state = encoder.state_dict()
    for name, own in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        value = weights.get(name.replace(".", "_"))
        if value is None:
            raise InputValueError(f"encoder_weights must hold {name}, which is missing in {path}")
        if value.ndim == 5 and own.ndim == 5 and own.shape[1] == 1:
            # Trained on colour: on three equal channels the sum is the same network.
            value = value.sum(dim=1, keepdim=True)
        if value.shape != own.shape:
            raise InputValueError(
                f"encoder_weights must have shape {tuple(own.shape)} for {name}, got {tuple(value.shape)} in {path}"
            )
        state[name] = value
    encoder.load_state_dict(state)


@register_model("timm_unet", not_recorded=("encoder_weights",))
class TimmUNet(SegmentationModel):
    """U-Net decoder (Ronneberger et al., MICCAI 2015) with instance norm over an encoder of timm-3d.

    Encoders differ in the resolution of their first feature: full (vgg), a half, or a quarter (convnext). The decoder
    always climbs to full resolution, one doubling at a time; the encoder's features join where there are any, and the
    image itself joins at full resolution where the encoder has none, since a sheet is only some voxels thick.

    Parameters
    ----------
    encoder
        A name of timm-3d; resnet, seresnext, efficientnet, convnext, densenet, maxvit and vgg are known to work.
    decoder_channels
        Channels of the decoder's levels, deepest first, one for each doubling (5 for most encoders). Default: 256
        halved at each level, not below 16.
    upsampling
        How the decoder doubles the resolution.
    window_size
        Edge of the attention windows of encoders that have them (maxvit), in voxels of each stage's grid: a window of
        w makes ``size_divisor`` 32 w. Default: the encoder's own, mostly 7 or 8.
    encoder_weights
        A local file of timm-3d weights (.safetensors, or a pickle of plain tensors). Nothing is ever downloaded. It
        is not part of the model's record.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        decoder_channels: Sequence[int] | None = None,
        upsampling: UpsamplingKind = "transposed",
        window_size: int | None = None,
        encoder_weights: Path | str | None = None,
    ) -> None:
        super().__init__()
        if window_size is not None:
            check_integer("window_size", window_size, minimum=1)
        self.encoder = _create_encoder(encoder, window_size)
        if encoder_weights is not None:
            _load_encoder(self.encoder, encoder_weights)
        reductions = self.encoder.feature_info.reduction()
        widths = self.encoder.feature_info.channels()
        self._features = dict(zip(reductions, range(len(reductions)), strict=True))
        n_levels = int(math.log2(reductions[-1]))
        self.size_divisor = reductions[-1] * math.lcm(*_window_edges(self.encoder))
        if decoder_channels is None:
            decoder_channels = [max(16, 256 >> level) for level in range(n_levels)]
        decoder_channels = check_counts("decoder_channels", decoder_channels)
        if len(decoder_channels) != n_levels:
            raise InputValueError(
                f"decoder_channels must have {n_levels} values for encoder {encoder}, got {len(decoder_channels)}"
            )
        self._reductions = [2**level for level in reversed(range(n_levels))]
        skips = [widths[self._features[r]] if r in self._features else int(r == 1) for r in self._reductions]
        self.decoder = Decoder(widths[-1], skips, decoder_channels, n_convs=2, upsampling=upsampling)
        initialise_weights(self.decoder)

    def compute_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of a checked `image`."""
        features = self.encoder(image)
        joining = {reduction: features[index] for reduction, index in self._features.items()}
        joining.setdefault(1, image)
        return self.decoder(features[-1], [joining.get(reduction) for reduction in self._reductions])
