"""What caused the plateau: training runs on phantoms, every combination of the three suspects, and the two configurations.

    python benchmarks/plateau/study.py [--folder dist/plateau_study] [--cells NAME ...] [--seeds 0 1 2]
    python benchmarks/plateau/report.py dist/plateau_study/results

The first trains what has no result yet, the second writes the table and the figures of what is there.

The three suspects of the plateau case, each with its cure, make eight cells: label 2 read as surface or ignored, variance
weight 0.5 or 0, the legacy handler or the bounded controller. All else in them is v5, at a constant base rate. Beside them
stand v5 and v6 with their own weights, schedules and controllers, under both readings. Network, patches, epochs and rates
are scaled down alike for all. The score is taken on held-out chunks against the full truth, which only a phantom has.

A run leaves one JSON line in ``{folder}/results``; what is there is not run again, a killed run goes on with its epoch.
"""

import argparse
import json
import logging
import math
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from handlers import LegacyHandler, read_foreground

from vesuvius_kit.config import RunConfig, config_to_dict, load_config
from vesuvius_kit.constants import UNLABELLED
from vesuvius_kit.data.competition import Competition
from vesuvius_kit.data.patches import PatchDataset
from vesuvius_kit.diagnosis.raise_veto import veto_raise
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.record import EpochRecord, read_records
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.losses import WeightedLoss
from vesuvius_kit.metrics import leaderboard_score
from vesuvius_kit.models.checkpoint import load_model
from vesuvius_kit.phantom import write_competition
from vesuvius_kit.training.epoch import LabelTransform
from vesuvius_kit.training.loop import Hooks, keep_labels, train

logger = logging.getLogger(__name__)

# The case read labels as `label > 0`.
READINGS = {"foreground": read_foreground, "ignored": keep_labels}
VARIANCES = (0.5, 0.0)
HANDLERS = ("legacy", "bounded")
CONFIGS = {"v5": "config_v5_variance_focused", "v6": "config_v6_fix_plateau"}
V6_RATE = 0.001
SEEDS = (0, 1, 2)
TRAIN_STYLES, TEST_STYLES = ("even", "dense", "wavy", "loose"), ("even", "faint")


@dataclass(frozen=True)
class Scale:
    """How far the case is scaled down, for all cells alike.

    Parameters
    ----------
    chunk, train_chunks : int
        Edge in voxels and number of the training chunks; the test chunks have the same edge.
    initial_filters, depth : int
        Of the case's network, 32 and 4 there; here it works at half the resolution.
    patch : int
        Edge of the patches, 128 there.
    epochs, steps : int
        Length of a run, and of an epoch.
    batch_size : int
        Of every cell.
    rate : float
        Base rate of the eight cells, v6 included; v5 has a tenth, as in the case.
    """

    chunk: int = 128
    train_chunks: int = 8
    initial_filters: int = 12
    depth: int = 2
    patch: int = 48
    epochs: int = 60
    steps: int = 8
    batch_size: int = 2
    rate: float = 0.002

    def overrides(self) -> dict:
        """Return the settings that every cell shares, by dotted key."""
        return {
            "n_folds": len(TRAIN_STYLES),
            "model.options": {"initial_filters": self.initial_filters, "depth": self.depth, "half_resolution": True},
            "patches.size": [self.patch] * 3,
            "patches.per_volume": 4,
            "patches.cache_volumes": self.train_chunks,
            "patches.augmentation": "symmetries",
            "train.num_epochs": self.epochs,
            "train.steps_per_epoch": self.steps,
            "train.batch_size": self.batch_size,
            "train.validation_patches": 8,
            "train.score_every_epochs": self.epochs,
            "train.validation_volumes": 1,
            "train.num_workers": 0,
            "train.early_stopping_patience": 0,
            # The case had no way back, and what it did is the question.
            "train.rollback_tolerance": 0,
            "train.rollback_rising_epochs": 0,
            "train.gradient_diagnostics_every_epochs": 0,
            "lr.warmup_epochs": min(2, self.epochs - 1),
            "predict.window": [self.patch] * 3,
            "predict.overlap": 0.25,
        }


