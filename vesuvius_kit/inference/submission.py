"""From a folder of volumes to ``submission.zip``, against the clock and resumable at any kill.

The names of `archive` and `folders` that belong to the same work can be imported from here too.
"""

import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vesuvius_kit.checks import (
    InputError,
    InputOSError,
    check_integer,
    check_output_file,
    check_real,
    make_folder,
    make_scratch_folder,
    name_os_errors,
    one_line,
)
from vesuvius_kit.config import PostprocessConfig, PredictConfig, config_to_dict
from vesuvius_kit.config.settings import TTA
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.archive import list_images, pack_submission, validate_submission
from vesuvius_kit.inference.catalogue import Catalogue, list_masks
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.inference.folders import postprocess_folder, predict_folder
from vesuvius_kit.inference.jobs import (
    SIMPLE_FOLDER,
    VolumeJob,
    VolumeReport,
    count_processes,
    make_results,
)
from vesuvius_kit.inference.ladder import Rung, check_ladder, make_ladder, read_ladder
from vesuvius_kit.inference.live_archive import LiveArchive
from vesuvius_kit.inference.results import list_some, note_pipeline, open_results, read_precision
from vesuvius_kit.inference.run_record import RunRecord
from vesuvius_kit.inference.schedule import Schedule
from vesuvius_kit.inference.tta import check_views
from vesuvius_kit.inference.workers import WorkerError
from vesuvius_kit.io.atomic import remove_parts
from vesuvius_kit.io.folder_lock import lock_folder
from vesuvius_kit.io.volume import read_volume, write_volume
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

# Of the budget, for timing networks, filter and repair before the first volume.
_TRIAL_SHARE = 0.05
_LONGEST_TRIAL = 120.0
# Times as long as the first archive, of empty masks, took, until it is measured.
_CLOSINGS = 3.0


@dataclass(frozen=True)
class SubmissionSummary:
    """What a submission holds."""

    zip_path: Path
    """The archive."""
    predicted: list[str]
    """Ids whose mask came from networks."""
    simple: list[str]
    """Ids whose mask came from no network: the time was over, the networks failed, or the image cannot be read."""
    seconds: float
    """Wall time of the call."""
    failed: list[str] = field(default_factory=list)
    """Those of ``simple`` whose networks failed."""
    blank: list[str] = field(default_factory=list)
    """Those of ``simple`` whose mask is 0 everywhere, since there was no volume or no time to filter."""
    reduced: list[str] = field(default_factory=list)
    """Those of ``predicted`` that were predicted with less than was asked for."""
    warnings: list[str] = field(default_factory=list)
    """What was warned of, a line each; ``run.json`` in the folder of the masks has the details."""


