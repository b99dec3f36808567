"""A run that plans itself: ten phantoms with networks that are slow on purpose, and what each plan is worth.

    python benchmarks/planning.py                    # train two networks, run with one and two processes, score every plan
    python benchmarks/planning.py --budgets 45 90    # seconds; by default half of the whole plan's, with two processes a third

Each forward pass sleeps (``--pause``), so that time must be shed; the score of a plan does not depend on that, and is taken
without. Printed are the plans as ``submit --plan`` prints them, the share of the budget that was used, which plans the volumes
got, the score of the submission, and beside it the scores of all volumes under each single plan.
"""

import argparse
import json
import os
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

import vesuvius_kit as vk
from vesuvius_kit.config import PostprocessConfig, PredictConfig
from vesuvius_kit.inference.averaging import ProbabilityMean
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.inference.ladder import Rung, make_ladder
from vesuvius_kit.models.normalisation import grey_statistics
from vesuvius_kit.models.registry import register_model
from vesuvius_kit.models.unet3d import UNet3D
from vesuvius_kit.postprocess.pipeline import choose_pipeline, try_pipeline

EDGE, WINDOW = 80, 40
STYLES = ("even", "dense", "wavy", "loose", "faint")
N_VOLUMES = 10
PAUSE = "VESUVIUS_KIT_PAUSE"
PREDICT = PredictConfig(window=(WINDOW,) * 3, tta="mirror", precision="fp32", device="cpu")
POSTPROCESS = PostprocessConfig()


@register_model("slow_unet3d")
class SlowUNet3D(UNet3D):
    """The plain U-Net, which sleeps before each forward pass. A spawned process imports this script, and so knows it."""

    def __init__(self, initial_filters: int = 6, depth: int = 2) -> None:
        super().__init__(initial_filters, depth, half_resolution=True)

    def compute_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of a checked `image`, later."""
        time.sleep(float(os.environ.get(PAUSE, "0")))
        return super().compute_logits(image)


def make_volumes(folder: Path) -> dict[str, np.ndarray]:
    """Write the test images, and return the labels by id."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    labels = {}
    for number in range(N_VOLUMES):
        phantom = vk.make_phantom((EDGE,) * 3, 7000 + number, style=STYLES[number % len(STYLES)])
        vk.write_volume(folder / "images" / f"{number}.tif", phantom.image)
        labels[str(number)] = phantom.label
    return labels


def train_networks(folder: Path, steps: int) -> Path:
    """Train two networks from other beginnings on other phantoms, a minute or two in all; those that are there are kept."""
    for fold in range(2):
        if (folder / "run" / f"fold_{fold}").exists():
            continue
        torch.manual_seed(fold)
        rng = np.random.default_rng(fold)
        phantoms = [vk.make_phantom((EDGE,) * 3, 100 + 10 * fold + k, style=style) for k, style in enumerate(STYLES)]
        model = vk.create_model("slow_unet3d")
        images = [model.record.normalisation.apply(one.image, *grey_statistics(one.image)) for one in phantoms]
        loss_function = vk.WeightedLoss({"dice": 0.5, "cross_entropy": 0.5})
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            chosen = rng.integers(len(phantoms), size=2)
            blocks = [tuple(slice(at, at + WINDOW) for at in rng.integers(EDGE - WINDOW + 1, size=3)) for _ in chosen]
            image = np.stack([images[k][block] for k, block in zip(chosen, blocks)])[:, None]
            label = np.stack([phantoms[k].label[block] for k, block in zip(chosen, blocks)])
            total, _ = loss_function(model(torch.from_numpy(image)), torch.from_numpy(label.astype(np.int64)))
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()
            schedule.step()
        vk.save_checkpoint(folder / "run" / f"fold_{fold}" / "best", model, {})
    return folder / "run"


def score_plans(folder: Path, run: Path, ladder: list[Rung], labels: dict[str, np.ndarray]) -> list[float]:
    """The mean score of the volumes under each plan; what plans have in common is predicted once."""
    ensemble, pipeline = Ensemble([run], PREDICT), choose_pipeline(POSTPROCESS.pipeline, POSTPROCESS.steps)
    scores = np.zeros((len(ladder), len(labels)))
    for column, (name, label) in enumerate(labels.items()):
        volume, known = vk.read_volume(folder / "images" / f"{name}.tif"), {}
        for row, rung in enumerate(ladder):
            mean = ProbabilityMean()
            for member in rung.members:
                key = (member, rung.overlap)
                if key not in known:
                    known[key] = ensemble.answer(name, volume, Rung((member,), rung.overlap)).probability
                mean.add(known[key])
            mask = vk.simple_mask(volume) if rung.is_ridge else vk.run_pipeline(mean.mean(), pipeline)
            scores[row, column] = vk.leaderboard_score(mask, label).score
    return list(scores.mean(axis=1))


