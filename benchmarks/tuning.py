"""What tuning is worth: leave one scroll out, on phantoms of five styles that the network never saw.

    python benchmarks/tuning.py --checkpoint demo/checkpoints --work /tmp/tuning             # the table
    python benchmarks/tuning.py --speed --work /tmp/tuning                                   # trials a second

For each scroll the pipeline is tuned on the other four and scored on it, beside the presets and beside the oracle, which is
tuned on that scroll itself. Each tuning also says, from its four scrolls, what it expects on a fifth. Interrupted and called
again, it goes on.
"""

import argparse
import itertools
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
from vesuvius_kit.tuning.estimate import estimate_gain
from vesuvius_kit.tuning.result import PIPELINE_FILE

# None was in the training of the demo's network; each has a scanner of its own.
SCROLLS = ("ragged", "faint", "pressed", "laminar", "torn")
CHUNKS = 3  # of each scroll
WINDOW, OVERLAP = 96, 0.25
PRESETS = ("public", "sheet_repair")


def make_scrolls(work, edge, checkpoint):
    """The competition folder of phantoms and, by scroll, a folder of probabilities."""
    data = vk.write_competition(
        work / "data", train=CHUNKS * len(SCROLLS), test=0, deprecated=0, shape=edge, seed=41, train_styles=SCROLLS
    )
    (path,) = find_checkpoints([checkpoint]) if checkpoint else (None,)
    model = None if path is None else vk.load_model(path)
    names = {str(STYLES[name].scroll_id): name for name in SCROLLS}
    folders = {}
    for chunk in Competition(data).train:
        name = names[chunk.scroll_id]
        folders[name] = work / "probabilities" / name
        folders[name].mkdir(parents=True, exist_ok=True)
        target = folders[name] / f"{chunk.id}.npy"
        if not target.exists():
            image = vk.read_volume(chunk.image_path)
            np.save(target, vk.predict_volume(model, image, window=WINDOW, overlap=OVERLAP).astype(np.float16))
    return data, folders


def link_all_but(work, folders, *scrolls):
    """A folder of links to the probabilities of all scrolls but some."""
    target = work / "_".join(["without", *sorted(scrolls)])
    target.mkdir(exist_ok=True)
    for name, folder in folders.items():
        for path in folder.glob("*.npy") if name not in scrolls else ():
            if not (target / path.name).exists():
                (target / path.name).symlink_to(path.resolve())
    return target


def score_volumes(pipeline, folder, labels):
    """The scores of a pipeline on the volumes of a folder."""
    return [
        vk.leaderboard_score(run_pipeline(np.load(path).astype(np.float32), pipeline), labels[path.stem]).score
        for path in sorted(folder.glob("*.npy"))
    ]


def compare(work, data, folders, trials):
    """A row for each scroll: presets, tuned on the others, tuned on itself, and what the tuning expected.

    What `vk.tune` searches for its estimate, without one more scroll, serves both scrolls of a pair: it is searched once.
    """
    labels = {chunk.id: vk.read_volume(chunk.label_path) for chunk in Competition(data).train}
    presets = {
        preset: {scroll: score_volumes(load_pipeline(preset), folder, labels) for scroll, folder in folders.items()}
        for preset in PRESETS
    }

    def search(predictions, name):
        return vk.tune(predictions, data, work / name, trials=trials, estimate=False, progress=show_progress)

    pairs = {
        frozenset(pair): search(link_all_but(work, folders, *pair), f"tuned_without_{'_'.join(pair)}")
        for pair in itertools.combinations(sorted(folders), 2)
    }
    rows = []
    for scroll, folder in folders.items():
        others = [other for other in folders if other != scroll]
        means = {preset: np.mean([v for other in others for v in presets[preset][other]]) for preset in PRESETS}
        reference = max(means, key=means.get)
        left_out = {}
        for other in others:
            found = load_pipeline(pairs[frozenset((scroll, other))].folder / PIPELINE_FILE)
            left_out[other] = list(zip(presets[reference][other], score_volumes(found, folders[other], labels)))
        expected = estimate_gain(reference, left_out)
        tuning = search(link_all_but(work, folders, scroll), f"tuned_without_{scroll}")
        row = {preset: float(np.mean(presets[preset][scroll])) for preset in PRESETS}
        row |= {"scroll": scroll, "expected": expected, "pipeline": tuning.pipeline}
        row["found"] = float(np.mean(score_volumes(load_pipeline(tuning.folder / PIPELINE_FILE), folder, labels)))
        # As `vk.tune` does: what gains nothing on unknown scrolls is not written.
        row["tuned"] = row["found"] if expected.gain > 0 else row[reference]
        row["oracle"] = search(folder, f"oracle_{scroll}").score
        rows.append(row)
        print_row(row)
    return rows


def print_row(row):
    """A line of the table."""
    own = row["expected"]
    gain = row["found"] - row[own.baseline]
    inside = "inside" if own.low <= gain <= own.high else "outside"
    print(
        f"| {row['scroll']} | {row['public']:.3f} | {row['sheet_repair']:.3f} | {row['found']:.3f} ({row['pipeline']}) | "
        f"{row['tuned']:.3f} | {row['oracle']:.3f} | {gain:+.3f} | {own.gain:+.3f} ({own.low:+.3f} to {own.high:+.3f}), "
        f"{inside} |",
        flush=True,
    )


def print_table(rows):
    """The rows again, together, and what they say."""
    print("\n| scroll | public | sheet_repair | found | written | oracle | gain of what was found | expected of it |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print_row(row)
    better = np.array([max(row[preset] for preset in PRESETS) for row in rows])
    oracle = np.array([row["oracle"] for row in rows])
    for what in ("found", "tuned"):
        gain = np.array([row[what] for row in rows]) - better
        print(
            f"{'written' if what == 'tuned' else what} over the better preset of each scroll: mean {gain.mean():+.3f}, "
            f"least {gain.min():+.3f}; below the oracle by {np.mean(oracle - better - gain):.3f}"
        )


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