def write_submission(
    zip_path: Path | str,
    images: Path | str,
    checkpoints: Iterable[Path | str],
    predict: PredictConfig,
    postprocess: PostprocessConfig,
    *,
    budget_seconds: float | None = None,
    plan: Path | str | Sequence[Rung] | None = None,
    show_plan: Callable[[str], None] | None = None,
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress = no_progress,
) -> SubmissionSummary:
    """Predict, repair and pack every test volume into a validated ``submission.zip``, within a time budget.

    The archive is valid from the first seconds on: it begins with empty masks, and takes each mask in as it is done. Masks are
    kept in the folder ``{zip name}_masks`` beside it, so that a killed run goes on, with ``run.json``, which says what was done
    to each volume. When the budget does not suffice for all that was asked for, each volume is predicted by the largest plan
    that fits, and what cannot be reached gets `simple_mask`; the next run goes on with the networks there.

    Whatever goes wrong with a volume or a network costs that volume or that network, and is told in ``run.json``.

    Parameters
    ----------
    zip_path
        Replaced in one move, again and again.
    images
        Folder of ``{id}.tif``. Beside a folder ``test_images``, the rows of ``test.csv`` count too.
    checkpoints
        See `find_weights`; several are averaged. Those that weigh most, of equal ones the first, are kept longest when time is
        short.
    budget_seconds
        Wall time from this call to the finished archive.
    plan
        The plans, largest first, or a YAML file of them (`read_ladder`); by default those of `make_ladder`.
    show_plan
        Called with the plans as a table, before the work, and with what was done, at the end.
    workers
        Processes that share the volumes, dealt to the GPUs in turn; by default one for each visible GPU, or one. A single one
        is this process itself.
    fresh
        Drop the masks of an earlier run.

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
    if budget_seconds is not None:
        check_real("budget_seconds", budget_seconds, above=0)
    if workers is not None:
        check_integer("workers", workers, minimum=1)
    zip_path = Path(zip_path)
    catalogue = list_masks(images)
    ensemble = Ensemble(checkpoints, predict)
    ensemble.log_mean()
    ladder = _ladder_of(plan, ensemble)
    pipeline = choose_pipeline(**config_to_dict(postprocess))
    make_folder(zip_path.parent)
    check_output_file("submission", zip_path)
    # A parameter that a step refuses is found here, and not after the first volume.
    try_pipeline(pipeline)
    masks = zip_path.with_name(f"{zip_path.stem}_masks")
    paths = catalogue.paths
    with lock_folder(masks), ExitStack() as at_end:
        settings = {"predict": ensemble.settings, "postprocess": note_pipeline(pipeline)}
        open_results(masks, settings, fresh, ".tif", paths)
        job = VolumeJob(paths, ensemble, masks, pipeline)
        _remove_simple_masks(masks)
        remove_parts(zip_path)
        kept = [name for name in paths if job.result_path(name).is_file()]
        waiting = [name for name in paths if name not in kept]
        n_processes = count_processes(predict.device, workers, len(waiting))
        archive = LiveArchive(zip_path, catalogue.shapes)
        archive.hold({name: job.result_path(name) for name in kept})
        archive.write()
        schedule = Schedule(
            ladder,
            catalogue.shapes,
            waiting,
            ensemble.count_windows,
            ensemble.count_views,
            whole=ensemble.whole,
            seconds=budget_seconds,
            started=started,
            n_processes=n_processes,
            packed_voxels=catalogue.n_voxels,
        )
        # Until a mask is there whose packing and checking can be timed.
        schedule.note_trial({}, {"closing": _CLOSINGS * archive.took / catalogue.n_voxels})
        if budget_seconds is not None or show_plan is not None:
            share = _LONGEST_TRIAL if budget_seconds is None else _TRIAL_SHARE * budget_seconds
            job = VolumeJob(paths, ensemble, masks, pipeline, min(_LONGEST_TRIAL, share))
        about = _describe_run(ensemble, schedule, n_processes)
        record = RunRecord(masks, about, kept, len(catalogue.shapes))
        at_end.callback(record.make_room)
        run = _Run(job, catalogue, schedule, archive, record, n_processes)
        run.warn_of_images()

        def show_ladder() -> None:
            record.note(trial=run.rates())
            if show_plan is not None:
                show_plan(schedule.to_text())

        try:
            make_results(job, schedule, workers, progress, on_result=run.note, on_ready=show_ladder)
        except WorkerError as error:
            record.warn(f"no network can go on: {one_line(error)}")
        run.fill_up(progress)
        record.make_room()
        summary = run.close(images, started, progress)
        if show_plan is not None:
            show_plan(run.to_text())
        return summary


class _Run:
    """What becomes of the volumes of a submission, in the archive and in the record."""

    def __init__(
        self,
        job: VolumeJob,
        catalogue: Catalogue,
        schedule: Schedule,
        archive: LiveArchive,
        record: RunRecord,
        n_processes: int,
    ) -> None:
        self._job, self._catalogue, self._schedule = job, catalogue, schedule
        self._archive, self._record = archive, record
        self._kept, self._n_processes = set(record.volumes), n_processes
        self._reports: dict[str, VolumeReport] = {}
        self._failed: set[str] = set()
        self._knows_closing = self._is_unwritable = False

    def warn_of_images(self) -> None:
        """Say which images cannot be used, and which nobody listed."""
        for name, reason in self._catalogue.faults.items():
            self._record.warn(f"{name} gets an empty mask of shape {self._catalogue.shapes[name]}: {reason}")
            self._record.note_volume(name, "blank", causes=[reason])
        if self._catalogue.unlisted:
            self._record.warn(
                f"test.csv has no row of {list_some(self._catalogue.unlisted)}; the archive holds a mask of each all the same"
            )

    def rates(self) -> dict[str, Any]:
        """Return what was measured so far, as JSON holds it."""
        meter, numbers = self._schedule.meter, range(len(self._job.ensemble.paths))
        return {
            "seconds_a_window": [meter.seconds_a_window(number) for number in numbers],
            "seconds_a_million_voxels": {
                "decode": 1e6 * meter.seconds_a_voxel("decode"),
                "repair": 1e6 * meter.seconds_a_voxel("repair"),
                "simple": 1e6 * meter.seconds_a_voxel("simple"),
            },
        }

    def note(self, name: str, report: VolumeReport) -> None:
        """Take what became of a volume."""
        self._reports[name] = report
        self._is_unwritable = self._is_unwritable or report.is_unwritable
        was_asked = not (report.order.rung.is_ridge or report.is_late or report.is_unread or report.is_unwritable)
        if report.made != "network" and was_asked:
            self._failed.add(name)
        path = {"network": self._job.result_path(name), "ridge": self._job.simple_path(name)}.get(report.made)
        if path is not None:
            if not self._knows_closing:
                self._knows_closing = True
                self._schedule.note_stage(name, "closing", _time_closing(path))
            self._archive.put(name, path)
        order = report.order
        self._record.note_volume(
            name,
            "blank" if report.made == "nothing" else report.made,
            plan=order.number,
            what=order.rung.to_text(),
            is_whole=report.is_whole,
            networks=[asdict(member) for member in report.members],
            overlap=order.rung.overlap,
            precision=self._precision,
            seconds={stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
            causes=report.causes,
        )

    @property
    def _precision(self) -> str | None:
        return read_precision(self._job.folder)

    def fill_up(self, progress: Progress) -> None:
        """Filter the volumes that no process reached, while there is time."""
        left = [
            name for name in self._schedule.left if name not in self._reports or self._reports[name].made == "nothing"
        ]
        if not left:
            return
        # As many at once as processes were to share the work.
        with ThreadPoolExecutor(self._n_processes) as pool:
            made = {name: pool.submit(self._filter, name) for name in left}
            for name, report in progress(made.items(), desc="simple masks", total=len(left)):
                if (result := report.result()) is not None:
                    self.note(name, result)

    def _filter(self, name: str) -> VolumeReport | None:
        """Make the mask of a volume without a network; None where there is no time, or would be no use."""
        before = self._reports.get(name)
        if not self._schedule.has_time_for_ridge(name) or (before is not None and before.is_unwritable):
            return None
        report = self._job.make_simple_mask(name)
        causes = [*(before.causes if before else ["the time was over"]), *report.causes]
        return replace(report, causes=list(dict.fromkeys(causes)))

    def close(self, images: Path | str, started: float, progress: Progress) -> SubmissionSummary:
        """Pack the archive, check it, and return what it holds."""
        record, shapes = self._record, self._catalogue.shapes
        with ExitStack() as at_end:
            members = progress(self._members(at_end), desc="zip", total=len(shapes))
            try:
                pack_submission(self._archive.path, members)
            except InputOSError as error:
                # The one that is there is valid too, though it may lack what was done last.
                record.warn(f"the archive stays as it was written last: {one_line(error)}")
            at_end.callback(record.close)
            validate_submission(self._archive.path, images)
            made = {name: report.made for name, report in self._reports.items()}
            predicted = [name for name in shapes if name in self._kept or made.get(name) == "network"]
            simple = [name for name in shapes if name not in predicted]
            blank = [name for name in simple if made.get(name) != "ridge"]
            for name in blank:
                if name not in self._reports and name not in self._catalogue.faults:
                    record.note_volume(name, "blank", causes=["the time was over"])
            failed = [name for name in simple if name in self._failed]
            reduced = [name for name in predicted if not record.volumes[name].get("is_whole", True)]
            self._warn_at_end(simple, blank, failed, reduced)
        seconds = time.monotonic() - started
        return SubmissionSummary(
            self._archive.path, predicted, simple, seconds, failed, blank, reduced, record.warnings
        )

    def to_text(self) -> str:
        """Return what was done to each volume, a line each."""
        lines = []
        for name, entry in sorted(self._record.volumes.items()):
            seconds = entry.get("seconds", {})
            took = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
            causes = "; ".join(entry.get("causes", []))
            what = entry.get("what", "kept") if entry["mask"] == "network" else entry["mask"]
            lines.append(f"{name}: {what}" + (f" ({took})" if took else "") + (f": {causes}" if causes else ""))
        return "\n".join(lines)

    def _members(self, at_end: ExitStack) -> Iterator[tuple[str, Path]]:
        """Yield (name, mask file), as `pack_submission` asks for them."""
        blanks: dict[tuple[int, ...], Path] = {}
        for name, shape in self._catalogue.shapes.items():
            made = self._reports[name].made if name in self._reports else "network" if name in self._kept else "nothing"
            if made == "network":
                yield name, self._job.result_path(name)
            elif made == "ridge":
                yield name, self._job.simple_path(name)
            else:
                if shape not in blanks:
                    blanks[shape] = at_end.enter_context(make_scratch_folder()) / "blank.tif"
                    write_volume(blanks[shape], np.zeros(shape, np.uint8))
                yield name, blanks[shape]

    def _warn_at_end(
        self, simple: Sequence[str], blank: Sequence[str], failed: Sequence[str], reduced: Sequence[str]
    ) -> None:
        """Say which volumes have less than was asked for."""
        record, n_volumes = self._record, len(self._catalogue.shapes)
        unread = {name for name, report in self._reports.items() if report.is_unread} | self._catalogue.faults.keys()
        late = [name for name in simple if name not in failed and name not in unread]
        budget = self._schedule.budget_seconds
        if late:
            over = "no process is left" if budget is None else f"the budget of {budget:.0f} s is over"
            over = "no mask can be written" if self._is_unwritable else over
            record.warn(
                f"{over}: {len(late)} of {n_volumes} volumes get a simple mask; run again to predict them: {list_some(late)}"
            )
        if failed:
            record.warn(
                f"the network failed: {len(failed)} of {n_volumes} volumes get a simple mask: {list_some(failed)}"
            )
        if blank:
            record.warn(f"{len(blank)} of {n_volumes} masks are empty: {list_some(blank)}")
        if reduced:
            record.warn(
                f"{len(reduced)} of {n_volumes} volumes were predicted with less than was asked for: {list_some(reduced)}"
            )


def _ladder_of(plan: Path | str | Sequence[Rung] | None, ensemble: Ensemble) -> list[Rung]:
    """The plans that were given, or those by default, with views that the windows allow."""
    settings, n_models = ensemble.predict_settings, len(ensemble.paths)
    if plan is None:
        ladder = make_ladder(n_models, settings.tta, settings.overlap, ensemble.count_views, ensemble.weights)
    elif isinstance(plan, (str, Path)):
        ladder = read_ladder(plan, n_models, settings.tta, settings.overlap, get_args(TTA))
    else:
        ladder = check_ladder(plan, n_models, get_args(TTA))
    # Else each network would fail at each volume, hours later.
    for number, tta in {member for rung in ladder for member in rung.members}:
        check_views(tta, ensemble.windows[number])
    return ladder


def _describe_run(ensemble: Ensemble, schedule: Schedule, n_processes: int) -> dict[str, Any]:
    """What ``run.json`` says of the whole run."""
    weights: list[dict[str, Any]] = [
        {"path": str(path), "digest": digest, "window": list(window)}
        for path, digest, window in zip(ensemble.paths, ensemble.digests, ensemble.windows)
    ]
    if ensemble.is_weighted:
        for entry, share in zip(weights, ensemble.shares):
            entry["share"] = round(share, 6)
    return {
        "weights": weights,
        "requested": config_to_dict(ensemble.predict_settings),
        "budget_seconds": schedule.budget_seconds,
        "processes": n_processes,
        "plans": [rung.to_dict() for rung in schedule.ladder],
    }


def _remove_simple_masks(masks: Path) -> None:
    """Remove what an earlier run made without networks: it may be of other images."""
    folder = masks / SIMPLE_FOLDER
    for path in folder.glob("*.tif") if folder.is_dir() else ():
        with name_os_errors(f"remove {path}"):
            path.unlink()


def _time_closing(path: Path) -> float:
    """Seconds to pack a mask and to check it."""
    before = time.monotonic()
    try:
        zlib.compress(path.read_bytes())
        read_volume(path)
    except (OSError, InputError) as error:
        logger.debug("%s cannot be timed: %s", path, one_line(error))
    return time.monotonic() - before
