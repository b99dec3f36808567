"""A folder of volumes to probabilities, and a folder of probabilities to masks; a call that was killed goes on."""

from collections.abc import Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from vesuvius_kit.checks import check_integer, check_output_file
from vesuvius_kit.config import PostprocessConfig, PredictConfig, config_to_dict
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.archive import list_images
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.inference.jobs import VolumeJob, VolumeReport, count_processes, make_results
from vesuvius_kit.inference.predict import NotFiniteError
from vesuvius_kit.inference.results import is_whole, note_pipeline, open_results
from vesuvius_kit.inference.schedule import Schedule
from vesuvius_kit.inference.workers import run_in_processes
from vesuvius_kit.io.folder_lock import lock_folder
from vesuvius_kit.io.volume import volume_shape_and_dtype
from vesuvius_kit.postprocess.files import RepairJob, list_probabilities, note_changes
from vesuvius_kit.postprocess.pipeline import choose_pipeline


def predict_folder(
    images: Path | str,
    checkpoints: Iterable[Path | str],
    output: Path | str,
    predict: PredictConfig,
    *,
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress = no_progress,
) -> list[Path]:
    """Predict every volume of a folder, and return the files of probabilities ``{id}.npy``, float16 of the image's shape.

    What is done is kept, whatever ends the call.

    Parameters
    ----------
    images
        Folder of ``{id}.tif``.
    checkpoints
        See `find_weights`; several are averaged, the same weights twice are refused.
    output
        Folder, made if missing. Files that are there already are kept when they were made under the same settings, and
        refused else.
    predict
        A window of zeros means the patch size of the training.
    workers
        Processes that share the volumes, dealt to the GPUs in turn; by default one for each visible GPU, or one. A single one
        is this process itself.
    fresh
        Predict again what is there.

    Raises
    ------
    NotFiniteError
        The answer of a network is not finite; the message names volume and weights.
    WorkerError
        A process failed, or all were killed.

    Examples
    --------
    >>> import tempfile, numpy as np, vesuvius_kit as vk
    >>> from vesuvius_kit.config import PredictConfig
    >>> predict = PredictConfig(window=(16, 16, 16), device="cpu", precision="fp32")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vk.write_volume(f"{folder}/7.tif", np.arange(4096, dtype=np.uint16).reshape(16, 16, 16))
    ...     run = vk.save_checkpoint(f"{folder}/run", vk.create_model("unet3d", initial_filters=2, depth=1), {})
    ...     (path,) = vk.predict_folder(folder, [run], f"{folder}/probabilities", predict)
    ...     probability = vk.load_probability(path)
    >>> path.name, probability.shape
    ('7.npy', (16, 16, 16))
    """
    paths = list_images(images)
    ensemble = Ensemble(checkpoints, predict)
    ensemble.log_mean()
    with lock_folder(output):
        job = VolumeJob(paths, ensemble, open_results(output, {"predict": ensemble.settings}, fresh, ".npy", paths))
        predict_missing(job, workers, progress)
        return [job.result_path(name) for name in paths]


def predict_missing(job: VolumeJob, workers: int | None, progress: Progress) -> None:
    """Write the probabilities of the volumes of a job that have none which can be used, in their order.

    Parameters
    ----------
    job
        Without a pipeline; its folder was opened by `open_results`.
    workers
        As in `predict_folder`, and so is what is raised.
    """
    ensemble, paths = job.ensemble, job.paths
    waiting = [name for name in paths if not is_whole(job.result_path(name))]
    schedule = Schedule(
        [ensemble.whole],
        {name: volume_shape_and_dtype(paths[name])[0] for name in waiting},
        waiting,
        ensemble.count_windows,
        ensemble.count_views,
        n_processes=count_processes(ensemble.predict_settings.device, workers, len(waiting)),
    )

    def refuse_nothing(name: str, report: VolumeReport) -> None:
        if report.made == "nothing":
            raise NotFiniteError(f"{paths[name]} has no result: {'; '.join(report.causes)}")

    make_results(job, schedule, workers, progress, on_result=refuse_nothing)


def postprocess_folder(
    probabilities: Path | str,
    output: Path | str,
    postprocess: PostprocessConfig,
    *,
    report: Path | str | None = None,
    processes: int = 1,
    fresh: bool = False,
    progress: Progress = no_progress,
) -> list[Path]:
    """Turn every volume of probabilities in a folder into a mask, and return the files ``{id}.tif``, uint8 in {0, 1}.

    Parameters
    ----------
    probabilities
        Folder of ``{id}.npy``, as `predict_folder` wrote it, ``{id}.npz`` or ``{id}.tif``; see `load_probability`.
    output
        Folder, made if missing. Files that are there already are kept when they were made under the same settings, and
        refused else.
    report
        JSON file: what every step changed in every volume that was repaired; volumes of an earlier call are kept in it.
    processes
        Volumes repaired at once.
    fresh
        Make again what is there.

    Examples
    --------
    >>> import tempfile, numpy as np, vesuvius_kit as vk
    >>> from vesuvius_kit.config import PostprocessConfig
    >>> probability = np.zeros((16, 16, 16), np.float16)
    >>> probability[:, 7:10] = 0.9
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/7.npy", probability)
    ...     (path,) = vk.postprocess_folder(folder, f"{folder}/masks", PostprocessConfig("raw"))
    ...     mask = vk.read_volume(path)
    >>> path.name, int(mask.sum())
    ('7.tif', 768)
    """
    sources = list_probabilities(probabilities)
    check_integer("processes", processes, minimum=1)
    if report is not None:
        check_output_file("report", report)
    pipeline = choose_pipeline(**config_to_dict(postprocess))
    with lock_folder(output):
        output = open_results(output, {"postprocess": note_pipeline(pipeline)}, fresh, ".tif", sources)
        waiting = {str(path): name for name, path in sources.items() if not (output / f"{name}.tif").exists()}
        job = RepairJob(output, pipeline, report is not None)
        done: Generator[tuple[str, list[dict[str, Any]]], None, None]
        if min(processes, len(waiting)) < 2:
            done = ((path, job(path)) for path in waiting)
        else:
            threads = max(1, torch.get_num_threads() // processes)
            done = run_in_processes([job] * processes, list(waiting), threads=threads)
        with closing(done):
            for path, changes in progress(done, desc="volumes", total=len(waiting)):
                if report is not None:
                    note_changes(report, waiting[path], changes)
        return [output / f"{name}.tif" for name in sources]
