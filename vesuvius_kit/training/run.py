"""A run and its folder: what is saved after an epoch, and how a run comes back to where it stood."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from vesuvius_kit.checkpoint import link_checkpoint, load_checkpoint, restore_optimizer, save_checkpoint
from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import RunConfig, changed_settings, config_to_dict, config_to_yaml
from vesuvius_kit.lr import BoundedLR, LegacyHandler
from vesuvius_kit.training.averaging import WeightAverage
from vesuvius_kit.training.log import drop_lines
from vesuvius_kit.training.processes import gather_rows, get_main_logger

logger = get_main_logger(__name__)

# Settings that say where and how fast a run runs, not what it computes; they may differ when it is resumed.
FREE_SETTINGS = (
    "data",
    "output",
    "folds",
    "train.num_workers",
    "train.save_every_steps",
    "train.evidence_every_epochs",
    "train.budget",
    "predict.batch_size",
    "predict.device",
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
    history : list of str
        Starts, resumes and what was changed at each.
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
    history: list = field(default_factory=list)


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

    def resume(self, fresh: bool = False, resume_from=None) -> None:
        """Go to where the run in the folder stands, or prepare the folder for a start.

        Parameters
        ----------
        fresh : bool
            Move an earlier run aside first.
        resume_from : str or Path, optional
            Checkpoint to start from, under other settings, when the folder holds no run.

        Raises
        ------
        InputError
            The run in the folder has other settings or chunks; no usable checkpoint; processes that see different
            folders.
        """
        if self.accelerator.is_main_process:
            if fresh:
                _move_aside(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        last = self.folder / "last"
        if last.exists():
            self._go_on(last)
        elif resume_from is not None:
            self._start_from(resume_from)
        else:
            self.state.history.append("epoch 0: started")
        stands = gather_rows([(self.state.epoch, self.state.step)])
        if len(set(stands)) > 1:
            raise InputValueError(f"output must be one folder that all machines share, got (epoch, step) {stands}")
        if self.accelerator.is_main_process:
            drop_lines(self.folder / "log.jsonl", self.state.epoch)

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
        self.accelerator.wait_for_everyone()
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

    def _start_from(self, resume_from) -> None:
        """Another run's weights, optimiser, epoch, counters and history, under the settings of this one."""
        checkpoint = load_checkpoint(resume_from)
        if checkpoint.record != self.model.record:
            raise InputValueError(
                f"model must be that of {resume_from}, {checkpoint.record.to_dict()}, got {self.model.record.to_dict()}"
            )
        changes = self._changes(checkpoint)
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
        )
        self.state = RunState(**{**checkpoint.state["run"], **{name: getattr(self.state, name) for name in own}})
        notes = [f"{RESUMED_FROM} {resume_from}", *changes]
        if any(change.startswith(("lr.", "train.learning_rate", "train.num_epochs")) for change in changes):
            self.controller.load_state_dict({**self.controller.state_dict(), "epoch": self.state.epoch})
            notes.append(f"the learning rate has the new base {self.controller.base_lr:g}")
        else:
            self.controller.load_state_dict(checkpoint.state["controller"])
        if checkpoint.state["run"].get("stopped_early"):
            self.state.epochs_without_improvement = 0
            notes.append("it had stopped early: patience starts anew")
        # A schedule of weights that ends elsewhere changes the yardstick of the validation loss too.
        kinds = ("loss.", "train.num_epochs") if self.config.loss.schedule else ("loss.",)
        if any(change.startswith(kinds) for change in changes):
            self.state.best_loss = self.state.last_loss = None
            self.state.epochs_without_improvement = self.state.rising_epochs = 0
            self.controller.forget_best()
            notes.append("losses before and after do not compare: best loss and patience start anew")
        if not checkpoint.optimizer:
            notes.append("the checkpoint has no optimiser: it starts anew")
        self._note("; ".join(notes))

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
        folder.rename(target)
