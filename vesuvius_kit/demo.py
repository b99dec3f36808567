"""The main job on a phantom: data, training, tuning, prediction, repair, ``submission.zip``, score, a picture and a page.

Seeds and styles are fixed before anything is trained. The trained network is measured against two masks that need no
training; their thresholds are chosen on the training volumes, and they get the same repair. The pipeline is tuned on the chunks
of the scroll that was held out of the training, and both, as it is and tuned, are scored on the test chunks.
"""

import json
import logging
import math
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

import vesuvius_kit
from vesuvius_kit.checks import make_folder, make_scratch_folder
from vesuvius_kit.config import PostprocessConfig, RunConfig, load_config
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.constants import SURFACE, UNLABELLED
from vesuvius_kit.data.competition import Chunk, Competition
from vesuvius_kit.inference.grid import window_starts
from vesuvius_kit.inference.out_of_fold import predict_out_of_fold
from vesuvius_kit.inference.precision import Precision, autocast, choose_precision
from vesuvius_kit.inference.predict import choose_device
from vesuvius_kit.inference.submission import write_submission
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.record import read_records
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.losses import WeightedLoss
from vesuvius_kit.metrics import leaderboard_score, surface_dice
from vesuvius_kit.models import create_model
from vesuvius_kit.phantom import STYLES, write_competition
from vesuvius_kit.postprocess import close_cylinder, remove_small_components
from vesuvius_kit.report import write_overview_page, write_report
from vesuvius_kit.tuning.result import PIPELINE_FILE
from vesuvius_kit.tuning.tune import tune

logger = logging.getLogger(__name__)

# With four scrolls and four folds, fold 0 holds one of them out to choose the best weights. The first test chunk is of a
# scroll that was trained on, the second of one that was not.
TRAIN_STYLES = ("even", "dense", "wavy", "loose")
TEST_STYLES = ("dense", "faint")
TRAIN_CHUNKS = 12
TRAIN_SHAPE = (160, 160, 160)
TEST_SHAPE = (320, 320, 320)
TINY_SHAPE = (64, 64, 64)

TRIALS = 80  # of the search for a pipeline

