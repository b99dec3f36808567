"""Rules of prediction: channels to probabilities, in torch and in NumPy, and their way through JSON."""

import json

import numpy as np
import pytest
import torch

from vesuvius_kit.checks import InputError, InputTypeError, InputValueError
from vesuvius_kit.models import ModelRecord, Normalisation, create_model
from vesuvius_kit.models.checkpoint import load_checkpoint, load_model, save_checkpoint
from vesuvius_kit.models.rules import Interpolation, OutputRule, PredictionRules, ResamplingRule

RULES = [
    OutputRule(),
    OutputRule("sigmoid", 3, (1,)),
    OutputRule("softmax", 2, (1,)),
    OutputRule("softmax", 2, (0,)),
    OutputRule("softmax", 4, (1, 3)),
    OutputRule("softmax", 3, (2,)),
    OutputRule("regions", 1, (0,)),
    OutputRule("regions", 3, (0, 2)),
    OutputRule("regions", 3, (1, 2)),
]
FULL = PredictionRules(
    output=OutputRule("softmax", 3, (1, 2)),
    average="logits",
    window=(16, 32, 48),
    grid="nnunet",
    mirror_axes=(2, 0),
    transpose=(1, 2, 0),
    crop=True,
    spacing=(3.0, 1.0, 0.5),
    resampling=ResamplingRule(Interpolation(3, 1, True), Interpolation(0)),
)


def expected_probability(rule, logits):
    """In float64, straight from the definition."""
    logits = logits.double()
    if rule.kind == "softmax":
        return torch.softmax(logits, 1)[:, list(rule.surface)].sum(1, keepdim=True)
    return torch.sigmoid(logits[:, list(rule.surface)]).amax(1, keepdim=True)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_channels_become_the_probability_of_the_surface(rule):
    logits = torch.randn(2, rule.n_channels, 3, 4, 5, generator=torch.Generator().manual_seed(1)) * 10
    stored = rule.to_stored(logits)
    assert stored.shape == (2, rule.n_stored, 3, 4, 5)
    assert stored.dtype == torch.float32
    wanted = expected_probability(rule, logits)
    probability = rule.to_probability(stored)
    assert probability.shape == (2, 1, 3, 4, 5)
    assert (probability.double() - wanted).abs().max() < 1e-6
    for sample in range(2):
        whole = rule.probability_of(stored[sample].numpy())
        assert whole.dtype == np.float32
        assert np.abs(whole - wanted[sample, 0].numpy()).max() < 1e-6
        assert torch.allclose(rule.to_probability(stored[sample]), probability[sample], atol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_is_stored_is_linear(rule):
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randn(1, rule.n_channels, 2, 2, 2, generator=generator) for _ in range(2))
    together = rule.to_stored(0.25 * first + 0.75 * second)
    assert torch.allclose(together, 0.25 * rule.to_stored(first) + 0.75 * rule.to_stored(second), atol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_extreme_logits_give_probabilities(rule, size):
    stored = torch.zeros(rule.n_stored, 1, 1, 3)
    stored[-1] = torch.tensor([-size, 0.0, size])
    for probability in (rule.to_probability(stored).numpy(), rule.probability_of(stored.numpy())):
        assert np.isfinite(probability).all()
        assert probability.min() >= 0
        assert probability.max() <= 1


def test_half_precision_is_stored_in_single():
    assert (
        OutputRule("softmax", 2, (1,)).to_stored(torch.zeros(1, 2, 1, 1, 1, dtype=torch.float16)).dtype == torch.float32
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("argmax", 2, (1,)), "output kind must be one of regions, sigmoid, softmax, got 'argmax'"),
        (("softmax", 1, (0,)), "n_channels must be >= 2, got 1"),
        (("softmax", 2, (2,)), "surface must be >= 0 and <= 1, got 2"),
        (("softmax", 2, (0, 1)), "must leave a class that is not surface"),
        (("sigmoid", 2, (0, 1)), r"must be one channel for sigmoid, got \[0, 1\]"),
        (("regions", 2, ()), r"different channels, at least one for regions, got \[\]"),
        (("regions", 2, (1, 1)), "different channels"),
        (("regions", 2, "1"), "surface must be channel numbers, got str"),
    ],
)
def test_impossible_output_rules_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        OutputRule(*arguments)


def test_wrong_number_of_stored_channels_is_refused():
    rule = OutputRule("softmax", 3, (1,))
    with pytest.raises(InputValueError, match="stored must have 3 channels for softmax, got 1"):
        rule.to_probability(torch.zeros(1, 1, 1, 1))
    with pytest.raises(InputValueError, match="stored must have 3 channels for softmax, got 2"):
        rule.probability_of(np.zeros((2, 1, 1, 1), np.float32))


@pytest.mark.parametrize("rules", [PredictionRules(), FULL], ids=["kit", "full"])
def test_rules_pass_through_json(rules):
    assert PredictionRules.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules


def test_rules_travel_with_the_weights(tmp_path):
    model = create_model("unet3d", initial_filters=2, depth=1, rules=FULL)
    save_checkpoint(tmp_path, model, {})
    assert load_checkpoint(tmp_path).record.rules == FULL
    assert load_model(tmp_path).record.rules == FULL


def test_records_without_rules_are_the_kits_own():
    record = create_model("unet3d", initial_filters=2, depth=1).record
    old = {key: value for key, value in record.to_dict().items() if key != "rules"}
    assert (
        ModelRecord.from_dict(old)
        == record
        == ModelRecord("unet3d", record.options, Normalisation(), PredictionRules())
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"averag": 1}, InputValueError, "prediction rules must have the keys .*, got 'averag'"),
        ({"output": {"chanels": 1}}, InputValueError, "output rule must have the keys"),
        ({"output": []}, InputTypeError, "output rule must be a mapping, got list"),
        ({"resampling": {"data": {"order": 9}}}, InputValueError, "interpolation order must be >= 0 and <= 5, got 9"),
        ({"transpose": [0, 0, 1]}, InputValueError, "transpose must be an order of the axes"),
        ({"grid": "monai"}, InputValueError, "grid must be one of kit, nnunet"),
        ({"average": "votes"}, InputValueError, "average must be one of logits, probabilities"),
        ({"mirror_axes": [3]}, InputValueError, "mirror_axes must be >= 0 and <= 2, got 3"),
        ({"spacing": [1, 0, 1]}, InputValueError, "spacing"),
        ({"crop": 1}, InputTypeError, "crop must be a bool, got int"),
    ],
)
def test_foreign_rules_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        PredictionRules.from_dict({**PredictionRules().to_dict(), **change})


def test_backward_undoes_the_transposition():
    volume = np.zeros((2, 3, 4))
    turned = volume.transpose(FULL.transpose)
    assert turned.shape == (3, 4, 2)
    assert turned.transpose(FULL.backward).shape == volume.shape
