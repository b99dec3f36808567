"""Sliding-window inference of the kit, MONAI and nnU-Net behind one signature, and the bare forward passes they all pay for.

Each contestant takes a network, a uint8 volume and a `Task` and returns the probability, float32 (Z, Y, X). All are given the
grey values as they are, without normalisation, in float32, and a network that answers with one channel of logits. MONAI and
nnU-Net blend logits and take the sigmoid once, of the blended volume, which is what costs them least; the kit blends
probabilities.
"""

import itertools
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from importlib import metadata
from io import StringIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import vesuvius_kit as vk


@dataclass(frozen=True)
class Task:
    """How a volume is to be predicted."""

    window: int = 128
    """Edge of the cubic windows, in voxels."""
    overlap: float = 0.5
    """Share of a window that the next one covers again."""
    batch_size: int = 1
    """Windows in a forward pass; nnU-Net's predictor knows only 1."""
    device: str = "cpu"
    """A torch device."""
    dtype: torch.dtype = torch.float32
    """Autocast type. nnU-Net's predictor has no choice: float16 on a GPU, float32 on a CPU."""


class Identity(nn.Module):
    """A network that does nothing: its answer is a copy of its input, since a network's answer is memory of its own."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the copy."""
        return image.clone()


class Plain(nn.Module):
    """A network of the kit without its record, so that no contestant normalises."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the network's logits."""
        return self.network(image)


def autocast(task: Task):
    """Return the context in which the network of a task runs."""
    kind = torch.device(task.device).type
    return nullcontext() if task.dtype == torch.float32 else torch.autocast(kind, dtype=task.dtype)


def as_image(volume: NDArray[Any], task: Task) -> torch.Tensor:
    """Return a volume as float32 on the device."""
    return torch.from_numpy(volume).to(task.device).float()


def predict_kit(network: nn.Module, volume: NDArray[Any], task: Task) -> NDArray[np.float32]:
    """Return what the kit predicts."""
    return vk.predict_volume(
        network,
        volume,
        window=task.window,
        overlap=task.overlap,
        batch_size=task.batch_size,
        tta="none",
        device=task.device,
        dtype=task.dtype,
    )


def predict_monai(network: nn.Module, volume: NDArray[Any], task: Task) -> NDArray[np.float32]:
    """Return what MONAI's `sliding_window_inference` predicts, with its Gaussian weights."""
    from monai.inferers import sliding_window_inference

    network = network.to(task.device).eval()
    with torch.inference_mode(), autocast(task):
        logits = sliding_window_inference(
            as_image(volume, task)[None, None],
            roi_size=(task.window,) * 3,
            sw_batch_size=task.batch_size,
            predictor=network,
            overlap=task.overlap,
            mode="gaussian",
        )
        return logits[0, 0].float().sigmoid_().cpu().numpy()


def predict_nnunet(network: nn.Module, volume: NDArray[Any], task: Task) -> NDArray[np.float32]:
    """Return what the sliding windows of nnU-Net's predictor give, without mirroring, preprocessing and resampling."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(
        {
            "dataset_name": "Dataset001_Windows",
            "plans_name": "nnUNetPlans",
            # The network is given; its description is not read.
            "configurations": {"3d_fullres": {"patch_size": [task.window] * 3, "architecture": {}}},
        }
    )
    # A region has a head of its own, with a sigmoid: one channel, as the other contestants have it.
    labels = {"labels": {"background": 0, "surface": [1, 2]}, "regions_class_order": [1]}
    device = torch.device(task.device)
    # It prints what it has chosen.
    with redirect_stdout(StringIO()):
        predictor = nnUNetPredictor(
            tile_step_size=1 - task.overlap,
            use_mirroring=False,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
        configuration = plans.get_configuration("3d_fullres")
        predictor.manual_initialization(network, plans, configuration, None, labels, "nnUNetTrainer", None)
        # The predictor moves it to the device itself.
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(volume).float()[None])
    return logits[0].float().sigmoid_().cpu().numpy()


Predict = Callable[[nn.Module, NDArray[Any], Task], NDArray[np.float32]]
CONTESTANTS: dict[str, Predict] = {"kit": predict_kit, "MONAI": predict_monai, "nnU-Net": predict_nnunet}
_MODULES = {"MONAI": "monai.inferers", "nnU-Net": "nnunetv2.inference.predict_from_raw_data"}
_PACKAGES = {"kit": "vesuvius-kit", "MONAI": "monai", "nnU-Net": "nnunetv2"}


def find_contestants() -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions of the contestants that are installed, and for the others why they are not to be had."""
    there, absent = {}, {}
    for name, package in _PACKAGES.items():
        try:
            if name in _MODULES:
                __import__(_MODULES[name])
            there[name] = vk.__version__ if name == "kit" else metadata.version(package)
        except ImportError as error:
            absent[name] = f"{type(error).__name__}: {error}"
    return there, absent


