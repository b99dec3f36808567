"""The networks of nnU-Net's plans, compared with those of dynamic-network-architectures where it is installed."""

import pydoc
import warnings

import pytest
import torch
from torch import nn

from tests.helpers.nnunet_folders import architecture, old_plans, plans
from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.models import create_model
from vesuvius_kit.models.nnunet_plans import parse_plans

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
ANISOTROPIC = {
    "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}
BATCH = {"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d", "norm_op_kwargs": {"eps": 1e-3, "affine": True}}
VARIANTS = {
    "usual": {},
    "anisotropic": ANISOTROPIC,
    "no bias": {"conv_bias": False},
    "numbers": {"features_per_stage": 4, "kernel_sizes": 3, "n_conv_per_stage_decoder": 1, "strides": [1, 2, 2]},
    "batch norm": BATCH,
    "no norm": {"norm_op": None, "norm_op_kwargs": None},
    "unscaled norm": {"norm_op_kwargs": {"eps": 1e-4}},
    "tracked norm": {"norm_op_kwargs": {"affine": True, "track_running_stats": True}},
    "relu": {"nonlin": "torch.nn.modules.activation.ReLU", "nonlin_kwargs": {"inplace": True}},
    "steep": {"nonlin_kwargs": {"negative_slope": 0.2, "inplace": True}},
    "learned slope": {"nonlin": "torch.nn.PReLU", "nonlin_kwargs": None},
    "no activation": {"nonlin": None, "nonlin_kwargs": None},
    "dropout": {"dropout_op": "torch.nn.modules.dropout.Dropout3d", "dropout_op_kwargs": {"p": 0.5}},
    "wide kernels": {"kernel_sizes": [[5, 1, 3], [3, 7, 3], [1, 1, 1]]},
    "stride three": {"strides": [[1, 1, 1], [3, 1, 2], [1, 2, 1]]},
    "same width": {"features_per_stage": [6, 6, 6]},
    "four stages": {
        "n_stages": 4,
        "features_per_stage": [2, 4, 8, 8],
        "kernel_sizes": 3,
        "strides": [1, 2, 2, [1, 2, 2]],
        "n_conv_per_stage_decoder": [3, 2, 1],
    },
}
ONLY = {
    PLAIN: {"activation first": {"nonlin_first": True}},
    RESIDUAL: {
        "wide stem": {"stem_channels": 5},
        "bottleneck": {
            "block": "dynamic_network_architectures.building_blocks.residual.BottleneckD",
            "bottleneck_channels": [2, 3, 4],
        },
    },
}
CASES = [(kind, name) for kind in (PLAIN, RESIDUAL) for name in (*VARIANTS, *ONLY[kind])]


def arguments(kind, name):
    changes = dict({**VARIANTS, **ONLY[kind]}[name])
    if name == "four stages":
        changes["n_conv_per_stage" if kind == PLAIN else "n_blocks_per_stage"] = [1, 2, 1, 3]
    return architecture(kind, **changes)


def theirs(network, n_classes=3):
    """The network that nnU-Net builds of the same block."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    kwargs = dict(network["arch_kwargs"])
    for name in (*network["_kw_requires_import"], "block"):
        if kwargs.get(name) is not None:
            kwargs[name] = pydoc.locate(kwargs[name])
    kind = network["network_class_name"].rpartition(".")[2]
    return getattr(unet, kind)(input_channels=1, num_classes=n_classes, deep_supervision=False, **kwargs)


def randomise(model):
    """Weights and running statistics unlike those of a fresh network."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)


def ours(network, weights, n_classes=3):
    model = create_model("nnunet", n_classes=n_classes, **parse_plans(plans(network), "3d_fullres").network)
    copies = (".all_modules.", "decoder.encoder.")
    member = {name: value for name, value in weights.items() if not any(copy in f".{name}" for copy in copies)}
    member = {name: value for name, value in member.items() if not name.startswith("decoder.encoder.")}
    model.members[0].load_state_dict(member, strict=True)
    return model.eval()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_networks_answer_as_nnunets(kind, name):
    network = arguments(kind, name)
    reference = theirs(network).eval()
    randomise(reference)
    model = ours(network, reference.state_dict())
    shape = [2 * divisor * (2 if divisor < 6 else 1) for divisor in model.size_divisors]
    # In float64: the norm of a handful of voxels makes much of float32's rounding.
    image = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.inference_mode():
        expected, answer = reference.double()(image.clone()), model.double()(image)
    assert answer.shape == (2, 3, *shape)
    assert (answer - expected).abs().max() < 1e-9


@pytest.mark.parametrize("kind", [PLAIN, RESIDUAL])
def test_plans_without_the_block_are_the_network_that_nnunet_makes_of_them(kind):
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    build = pytest.importorskip("nnunetv2.utilities.get_network_from_plans").get_network_from_plans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        configuration = handler.PlansManager(old_plans(kind)).get_configuration("3d_fullres")
    reference = build(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        2,
        deep_supervision=False,
    ).eval()
    model = create_model("nnunet", n_classes=2, **parse_plans(old_plans(kind), "3d_fullres").network).eval()
    weights = {
        name: value
        for name, value in reference.state_dict().items()
        if ".all_modules." not in name and not name.startswith("decoder.encoder.")
    }
    model.members[0].load_state_dict(weights, strict=True)
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.inference_mode():
        assert (model.double()(image) - reference.double()(image)).abs().max() < 1e-9


def test_divisors_are_the_products_of_the_strides():
    model = create_model("nnunet", strides=[1, [1, 2, 3], [2, 2, 1]], channels=[2, 2, 2])
    assert model.size_divisors == (2, 4, 3)
    assert model.size_divisor == 4
    with torch.inference_mode():
        assert model(torch.zeros(1, 1, 2, 4, 3)).shape == (1, 1, 2, 4, 3)
    with pytest.raises(InputValueError, match=r"image edges must be multiples of \(2, 4, 3\), got \(2, 4, 4\)"):
        model(torch.zeros(1, 1, 2, 4, 4))


def test_members_are_averaged():
    torch.manual_seed(0)
    model = create_model(
        "nnunet", channels=[2, 3], strides=[1, 2], kernel_sizes=[3, 3], blocks=[1, 1], decoder_blocks=[1], n_members=3
    )
    image = torch.randn(1, 1, 4, 4, 4)
    with torch.inference_mode():
        alone = [member(image) for member in model.members]
        assert (model(image) - sum(alone) / 3).abs().max() < 1e-6
    assert (alone[0] - alone[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": [2, 2, 2]}, "strides must begin with 1"),
        ({"kernel_sizes": [3, 2, 3]}, "kernel_sizes must be odd"),
        ({"blocks": [1, 1]}, "blocks must have 3 values, got 2"),
        ({"decoder_blocks": [1]}, "decoder_blocks must have 2 values, got 1"),
        ({"channels": [4]}, "channels must have 2 or more stages, got 1"),
        ({"encoder": "transformer"}, "encoder must be one of bottleneck, plain, residual, got 'transformer'"),
        ({"encoder": "bottleneck"}, "bottleneck_channels must be given"),
        ({"norm": "group"}, "norm must be one of batch, instance, none"),
        ({"norm_options": {"groups": 2}}, "norm_options must be among affine, eps, .*, got 'groups'"),
        ({"norm_options": {"affine": 1}}, "norm_options affine must be a bool, got 1"),
        ({"activation": "Sine"}, "activation must be one of ELU"),
        ({"activation_options": {"slope": 1}}, "activation_options must suit LeakyReLU"),
        ({"strides": [1, [2, 2], 2]}, r"strides\[1\] must have 3 values, got 2"),
        ({"n_members": 0}, "n_members must be >= 1, got 0"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        create_model("nnunet", **options)


def test_convolutions_are_those_that_mind_small_maps():
    model = create_model("nnunet", channels=[2, 2, 2])
    kinds = {type(part).__name__ for part in model.modules() if isinstance(part, nn.Conv3d)}
    assert kinds == {"CarefulConv3d"}
