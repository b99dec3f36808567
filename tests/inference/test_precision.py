"""Which type a run computes in: by measurement, once, kept by the run that goes on."""

import json
import os
import platform
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.competitions import TINY, write_small_competition

from vesuvius_kit.checks import InputError
from vesuvius_kit.config import PredictConfig, config_to_yaml, load_config
from vesuvius_kit.inference import precision as precision_module
from vesuvius_kit.inference.precision import Precision, choose_precision
from vesuvius_kit.inference.submission import predict_folder
from vesuvius_kit.models.checkpoint import load_checkpoint
from vesuvius_kit.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def step_times(monkeypatch):
    """Let the trials take given seconds: {type: seconds, or None for one that is abandoned}."""

    measure = precision_module._measure

    def set_times(**seconds):
        measure.cache_clear()
        asked = []

        def time_step(_network, _image, dtype, _training, _limit):
            name = next(name for name, known in precision_module.DTYPES.items() if known == dtype)
            asked.append(name)
            return seconds[name]

        monkeypatch.setattr(precision_module, "_time_step", time_step)
        return asked

    yield set_times
    measure.cache_clear()


def forbid_trials(monkeypatch):
    def fail(*_):
        raise AssertionError("nothing may be timed")

    monkeypatch.setattr(precision_module, "_measure", fail)


@pytest.mark.parametrize(
    ("fp32", "bf16", "name"),
    [(1.0, 0.5, "bf16"), (1.0, 0.95, "fp32"), (1.0, 1.0, "fp32"), (1.0, 2.0, "fp32"), (1.0, None, "fp32")],
)
def test_the_fastest_type_is_taken_and_a_tie_is_float32(step_times, fp32, bf16, name):
    step_times(fp32=fp32, bf16=bf16)
    choice = choose_precision("auto", CPU)
    assert (choice.name, choice.source, choice.seconds) == (name, "measured", {"fp32": fp32, "bf16": bf16})
    assert choice.dtype == precision_module.DTYPES[name]


def test_an_abandoned_type_is_not_tried_on_larger_inputs(step_times):
    asked = step_times(fp32=1.0, bf16=None)
    choice = choose_precision("auto", CPU)
    assert asked == ["fp32", "bf16"]
    assert choice.to_text() == "fp32 on cpu, measured (one small step: fp32 1e+03 ms, bf16 abandoned)"


def test_the_trials_are_made_once(step_times):
    asked = step_times(fp32=1.0, bf16=0.5)
    choose_precision("auto", CPU)
    first = len(asked)
    choose_precision("auto", CPU)
    assert len(asked) == first


def test_a_given_precision_skips_the_trials(monkeypatch):
    forbid_trials(monkeypatch)
    assert choose_precision("bf16", CPU) == Precision("bf16", "given", "cpu")
    with pytest.raises(InputError, match="precision must be one of"):
        choose_precision("fp64", CPU)


@pytest.mark.parametrize(
    ("capability", "name"),
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_a_gpu_computes_in_the_half_type_that_it_has_units_for(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) == Precision(name, "capability", "cuda")


@pytest.mark.parametrize("training", [False, True])
def test_a_real_trial_leaves_threads_and_random_numbers_as_they_were(training):
    precision_module._measure.cache_clear()
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    choice = choose_precision("auto", CPU, training=training)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert choice.seconds["fp32"] > 0
    assert choice.name in ("fp32", "bf16")


def test_a_slow_layer_ends_the_trial_between_the_layers(monkeypatch):
    monkeypatch.setattr(precision_module, "_FIRST_TIME", 0.0)
    passed = []

    class Slow(torch.nn.Module):
        def forward(self, x):
            passed.append(1)
            until = time.thread_time() + 0.02
            while time.thread_time() < until:
                sum(range(1000))
            return x

    network = torch.nn.Sequential(*(Slow() for _ in range(10)))
    seconds = precision_module._time_step(network, torch.zeros(1), torch.float32, False, 0.03)
    assert seconds is None
    assert len(passed) < 10


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the variables are those of x86 processors")
def test_without_bfloat16_instructions_float32_is_found_quickly():
    # The CPU of most laptops, imitated: bfloat16 is emulated there, seventy times as slow.
    script = (
        "import time, torch; from vesuvius_kit.inference.precision import choose_precision; before = "
        "time.process_time();choice = choose_precision('auto', torch.device('cpu'), training=True);print(choice.name, "
        "choice.seconds['bf16'], time.process_time() - before)"
    )
    plain = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=plain, check=True)
    name, seconds, spent = run.stdout.split()
    assert (name, seconds) == ("fp32", "None")
    # Not a limit of speed: the emulated step of a whole run alone takes a minute of CPU time.
    assert float(spent) < 10


