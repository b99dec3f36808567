"""Each component against hand numbers, a NumPy twin, and numerical gradients."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.losses import functional
from vesuvius_kit.losses.functional import select_labelled

LOSSES = {
    "boundary": functional.boundary_loss,
    "cldice": functional.cldice_loss,
    "connectivity": functional.connectivity_loss,
    "cross_entropy": functional.cross_entropy_loss,
    "dice": functional.dice_loss,
    "focal": functional.focal_loss,
    "variance": functional.variance_loss,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def evaluate(name, logits, labels, **settings):
    return LOSSES[name](select_labelled(logits, labels), **settings)


def line(probabilities, labels):
    """A sample of one row of voxels with the given probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.logit(p).view(1, 1, 1, 1, -1), torch.tensor(labels).view(1, 1, 1, -1)


def random_batch(seed, shape=(3, 7, 8, 9), values=3):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((shape[0], 1, *shape[1:]), generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, values, shape, generator=generator)


def sheet_batch():
    """A wavy sheet two voxels thick in a band of background, unlabelled beyond it."""
    z, y, x = np.mgrid[:12, :14, :16]
    height = 5 + np.round(np.sin(y / 3) + np.cos(x / 4))
    labels = np.where(np.abs(z - height) > 4, 2, np.where((z == height) | (z == height + 1), 1, 0))
    return torch.from_numpy(labels)[None]


# --- the NumPy twin: one sample, straight from the definitions -------------------------------------------------------


def naive_skeleton(image):
    lines = [np.ones(s, bool) for s in ((3, 1, 1), (1, 3, 1), (1, 1, 3))]

    def erode(a):
        return np.min([ndimage.minimum_filter(a, footprint=fp, mode="nearest") for fp in lines], axis=0)

    def opened(a):
        return ndimage.maximum_filter(erode(a), size=3, mode="nearest")

    skeleton = np.maximum(image - opened(image), 0)
    for _ in range(3):
        image = erode(image)
        ridge = np.maximum(image - opened(image), 0)
        skeleton = skeleton + np.maximum(ridge - skeleton * ridge, 0)
    return skeleton


def naive(name, logits, labels):
    known = labels != 2
    if not known.any():
        return 0.0
    p, t = 1 / (1 + np.exp(-logits)), (labels == 1).astype(float)
    e = 1e-5
    ce = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    p0 = np.where(known, p, 0)
    if name == "dice":
        return 1 - (2 * (p * t)[known].sum() + e) / (p[known].sum() + t[known].sum() + e)
    if name == "cross_entropy":
        return ce[known].mean()
    if name == "focal":
        p_t, a_t, c_t = np.where(t == 1, p, 1 - p), np.where(t == 1, 0.35, 0.65), np.where(t == 1, 1.5, 1.0)
        return (c_t * a_t * (1 - p_t) ** 2 * ce)[known].mean()
    if name == "boundary":
        if not (labels == 0).any() or not (labels == 1).any():
            return 0.0
        to_surface = ndimage.distance_transform_edt(labels != 1)
        to_background = ndimage.distance_transform_edt(labels != 0)
        d = np.where(labels == 1, to_background, to_surface)[known]
        w = np.interp(d, [3, 5], [1, 0])
        return (w * ce[known]).sum() / w.sum()
    if name == "variance":
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))[known].mean()
        return (1 - p[known].var()) ** 2 + max(0, 0.5 - entropy)
    if name == "cldice":
        sp, st = naive_skeleton(p0), naive_skeleton(t)
        precision = ((sp * t)[known].sum() + e) / (sp[known].sum() + e)
        sensitivity = ((st * p0)[known].sum() + e) / (st[known].sum() + e)
        return 1 - 2 * precision * sensitivity / (precision + sensitivity)
    assert name == "connectivity"
    pooled = [ndimage.maximum_filter(a, size=3, mode="constant", cval=0) for a in (p0, t)]
    return ((pooled[0] - pooled[1]) ** 2)[known].mean()


@every_loss
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_numpy_twin(name, seed):
    logits, labels = random_batch(seed)
    if seed % 2:
        # Few surface voxels, so that distances and skeletons have something to do.
        sheets = sheet_batch()
        labels = sheets.repeat(2, 1, 1, 1)
        labels[1] = labels[1].flip(0)
        logits = random_batch(seed, tuple(labels.shape))[0] + 2 * (labels == 1).unsqueeze(1)
    values = evaluate(name, logits, labels)
    expected = [naive(name, logits[i, 0].numpy(), labels[i].numpy()) for i in range(len(labels))]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-9, atol=1e-12)


