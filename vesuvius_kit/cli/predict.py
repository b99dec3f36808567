"""``vesuvius-kit predict``."""

from collections.abc import Sequence

from vesuvius_kit.cli.prediction import report_worker_error
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.console import show_progress


def predict(
    images: str,
    predict: PredictConfig,
    *,
    checkpoints: Sequence[str] = ("checkpoints",),
    config: str | None = None,
    output: str = "probabilities",
    workers: int | None = None,
    fresh: bool = False,
) -> int:
    """Write the surface probabilities of every volume in a folder.

    Parameters
    ----------
    images
        folder of {id}.tif
    checkpoints
        checkpoints, folds, runs or nnU-Net's folders; averaged
    config
        take the settings from here instead of the checkpoints
    output
        folder for {id}.npy, float16
    workers
        processes that share the volumes; by default one for each GPU
    fresh
        make again what is there
    """
    from vesuvius_kit.inference.submission import predict_folder
    from vesuvius_kit.inference.workers import WorkerError

    try:
        predict_folder(images, checkpoints, output, predict, workers=workers, fresh=fresh, progress=show_progress)
    except WorkerError as error:
        return report_worker_error(error, fresh)
    print(output)
    return 0
