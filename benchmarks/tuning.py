"""What tuning is worth: leave one scroll out, on phantoms of five styles that the network never saw.

    python benchmarks/tuning.py --checkpoint demo/checkpoints --work /tmp/tuning             # the table
    python benchmarks/tuning.py --speed --edge 128 --trials 300 --work /tmp/tuning           # trials a second

The pipeline is tuned on all five, and once more for each without it, which is scored on it: beside the presets and beside the
oracle, which is tuned on that scroll itself. What this expects on unknown scrolls is compared with the gain on two more,
of styles that nobody developed on. Interrupted and called again, it goes on.
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
from vesuvius_kit.phantom.styles import REPORT_STYLES
from vesuvius_kit.postprocess.pipeline import load_pipeline, run_pipeline
from vesuvius_kit.tuning.space import load_space

# None was in the training of the demo's network; each has a scanner of its own.
SCROLLS = ("ragged", "faint", "pressed", "laminar", "torn")
UNKNOWN = REPORT_STYLES
CHUNKS = 3  # of each scroll
WINDOW, OVERLAP = 96, 0.25
PRESETS = ("public", "sheet_repair")


def make_scrolls(work, edge, checkpoint):
    """The competition folder of phantoms and, by scroll, a folder of probabilities."""
    styles = (*SCROLLS, *UNKNOWN)
    data = vk.write_competition(
        work / "data", train=CHUNKS * len(styles), test=0, deprecated=0, shape=edge, seed=41, train_styles=styles
    )
    (path,) = find_checkpoints([checkpoint]) if checkpoint else (None,)
    model = None if path is None else vk.load_model(path)
    names = {str(STYLES[name].scroll_id): name for name in styles}
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


def score_volumes(pipeline, folder, labels):
    """The scores of a pipeline on the volumes of a folder."""
    return [
        vk.leaderboard_score(run_pipeline(np.load(path).astype(np.float32), pipeline), labels[path.stem]).score
        for path in sorted(folder.glob("*.npy"))
    ]


def compare(work, data, folders, trials):
    """Print a row for each scroll, and what the tuning expected and found on scrolls that it did not know."""
    labels = {chunk.id: vk.read_volume(chunk.label_path) for chunk in Competition(data).train}
    together = work / "together"
    together.mkdir(exist_ok=True)
    for path in [path for scroll in SCROLLS for path in folders[scroll].glob("*.npy")]:
        if not (together / path.name).exists():
            (together / path.name).symlink_to(path.resolve())
    tuning = vk.tune(together, data, work / "tuned", trials=trials, progress=show_progress)
    print(tuning.to_text())
    own = tuning.estimate
    print("\n| scroll | public | sheet_repair | tuned on the others | oracle | gain over the better preset |")
    print("|---|---|---|---|---|---|")
    gains, below = [], []
    for scroll in SCROLLS:
        presets = [float(np.mean(score_volumes(load_pipeline(name), folders[scroll], labels))) for name in PRESETS]
        tuned = own.scrolls[str(STYLES[scroll].scroll_id)].tuned
        oracle = vk.tune(
            folders[scroll], data, work / f"oracle_{scroll}", trials=trials, estimate=False, progress=show_progress
        ).score
        gains.append(tuned - max(presets))
        below.append(oracle - tuned)
        values = " | ".join(f"{value:.3f}" for value in (*presets, tuned, oracle))
        print(f"| {scroll} | {values} | {gains[-1]:+.3f} |", flush=True)
    print(f"gain: mean {np.mean(gains):+.3f}, least {min(gains):+.3f}; below the oracle by {np.mean(below):.3f}")
    print(f"expected over {own.baseline}: {own.gain:+.3f} ({own.low:+.3f} to {own.high:+.3f})")
    steps = load_space().candidate(tuning.settings, ["together"]).steps
    found = [
        np.mean(score_volumes(steps, folders[scroll], labels))
        - np.mean(score_volumes(load_pipeline(own.baseline), folders[scroll], labels))
        for scroll in UNKNOWN
    ]
    inside = "inside" if own.low <= np.mean(found) <= own.high else "outside"
    said = ", ".join(f"{scroll} {gain:+.3f}" for scroll, gain in zip(UNKNOWN, found))
    print(f"measured on unknown scrolls: {np.mean(found):+.3f}, {inside} ({said})")


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
        compare(words.work, *make_scrolls(words.work, words.edge, words.checkpoint), words.trials)