# --- hand numbers ---------------------------------------------------------------------------------------------------


def test_dice_by_hand():
    logits, labels = line([0.8, 0.4, 0.5, 0.9], [1, 0, 1, 2])
    expected = 1 - (2 * 1.3 + 1e-5) / (1.7 + 2 + 1e-5)
    assert evaluate("dice", logits, labels).item() == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_by_hand():
    logits, labels = line([0.8, 0.4, 0.9], [1, 0, 2])
    assert evaluate("cross_entropy", logits, labels).item() == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


def test_focal_by_hand():
    logits, labels = line([0.8, 0.4, 0.9], [1, 0, 2])
    surface = 1.5 * 0.35 * 0.2**2 * -math.log(0.8)
    background = 0.65 * 0.4**2 * -math.log(0.6)
    assert evaluate("focal", logits, labels).item() == pytest.approx((surface + background) / 2, rel=1e-12)


def test_focal_without_focus_is_half_the_cross_entropy():
    logits, labels = random_batch(1)
    plain = evaluate("focal", logits, labels, gamma=0.0, alpha=0.5, class_weights=(1.0, 1.0))
    torch.testing.assert_close(plain, evaluate("cross_entropy", logits, labels) / 2)


def test_boundary_weights_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 0, 0]).view(1, 1, 1, -1)
    weight = functional.weigh_boundary(select_labelled(torch.zeros(1, 1, 1, 1, 10), labels)).flatten()
    # Distances 5 4 3 2 1 | 1 2 | - | 2 3: the surface's end at the unlabelled voxel is no boundary.
    assert weight.tolist() == [0, 0.5, 1, 1, 1, 1, 1, 0, 1, 1]


def test_boundary_weights_are_euclidean():
    labels = torch.zeros(1, 11, 11, 11, dtype=torch.uint8)
    labels[0, 5, 5, 5] = 1
    weight = functional.weigh_boundary(select_labelled(torch.zeros(1, 1, 11, 11, 11), labels))[0, 0]
    assert weight[7, 7, 6] == 1  # distance 3
    assert weight[8, 7, 6] == pytest.approx((5 - math.sqrt(14)) / 2)
    assert weight[8, 8, 7] == pytest.approx((5 - math.sqrt(22)) / 2)
    assert weight[9, 8, 5] == 0  # distance 5
    assert weight[0, 0, 0] == 0


def test_boundary_needs_both_classes():
    logits, labels = line([0.5, 0.5, 0.5], [1, 1, 2])
    assert evaluate("boundary", logits, labels).item() == 0


def test_variance_by_hand():
    logits, labels = line([0.5, 0.5, 0.9], [1, 0, 2])
    assert evaluate("variance", logits, labels).item() == pytest.approx(1.0)  # no spread, entropy ln 2 > 0.5
    logits = torch.tensor([40.0, -40.0, 0.0]).view(1, 1, 1, 1, 3)
    assert evaluate("variance", logits, labels).item() == pytest.approx(0.75**2 + 0.5)  # a perfect output


def test_cldice_of_a_line_and_of_its_half():
    labels = torch.zeros(1, 9, 9, 10, dtype=torch.uint8)
    labels[0, 4, 4] = 1
    logits = torch.full((1, 1, 9, 9, 10), -40.0)
    logits[0, 0, 4, 4] = 40.0
    assert evaluate("cldice", logits, labels).item() == pytest.approx(0, abs=1e-6)
    logits[0, 0, 4, 4, 5:] = -40.0
    # All of the prediction lies in the target, half of the target in the prediction.
    assert evaluate("cldice", logits, labels).item() == pytest.approx(1 - 2 * 0.5 / 1.5, abs=1e-5)


def test_connectivity_by_hand():
    logits, labels = line([0.2, 0.6, 0.2, 0.1, 0.9], [0, 0, 0, 1, 2])
    # Maxima of p: .6 .6 .6 .2 (the .9 is unlabelled); of t: 0 0 1 1.
    expected = (0.36 + 0.36 + 0.16 + 0.64) / 4
    assert evaluate("connectivity", logits, labels).item() == pytest.approx(expected, rel=1e-12)


# --- invariants -----------------------------------------------------------------------------------------------------


