"""From a folder of volumes to probabilities, masks and ``submission.zip``, against the clock and resumable at any kill.

Each volume's result is a file that appears whole or not at all, so a run that was killed goes on with the first volume that
has none. The settings and the weights' digests lie beside the results: results of two settings never mix. Several GPUs share
the volumes out among one process each; the masks, and so the archive, are those of a single process.
"""

import copy
import hashlib
import json
import logging
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vesuvius_kit.archive import list_images, pack_submission, validate_submission
from vesuvius_kit.budget import TimeBudget
from vesuvius_kit.checkpoint import find_checkpoints, load_checkpoint, load_model
from vesuvius_kit.checks import InputValueError, check_integer
from vesuvius_kit.config import PostprocessConfig, PredictConfig, changed_settings, config_to_dict
from vesuvius_kit.console import no_progress
from vesuvius_kit.inference import OutOfTimeError, choose_device, choose_dtype, predict_ensemble
from vesuvius_kit.postprocess import make_mask, simple_mask
from vesuvius_kit.postprocess.files import RepairJob, list_probabilities, note_changes
from vesuvius_kit.postprocess.pipeline import choose_pipeline
from vesuvius_kit.volume import read_volume, write_atomically, write_volume
from vesuvius_kit.workers import run_in_processes

__all__ = [
    "SubmissionSummary",
    "list_images",
    "postprocess_folder",
    "predict_folder",
    "validate_submission",
    "write_submission",
]

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class SubmissionSummary:
    """What a submission holds.

    Parameters
    ----------
    zip_path : pathlib.Path
        The archive.
    predicted, simple : list of str
        Ids whose mask came from the network, and from the simple rule because the time was over.
    seconds : float
        Wall time of the call.
    """

    zip_path: Path
    predicted: list
    simple: list
    seconds: float


def predict_folder(
    images, checkpoints, output, predict: PredictConfig, *, workers=None, fresh=False, progress=no_progress
) -> list[Path]:
    """Predict every volume of a folder and write its probabilities as ``{id}.npy``, float16 of the image's shape.

    Parameters
    ----------
    images : str or Path
        Folder of ``{id}.tif``.
    checkpoints : sequence of str or Path
        See `find_checkpoints`; several are averaged.
    output : str or Path
        Made if missing. Files that are there already are kept when the settings are the same.
    predict : PredictConfig
        Window, overlap, views; a window of zeros means the patch size of the training.
    workers : int, optional
        Processes that share the volumes, dealt to the GPUs in turn; by default one for each visible GPU, or one. A single one
        is this process itself.
    fresh : bool
        Predict again what is there.
    progress : callable
        Wraps volumes and windows, in tqdm's calling form.

    Returns
    -------
    list of pathlib.Path
        One file for each volume.

    Raises
    ------
    InputError
        Missing or unreadable input, results of other settings in ``output``.
    WorkerError
        A process failed, or all were killed; what is done is kept.
    """
    paths = list_images(images)
    ensemble = _Ensemble(checkpoints, predict)
    output = _open_results(output, {"predict": ensemble.settings}, fresh, "*.npy")
    job = _Job(paths, ensemble, output)
    waiting = [name for name in paths if not job.result_path(name).exists()]
    _predict_volumes(job, waiting, TimeBudget(paths, waiting, time.monotonic(), None), workers, progress)
    return [job.result_path(name) for name in paths]


def postprocess_folder(
    probabilities,
    output,
    postprocess: PostprocessConfig,
    *,
    report=None,
    processes=1,
    fresh=False,
    progress=no_progress,
) -> list[Path]:
    """Turn every volume of probabilities in a folder into a mask ``{id}.tif``, uint8 in {0, 1}.

    Parameters
    ----------
    probabilities : str or Path
        Folder of ``{id}.npy``, as `predict_folder` wrote it, ``{id}.npz`` or ``{id}.tif``; see `load_probability`.
    output : str or Path
        Made if missing. Files that are there already are kept when the settings are the same.
    postprocess : PostprocessConfig
        See `choose_pipeline`.
    report : str or Path, optional
        JSON file: what every step changed in every volume that was repaired; volumes of an earlier call are kept in it.
    processes : int
        Volumes repaired at once.
    fresh : bool
        Make again what is there.
    progress : callable
        Wraps the volumes, in tqdm's calling form.

    Returns
    -------
    list of pathlib.Path
        One file for each volume.

    Raises
    ------
    InputError
        Missing or unreadable input, an unknown pipeline, results of other settings in ``output``.
    """
    sources = list_probabilities(probabilities)
    check_integer("processes", processes, minimum=1)
    pipeline = choose_pipeline(**config_to_dict(postprocess))
    output = _open_results(output, {"postprocess": _note_pipeline(postprocess)}, fresh, "*.tif")
    waiting = {str(path): name for name, path in sources.items() if not (output / f"{name}.tif").exists()}
    job = RepairJob(output, pipeline, report is not None)
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


