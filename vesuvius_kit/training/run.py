"""A run and its folder: what is saved after an epoch, and how a run comes back to where it stood."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from vesuvius_kit.checks import InputNotFoundError, InputValueError, make_folder, name_os_errors
from vesuvius_kit.config import RunConfig, changed_settings, config_to_dict, config_to_yaml
from vesuvius_kit.inference.precision import Precision
from vesuvius_kit.io.record import ASIDE_NAME, drop_lines
from vesuvius_kit.models.checkpoint import (
    FILE_NAME,
    link_checkpoint,
    load_checkpoint,
    read_checkpoint_header,
    remove_leftovers,
    restore_optimizer,
    save_checkpoint,
)
from vesuvius_kit.training.averaging import WeightAverage
from vesuvius_kit.training.choices import averages_weights
from vesuvius_kit.training.learning_rate import BoundedLR
from vesuvius_kit.training.legacy import LegacyHandler
from vesuvius_kit.training.processes import gather_rows, get_main_logger, wait_for_all

logger = get_main_logger(__name__)

# Settings that say where and how fast a run runs, not what it computes; they may differ when it is resumed.
FREE_SETTINGS = (
    "data",
    "output",
    "folds",
    "train.num_workers",
    "train.save_every_steps",
    "train.gradient_diagnostics_every_epochs",
    "train.budget",
    "predict.batch_size",
    "predict.device",
)

# Settings that decide on which patches, and by which yardstick, the validation loss is taken.
_YARDSTICK = (
    "loss.",
    "n_folds",
    "patches.size",
    "patches.surface_fraction",
    "patches.max_unlabelled_fraction",
    "patches.cache_volumes",
    "train.seed",
    "train.validation_patches",
)

# How the history begins to tell of a start from another run's checkpoint.
RESUMED_FROM = "resumed from"


@dataclass
class RunState:
    """Where a run stands between two steps; saved with every checkpoint.

    Parameters
    ----------
    epoch : int
        The epoch that runs next or is running, counted from 0.
    step : int
        Steps of it that are done.
    partial : dict
        What these steps have added up for the log.
    best_loss, best_score : float or None
        Smallest validation loss and largest score so far.
    best_epoch : int or None
        Epoch of ``best_score``.
    epochs_without_improvement : int
        Epochs since either of them improved. It survives every resume and rollback.
    stopped_early : bool
        Whether that has ended the run.
    rollback_epoch : int or None
        Epoch of ``best_loss``, if its state has been kept to go back to.
    rollbacks : int
        How often the run went back.
    last_loss : float or None
        The last epoch's validation loss.
    rising_epochs : int
        For how many epochs in a row it rose.
    chunk_ids : list of str
        Chunks the run trains on.
    trained_on : list of str
        Chunks that these weights have ever been trained on: the run's own, and those of every run it goes on from.
    resumed_from : str or None
        The checkpoint of another run that this one was started from.
    history : list of str
        Starts, resumes and what was changed at each.
    precision : dict
        What the run computes in, and the timings behind it, as `Precision.to_dict` returns it.
    """

    epoch: int = 0
    step: int = 0
    partial: dict = field(default_factory=dict)
    best_loss: float | None = None
    best_score: float | None = None
    best_epoch: int | None = None
    epochs_without_improvement: int = 0
    stopped_early: bool = False
    rollback_epoch: int | None = None
    rollbacks: int = 0
    last_loss: float | None = None
    rising_epochs: int = 0
    chunk_ids: list = field(default_factory=list)
    trained_on: list = field(default_factory=list)
    resumed_from: str | None = None
    history: list = field(default_factory=list)
    precision: dict = field(default_factory=dict)


@dataclass
class Run:
    """Everything that a checkpoint holds, and the folder it goes to.

    Parameters
    ----------
    config : RunConfig
        The resolved settings.
    folder : pathlib.Path
        Of the fold; the same for all processes, on several machines a shared one.
    accelerator : accelerate.Accelerator
        The processes; only the main one writes.
    model : torch.nn.Module
        With ``record``, not wrapped.
    optimizer : torch.optim.Optimizer
        Over the model's parameters, not wrapped.
    controller : BoundedLR or LegacyHandler
        Of the learning rate.
    average : WeightAverage
        Of the weights, towards the end of the run.
    state : RunState
        Counters and history.
    """

    config: RunConfig
    folder: Path
    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    controller: BoundedLR | LegacyHandler
    average: WeightAverage
    state: RunState

    def resume(self, fresh: bool = False, start: Path | None = None) -> None:
        """Go to where the run in the folder stands, or prepare the folder for a start.

        Parameters
        ----------
        fresh : bool
            Move an earlier run aside first.
        start : pathlib.Path, optional
            Checkpoint to start from, under other settings, when the folder holds no run; see `check_start`.

        Raises
        ------
        InputError
            The run in the folder has other settings or chunks; no usable checkpoint; processes that see different
            folders.
        """
        last = self.folder / "last"
        if last.exists() and not fresh:
            self._go_on(last)
        elif start is not None:
            self._start_from(start)
        else:
            self.state.history.append("epoch 0: started")
        stands = gather_rows([(self.state.epoch, self.state.step)])
        if len(set(stands)) > 1:
            raise InputValueError(f"output must be one folder that all machines share, got (epoch, step) {stands}")
        # Only now, when every process has read what it starts from, and nothing is left to refuse.
        if self.accelerator.is_main_process:
            if fresh:
                _move_aside(self.folder)
            make_folder(self.folder)
            for name in ("last", "best", "rollback"):
                remove_leftovers(self.folder / name)
            aside = drop_lines(self.folder / "log.jsonl", self.state.epoch)
            if aside:
                logger.warning(
                    "%d lines of %s are no epoch of a run: they are left out and kept in %s",
                    aside,
                    self.folder / "log.jsonl",
                    self.folder / ASIDE_NAME,
                )
        wait_for_all()

    def save(self, name: str) -> None:
        """Write a checkpoint: ``last`` to resume from, ``rollback`` to go back to, or ``best``, without the optimiser.

        Parameters
        ----------
        name : str
            Folder of the checkpoint in the run's folder.
        """
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        content = {
            "config": config_to_dict(self.config),
            "run": vars(self.state),
            "controller": self.controller.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "averaged": self.average.count,
        }
        save_checkpoint(
            self.folder / name,
            self.model,
            content,
            optimizer=None if name == "best" else self.optimizer,
            average=None if name == "best" else self.average.tensors,
            config_yaml=config_to_yaml(self.config),
        )

    def save_as_last_and_rollback(self) -> None:
        """Write the checkpoint ``rollback`` and make ``last`` the same file.

        In this order: a run that is killed between the two repeats the epoch, and writes ``rollback`` again.
        """
        self.save("rollback")
        if self.accelerator.is_main_process:
            link_checkpoint(self.folder / "rollback", self.folder / "last")

    def drop_rollback(self) -> None:
        """Remove the checkpoint ``rollback``: a run that has ended goes nowhere, and the file is large."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder / "rollback", ignore_errors=True)

    def roll_back(self, reason: str) -> None:
        """Take weights, optimiser, average and controller back to the checkpoint ``rollback``; all counters go on.

        Parameters
        ----------
        reason : str
            For the history.
        """
        wait_for_all()
        checkpoint = load_checkpoint(self.folder / "rollback")
        self._restore(checkpoint)
        self.controller.rollback(checkpoint.state["controller"])
        self.state.rollbacks += 1
        self.state.last_loss, self.state.rising_epochs = self.state.best_loss, 0
        self._note(f"rolled back to the state after epoch {self.state.rollback_epoch}: {reason}")

    def _go_on(self, last) -> None:
        """The same run, after a stop."""
        checkpoint = load_checkpoint(last)
        changes = self._changes(checkpoint)
        if changes:
            raise InputValueError(
                f"settings must equal those of the run in {self.folder} (or give --fresh, or --resume-from with another "
                f"--output), got {'; '.join(changes)}"
            )
        if checkpoint.state["run"]["chunk_ids"] != self.state.chunk_ids:
            raise InputValueError(f"training chunks must be those of the run in {self.folder}, got another selection")
        self._restore(checkpoint)
        self.state = RunState(**checkpoint.state["run"])
        self.controller.load_state_dict(checkpoint.state["controller"])
        self._note("resumed")

    def _start_from(self, start) -> None:
        """Another run's weights, optimiser, epoch, counters and history, under the settings of this one."""
        checkpoint = load_checkpoint(start)
        if checkpoint.record != self.model.record:
            raise InputValueError(
                f"model must be that of {start}, {checkpoint.record.to_dict()}, got {self.model.record.to_dict()}"
            )
        changes = self._changes(checkpoint)
        before = checkpoint.state["run"]
        self._restore(checkpoint)
        # Its best weights stay in its own folder; this run's are still to come.
        own = (
            "chunk_ids",
            "best_score",
            "best_epoch",
            "stopped_early",
            "rollback_epoch",
            "rollbacks",
            "step",
            "partial",
            "precision",
        )
        self.state = RunState(**{**before, **{name: getattr(self.state, name) for name in own}})
        self.state.trained_on = sorted({*_trained_on(before), *self.state.chunk_ids})
        self.state.resumed_from = str(start.resolve())
        notes = [f"{RESUMED_FROM} {start}", *changes]
        if self._has_another_rate(changes):
            self.controller.load_state_dict({**self.controller.state_dict(), "epoch": self.state.epoch})
            notes.append(f"the learning rate starts anew from the base {self.controller.base_lr:g}")
        else:
            self.controller.load_state_dict(checkpoint.state["controller"])
        if before.get("stopped_early"):
            self.state.epochs_without_improvement = 0
            notes.append("it had stopped early: patience starts anew")
        if before["chunk_ids"] != self.state.chunk_ids:
            notes.append(f"trains on {len(self.state.chunk_ids)} chunks, not on the same {len(before['chunk_ids'])}")
        # A schedule of weights that ends elsewhere changes the yardstick of the validation loss too.
        kinds = (*_YARDSTICK, "train.num_epochs") if self.config.loss.schedule else _YARDSTICK
        if any(change.startswith(kinds) for change in changes) or before["chunk_ids"] != self.state.chunk_ids:
            self.state.best_loss = self.state.last_loss = None
            self.state.epochs_without_improvement = self.state.rising_epochs = 0
            self.controller.forget_best()
            notes.append("losses before and after do not compare: best loss and patience start anew")
        if self.average.count and not averages_weights(self.config, self.state.epoch - 1):
            self.average = WeightAverage()
            notes.append("the mean of the weights starts anew: this run averages later ones")
        if not checkpoint.optimizer:
            notes.append("the checkpoint has no optimiser: it starts anew")
        self._note("; ".join(notes))

    def _has_another_rate(self, changes) -> bool:
        """Whether the saved state of the controller means nothing under the settings of this run."""
        names = {"base_lr": "train.learning_rate", "n_epochs": "train.num_epochs"}
        settings = {names.get(name, f"lr.{name}") for name in self.controller.depends_on} | {"lr.handler"}
        return any(change.split(":")[0] in settings for change in changes)

    def _changes(self, checkpoint) -> list[str]:
        # A setting that is younger than the checkpoint had what is its default now.
        before = _fill_in(checkpoint.state["config"], config_to_dict(RunConfig()))
        changes = changed_settings(before, config_to_dict(self.config))
        return [change for change in changes if change.split(":")[0] not in FREE_SETTINGS]

    def _restore(self, checkpoint) -> None:
        self.model.load_state_dict(checkpoint.weights)
        if checkpoint.optimizer:
            restore_optimizer(self.optimizer, checkpoint.optimizer)
        self.average.restore(checkpoint.state.get("averaged", 0), checkpoint.average, self.accelerator.device)
        scaler, stored = self.accelerator.scaler, checkpoint.state.get("scaler")
        if scaler is not None and stored:
            scaler.load_state_dict(stored)

    def _note(self, text: str) -> None:
        note = f"epoch {self.state.epoch}: {text}"
        self.state.history.append(note)
        logger.info("%s: %s", self.folder, note)


