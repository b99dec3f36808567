"""What repair is worth: the competition's score of the pipelines, on phantoms and on real labels.

    python benchmarks/repair.py --checkpoint demo/checkpoints                      # the report set and real labels, tables
    python benchmarks/repair.py --set development --pipelines public sheet_repair  # while working on a pipeline

On phantoms a network that never saw them predicts, after noise was added to the image. On the labels of real chunks, taken
from the folder in ``VESUVIUS_KIT_REAL`` and left out without it, simulated networks of known faults do. Pipelines are
developed on the development set and on the real chunks; nothing about the report set was looked at before its table was
made. Probabilities are kept as float16 in ``--cache``, named by the weights, so that a second run scores only.
"""

import argparse
import hashlib
import json
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from simulated_networks import NETWORKS, PLAIN, simulate_network

from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.metrics import leaderboard_score
from vesuvius_kit.models.checkpoint import find_checkpoints, load_model
from vesuvius_kit.phantom import make_phantom
from vesuvius_kit.phantom.styles import REPORT_STYLES
from vesuvius_kit.postprocess.pipeline import load_pipeline, run_pipeline

# Grey values: papyrus and air are 45 to 80 apart, the two faces of a sheet 40 to 50.
NOISES = (0, 12, 24)
# (style, seed); nothing was ever developed on the styles of the report.
SETS = {
    "development": (("even", 1001), ("wavy", 1003), ("pressed", 1005), ("laminar", 1006), ("torn", 1007)),
    "report": tuple((style, seed) for style in REPORT_STYLES for seed in (9101, 9102, 9103)),
}
EDGES = {"development": 224, "report": 256}
WINDOW, OVERLAP = 96, 0.25
REAL = {"chunk-a": 1, "chunk-b": 2}  # file and seed; the outer voxels were not labelled
REAL_BORDER = 4
HERE = Path(__file__).parent
PIPELINES = ("raw", "public", "first_place", "second_place", str(HERE / "sheet_repair_before.yaml"), "sheet_repair")
PARTS = ("score", "topo", "surface_dice", "voi")


class Case(NamedTuple):
    """One volume to repair: a phantom under noise, or a real label as a simulated network sees it."""

    kind: str
    volume: str
    seed: int
    edge: int
    fault: str


def list_cases(name, edge=None, real=None):
    """The cases of a set, all noise levels of a chunk together, and those of real labels where a folder has them."""
    edge = edge or EDGES[name]
    cases = [Case("phantom", style, seed, edge, f"noise {noise}") for style, seed in SETS[name] for noise in NOISES]
    if real:
        cases += [Case("real", chunk, seed, 0, fault) for chunk, seed in REAL.items() for fault in (*PLAIN, *NETWORKS)]
    return cases


def load_case(case, checkpoint, cache, real):
    """Probability (float32) and label of a case; made when the cache has none."""
    made_by = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:8] if case.kind == "phantom" else "simulated"
    stem = f"{case.volume}_{case.seed}_{case.edge}"
    label_path = cache / f"{stem}_label.npy"
    path = cache / f"{stem}_{case.fault.replace(', ', '_').split(' ')[-1]}_{made_by}.npy"
    if not (label_path.exists() and path.exists()):
        if case.kind == "phantom":
            probability, label = _predict(case, checkpoint)
        else:
            label = read_volume(Path(real) / "labels" / f"{case.volume}.tif")
            label = np.ascontiguousarray(label[(slice(REAL_BORDER, -REAL_BORDER),) * 3])
            probability = simulate_network(label, case.fault, case.seed)
        np.save(label_path, label)
        np.save(path, probability.astype(np.float16))
    return np.load(path).astype(np.float32), np.load(label_path)