class Cell(NamedTuple):
    """One combination of the suspects: a configuration with its changes, a reading of the labels, a handler."""

    config: str
    changes: dict[str, Any]
    label: str
    handler: str


def list_cells() -> dict[str, Cell]:
    """Return the cells of the study by their names."""
    cells = {}
    for label, variance, handler in product(READINGS, VARIANCES, HANDLERS):
        changes = {"loss.variance_weight": variance, "lr.schedule": "constant", "train.swa_start_epoch": 0}
        cells[f"{label}-variance{variance:g}-{handler}"] = Cell("v5", changes, label, handler)
    for label in READINGS:
        # The handler of the case did not hold its rate back while weights were averaged.
        cells[f"{label}-v5"] = Cell("v5", {"train.swa_learning_rate": None}, label, "legacy")
        cells[f"{label}-v6"] = Cell("v6", {}, label, "bounded")
    return cells


def configure(name: str, seed: int, folder: Path | str, scale: Scale) -> RunConfig:
    """Return the configuration of one run: a cell of `list_cells`, with the seed of weights, patches and the split."""
    cell = list_cells()[name]
    theirs = load_config(CONFIGS[cell.config]).train.learning_rate
    # The cells without averaging have no rate for it.
    rate = scale.rate if len(name.split("-")) == 3 else theirs * scale.rate / V6_RATE
    paths = {"data": str(Path(folder) / "data"), "output": str(run_folder(folder, name, seed)), "train.seed": seed}
    changes = {**scale.overrides(), "train.learning_rate": rate, **cell.changes, **paths}
    return load_config(CONFIGS[cell.config], changes)


def make_hooks(name: str) -> Hooks:
    """Return what a cell injects into the training: its reading of the labels, and its handler of the learning rate."""
    cell = list_cells()[name]
    label_transform = READINGS[cell.label]
    if cell.handler == "bounded":
        return Hooks(veto_raise, label_transform=label_transform)
    made: list[LegacyHandler] = []

    def make_legacy(config: RunConfig) -> LegacyHandler:
        settings = config_to_dict(config.lr)
        del settings["allow_raise"]
        made.append(LegacyHandler(config.train.learning_rate, n_epochs=config.train.num_epochs, **settings))
        return made[-1]

    def show_gradient(record: EpochRecord) -> None:
        made[-1].see_gradient(record.train["gradient_norm"])

    return Hooks(on_validated=show_gradient, make_controller=make_legacy, label_transform=label_transform)


def run_folder(folder: Path | str, name: str, seed: int) -> Path:
    return Path(folder) / "runs" / f"{name}_{seed}"


def result_path(folder: Path | str, name: str, seed: int) -> Path:
    return Path(folder) / "results" / f"{name}_{seed}.json"


def run_study(folder, cells=None, seeds=SEEDS, scale: Scale = Scale()) -> list[Path]:
    """Train and judge every run that has no result yet; the runs of a seed are done before those of the next.

    Parameters
    ----------
    folder : str or Path
        Made if missing.
    cells : sequence of str, optional
        Names of `list_cells`; by default all.
    seeds : sequence of int
        One run of each cell for each.
    scale : Scale
        The same whenever the study is gone on with.

    Returns
    -------
    list of pathlib.Path
        The results.
    """
    folder = Path(folder)
    (folder / "results").mkdir(parents=True, exist_ok=True)
    write_competition(
        folder / "data",
        train=scale.train_chunks,
        test=len(TEST_STYLES),
        shape=scale.chunk,
        train_styles=TRAIN_STYLES,
        test_styles=TEST_STYLES,
        deprecated=0,
        truth_folder=folder / "truth",
    )
    written = []
    for seed, name in product(seeds, list_cells() if cells is None else cells):
        path = result_path(folder, name, seed)
        written.append(path)
        if path.exists():
            continue
        started = time.monotonic()
        config = configure(name, seed, folder, scale)
        train(config, hooks=make_hooks(name))
        result = {
            "cell": name,
            "seed": seed,
            "base_rate": config.train.learning_rate,
            "curves": read_curves(Path(config.output) / "fold_0" / "log.jsonl"),
            "best_constant": find_best_constant(config, READINGS[list_cells()[name].label]),
            "held_out": judge(Path(config.output), folder, path.with_suffix(".npz"), scale),
            "seconds": round(time.monotonic() - started, 1),
        }
        with write_atomically(path) as stream:
            stream.write(json.dumps(round_numbers(result)) + "\n")
        print(f"{name} seed {seed}: {result['seconds']:.0f} s", flush=True)
    return written


