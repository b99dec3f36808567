"""What every registered model promises: a new one is tested by being registered, with a small variant added here."""

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from vesuvius_kit.checks import InputError, InputTypeError, InputValueError
from vesuvius_kit.models import (
    ModelRecord,
    Normalisation,
    PredictionRules,
    create_model,
    list_models,
    register_model,
)

SMALL = {
    "unet3d": {"initial_filters": 4, "depth": 2},
    "resenc_unet": {"channels": [4, 8, 8], "blocks": [1, 2, 1]},
    "nnunet": {"channels": [4, 6, 8], "blocks": [1, 2, 1], "strides": [1, [1, 2, 2], 2]},
    "timm_unet": {"encoder": "resnet10t", "decoder_channels": [8, 8, 8, 4, 4]},
}
# The decoder of the others is the kit's.
with_upsampling = pytest.mark.parametrize("name", [name for name in list_models() if name != "nnunet"])
every_model = pytest.mark.parametrize("name", list_models())


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {name: create_model(name, **SMALL[name]) for name in list_models()}


def images(model, edges, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn((batch, 1, *(edge * model.size_divisor for edge in edges)), generator=generator)


def test_the_promised_models_are_there():
    assert {"unet3d", "resenc_unet", "timm_unet"} <= set(list_models())
    assert list_models() == sorted(SMALL)


@every_model
@pytest.mark.parametrize("edges", [(1, 1, 1), (2, 1, 3)])
def test_logits_have_the_shape_of_the_image(models, name, edges):
    model = models[name].eval()
    image = images(model, edges)
    with torch.inference_mode():
        logits = model(image)
    assert logits.shape == image.shape
    assert torch.isfinite(logits).all()


@every_model
def test_gradient_reaches_every_parameter_and_every_voxel(models, name):
    model = deepcopy(models[name]).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    image = images(model, (1, 1, 2)).requires_grad_()
    # Some residual branches end in zeros at first, which hide what lies before them: the second step shows it.
    for _ in range(2):
        optimizer.zero_grad()
        model(image).square().mean().backward()
        optimizer.step()
    trained = [(key, value) for key, value in model.named_parameters() if value.requires_grad]
    without = [key for key, value in trained if value.grad is None or not value.grad.any()]
    assert without == []
    assert (image.grad != 0).float().mean() > 0.99


@every_model
def test_smallest_input_can_be_trained_on(models, name):
    model = deepcopy(models[name]).train()
    logits = model(images(model, (1, 1, 1)))
    logits.sum().backward()
    assert torch.isfinite(logits).all()


@every_model
def test_record_and_weights_rebuild_the_model(models, name):
    model = models[name].eval()
    record = ModelRecord.from_dict(json.loads(json.dumps(model.record.to_dict())))
    assert record == model.record
    rebuilt = create_model(record.name, normalisation=record.normalisation, **record.options)
    assert rebuilt.record == model.record
    rebuilt.load_state_dict(model.state_dict())
    image = images(model, (1, 2, 1))
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(image), model(image))


@every_model
def test_evaluation_is_deterministic_and_samples_are_independent(models, name):
    model = models[name].eval()
    image = images(model, (1, 2, 1))
    with torch.inference_mode():
        logits = model(image)
        assert torch.equal(model(image), logits)
        torch.testing.assert_close(model(image[1:]), logits[1:], rtol=1e-3, atol=1e-4)


@every_model
def test_prediction_without_gradients_is_the_same_function(models, name):
    model = models[name].eval()
    image = images(model, (1, 1, 2))
    with torch.no_grad():
        logits = model(image)
    torch.testing.assert_close(logits, model(image).detach(), rtol=1e-3, atol=1e-4)
    assert logits.is_contiguous()


