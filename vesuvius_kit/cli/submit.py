"""``vesuvius-kit submit``."""

from collections.abc import Sequence
from pathlib import Path

from vesuvius_kit.checks import InputValueError, check_duration
from vesuvius_kit.config import PostprocessConfig, PredictConfig
from vesuvius_kit.console import show_progress


def submit(
    predict: PredictConfig,
    postprocess: PostprocessConfig,
    *,
    data: str | None = None,
    images: str | None = None,
    checkpoints: Sequence[str] = ("checkpoints",),
    config: str | None = None,
    tuned: str | None = None,
    output: str = "submission.zip",
    budget: str | None = None,
    plan: bool = False,
    plan_file: str | None = None,
    workers: int | None = None,
    fresh: bool = False,
) -> int:
    """Predict, repair and pack every test volume into a validated submission.zip, within a time budget.

    Parameters
    ----------
    data
        competition folder; its test_images are predicted
    images
        folder of {id}.tif, instead of --data
    checkpoints
        checkpoints, folds, runs or nnU-Net's folders; averaged; when time is short, the heaviest or first is kept longest
    config
        take the settings from here instead of the checkpoints
    tuned
        what tune found, its folder: lies above those settings and below the command line
    output
        the archive
    budget
        wall time such as 8h30m; each volume gets the largest plan that fits, what cannot be reached a simple mask
    plan
        print the plans and what each would take, before the work, and what was done, after it
    plan_file
        YAML list of the plans, largest first, instead of the kit's own
    workers
        processes that share the volumes; by default one for each GPU
    fresh
        make again what is there
    """
    folder = images if data is None else Path(data) / "test_images"
    if folder is None or None not in (data, images):
        raise InputValueError("submit must be given either --data or --images, got both or neither")
    from vesuvius_kit.inference.submission import write_submission

    summary = write_submission(
        output,
        folder,
        checkpoints,
        predict,
        postprocess,
        budget_seconds=None if budget is None else check_duration("--budget", budget),
        plan=plan_file,
        show_plan=print if plan else None,
        workers=workers,
        fresh=fresh,
        progress=show_progress,
    )
    failed = f" ({len(summary.failed)} of them because the network failed)" if summary.failed else ""
    reduced = f" ({len(summary.reduced)} with less than was asked for)" if summary.reduced else ""
    print(
        f"{summary.zip_path}: {len(summary.predicted)} predicted{reduced}, {len(summary.simple)} simple{failed}, valid"
    )
    return 0
