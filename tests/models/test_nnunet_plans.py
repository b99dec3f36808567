"""``plans.json`` and ``dataset.json``, read and refused; labels compared with nnU-Net's own where it is installed."""

import json
from contextlib import suppress

import pytest

from tests.helpers.nnunet_folders import architecture, dataset, old_plans, plans
from vesuvius_kit.checks import InputError
from vesuvius_kit.models import Normalisation, OutputRule, create_model
from vesuvius_kit.models.nnunet_plans import parse_json, parse_labels, parse_plans
from vesuvius_kit.models.rules import Interpolation, ResamplingRule

REGIONS = {"background": 0, "whole sheet": [1, 2], "recto": [2], "ignore": 3}


def test_usual_plans():
    content = plans(patch_size=[8, 16, 24], spacing=[2.0, 1, 0.5])
    content |= {"transpose_forward": [2, 0, 1]}
    parsed = parse_plans(content, "3d_fullres")
    assert parsed.patch_size == (8, 16, 24)
    assert parsed.spacing == (2.0, 1.0, 0.5)
    assert parsed.transpose == (2, 0, 1)
    assert parsed.normalisation == Normalisation("ct", 87.5, 47.7, 3.0, 250.5)
    assert parsed.resampling == ResamplingRule(Interpolation(3), Interpolation(1))
    assert parsed.network["encoder"] == "plain"
    assert parsed.network["channels"] == [4, 6, 8]


def test_configurations_inherit():
    content = plans()
    content["configurations"] |= {
        "3d_small": {"inherits_from": "3d_wide", "patch_size": [8, 8, 8]},
        "3d_wide": {"inherits_from": "3d_fullres", "patch_size": [32, 32, 32], "spacing": [2.0, 2.0, 2.0]},
    }
    parsed = parse_plans(content, "3d_small")
    assert parsed.patch_size == (8, 8, 8)
    assert parsed.spacing == (2.0, 2.0, 2.0)
    assert parsed.configuration == "3d_small"
    assert parsed.network == parse_plans(plans(), "3d_fullres").network


def test_plans_of_the_first_releases():
    parsed = parse_plans(old_plans("ResidualEncoderUNet"), "3d_fullres")
    assert parsed.network["encoder"] == "residual"
    assert parsed.network["channels"] == [4, 7, 7]
    assert parsed.network["conv_bias"] is True
    assert parsed.normalisation.mean == 87.5


def test_the_trainer_with_batch_norm_is_known():
    network = parse_plans(plans(), "3d_fullres", "nnUNetTrainerBN").network
    assert network["norm"] == "batch"


@pytest.mark.parametrize(
    ("name", "masked", "expected"),
    [
        ("ZScoreNormalization", False, Normalisation("zscore")),
        ("ZScoreNormalization", True, Normalisation("zscore", masked=True)),
        ("RescaleTo01Normalization", False, Normalisation("rescale_to_0_1")),
        ("RGBTo01Normalization", False, Normalisation("rgb_to_0_1")),
        ("NoNormalization", False, Normalisation("none")),
    ],
)
def test_normalisations(name, masked, expected):
    content = plans(normalization_schemes=[name], use_mask_for_norm=[masked])
    assert parse_plans(content, "3d_fullres").normalisation == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"resampling_fn_data": "resample_torch_fornnunet", "resampling_fn_data_kwargs": {"force_separate_z": False}},
         ResamplingRule(Interpolation(1, 0, False), Interpolation(1))),
        ({"resampling_fn_probabilities_kwargs": {"order": 0, "order_z": 1, "force_separate_z": True}},
         ResamplingRule(Interpolation(3), Interpolation(0, 1, True))),
        ({"resampling_fn_data": "no_resampling_hack", "resampling_fn_data_kwargs": {},
          "resampling_fn_probabilities": "no_resampling_hack", "resampling_fn_probabilities_kwargs": {}}, None),
    ],
)  # fmt: skip
def test_resamplings(changes, expected):
    assert parse_plans(plans(**changes), "3d_fullres").resampling == expected