def auto_run(tmp_path, epochs):
    data = tmp_path / "data"
    if not data.exists():
        write_small_competition(data)
    settings = {**TINY, "data": str(data), "output": str(tmp_path / "run"), "train.precision": "auto"}
    settings |= {"train.num_epochs": epochs, "predict.device": "cpu"}
    return load_config(None, settings)


def test_a_run_that_goes_on_keeps_its_precision(tmp_path, step_times, monkeypatch):
    step_times(fp32=1.0, bf16=0.5)
    config = auto_run(tmp_path, epochs=2)
    interrupt_after_one_epoch(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    forbid_trials(monkeypatch)
    train(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "fold_0" / "log.jsonl").read_text().splitlines()]
    noted = {"name": "bf16", "source": "measured", "device": "cpu", "seconds": {"fp32": 1.0, "bf16": 0.5}}
    assert [line["precision"] for line in lines] == [noted, noted]
    assert load_checkpoint(tmp_path / "run" / "fold_0" / "last").state["run"]["precision"] == noted


def interrupt_after_one_epoch(monkeypatch):
    import vesuvius_kit.training.epoch as epoch_module

    seed_step = epoch_module._seed_step

    def seed(number, epoch, step, process):
        if epoch == 1:
            raise KeyboardInterrupt
        seed_step(number, epoch, step, process)

    monkeypatch.setattr(epoch_module, "_seed_step", seed)


def test_training_in_fp16_is_refused_on_a_cpu(tmp_path):
    settings = {**TINY, "data": str(write_small_competition(tmp_path / "data")), "output": str(tmp_path / "run")}
    config = load_config(None, {**settings, "train.precision": "fp16", "predict.device": "cpu"})
    with pytest.raises(InputError, match="precision must be fp32 or bf16 to train on a CPU, got fp16"):
        train(config)


def test_the_choice_lies_beside_predictions_and_goes_on(tmp_path, step_times, monkeypatch):
    settings = {**TINY, "data": str(write_small_competition(tmp_path / "data")), "output": str(tmp_path / "run")}
    train(load_config(None, {**settings, "train.num_epochs": 1, "predict.device": "cpu"}))
    images, output = tmp_path / "data" / "test_images", tmp_path / "probabilities"
    predict = PredictConfig(window=(16, 16, 16), device="cpu")
    step_times(fp32=1.0, bf16=0.5)
    first, second = predict_folder(images, [tmp_path / "run"], output, predict)
    whole = np.load(second)
    second.unlink()
    forbid_trials(monkeypatch)
    # Two processes get what the first call chose; none times anything.
    predict_folder(images, [tmp_path / "run"], output, predict, workers=2)
    np.testing.assert_array_equal(np.load(second), whole)
    noted = json.loads((output / "settings.json").read_text())["precision"]
    assert noted == [{"name": "bf16", "source": "measured", "device": "cpu", "seconds": {"fp32": 1.0, "bf16": 0.5}}]
    first.unlink()
    predict_folder(images, [tmp_path / "run"], output, PredictConfig(window=(16,) * 3, device="cpu", precision="fp32"))
    noted = json.loads((output / "settings.json").read_text())["precision"]
    assert [entry["name"] for entry in noted] == ["bf16", "fp32"]


def test_the_main_process_chooses_for_all(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(config_to_yaml(auto_run(tmp_path, epochs=1)))
    # Rank 1 would choose something else.
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, sys\n"
        "from vesuvius_kit.inference import precision\n"
        "from vesuvius_kit.cli import main\n"
        "name = 'bf16' if os.environ['RANK'] == '0' else 'fp32'\n"
        "precision._measure = lambda training: (name, {'fp32': 1.0, 'bf16': 0.5})\n"
        "sys.exit(main(['train', *sys.argv[1:]]))\n"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), f"--config={config}"]
    run = subprocess.run(
        [sys.executable, *launch],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    line = json.loads((tmp_path / "run" / "fold_0" / "log.jsonl").read_text())
    assert line["precision"]["name"] == "bf16"
