"""Several processes train as one does: gloo on the processor, started by Accelerate's own launchers."""

import getpass
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from helpers.competitions import TINY, write_small_competition

from vesuvius_kit.config import config_to_yaml, load_config
from vesuvius_kit.models.checkpoint import load_checkpoint
from vesuvius_kit.training import processes

LAUNCH = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vesuvius_kit", "train"],
    "accelerate": [
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--main_process_port=0",
        "-m", "vesuvius_kit", "train",
    ],
    "alone": ["-m", "vesuvius_kit", "train"],
}  # fmt: skip


# As a notebook does: OpenMP's threads have worked before the fork.
FORKED = """
import multiprocessing, sys
import torch
from vesuvius_kit.config import load_config
from vesuvius_kit import train
torch.set_num_threads(2)
torch.zeros(10**6).add_(1).sum()
process = multiprocessing.get_context("fork").Process(target=train, args=(load_config(sys.argv[1]),))
process.start()
process.join(150)
process.kill()
process.join()
sys.exit(process.exitcode)
"""


@pytest.fixture
def config_file(tmp_path):
    data = write_small_competition(tmp_path / "data")
    settings = {**TINY, "data": str(data), "train.validation_patches": 3, "train.num_epochs": 2}
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(load_config(None, {**settings, "predict.device": "cpu"})))
    return path


