"""``vesuvius-kit tune``."""

from collections.abc import Sequence

from vesuvius_kit.cli.prediction import report_worker_error
from vesuvius_kit.console import show_progress
from vesuvius_kit.constants import TUNING_TRIALS


def tune(
    data: str,
    *,
    predictions: Sequence[str] = ("out_of_fold",),
    output: str = "tuning",
    space: str | None = None,
    trials: int = TUNING_TRIALS,
    volumes_per_scroll: int | None = None,
    skip_estimate: bool = False,
    processes: int | None = None,
    seed: int = 0,
    fresh: bool = False,
) -> int:
    """Tune thresholds, repair and ensemble weights on held-out predictions, for the true score.

    Parameters
    ----------
    data
        competition folder, for labels and scrolls
    predictions
        folders that predict --out-of-fold wrote, or of probabilities {id}.npy, .npz or .tif
    output
        folder for pipeline.yaml, tuned.yaml and tuning.json; a search that is there goes on
    space
        YAML file of what may be chosen; by default the kit's
    trials
        of each search
    volumes_per_scroll
        score on no more than so many; by default on all
    skip_estimate
        do not search again without each scroll, which tells what the gain is on unknown ones
    processes
        by default one for each core
    seed
        of proposals and bootstrap
    fresh
        begin again instead of going on
    """
    from vesuvius_kit.inference.workers import WorkerError
    from vesuvius_kit.tuning.tune import tune as search

    try:
        tuning = search(
            predictions,
            data,
            output,
            space=space,
            trials=trials,
            volumes_per_scroll=volumes_per_scroll,
            estimate=not skip_estimate,
            processes=processes,
            seed=seed,
            fresh=fresh,
            progress=show_progress,
        )
    except WorkerError as error:
        return report_worker_error(error, fresh)
    print(tuning.to_text())
    return 0
