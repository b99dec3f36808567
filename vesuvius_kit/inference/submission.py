"""From a folder of volumes to probabilities, masks and ``submission.zip``, against the clock and resumable at any kill.

Each volume's result is a file that appears whole or not at all, so a run that was killed goes on with the first volume that
has none. The settings, the weights' digests and those of the files that went in lie beside the results: results of two
settings never mix, and none passes for that of another file of the same name. Several GPUs share the volumes out among one
process each; the masks, and so the archive, are those of a single process.
"""

import copy
import hashlib
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from vesuvius_kit.checks import (
    InputNotFoundError,
    InputValueError,
    check_integer,
    check_output_file,
    make_folder,
    make_scratch_folder,
    name_os_errors,
)
from vesuvius_kit.config import PostprocessConfig, PredictConfig, changed_settings, config_to_dict
from vesuvius_kit.console import no_progress
from vesuvius_kit.inference.archive import list_images, pack_submission, validate_submission
from vesuvius_kit.inference.budget import TimeBudget
from vesuvius_kit.inference.precision import Precision, choose_precision
from vesuvius_kit.inference.predict import NotFiniteError, OutOfTimeError, choose_device, predict_ensemble
from vesuvius_kit.inference.workers import run_in_processes
from vesuvius_kit.io.folder_lock import lock_folder
from vesuvius_kit.io.volume import read_volume, write_atomically, write_volume
from vesuvius_kit.models.checkpoint import (
    find_checkpoints,
    load_model,
    read_checkpoint_header,
    read_digest,
    read_weights_digest,
)
from vesuvius_kit.postprocess import make_mask, simple_mask
from vesuvius_kit.postprocess.files import RepairJob, list_probabilities, load_probability, note_changes
from vesuvius_kit.postprocess.pipeline import choose_pipeline, try_pipeline

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
# Bytes of a file, evenly spread, that tell it from another one.
_SAMPLED_BLOCKS, _BLOCK = 32, 4096