# Shares of the voxels taken, and scales of the Laplacian of Gaussian, among which the trivial masks choose.
SHARES = tuple(np.round(np.arange(0.05, 0.5, 0.05), 2))
SIGMAS = (1.0, 1.5, 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class DemoSummary:
    """What the demo made and how good it is."""

    folder: str
    """Where everything lies."""
    rows: list[dict[str, Any]]
    """One for each method and test chunk, with its scores; see `compare_with_trivial_masks`."""
    seconds: dict[str, float]
    """Wall time of each stage."""

    def to_text(self) -> str:
        """Return the table of scores and times, a line each."""
        lines = [
            f"{'method':<16}{'scroll':<9}{'dice@2 label':>14}{'dice@2 truth':>14}{'topo':>7}{'voi':>7}{'score':>7}"
        ]
        for row in self.rows:
            lines.append(
                f"{row['method']:<16}{row['scroll']:<9}{row['surface_dice']:>14.3f}{row['surface_dice_truth']:>14.3f}{row['toposcore']:>7.3f}{row['voi_score']:>7.3f}{row['score']:>7.3f}"
            )
        lines += ["", *(f"{stage:<16}{seconds:>8.1f} s" for stage, seconds in self.seconds.items())]
        return "\n".join([*lines, "", f"{self.folder}/submission.zip is valid; open {self.folder}/report.html"])


# What the demo does besides its network (phantoms, patches, kernels that are compiled, repair, scores, trivial masks), in units
# of `_time_filter`, as measured for docs/benchmarks.md.
_REST_IN_FILTERS = 30_000


@dataclass(frozen=True)
class Expectation:
    """How long the demo will take on this machine, from one timed training step."""

    precision: Precision
    """What the steps are computed in."""
    step_seconds: float
    """Of one training step."""
    steps: int
    """Training steps of the demo."""
    seconds: float
    """Of the whole demo."""

    def to_text(self) -> str:
        """Return the expectation in a line."""
        minutes = max(1, round(self.seconds / 60))
        return (
            f"this will take about {minutes} minute{'s' * (minutes > 1)} here: {self.steps} training steps of "
            f"{self.step_seconds:.2f} s in {self.precision.to_text()}, then prediction and comparison"
        )


def expect_duration(config: RunConfig, test_shape: Sequence[int] = TEST_SHAPE) -> Expectation:
    """Time one training step of the demo's network, and one filter for what the network has no part in.

    The expectation is that of a demo from its beginning; one that was interrupted has a part of it behind it.
    """
    device = choose_device(config.predict.device)
    precision = choose_precision(config.train.precision, device, training=True)
    step, forward = _time_step(config, device, precision.dtype)
    settings, window = config.train, config.predict.window
    steps = settings.num_epochs * settings.steps_per_epoch
    # The forward pass of a step counts voxel for voxel elsewhere: validation patches, scored and predicted volumes.
    patch = math.prod(config.patches.size)
    voxels: float = settings.num_epochs * settings.validation_patches * patch
    for count, shape in (
        (settings.num_epochs // settings.score_every_epochs * settings.validation_volumes, TRAIN_SHAPE),
        (TRAIN_CHUNKS // len(TRAIN_STYLES), TRAIN_SHAPE),  # the scroll that was held out, to tune on
        (2 * len(TEST_STYLES), test_shape),  # as the pipeline is, and tuned
    ):
        axes = zip(shape, window)
        windows = math.prod(len(window_starts(max(a, b), b, config.predict.overlap)) for a, b in axes)
        voxels += count * windows * math.prod(window)
    rest = _REST_IN_FILTERS * _time_filter() * math.prod(test_shape) / math.prod(TEST_SHAPE)
    seconds = steps * step + voxels * forward / (settings.batch_size * patch) + rest
    return Expectation(precision, step, steps, seconds)


def _time_step(config: RunConfig, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a training step, and of its forward pass, after one that is not counted."""
    model = create_model(config.model.name, normalisation=config.model.normalisation, **config.model.options).to(device)
    loss_function = WeightedLoss({"dice": 0.5, "cross_entropy": 0.5})
    generator = torch.Generator().manual_seed(0)
    shape = (config.train.batch_size, *config.patches.size)
    image = torch.randn(shape, generator=generator)[:, None].to(device)
    label = torch.randint(0, 3, shape, generator=generator).to(device)
    weight = next(model.parameters())
    for _ in range(2):
        started = time.perf_counter()
        with autocast(device, dtype):
            logits = model(image)
        total, _ = loss_function(logits, label)
        total.item()  # waits for a GPU
        between = time.perf_counter()
        total.backward()
        if weight.grad is not None:
            weight.grad.sum().item()  # waits again
        step, forward = time.perf_counter() - started, between - started
    return step, forward


def _time_filter() -> float:
    """Seconds of a Gaussian filter over 64^3 voxels, the shortest of three."""
    image = np.random.default_rng(0).random((64, 64, 64), np.float32)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        ndimage.gaussian_filter(image, 2.0)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def run_demo(
    folder: Path | str = "demo", *, seed: int = 0, tiny: bool = False, progress: Progress = no_progress
) -> DemoSummary:
    """Run the whole main job in a folder; interrupted and called again, it goes on.

    A folder that holds something else, or the demo of another seed, is refused.

    Parameters
    ----------
    folder
        Made if missing. It will hold ``data``, ``truth``, ``checkpoints``, ``tuning``, ``submission.zip``,
        ``tuned/submission.zip``, ``summary.json``, ``report.png`` and ``report.html``.
    seed
        Of the phantom and the training.
    tiny
        Small chunks and a few steps: shows that everything runs, not that it learns.
    progress
        Wraps everything that takes time.
    """
    folder = make_folder(folder)
    config = _configure(folder, seed, tiny)
    clock = _Stages(folder / "seconds.json")
    logger.info(expect_duration(config, test_shape=TINY_SHAPE if tiny else TEST_SHAPE).to_text())

    with clock.stage("data"):
        write_competition(
            config.data,
            train=len(TRAIN_STYLES) if tiny else TRAIN_CHUNKS,
            test=len(TEST_STYLES),
            shape=TINY_SHAPE if tiny else TRAIN_SHAPE,
            test_shape=TINY_SHAPE if tiny else TEST_SHAPE,
            seed=seed,
            train_styles=TRAIN_STYLES,
            test_styles=TEST_STYLES,
            truth_folder=folder / "truth",
            progress=progress,
        )
    with clock.stage("training"):
        vesuvius_kit.train(config, progress=progress)
    with clock.stage("tuning"):
        tuned = _tune(folder, config, tiny, progress)
    with clock.stage("submission"):
        submissions = {
            method: write_submission(
                make_folder(place) / "submission.zip",
                Path(config.data) / "test_images",
                [folder / "checkpoints"],
                config.predict,
                postprocess,
                progress=progress,
            ).zip_path
            for method, place, postprocess in (
                ("network", folder, config.postprocess),
                ("network, tuned", folder / "tuned", tuned),
            )
        }
    with clock.stage("comparison"):
        rows = compare_with_trivial_masks(config, folder / "truth", submissions, progress=progress)
    summary = DemoSummary(str(folder), rows, clock.seconds)
    with write_atomically(folder / "summary.json") as stream:
        json.dump(asdict(summary), stream, indent=1)
    _draw(folder, config, submissions["network"], summary)
    with clock.stage("page"):
        write_report(folder / "report.html", folder, progress=progress)
    return summary


def _tune(folder: Path, config: RunConfig, tiny: bool, progress: Progress) -> PostprocessConfig:
    """The pipeline that is best on the scroll that was held out of the training."""
    predictions = predict_out_of_fold(
        config.data, [folder / "checkpoints"], folder / "out_of_fold", config.predict, progress=progress
    )
    tuning = tune(
        predictions,
        config.data,
        folder / "tuning",
        trials=2 if tiny else TRIALS,
        processes=1 if tiny else None,
        progress=progress,
    )
    return PostprocessConfig(str((tuning.folder / PIPELINE_FILE).resolve()))


def compare_with_trivial_masks(
    config: RunConfig,
    truth_folder: Path | str,
    submissions: Mapping[str, Path | str],
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """Score submissions, by what they are called, and two masks that need no training on every test chunk of a run's data.

    The trivial masks are the brightest voxels and the strongest ridges (negative Laplacian of Gaussian). The share of
    voxels they take, and the scale of the ridges, are those with the best mean SurfaceDice on the training volumes. They
    get a closing of one voxel and lose components below 100 voxels.

    ``truth_folder`` is what `write_competition` kept of the test chunks. Each row has ``method``, ``scroll``, ``id``, the four
    scores against the label, and ``surface_dice_truth`` against the full truth.
    """
    competition = Competition(config.data)
    trivial = choose_trivial_masks(competition.train, progress=progress)
    rows = []
    for style, chunk in progress(_by_style(competition.test).items(), desc="score"):
        image = read_volume(chunk.image_path)
        label = read_volume(Path(truth_folder) / "test_labels" / f"{chunk.id}.tif")
        surface = read_volume(Path(truth_folder) / "test_surfaces" / f"{chunk.id}.tif")
        masks = {method: _read_mask(zip_path, chunk.id) for method, zip_path in submissions.items()}
        for method, (sigma, share) in trivial.items():
            masks[method] = _tidy(_brightest(_ridges(image, sigma), share))
        for method, mask in masks.items():
            result = leaderboard_score(mask, label)
            row = {name: getattr(result, name) for name in ("score", "surface_dice", "toposcore", "voi_score")}
            row["surface_dice_truth"] = surface_dice(mask, surface)
            rows.append({"method": method, "scroll": style, "id": chunk.id, **row})
    return rows


def choose_trivial_masks(chunks: Sequence[Chunk], progress: Progress = no_progress) -> dict[str, tuple[float, float]]:
    """Choose the scale and the share of voxels of the two masks that need no training, on every third training chunk.

    Return ``{"brightest": (0.0, share), "ridges": (sigma, share)}``, each the best in mean SurfaceDice.
    """
    candidates = [(sigma, share) for sigma in (0.0, *SIGMAS) for share in SHARES]
    dice = dict.fromkeys(candidates, 0.0)
    for chunk in progress(chunks[::3], desc="trivial masks"):
        image, label = read_volume(chunk.image_path), read_volume(chunk.require_label())
        for sigma in (0.0, *SIGMAS):
            ridges = _ridges(image, sigma)
            for share in SHARES:
                mask = _tidy(_brightest(ridges, share))
                dice[sigma, share] += surface_dice(mask & (label != UNLABELLED), label == SURFACE)
    return {
        "brightest": max((key for key in candidates if key[0] == 0), key=lambda key: dice[key]),
        "ridges": max((key for key in candidates if key[0] > 0), key=lambda key: dice[key]),
    }


def _ridges(image: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    """The negative Laplacian of Gaussian; at scale 0 the grey value itself."""
    image = image.astype(np.float32)
    return image if sigma == 0 else -ndimage.gaussian_laplace(image, sigma)


def _brightest(values: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    return values > np.quantile(values[::2, ::2, ::2], 1 - share)


def _tidy(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return remove_small_components(close_cylinder(mask, z_radius=1, xy_radius=1), min_size=100)


def _read_mask(zip_path: Path | str, chunk_id: str) -> NDArray[np.bool_]:
    with make_scratch_folder() as scratch, zipfile.ZipFile(zip_path) as archive:
        return read_volume(archive.extract(f"{chunk_id}.tif", scratch)) > 0


def _by_style(chunks: Iterable[Chunk]) -> dict[str, Chunk]:
    """One chunk of each phantom scroll by the scroll's name, test styles first."""
    names = {str(style.scroll_id): name for name, style in STYLES.items()}
    found = {names[chunk.scroll_id]: chunk for chunk in chunks}
    return {name: found[name] for name in (*TEST_STYLES, *TRAIN_STYLES) if name in found}


def _configure(folder: Path, seed: int, tiny: bool) -> RunConfig:
    settings: dict[str, Any] = {
        "data": str(folder / "data"),
        "output": str(folder / "checkpoints"),
        "n_folds": len(TRAIN_STYLES),
        "train.seed": seed,
    }
    if tiny:
        settings |= {"train.num_epochs": 2, "train.steps_per_epoch": 2, "train.score_every_epochs": 2}
        settings |= {"train.validation_patches": 2, "patches.size": [32, 32, 32], "predict.window": [32, 32, 32]}
    return load_config("cpu_demo", settings)


def _draw(folder: Path, config: RunConfig, zip_path: Path, summary: DemoSummary) -> None:
    """The page of the first test chunk."""
    style = TEST_STYLES[0]
    chunk = _by_style(Competition(config.data).test)[style]
    truth = folder / "truth"
    write_overview_page(
        folder / "report.png",
        read_volume(chunk.image_path),
        _read_mask(zip_path, chunk.id),
        read_volume(truth / "test_surfaces" / f"{chunk.id}.tif") > 0,
        read_volume(truth / "test_labels" / f"{chunk.id}.tif"),
        read_records(folder / "checkpoints" / f"fold_{config.fold_list[0]}", strict=True),
        f"vesuvius_kit demo: test chunk {chunk.id} of the phantom scroll '{style}'",
        summary.to_text().splitlines()[:-2],
    )


class _Stages:
    """Wall time of each stage, kept on disk so that an interrupted demo adds up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        logger.info("%s ...", name)
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)
            with write_atomically(self._path) as stream:
                json.dump(self.seconds, stream)
