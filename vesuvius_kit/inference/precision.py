"""Which floating-point type a device is fastest in: a CPU by timing one small step in each, a GPU by its capability.

What a CPU has instructions for is not to be had from torch, and a type without them is emulated: bfloat16 then takes
three to seventy times as long as float32. So `auto` is measured once a run, by the main process, and handed to the others.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from vesuvius_kit.checks import check_choice
from vesuvius_kit.inference.threads import keep_torch_threads

Name = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Name, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Edges of the trial's input in voxels, smallest first: a type that is emulated is found out before it costs a second.
_EDGES = (8, 16, 24)
# Of one image torch computes small float32 convolutions in another way than it does those of a run.
_BATCH = 2
_REPEATS = 2
# No larger trial is begun after so many seconds.
_LONGEST_TRIALS = 0.4
# A trial that takes so many times as long as float32's is abandoned, a half type that gains less than this is a tie.
_ABANDONED = 3.0
_LEAST_GAIN = 0.1
# What the first step in a new shape and type may take longer, in seconds.
_FIRST_TIME = 0.1


@dataclass(frozen=True)
class Precision:
    """The type that a run computes in, and why."""

    name: Name
    """The type."""
    source: Literal["given", "measured", "capability", "resumed"]
    """Asked for by name, found by timing, known from what a GPU has units for, or kept from the run that goes on."""
    device: str
    """Kind of the device, such as ``cpu``."""
    seconds: dict[Name, float | None] = field(default_factory=dict)
    """Of one trial step in each type that was tried; None: abandoned after three times float32's. Empty where nothing was
    timed."""

    @classmethod
    def resumed(cls, noted: Mapping[str, Any]) -> "Precision":
        """Return the choice that a run's record holds, as `to_dict` returned it, for the run that goes on."""
        return cls(**{**noted, "source": "resumed"})

    @property
    def dtype(self) -> torch.dtype:
        """The type itself."""
        return DTYPES[self.name]

    def to_dict(self) -> dict[str, Any]:
        """Return what is kept in a run's record, as JSON holds it."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the choice and its figures in one line."""
        timed = ", ".join(
            f"{name} {'abandoned' if seconds is None else f'{1000 * seconds:.3g} ms'}"
            for name, seconds in self.seconds.items()
        )
        return f"{self.name} on {self.device}, {self.source}" + (f" (one small step: {timed})" if timed else "")


def choose_precision(precision: Literal["auto"] | Name, device: torch.device, *, training: bool = False) -> Precision:
    """Return the precision meant by a name; ``auto`` times a small step on a CPU and asks a GPU what it has units for.

    The trials, of a forward pass or for ``training`` a backward pass too, take well under a second. A tie goes to float32.
    """
    check_choice("precision", precision, ["auto", *DTYPES])
    if precision != "auto":
        return Precision(precision, "given", device.type)
    if device.type != "cpu":
        return Precision(_of_gpu(device), "capability", device.type)
    name, seconds = _measure(training)
    return Precision(name, "measured", device.type, seconds)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return the autocast context for a type; float32 means none."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


@cache
def _measure(training: bool) -> tuple[Name, dict[Name, float | None]]:
    """The faster type of this CPU, and the seconds of a step in each."""
    single, half = math.nan, None
    started = time.monotonic()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _make_network()
        for edge in _EDGES:
            image = torch.randn(_BATCH, 1, edge, edge, edge)
            whole = _time_step(network, image, torch.float32, training, math.inf)
            single = math.inf if whole is None else whole
            half = _time_step(network, image, torch.bfloat16, training, _ABANDONED * single)
            if half is None or time.monotonic() - started > _LONGEST_TRIALS:
                break
    gains = half is not None and half < single / (1 + _LEAST_GAIN)
    return "bf16" if gains else "fp32", {"fp32": single, "bf16": half}


def _of_gpu(device: torch.device) -> Name:
    """The half type that a GPU has units for. So small a step as a CPU can be tried with tells of its launches alone there."""
    if device.type != "cuda":
        return "fp32"
    capability = torch.cuda.get_device_capability(device)
    # Below 8.0 bfloat16 is emulated, whatever is_bf16_supported() says; below 7.0 float16 may be slower than float32.
    return "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"


def _make_network() -> nn.Sequential:
    """Two levels of what every network of the kit is made of, wide enough that multiplying is most of the work."""

    def block(before: int, after: int, stride: int = 1) -> Iterator[nn.Module]:
        yield nn.Conv3d(before, after, 3, stride=stride, padding=1, bias=False)
        yield nn.InstanceNorm3d(after, affine=True)
        yield nn.LeakyReLU(0.01)

    return nn.Sequential(*block(1, 24), *block(24, 24), *block(24, 48, 2), *block(48, 48))


@contextmanager
def _one_thread() -> Iterator[None]:
    """A trial runs on one thread, whose own time other programs on the machine do not lengthen."""
    with keep_torch_threads():
        torch.set_num_threads(1)
        yield


def _time_step(
    network: Iterable[nn.Module], image: torch.Tensor, dtype: torch.dtype, training: bool, limit: float
) -> float | None:
    """The seconds of a step, the shortest of some after a first that is not counted; None if it took longer than the limit.

    The clock is also read between the layers, so that even the first trial of an emulated type ends early.
    """
    shortest = math.inf
    with torch.set_grad_enabled(training):
        for repeat in range(1 + _REPEATS):
            started = time.thread_time()
            with autocast(image.device, dtype):
                output = image
                for layer in network:
                    output = layer(output)
                    # What is made anew for a new shape and type takes some hundredths of a second the first time.
                    if time.thread_time() - started > limit + (_FIRST_TIME if repeat == 0 else 0):
                        return None
            if training:
                torch.autograd.backward(output.float().square().mean())
            seconds = time.thread_time() - started
            if repeat:
                shortest = min(shortest, seconds)
    return shortest if shortest <= limit else None