@dataclass(frozen=True)
class SubmissionSummary:
    """What a submission holds.

    Parameters
    ----------
    zip_path : pathlib.Path
        The archive.
    predicted, simple : list of str
        Ids whose mask came from the network, and from the simple rule because the time was over or the network failed.
    seconds : float
        Wall time of the call.
    failed : list of str
        Those of ``simple`` for which the network's answer was not finite.
    """

    zip_path: Path
    predicted: list
    simple: list
    seconds: float
    failed: list = field(default_factory=list)


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
        Window, overlap, tta; a window of zeros means the patch size of the training.
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
        Missing or unreadable input, results of other settings in ``output``, the same weights twice.
    NotFiniteError
        The answer of a network is not finite; the message names volume and weights. What is done is kept.
    WorkerError
        A process failed, or all were killed; what is done is kept.
    """
    paths = list_images(images)
    ensemble = _Ensemble(checkpoints, predict)
    with lock_folder(output):
        output = _open_results(output, {"predict": ensemble.settings}, fresh, ".npy", paths)
        job = _Job(paths, ensemble, output)
        waiting = [name for name in paths if not _is_whole(job.result_path(name))]
        _, failed = _predict_volumes(
            job, waiting, TimeBudget(paths, waiting, time.monotonic(), None), workers, progress
        )
        if failed:
            name, reason = next(iter(failed.items()))
            raise NotFiniteError(f"{paths[name]} has no result: {reason}")
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
    if report is not None:
        check_output_file("report", report)
    pipeline = choose_pipeline(**config_to_dict(postprocess))
    with lock_folder(output):
        output = _open_results(output, {"postprocess": _note_pipeline(postprocess)}, fresh, ".tif", sources)
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
        Window, overlap, tta.
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
    make_folder(zip_path.parent)
    check_output_file("submission", zip_path)
    # A parameter that a step refuses is found here, and not after the first volume.
    try_pipeline(choose_pipeline(**config_to_dict(postprocess)))
    masks = zip_path.with_name(f"{zip_path.stem}_masks")
    with lock_folder(masks):
        _open_results(masks, settings, fresh, ".tif", paths)
        job = _Job(paths, ensemble, masks, postprocess)
        waiting = [name for name in paths if not job.result_path(name).is_file()]
        budget = TimeBudget(paths, waiting, started, budget_seconds)
        left, failed = _predict_volumes(job, waiting, budget, workers, progress)
        late = [name for name in left if name not in failed]
        if late:
            logger.warning(
                "the budget of %.0f s is over: %d of %d volumes get a simple mask; run again to predict them: %s",
                budget_seconds, len(late), len(paths), _list_some(late),
            )  # fmt: skip
        if failed:
            logger.warning(
                "the network failed: %d of %d volumes get a simple mask: %s",
                len(failed),
                len(paths),
                _list_some(failed),
            )
        with make_scratch_folder() as scratch:
            members = progress(_masks_of(paths, left, masks, scratch), desc="zip", total=len(paths))
            pack_submission(zip_path, members)
        validate_submission(zip_path, images)
        predicted = [name for name in paths if name not in left]
        return SubmissionSummary(zip_path, predicted, left, time.monotonic() - started, list(failed))


def _list_some(names):
    names = list(names)
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")


def _masks_of(paths, left, masks, scratch):
    """Yield (name, mask file); the volumes that are left get a simple mask in ``scratch``."""
    for name, path in paths.items():
        mask_path = masks / f"{name}.tif"
        if name in left:
            mask_path = scratch / f"{name}.tif"
            write_volume(mask_path, simple_mask(read_volume(path)).astype(np.uint8))
        yield name, mask_path


def _predict_volumes(job, waiting, budget, workers, progress):
    """Make the results of the volumes that wait, here or in processes.

    Returns the ids that have none, for want of time or because the answer of a network was not finite, and of the latter by id
    what was wrong. Where nothing but the network can make a result, the first such answer ends the work.
    """
    if waiting:
        job = replace(job, ensemble=job.ensemble.at(_settle_precision(job.folder, job.ensemble.predict_settings)))
    gpus = torch.cuda.device_count()
    wanted = job.ensemble.predict_settings.device
    if workers is None:
        workers = max(1, gpus) if wanted == "auto" else 1
    check_integer("workers", workers, minimum=1)
    left, failed = list(waiting), {}
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
        for name, outcome in progress(done, desc="volumes", total=len(waiting)):
            if outcome is None:
                budget.close()
            elif isinstance(outcome, str):
                logger.warning("%s: %s", name, outcome)
                failed[name] = outcome
                if job.postprocess is None:
                    break
            else:
                budget.note_mask_rate(outcome)
                left.remove(name)
    return left, failed


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
        """Write one result.

        Returns the seconds a voxel took from probability to disk, None when the time was over before, or, in words, that the
        answer of a network was not finite: then nothing is written, so that the volume counts as not done.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        if volume.min() == volume.max():
            logger.warning("volume %s is %g everywhere: nothing can be seen in it", name, volume.min())
        try:
            probability = self.ensemble.predict(name, volume, deadline, progress)
        except OutOfTimeError:
            return None
        except NotFiniteError as error:
            return str(error)
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
        # In an order of their own, so that it does not matter in which they were given.
        digests = sorted((read_digest(path), path) for path in find_checkpoints(checkpoints))
        self.paths = [path for _, path in digests]
        self.digests = [digest for digest, _ in digests]
        _refuse_twins(self.paths)
        self.predict_settings = predict
        choose_device(predict.device)
        self.windows = [tuple(predict.window) if all(predict.window) else _trained_window(path) for path in self.paths]
        # Device, precision and batch size are left out: another machine may go on with the work.
        alike = len(set(self.windows)) == 1
        self.settings = {
            "weights": self.digests,
            **({"window": list(self.windows[0])} if alike else {"windows": [list(window) for window in self.windows]}),
            "overlap": predict.overlap,
            "tta": predict.tta,
        }
        for path, digest, window in zip(self.paths, self.digests, self.windows):
            logger.info("weights %s (%s), window %s", path, digest, "x".join(map(str, window)))
        if len(self.paths) > 1:
            logger.info("the probabilities of these %d networks are averaged", len(self.paths))
        self._threads = torch.get_num_threads()
        self._models = None

    def at(self, precision):
        """The same ensemble in a precision that has been chosen, for every process that shares the work."""
        other = copy.copy(self)
        other.predict_settings = replace(self.predict_settings, precision=precision.name)
        return other

    def on(self, device):
        """The same ensemble for another device, its networks not loaded."""
        other = copy.copy(self)
        other.predict_settings = replace(self.predict_settings, device=device)
        other._models = None
        return other

    def predict(self, name, volume, deadline=None, progress=no_progress):
        settings = self.predict_settings
        if self._models is None:
            # The digest is that of the bytes that predict, in whichever process.
            self._models = [load_model(path, digest) for path, digest in zip(self.paths, self.digests)]
        device = choose_device(settings.device)
        # A processor sums in another order with another number of threads, so every process takes the caller's; and starting
        # numba's threads, as the repair of the volume before may have done, resets the number.
        torch.set_num_threads(self._threads)
        return predict_ensemble(
            self._models,
            volume,
            windows=self.windows,
            names=[f"volume {name}: the network of {path}" for path in self.paths],
            overlap=settings.overlap,
            batch_size=settings.batch_size,
            tta=settings.tta,
            device=device,
            dtype=choose_precision(settings.precision, device).dtype,
            deadline=deadline,
            progress=progress,
        )


