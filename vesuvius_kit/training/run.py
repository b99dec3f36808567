"""A run and its folder: what is saved after an epoch, and how a run comes back to where it stood."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel

from vesuvius_kit.checks import InputNotFoundError, InputValueError, make_folder, name_os_errors
from vesuvius_kit.config import RunConfig, changed_settings, config_to_dict, config_to_yaml
from vesuvius_kit.config.files import refuse_removed
from vesuvius_kit.inference.precision import Precision
from vesuvius_kit.io.record import ASIDE_NAME, LOG_NAME, drop_records
from vesuvius_kit.models import SegmentationModel
from vesuvius_kit.models.checkpoint import (
    FILE_NAME,
    Checkpoint,
    link_checkpoint,
    load_checkpoint,
    read_checkpoint_header,
    remove_leftovers,
    restore_optimizer,
    save_checkpoint,
)
from vesuvius_kit.training.averaging import averaged_model, count_of, restore_average, tensors_of
from vesuvius_kit.training.policies import Controller, Policies
from vesuvius_kit.training.processes import gather_rows, get_main_logger, wait_for_all
from vesuvius_kit.training.state import RunState

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
class Run:
    """Everything that a checkpoint holds, and the folder it goes to."""

    config: RunConfig
    folder: Path
    """Of the fold; the same for all processes, on several machines a shared one."""
    accelerator: Accelerator
    """The processes; only the main one writes."""
    model: SegmentationModel
    """Not wrapped."""
    optimizer: torch.optim.Optimizer
    """Over the model's parameters, not wrapped."""
    controller: Controller
    """Of the learning rate."""
    average: AveragedModel | None
    """Of the weights, towards the end of the run; None where nothing is averaged."""
    state: RunState

    def resume(self, fresh: bool = False, start: Path | None = None) -> None:
        """Go to where the run in the folder stands, or prepare the folder for a start.

        Parameters
        ----------
        fresh
            Move an earlier run aside first.
        start
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
            aside = drop_records(self.folder / LOG_NAME, self.state.epoch)
            if aside:
                logger.warning(
                    "%d lines of %s are no epoch of a run: they are left out and kept in %s",
                    aside,
                    self.folder / LOG_NAME,
                    self.folder / ASIDE_NAME,
                )
        wait_for_all()

    def save(self, name: str, *, averaged: bool = False) -> None:
        """Write a checkpoint: ``last`` to resume from, ``rollback`` to go back to, or ``best``, without the optimiser.

        With ``averaged`` its weights are the mean of the weights.
        """
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        content = {
            "config": config_to_dict(self.config),
            "run": vars(self.state),
            "controller": self.controller.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "averaged": count_of(self.average),
        }
        save_checkpoint(
            self.folder / name,
            averaged_model(self.average) if averaged else self.model,
            content,
            optimizer=None if name == "best" else self.optimizer,
            average=None if name == "best" else tensors_of(self.average),
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
        """Remove the checkpoint ``rollback``: a run that has ended does not go back, and the file is large."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder / "rollback", ignore_errors=True)

    def roll_back(self, reason: str) -> None:
        """Take weights, optimiser, average and controller back to the checkpoint ``rollback``; all counters go on."""
        wait_for_all()
        checkpoint = load_checkpoint(self.folder / "rollback")
        self._restore(checkpoint)
        self.controller.rollback(checkpoint.state["controller"])
        self.state.rollbacks += 1
        self.state.last_loss, self.state.rising_epochs = self.state.best_loss, 0
        self._note(f"rolled back to the state after epoch {self.state.rollback_epoch}: {reason}")

    def _go_on(self, last: Path) -> None:
        """The same run, after a stop."""
        checkpoint = load_checkpoint(last)
        changes = self._changes(checkpoint)
        if changes:
            raise InputValueError(
                f"settings must equal those of the run in {self.folder} (or give --fresh, or --resume-from with "
                f"another --output), got {'; '.join(changes)}"
            )
        if checkpoint.state["run"]["chunk_ids"] != self.state.chunk_ids:
            raise InputValueError(f"training chunks must be those of the run in {self.folder}, got another selection")
        self._restore(checkpoint)
        self.state = RunState(**checkpoint.state["run"])
        self.controller.load_state_dict(checkpoint.state["controller"])
        self._note("resumed")

    def _start_from(self, start: Path) -> None:
        """Another run's weights, optimiser, epoch, counters and history, under the settings of this one."""
        checkpoint = load_checkpoint(start)
        if checkpoint.record != self.model.record:
            raise InputValueError(
                f"model must be that of {start}, {checkpoint.record.to_dict()}, got {self.model.require_record().to_dict()}"
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
        averaging = Policies.from_config(self.config).averaging
        if count_of(self.average) and not averaging.is_active(self.state.epoch - 1):
            restore_average(self.average, 0, {})
            notes.append("the mean of the weights starts anew: this run averages later ones")
        if not checkpoint.optimizer:
            notes.append("the checkpoint has no optimiser: it starts anew")
        self._note("; ".join(notes))

    def _has_another_rate(self, changes: list[str]) -> bool:
        """Whether the saved state of the controller means nothing under the settings of this run."""
        names = {"base_lr": "train.learning_rate", "n_epochs": "train.num_epochs"}
        settings = {names.get(name, f"lr.{name}") for name in self.controller.depends_on}
        return any(change.split(":")[0] in settings for change in changes)

    def _changes(self, checkpoint: Checkpoint) -> list[str]:
        refuse_removed(checkpoint.state["config"], f"the run in {self.folder}")
        # A setting that is younger than the checkpoint had what is its default now.
        before = _fill_in(checkpoint.state["config"], config_to_dict(RunConfig()))
        changes = changed_settings(before, config_to_dict(self.config))
        return [change for change in changes if change.split(":")[0] not in FREE_SETTINGS]

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.weights)
        if checkpoint.optimizer:
            restore_optimizer(self.optimizer, checkpoint.optimizer)
        restore_average(self.average, checkpoint.state.get("averaged", 0), checkpoint.average)
        scaler, stored = self.accelerator.scaler, checkpoint.state.get("scaler")
        if scaler is not None and stored:
            scaler.load_state_dict(stored)

    def _note(self, text: str) -> None:
        note = f"epoch {self.state.epoch}: {text}"
        self.state.history.append(note)
        logger.info("%s: %s", self.folder, note)


