"""What nnU-Net v2 says of a training in ``plans.json`` and ``dataset.json``, as the kit's own types.

The format is read as nnU-Net 2.8 writes and reads it, older files without the block ``architecture`` included. Whatever the kit
does not do is refused by its name: a setting that is passed over would change the prediction without a word.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import (
    InputTypeError,
    InputValueError,
    check_integer,
    check_real,
    check_size,
    check_spacing,
    one_line,
)
from vesuvius_kit.models.nnunet_network import ACTIVATIONS
from vesuvius_kit.models.normalisation import Normalisation
from vesuvius_kit.models.rules import Interpolation, OutputRule, ResamplingRule

PLANS_NAME = "plans.json"
DATASET_NAME = "dataset.json"

logger = logging.getLogger(__name__)

_SURFACE_WORDS = ("surface", "recto", "papyrus", "sheet")
_NEGATION = re.compile(rf"(?<![a-z])(no|not|non)[^a-z]*({'|'.join(_SURFACE_WORDS)})")
_SCHEMES = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
    "NoNormalization": "none",
}
_NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
_NORMS = {"InstanceNorm3d": "instance", "BatchNorm3d": "batch"}
_SPLINES = "resample_data_or_seg_to_shape"
_TORCH = "resample_torch_fornnunet"
_NO_RESAMPLING = "no_resampling_hack"
# They matter to training alone, or to nnU-Net's code.
_IGNORED_ARGUMENTS = {"conv_op", "dropout_op", "dropout_op_kwargs", "deep_supervision", "n_stages"}


@dataclass(frozen=True)
class NnUNetPlans:
    """One configuration of the plans."""

    configuration: str
    """Its name, such as ``3d_fullres``."""
    network: dict[str, Any]
    """Options of the registered model ``nnunet``, without ``n_classes`` and ``n_members``."""
    patch_size: tuple[int, int, int]
    """In voxels, in the network's axes."""
    spacing: tuple[float, float, float]
    """Voxel size of the training, in the network's axes."""
    transpose: tuple[int, int, int]
    """The image's axis that becomes each of the network's."""
    normalisation: Normalisation
    """Of the only channel."""
    resampling: ResamplingRule | None
    """None: nothing is resampled, whatever the voxel size."""


@dataclass(frozen=True)
class NnUNetLabels:
    """What the channels of the network mean."""

    kind: str
    """``softmax`` or ``regions``."""
    channels: tuple[tuple[str, ...], ...]
    """The names of each channel; a label without a name has its number."""

    def output_rule(self, surface: str | int | Sequence[str | int] | None = None) -> OutputRule:
        """Return the rule that makes the probability of the surface.

        ``surface`` names labels or regions, by name or, for labels, by number. By default it is the only foreground; of
        several those whose name contains surface, recto, papyrus or sheet (without "non" or "not"), else all of them.
        """
        first = 1 if self.kind == "softmax" else 0
        foreground = range(first, len(self.channels))
        if surface is None:
            named = [c for c in foreground if any(_names_the_surface(name) for name in self.channels[c])]
            chosen = [*foreground] if len(foreground) == 1 or not named else named
            if len(foreground) > 1:
                taken, known = ("/".join(self.channels[c][0] for c in some) for some in (chosen, foreground))
                logger.info("the surface is %s, of %s", taken, known)
        else:
            wanted = [surface] if isinstance(surface, (str, int)) else list(surface)
            chosen = [self._find(name, first) for name in wanted]
        return OutputRule("softmax" if self.kind == "softmax" else "regions", len(self.channels), tuple(chosen))

    def _find(self, wanted: str | int, first: int) -> int:
        for channel, names in enumerate(self.channels):
            is_meant = str(wanted) in names or (self.kind == "softmax" and str(wanted) == str(channel))
            if channel >= first and is_meant:
                return channel
        known = ", ".join("/".join(names) for names in self.channels[first:])
        raise InputValueError(f"surface must be among {known}, got {wanted!r}")


def _names_the_surface(name: str) -> bool:
    name = name.lower()
    return any(word in name for word in _SURFACE_WORDS) and not _NEGATION.search(name)


