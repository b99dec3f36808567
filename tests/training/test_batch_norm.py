"""Batch normalisation in a run: one batch over all processes, and statistics that belong to averaged weights (A11)."""

import copy
import socket

import pytest
import torch
from helpers.competitions import TINY, write_small_competition
from torch import distributed, nn

import vesuvius_kit.training.epoch as epoch
import vesuvius_kit.training.loop as loop
from vesuvius_kit.config import load_config
from vesuvius_kit.models import SegmentationModel, register_model
from vesuvius_kit.models.checkpoint import load_checkpoint
from vesuvius_kit.models.registry import _BUILDERS
from vesuvius_kit.training.averaging import count_of, make_average, restore_average, tensors_of
from vesuvius_kit.training.batch_norm import SharedBatchNorm, has_batch_norm, measure_statistics
from vesuvius_kit.training.loop import train


class Activated(nn.BatchNorm3d):
    """A subclass that does more, as timm's do: conversion to SyncBatchNorm would lose it."""

    def forward(self, x):
        return super().forward(x).relu()


def make_network():
    torch.manual_seed(0)
    # A bias before a batch norm has no gradient but rounding.
    convs = [nn.Conv3d(1, 3, 3, bias=False), nn.Conv3d(3, 2, 1, bias=False), nn.Conv3d(2, 1, 1, bias=False)]
    layers = [convs[0], nn.BatchNorm3d(3), convs[1], Activated(2), convs[2]]
    return nn.Sequential(*layers, nn.BatchNorm3d(1, affine=False, momentum=None), nn.Dropout(0.5))


def make_batch():
    return torch.randn(4, 1, 5, 5, 5, generator=torch.Generator().manual_seed(1)) * 3 + 1


def take_steps(model, forward, images):
    """Two steps; what is left afterwards, and the last output."""
    model[-1].p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        output = forward(images)
        (output**3).mean().backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}, output.detach()


def _share(rank, port, folder):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = make_network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    with SharedBatchNorm():
        state, output = take_steps(model, wrapped, make_batch()[2 * rank : 2 * rank + 2])
        single = nn.BatchNorm1d(1)(torch.tensor([[float(rank)]]))
    torch.save((state, output, single.detach()), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_normalise_as_one_does(tmp_path):
    """A11: on the CPU too, for subclasses too, and with a share of a single value."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(_share, (port, tmp_path), nprocs=2)
    model = make_network()
    state, output = take_steps(model, model, make_batch())
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([share[1] for share in shares]), output, rtol=1e-4, atol=1e-5)
    for other, _, _ in shares:
        for name, tensor in state.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.cat([share[2] for share in shares]), torch.tensor([[-1.0], [1.0]]), rtol=1e-4, atol=1e-4
    )


def test_statistics_are_plain_means_and_leave_all_else_as_it_was():
    model = make_network()
    weights = {name: tensor.clone() for name, tensor in model.named_parameters()}
    images = make_batch()
    measure_statistics(model, [images[:2], images[2:]])
    expected = torch.stack([model[0](part).mean((0, 2, 3, 4)) for part in (images[:2], images[2:])]).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected)
    assert [layer.momentum for layer in (model[1], model[3], model[5])] == [0.1, 0.1, None]
    assert not any(part.training for part in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.named_parameters())
    assert has_batch_norm(model)
    assert not has_batch_norm(nn.Sequential(nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1, track_running_stats=False)))


def test_a_mean_of_weights_gets_statistics_of_its_own():
    """A11: those that were averaged with the weights belong to no network at all."""
    model = make_network()
    average = make_average(model, torch.device("cpu"))
    average.update_parameters(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-2)
    average.update_parameters(other)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = make_batch()
    measure_statistics(average.module, [images])
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    mean = average.module
    torch.testing.assert_close(mean[0].weight, (model[0].weight + other[0].weight) / 2)
    torch.testing.assert_close(mean[1].running_mean, mean[0](images).mean((0, 2, 3, 4)))
    again = make_average(make_network(), torch.device("cpu"))
    restore_average(again, count_of(average), tensors_of(average))
    assert count_of(again) == 2
    assert all(torch.equal(tensor, tensors_of(again)[name]) for name, tensor in tensors_of(average).items())
    restore_average(again, 2, {})
    assert (count_of(again), tensors_of(again)) == (0, {})


class _Normed(SegmentationModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 1, 1))

    def compute_logits(self, image):
        return self.layers(image)


@pytest.fixture
def normed():
    register_model("normed")(_Normed)
    yield "normed"
    del _BUILDERS["normed"]


def test_the_end_of_a_run_renews_them_alike_after_every_stop(normed, tmp_path, monkeypatch):
    """A11: a stop while they are taken, and the run ends as if nothing had happened."""
    data = write_small_competition(tmp_path / "data")

    def configure(output):
        settings = {"model.name": normed, "model.options": {}, "train.swa_start_epoch": 1, "train.swa_every_epochs": 1}
        return load_config(None, {**TINY, **settings, "data": str(data), "output": str(tmp_path / output)})

    monkeypatch.setattr(loop, "score_volumes", lambda *_: {"score": 0.5, "surface_dice": 0.5, "volumes": 2})
    whole = train(configure("whole"))
    images = epoch._images

    def stop(*given):
        for number, image in enumerate(images(*given)):
            if number == 2:
                raise KeyboardInterrupt
            yield image

    monkeypatch.setattr(epoch, "_images", stop)
    with pytest.raises(KeyboardInterrupt):
        train(configure("run"))
    monkeypatch.setattr(epoch, "_images", images)
    run = train(configure("run"))
    left, right = (load_checkpoint(folder / "fold_0" / "last") for folder in (whole, run))
    for kind in ("weights", "average"):
        assert all(torch.equal(tensor, getattr(right, kind)[name]) for name, tensor in getattr(left, kind).items())
    count = "layers.1.num_batches_tracked"
    # Those of the mean come from one epoch's batches, the network's own from all three.
    assert (int(left.average[count]), int(left.weights[count])) == (4, 12)
