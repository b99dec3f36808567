"""The weighted sum: what it computes, reports and refuses."""

import pytest
import torch
from helpers.gpu import TEST_DEVICE

from vesuvius_kit.checks import InputError, InputTypeError, InputValueError
from vesuvius_kit.losses import COMPONENTS, WeightedLoss, functional

CURE = {"dice": 0.8, "focal": 0.15, "variance": 0.0, "boundary": 0.05}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 1, 6, 7, 8), generator=generator)
    return logits, torch.randint(0, 3, (2, 6, 7, 8), generator=generator, dtype=torch.uint8)


def test_total_is_the_weighted_sum_of_batch_means(batch):
    total, components = WeightedLoss(CURE)(*batch)
    assert sorted(components) == ["boundary", "dice", "focal"]
    voxels = functional.select_labelled(*batch)
    torch.testing.assert_close(components["dice"], functional.dice_loss(voxels).mean())
    torch.testing.assert_close(components["focal"], functional.focal_loss(voxels).mean())
    torch.testing.assert_close(total, sum(CURE[name] * value for name, value in components.items()))


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_name_works_alone(name, batch):
    logits = batch[0].requires_grad_()
    total, components = WeightedLoss({name: 2.0})(logits, batch[1])
    total.backward()
    assert list(components) == [name]
    assert components[name].shape == ()
    assert not components[name].requires_grad
    torch.testing.assert_close(total.detach(), 2 * components[name])
    assert logits.grad.any()


def test_reported_components_do_not_train(batch):
    plain, _ = WeightedLoss({"dice": 1.0})(*batch)
    total, components = WeightedLoss({"dice": 1.0, "variance": 0.0}, report=["variance", "dice"])(*batch)
    assert sorted(components) == ["dice", "variance"]
    assert torch.equal(total, plain)


def test_settings_reach_their_component(batch):
    voxels = functional.select_labelled(*batch)
    loss = WeightedLoss(
        {"focal": 1.0, "cldice": 1.0}, focal_gamma=1.0, focal_alpha=0.4, class_weights=(1.0, 2.0), cldice_iterations=1
    )
    _, components = loss(*batch)
    focal = functional.focal_loss(voxels, gamma=1.0, alpha=0.4, class_weights=(1.0, 2.0))
    torch.testing.assert_close(components["focal"], focal.mean())
    torch.testing.assert_close(components["cldice"], functional.cldice_loss(voxels, iterations=1).mean())


def test_class_weights_touch_the_focal_component_only(batch):
    weights = dict.fromkeys(COMPONENTS, 1.0)
    _, light = WeightedLoss(weights, class_weights=(1.0, 1.0))(*batch)
    _, heavy = WeightedLoss(weights, class_weights=(3.0, 3.0))(*batch)
    assert [name for name in COMPONENTS if not torch.equal(light[name], heavy[name])] == ["focal"]


def test_an_unlabelled_sample_counts_as_zero_in_the_mean(batch):
    logits, labels = batch
    alone, _ = WeightedLoss(CURE)(logits[:1], labels[:1])
    labels[1] = 2
    total, _ = WeightedLoss(CURE)(logits, labels)
    torch.testing.assert_close(total, alone / 2)


def test_an_unlabelled_batch_gives_a_finite_zero_with_a_gradient(batch):
    logits = batch[0].requires_grad_()
    total, components = WeightedLoss(dict.fromkeys(COMPONENTS, 1.0))(logits, torch.full_like(batch[1], 2))
    assert total.requires_grad
    total.backward()
    assert total.item() == 0
    assert all(value == 0 for value in components.values())
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened(batch, dtype):
    logits = batch[0].to(dtype)
    loss = WeightedLoss(dict.fromkeys(COMPONENTS, 1.0))
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = loss(logits.requires_grad_(), batch[1])
    expected, _ = loss(logits.float(), batch[1])
    total.backward()
    assert total.dtype == torch.float32
    torch.testing.assert_close(total.detach(), expected.detach(), rtol=1e-6, atol=0)
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_any_integer_label_dtype(batch, dtype):
    loss = WeightedLoss(dict.fromkeys(COMPONENTS, 1.0))
    assert torch.equal(loss(batch[0], batch[1].to(dtype))[0], loss(*batch)[0])


def test_no_gradient_is_asked_where_none_is_wanted(batch):
    with torch.no_grad():
        total, _ = WeightedLoss(CURE)(batch[0].requires_grad_(), batch[1])
    assert not total.requires_grad


@pytest.mark.gpu
def test_gpu_agrees_with_cpu(batch):
    loss = WeightedLoss(dict.fromkeys(COMPONENTS, 1.0))
    total, components = loss(batch[0].to(TEST_DEVICE), batch[1].to(TEST_DEVICE))
    expected, _ = loss(*batch)
    torch.testing.assert_close(total.cpu(), expected)
    assert all(value.device.type == TEST_DEVICE for value in components.values())


@pytest.mark.parametrize(
    ("weights", "settings", "message"),
    [
        ({"dise": 1.0}, {}, "loss component must be one of boundary, .*, got 'dise'"),
        ({"dice": -0.5}, {}, "dice_weight must be >= 0.0, got -0.5"),
        ({"dice": float("nan")}, {}, "dice_weight"),
        ({"dice": "much"}, {}, "dice_weight must be a number"),
        ({"dice": 0.0}, {}, "must have one above 0"),
        ({}, {}, "must have one above 0"),
        ({"dice": 1.0}, {"report": ["variants"]}, "got 'variants'"),
        ({"dice": 1.0}, {"report": "variance"}, "report must be a collection"),
        ({"dice": 1.0}, {"focal_gamma": -1.0}, "focal_gamma"),
        ({"dice": 1.0}, {"focal_alpha": 2.0}, "focal_alpha"),
        ({"dice": 1.0}, {"class_weights": (1.0, -1.0)}, r"class_weights\[1\]"),
        ({"dice": 1.0}, {"cldice_iterations": 1.5}, "cldice_iterations"),
    ],
)
def test_bad_settings_are_refused(weights, settings, message):
    with pytest.raises(InputError, match=message):
        WeightedLoss(weights, **settings)


def test_weights_must_be_a_mapping():
    with pytest.raises(InputTypeError, match="mapping"):
        WeightedLoss([("dice", 1.0)])


def test_bad_labels_are_refused(batch):
    with pytest.raises(InputValueError, match="labels must be 0, 1 or 2, got 255"):
        WeightedLoss(CURE)(batch[0], torch.full_like(batch[1], 255))
