"""Volumes to result files, in this process or shared out to several, by the plans of a schedule.

Several GPUs share the volumes out among one process each; the masks, and so the archive, are those of a single process.
"""

import logging
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from vesuvius_kit.checks import InputError, InputOSError, check_integer, describe_error, name_os_errors, one_line
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.ensemble import Answer, Ensemble, MemberReport, is_out_of_memory
from vesuvius_kit.inference.ladder import RIDGE, Rung
from vesuvius_kit.inference.predict import NotFiniteError
from vesuvius_kit.inference.results import settle_precision
from vesuvius_kit.inference.schedule import Order, Schedule
from vesuvius_kit.inference.stages import SpoiltProcessError, StagedJob, Stop, run_here
from vesuvius_kit.inference.workers import run_in_processes
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.postprocess import simple_mask
from vesuvius_kit.postprocess.pipeline import Step, run_pipeline

logger = logging.getLogger(__name__)

Made = Literal["network", "ridge", "nothing"]
"""What a volume's result came from; of nothing there is no file."""

SIMPLE_FOLDER = "simple"
"""Masks without a network lie in a folder of their own: they are no results, and the next run predicts these volumes."""

# Edge of the noise that filter and repair are timed on, in voxels.
_TRIAL_EDGE = 64
# Volumes in a row at which a network must fail before it is asked no more.
_MOST_FAULTS = 2
# Of a repair, which anybody may have put together, and which costs no more than the repair.
_FAULTS = (
    *(InputError, ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
    NumbaError,
)


@dataclass
class Material:
    """A volume as it was read."""

    volume: NDArray[Any] | None
    """None: it cannot be read."""
    seconds: float
    """Wall time of reading."""
    error: InputError | None = None
    """Why it cannot be read."""


@dataclass(frozen=True)
class Trial:
    """What a process measured before its first volume."""

    windows: dict[int, float]
    """Seconds a window by network."""
    stages: dict[str, float]
    """Seconds a voxel by stage."""


@dataclass(frozen=True)
class NetworkReport:
    """What the networks did for a volume."""

    rung: Rung
    """The plan."""
    seconds: dict[int, float]
    """Of each network that answered, by number."""
    faults: dict[int, str]
    """Why the others did not."""


@dataclass(frozen=True)
class VolumeReport:
    """What became of a volume."""

    made: Made
    """Where its result came from."""
    order: Order
    """How it was to be worked on."""
    members: list[MemberReport] = field(default_factory=list)
    """The networks that answered."""
    causes: list[str] = field(default_factory=list)
    """What kept the result from being what was ordered, a line each."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of ``decode``, ``network``, ``repair`` or ``simple``, and once a process ``closing``."""
    is_late: bool = False
    """Whether the time was over before the networks were done."""
    is_unread: bool = False
    """Whether the volume could not be read."""
    is_unwritable: bool = False
    """Whether the result could not be written."""

    @property
    def is_whole(self) -> bool:
        """Whether the result is what was asked for at the start of the run."""
        return self.made == "network" and self.order.is_whole and not self.causes


@dataclass(frozen=True)
class VolumeJob(StagedJob[str, Order, VolumeReport]):
    """A volume to a result file: a mask by the pipeline, else the probabilities. Goes to a process as it is.

    With a pipeline there is a mask whatever happens, unless the disk is full: networks that fail are left out, without any the
    ridge filter takes over. Without a pipeline nothing can stand in for a network: an answer that is not finite has no result,
    every other fault is raised.
    """

    paths: dict[str, Path]
    """The volumes by id."""
    ensemble: Ensemble
    """What predicts them."""
    folder: Path
    """Of the results."""
    pipeline: list[Step] | None = None
    """From a probability to a mask; None to keep the probability."""
    trial_seconds: float | None = None
    """For how long a process may time networks, filter and repair before its first volume; None not to."""
    networks: Mapping[str, Collection[int]] | None = None
    """Which networks predict a volume, by id, where only the probabilities are asked for; None: all of them."""
    progress: Progress = no_progress
    """Shows the windows of a volume; its default where the job goes to another process."""

    def result_path(self, name: str) -> Path:
        """Return where the result of a volume lies."""
        return self.folder / (f"{name}.npy" if self.pipeline is None else f"{name}.tif")

    def simple_path(self, name: str) -> Path:
        """Return where the mask of a volume lies that was made without a network."""
        return self.folder / SIMPLE_FOLDER / f"{name}.tif"

    def prepare(self) -> Trial | None:
        """Time the networks on noise, and filter and repair on a small volume, if that is asked for."""
        if self.trial_seconds is None:
            return None
        started = time.monotonic()
        windows = self.ensemble.time_windows(started + self.trial_seconds)
        noise = np.random.default_rng(0).random((_TRIAL_EDGE,) * 3, np.float32)
        actions: dict[str, Callable[[], object]] = {"simple": lambda: simple_mask(noise)}
        if self.pipeline is not None:
            pipeline, smooth = self.pipeline, _smooth(noise)
            actions["repair"] = lambda: run_pipeline(smooth, pipeline)
        stages = {}
        for stage, action in actions.items():
            try:
                stages[stage] = _seconds_of(action) / noise.size
            except _FAULTS as error:
                # What it does to a real volume is dealt with there.
                logger.warning("%s cannot be timed: %s", stage, describe_error(error))
        return Trial(windows, stages)

    def read(self, task: str) -> Material:
        """Read a volume; one that cannot be read is a fault of that volume alone."""
        started = time.monotonic()
        try:
            volume = read_volume(self.paths[task])
        except InputError as error:
            return Material(None, time.monotonic() - started, error)
        return Material(volume, time.monotonic() - started)

    def work(
        self, task: str, material: Material, order: Order, settle: Callable[[], None]
    ) -> tuple[NetworkReport, Callable[[], VolumeReport]]:
        """Predict a volume by a plan, and return what is left to do for its result."""
        # From when it was ordered, whichever process ordered it: the volume may have been waited for meanwhile.
        deadline = None if order.seconds is None else order.issued + order.seconds
        if material.error is not None and is_out_of_memory(material.error):
            settle()
            material = self.read(task)
        if material.volume is None:
            return NetworkReport(order.rung, {}, {}), lambda: self._report_unread(task, material, order)
        volume = material.volume
        if volume.min() == volume.max():
            logger.warning("volume %s is %g everywhere: nothing can be seen in it", task, volume.min())
        if self.pipeline is None:
            return self._predict_only(task, volume, material.seconds, order)
        started = time.monotonic()
        answer = Answer()
        if not order.rung.is_ridge:
            answer = self.ensemble.answer(
                task, volume, order.rung, deadline=deadline, make_room=settle, progress=self.progress
            )
        seconds = {"decode": material.seconds, "network": time.monotonic() - started}
        report = NetworkReport(order.rung, {one.number: one.seconds for one in answer.members}, answer.faults)
        return report, lambda: self._make_mask(task, volume, order, answer, seconds)

    def make_simple_mask(self, name: str) -> VolumeReport:
        """Make the mask of one volume without a network, in this process."""
        order, material = Order(RIDGE, -1, None, False), self.read(name)
        if material.volume is None:
            return self._report_unread(name, material, order)
        return self._make_mask(name, material.volume, order, Answer(), {"decode": material.seconds})

    def _predict_only(
        self, name: str, volume: NDArray[Any], decode: float, order: Order
    ) -> tuple[NetworkReport, Callable[[], VolumeReport]]:
        """The probabilities of a volume; whatever keeps the networks from them is raised."""
        started = time.monotonic()
        try:
            numbers = None if self.networks is None else self.networks[name]
            probability = self.ensemble.predict(name, volume, progress=self.progress, numbers=numbers)
        except NotFiniteError as error:
            reason = one_line(error)
            return NetworkReport(order.rung, {}, {}), lambda: VolumeReport("nothing", order, causes=[reason])
        seconds = {"decode": decode, "network": time.monotonic() - started}

        def write() -> VolumeReport:
            with write_atomically(self.result_path(name), "wb") as stream:
                np.save(stream, probability.astype(np.float16))
            return VolumeReport("network", order, seconds=seconds)

        return NetworkReport(order.rung, {}, {}), write

    def _report_unread(self, name: str, material: Material, order: Order) -> VolumeReport:
        error = material.error
        if self.pipeline is None and error is not None:
            raise error
        return VolumeReport("nothing", order, causes=[one_line(error)] if error is not None else [], is_unread=True)

    def _make_mask(
        self, name: str, volume: NDArray[Any], order: Order, answer: Answer, seconds: dict[str, float]
    ) -> VolumeReport:
        """Repair what the networks said, or filter the volume where they said nothing, and write the mask."""
        causes = [answer.faults[number] for number in sorted(answer.faults)]
        if answer.is_late:
            n_asked, n_done = len(order.rung.members), len(answer.members)
            causes.append(f"the time was over when {n_done} of {n_asked} networks had answered")
        started = time.monotonic()
        made: Made = "ridge" if answer.probability is None else "network"
        path = self.simple_path(name) if answer.probability is None else self.result_path(name)
        mask, faults = self._mask_of(volume, answer.probability)
        causes += faults
        if mask is None:
            return VolumeReport("nothing", order, answer.members, causes, seconds, answer.is_late)
        try:
            with name_os_errors(f"write {path}"):
                # Nobody needs the folder of a run in which every volume is predicted.
                path.parent.mkdir(exist_ok=True)
                write_volume(path, mask)
        except InputOSError as error:
            return VolumeReport(
                "nothing", order, answer.members, [*causes, one_line(error)], seconds, is_unwritable=True
            )
        seconds = {**seconds, "simple" if made == "ridge" else "repair": time.monotonic() - started}
        return VolumeReport(made, order, answer.members, causes, seconds, answer.is_late)

    def _mask_of(
        self, volume: NDArray[Any], probability: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.uint8] | None, list[str]]:
        """The mask, uint8, and what went wrong with it; None where even the simplest way failed."""
        causes: list[str] = []
        if probability is not None and self.pipeline is not None:
            try:
                return run_pipeline(probability, self.pipeline).astype(np.uint8), causes
            except _FAULTS as error:
                logger.debug("repair", exc_info=True)
                causes.append(f"the repair failed, the mask is what exceeds 0.5: {describe_error(error)}")
            return (probability > 0.5).view(np.uint8), causes
        try:
            return simple_mask(volume).astype(np.uint8), causes
        except _FAULTS as error:
            return None, [f"the ridge filter failed: {describe_error(error)}"]


