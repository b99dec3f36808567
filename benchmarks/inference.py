"""Whole-volume inference over the bare forward passes: the kit, MONAI and nnU-Net's predictor on the same network and volume.

    python benchmarks/inference.py
    python benchmarks/inference.py --only identity memory
    python benchmarks/inference.py --only share --share-filters 16
    python benchmarks/inference.py --only estimate --gpu-record gpu.json

``identity``: a network that does nothing. ``network``: a real one, small enough for CPUs. Both in one process, the
contestants in turn, the best of some repeats; overhead is the total less the bare forward passes on the same windows.
``memory``: the peak of a process that predicts one volume, over what it held before, a process for each contestant.
``share``: wall time outside the network over four volumes from TIFF to ``submission.zip``, repair included. ``estimate``: what
a network's operations mean for the competition's 120 volumes on two T4. The contestants are those of `peers.py`.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import peers
import torch
from peers import Task
from torch import nn
from torch.nn import functional as F

import vesuvius_kit as vk
from vesuvius_kit.config import PostprocessConfig, PredictConfig
from vesuvius_kit.models.registry import SegmentationModel, register_model
from vesuvius_kit.models.unet3d import UNet3D

SECTIONS = ("identity", "network", "memory", "share", "estimate")
NETWORKS = {
    "identity": peers.Identity,
    "network": lambda: peers.Plain(
        vk.create_model("unet3d", initial_filters=8, depth=3, half_resolution=True),
    ),
}
# The competition's volumes, and the GPUs that Kaggle gives a submission; NVIDIA's data sheet, float16 on the tensor cores.
N_VOLUMES, VOLUME_EDGE, N_GPUS, GPU = 120, 320, 2, "T4"
# Dense float16 operations a second in units of 10^12, by NVIDIA's data sheets.
PEAKS = {"T4": 65, "V100": 125, "A100": 312, "L4": 121, "RTX 4090": 165, "H100": 989, "H200": 989}
# Of the peak, where no record of a GPU says what is reached: a guess, and named as one.
ASSUMED_SHARE = 0.25


class RidgesUNet3D(UNet3D):
    """`unet3d` with fresh weights whose answer is that of a ridge filter, so that repair meets sheets and not noise.

    Parameters
    ----------
    initial_filters
        As `UNet3D` has it.
    depth
        As `UNet3D` has it.
    """

    def __init__(self, initial_filters: int = 32, depth: int = 4) -> None:
        super().__init__(initial_filters, depth)

    def compute_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the ridges' logits, and of the network's so little that only its time is seen."""
        grey = image.float()
        # Pooling, one axis after the other: convolutions of a single channel are slow in bfloat16 on CPUs.
        for axis in range(3):
            edges = tuple(3 if axis == other else 1 for other in range(3))
            grey = F.avg_pool3d(grey, edges, 1, tuple(edge // 2 for edge in edges), count_include_pad=False)
        around = F.interpolate(F.avg_pool3d(grey, 8), scale_factor=8, mode="trilinear")
        return 4.0 * (grey - around) - 2.0 + 1e-6 * super().compute_logits(image)


class NetworkClock:
    """Adds up the time inside the forward passes of the kit's networks, in whichever thread they run; on a GPU by events."""

    def __init__(self) -> None:
        self.calls, self._seconds, self._events = 0, 0.0, []
        self._local, self._lock = threading.local(), threading.Lock()

    def __enter__(self):
        hooks = nn.modules.module
        self._hooks = [
            hooks.register_module_forward_pre_hook(self._begin),
            hooks.register_module_forward_hook(self._end, always_call=True),
        ]
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()

    @property
    def seconds(self) -> float:
        """The time so far; waits for the GPU."""
        if self._events:
            torch.cuda.synchronize()
        return self._seconds + sum(begun.elapsed_time(done) for begun, done in self._events) / 1000

    def _begin(self, module, given):
        if isinstance(module, SegmentationModel):
            self._local.begun = time.perf_counter()
            if given[0].is_cuda:
                self._local.begun = torch.cuda.Event(enable_timing=True)
                self._local.begun.record()

    def _end(self, module, _given, _answer):
        if not isinstance(module, SegmentationModel):
            return
        begun = self._local.begun
        with self._lock:
            self.calls += 1
            if isinstance(begun, float):
                self._seconds += time.perf_counter() - begun
            else:
                done = torch.cuda.Event(enable_timing=True)
                done.record()
                self._events.append((begun, done))


def make_volume(edge):
    """Return grey values without sense: what they are does not matter here, but no window may be all 0."""
    return np.random.default_rng(0).integers(1, 255, (edge,) * 3, dtype=np.uint8)


def describe_machine():
    """Return the line that says where and with what was measured."""
    packages = ("torch", "numpy", "numba", "monai", "nnunetv2")
    found = []
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    cores = len(os.sched_getaffinity(0))
    model = next(iter(_lines_of("/proc/cpuinfo", "model name")), platform.machine())
    memory = int(next(iter(_lines_of("/proc/meminfo", "MemTotal")), "0 kB").split()[0]) / 2**20
    return (
        f"{cores} cores ({model}), {memory:.0f} GiB{gpu}; Python {platform.python_version()}, {', '.join(found)}, "
        f"{torch.get_num_threads()} threads of torch"
    )


def _lines_of(path, key):
    """The values of a key in one of the system's tables."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                yield value.strip()


def print_table(*columns):
    """Print the head of a Markdown table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def tasks_of(options):
    """Return the tasks that are measured."""
    return [
        Task(window, options.overlap, batch, options.device, options.dtype)
        for window in options.windows
        for batch in options.batches
    ]


def measure_overhead(section, options, contestants):
    """Print the times of the contestants on one network."""
    network, volume = NETWORKS[section]().eval(), make_volume(options.size)
    columns = [f"{name}, s (over)" for name in contestants]
    print_table(
        "network", "window", "batch", "windows", "forward, s", *columns, "overhead, kit / MONAI", "kit, volumes/h"
    )
    rows = []
    for task in tasks_of(options):
        names = [name for name in contestants if peers.can_run(name, task)]
        peers.warm_up(names, network, task)
        counts = {name: peers.count_windows(name, network, volume, task) for name in names}
        best = {
            name: min(all_)
            for name, all_ in peers.time_contestants(names, network, volume, task, options.repeats).items()
        }
        over = {name: best[name] - best["forward"] for name in names}
        said = [f"{best[name]:.2f} ({over[name]:+.2f})" if name in names else "" for name in contestants]
        ratio = f"{over['kit'] / over['MONAI']:.2f}" if "MONAI" in over else ""
        windows = "/".join(str(count) for count in dict.fromkeys(counts.values()))
        cells = [section, task.window, task.batch_size, windows, f"{best['forward']:.2f}", *said, ratio]
        print(f"| {' | '.join(map(str, cells))} | {3600 / best['kit']:.0f} |", flush=True)
        rows.append(
            {"network": section, "window": task.window, "batch": task.batch_size, "windows": counts, "seconds": best}
        )
    return rows


def measure_memory(options, contestants):
    """Print the peak memory of each contestant, each in a process of its own."""
    print_table("network", "window", "batch", *(f"{name}, MiB" for name in contestants))
    rows = []
    for section in ("identity", "network"):
        for task in tasks_of(options):
            found = {}
            for name in (name for name in contestants if peers.can_run(name, task)):
                words = {"contestant": name, "network": section, "window": task.window, "batch": task.batch_size}
                command = [sys.executable, __file__, "--size", str(options.size), "--overlap", str(options.overlap)]
                command += ["--threads", str(torch.get_num_threads()), "--child", json.dumps(words)]
                run = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name] = float(run.stdout.splitlines()[-1])
            cells = [f"{found[name]:.0f}" if name in found else "" for name in contestants]
            print(f"| {section} | {task.window} | {task.batch_size} | {' | '.join(cells)} |", flush=True)
            rows.append({"network": section, "window": task.window, "batch": task.batch_size, "mib": found})
    return rows


def predict_as_child(options):
    """Print the peak memory, MiB, of one prediction over what this process held before."""
    asked = json.loads(options.child)
    network, volume = NETWORKS[asked["network"]]().eval(), make_volume(options.size)
    task = Task(asked["window"], options.overlap, asked["batch"], options.device, options.dtype)
    peers.find_contestants()
    with torch.inference_mode():
        network(torch.zeros(1, 1, 16, 16, 16))
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # forget the peak of the imports
    before = _kilobytes("VmRSS")
    peers.CONTESTANTS[asked["contestant"]](network, volume, task)
    print((_kilobytes("VmHWM") - before) / 1024)


def _kilobytes(key):
    """A figure of this process's memory. `resource` would give a new process the peak of the one that started it."""
    return int(next(_lines_of("/proc/self/status", key)).split()[0])


def measure_share(folder, *, n_volumes, edge, filters, depth, window, device="auto", precision="auto", batch_size=1):
    """Predict, repair and pack volumes as a submission does; return wall time, time in the network, and its windows.

    The volumes are phantoms. A tiny submission goes first, so that kernels are compiled and loaded before the clock runs.
    """
    folder = Path(folder)
    if "ridges_unet3d" not in vk.list_models():
        # Here and not when this file is imported: the kit's own networks alone are to be measured elsewhere.
        register_model("ridges_unet3d")(RidgesUNet3D)
    predict = PredictConfig(window=(window,) * 3, batch_size=batch_size, device=device, precision=precision)
    styles = ("dense", "even", "loose", "wavy")
    for name, edges in (("tiny", [64]), ("images", [edge] * n_volumes)):
        (folder / name).mkdir(parents=True)
        for number, length in enumerate(edges):
            phantom = vk.make_phantom((length,) * 3, seed=number, style=styles[number % len(styles)])
            vk.write_volume(folder / name / f"{number + 1}.tif", phantom.image)
    torch.manual_seed(0)
    runs = {}
    for name, size in (("tiny", (2, 1)), ("images", (filters, depth))):
        model = vk.create_model("ridges_unet3d", initial_filters=size[0], depth=size[1])
        runs[name] = vk.save_checkpoint(folder / f"{name}_run", model, {})
    measured = {}
    for name in ("tiny", "images"):
        started = time.perf_counter()
        with NetworkClock() as clock:
            summary = vk.write_submission(
                folder / f"{name}.zip", folder / name, [runs[name]], predict, PostprocessConfig(), workers=1
            )
        wall = time.perf_counter() - started
        if not clock.calls:
            raise RuntimeError("no forward pass was seen: the network did not run in this process")
        measured = {
            "volumes": len(summary.predicted),
            "wall_seconds": wall,
            "network_seconds": clock.seconds,
            "forward_passes": clock.calls,
            "outside_share": 1 - clock.seconds / wall,
        }
    return measured


def print_share(options):
    """Print the share of wall time outside the network."""
    with tempfile.TemporaryDirectory() as folder:
        row = measure_share(
            folder,
            n_volumes=options.share_volumes,
            edge=options.share_size,
            filters=options.share_filters,
            depth=options.share_depth,
            window=options.share_window,
            device=options.device,
        )
    name = f"unet3d, {options.share_filters} filters, depth {options.share_depth}, window {options.share_window}"
    each = row["network_seconds"] / max(1, row["volumes"])
    print_table("network", "volumes", "wall, s", "in the network, s", "a volume, s", "outside", "volumes/h")
    cells = [name, f"{row['volumes']} of {options.share_size}^3", f"{row['wall_seconds']:.1f}"]
    cells += [f"{row['network_seconds']:.1f}", f"{each:.1f}", f"{100 * row['outside_share']:.1f} %"]
    print(f"| {' | '.join(cells)} | {3600 * row['volumes'] / row['wall_seconds']:.1f} |")
    if each < 60:
        print(f"\nThe network took less than a minute a volume ({each:.0f} s): more --share-filters make it slower.")
    return [row | {"network": name}]


def peak_of(gpu_name):
    """Return the float16 peak of a GPU by its name, in operations a second, or None."""
    found = [name for name in PEAKS if name in gpu_name]
    return PEAKS[max(found, key=len)] * 1e12 if found else None


def read_reached(path, network):
    """Return from a GPU's record the share of the peak that a network's float16 passes reach, the kit's time over them, and
    the GPU's name; None where the record does not say."""
    record = json.loads(Path(path).read_text(encoding="utf-8"))
    gpu = record["machine"]["gpu"]
    rows = [row for section in record["sections"].values() for row in section["rows"]]
    rows = [row for row in rows if row.get("case") == "kit" and row.get("precision") == "fp16"]
    rows = [row for row in rows if row.get("network") == network and "over_forward" in row]
    peak = peak_of(gpu)
    if peak is None or not rows:
        return None
    row = min(rows, key=lambda row: row["seconds"])
    return row["flop_per_second"] / peak, 1 + row["over_forward"], gpu


def print_estimate(options):
    """Print what networks of known operations take on Kaggle's two T4, and how that is derived."""
    print_table(
        "network",
        "window",
        "windows",
        "TFLOP a volume",
        "share of the peak",
        f"{N_VOLUMES} volumes, h",
        "with 8 views, h",
    )
    rows, sources = [], []
    for name in ("unet3d", "resenc_unet"):
        with torch.device("meta"):
            network = vk.create_model(name)
        reached = read_reached(options.gpu_record, name) if options.gpu_record else None
        share, over, gpu = reached or (ASSUMED_SHARE, 1.05, None)
        sources.append(f"{name}: {f'measured on {gpu}' if gpu else 'a guess'}")
        for window in options.windows:
            task = Task(window, options.overlap)
            windows = len(peers.corners_of((VOLUME_EDGE,) * 3, task))
            flop = peers.count_flops(network, task) * windows
            hours = N_VOLUMES * flop * over / (share * PEAKS[GPU] * 1e12) / N_GPUS / 3600
            cells = [name, window, windows, f"{flop / 1e12:.1f}", f"{share:.2f}", f"{hours:.2f}", f"{8 * hours:.2f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            rows.append({"network": name, "window": window, "tflop": flop / 1e12, "share": share, "hours": hours})
    print(
        f"\nThe operations of a window's forward pass (counted by torch, a multiply-add as two) times the windows of "
        f"{VOLUME_EDGE}^3 at overlap {options.overlap}, over the share of the {GPU}'s {PEAKS[GPU]} TFLOP/s in float16 that is "
        f"reached ({'; '.join(sources)}), times what the kit takes over the bare passes, over {N_GPUS} GPUs. Repair and "
        "decoding overlap with the network and are not counted. A share measured on another GPU is a lead, not a figure."
    )
    return rows


def read_options():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--size", type=int, default=320, help="edge of the volume of identity, network and memory")
    parser.add_argument("--windows", type=int, nargs="+", default=[96, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5, help="of identity; the network is timed three times at most")
    parser.add_argument("--threads", type=int, default=None, help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--share-volumes", type=int, default=4)
    parser.add_argument("--share-size", type=int, default=256)
    parser.add_argument("--share-filters", type=int, default=20)
    parser.add_argument("--share-depth", type=int, default=4)
    parser.add_argument("--share-window", type=int, default=128)
    parser.add_argument("--gpu-record", type=Path, default=None, help="the gpu.json of `make gpu`, for the estimate")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures to a file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.dtype = torch.float32
    return options


def main():
    """Print the tables that were asked for."""
    options = read_options()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.child:
        predict_as_child(options)
        return
    there, absent = peers.find_contestants()
    print(describe_machine())
    print(f"A volume of {options.size}^3 uint8, overlap {options.overlap}, float32, device {options.device}.")
    for name, reason in absent.items():
        print(f"Without {name}: {reason}")
    measured = {}
    for section in options.only:
        if section in NETWORKS:
            chosen = argparse.Namespace(**vars(options))
            chosen.repeats = options.repeats if section == "identity" else min(options.repeats, 3)
            measured[section] = measure_overhead(section, chosen, list(there))
        elif section == "memory":
            measured[section] = measure_memory(options, list(there))
        elif section == "share":
            measured[section] = print_share(options)
        else:
            measured[section] = print_estimate(options)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": describe_machine(), **measured}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
