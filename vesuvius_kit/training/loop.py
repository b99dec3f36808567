"""The training loop: patches through a network under a weighted loss and a bounded learning rate, resumable at any kill.

Everything random is keyed by (seed, epoch, sample or step), and a checkpoint is written after every epoch, or after so
many steps. A run that was killed therefore repeats what came after its last checkpoint and goes on exactly as if nothing
had happened.

The loop is the same in one process and in many (`accelerate launch`, `torchrun`, `notebook_launcher`, several machines):
`batch_size` is that of the run, and each process takes its share of every batch, so that the number of GPUs does not
change what is computed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vesuvius_kit.checks import InputValueError, check_duration
from vesuvius_kit.config import RunConfig
from vesuvius_kit.console import Progress, how_to_go_on, no_progress
from vesuvius_kit.data.competition import Chunk, Competition
from vesuvius_kit.inference.budget import EpochBudget
from vesuvius_kit.io.record import LOG_NAME, EpochRecord, append_record, read_records
from vesuvius_kit.models import create_model
from vesuvius_kit.training.averaging import averaged_model, count_of, make_average
from vesuvius_kit.training.batch_norm import has_batch_norm
from vesuvius_kit.training.epoch import (
    LabelTransform,
    diagnose_gradients,
    renew_statistics,
    score_volumes,
    train_epoch,
    validate_patches,
)
from vesuvius_kit.training.from_config import make_controller, make_loss
from vesuvius_kit.training.interrupts import InterruptWatch
from vesuvius_kit.training.loaders import Loaders, make_loaders
from vesuvius_kit.training.policies import Controller, Policies, VetoRaise, note_average, note_best, note_loss
from vesuvius_kit.training.preflight import check_run, lock_folds
from vesuvius_kit.training.processes import (
    broadcast,
    get_main_logger,
    leave_lost_threads,
    name_cache_folder,
    release_accelerator,
    start_accelerator,
    wait_for_all,
)
from vesuvius_kit.training.run import RESUMED_FROM, Run, check_start, find_start, kept_precision
from vesuvius_kit.training.state import RunState

logger = get_main_logger(__name__)


def keep_labels(labels: Tensor) -> Tensor:
    """Return labels as they are."""
    return labels


@dataclass(frozen=True)
class Hooks:
    """What a caller adds to a run. None of it is stored: a resumed run must be given the same."""

    veto_raise: VetoRaise | None = None
    """Asked, in the main process, before the rate is raised; without it every raise of the controller is made."""
    on_validated: Callable[[EpochRecord], None] | None = None
    """Called with each epoch's record in every process, before the rate of the next epoch is decided."""
    make_controller: Callable[[RunConfig], Controller] = make_controller
    """Makes another learning-rate controller than `BoundedLR`."""
    label_transform: LabelTransform = keep_labels
    """Labels (B, Z, Y, X) as the loss is to see them."""


