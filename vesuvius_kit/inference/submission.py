"""From a folder of volumes to ``submission.zip``, against the clock and resumable at any kill.

The names of `archive` and `folders` that belong to the same work can be imported from here too.
"""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vesuvius_kit.checks import check_output_file, make_folder, make_scratch_folder
from vesuvius_kit.config import PostprocessConfig, PredictConfig, config_to_dict
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.archive import list_images, pack_submission, validate_submission
from vesuvius_kit.inference.budget import TimeBudget
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.inference.folders import postprocess_folder, predict_folder
from vesuvius_kit.inference.jobs import VolumeJob, make_results
from vesuvius_kit.inference.results import list_some, note_pipeline, open_results
from vesuvius_kit.io.folder_lock import lock_folder
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.postprocess import simple_mask
from vesuvius_kit.postprocess.pipeline import choose_pipeline, try_pipeline

__all__ = [
    "SubmissionSummary",
    "list_images",
    "pack_submission",
    "postprocess_folder",
    "predict_folder",
    "validate_submission",
    "write_submission",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmissionSummary:
    """What a submission holds."""

    zip_path: Path
    """The archive."""
    predicted: list[str]
    """Ids whose mask came from the network."""
    simple: list[str]
    """Ids whose mask came from the simple rule, because the time was over or the network failed."""
    seconds: float
    """Wall time of the call."""
    failed: list[str] = field(default_factory=list)
    """Those of ``simple`` for which the network's answer was not finite."""


def write_submission(
    zip_path: Path | str,
    images: Path | str,
    checkpoints: Iterable[Path | str],
    predict: PredictConfig,
    postprocess: PostprocessConfig,
    *,
    budget_seconds: float | None = None,
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress = no_progress,
) -> SubmissionSummary:
    """Predict, repair and pack every test volume into a validated ``submission.zip``.

    Masks are kept in the folder ``{zip name}_masks`` beside the archive, so that a killed run goes on. When the budget ends
    before the work, what is left gets `simple_mask`, so that the archive is complete; the next run goes on with the network.

    Parameters
    ----------
    zip_path
        Replaced in one move when it is complete.
    images
        Folder of ``{id}.tif``.
    checkpoints
        See `find_checkpoints`; several are averaged.
    budget_seconds
        Wall time from this call to the finished archive.
    workers
        Processes that share the volumes, dealt to the GPUs in turn; by default one for each visible GPU, or one. A single one
        is this process itself.
    fresh
        Drop the masks of an earlier run.

    Raises
    ------
    WorkerError
        A process failed, or all were killed; the masks that are done are kept.

    Examples
    --------
    >>> import tempfile, numpy as np, vesuvius_kit as vk
    >>> from vesuvius_kit.config import PostprocessConfig, PredictConfig
    >>> predict = PredictConfig(window=(16, 16, 16), device="cpu", precision="fp32")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vk.write_volume(f"{folder}/7.tif", np.arange(4096, dtype=np.uint16).reshape(16, 16, 16))
    ...     run = vk.save_checkpoint(f"{folder}/run", vk.create_model("unet3d", initial_filters=2, depth=1), {})
    ...     summary = vk.write_submission(f"{folder}/s.zip", folder, [run], predict, PostprocessConfig("raw"))
    ...     vk.validate_submission(summary.zip_path, folder)
    1
    >>> summary.predicted, summary.simple
    (['7'], [])
    """
    started = time.monotonic()
    zip_path = Path(zip_path)
    paths = list_images(images)
    ensemble = Ensemble(checkpoints, predict)
    pipeline = choose_pipeline(**config_to_dict(postprocess))
    make_folder(zip_path.parent)
    check_output_file("submission", zip_path)
    # A parameter that a step refuses is found here, and not after the first volume.
    try_pipeline(pipeline)
    masks = zip_path.with_name(f"{zip_path.stem}_masks")
    with lock_folder(masks):
        settings = {"predict": ensemble.settings, "postprocess": note_pipeline(pipeline)}
        open_results(masks, settings, fresh, ".tif", paths)
        job = VolumeJob(paths, ensemble, masks, pipeline)
        budget = TimeBudget([name for name in paths if not job.result_path(name).is_file()], budget_seconds, started)
        budget.calibrate(paths)
        failed = make_results(job, budget, workers, progress)
        _warn_of_simple_masks(budget, failed, len(paths), budget_seconds)
        with make_scratch_folder() as scratch:
            members = progress(_masks_of(paths, budget.left, masks, scratch), desc="zip", total=len(paths))
            pack_submission(zip_path, members)
        validate_submission(zip_path, images)
        predicted = [name for name in paths if name not in budget.left]
        return SubmissionSummary(zip_path, predicted, budget.left, time.monotonic() - started, list(failed))


def _warn_of_simple_masks(
    budget: TimeBudget, failed: Collection[str], n_volumes: int, budget_seconds: float | None
) -> None:
    """Say which volumes have no result of the network, and why."""
    late = [name for name in budget.left if name not in failed]
    if late:
        logger.warning(
            "the budget of %.0f s is over: %d of %d volumes get a simple mask; run again to predict them: %s",
            budget_seconds, len(late), n_volumes, list_some(late),
        )  # fmt: skip
    if failed:
        logger.warning(
            "the network failed: %d of %d volumes get a simple mask: %s", len(failed), n_volumes, list_some(failed)
        )


def _masks_of(
    paths: Mapping[str, Path], left: Collection[str], masks: Path, scratch: Path
) -> Iterator[tuple[str, Path]]:
    """Yield (name, mask file); the volumes that are left get a simple mask in ``scratch``."""
    for name, path in paths.items():
        mask_path = masks / f"{name}.tif"
        if name in left:
            mask_path = scratch / f"{name}.tif"
            write_volume(mask_path, simple_mask(read_volume(path)).astype(np.uint8))
        yield name, mask_path
