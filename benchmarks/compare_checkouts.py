"""The time of score, repair, phantom and patches in two checkouts, in turn, and whether their results are the same.

    python benchmarks/compare_checkouts.py OLD NEW --data demo/data
    python benchmarks/compare_checkouts.py OLD NEW --data demo/data --runs 1 --size 128

Each run is a process of its own that has one checkout on its path, calls once to load kernels, and takes the best of some
calls. A pair is a run of each; printed is the median over the pairs of new time by old. OLD may be as old as November 2026,
when modules lay elsewhere. ``--data`` is a folder in the competition's layout, as ``make demo`` leaves one.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def make_inputs(folder, size):
    """Write a surface, a label and a probability that both checkouts are given."""
    from scipy import ndimage

    from vesuvius_kit.phantom import make_phantom

    phantom = make_phantom((size,) * 3, seed=1, style="dense")
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(size,) * 3).astype(np.float32), 1.5)
    logits = 12 * ndimage.gaussian_filter(phantom.surface.astype(np.float32), 1.0) - 4 + noise / noise.std()
    probability = (1 / (1 + np.exp(-logits))).astype(np.float32)
    for name, array in {"label": phantom.label, "probability": probability, "mask": probability > 0.5}.items():
        np.save(folder / f"{name}.npy", array)


def load(folder, name):
    """Return one of the arrays that `make_inputs` wrote."""
    return np.load(folder / f"{name}.npy")


def score(options):
    """Score the mask."""
    from vesuvius_kit.metrics import leaderboard_score

    mask, label = load(options.folder, "mask"), load(options.folder, "label")
    return lambda: leaderboard_score(mask.astype(np.uint8), label).score


def repair(options, pipeline):
    """Repair the probability."""
    from vesuvius_kit.postprocess import make_mask

    probability = load(options.folder, "probability")
    return lambda: make_mask(probability, pipeline)


def phantom(options):
    """Make a chunk of three fifths of the size."""
    from vesuvius_kit.phantom import make_phantom

    return lambda: make_phantom((options.size * 3 // 5,) * 3, 3, "even")


def patches(options):
    """Draw 64 augmented patches of 64^3."""
    try:
        from vesuvius_kit.data.augment import Augmentation
        from vesuvius_kit.data.competition import Competition
        from vesuvius_kit.data.patches import PatchDataset
    except ImportError:  # before the modules moved
        from vesuvius_kit.augment import Augmentation
        from vesuvius_kit.competition import Competition
        from vesuvius_kit.patches import PatchDataset
    chunks = Competition(options.data).folds(2, 0)[0][0]
    made = PatchDataset(chunks, patch_size=64, samples_per_epoch=64, augmentation=Augmentation("light"))
    return lambda: np.stack([made[number]["image"].numpy() for number in range(64)])


# What gives the function to be timed, and the calls of which the best counts.
JOBS = {
    "score": (score, 5),
    "sheet_repair": (lambda options: repair(options, "sheet_repair"), 3),
    "public": (lambda options: repair(options, "public"), 9),
    "phantom": (phantom, 3),
    "patches": (patches, 3),
}


def run_job(options):
    """Return the best seconds and a digest of the result, in this process."""
    prepare, repeats = JOBS[options.job]
    function = prepare(options)
    result, seconds = function(), []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return {"seconds": min(seconds), "digest": hashlib.sha256(np.asarray(result).tobytes()).hexdigest()}


def compare(name, options):
    """Return the row of a job: as many pairs of processes as are asked for."""
    pairs = []
    for _ in range(options.runs):
        pairs.append([])
        for checkout in (options.old, options.new):
            command = [
                sys.executable,
                Path(__file__).resolve(),
                *sys.argv[1:],
                "--folder",
                options.folder,
                "--job",
                name,
            ]
            environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            pairs[-1].append(json.loads(done.stdout.splitlines()[-1]))
    old, new = (statistics.median(pair[at]["seconds"] for pair in pairs) for at in (0, 1))
    ratios = sorted(pair[1]["seconds"] / pair[0]["seconds"] for pair in pairs)
    same = len({run["digest"] for pair in pairs for run in pair}) == 1
    return (
        f"| {name} | {old:.3f} | {new:.3f} | {statistics.median(ratios):.3f} | {ratios[0]:.2f}, {ratios[-1]:.2f} | "
        f"{'the same' if same else 'DIFFERENT'} |"
    )


def main():
    """Compare two checkouts; also the command of each process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(run_job(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        make_inputs(options.folder, options.size)
        print("| job | old: s | new: s | new by old, median | lowest, highest | result |\n|---|---|---|---|---|---|")
        for name in JOBS:
            print(compare(name, options), flush=True)


if __name__ == "__main__":
    main()
