"""Time and memory of the competition's score, each case in a fresh process with a warm numba cache.

    python benchmarks/metric.py            all tables, as Markdown
    python benchmarks/metric.py CASE       one case in this process, as one line of JSON

The cases: ``large`` (tests/files/golden_large, labelled as a real chunk is), ``perfect`` (its label against itself),
``sheets-N`` (the same, mirrored or cut to N^3), ``noise-N-D`` (two unrelated volumes of N^3 voxels with a share of D per cent
foreground: the worst case) and ``near-N-D`` (noise against itself with 5 % of the voxels changed). ``peers`` runs
surface-distance, and connected-components-3d with scikit-image, beside the same parts of this package.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent.parent / "tests" / "files"
REFERENCE_SECONDS, REFERENCE_GB = (77, 82), 5.7  # the competition's program on the large case, two cores
REPEATS = 7


def load_large():
    """Return prediction and label of the large golden case, and its reference record."""
    volumes = np.load(DATA / "golden_large.npz")
    (case,) = json.loads((DATA / "golden_large.json").read_text())
    shape, n = tuple(case["shape"]), int(np.prod(case["shape"]))
    prediction = np.unpackbits(volumes[case["name"] + "__pred"])[:n].reshape(shape)
    surface, unlabelled = np.unpackbits(volumes[case["name"] + "__label"])[: 2 * n].reshape((2, *shape))
    return prediction, np.where(unlabelled == 1, 2, surface).astype(np.uint8), case


def make_case(name):
    """Return prediction and label of a case."""
    kind, *numbers = name.split("-")
    if kind in ("noise", "near"):
        size, density = map(int, numbers)
        rng = np.random.default_rng(0)
        prediction = rng.random((size,) * 3, dtype=np.float32) < density / 100
        other = rng.random((size,) * 3, dtype=np.float32)
        return prediction, (other < density / 100 if kind == "noise" else prediction ^ (other < 0.05)).astype(np.uint8)
    prediction, label, _ = load_large()
    if kind == "perfect":
        return (label == 1).astype(np.uint8), label
    if kind == "sheets":
        size = int(numbers[0])
        pad = [(0, max(0, size - edge)) for edge in label.shape]
        cut = (slice(0, size),) * 3
        return np.pad(prediction, pad, mode="reflect")[cut].copy(), np.pad(label, pad, mode="reflect")[cut].copy()
    return prediction, label


def time_calls(function, repeats):
    """Return the seconds of each of several calls, and the last result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return seconds, result


def run_case(name):
    """Measure one case in this process."""
    from vesuvius_kit.metrics import betti_matching_counts, leaderboard_score, surface_dice, variation_of_information
    from vesuvius_kit.metrics.topology import octants

    prediction, label = make_case(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    score = leaderboard_score(prediction, label)
    first = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    repeats = REPEATS if first < 5 else 1
    seconds, _ = time_calls(lambda: leaderboard_score(prediction, label), repeats)
    record = {
        "case": name,
        "first": first,
        "best": min(seconds),
        "median": statistics.median(seconds),
        "peak_gb": peak / 1e6,
        "input_gb": before / 1e6,
        "counts": score.topo_counts.tolist(),
        "score": score.score,
    }
    if name == "large":
        expected = load_large()[2]
        record["exact"] = expected["counts"] == record["counts"] and abs(expected["score"] - score.score) < 1e-9
        masks = (prediction != 0) & (label != 2), label == 1
        parts = {
            "surface Dice": lambda: surface_dice(*masks),
            "variation of information": lambda: variation_of_information(*masks),
            "matching, eight octants": lambda: [
                betti_matching_counts(*(m[o] for m in masks)) for o in octants(label.shape)
            ],
        }
        record["parts"] = {part: min(time_calls(function, REPEATS)[0]) for part, function in parts.items()}
    return record


def run_peers():
    """Measure other packages on the parts that they have, in this process, on the same masks."""
    import cc3d
    import surface_distance
    from skimage import metrics

    from vesuvius_kit.metrics import surface_dice, variation_of_information

    prediction, label, _ = load_large()
    masks = (prediction != 0) & (label != 2), label == 1

    def dice_of_peer():
        distances = surface_distance.compute_surface_distances(masks[1], masks[0], (1, 1, 1))
        return surface_distance.compute_surface_dice_at_tolerance(distances, 2.0)

    def information_of_peers():
        either = masks[0] | masks[1]
        labels = [cc3d.connected_components(mask, connectivity=26)[either] for mask in masks]
        return sum(metrics.variation_of_information(*labels))

    record = {}
    for name, ours, theirs in (
        ("surface Dice (surface-distance)", lambda: surface_dice(*masks), dice_of_peer),
        (
            "variation of information (cc3d, scikit-image)",
            lambda: sum(variation_of_information(*masks)),
            information_of_peers,
        ),
    ):
        ours()
        seconds, value = time_calls(ours, REPEATS)
        peer_seconds, peer_value = time_calls(theirs, 3)
        record[name] = {
            "ours": min(seconds),
            "peer": min(peer_seconds),
            "difference": abs(value - peer_value),
        }
    return record


def run_fresh(case):
    """Measure a case in a new process."""
    run = subprocess.run([sys.executable, __file__, case], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def print_table(*columns):
    """Print the head of a Markdown table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def main():
    """Print every table."""
    run_fresh("sheets-64")  # the first call on a machine compiles
    packages = ("numpy", "numba", "surface-distance", "connected-components-3d", "scikit-image")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    large = run_fresh("large")
    print(
        f"\nlarge: exact {large['exact']}; the competition's program needs {REFERENCE_SECONDS[0]} to "
        f"{REFERENCE_SECONDS[1]} s and {REFERENCE_GB} GB: {REFERENCE_SECONDS[0] / large['first']:.0f} times the time of a "
        f"first call, {REFERENCE_SECONDS[0] / large['best']:.0f} times that of the best, "
        f"{REFERENCE_GB / large['peak_gb']:.0f} times the memory"
    )
    print_table("part, on one core", "best, s")
    for part, seconds in large["parts"].items():
        print(f"| {part} | {seconds:.3f} |")
    print_table("part", "this package, s", "peer, s", "ratio", "difference")
    for part, row in run_fresh("peers").items():
        ratio = row["peer"] / row["ours"]
        print(f"| {part} | {row['ours']:.3f} | {row['peer']:.2f} | {ratio:.0f} | {row['difference']:.0e} |")
    print_table("case", "predicted / labelled / matched", "first call, s", "best, s", "median, s", "peak, GB")
    cases = ["large", "perfect", *(f"sheets-{size}" for size in (64, 96, 128, 192, 256, 320, 384))]
    cases += [f"noise-{size}-{density}" for density in (10, 30, 50, 70, 90) for size in (64, 128, 192)]
    cases += [f"near-{size}-{density}" for density in (30, 50, 90) for size in (64, 128, 192)]
    for case in cases:
        row = large if case == "large" else run_fresh(case)
        matched, predicted, labelled = np.sum(row["counts"], axis=0)
        times = " | ".join(f"{row[kind]:.2f}" for kind in ("first", "best", "median", "peak_gb"))
        print(f"| {case} | {predicted:,} / {labelled:,} / {matched:,} | {times} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(json.dumps(run_peers() if sys.argv[1] == "peers" else run_case(sys.argv[1])))
