"""The evidence of an epoch: right, and without a trace in the run."""

import json

import pytest
import torch
from helpers.competitions import TINY, write_small_competition

from vesuvius_kit.config import load_config
from vesuvius_kit.losses import WeightedLoss
from vesuvius_kit.models import create_model
from vesuvius_kit.models.checkpoint import load_checkpoint
from vesuvius_kit.training.gradient_diagnostics import gather_gradient_diagnostics
from vesuvius_kit.training.loop import train

WEIGHTS = {"dice": 0.3, "focal": 0.15, "variance": 0.5}


def make_patches(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 8, 8, 8)
    return list(
        zip(torch.randn(count, 1, *shape[1:], generator=generator), torch.randint(0, 3, shape, generator=generator))
    )


def components_of(weights):
    loss = WeightedLoss(weights, focal_gamma=1.5)
    return {name: loss.alone(name) for name in loss.weights}


def test_norms_and_cosines_are_those_of_the_batch_as_a_whole():
    model = create_model("unet3d", initial_filters=4, depth=1)
    patches = make_patches()
    evidence = gather_gradient_diagnostics(model, patches, components_of(WEIGHTS), WEIGHTS)
    images, labels = (torch.stack(parts) for parts in zip(*patches))

    def gradient_of(weights):
        model.zero_grad()
        WeightedLoss(weights, focal_gamma=1.5)(model(images), labels)[0].backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    alone = {name: gradient_of({name: 1.0}) for name in WEIGHTS}
    assert evidence["gradient_norms"] == pytest.approx({name: float(g.norm()) for name, g in alone.items()}, rel=1e-4)
    assert evidence["total_gradient_norm"] == pytest.approx(float(gradient_of(WEIGHTS).norm()), rel=1e-4)
    assert set(evidence["cosines"]) == {"dice,focal", "dice,variance", "focal,variance"}
    for names, cosine in evidence["cosines"].items():
        one, other = (alone[name] for name in names.split(","))
        assert cosine == pytest.approx(float(torch.cosine_similarity(one, other, dim=0)), abs=1e-4)
    probability = model(images).sigmoid()[:, 0][labels != 2].detach().double()
    output = evidence["output"]
    assert output["mean"] == pytest.approx(float(probability.mean()), abs=1e-6)
    assert output["std"] == pytest.approx(float(probability.std(correction=0)), abs=1e-6)
    assert output["surface_share"] == pytest.approx(float((probability >= 0.5).double().mean()))
    assert sum(output["histogram"]) == pytest.approx(1)
    expected = [float(((probability * 10).long().clamp(max=9) == bin_).double().mean()) for bin_ in range(10)]
    assert output["histogram"] == pytest.approx(expected, abs=1e-9)
    assert evidence["label_surface_share"] == pytest.approx(float((labels[labels != 2] == 1).double().mean()))


def test_looking_leaves_no_trace():
    model = create_model("unet3d", initial_filters=4, depth=1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    gather_gradient_diagnostics(model, make_patches(), components_of(WEIGHTS), WEIGHTS)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_scaled_backward_pass_gives_the_same_figures():
    model = create_model("unet3d", initial_filters=4, depth=1)
    plain, scaled = (
        gather_gradient_diagnostics(model, make_patches(), components_of(WEIGHTS), WEIGHTS, scale)
        for scale in (1.0, 65536.0)
    )
    assert plain["gradient_norms"] == pytest.approx(scaled["gradient_norms"], rel=1e-5)


def test_patches_that_nobody_labelled_give_no_figures_but_no_error():
    model = create_model("unet3d", initial_filters=4, depth=1)
    patches = [(image, torch.full_like(label, 2)) for image, label in make_patches()]
    evidence = gather_gradient_diagnostics(model, patches, components_of(WEIGHTS), WEIGHTS)
    assert evidence["gradient_norms"] == {"dice": 0.0, "focal": 0.0, "variance": 0.0}
    assert set(evidence["cosines"].values()) == {None}
    assert evidence["output"] is None
    assert evidence["label_surface_share"] is None


def run_with(data, tmp_path, every):
    changes = {
        "data": str(data),
        "output": str(tmp_path / f"every_{every}"),
        "train.gradient_diagnostics_every_epochs": every,
    }
    run = train(load_config(None, {**TINY, **changes, "loss.variance_weight": 0.2, "train.num_epochs": 4}))
    lines = [json.loads(line) for line in (run / "fold_0" / "log.jsonl").read_text().splitlines()]
    return load_checkpoint(run / "fold_0" / "last"), lines


def test_a_run_is_the_same_to_the_bit_with_and_without_it(tmp_path):
    data = write_small_competition(tmp_path / "data")
    (without, plain), (with_it, seen) = (run_with(data, tmp_path, every) for every in (0, 2))
    for kind in ("weights", "optimizer"):
        left, right = getattr(without, kind), getattr(with_it, kind)
        assert left.keys() == right.keys()
        assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())
    assert [line["train"] for line in plain] == [line["train"] for line in seen]
    assert [line["gradient_diagnostics"] is not None for line in seen] == [True, False, True, False]
    assert all(line["gradient_diagnostics"] is None for line in plain)
    evidence = seen[0]["gradient_diagnostics"]
    assert set(evidence["gradient_norms"]) == {"dice", "cross_entropy", "variance"} == set(seen[0]["loss_weights"])
    # The same patches each time.
    assert (
        len({line["gradient_diagnostics"]["label_surface_share"] for line in seen if line["gradient_diagnostics"]}) == 1
    )
    assert evidence["total_gradient_norm"] > 0