def without(key, place=None):
    content = plans()
    settings = content["configurations"]["3d_fullres"]
    target = {None: content, "configuration": settings, "architecture": settings["architecture"]["arch_kwargs"]}[place]
    del target[key]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (plans(normalization_schemes=["MyNormalization"]), "normalization_schemes must be among .*, got 'MyNormalization'"),
        (plans(normalization_schemes=["CTNormalization"] * 2, use_mask_for_norm=[False] * 2), "must be one, as the image"),
        (plans(preprocessor_name="MyPreprocessor"), "preprocessor_name must be DefaultPreprocessor, got 'MyPreprocessor'"),
        (plans(previous_stage="3d_lowres"), "must not need another network's answer, got 3d_fullres after 3d_lowres"),
        (plans(patch_size=[16, 16]), r"configuration must be 3-D, got 3d_fullres with patch_size \[16, 16\]"),
        (plans(architecture("Primus")), "network must be one of PlainConvUNet, ResidualEncoderUNet, got '.*Primus'"),
        (plans(architecture(conv_op="torch.nn.modules.conv.Conv2d")), "conv_op must be Conv3d, got Conv2d"),
        (plans(architecture(norm_op="torch.nn.GroupNorm")), "norm_op must be one of torch.nn's .*, got 'torch.nn.GroupNorm'"),
        (plans(architecture(norm_op="os.BatchNorm3d")), "norm_op must be one of torch.nn's .*, got 'os.BatchNorm3d'"),
        (plans(architecture(nonlin="torch.nn.Softmax")), "nonlin must be one of torch.nn's"),
        (plans(architecture(squeeze_excitation=True)), "arch_kwargs must hold what .*, got squeeze_excitation"),
        (plans(architecture(strides=[1, 2])), r"strides must be a number or 3 values, got \[1, 2\]"),
        (plans(architecture(n_stages="3")), "n_stages must be an integer, got str"),
        (plans(resampling_fn_data="my_resampling"), "resampling_fn_data must be one of .*, got 'my_resampling'"),
        (plans(resampling_fn_data_kwargs={"mystery": 1}), "resampling_fn_data_kwargs must hold .*, got mystery"),
        (plans(resampling_fn_data="no_resampling_hack", resampling_fn_data_kwargs={}), "must both be no_resampling_hack"),
        (plans(spacing=[1.0, 0.0, 1.0]), r"spacing of the plans\[1\] must be > 0, got 0.0"),
        (plans(spacing="1"), "spacing must be a list, got str"),
        ({**plans(), "transpose_forward": [0, 1]}, "transpose_forward must be an order of 0, 1, 2"),
        (plans(inherits_from="3d_fullres"), "must not inherit in a circle, got 3d_fullres from 3d_fullres"),
        (plans(inherits_from="3d_lowres"), "configuration must be one of 3d_fullres, got '3d_lowres'"),
        (without("configurations"), "must hold configurations, got none"),
        (without("patch_size", "configuration"), "must hold patch_size, got none"),
        (without("features_per_stage", "architecture"), "must hold features_per_stage, got none"),
        (without("foreground_intensity_properties_per_channel"), "must hold foreground_intensity_properties_by_modality"),
    ],
)  # fmt: skip
def test_what_the_kit_does_not_do_is_refused_by_name(content, message):
    with pytest.raises(InputError, match=message):
        parse_plans(content, "3d_fullres")


def test_unknown_configurations_are_refused():
    with pytest.raises(InputError, match="configuration must be one of 3d_fullres, got '3d_lowres'"):
        parse_plans(plans(), "3d_lowres")