def read_curves(log) -> dict:
    """Return what the report needs of a run's log: one list over the epochs for each figure.

    Parameters
    ----------
    log : pathlib.Path
        The ``log.jsonl`` of a run.

    Returns
    -------
    dict of str to list
        The rate, the number of interventions, the gradient's norm, and the figures of the validation.
    """
    epochs = read_records(log, strict=True)
    return {
        "rate": [epoch.rate for epoch in epochs],
        "interventions": [len(epoch.interventions) for epoch in epochs],
        "gradient_norm": [epoch.train["gradient_norm"] for epoch in epochs],
        **{name: [epoch.validation[name] for epoch in epochs] for name in epochs[0].validation},
    }


def find_best_constant(config: RunConfig, read_labels: LabelTransform) -> dict[str, float]:
    """Return the lowest validation loss that an output without any information can have: the same value everywhere.

    Parameters
    ----------
    config : RunConfig
        Of a run; its fold 0 and its loss count.
    read_labels : callable
        How the run reads labels.

    Returns
    -------
    dict
        ``output``, to a fiftieth, and ``loss``, comparable with the run's validation loss.
    """
    competition = Competition(config.data)
    _, chunks = competition.folds(config.n_folds, config.train.seed)[0]
    count = config.train.validation_patches
    # The patches on which the training takes its validation loss.
    patches = PatchDataset(
        chunks,
        samples_per_epoch=count,
        patches_per_volume=math.ceil(count / len(chunks)),
        patch_size=config.patches.size,
        surface_fraction=config.patches.surface_fraction,
        max_unlabelled_fraction=config.patches.max_unlabelled_fraction,
        seed=config.train.seed,
    )
    labels = read_labels(torch.stack([torch.as_tensor(patches[index]["label"]) for index in range(count)]))
    loss = WeightedLoss(
        config.loss.weights(),
        focal_gamma=config.loss.focal_gamma,
        focal_alpha=config.loss.focal_alpha,
        class_weights=config.loss.class_weights,
    )
    outputs = np.arange(1, 50) / 50
    # In float64, where no component of a constant is lost in rounding.
    logits = torch.zeros(labels[:, None].shape, dtype=torch.float64)
    losses = [float(loss(logits + math.log(output / (1 - output)), labels)[0]) for output in outputs]
    return {"output": float(outputs[np.argmin(losses)]), "loss": min(losses)}


