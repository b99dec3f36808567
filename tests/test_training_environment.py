"""What Accelerate would take from the environment is refused or honoured, never taken unseen (A17)."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch

import vesuvius_kit.training.processes as processes
from vesuvius_kit.checks import InputValueError
from vesuvius_kit.training.processes import release_accelerator, start_accelerator


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith("ACCELERATE_") or name in (*processes._RANKS, *processes._MPI):
            monkeypatch.delenv(name)
    yield
    release_accelerator()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "many"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_MIXED_PRECISION", "fp8"),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor"),
        ("ACCELERATE_TORCH_DEVICE", "meta"),
        ("ACCELERATE_USE_CPU", "perhaps"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_USE_MEGATRON_LM", "true"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
        ("ACCELERATE_CPU_AFFINITY", "perhaps"),
        ("WORLD_SIZE", "two"),
    ],
)
def test_a_variable_that_asks_for_something_else_is_refused_by_its_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputValueError, match=rf"{name}.*{value}"):
        start_accelerator("cpu", "fp32")


@pytest.mark.parametrize(
    "given", [{"WORLD_SIZE": "2"}, {"LOCAL_RANK": "0"}, {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "2"}]
)
def test_what_is_left_of_a_launcher_does_not_make_a_run_wait_for_others(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputValueError, match="must all be set by a launcher"):
        start_accelerator("cpu", "fp32")


def test_processes_that_no_launcher_introduced_to_each_other_are_refused(monkeypatch):
    """Under mpirun or srun alone each would take itself for the main one."""
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(InputValueError, match=r"must be started by accelerate launch.*PMI_SIZE=2"):
        start_accelerator("cpu", "fp32")


def test_what_accelerate_launch_sets_by_itself_goes_on_to_work(monkeypatch):
    launched = {
        "ACCELERATE_USE_CPU": "True",
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "no",
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
        "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
        "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
        "ACCELERATE_DEBUG_MODE": "false",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_USE_FSDP": "false",
    }
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    accelerator, _ = start_accelerator("auto", "fp32")
    # Honoured: it is what `accelerate launch --cpu` says.
    assert accelerator.device == torch.device("cpu")
    assert accelerator.gradient_accumulation_steps == 1
    assert {name: os.environ[name] for name in launched} == launched
    with pytest.raises(InputValueError, match="ACCELERATE_USE_CPU"):
        processes._ask_for_processor("cuda:0")


def test_no_variable_that_accelerate_knows_reaches_it(monkeypatch):
    """Found in its source, so that a newer version cannot bring one that is forgotten."""
    folder = Path(accelerate.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    names = set(re.findall(r"[\"'](ACCELERATE_[A-Z0-9_]*[A-Z0-9])[\"']", text))
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" in names
    seen = {}
    monkeypatch.setattr(processes, "_check_variable", lambda *_: None)
    monkeypatch.setattr(processes, "_ask_for_processor", lambda device: device)
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(processes, "Accelerator", lambda **_: seen.update(os.environ) or accelerator)
    for name in names:
        monkeypatch.setenv(name, "true")
    start_accelerator("cpu", "fp32")
    assert {name for name in seen if name.startswith("ACCELERATE_")} <= set(processes._HARMLESS)
    assert all(os.environ[name] == "true" for name in names)