def _trained_window(path):
    """The patch size a network was trained with, which is its window unless another is given."""
    _, state = read_checkpoint_header(path)
    try:
        return tuple(state["config"]["patches"]["size"])
    except (KeyError, TypeError) as error:
        raise InputValueError(
            f"predict.window must be given for weights that do not know their patch size, got {path} without one"
        ) from error


def _refuse_twins(paths):
    """Averaging a network with itself takes twice the time and changes nothing: nobody means it."""
    seen = {}
    for path in paths if len(paths) > 1 else []:
        twin = seen.setdefault(read_weights_digest(path), path)
        if twin is not path:
            raise InputValueError(f"checkpoints must hold different weights, got the same in {twin} and {path}")


def _read_ahead(paths, names):
    """Yield (name, volume) with the next volume being read while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = [reader.submit(read_volume, paths[name]) for name in names[:1]]
        for index, name in enumerate(names):
            volume = coming.pop().result()
            coming += [reader.submit(read_volume, paths[following]) for following in names[index + 1 : index + 2]]
            yield name, volume


def _open_results(folder, settings, fresh, ending, sources):
    """Make a folder of results, or open one and check that its results were made under the same settings, of the same files."""
    folder = make_folder(folder)
    digests, pattern = _read_digests(sources), f"*{ending}"
    noted = folder / SETTINGS_FILE
    if noted.exists() and not fresh:
        try:
            before = json.loads(noted.read_text(encoding="utf-8"))
            kept = {key: before.pop(key) for key in ("precision", "sources") if key in before}
            changed = [name for name, digest in kept.get("sources", {}).items() if digests.get(name, digest) != digest]
            changes = changed_settings(before, settings)
        except (ValueError, AttributeError, TypeError) as error:
            raise InputValueError(
                f"settings must be those that this command wrote (or give --fresh), got {noted}: {error}"
            ) from error
        if any(folder.glob(pattern)):
            if changes:
                raise InputValueError(
                    f"settings must equal those of the results in {folder} (or give --fresh), got {'; '.join(changes)}"
                )
            if replaced := [name for name in changed if (folder / f"{name}{ending}").exists()]:
                raise InputValueError(
                    f"files must be those that the results in {folder} were made of (or give --fresh, or another --output), "
                    f"got others in place of {_list_some(replaced)}"
                )
            # A note of the results that are kept, not a setting: another machine may go on with the work.
            settings = settings | kept
    # Results first: killed in between, none of them may lie beside settings that are not theirs.
    for result in folder.glob(pattern) if fresh else ():
        with name_os_errors(f"remove {result}"):
            result.unlink()
    settings = settings | {"sources": settings.get("sources", {}) | digests}
    # Written even where it says the same: so a folder that cannot be written to is found before the work.
    with write_atomically(noted) as stream:
        json.dump(settings, stream, indent=1)
    return folder


def _read_digests(sources):
    """What tells the files that go in from others of the same names, which another folder may hold; by id.

    The size and a sample: the volumes of a scroll are a hundred gigabytes, and two files that agree in both are the same one.
    """
    digests = {}
    for name, path in sources.items():
        if path.is_file():
            with name_os_errors(f"read {path}"), open(path, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                digest = hashlib.sha256(str(size).encode())
                for k in range(_SAMPLED_BLOCKS):
                    stream.seek(max(size - _BLOCK, 0) * k // (_SAMPLED_BLOCKS - 1))
                    digest.update(stream.read(_BLOCK))
            digests[name] = digest.hexdigest()[:16]
    return digests


def _settle_precision(folder, predict):
    """What the results in a folder are computed in: as they were so far, or as is fastest here; noted beside them."""
    noted = folder / SETTINGS_FILE
    settings = json.loads(noted.read_text(encoding="utf-8"))
    device = choose_device(predict.device)
    before = settings.get("precision", [])
    if predict.precision == "auto" and before and before[-1]["device"] == device.type:
        choice = Precision.resumed(before[-1])
    else:
        choice = choose_precision(predict.precision, device)
        settings["precision"] = [*before, choice.to_dict()]
        with write_atomically(noted) as stream:
            json.dump(settings, stream, indent=1)
    logger.info("precision: %s", choice.to_text())
    return choice


def _is_whole(path):
    """Whether a file of probabilities is there and can be used; one with NaN, or one that is damaged, is made again."""
    try:
        load_probability(path)
    except InputNotFoundError:
        return False
    except InputValueError as error:
        logger.warning("%s; it is predicted again", error)
        return False
    return True


def _note_pipeline(postprocess):
    """What is noted of a repair: its settings and, when they stand in a file or a preset, its steps too."""
    noted = config_to_dict(postprocess)
    if postprocess.pipeline == "public":
        return noted
    return {"pipeline": [{step.name: step.parameters} for step in choose_pipeline(**noted)]}


def _to_mask(probability, postprocess):
    return make_mask(probability, **config_to_dict(postprocess)).astype(np.uint8)