def judge(run, folder, slices_path, scale: Scale) -> list[dict]:
    """Score the final weights of a run on the held-out chunks and keep a middle slice of each for the figure.

    Of v5 these are the averaged weights where they score better on the validation chunk.

    Each chunk is scored at the threshold 0.5, and at the one that gives the mask the share of voxels that the truth has: what
    the network knows, whatever the level of its output.

    Parameters
    ----------
    run : pathlib.Path
        Folder of the run.
    folder : pathlib.Path
        Of the study.
    slices_path : pathlib.Path
        Where the slices go.
    scale : Scale
        Of the study.

    Returns
    -------
    list of dict
        One for each chunk.
    """
    model = load_model(run / "fold_0" / "best")
    rows, slices = [], {}
    for truth_path in sorted((folder / "truth" / "test_surfaces").glob("*.tif")):
        image = read_volume(folder / "data" / "test_images" / truth_path.name)
        label = read_volume(folder / "truth" / "test_labels" / truth_path.name)
        truth = read_volume(truth_path)
        probability = predict_volume(model, image, window=scale.patch, overlap=0.25)
        labelled = probability[label != UNLABELLED]
        row = {
            "id": truth_path.stem,
            "truth_share": float(truth.mean()),
            "output_mean": float(probability.mean()),
            "output_std": float(probability.std()),
            # Unlabelled and labelled voxels: a network that learnt to mark label 2 tells them apart.
            "output_mean_labelled": float(labelled.mean()),
            "auc": area_under_curve(probability, truth),
        }
        matched = float(np.quantile(probability, 1 - truth.mean()))
        for name, threshold in (("half", 0.5), ("matched", matched)):
            row[name] = {"threshold": threshold, **score_mask(probability >= threshold, truth, label)}
        rows.append(row)
        middle = len(image) // 2
        slices[f"image_{row['id']}"] = image[middle]
        slices[f"truth_{row['id']}"] = truth[middle]
        slices[f"probability_{row['id']}"] = np.round(255 * probability[middle]).astype(np.uint8)
    with write_atomically(slices_path, "wb") as stream:
        np.savez_compressed(stream, **slices)
    return rows


def score_mask(mask, truth, label) -> dict:
    """Return the share of a mask, and its score and SurfaceDice against the full truth and against the label.

    Parameters
    ----------
    mask : numpy.ndarray
        bool (Z, Y, X).
    truth, label : numpy.ndarray
        uint8 of the same shape, 0 or 1, and 0, 1 or 2.

    Returns
    -------
    dict of str to float
    """
    figures = {"share": float(mask.mean())}
    for name, reference in (("truth", truth), ("label", label)):
        score = leaderboard_score(mask.astype(np.uint8), reference)
        figures |= {f"score_{name}": score.score, f"surface_dice_{name}": score.surface_dice}
    return figures


def score_chance(folder) -> dict:
    """Return what masks of random voxels reach, as the mean over the held-out chunks: the zero of every other figure.

    Parameters
    ----------
    folder : str or Path
        Of the study.

    Returns
    -------
    dict of str to dict
        ``half``: every other voxel; ``matched``: as many as the truth has.
    """
    rows = {"half": [], "matched": []}
    for truth_path in sorted((Path(folder) / "truth" / "test_surfaces").glob("*.tif")):
        truth = read_volume(truth_path)
        label = read_volume(Path(folder) / "truth" / "test_labels" / truth_path.name)
        noise = np.random.default_rng(0).random(truth.shape)
        for name, share in (("half", 0.5), ("matched", truth.mean())):
            rows[name].append(score_mask(noise < share, truth, label))
    return {
        name: {key: float(np.mean([figures[key] for figures in found])) for key in found[0]}
        for name, found in rows.items()
    }


def area_under_curve(probability, truth) -> float:
    """Return the chance that a surface voxel has a higher output than another one: 0.5 for an output that knows nothing.

    Parameters
    ----------
    probability : numpy.ndarray
        Any shape, in [0, 1].
    truth : numpy.ndarray
        Of the same shape, 0 or 1, both occurring.

    Returns
    -------
    float
        In [0, 1]; ties count half (Mann and Whitney, 1947).
    """
    surface, other = probability[truth == 1], np.sort(probability[truth == 0])
    below = np.searchsorted(other, surface, "left").astype(float) + np.searchsorted(other, surface, "right")
    return float(below.mean() / (2 * len(other)))


def round_numbers(value):
    """Four digits are enough for a figure and keep the file small."""
    if isinstance(value, dict):
        return {key: round_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [round_numbers(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments=None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="dist/plateau_study", help="data, runs and results")
    parser.add_argument("--cells", nargs="+", choices=list(list_cells()), default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    given = parser.parse_args(arguments)
    run_study(given.folder, given.cells, given.seeds)
    print("masks of random voxels reach", json.dumps(round_numbers(score_chance(given.folder))))


if __name__ == "__main__":
    main()
