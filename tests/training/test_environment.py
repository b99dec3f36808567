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
from vesuvius_kit.training.processes import plain_forward, release_accelerator, start_accelerator, wait_for_all


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
        processes._ask_for_cpu("cuda:0")


def test_no_variable_that_accelerate_knows_reaches_it(monkeypatch):
    """Found in its source, so that a newer version cannot bring one that is forgotten."""
    folder = Path(accelerate.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    names = set(re.findall(r"[\"'](ACCELERATE_[A-Z0-9_]*[A-Z0-9])[\"']", text))
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" in names
    seen = {}
    monkeypatch.setattr(processes, "_check_variable", lambda *_: None)
    monkeypatch.setattr(processes, "_ask_for_cpu", lambda device: device)
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(processes, "Accelerator", lambda **_: seen.update(os.environ) or accelerator)
    for name in names:
        monkeypatch.setenv(name, "true")
    start_accelerator("cpu", "fp32")
    assert {name for name in seen if name.startswith("ACCELERATE_")} <= set(processes._HARMLESS)
    assert all(os.environ[name] == "true" for name in names)


def test_more_processes_than_gpus_is_one_line(monkeypatch):
    for name, value in {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    chosen = []
    monkeypatch.setattr(processes, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with pytest.raises(InputValueError, match="a GPU of its own, got process 2 on a machine with 2") as error:
        start_accelerator("auto", "fp32")
    assert "\n" not in str(error.value)
    assert not chosen


def test_plain_forward_takes_the_autocast_off_and_puts_it_back():
    class Probe(torch.nn.Linear):
        def forward(self, _):
            return torch.tensor(torch.is_autocast_enabled("cpu"))

    accelerator, _ = start_accelerator("cpu", "bf16")
    model = accelerator.prepare(Probe(1, 1))
    wrapped = model.forward
    assert model(None)
    with plain_forward(model):
        assert not model(None)
    assert model.forward is wrapped
    with pytest.raises(ZeroDivisionError), plain_forward(model):
        raise ZeroDivisionError
    assert model.forward is wrapped
    assert model(None)


def test_plain_forward_leaves_a_plain_network_as_it_is():
    model = torch.nn.Conv3d(1, 1, 1)
    with plain_forward(model):
        pass
    assert "forward" not in vars(model)


def test_waiting_for_all_without_others_does_nothing(monkeypatch):
    monkeypatch.setattr(torch.distributed, "barrier", lambda: pytest.fail("there is nobody to wait for"))
    wait_for_all()
