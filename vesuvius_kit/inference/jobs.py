"""Volumes to result files, in this process or shared out to several, against the clock.

Several GPUs share the volumes out among one process each; the masks, and so the archive, are those of a single process.
"""

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.checks import check_integer
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.budget import TimeBudget
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.inference.predict import NotFiniteError, OutOfTimeError
from vesuvius_kit.inference.results import settle_precision
from vesuvius_kit.inference.workers import run_in_processes
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.postprocess.pipeline import Step, run_pipeline

logger = logging.getLogger(__name__)

Outcome = float | str | None
"""What became of a volume: seconds a voxel from its probability to its file; in words, that the answer of a network was not
finite; None: the time was over before."""


@dataclass(frozen=True)
class VolumeJob:
    """A volume to a result file: a mask by the pipeline, else the probabilities. Goes to a process as it is."""

    paths: dict[str, Path]
    """The volumes by id."""
    ensemble: Ensemble
    """What predicts them."""
    folder: Path
    """Of the results."""
    pipeline: list[Step] | None = None
    """From a probability to a mask; None to keep the probability."""

    def result_path(self, name: str) -> Path:
        """Return where the result of a volume lies."""
        return self.folder / (f"{name}.npy" if self.pipeline is None else f"{name}.tif")

    def __call__(self, name: str, seconds: float | None) -> Outcome:
        """Read a volume and write its result within some seconds."""
        return self.run(name, read_volume(self.paths[name]), seconds)

    def run(self, name: str, volume: NDArray[Any], seconds: float | None, progress: Progress = no_progress) -> Outcome:
        """Write one result within some seconds; one that is not finite is not written, so that it counts as not done."""
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
        if self.pipeline is None:
            with write_atomically(self.result_path(name), "wb") as stream:
                np.save(stream, probability.astype(np.float16))
        else:
            write_volume(self.result_path(name), run_pipeline(probability, self.pipeline).astype(np.uint8))
        return (time.monotonic() - before) / volume.size


def make_results(job: VolumeJob, budget: TimeBudget, workers: int | None, progress: Progress) -> dict[str, str]:
    """Make the results of the volumes that are left, here or in processes, and take each as done in ``budget``.

    Where nothing but the network can make a result, its first answer that is not finite ends the work.

    Parameters
    ----------
    workers
        Processes; None for one for each visible GPU.

    Returns
    -------
    failed
        By id, in words: the volumes for which the answer of a network was not finite. They are among those that are left.
    """
    waiting = list(budget.left)
    if waiting:
        job = replace(job, ensemble=job.ensemble.at(settle_precision(job.folder, job.ensemble.predict_settings)))
    gpus = torch.cuda.device_count()
    wanted = job.ensemble.predict_settings.device
    if workers is None:
        workers = max(1, gpus) if wanted == "auto" else 1
    check_integer("workers", workers, minimum=1)
    failed: dict[str, str] = {}
    done: Generator[tuple[str, Outcome], None, None]
    if min(workers, len(waiting)) <= 1:
        done = _work_here(job, waiting, budget, progress)
    else:
        devices = [f"cuda:{number % gpus}" if gpus and wanted == "auto" else wanted for number in range(workers)]
        done = run_in_processes(
            [replace(job, ensemble=job.ensemble.on(device)) for device in devices],
            waiting,
            threads=max(1, torch.get_num_threads() // workers),
            seconds_for=budget.seconds_for,
            seconds_left=budget.seconds_left,
        )
    with closing(done):
        for name, outcome in progress(done, desc="volumes", total=len(waiting)):
            if outcome is None:
                budget.close()
            elif isinstance(outcome, str):
                logger.warning("%s: %s", name, outcome)
                failed[name] = outcome
                if job.pipeline is None:
                    break
            else:
                budget.finish(name, outcome)
    return failed


def _work_here(
    job: VolumeJob, waiting: Sequence[str], budget: TimeBudget, progress: Progress
) -> Generator[tuple[str, Outcome], None, None]:
    """As `run_in_processes`, in this process, with the next volume being read while the network works on one."""
    for name, volume in _read_ahead(job.paths, waiting):
        seconds = budget.seconds_for(name)
        if seconds is not None and seconds <= 0:
            return
        yield name, job.run(name, volume, seconds, progress)


def _read_ahead(paths: Mapping[str, Path], names: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield (name, volume) with the next volume being read while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = [reader.submit(read_volume, paths[name]) for name in names[:1]]
        for index, name in enumerate(names):
            volume = coming.pop().result()
            coming += [reader.submit(read_volume, paths[following]) for following in names[index + 1 : index + 2]]
            yield name, volume