def count_processes(predict_device: str, workers: int | None, n_volumes: int) -> int:
    """Return how many processes share the volumes: as asked for, or one for each visible GPU, but none without a volume."""
    if workers is None:
        workers = max(1, torch.cuda.device_count()) if predict_device == "auto" else 1
    check_integer("workers", workers, minimum=1)
    return max(1, min(workers, n_volumes))


def make_results(
    job: VolumeJob,
    schedule: Schedule,
    workers: int | None,
    progress: Progress,
    *,
    on_result: Callable[[str, VolumeReport], None] = lambda name, report: None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Make the results of the volumes that are left, here or in processes, and take each as done in ``schedule``.

    Where nothing but a network can make a result, the first volume without one ends the work.

    Parameters
    ----------
    workers
        Processes; None for one for each visible GPU.
    on_result
        ``on_result(id, report)`` is told what became of each volume that was begun.
    on_ready
        Called once, when a process is ready for its first volume and has said what it measured.

    Raises
    ------
    WorkerError
        A process failed, or all were killed.
    """
    waiting = list(schedule.left)
    if waiting:
        job = replace(job, ensemble=job.ensemble.at(settle_precision(job.folder, job.ensemble.predict_settings)))
    wanted = job.ensemble.predict_settings.device
    n_processes = count_processes(wanted, workers, len(waiting))
    run = _Run(job, schedule, on_result, on_ready)
    if n_processes == 1:
        try:
            run.take(run_here(replace(job, progress=progress), waiting, **run.callbacks), progress, len(waiting))
            return
        except SpoiltProcessError as error:
            # A process of its own gets what this one cannot have any more.
            logger.warning("the rest is predicted in a process of its own: %s", error)
            schedule.lose_process(0)
            waiting = [name for name in schedule.left if name not in run.seen]
    gpus = torch.cuda.device_count()
    devices = [f"cuda:{number % gpus}" if gpus and wanted == "auto" else wanted for number in range(n_processes)]
    run.take(
        run_in_processes(
            [replace(job, ensemble=job.ensemble.on(device)) for device in devices],
            waiting,
            threads=max(1, torch.get_num_threads() // n_processes),
            seconds_left=None if schedule.budget_seconds is None else schedule.seconds_left,
            on_gone=schedule.lose_process,
            on_lost=run.note_lost,
            **run.callbacks,
        ),
        progress,
        len(waiting),
    )


class _Run:
    """What is done between the volumes of a run: orders are given, reports taken."""

    def __init__(
        self,
        job: VolumeJob,
        schedule: Schedule,
        on_result: Callable[[str, VolumeReport], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._job, self._schedule = job, schedule
        self._on_result, self._on_ready = on_result, on_ready
        self._is_ready = self._is_closed = False
        self._faults: dict[int, int] = {}
        self._orders: dict[str, Order] = {}
        # Volumes that need not be begun again.
        self.seen: set[str] = set()

    @property
    def callbacks(self) -> dict[str, Callable[..., Any]]:
        """What gives orders and takes news."""
        return {"order_for": self.order_for, "on_ready": self.note_ready, "on_news": self.note_news}

    def order_for(self, name: str, process: int) -> Order | Stop:
        """Return how a volume is to be worked on."""
        order = Stop.STOP if self._is_closed else self._schedule.order_for(name, process)
        if isinstance(order, Order):
            self._orders[name] = order
            if self._schedule.budget_seconds is not None:
                logger.info("volume %s: plan %d, %s", name, order.number, order.rung.to_text())
        return order

    def note_ready(self, process: int, content: object) -> None:
        """Take what a process measured."""
        self._schedule.gain_process(process)
        if isinstance(content, Trial):
            self._schedule.note_trial(content.windows, content.stages)
        if not self._is_ready:
            self._is_ready = True
            self._on_ready()

    def note_news(self, name: str, process: int, news: object) -> None:
        """Take what the networks did."""
        if not isinstance(news, NetworkReport):
            return
        self._schedule.note_network(name, process, news.seconds, news.rung)
        for number, cause in news.faults.items():
            self._faults[number] = self._faults.get(number, 0) + 1
            if self._faults[number] == _MOST_FAULTS:
                self._schedule.drop_network(number, cause)
        for number in news.seconds:
            self._faults[number] = 0

    def note_lost(self, name: str, cause: str) -> None:
        """Take a volume that no process can predict."""
        self._schedule.give_up(name)
        self._on_result(name, VolumeReport("nothing", self._orders[name], causes=[cause]))

    def take(self, done: Generator[tuple[str, VolumeReport], None, None], progress: Progress, n_volumes: int) -> None:
        """Take the reports as they come."""
        with closing(done):
            for name, report in progress(done, desc="volumes", total=n_volumes):
                self.seen.add(name)
                for stage, seconds in report.seconds.items():
                    self._schedule.note_stage(name, stage, seconds)
                if report.made == "network":
                    self._schedule.finish(name)
                elif report.made == "ridge":
                    self._schedule.stand_in(name)
                else:
                    self._schedule.give_up(name)
                for cause in report.causes:
                    logger.warning("volume %s: %s", name, cause.removeprefix(f"volume {name}: "))
                # What comes after would not find room either.
                self._is_closed = self._is_closed or report.is_unwritable
                self._on_result(name, report)
                if report.made == "nothing" and self._job.pipeline is None:
                    return


def _seconds_of(action: Callable[[], object]) -> float:
    """Wall time of the second call; the first may compile kernels."""
    action()
    started = time.monotonic()
    action()
    return time.monotonic() - started


def _smooth(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Noise in sheets about as thick as those of the scrolls, in [0, 1]: as a probability, it makes a repair work."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(noise, (4, 1, 4))
    low, high = float(blurred.min()), float(blurred.max())
    return ((blurred - low) / max(high - low, 1e-6)).astype(np.float32)