def kept_precision(folder: Path) -> Precision | None:
    """Return what the run in a folder has computed in so far, or None where there is none.

    Parameters
    ----------
    folder : pathlib.Path
        Of the fold.

    Returns
    -------
    Precision or None
    """
    last = folder / "last"
    noted = read_checkpoint_header(last)[1]["run"].get("precision") if last.exists() else None
    return Precision.resumed(noted) if noted else None


def find_start(resume_from, fold: int) -> Path | None:
    """Return the checkpoint that a fold is to start from.

    Parameters
    ----------
    resume_from : str, Path or None
        A checkpoint (file or folder), a fold's folder (its ``last`` is taken), or a run's folder, which stands for the ``last``
        of the same fold in it.
    fold : int
        Index of the fold.

    Returns
    -------
    pathlib.Path or None
        The file; None without ``resume_from``.

    Raises
    ------
    InputNotFoundError
        There is none.
    """
    if resume_from is None:
        return None
    path = Path(resume_from)
    places = [path, path / FILE_NAME, path / "last" / FILE_NAME, path / f"fold_{fold}" / "last" / FILE_NAME]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputNotFoundError(
            f"--resume-from must be a checkpoint, or the folder of a run with fold_{fold}/last, got {path}"
        )
    return found


def check_start(config: RunConfig, folder: Path, start: Path | None, validation_ids, fresh: bool) -> None:
    """Raise unless a fold may start from a checkpoint: before the first of several folds is trained, and nothing is written.

    Parameters
    ----------
    config : RunConfig
        The settings of this run.
    folder : pathlib.Path
        Of the fold.
    start : pathlib.Path or None
        As `find_start` returns it; with None everything may start.
    validation_ids : sequence of str
        Chunks the fold validates on.
    fresh : bool
        Whether a run in the folder will be moved aside.

    Raises
    ------
    InputValueError
        The folder holds a run that was not started from there; the checkpoint has done all epochs, or was trained on chunks
        that the fold validates on.
    """
    if start is None:
        return
    last = folder / "last" / FILE_NAME
    if last.exists() and not fresh:
        origin = read_checkpoint_header(last)[1]["run"].get("resumed_from")
        # The same command again goes on with the run; so does its own last checkpoint.
        if str(start.resolve()) not in (origin, str(last.resolve())):
            raise InputValueError(
                f"--resume-from must be what the run in {folder} was started from, {origin or 'no checkpoint'} (leave it "
                f"out to go on with that run, or give another --output), got {start}"
            )
        return
    before = read_checkpoint_header(start)[1]["run"]
    if before["epoch"] >= config.train.num_epochs:
        raise InputValueError(
            f"train.num_epochs must be more than the {before['epoch']} epochs that {start} has done, "
            f"got {config.train.num_epochs}"
        )
    seen = sorted(_trained_on(before) & set(validation_ids))
    if seen:
        raise InputValueError(
            f"{folder.name} must validate on chunks that the weights were not trained on, or its score says nothing: "
            f"{start} was trained on {len(seen)} of its {len(validation_ids)} ({', '.join(seen[:3])}"
            f"{', ...' if len(seen) > 3 else ''}); start {folder.name} without --resume-from, or from a checkpoint of that fold"
        )


def _trained_on(state) -> set:
    return {*state.get("trained_on", []), *state["chunk_ids"]}


def _fill_in(settings, defaults):
    """Settings, and defaults for those that are missing, section by section."""
    sections = {
        key: _fill_in(settings[key], value) for key, value in defaults.items() if _is_section(settings, key, value)
    }
    return {**defaults, **settings, **sections}


def _is_section(settings, key, value):
    return isinstance(value, dict) and isinstance(settings.get(key), dict)


def _move_aside(folder):
    """Rename an earlier run, keeping it; the name is not one that `find_checkpoints` looks for."""
    if folder.exists():
        number = 1
        while (target := folder.with_name(f"before_fresh_{number}_{folder.name}")).exists():
            number += 1
        with name_os_errors(f"move {folder} aside to {target.name}"):
            folder.rename(target)
