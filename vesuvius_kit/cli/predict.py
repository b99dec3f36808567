"""``vesuvius-kit predict``."""

from collections.abc import Mapping, Sequence
from typing import Any

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.cli.prediction import report_worker_error, settings_of_training
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.console import show_progress


def predict(
    predict: PredictConfig,
    *,
    images: str | None = None,
    out_of_fold: bool = False,
    data: str | None = None,
    checkpoints: Sequence[str] = ("checkpoints",),
    config: str | None = None,
    tuned: str | None = None,
    output: str | None = None,
    workers: int | None = None,
    fresh: bool = False,
) -> int:
    """Write the surface probabilities of every volume in a folder, or of training volumes by networks that did not see them.

    Parameters
    ----------
    images
        folder of {id}.tif
    out_of_fold
        instead of --images: each training volume of --data, by the networks that were not trained on its scroll
    data
        competition folder, for --out-of-fold
    checkpoints
        checkpoints, folds, runs or nnU-Net's folders; averaged, out of fold each entry by itself
    config
        take the settings from here instead of the checkpoints
    tuned
        what tune found, its folder: lies above those settings and below the command line
    output
        folder for {id}.npy, float16; by default probabilities, or out_of_fold
    workers
        processes that share the volumes; by default one for each GPU
    fresh
        make again what is there
    """
    from vesuvius_kit.inference.out_of_fold import predict_out_of_fold
    from vesuvius_kit.inference.submission import predict_folder
    from vesuvius_kit.inference.workers import WorkerError

    place = _find_volumes(images, data, out_of_fold)
    output = output or ("out_of_fold" if out_of_fold else "probabilities")
    work = predict_out_of_fold if out_of_fold else predict_folder
    try:
        work(place, checkpoints, output, predict, workers=workers, fresh=fresh, progress=show_progress)
    except WorkerError as error:
        return report_worker_error(error, fresh)
    print(output)
    return 0


def settings_of_prediction(options: Mapping[str, Any]) -> dict[str, Any]:
    """As `settings_of_training`, after a look at the options: weights take longer to read."""
    _find_volumes(options["images"], options["data"], options["out_of_fold"])
    return settings_of_training(options)


def _find_volumes(images: str | None, data: str | None, out_of_fold: bool) -> str:
    """The folder of images, or that of the competition."""
    place, other = (data, images) if out_of_fold else (images, data)
    if place is None or other is not None:
        given = [name for name, value in (("--images", images), ("--data", data)) if value is not None]
        given += ["--out-of-fold"] * out_of_fold
        raise InputValueError(
            f"--images must be given, or --out-of-fold with --data, got {' and '.join(given) or 'neither'}"
        )
    return place