@pytest.mark.parametrize(
    ("labels", "changes", "surface", "expected"),
    [
        ({"background": 0, "surface": 1}, {}, None, OutputRule("softmax", 2, (1,))),
        ({"background": 0, "ink": 1, "ignore": 2}, {}, None, OutputRule("softmax", 2, (1,))),
        ({"background": 0, "recto": 1, "verso": 2, "fibres": 3}, {}, None, OutputRule("softmax", 4, (1,))),
        ({"background": 0, "Recto Surface": 1, "verso_surface": 2}, {}, None, OutputRule("softmax", 3, (1, 2))),
        ({"background": 0, "non_surface": 1, "Surface": 2}, {}, None, OutputRule("softmax", 3, (2,))),
        ({"background": 0, "nonsurface": 1, "annotated surface": 2}, {}, None, OutputRule("softmax", 3, (2,))),
        ({"background": 0, "a": 1, "b": 2}, {}, None, OutputRule("softmax", 3, (1, 2))),
        ({"background": 0, "a": 1, "b": 2}, {}, "b", OutputRule("softmax", 3, (2,))),
        ({"background": 0, "a": 1, "b": 2}, {}, ["b", "a"], OutputRule("softmax", 3, (1, 2))),
        ({"background": 0, "a": 1, "b": 2}, {}, 1, OutputRule("softmax", 3, (1,))),
        ({"background": "0", "a": "1"}, {"modality": {"0": "CT"}, "channel_names": None}, None, None),
        ({"background": 0, "a": [1], "b": 2}, {}, "a", OutputRule("softmax", 3, (1,))),
        (REGIONS, {"regions_class_order": [1, 2]}, None, OutputRule("regions", 2, (0, 1))),
        (REGIONS, {"regions_class_order": [1, 2]}, "recto", OutputRule("regions", 2, (1,))),
    ],
)
def test_labels_become_the_rule_of_the_output(labels, changes, surface, expected):
    content = dataset(labels, **changes)
    if expected is None:
        del content["channel_names"]
        expected = OutputRule("softmax", 2, (1,))
    assert parse_labels(content).output_rule(surface) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            dataset(channel_names={"0": "CT", "1": "mask"}),
            "channel_names must name one channel of the image, got 2: CT, mask",
        ),
        (dataset(channel_names=None), "channel_names must name one channel of the image, got None"),
        (dataset({"surface": 1}), "labels must have background 0"),
        (dataset({"background": 0}), "labels must have a foreground"),
        (dataset({"background": 0, "ignore": 1, "surface": 2}), "label ignore must be the highest, 3, got 1"),
        (dataset({"background": 0, "surface": "one"}), "label surface must be a number or numbers >= 0, got 'one'"),
        (dataset({"background": 0, "surface": []}), "label surface must have a value"),
        (dataset(REGIONS), "regions_class_order must have 2 values, one a region, got None"),
    ],
)
def test_labels_that_mean_nothing_are_refused(content, message):
    with pytest.raises(InputError, match=message):
        parse_labels(content)


def test_a_surface_that_is_not_there_is_refused():
    labels = parse_labels(dataset({"background": 0, "a": 1, "b": 2}))
    for name in ("c", "background", 0, 3):
        with pytest.raises(InputError, match=f"surface must be among a, b, got {name!r}"):
            labels.output_rule(name)
    with pytest.raises(InputError, match="label_manager must be LabelManager, got 'MyManager'"):
        parse_labels(dataset(), "MyManager")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100000])
def test_what_is_no_json_is_refused(data):
    with pytest.raises(InputError, match=r"plans\.json must be JSON"):
        parse_json(data, "plans.json")
    with pytest.raises(InputError, match=r"plans\.json must hold an object, got list"):
        parse_json(b"[]", "plans.json")


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "surface": 1},
        {"background": 0, "a": 1, "b": 2, "ignore": 3},
        {"background": 0, "a": [1], "b": [2]},
        {"background": 0, "all": [1, 2], "b": 2, "ignore": 3},
        {"background": 0, "none": [0], "all": [1, 2], "b": [2]},
    ],
)
def test_the_number_of_channels_is_nnunets(labels):
    theirs = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    manager = theirs.LabelManager(labels, [1, 2])
    assert (
        parse_labels(dataset(labels, regions_class_order=[1, 2])).output_rule().n_channels
        == manager.num_segmentation_heads
    )


def places_in(content, before=()):
    """The paths of every value in a nested structure."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*before, key)
        yield from places_in(value, (*before, key))


@pytest.mark.parametrize("value", [None, "x", -1, 0, 1.5, True, [], {}, [[]], [None], {"a": 1}, [1, 2, 3]], ids=repr)
@pytest.mark.parametrize("make", [plans, old_plans, lambda: plans(architecture("ResidualEncoderUNet"))])
def test_any_value_anywhere_is_taken_or_refused(make, value):
    for place in places_in(make()):
        content = make()
        *path, last = place
        target = content
        for key in path:
            target = target[key]
        target[last] = value
        with suppress(InputError):
            create_model("nnunet", **parse_plans(content, "3d_fullres").network)


@pytest.mark.parametrize("value", [None, "x", -1, 0, 1.5, True, [], {}, [[]], [None], {"a": 1}, [1, 2, 3]], ids=repr)
def test_any_value_in_the_labels_is_taken_or_refused(value):
    for labels in ({"background": 0, "surface": 1, "ignore": 2}, REGIONS):
        for place in places_in(dataset(labels, regions_class_order=[1, 2])):
            content = {**dataset(dict(labels), regions_class_order=[1, 2])}
            content = json.loads(json.dumps(content))
            *path, last = place
            target = content
            for key in path:
                target = target[key]
            target[last] = value
            with suppress(InputError):
                parse_labels(content).output_rule()