def launch(how, config_file, output, *more):
    arguments = [sys.executable, *LAUNCH[how], f"--config={config_file}", f"--output={output}", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment, timeout=240)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_a_process_forked_after_threads_have_worked_trains(tmp_path):
    """It waited for ever for threads that the fork had not taken along, in the check before the first step."""
    # Labels large enough that torch shares the work out among threads.
    data = write_small_competition(tmp_path / "data", train_shapes=((40, 48, 48),) * 4)
    settings = {**TINY, "data": str(data), "output": str(tmp_path / "run"), "predict.device": "cpu"}
    path = tmp_path / "config.yaml"
    path.write_text(
        config_to_yaml(load_config(None, {**settings, "train.num_epochs": 1, "train.score_every_epochs": 9}))
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", FORKED, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(read_lines(tmp_path / "run")) == 1


def read_lines(folder):
    return [json.loads(line) for line in (folder / "fold_0" / "log.jsonl").read_text().splitlines()]


def numbers(line):
    """Every figure of a log line but its time and the norm of the gradient, which is no loss, flat."""
    for key in ("rate", "train", "validation", "score"):
        value = line[key]
        yield from [value[name] for name in value if name != "gradient_norm"] if isinstance(value, dict) else [value]


def assert_same_curve(one, two):
    assert len(one) == len(two)
    for left, right in zip(one, two):
        assert list(numbers(left)) == pytest.approx(list(numbers(right)), abs=1e-5)
        assert left["train"]["gradient_norm"] == pytest.approx(right["train"]["gradient_norm"], rel=1e-3)


@pytest.mark.parametrize("how", ["torchrun", pytest.param("accelerate", marks=pytest.mark.long)])
def test_two_processes_have_the_curve_of_one_with_the_doubled_batch(config_file, tmp_path, how):
    for name, launcher in (("one", "alone"), ("two", how)):
        done = launch(launcher, config_file, tmp_path / name)
        assert done.returncode == 0, done.stderr[-3000:]
        # PyTorch 2.10 lets Gloo speak there too.
        said = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]
        assert said == [str(tmp_path / name)]
    one, two = (read_lines(tmp_path / name) for name in ("one", "two"))
    assert_same_curve(one, two)
    assert one[-1]["score"]["volumes"] == 2
    # Trained, not merely started alike.
    assert one[-1]["train"]["loss"] < one[0]["train"]["loss"]
    weights = [load_checkpoint(tmp_path / name / "fold_0" / "last").weights for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_batch_norm_in_two_processes_is_that_of_one(config_file, tmp_path):
    """A11: an encoder with batch norm; the training loss was .6944 in one process and .6968 in two."""
    settings = [
        "--model.name=timm_unet",
        '--model.options={"encoder": "resnet10t", "decoder_channels": [4, 4, 4, 4, 4]}',
    ]
    settings += ["--patches.size=[32, 32, 32]", "--predict.window=[32, 32, 32]", "--train.steps_per_epoch=2"]
    for name, launcher in (("one", "alone"), ("two", "torchrun")):
        done = launch(launcher, config_file, tmp_path / name, *settings)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (read_lines(tmp_path / name)[0] for name in ("one", "two"))
    # The first epoch: thirty such layers with batches of two enlarge rounding from step to step.
    assert two["train"]["loss"] == pytest.approx(one["train"]["loss"], abs=1e-4)
    left, right = (load_checkpoint(tmp_path / name / "fold_0" / "last").weights for name in ("one", "two"))
    name = "encoder.bn1.running_mean"
    torch.testing.assert_close(right[name], left[name], rtol=1e-2, atol=1e-3)


@pytest.mark.long
def test_the_number_of_processes_may_change_between_a_stop_and_a_resume(config_file, tmp_path):
    from accelerate import notebook_launcher

    from vesuvius_kit.training.loop import train

    whole = launch("alone", config_file, tmp_path / "one")
    assert whole.returncode == 0, whole.stderr[-3000:]
    config = load_config(config_file, {"output": str(tmp_path / "two")})
    notebook_launcher(_stop_after_the_first_epoch, (config,), num_processes=2, use_port=free_port())
    assert len(read_lines(tmp_path / "two")) == 1
    # After a run in the notebook itself the launcher must still be willing.
    train(load_config(config_file, {"output": str(tmp_path / "here"), "train.num_epochs": 1}))
    notebook_launcher(train, (config,), num_processes=2, use_port=free_port())
    assert_same_curve(read_lines(tmp_path / "one"), read_lines(tmp_path / "two"))


def _stop_after_the_first_epoch(config):
    from vesuvius_kit.training.loop import Hooks, train

    def stop(record):
        # Both leave at the same place: after the first epoch's checkpoint.
        if record.epoch == 1:
            raise SystemExit(0)

    train(config, hooks=Hooks(on_validated=stop))


def test_a_batch_that_cannot_be_shared_is_refused_in_one_line(config_file, tmp_path):
    done = launch("torchrun", config_file, tmp_path / "two", "--train.batch_size=3")
    assert done.returncode != 0
    assert "train.batch_size must be divisible by the 2 processes that share it, got 3" in done.stderr
    assert not (tmp_path / "two" / "fold_0").exists()


@pytest.mark.long
def test_scored_volumes_and_poisoned_steps_are_the_same_for_all(config_file, tmp_path):
    from accelerate import notebook_launcher

    config = load_config(config_file, {"output": str(tmp_path / "two"), "train.num_epochs": 2})
    notebook_launcher(_poison_the_second_process, (config,), num_processes=2, use_port=free_port())
    lines = read_lines(tmp_path / "two")
    assert [line["train"]["skipped_steps"] for line in lines] == [1, 1]
    assert all(
        torch.isfinite(tensor).all() for tensor in load_checkpoint(tmp_path / "two/fold_0/last").weights.values()
    )


@pytest.mark.long
@pytest.mark.parametrize(("slow", "epochs"), [("0", 1), ("1", 2)])
def test_the_main_process_decides_when_the_budget_ends(config_file, tmp_path, slow, epochs):
    from accelerate import notebook_launcher

    config = load_config(config_file, {"output": str(tmp_path / "two"), "train.budget": "1h"})
    notebook_launcher(_take_long, (config, slow), num_processes=2, use_port=free_port())
    assert len(read_lines(tmp_path / "two")) == epochs


def _take_long(config, slow):
    from vesuvius_kit.inference.budget import EpochBudget
    from vesuvius_kit.training.loop import train

    if os.environ["RANK"] == slow:
        EpochBudget.note_epoch = lambda self, seconds: setattr(self, "_longest", 3600.0)
    train(config)


def _poison_the_second_process(config):
    from vesuvius_kit.losses import WeightedLoss
    from vesuvius_kit.training.loop import train

    forward, calls = WeightedLoss.forward, []

    def poisoned(self, logits, labels):
        total, components = forward(self, logits, labels)
        calls.append(total)
        # The loss only: its gradient stays finite, so nothing but the shared verdict tells the first process.
        if (
            os.environ["RANK"] == "1"
            and torch.is_grad_enabled()
            and len([c for c in calls if c.requires_grad]) % 4 == 2
        ):
            total = total + (torch.full_like(total, float("nan")) - total.detach()).detach()
        return total, components

    WeightedLoss.forward = poisoned
    train(config)


def test_a_user_without_a_name_gets_a_cache_for_the_compiler(monkeypatch):
    """Kaggle's PyTorch made no optimizer in a container whose user has no entry in the system's list."""

    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    # Set first, so that what the function sets is taken back afterwards.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    processes.name_cache_folder()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    monkeypatch.setattr(getpass, "getuser", nobody)
    processes.name_cache_folder()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith(f"_{os.getuid()}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    processes.name_cache_folder()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"