def parse_json(data: bytes, path: Path | str) -> dict[str, Any]:
    """Parse the bytes of a JSON file that holds an object; ``path`` is what messages call it."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputValueError(f"{path} must be JSON, got: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputTypeError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def parse_plans(plans: Mapping[str, Any], configuration: str, trainer: str = "nnUNetTrainer") -> NnUNetPlans:
    """Return one configuration of the content of ``plans.json``.

    The name of the trainer matters for ``nnUNetTrainerBN``, which trains another network than its plans say.
    """
    settings = _inherit(plans, configuration)
    if settings.get("previous_stage"):
        raise InputValueError(
            f"configuration must not need another network's answer, got {configuration} after {settings['previous_stage']}"
        )
    preprocessor = settings.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise InputValueError(f"preprocessor_name must be DefaultPreprocessor, got {preprocessor!r}")
    patch_size = _get(settings, "patch_size", list)
    if len(patch_size) != 3:
        raise InputValueError(f"configuration must be 3-D, got {configuration} with patch_size {patch_size}")
    transpose = plans.get("transpose_forward", [0, 1, 2])
    if not isinstance(transpose, list) or sorted(map(str, transpose)) != ["0", "1", "2"]:
        raise InputValueError(f"transpose_forward must be an order of 0, 1, 2, got {transpose!r}")
    network = _network_options(settings)
    if trainer == "nnUNetTrainerBN":
        network |= {"norm": "batch", "norm_options": {"affine": True, "eps": 1e-5}}
    return NnUNetPlans(
        configuration,
        network,
        check_size("patch_size", patch_size),
        check_spacing("spacing of the plans", _get(settings, "spacing", list)),
        (transpose[0], transpose[1], transpose[2]),
        _normalisation(plans, settings),
        _resampling(settings),
    )


def parse_labels(dataset: Mapping[str, Any], label_manager: str = "LabelManager") -> NnUNetLabels:
    """Return what the channels of a network mean, from the content of ``dataset.json``; the images must have one channel."""
    if label_manager != "LabelManager":
        raise InputValueError(f"label_manager must be LabelManager, got {label_manager!r}")
    channels = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(channels, dict) or len(channels) != 1:
        got = (
            f"{len(channels)}: {', '.join(map(str, channels.values()))}"
            if isinstance(channels, dict)
            else repr(channels)
        )
        raise InputValueError(f"channel_names must name one channel of the image, got {got}")
    labels = {str(name): _label_values(name, value) for name, value in _get(dataset, "labels", dict).items()}
    ignored = labels.pop("ignore", None)
    if labels.get("background") != (0,):
        raise InputValueError(f"labels must have background 0, got {dataset['labels']}")
    values = sorted({value for part in labels.values() for value in part})
    if ignored is not None and ignored != (values[-1] + 1,):
        raise InputValueError(f"label ignore must be the highest, {values[-1] + 1}, got {dataset['labels']['ignore']}")
    if any(len(part) > 1 for part in labels.values()):
        regions = [name for name, part in labels.items() if set(part) != {0}]
        order = dataset.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(regions):
            raise InputValueError(f"regions_class_order must have {len(regions)} values, one a region, got {order!r}")
        return NnUNetLabels("regions", tuple((name,) for name in regions))
    if len(values) < 2:
        raise InputValueError(f"labels must have a foreground, got {dataset['labels']}")
    names = [tuple(name for name, part in labels.items() if part == (value,)) for value in values]
    return NnUNetLabels("softmax", tuple(names))


def _label_values(name: str, value: Any) -> tuple[int, ...]:
    parts = value if isinstance(value, list) else [value]
    if not parts:
        raise InputValueError(f"label {name} must have a value, got none")
    try:
        # Older files hold numbers as text.
        return tuple(sorted({check_integer(f"label {name}", int(part), minimum=0) for part in parts}))
    except (TypeError, ValueError) as error:
        raise InputValueError(f"label {name} must be a number or numbers >= 0, got {value!r}") from error


def _inherit(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of a configuration over those of what it inherits from."""
    known = _get(plans, "configurations", dict)
    chain: list[str] = []
    settings: dict[str, Any] = {}
    wanted: object = name
    while wanted is not None:
        if not isinstance(wanted, str) or not isinstance(known.get(wanted), dict):
            raise InputValueError(f"configuration must be one of {', '.join(sorted(known))}, got {wanted!r}")
        if wanted in chain:
            raise InputValueError(f"configurations must not inherit in a circle, got {' from '.join([*chain, wanted])}")
        chain.append(wanted)
        settings = {**known[wanted], **settings}
        wanted = known[wanted].get("inherits_from")
    return settings


