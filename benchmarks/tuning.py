"""What tuning is worth: leave one scroll out, on phantoms of five styles that the network never saw.

    python benchmarks/tuning.py --checkpoint demo/checkpoints --work /tmp/tuning             # the table
    python benchmarks/tuning.py --speed --work /tmp/tuning                                   # trials a second

For each scroll the pipeline is tuned on the other four and scored on it, beside the presets and beside the oracle, which is
tuned on that scroll itself. Each tuning also says, from its four scrolls, what it expects on a fifth. Interrupted and called
again, it goes on.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import vesuvius_kit as vk
from vesuvius_kit.console import show_progress
from vesuvius_kit.data.competition import Competition
from vesuvius_kit.models.checkpoint import find_checkpoints
from vesuvius_kit.phantom import STYLES
from vesuvius_kit.postprocess.pipeline import load_pipeline, run_pipeline
from vesuvius_kit.tuning.tune import PIPELINE_FILE

# None was in the training of the demo's network; each scroll has a scanner, and so a noise, of its own (grey values).
NOISES = {"ragged": 0, "faint": 6, "pressed": 12, "laminar": 18, "torn": 24}
CHUNKS = 3  # of each scroll
WINDOW, OVERLAP = 96, 0.25
PRESETS = ("public", "sheet_repair")


def make_scrolls(work, edge, checkpoint):
    """The competition folder of phantoms and, by scroll, a folder of probabilities."""
    data = vk.write_competition(
        work / "data", train=CHUNKS * len(NOISES), test=0, deprecated=0, shape=edge, seed=41, train_styles=tuple(NOISES)
    )
    (path,) = find_checkpoints([checkpoint]) if checkpoint else (None,)
    model = None if path is None else vk.load_model(path)
    names = {str(STYLES[name].scroll_id): name for name in NOISES}
    folders = {}
    for number, chunk in enumerate(Competition(data).train):
        name = names[chunk.scroll_id]
        folders[name] = work / "probabilities" / name
        folders[name].mkdir(parents=True, exist_ok=True)
        target = folders[name] / f"{chunk.id}.npy"
        if not target.exists():
            image = vk.read_volume(chunk.image_path).astype(np.float32)
            rng = np.random.default_rng([number, NOISES[name]])
            image += NOISES[name] * rng.standard_normal(image.shape, dtype=np.float32)
            image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
            np.save(target, vk.predict_volume(model, image, window=WINDOW, overlap=OVERLAP).astype(np.float16))
    return data, folders


def link_all_but(work, folders, scroll):
    """A folder of links to the probabilities of all scrolls but one; of that one alone when it is the only one named."""
    target = work / f"without_{scroll}"
    target.mkdir(exist_ok=True)
    for name, folder in folders.items():
        for path in folder.glob("*.npy") if name != scroll else ():
            if not (target / path.name).exists():
                (target / path.name).symlink_to(path.resolve())
    return target


def score_pipeline(pipeline, folder, labels):
    """The mean score of a pipeline on the volumes of a folder."""
    scores = []
    for path in sorted(folder.glob("*.npy")):
        mask = run_pipeline(np.load(path).astype(np.float32), pipeline)
        scores.append(vk.leaderboard_score(mask, labels[path.stem]).score)
    return float(np.mean(scores))


def compare(work, data, folders, trials):
    """A row for each scroll: presets, tuned on the others, tuned on itself, and what the tuning expected."""
    labels = {chunk.id: vk.read_volume(chunk.label_path) for chunk in Competition(data).train}
    rows = []
    for scroll, folder in folders.items():
        row = {"scroll": scroll}
        for preset in PRESETS:
            row[preset] = score_pipeline(load_pipeline(preset), folder, labels)
        others = link_all_but(work, folders, scroll)
        tuning = vk.tune(others, data, work / f"tuned_without_{scroll}", trials=trials, progress=show_progress)
        row["tuned"] = score_pipeline(load_pipeline(tuning.folder / PIPELINE_FILE), folder, labels)
        row["in sample"], row["estimate"] = tuning.score, tuning.estimate
        row["baselines"], row["pipeline"], row["cautions"] = tuning.baselines, tuning.pipeline, tuning.cautions
        oracle = vk.tune(folder, data, work / f"oracle_{scroll}", trials=trials, estimate=False, progress=show_progress)
        row["oracle"] = oracle.score
        rows.append(row)
        print_row(row)
    return rows


def print_row(row):
    """A line of the table."""
    own = row["estimate"]
    gain = row["tuned"] - row[own.baseline]
    inside = "inside" if own.low <= gain <= own.high else "outside"
    print(
        f"| {row['scroll']} | {row['public']:.3f} | {row['sheet_repair']:.3f} | {row['tuned']:.3f} ({row['pipeline']}) | "
        f"{row['oracle']:.3f} | {gain:+.3f} | {own.gain:+.3f} ({own.low:+.3f} to {own.high:+.3f}) {inside} |",
        flush=True,
    )


def print_table(rows):
    """The rows again, together, and what they say."""
    print(
        "\n| scroll | public | sheet_repair | tuned | oracle | gain | expected by nesting |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        print_row(row)
    better = np.array([max(row[preset] for preset in PRESETS) for row in rows])
    tuned = np.array([row["tuned"] for row in rows])
    oracle = np.array([row["oracle"] for row in rows])
    gain = tuned - better
    print(f"\ntuned over the better preset of each scroll: mean {gain.mean():+.3f}, least {gain.min():+.3f}")
    print(f"below the oracle by {np.mean(oracle - tuned):.3f}")


def measure_speed(work, edge, trials):
    """Trials a second with 12 volumes of simulated predictions, and where the time goes."""
    from simulated_networks import simulate_network

    data = vk.write_competition(work / f"speed_{edge}", train=12, test=0, deprecated=0, shape=edge, seed=3)
    folder = work / f"speed_probabilities_{edge}"
    folder.mkdir(exist_ok=True)
    for number, chunk in enumerate(Competition(data).train):
        target = folder / f"{chunk.id}.npy"
        if not target.exists():
            np.save(target, simulate_network(vk.read_volume(chunk.label_path), "broken", number).astype(np.float16))
    started = time.monotonic()
    tuning = vk.tune(folder, data, work / f"speed_tuning_{edge}", trials=trials, estimate=False, fresh=True)
    wall = time.monotonic() - started
    print(
        f"{edge}^3: {trials} trials x 12 volumes in {wall:.0f} s, {trials / wall:.2f} trials a second; {tuning.trials}"
    )
    print(json.dumps(tuning.seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--edge", type=int, default=128)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--speed", action="store_true")
    words = parser.parse_args()
    words.work.mkdir(parents=True, exist_ok=True)
    if words.speed:
        measure_speed(words.work, words.edge, words.trials)
    else:
        print_table(compare(words.work, *make_scrolls(words.work, words.edge, words.checkpoint), words.trials))