def score_masks(zip_path: Path, labels: dict[str, np.ndarray]) -> float:
    """The mean score of a submission's masks."""
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(zip_path) as archive:
        masks = {name: vk.read_volume(archive.extract(f"{name}.tif", scratch)) > 0 for name in labels}
    return float(np.mean([vk.leaderboard_score(masks[name], label).score for name, label in labels.items()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("planning"))
    parser.add_argument("--pause", type=float, default=0.015, help="seconds that each forward pass sleeps")
    parser.add_argument("--budgets", type=float, nargs="+", help="seconds")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=150, help="of training, each network")
    parser.add_argument("--no-scores", action="store_true", help="leave the scores of the single plans out")
    options = parser.parse_args()
    labels = make_volumes(options.folder)
    run = train_networks(options.folder, options.steps)
    # A budget of seconds has no room for compiling the kernels, which takes half a minute once on a machine.
    try_pipeline(choose_pipeline(POSTPROCESS.pipeline, POSTPROCESS.steps))
    vk.simple_mask(np.zeros((EDGE,) * 3, np.uint8))
    ensemble = Ensemble([run], PREDICT)
    ladder = make_ladder(len(ensemble.paths), PREDICT.tta, PREDICT.overlap, ensemble.count_views)
    windows = sum(
        ensemble.count_windows((EDGE,) * 3, number, ladder[0].overlap) * ensemble.count_views(number, tta)
        for number, tta in ladder[0].members
    )
    os.environ[PAUSE] = str(options.pause)
    rate = ensemble.time_windows()[0]
    whole = N_VOLUMES * windows * rate
    print(
        f"the whole plan: {N_VOLUMES} volumes of {windows} forward passes of {rate:.3f} s, {whole:.0f} s in one process"
    )
    results = []
    for processes in options.processes:
        for budget in options.budgets or [whole / (1 + processes)]:
            path = options.folder / f"{processes}_{budget:.0f}.zip"
            started = time.monotonic()
            summary = vk.write_submission(
                path, options.folder / "images", [run], PREDICT, POSTPROCESS,
                budget_seconds=budget, workers=processes, fresh=True, show_plan=print,
            )  # fmt: skip
            used = time.monotonic() - started
            entries = json.loads((path.with_name(f"{path.stem}_masks") / "run.json").read_text())["volumes"].values()
            # A volume that was not reached has no times.
            times = [entry["seconds"] for entry in entries if "seconds" in entry]
            outside = sum(sum(stages.values()) - stages.get("network", 0.0) for stages in times)
            results.append(
                (
                    processes,
                    budget,
                    used,
                    Counter(entry.get("plan", "none") for entry in entries),
                    outside,
                    summary,
                    path,
                )
            )
    os.environ[PAUSE] = "0"
    print("\nprocesses  budget    used   share  decoding and repair  volumes by plan")
    for processes, budget, used, plans, outside, summary, path in results:
        chosen = ", ".join(f"{count} x plan {plan}" for plan, count in sorted(plans.items(), key=str))
        score = score_masks(path, labels)
        print(
            f"{processes:>9}  {budget:>5.0f} s  {used:>5.1f} s  {used / budget:>5.1%}  {outside:>17.1f} s  {chosen}; "
            f"{len(summary.simple)} without a network; score {score:.4f}"
        )
    if not options.no_scores:
        print("\nplan  forward passes  score  what")
        for number, (rung, score) in enumerate(zip(ladder, score_plans(options.folder, run, ladder, labels))):
            passes = sum(
                ensemble.count_windows((EDGE,) * 3, member, rung.overlap) * ensemble.count_views(member, tta)
                for member, tta in rung.members
            )
            print(f"{number:>4}  {passes:>14}  {score:.4f}  {rung.to_text()}")


if __name__ == "__main__":
    main()
