"""What repair is worth: the competition's score of the pipelines on predictions of phantoms that the network never saw.

    python benchmarks/repair.py --checkpoint demo/checkpoints                      # the report set, a table
    python benchmarks/repair.py --set development --pipelines public sheet_repair  # while working on a pipeline

Noise is added to the image before the network sees it. Pipelines are developed on the seeds and styles of the development
set only; nothing about the report set was looked at before the table was made. Predictions are kept as float16 in
``--cache``, named by the weights, so that a second run scores only.
"""

import argparse
import hashlib
import json
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vesuvius_kit.checkpoint import find_checkpoints, load_model
from vesuvius_kit.inference import predict_volume
from vesuvius_kit.metrics import leaderboard_score
from vesuvius_kit.phantom import make_phantom
from vesuvius_kit.postprocess.pipeline import load_pipeline, run_pipeline

# Grey values: papyrus and air are 45 to 80 apart, the two faces of a sheet 40 to 50.
NOISES = (0, 12, 24)
# (style, seed); ragged and faint are scrolls that the demo never trains on.
SETS = {
    "development": (("even", 1001), ("dense", 1002), ("wavy", 1003), ("loose", 1004)),
    "report": (("ragged", 9001), ("faint", 9002), ("dense", 9003), ("wavy", 9004)),
}
EDGES = {"development": 224, "report": 256}
WINDOW, OVERLAP = 96, 0.25


class Case(NamedTuple):
    """One volume to repair."""

    style: str
    seed: int
    noise: int
    edge: int


def list_cases(name, edge=None):
    """The cases of a set, all noise levels of a chunk together."""
    edge = edge or EDGES[name]
    return [Case(style, seed, noise, edge) for style, seed in SETS[name] for noise in NOISES]


def load_case(case, checkpoint, cache):
    """Probability (float32) and label of a case; predicted when the cache has none."""
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:8]
    stem = f"{case.style}_{case.seed}_{case.edge}"
    label_path, path = cache / f"{stem}_label.npy", cache / f"{stem}_{case.noise}_{digest}.npy"
    if not (label_path.exists() and path.exists()):
        phantom = make_phantom(case.edge, case.seed, case.style)
        rng = np.random.default_rng([case.seed, case.noise])
        image = phantom.image + case.noise * rng.standard_normal(phantom.image.shape, dtype=np.float32)
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        probability = predict_volume(load_model(checkpoint), image, window=WINDOW, overlap=OVERLAP)
        np.save(label_path, phantom.label)
        np.save(path, probability.astype(np.float16))
    return np.load(path).astype(np.float32), np.load(label_path)


def score_case(case, pipelines, checkpoint, cache):
    """One row a pipeline: the scores, the counts of features and the seconds."""
    probability, label = load_case(case, checkpoint, cache)
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
    """A table of means for each noise level, and one of the score of every volume."""
    names = list(dict.fromkeys(row["pipeline"] for row in rows))
    print("| noise | pipeline | score | TopoScore | SurfaceDice | VOI score | s |\n|---|---|---|---|---|---|---|")
    for noise in [*dict.fromkeys(row["noise"] for row in rows), "all"]:
        for name in names:
            chosen = [row for row in rows if row["pipeline"] == name and noise in (row["noise"], "all")]
            means = [np.mean([row[key] for row in chosen]) for key in ("score", "topo", "surface_dice", "voi")]
            seconds = np.median([row["seconds"] for row in chosen])
            print(f"| {noise} | {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + f" | {seconds:.2f} |")
    print("\n| volume | noise | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
    scores = {(row["style"], row["seed"], row["noise"], row["pipeline"]): row["score"] for row in rows}
    for style, seed, noise in dict.fromkeys(key[:3] for key in scores):
        line = " | ".join(f"{scores[style, seed, noise, name]:.3f}" for name in names)
        print(f"| {style} {seed} | {noise} | {line} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo/checkpoints", help="folder of a run, or a checkpoint")
    parser.add_argument("--set", choices=SETS, default="report")
    parser.add_argument("--edge", type=int, help="edge of the chunks in voxels")
    parser.add_argument(
        "--pipelines", nargs="+", default=["raw", "public", "first_place", "second_place", "sheet_repair"]
    )
    parser.add_argument("--cache", type=Path, default=Path("repair_cache"))
    parser.add_argument("--processes", type=int, default=1, help="volumes at once")
    parser.add_argument("--json", type=Path, help="write every row there")
    given = parser.parse_args()

    given.cache.mkdir(parents=True, exist_ok=True)
    checkpoint = find_checkpoints([given.checkpoint])[0]
    pipelines = {name: load_pipeline(name) for name in given.pipelines}
    cases = list_cases(given.set, given.edge)
    with ThreadPoolExecutor(given.processes) as pool:
        found = pool.map(lambda case: score_case(case, pipelines, checkpoint, given.cache), cases)
        rows = [row for part in found for row in part]
    print_tables(rows)
    print(f"\npeak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
