"""What the repair pipelines cost: time and peak memory of each on one volume, each in a process of its own.

    python benchmarks/repair_cost.py         a table, as Markdown
    python benchmarks/repair_cost.py SIZE    the same on SIZE^3 voxels (320 if not given)

The volume is every sheet of a phantom of the style ``laminar``, labelled or not, as a noisy simulated network sees it
(``simulated_networks.py``). The pipelines take turns, so that a busy minute of the machine does not fall on one of them; of
all runs the fastest counts.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from postprocess import read_peak_gb

from vesuvius_kit.postprocess.pipeline import load_pipeline, run_pipeline

BEFORE = Path(__file__).with_name("sheet_repair_before.yaml")
PIPELINES = ("public", "first_place", "second_place", str(BEFORE), "sheet_repair")
ROUNDS, RUNS = 3, 3


def measure(path, pipeline):
    """Print as JSON the seconds of the fastest run, those of the CPU in it, and the peak in GB after the first."""
    steps, probability, runs, peak = load_pipeline(pipeline), np.load(path), [], 0.0
    for _ in range(RUNS):
        started, cpu = time.perf_counter(), time.process_time()
        run_pipeline(probability, steps)
        runs.append((time.perf_counter() - started, time.process_time() - cpu))
        peak = peak or read_peak_gb()
    print(json.dumps([*min(runs), peak]))


def main(size):
    """Print the table."""
    import numba
    from simulated_networks import simulate_network

    from vesuvius_kit.phantom import make_phantom

    names = ("numpy", "numba")
    machine = f"{platform.machine()}, {numba.get_num_threads()} threads, Python {platform.python_version()}"
    print(machine, *(f"{name} {version(name)}" for name in names), sep=", ")
    runs = {pipeline: [] for pipeline in PIPELINES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probability.npy")
        surface = make_phantom(size, 1, "laminar").surface.astype(np.uint8)
        probability = simulate_network(surface, "noisy", seed=1).astype(np.float32)
        print(f"\n{size}^3 voxels, {(probability > 0.5).mean():.1%} above one half")
        np.save(path, probability)
        for _ in range(ROUNDS):
            for pipeline, kept in runs.items():
                command = [sys.executable, __file__, "measure", str(path), pipeline]
                kept.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    # The first round may have compiled what was not on the disk yet.
    best = {
        pipeline: (*min(run[:2] for run in kept), min(run[2] for run in kept[1:])) for pipeline, kept in runs.items()
    }
    print("\n| pipeline | s | CPU seconds | peak, GB | ratio to the repair before |\n|---|---|---|---|---|")
    for pipeline, (seconds, cpu, peak) in best.items():
        figures = f"{seconds:.2f} | {cpu:.2f} | {peak:.2f} | {seconds / best[str(BEFORE)][0]:.2f}"
        print(f"| `{Path(pipeline).stem}` | {figures} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 320)