def kept_precision(folder: Path) -> Precision | None:
    """Return what the run in a fold's folder has computed in so far, or None where there is none."""
    last = folder / "last"
    noted = read_checkpoint_header(last)[1]["run"].get("precision") if last.exists() else None
    return Precision.resumed(noted) if noted else None


def find_start(resume_from: Path | str | None, fold: int) -> Path | None:
    """Return the checkpoint file that a fold is to start from; None without ``resume_from``.

    ``resume_from`` is a checkpoint (file or folder), a fold's folder (its ``last`` is taken), or a run's folder, which stands
    for the ``last`` of the same fold in it.

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


def check_start(
    config: RunConfig, folder: Path, start: Path | None, validation_ids: Sequence[str], fresh: bool
) -> None:
    """Raise unless a fold may start from a checkpoint: before the first of several folds is trained, and nothing is written.

    Parameters
    ----------
    folder
        Of the fold.
    start
        As `find_start` returns it; with None everything may start.
    validation_ids
        Chunks the fold validates on.
    fresh
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
                f"--resume-from must be what the run in {folder} was started from, {origin or 'no checkpoint'} (leave "
                f"it out to go on with that run, or give another --output), got {start}"
            )
        return
    before = read_checkpoint_header(start)[1]["run"]
    if before["epoch"] >= config.train.num_epochs:
        raise InputValueError(
            f"train.num_epochs must be more than the {before['epoch']} epochs that {start} has done, got "
            f"{config.train.num_epochs}"
        )
    seen = sorted(_trained_on(before) & set(validation_ids))
    if seen:
        raise InputValueError(
            f"{folder.name} must validate on chunks that the weights were not trained on, or its score says nothing: "
            f"{start} was trained on {len(seen)} of its {len(validation_ids)} ({', '.join(seen[:3])}"
            f"{', ...' if len(seen) > 3 else ''}); start {folder.name} without --resume-from, or from a checkpoint of that fold"
        )


def _trained_on(state: Mapping[str, Any]) -> set[str]:
    return {*state.get("trained_on", []), *state["chunk_ids"]}


def _fill_in(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, and defaults for those that are missing, section by section."""
    sections = {
        key: _fill_in(settings[key], value) for key, value in defaults.items() if _is_section(settings, key, value)
    }
    return {**defaults, **settings, **sections}


def _is_section(settings: Mapping[str, Any], key: str, value: Any) -> bool:
    return isinstance(value, dict) and isinstance(settings.get(key), dict)


def _move_aside(folder: Path) -> None:
    """Rename an earlier run, keeping it; the name is not one that `find_checkpoints` looks for."""
    if folder.exists():
        number = 1
        while (target := folder.with_name(f"before_fresh_{number}_{folder.name}")).exists():
            number += 1
        with name_os_errors(f"move {folder} aside to {target.name}"):
            folder.rename(target)
