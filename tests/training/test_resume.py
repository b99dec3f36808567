"""A run that is stopped inside an epoch, or killed, ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.competitions import TINY, write_small_competition

import vesuvius_kit.training.epoch as epoch_module
from vesuvius_kit.config import config_to_yaml, load_config
from vesuvius_kit.data.patches import PatchDataset
from vesuvius_kit.models.checkpoint import load_checkpoint
from vesuvius_kit.training.loop import train


@pytest.fixture
def data(tmp_path):
    return write_small_competition(tmp_path / "data")


def configure(data, tmp_path, **changes):
    settings = {**TINY, "data": str(data), "output": str(tmp_path / "run"), "train.steps_per_epoch": 5}
    return load_config(None, {**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


def read_lines(folder):
    lines = [json.loads(line) for line in (folder / "fold_0" / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(one, two):
    assert read_lines(one) == read_lines(two)
    left, right = (load_checkpoint(folder / "fold_0" / "last") for folder in (one, two))
    for kind in ("weights", "optimizer", "average"):
        tensors = getattr(right, kind)
        assert getattr(left, kind).keys() == tensors.keys()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in getattr(left, kind).items())
    assert left.state["controller"] == right.state["controller"]


def stop_at(monkeypatch, *points):
    """Ctrl-C just before each (epoch, step), once."""
    seed_step, left = epoch_module._seed_step, list(points)

    def seed(number, epoch, step, process):
        if (epoch, step) in left:
            left.remove((epoch, step))
            raise KeyboardInterrupt
        seed_step(number, epoch, step, process)

    monkeypatch.setattr(epoch_module, "_seed_step", seed)
    return left


@pytest.mark.parametrize("every", [0, 1, 2])
def test_stopped_inside_epochs_it_ends_as_if_nothing_had_happened(data, tmp_path, monkeypatch, every):
    whole = train(configure(data, tmp_path, output=str(tmp_path / "whole")))
    left = stop_at(monkeypatch, (0, 0), (0, 1), (0, 4), (1, 3), (1, 4), (2, 0), (2, 2))
    config = configure(data, tmp_path, train__save_every_steps=every)
    while left:
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert_same_run(train(config), whole)


def test_after_a_stop_inside_an_epoch_only_the_rest_of_it_is_decoded(data, tmp_path, monkeypatch):
    config = configure(
        data, tmp_path, train__save_every_steps=2, train__num_epochs=1, train__gradient_diagnostics_every_epochs=0
    )
    stop_at(monkeypatch, (0, 4))
    with pytest.raises(KeyboardInterrupt):
        train(config)
    state = load_checkpoint(tmp_path / "run" / "fold_0" / "last").state["run"]
    assert (state["epoch"], state["step"], state["partial"]["count"]) == (0, 4, 4)
    taken = []
    get = PatchDataset.__getitem__
    monkeypatch.setattr(
        PatchDataset, "__getitem__", lambda self, index: taken.append((len(self), index)) or get(self, index)
    )
    train(config)
    assert [index for length, index in taken if length == 10] == [8, 9]


def test_a_stop_inside_an_epoch_may_be_followed_by_other_settings(data, tmp_path, monkeypatch):
    config = configure(data, tmp_path, train__save_every_steps=1)
    stop_at(monkeypatch, (1, 3))
    with pytest.raises(KeyboardInterrupt):
        train(config)
    other = configure(data, tmp_path, output=str(tmp_path / "b"), train__batch_size=4, train__steps_per_epoch=2)
    lines = read_lines(train(other, resume_from=tmp_path / "run" / "fold_0" / "last"))
    # The epoch begins anew, with batches of the new size.
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[0]["train"]["skipped_steps"] == 0


def test_older_checkpoints_without_the_newer_settings_are_resumed(data, tmp_path, monkeypatch):
    import vesuvius_kit.training.run as run_module

    young = ("swa_start_epoch", "gradient_diagnostics_every_epochs", "rollback_tolerance")
    plain = run_module.config_to_dict

    def older(config):
        content = plain(config)
        content["train"] = {key: value for key, value in content["train"].items() if key not in young}
        del content["loss"]["schedule"]
        return content

    monkeypatch.setattr(run_module, "config_to_dict", older)
    train(configure(data, tmp_path, train__num_epochs=2))
    monkeypatch.setattr(run_module, "config_to_dict", plain)
    run = train(configure(data, tmp_path, train__num_epochs=2))
    assert len(read_lines(run)) == 2


@pytest.mark.long
def test_killed_at_ten_random_points_it_ends_with_the_same_weights(data, tmp_path):
    changes = {"train__num_epochs": 6, "train__steps_per_epoch": 150, "train__save_every_steps": 7}
    changes |= {
        "train__swa_start_epoch": 3,
        "train__swa_every_epochs": 1,
        "train__gradient_diagnostics_every_epochs": 2,
    }
    changes |= {"loss__schedule": {"dice_weight": [[0, 0.5], [5, 1.0]]}, "loss__schedule_kind": "linear"}
    config = configure(data, tmp_path, **changes, predict__device="cpu")
    whole = train(configure(data, tmp_path, **changes, predict__device="cpu", output=str(tmp_path / "whole")))
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    command = [sys.executable, "-m", "vesuvius_kit", "train", "--config", str(path)]
    last = tmp_path / "run" / "fold_0" / "last" / "checkpoint.safetensors"
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    kills = []
    for _ in range(10):
        before = last.stat().st_mtime_ns if last.exists() else None
        process = subprocess.Popen(command)
        while not last.exists() or last.stat().st_mtime_ns == before:
            time.sleep(0.01)
            assert process.poll() is None, "ended too early to be killed ten times"
        time.sleep(chance.uniform(0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        state = load_checkpoint(last).state["run"]
        kills.append((state["epoch"], state["step"]))
    print(f"seed {seed}, killed after {kills}")
    assert any(step for _, step in kills)
    assert subprocess.run(command, check=False).returncode == 0
    assert_same_run(tmp_path / "run", whole)