def _normalisation(plans: Mapping[str, Any], settings: Mapping[str, Any]) -> Normalisation:
    names, masks = _get(settings, "normalization_schemes", list), _get(settings, "use_mask_for_norm", list)
    if len(names) != 1 or len(masks) != 1:
        raise InputValueError(f"normalization_schemes must be one, as the image has one channel, got {names}")
    (name,), (masked,) = names, masks
    if not isinstance(name, str) or name not in _SCHEMES:
        raise InputValueError(f"normalization_schemes must be among {', '.join(sorted(_SCHEMES))}, got {name!r}")
    if name == "ZScoreNormalization":
        return Normalisation("zscore", masked=bool(masked))
    if name != "CTNormalization":
        return Normalisation.of(_SCHEMES[name])
    key = "foreground_intensity_properties_per_channel"
    # As the first releases called it.
    key = key if key in plans else "foreground_intensity_properties_by_modality"
    properties = _get(_get(plans, key, dict), "0", dict)
    mean, std, low, high = (
        check_real(f"{key} {name}", _get(properties, name))
        for name in ("mean", "std", "percentile_00_5", "percentile_99_5")
    )
    return Normalisation("ct", mean, max(std, 1e-8), low, high)


def _resampling(settings: Mapping[str, Any]) -> ResamplingRule | None:
    parts = [_interpolation(settings, f"resampling_fn_{name}") for name in ("data", "probabilities")]
    data, answer = parts
    if (data is None) != (answer is None):
        raise InputValueError(f"resampling of data and probabilities must both be {_NO_RESAMPLING} or neither, got one")
    return ResamplingRule(data, answer) if data is not None and answer is not None else None


def _interpolation(settings: Mapping[str, Any], key: str) -> Interpolation | None:
    name = settings.get(key, _SPLINES)
    given = settings.get(f"{key}_kwargs") or {}
    if not isinstance(given, dict):
        raise InputTypeError(f"{key}_kwargs must be a mapping, got {type(given).__name__}")
    options = dict(given)
    if options.pop("is_seg", False):
        raise InputValueError(f"{key} must not treat its values as labels, got is_seg")
    if name == _NO_RESAMPLING:
        return None
    if name == _SPLINES:
        default_order = 3 if key.endswith("data") else 1
        order, order_z = options.pop("order", default_order), options.pop("order_z", 0)
        separate_z = options.pop("force_separate_z", None)
    elif name == _TORCH:
        # Linear between centres of voxels is the spline of order 1.
        order, order_z = 1, 0
        separate_z = options.pop("force_separate_z", None)
        for harmless in ("num_threads", "device", "memefficient_seg_resampling"):
            options.pop(harmless, None)
        if (
            options.pop("mode", "linear") != "linear"
            or options.pop("aniso_axis_mode", "nearest-exact") != "nearest-exact"
        ):
            raise InputValueError(
                f"{key} must be linear, and nearest-exact along a coarse axis, got {settings[f'{key}_kwargs']}"
            )
    else:
        raise InputValueError(f"{key} must be one of {_SPLINES}, {_TORCH}, {_NO_RESAMPLING}, got {name!r}")
    if options:
        raise InputValueError(f"{key}_kwargs must hold what the kit knows, got {', '.join(sorted(options))}")
    return Interpolation(order, order_z, separate_z)