def can_run(name: str, task: Task) -> bool:
    """Return whether a contestant knows a task's batch and type; see `Task`."""
    if name != "nnU-Net":
        return True
    only = torch.float32 if torch.device(task.device).type == "cpu" else torch.float16
    return task.batch_size == 1 and task.dtype == only


def corners_of(shape: tuple[int, ...], task: Task) -> list[tuple[int, ...]]:
    """Return the first voxels of the windows that cover a volume, evenly spread: the fewest that overlap enough."""
    axes = []
    for length in shape:
        # Rounded first: 1 - 0.8 is no binary fraction.
        step = max(1, int(task.window * (1 - task.overlap) + 1e-6))
        count = 1 + max(0, -(-(length - task.window) // step))
        last = max(0, length - task.window)
        axes.append([round(number * last / max(1, count - 1)) for number in range(count)])
    return list(itertools.product(*axes))


def time_forward(network: nn.Module, volume: NDArray[Any], task: Task) -> float:
    """Return the seconds of the bare forward passes over all windows of a volume, cut and stacked beforehand.

    On a GPU the passes of a batch lie between two events, and nothing else is waited for.
    """
    network = network.to(task.device).eval()
    image, corners = as_image(volume, task), corners_of(volume.shape, task)
    on_gpu = torch.device(task.device).type == "cuda"
    seconds, events = 0.0, []
    with torch.inference_mode(), autocast(task):
        for first in range(0, len(corners), task.batch_size):
            cuts = [
                tuple(slice(at, at + task.window) for at in corner)
                for corner in corners[first : first + task.batch_size]
            ]
            batch = torch.stack([image[cut] for cut in cuts])[:, None]
            if on_gpu:
                begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begun.record()
                network(batch)
                done.record()
                events.append((begun, done))
            else:
                started = time.perf_counter()
                network(batch)
                seconds += time.perf_counter() - started
    if on_gpu:
        torch.cuda.synchronize()
        seconds = sum(begun.elapsed_time(done) for begun, done in events) / 1000
    return seconds


def count_windows(name: str, network: nn.Module, volume: NDArray[Any], task: Task) -> int:
    """Return how many windows a contestant has the network predict; a hook counts them."""
    windows = []
    hook = network.register_forward_pre_hook(lambda _module, given: windows.append(len(given[0])))
    try:
        CONTESTANTS[name](network, volume, task)
    finally:
        hook.remove()
    return sum(windows)


def time_contestants(names, network, volume, task, repeats):
    """Return the seconds of each contestant and of the bare forward passes ("forward"), a list each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ("forward", *names)}
    for _ in range(repeats):
        seconds["forward"].append(time_forward(network, volume, task))
        for name in names:
            wait(task)
            started = time.perf_counter()
            CONTESTANTS[name](network, volume, task)
            wait(task)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def warm_up(names, network, task):
    """Let each contestant meet a volume of two windows an axis: kernels are compiled and chosen before the clock runs."""
    small = np.random.default_rng(0).integers(0, 255, (task.window * 3 // 2,) * 3, dtype=np.uint8)
    for name in names:
        CONTESTANTS[name](network, small, task)
    time_forward(network, small, task)


def wait(task: Task) -> None:
    """Wait until a GPU has done what it was given."""
    if torch.device(task.device).type == "cuda":
        torch.cuda.synchronize()


def count_flops(network: nn.Module, task: Task) -> float:
    """Return the floating-point operations, a multiply-add counted as two, of a window's forward pass; nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    own = next(network.parameters(), torch.empty(0)).device
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.to("meta")(torch.empty(1, 1, *(task.window,) * 3, device="meta"))
    if own.type != "meta":
        raise ValueError("network must be made for counting alone, on the meta device")
    return float(counter.get_total_flops())


def with_batch(task: Task, batch_size: int) -> Task:
    """Return the task with another batch."""
    return replace(task, batch_size=batch_size)