def train(
    config: RunConfig,
    *,
    fresh: bool = False,
    resume_from: Path | str | None = None,
    hooks: Hooks | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Train the folds a configuration names and return the run's folder, ``config.output``.

    Where several processes call this together (see `processes.py`), they share each batch and the scored volumes, and the
    main one writes. Several processes on several machines must share the folder.

    Where ``train.budget`` would end before another epoch does, training stops there and the same call goes on another time.
    Where the validation loss degrades, the run goes back to its best state (see `TrainConfig`).

    Each fold's folder ``{output}/fold_K`` holds ``last`` (to resume), ``best`` (to predict, chosen by the validation score)
    and ``log.jsonl`` (one line an epoch). A run that is there already goes on if its configuration is the same.

    Parameters
    ----------
    fresh
        Move an earlier run aside and start from nothing.
    resume_from
        Start from the weights, optimiser and epoch of that checkpoint although the configuration differs; a run's folder
        stands for the ``last`` of each fold. Another learning rate or schedule (under ``cosine`` and ``polynomial`` another
        number of epochs too) starts a new controller with the new rate as its base; otherwise its reductions, failed raises and
        cool-downs go on. Given again, the same call goes on with the run that was started so.
    hooks
        See `Hooks`.
    progress
        Wraps epochs, steps and windows.

    Raises
    ------
    InputError
        Bad data or settings; an earlier run with other settings and neither ``fresh`` nor ``resume_from``; a checkpoint that
        has done all epochs, or whose weights were trained on chunks a fold validates on; a folder with another run than the
        one that was started from it.
    TrainingDivergedError
        The loss is no longer finite.
    """
    leave_lost_threads()
    name_cache_folder()
    hooks = hooks or Hooks()
    limit = config.train.budget
    budget = EpochBudget(None if limit is None else check_duration("train.budget", limit))
    competition = Competition(config.data)
    competition.audit_pairs()
    splits = competition.folds(config.n_folds, config.train.seed)
    folds = {fold: Path(config.output) / f"fold_{fold}" for fold in config.fold_list}
    starts = {fold: find_start(resume_from, fold) for fold in folds}
    for fold, folder in folds.items():
        check_start(config, folder, starts[fold], [chunk.id for chunk in splits[fold][1]], fresh)
    check_run(config, splits, hooks.label_transform)
    with lock_folds(config), InterruptWatch() as watch:
        try:
            for fold, folder in folds.items():
                _train_fold(config, folder, *splits[fold], fresh, starts[fold], budget, hooks, watch.watched(progress))
        except torch.cuda.OutOfMemoryError as error:
            first_line = str(error).partition("\n")[0]
            raise InputValueError(
                f"train.batch_size and patches.size must fit the GPU's memory, got {config.train.batch_size} patches "
                f"of {'x'.join(map(str, config.patches.size))}: {first_line}"
            ) from error
        finally:
            release_accelerator()
    return Path(config.output)


def _train_fold(
    config: RunConfig,
    folder: Path,
    train_chunks: Sequence[Chunk],
    validation_chunks: Sequence[Chunk],
    fresh: bool,
    start: Path | None,
    budget: EpochBudget,
    hooks: Hooks,
    progress: Progress,
) -> None:
    """Train one fold from where it stands: rate, train, validate, decide, record, save."""
    run = _open_run(config, folder, train_chunks, fresh, start, hooks)
    state, settings, policies = run.state, config.train, Policies.from_config(config)
    if state.epoch >= settings.num_epochs or state.stopped_early:
        early = ", stopped early" if state.stopped_early else ""
        logger.info("%s is complete: %d epochs%s", folder, state.epoch, early)
        return
    read_labels = hooks.label_transform
    progress = progress if run.accelerator.is_main_process else no_progress
    loaders = make_loaders(config, run.accelerator, run.model, train_chunks, validation_chunks)
    model, optimizer, loaders.train = run.accelerator.prepare(run.model, run.optimizer, loaders.train)
    # A name keeps the bar open for as long as those of the loops within it.
    epochs = progress(
        range(state.epoch, settings.num_epochs), desc=folder.name, initial=state.epoch, total=settings.num_epochs
    )
    try:
        for epoch in epochs:
            # Each process has its own clock; all stop together.
            if settings.budget is not None and not broadcast(budget.has_time()):
                how = _how_to_go_on(folder, fresh)
                logger.info("the budget of %s ends before epoch %d would; %s", settings.budget, epoch, how)
                wait_for_all()
                return
            started = time.monotonic()
            rate = policies.averaging.choose_rate(epoch, run.controller.rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = make_loss(config, epoch)

            record = EpochRecord(epoch, rate, precision=state.precision, loss_weights=loss.weights)
            record.train = train_epoch(run, epoch, model, optimizer, loss, loaders.train, read_labels, progress)
            if run.average is not None and policies.averaging.takes(epoch):
                run.average.update_parameters(run.model)
            record.gradient_diagnostics = diagnose_gradients(run, epoch, loss, loaders.probe, read_labels)

            record.validation = validate_patches(run, run.model, loaders.validation, read_labels)
            validation_loss = record.validation["loss"]
            if policies.scoring.is_due(state, epoch, validation_loss):
                record.score = score_volumes(run, run.model, validation_chunks, progress)
            score = None if record.score is None else record.score["score"]
            better_loss, better_score = note_best(state, epoch, validation_loss, score)
            stops_early = policies.stopping.stops(state)
            ends = stops_early or epoch + 1 == settings.num_epochs
            if ends and count_of(run.average):
                record.average = _judge_average(run, epoch, loaders, validation_chunks, read_labels, progress)

            note_loss(state, validation_loss)
            degradation = None if ends else policies.rollback.find_degradation(state, epoch, validation_loss)
            record.events = _resumes(state, epoch)
            if degradation:
                record.events.append({"kind": "rollback", "reason": degradation, "to_epoch": state.rollback_epoch})
            if hooks.on_validated is not None:
                hooks.on_validated(record)
            _step_controller(run, record, policies, hooks.veto_raise)
            record.seconds = round(time.monotonic() - started, 3)
            if run.accelerator.is_main_process:
                append_record(folder / LOG_NAME, record)
            logger.info("epoch %d: %s", epoch, record.summary())

            state.epoch, state.step, state.partial, state.stopped_early = epoch + 1, 0, {}, stops_early
            averaged_is_best = note_average(state, epoch, record.average)
            keeps = better_loss and policies.rollback.is_active and not ends
            _save(run, epoch, better_score, averaged_is_best, keeps, degradation)
            budget.note_epoch(time.monotonic() - started)
            if stops_early:
                logger.info("stopped early: no better loss or score for %d epochs", state.epochs_without_improvement)
                break
    except KeyboardInterrupt:
        logger.warning("stopped in epoch %d of %s", state.epoch, folder)
        raise KeyboardInterrupt(_how_to_go_on(folder, fresh)) from None
    run.drop_rollback()
    wait_for_all()


def _open_run(
    config: RunConfig, folder: Path, train_chunks: Sequence[Chunk], fresh: bool, start: Path | None, hooks: Hooks
) -> Run:
    """The network and all that a checkpoint holds, where the run in the folder stands."""
    settings = config.train
    kept = None if fresh else kept_precision(folder)
    accelerator, precision = start_accelerator(config.predict.device, settings.precision, kept)
    logger.info("precision: %s", precision.to_text())
    if settings.batch_size % accelerator.num_processes:
        raise InputValueError(
            f"train.batch_size must be divisible by the {accelerator.num_processes} processes that share it, got "
            f"{settings.batch_size}"
        )
    torch.manual_seed(settings.seed)
    model = create_model(config.model.name, normalisation=config.model.normalisation, **config.model.options)
    chunk_ids = sorted(chunk.id for chunk in train_chunks)
    run = Run(
        config,
        folder,
        accelerator,
        model,
        torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay),
        hooks.make_controller(config),
        make_average(model, accelerator.device) if settings.swa_start_epoch else None,
        RunState(chunk_ids=chunk_ids, trained_on=chunk_ids, precision=precision.to_dict()),
    )
    run.resume(fresh, start)
    return run


def _judge_average(
    run: Run,
    epoch: int,
    loaders: Loaders,
    chunks: Sequence[Chunk],
    read_labels: LabelTransform,
    progress: Progress,
) -> dict[str, Any]:
    """Loss and score of the averaged weights."""
    model = averaged_model(run.average)
    if has_batch_norm(model):
        renew_statistics(run, model, epoch, loaders.train, progress)
    return {
        "validation": validate_patches(run, model, loaders.validation, read_labels),
        "score": score_volumes(run, model, chunks, progress),
    }


def _resumes(state: RunState, epoch: int) -> list[dict[str, Any]]:
    """That the run was started from another one's checkpoint at this epoch."""
    start = f"epoch {epoch}: {RESUMED_FROM}"
    return [{"kind": "resumed", "reason": note} for note in state.history if note.startswith(start)]


def _step_controller(run: Run, record: EpochRecord, policies: Policies, veto_raise: VetoRaise | None) -> None:
    """End the epoch for the controller; before it raises the rate, the hook is asked whether something else is to blame."""

    def ask() -> bool:
        reason = None
        if veto_raise is not None and run.accelerator.is_main_process:
            reason = veto_raise([*read_records(run.folder / LOG_NAME), record], run.config)
        reason = broadcast(reason)
        if reason:
            record.events.append({"kind": "raise_vetoed", "reason": reason})
            logger.info("the learning rate is not raised: %s", reason)
        return reason is None

    before = len(run.controller.interventions)
    may_raise = policies.allow_raise and not policies.averaging.is_active(record.epoch)
    run.controller.step(record.validation["loss"], ask if may_raise else False)
    record.interventions = run.controller.interventions[before:]


def _save(
    run: Run, epoch: int, better_score: bool, averaged_is_best: bool, keeps: bool, degradation: str | None
) -> None:
    """Write the checkpoints of an epoch's end: ``best``, ``last``, and ``rollback`` where its state is one to go back to."""
    state = run.state
    if averaged_is_best:
        logger.info("the averaged weights are the best: score %.4f", state.best_score)
        run.save("best", averaged=True)
    elif better_score:
        run.save("best")
    if degradation:
        run.roll_back(degradation)
    if keeps:
        state.rollback_epoch = epoch
        run.save_as_last_and_rollback()
    else:
        run.save("last")


def _how_to_go_on(folder: Path, fresh: bool) -> str:
    """What a person has to do after a stop, by what has been saved."""
    if not (folder / "last").exists():
        return "nothing of this fold is saved yet: the same command starts it again"
    return f"{how_to_go_on(fresh)}, from the last checkpoint"