def _network_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    if "architecture" not in settings:
        return _old_network_options(settings)
    architecture = _get(settings, "architecture", dict)
    name = _last(_get(architecture, "network_class_name", str))
    _check_network(name, architecture["network_class_name"])
    arguments = dict(_get(architecture, "arch_kwargs", dict))
    conv = _last(_get(arguments, "conv_op", str))
    if conv != "Conv3d":
        raise InputValueError(f"conv_op must be Conv3d, got {conv}")
    n_stages = check_integer("n_stages", _get(arguments, "n_stages"), minimum=2)
    is_residual = name == "ResidualEncoderUNet"
    options: dict[str, Any] = {
        "encoder": "residual" if is_residual else "plain",
        "channels": _per_stage(arguments, "features_per_stage", n_stages),
        "kernel_sizes": _per_stage(arguments, "kernel_sizes", n_stages),
        "strides": _per_stage(arguments, "strides", n_stages),
        "blocks": _per_stage(arguments, "n_blocks_per_stage" if is_residual else "n_conv_per_stage", n_stages),
        "decoder_blocks": _per_stage(arguments, "n_conv_per_stage_decoder", n_stages - 1),
        "conv_bias": bool(arguments.pop("conv_bias", False)),
    }
    norm, activation = arguments.pop("norm_op", None), arguments.pop("nonlin", None)
    options["norm"] = _known("norm_op", norm, _NORMS)
    options["norm_options"] = arguments.pop("norm_op_kwargs", None) or {}
    options["activation"] = _known("nonlin", activation, {name: name for name in ACTIVATIONS})
    options["activation_options"] = arguments.pop("nonlin_kwargs", None) or {}
    if is_residual:
        block = _last(str(arguments.pop("block", "BasicBlockD")))
        if block not in ("BasicBlockD", "BottleneckD"):
            raise InputValueError(f"block must be BasicBlockD or BottleneckD, got {block}")
        stem_channels, bottleneck = arguments.pop("stem_channels", None), arguments.pop("bottleneck_channels", None)
        if stem_channels is not None:
            options["stem_channels"] = stem_channels
        if block == "BottleneckD":
            options["encoder"] = "bottleneck"
            options["bottleneck_channels"] = _list_of("bottleneck_channels", bottleneck, n_stages)
    else:
        options["activation_first"] = bool(arguments.pop("nonlin_first", False))
    if unknown := sorted(set(arguments) - _IGNORED_ARGUMENTS):
        raise InputValueError(f"arch_kwargs must hold what the kit knows of {name}, got {', '.join(unknown)}")
    return options


def _old_network_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plans of the first releases: nnU-Net's own network, without the block ``architecture``."""
    name = _get(settings, "UNet_class_name", str)
    _check_network(name, name)
    n_stages = len(_get(settings, "n_conv_per_stage_encoder", list))
    base = check_integer("UNet_base_num_features", _get(settings, "UNet_base_num_features"), minimum=1)
    most = check_integer("unet_max_num_features", _get(settings, "unet_max_num_features"), minimum=1)
    return {
        "encoder": "residual" if name == "ResidualEncoderUNet" else "plain",
        "channels": [min(base * 2**stage, most) for stage in range(n_stages)],
        "kernel_sizes": _get(settings, "conv_kernel_sizes", list),
        "strides": _get(settings, "pool_op_kernel_sizes", list),
        "blocks": _get(settings, "n_conv_per_stage_encoder", list),
        "decoder_blocks": _get(settings, "n_conv_per_stage_decoder", list),
        "conv_bias": True,
        "norm": "instance",
        "norm_options": {"affine": True, "eps": 1e-5},
        "activation": "LeakyReLU",
        "activation_options": {},
    }


def _check_network(name: str, given: str) -> None:
    if name not in _NETWORKS:
        raise InputValueError(f"network must be one of {', '.join(_NETWORKS)}, got {given!r}")


def _known(key: str, given: object, names: Mapping[str, str]) -> str:
    """What the kit calls a class of torch, given by its path; "none" for none."""
    if given is None:
        return "none"
    if not isinstance(given, str) or _last(given) not in names or not given.startswith("torch.nn."):
        raise InputValueError(f"{key} must be one of torch.nn's {', '.join(sorted(names))}, got {given!r}")
    return names[_last(given)]


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _per_stage(arguments: dict[str, Any], key: str, n_stages: int) -> list[Any]:
    """A setting of every stage; one number stands for all."""
    value = _get(arguments, key)
    del arguments[key]
    return _list_of(key, value, n_stages)


def _list_of(key: str, value: object, n_stages: int) -> list[Any]:
    if isinstance(value, int) and not isinstance(value, bool):
        return [value] * n_stages
    if not isinstance(value, list) or len(value) != n_stages:
        raise InputValueError(f"{key} must be a number or {n_stages} values, got {value!r}")
    return value


def _get(content: Mapping[str, Any], key: str, kind: type | None = None) -> Any:
    if key not in content:
        raise InputValueError(f"nnU-Net's {PLANS_NAME} and {DATASET_NAME} must hold {key}, got none")
    value = content[key]
    if kind is not None and not isinstance(value, kind):
        raise InputTypeError(f"{key} must be a {kind.__name__}, got {type(value).__name__}")
    return value