@every_loss
def test_unlabelled_voxels_change_neither_value_nor_gradient(name):
    logits, labels = random_batch(3)
    outcomes = []
    for filling in (0.0, 1e4, -1e4, float("inf"), float("nan")):
        changed = torch.where(labels.unsqueeze(1) == 2, filling, logits).requires_grad_()
        values = evaluate(name, changed, labels)
        values.sum().backward()
        assert not changed.grad[labels.unsqueeze(1) == 2].any()
        outcomes.append((values.detach(), changed.grad))
    for values, gradient in outcomes[1:]:
        assert torch.equal(values, outcomes[0][0])
        assert torch.equal(gradient, outcomes[0][1])


@every_loss
def test_gradient_is_the_numerical_one(name):
    logits, labels = random_batch(4, shape=(2, 3, 4, 4))
    assert torch.autograd.gradcheck(lambda x: evaluate(name, x, labels), logits.requires_grad_())


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "variance"])
def test_better_predictions_score_lower(name):
    labels = sheet_batch()
    truth = (labels == 1).unsqueeze(1).double()
    values = [evaluate(name, strength * (2 * truth - 1), labels).item() for strength in (-8, -2, 0, 2, 8)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.01


def test_variance_rewards_uncertainty():
    labels = sheet_batch()
    truth = (labels == 1).unsqueeze(1).double()
    values = [evaluate("variance", strength * (2 * truth - 1), labels).item() for strength in (0, 2, 8)]
    assert values[0] == pytest.approx(1)
    assert values[2] > values[0]  # the term at fault: a decided, correct output pays more than a uniform one


@every_loss
def test_sample_without_labels_gives_zero_and_no_gradient(name):
    logits, labels = random_batch(5)
    labels[1] = 2
    logits.requires_grad_()
    values = evaluate(name, logits, labels)
    values.sum().backward()
    assert values[1] == 0
    assert not logits.grad[1].any()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0].any()


@every_loss
def test_samples_do_not_see_each_other(name):
    logits, labels = random_batch(6)
    together = evaluate(name, logits, labels)
    alone = torch.cat([evaluate(name, logits[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_extreme_logits_stay_finite(name, dtype):
    _, labels = random_batch(7)
    sign = 1 - 2 * (torch.arange(labels.numel()) % 2).view(labels.unsqueeze(1).shape)
    logits = (1e4 * sign).to(dtype).requires_grad_()
    values = evaluate(name, logits, labels)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(logits.grad).all()


@every_loss
@pytest.mark.parametrize("value", [0, 1, 2])
def test_one_class_only(name, value):
    logits, labels = random_batch(8)
    logits.requires_grad_()
    values = evaluate(name, logits, torch.full_like(labels, value))
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(logits.grad).all()


@every_loss
def test_one_voxel(name):
    values = evaluate(name, torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, dtype=torch.uint8))
    assert torch.isfinite(values).all()


# --- bad input ------------------------------------------------------------------------------------------------------


def test_bad_tensors_are_refused():
    logits, labels = random_batch(9)
    with pytest.raises(InputTypeError, match="logits must be a tensor, got ndarray"):
        select_labelled(logits.numpy(), labels)
    with pytest.raises(InputTypeError, match="logits must be floating"):
        select_labelled(logits.long(), labels)
    with pytest.raises(InputTypeError, match="labels must be integers"):
        select_labelled(logits, labels.float())
    with pytest.raises(InputValueError, match="logits must have the shape"):
        select_labelled(logits[:, 0], labels)
    with pytest.raises(InputValueError, match="hold voxels"):
        select_labelled(logits[:0], labels[:0])
    with pytest.raises(InputValueError, match="labels must have the shape"):
        select_labelled(logits, labels[:, :-1])
    with pytest.raises(InputValueError, match="labels must be 0, 1 or 2, got 7"):
        select_labelled(logits, torch.full_like(labels, 7))
    with pytest.raises(InputValueError, match="labels must be 0, 1 or 2, got -1"):
        select_labelled(logits, labels - 1)


def test_bad_settings_are_refused():
    voxels = select_labelled(*random_batch(10))
    with pytest.raises(InputValueError, match="focal_gamma"):
        functional.focal_loss(voxels, gamma=-1.0)
    with pytest.raises(InputValueError, match="focal_alpha"):
        functional.focal_loss(voxels, alpha=1.5)
    with pytest.raises(InputValueError, match="class_weights must be two numbers"):
        functional.focal_loss(voxels, class_weights=(1.0,))
    with pytest.raises(InputValueError, match="cldice_iterations"):
        functional.cldice_loss(voxels, iterations=-1)