@every_model
def test_same_seed_same_weights(name):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(create_model(name, **SMALL[name]).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@every_model
def test_bfloat16_autocast_stays_close(models, name):
    model = models[name].eval()
    image = images(model, (1, 2, 2), batch=1)
    with torch.inference_mode():
        logits = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(image).float()
    assert (half - logits).abs().mean() < 0.1 * logits.std()


@every_model
def test_wrong_input_sizes_are_refused(models, name):
    model = models[name]
    divisor = model.size_divisor
    with pytest.raises(InputValueError, match=r"image edges must be multiples of \(?\d.*, got"):
        model(torch.zeros(1, 1, divisor, divisor + 1, divisor))
    with pytest.raises(InputValueError, match="image edges must be multiples"):
        model(torch.zeros(1, 1, divisor, 0, divisor))
    with pytest.raises(InputValueError, match=r"image must have the shape \(B, 1, Z, Y, X\)"):
        model(torch.zeros(1, 2, divisor, divisor, divisor))
    with pytest.raises(InputValueError, match="image must have the shape"):
        model(torch.zeros(divisor, divisor, divisor))


@every_model
def test_unknown_options_are_refused_by_name(name):
    with pytest.raises(InputValueError, match=f"options of model {name} must be among .*, got 'dropuot'"):
        create_model(name, dropuot=0.1)


@with_upsampling
def test_unknown_upsampling_is_refused(name):
    with pytest.raises(InputValueError, match="upsampling must be one of nearest, transposed, trilinear, got 'cubic'"):
        create_model(name, **{**SMALL[name], "upsampling": "cubic"})


@with_upsampling
@pytest.mark.parametrize("upsampling", ["nearest", "trilinear"])
def test_other_upsamplings(name, upsampling):
    model = create_model(name, **{**SMALL[name], "upsampling": upsampling}).eval()
    image = images(model, (1, 2, 1), batch=1)
    with torch.inference_mode():
        assert model(image).shape == image.shape


def test_unknown_model_lists_the_choices():
    with pytest.raises(
        InputValueError, match="model name must be one of nnunet, resenc_unet, timm_unet, unet3d, got 'unet'"
    ):
        create_model("unet")


def test_names_are_registered_once():
    with pytest.raises(InputValueError, match="must be new, got 'unet3d'"):
        register_model("unet3d")


def test_record_holds_defaults_and_normalisation():
    model = create_model("unet3d", initial_filters=2, normalisation={"scheme": "fixed", "mean": 90.0, "std": 40.0})
    assert model.record.to_dict() == {
        "name": "unet3d",
        "options": {"initial_filters": 2, "depth": 4, "upsampling": "transposed", "half_resolution": False},
        "normalisation": {"scheme": "fixed", "mean": 90.0, "std": 40.0},
        "rules": PredictionRules().to_dict(),
    }
    assert create_model("unet3d", initial_filters=2).record.normalisation == Normalisation("volume")


def test_records_of_lists_and_tuples_are_equal():
    options = {"channels": [4, 8], "blocks": (1, 1)}
    assert ModelRecord("resenc_unet", options, Normalisation()) == ModelRecord(
        "resenc_unet", {"channels": (4, 8), "blocks": [1, 1]}, Normalisation()
    )


def test_foreign_records_are_refused():
    with pytest.raises(InputTypeError, match="model record must be a mapping"):
        ModelRecord.from_dict("unet3d")
    with pytest.raises(InputValueError, match="model record must have the keys"):
        ModelRecord.from_dict({"name": "unet3d"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet3d", {"initial_filters": 0}, "initial_filters must be >= 1"),
        ("unet3d", {"depth": "deep"}, "depth must be an integer"),
        ("resenc_unet", {"channels": [4, 8], "blocks": [1]}, "channels and blocks must have one value for each"),
        ("resenc_unet", {"channels": [4], "blocks": [1]}, "2 or more stages"),
        ("resenc_unet", {"channels": [4, 0], "blocks": [1, 1]}, r"channels\[1\] must be >= 1"),
        ("resenc_unet", {"channels": 4, "blocks": 1}, "channels must be a list of integers"),
        ("unet3d", {"normalisation": "z-score"}, "normalisation scheme must be one of ct, fixed"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        create_model(name, **options)


def test_residual_encoder_has_the_size_of_the_winners_network():
    with torch.device("meta"):
        model = create_model("resenc_unet")
    assert model.size_divisor == 32
    assert sum(value.numel() for value in model.parameters()) == pytest.approx(102e6, rel=0.01)


def test_plain_unet_is_the_one_of_the_case():
    with torch.device("meta"):
        model = create_model("unet3d")
    assert model.size_divisor == 16
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv3d) and part.kernel_size == (3, 3, 3)]
    assert len(convolutions) == 2 * 9
    assert {part.out_channels for part in convolutions} == {32, 64, 128, 256, 512}