def _predict(case, checkpoint):
    phantom = make_phantom(case.edge, case.seed, case.volume)
    noise = int(case.fault.split()[-1])
    rng = np.random.default_rng([case.seed, noise])
    image = phantom.image + noise * rng.standard_normal(phantom.image.shape, dtype=np.float32)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return predict_volume(load_model(checkpoint), image, window=WINDOW, overlap=OVERLAP), phantom.label


def score_case(case, pipelines, checkpoint, cache, real):
    """One row a pipeline: the scores, the counts of features and the seconds."""
    probability, label = load_case(case, checkpoint, cache, real)
    rows = []
    for name, pipeline in pipelines.items():
        before = time.perf_counter()
        mask = run_pipeline(probability, pipeline)
        seconds = time.perf_counter() - before
        score = leaderboard_score(mask, label)
        rows.append({
            "pipeline": name, **case._asdict(), "score": score.score, "topo": score.toposcore,
            "surface_dice": score.surface_dice, "voi": score.voi_score, "split": score.voi_split,
            "merge": score.voi_merge, "counts": score.topo_counts.tolist(), "seconds": seconds,
        })  # fmt: skip
    return rows


def print_tables(rows):
    """For each kind: the means of each fault, the means of all with how often public is better, every volume's score."""
    names = list(dict.fromkeys(row["pipeline"] for row in rows))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        scores = {(row["volume"], row["seed"], row["fault"], row["pipeline"]): row["score"] for row in own}
        volumes = list(dict.fromkeys(key[:3] for key in scores))
        print(f"\n{kind}, all {len(volumes)} volumes")
        print("| pipeline | score | TopoScore | SurfaceDice | VOI score | below public by .01 | s |")
        print("|---|---|---|---|---|---|---|")
        for name in names:
            chosen = [row for row in own if row["pipeline"] == name]
            below = (
                sum(scores[*key, name] < scores[*key, "public"] - 0.01 for key in volumes) if "public" in names else "-"
            )
            seconds = np.median([row["seconds"] for row in chosen])
            print(f"| {name} | {_means(chosen)} | {below} | {seconds:.2f} |")
        print("\n| fault | pipeline | score | TopoScore | SurfaceDice | VOI score |\n|---|---|---|---|---|---|")
        for fault in dict.fromkeys(row["fault"] for row in own):
            for name in names:
                chosen = [row for row in own if row["pipeline"] == name and row["fault"] == fault]
                print(f"| {fault} | {name} | {_means(chosen)} |")
        print("\n| volume | fault | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
        for volume, seed, fault in volumes:
            line = " | ".join(f"{scores[volume, seed, fault, name]:.3f}" for name in names)
            print(f"| {volume} {seed if kind == 'phantom' else ''} | {fault} | {line} |")


def _means(rows):
    return " | ".join(f"{np.mean([row[key] for row in rows]):.3f}" for key in PARTS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo/checkpoints", help="folder of a run, or a checkpoint")
    parser.add_argument("--set", choices=SETS, default="report")
    parser.add_argument("--edge", type=int, help="edge of the phantoms in voxels")
    parser.add_argument("--pipelines", nargs="+", default=PIPELINES)
    parser.add_argument("--cache", type=Path, default=Path("repair_cache"))
    parser.add_argument("--processes", type=int, default=1, help="volumes at once")
    parser.add_argument("--json", type=Path, help="write every row there")
    given = parser.parse_args()

    given.cache.mkdir(parents=True, exist_ok=True)
    checkpoint = find_checkpoints([given.checkpoint])[0]
    pipelines = {Path(name).stem: load_pipeline(name) for name in given.pipelines}
    real = os.environ.get("VESUVIUS_KIT_REAL")
    cases = list_cases(given.set, given.edge, real)
    with ThreadPoolExecutor(given.processes) as pool:
        found = pool.map(lambda case: score_case(case, pipelines, checkpoint, given.cache, real), cases)
        rows = [row for part in found for row in part]
    print_tables(rows)
    if not real:
        print("\nreal labels were left out: VESUVIUS_KIT_REAL names no folder")
    print(f"\npeak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