def write_submission(
    zip_path,
    images,
    checkpoints,
    predict: PredictConfig,
    postprocess: PostprocessConfig,
    *,
    budget_seconds=None,
    workers=None,
    fresh=False,
    progress=no_progress,
) -> SubmissionSummary:
    """Predict, repair and pack every test volume into a validated ``submission.zip``.

    Masks are kept in the folder ``{zip name}_masks`` beside the archive, so that a killed run goes on. When the budget ends
    before the work, what is left gets `simple_mask`, so that the archive is complete; the next run goes on with the network.

    Parameters
    ----------
    zip_path : str or Path
        The archive; replaced in one move when it is complete.
    images : str or Path
        Folder of ``{id}.tif``.
    checkpoints : sequence of str or Path
        See `find_checkpoints`; several are averaged.
    predict : PredictConfig
        Window, overlap, views.
    postprocess : PostprocessConfig
        See `make_mask`.
    budget_seconds : float, optional
        Wall time from this call to the finished archive.
    workers : int, optional
        Processes that share the volumes, dealt to the GPUs in turn; by default one for each visible GPU, or one. A single one
        is this process itself.
    fresh : bool
        Drop the masks of an earlier run.
    progress : callable
        Wraps volumes and windows, in tqdm's calling form.

    Returns
    -------
    SubmissionSummary

    Raises
    ------
    InputError
        Missing or unreadable input, masks of other settings, an archive that does not validate.
    WorkerError
        A process failed, or all were killed; the masks that are done are kept.
    """
    started = time.monotonic()
    zip_path = Path(zip_path)
    paths = list_images(images)
    ensemble = _Ensemble(checkpoints, predict)
    settings = {"predict": ensemble.settings, "postprocess": _note_pipeline(postprocess)}
    masks = _open_results(zip_path.with_name(f"{zip_path.stem}_masks"), settings, fresh, "*.tif")
    job = _Job(paths, ensemble, masks, postprocess)
    waiting = [name for name in paths if not job.result_path(name).exists()]
    left = _predict_volumes(job, waiting, TimeBudget(paths, waiting, started, budget_seconds), workers, progress)
    if left:
        logger.warning(
            "the budget of %.0f s is over: %d of %d volumes get a simple mask; run again to predict them: %s",
            budget_seconds, len(left), len(paths), ", ".join(left[:10]) + (" ..." if len(left) > 10 else ""),
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        members = progress(_masks_of(paths, left, masks, Path(scratch)), desc="zip", total=len(paths))
        pack_submission(zip_path, members)
    validate_submission(zip_path, images)
    predicted = [name for name in paths if name not in left]
    return SubmissionSummary(zip_path, predicted, left, time.monotonic() - started)


def _masks_of(paths, left, masks, scratch):
    """Yield (name, mask file); the volumes that are left get a simple mask in ``scratch``."""
    for name, path in paths.items():
        mask_path = masks / f"{name}.tif"
        if name in left:
            mask_path = scratch / f"{name}.tif"
            write_volume(mask_path, simple_mask(read_volume(path)).astype(np.uint8))
        yield name, mask_path


def _predict_volumes(job, waiting, budget, workers, progress):
    """Make the results of the volumes that wait, here or in processes, and return those the time did not suffice for."""
    gpus = torch.cuda.device_count()
    wanted = job.ensemble.predict_settings.device
    if workers is None:
        workers = max(1, gpus) if wanted == "auto" else 1
    check_integer("workers", workers, minimum=1)
    left = list(waiting)
    if min(workers, len(waiting)) <= 1:
        done = _work_here(job, waiting, left, budget, progress)
    else:
        devices = [f"cuda:{number % gpus}" if gpus and wanted == "auto" else wanted for number in range(workers)]
        done = run_in_processes(
            [replace(job, ensemble=job.ensemble.on(device)) for device in devices],
            waiting,
            threads=max(1, torch.get_num_threads() // workers),
            seconds_for=lambda name: budget.seconds_for(name, left),
            seconds_left=lambda: budget.seconds_left(left),
        )
    with closing(done):
        for name, rate in progress(done, desc="volumes", total=len(waiting)):
            if rate is None:
                budget.close()
            else:
                budget.note_mask_rate(rate)
                left.remove(name)
    return left


def _work_here(job, waiting, left, budget, progress):
    """As `run_in_processes`, in this process, with the next volume being read while the network works on one."""
    for name, volume in _read_ahead(job.paths, waiting):
        seconds = budget.seconds_for(name, left)
        if seconds is not None and seconds <= 0:
            return
        yield name, job.run(name, volume, seconds, progress)


@dataclass(frozen=True)
class _Job:
    """Volume to result file: a mask where there are settings for one, else the probabilities. Goes to a process as it is."""

    paths: dict
    ensemble: "_Ensemble"
    folder: Path
    postprocess: PostprocessConfig | None = None

    def result_path(self, name):
        return self.folder / (f"{name}.npy" if self.postprocess is None else f"{name}.tif")

    def __call__(self, name, seconds):
        return self.run(name, read_volume(self.paths[name]), seconds)

    def run(self, name, volume, seconds, progress=no_progress):
        """Write one result; the seconds a voxel took from probability to disk, or None when the time was over before."""
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            probability = self.ensemble.predict(volume, deadline, progress)
        except OutOfTimeError:
            return None
        before = time.monotonic()
        if self.postprocess is None:
            with write_atomically(self.result_path(name), "wb") as stream:
                np.save(stream, probability.astype(np.float16))
        else:
            write_volume(self.result_path(name), _to_mask(probability, self.postprocess))
        return (time.monotonic() - before) / volume.size


class _Ensemble:
    """The networks of some checkpoints with the settings they predict under; loaded when first used."""

    def __init__(self, checkpoints, predict):
        self.paths = find_checkpoints(checkpoints)
        self.predict_settings = predict
        trained = load_checkpoint(self.paths[0]).state["config"]["patches"]["size"]
        self.window = tuple(predict.window if all(predict.window) else trained)
        digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in self.paths]
        # Device, precision and batch size are left out: another machine may go on with the work.
        self.settings = {
            "weights": digests,
            "window": list(self.window),
            "overlap": predict.overlap,
            "views": predict.views,
        }
        self._threads = torch.get_num_threads()
        self._models = None

    def on(self, device):
        """The same ensemble for another device, its networks not loaded."""
        other = copy.copy(self)
        other.predict_settings = replace(self.predict_settings, device=device)
        other._models = None
        return other

    def predict(self, volume, deadline=None, progress=no_progress):
        settings = self.predict_settings
        if self._models is None:
            self._models = [load_model(path) for path in self.paths]
        device = choose_device(settings.device)
        # A processor sums in another order with another number of threads, so every process takes the caller's; and starting
        # numba's threads, as the repair of the volume before may have done, resets the number.
        torch.set_num_threads(self._threads)
        return predict_ensemble(
            self._models,
            volume,
            window=self.window,
            overlap=settings.overlap,
            batch_size=settings.batch_size,
            views=settings.views,
            device=device,
            dtype=choose_dtype(settings.precision, device),
            deadline=deadline,
            progress=progress,
        )


def _read_ahead(paths, names):
    """Yield (name, volume) with the next volume being read while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = [reader.submit(read_volume, paths[name]) for name in names[:1]]
        for index, name in enumerate(names):
            volume = coming.pop().result()
            coming += [reader.submit(read_volume, paths[following]) for following in names[index + 1 : index + 2]]
            yield name, volume


def _open_results(folder, settings, fresh, pattern):
    """Make a folder of results, or open one and check that its results were made under the same settings."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    noted = folder / SETTINGS_FILE
    if fresh:
        for result in folder.glob(pattern):
            result.unlink()
    elif noted.exists():
        changes = changed_settings(json.loads(noted.read_text(encoding="utf-8")), settings)
        if changes and any(folder.glob(pattern)):
            raise InputValueError(
                f"settings must equal those of the results in {folder} (or give --fresh), got {'; '.join(changes)}"
            )
    with write_atomically(noted) as stream:
        json.dump(settings, stream, indent=1)
    return folder


def _note_pipeline(postprocess):
    """What is noted of a repair: its settings and, when they stand in a file or a preset, its steps too."""
    noted = config_to_dict(postprocess)
    if postprocess.pipeline == "public":
        return noted
    return {"pipeline": [{step.name: step.parameters} for step in choose_pipeline(**noted)]}


def _to_mask(probability, postprocess):
    return make_mask(probability, **config_to_dict(postprocess)).astype(np.uint8)
