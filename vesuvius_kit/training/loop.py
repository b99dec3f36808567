"""The training loop: patches through a network under a weighted loss and a bounded learning rate, resumable at any kill.

Everything random is keyed by (seed, epoch, sample or step), and a checkpoint is written after every epoch, or after so
many steps. A run that was killed therefore repeats what came after its last checkpoint and goes on exactly as if nothing
had happened.

The loop is the same in one process and in many (`accelerate launch`, `torchrun`, `notebook_launcher`, several machines):
`batch_size` is that of the run, and each process takes its share of every batch, so that the number of GPUs does not
change what is computed.
"""

import copy
import math
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from vesuvius_kit.checks import InputValueError, RunFailedError, check_duration
from vesuvius_kit.config import RunConfig, config_to_dict
from vesuvius_kit.console import how_to_go_on, no_progress
from vesuvius_kit.constants import SURFACE, UNLABELLED
from vesuvius_kit.data.augment import Augmentation
from vesuvius_kit.data.competition import Competition
from vesuvius_kit.data.patches import PatchDataset
from vesuvius_kit.diagnosis import suspect_loss
from vesuvius_kit.inference.budget import EpochBudget
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.io.record import append_line, read_lines, without_nan
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.metrics import leaderboard_score
from vesuvius_kit.models import create_model
from vesuvius_kit.postprocess import make_mask
from vesuvius_kit.training.averaging import WeightAverage
from vesuvius_kit.training.batch_norm import SharedBatchNorm, has_batch_norm
from vesuvius_kit.training.choices import (
    averages_weights,
    choose_rate,
    choose_scored,
    inference_window,
    labelled_share,
    make_controller,
    make_loss,
    make_validation_patches,
    may_roll_back,
    read_labels,
)
from vesuvius_kit.training.gradient_diagnostics import N_PATCHES, gather_gradient_diagnostics
from vesuvius_kit.training.interrupts import InterruptWatch, ignore_interrupts
from vesuvius_kit.training.legacy import LegacyHandler
from vesuvius_kit.training.preflight import check_run, lock_folds
from vesuvius_kit.training.processes import (
    broadcast,
    dtype_of,
    gather_rows,
    get_main_logger,
    leave_lost_threads,
    plain_forward,
    release_accelerator,
    start_accelerator,
    wait_for_all,
)
from vesuvius_kit.training.run import (
    RESUMED_FROM,
    Run,
    RunState,
    check_start,
    find_start,
    kept_precision,
)

logger = get_main_logger(__name__)


class TrainingDivergedError(RunFailedError):
    """Not one step of an epoch had a finite loss and gradient."""


def train(config: RunConfig, *, fresh=False, resume_from=None, progress=no_progress) -> Path:
    """Train the folds a configuration names and return the run's folder.

    Where several processes call this together (see `vesuvius_kit.training.processes`), they share each batch and the scored
    volumes, and the main one writes.

    Where ``train.budget`` would end before another epoch does, training stops there and the same call goes on another time.
    Several processes on several machines must share the folder. Before the rate is raised the diagnosis is asked whether the
    loss is to blame; where the validation loss degrades, the run goes back to its best state (see `TrainConfig`).

    Each fold's folder ``{output}/fold_K`` holds ``last`` (to resume), ``best`` (to predict, chosen by the validation score)
    and ``log.jsonl`` (one line an epoch). A run that is there already goes on if its configuration is the same.

    Parameters
    ----------
    config : RunConfig
        All settings; see `vesuvius_kit.config`.
    fresh : bool
        Move an earlier run aside and start from nothing.
    resume_from : str or Path, optional
        Start from the weights, optimiser and epoch of that checkpoint although the configuration differs; a run's folder
        stands for the ``last`` of each fold. Another learning rate or schedule (under ``cosine`` and ``polynomial`` another
        number of epochs too) starts a new controller with the new rate as its base; otherwise its reductions, failed raises and
        cool-downs go on. Given again, the same call goes on with the run that was started so.
    progress : callable
        Wraps epochs, steps and windows, in tqdm's calling form.

    Returns
    -------
    pathlib.Path
        The run's folder, ``config.output``.

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
    limit = config.train.budget
    budget = EpochBudget(None if limit is None else check_duration("train.budget", limit))
    competition = Competition(config.data)
    competition.audit_pairs()
    splits = competition.folds(config.n_folds, config.train.seed)
    folders = {fold: Path(config.output) / f"fold_{fold}" for fold in config.folds}
    starts = {fold: find_start(resume_from, fold) for fold in config.folds}
    for fold, folder in folders.items():
        check_start(config, folder, starts[fold], [chunk.id for chunk in splits[fold][1]], fresh)
    check_run(config, splits)
    with lock_folds(config), InterruptWatch() as watch:
        try:
            for fold, folder in folders.items():
                _train_fold(config, folder, *splits[fold], fresh, starts[fold], budget, watch, progress)
        except torch.cuda.OutOfMemoryError as error:
            first_line = str(error).partition("\n")[0]
            raise InputValueError(
                f"train.batch_size and patches.size must fit the GPU's memory, got {config.train.batch_size} patches of "
                f"{'x'.join(map(str, config.patches.size))}: {first_line}"
            ) from error
        finally:
            release_accelerator()
    return Path(config.output)


def _train_fold(config, folder, train_chunks, validation_chunks, fresh, start, budget, watch, progress):
    settings = config.train
    kept = None if fresh else kept_precision(folder)
    accelerator, precision = start_accelerator(config.predict.device, settings.precision, kept)
    logger.info("precision: %s", precision.to_text())
    _check_processes(settings.batch_size, accelerator.num_processes)
    progress = watch.watched(progress if accelerator.is_main_process else no_progress)
    threads = torch.get_num_threads()
    torch.manual_seed(settings.seed)
    model = create_model(config.model.name, normalisation=config.model.normalisation, **config.model.options)
    chunk_ids = sorted(chunk.id for chunk in train_chunks)
    run = Run(
        config,
        folder,
        accelerator,
        model,
        torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay),
        make_controller(config),
        WeightAverage(),
        RunState(chunk_ids=chunk_ids, trained_on=chunk_ids, precision=precision.to_dict()),
    )
    run.resume(fresh, start)
    state, controller = run.state, run.controller
    if state.epoch >= settings.num_epochs or state.stopped_early:
        logger.info(
            "%s is complete: %d epochs%s", folder, state.epoch, ", stopped early" if state.stopped_early else ""
        )
        return

    train_loader, validation_loader, probe = _make_loaders(config, accelerator, model, train_chunks, validation_chunks)
    wrapped, optimizer, train_loader = accelerator.prepare(model, run.optimizer, train_loader)

    if config.loss.unlabelled_as_surface:
        logger.warning(
            "LABEL 2 (NOBODY LOOKED) IS READ AS SURFACE: for the plateau study alone, never to train a network"
        )
    epochs = progress(
        range(state.epoch, settings.num_epochs), desc=folder.name, initial=state.epoch, total=settings.num_epochs
    )
    try:
        for epoch in epochs:
            # Each process has its own clock; all stop together.
            if settings.budget is not None and not broadcast(budget.has_time()):
                logger.info(
                    "the budget of %s ends before epoch %d would; %s",
                    settings.budget,
                    epoch,
                    _how_to_go_on(folder, fresh),
                )
                wait_for_all()
                return
            started = time.monotonic()
            # Scoring starts numba's threads, which resets torch's number of them, and sums in another order round otherwise.
            torch.set_num_threads(threads)
            rate = choose_rate(config, controller, epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss_function = make_loss(config, epoch)
            trained = _train_epoch(run, epoch, wrapped, optimizer, loss_function, train_loader, progress)
            if averages_weights(config, epoch) and (epoch - settings.swa_start_epoch) % settings.swa_every_epochs == 0:
                run.average.update(model)
            diagnostics = _diagnose_gradients(run, epoch, loss_function, probe)
            validated = _validate_patches(accelerator, model, config, validation_loader)
            scored = None
            if _is_scored(settings, state, epoch, validated["loss"]):
                scored = _score_volumes(config, accelerator, model, validation_chunks, progress)
            better_loss, better_score = _update_best(state, epoch, validated["loss"], scored)
            stops_early = 0 < settings.early_stopping_patience <= state.epochs_without_improvement
            ends = stops_early or epoch + 1 == settings.num_epochs
            averaged = None
            if ends and run.average.count:
                if has_batch_norm(model):
                    with _one_batch(accelerator):
                        run.average.renew_statistics(model, _images_of_epoch(run, epoch, train_loader, progress))
                with run.average.applied_to(model):
                    averaged = {
                        "validation": _validate_patches(accelerator, model, config, validation_loader),
                        "score": _score_volumes(config, accelerator, model, validation_chunks, progress),
                    }
            line = {
                "epoch": epoch,
                "rate": rate,
                "precision": state.precision,
                "loss_weights": loss_function.weights,
                "train": trained,
                "validation": validated,
                "score": scored,
                "average": averaged,
                "gradient_diagnostics": diagnostics,
                "interventions": [],
                "events": _known_events(config, state, epoch),
            }
            degradation = None if ends else _find_degradation(config, state, epoch, validated["loss"])
            if degradation:
                line["events"].append({"kind": "rollback", "reason": degradation, "to_epoch": state.rollback_epoch})
            _step_controller(run, line)
            line["seconds"] = round(time.monotonic() - started, 3)
            if accelerator.is_main_process:
                append_line(folder / "log.jsonl", line)
            logger.info("epoch %d: %s", epoch, _summary(line))

            state.epoch, state.step, state.partial, state.stopped_early = epoch + 1, 0, {}, stops_early
            if averaged and (state.best_score is None or averaged["score"]["score"] > state.best_score):
                state.best_score, state.best_epoch = averaged["score"]["score"], epoch
                logger.info("the averaged weights are the best: score %.4f", state.best_score)
                with run.average.applied_to(model):
                    run.save("best")
            elif better_score:
                run.save("best")
            if degradation:
                run.roll_back(degradation)
            if better_loss and may_roll_back(config) and not ends:
                state.rollback_epoch = epoch
                run.save_as_last_and_rollback()
            else:
                run.save("last")
            budget.note_epoch(time.monotonic() - started)
            if stops_early:
                logger.info("stopped early: no better loss or score for %d epochs", state.epochs_without_improvement)
                break
    except KeyboardInterrupt:
        logger.warning("stopped in epoch %d of %s", state.epoch, folder)
        raise KeyboardInterrupt(_how_to_go_on(folder, fresh)) from None
    run.drop_rollback()
    wait_for_all()


def _how_to_go_on(folder, fresh):
    """What a person has to do after a stop, by what has been saved."""
    if not (folder / "last").exists():
        return "nothing of this fold is saved yet: the same command starts it again"
    return f"{how_to_go_on(fresh)}, from the last checkpoint"


def _train_epoch(run, epoch, model, optimizer, loss_function, loader, progress):
    """One pass over the epoch's patches, or over those that are left of it; the means of what was seen."""
    config, state, accelerator = run.config, run.state, run.accelerator
    settings = config.train
    seen = _Means(state.partial)
    if state.step:
        # The skipped patches are not even decoded: each is made from its number alone.
        loader = accelerator.skip_first_batches(loader, state.step)
    # Accelerate counts passes over a loader and tells the data set; a resumed run must tell it where it stands.
    loader.set_epoch(epoch)
    model.train()
    steps = progress(loader, desc="steps", leave=False, initial=state.step, total=settings.steps_per_epoch)
    for step, batch in enumerate(steps, start=state.step):
        _seed_step(settings.seed, epoch, step, accelerator.process_index)
        optimizer.zero_grad(set_to_none=True)
        with _one_batch(accelerator):
            logits = model(batch["image"])
        labels = read_labels(config, batch["label"])
        total, components = loss_function(logits, labels)
        accelerator.backward(total)
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        # Each process has an equal part of the batch, so means over processes are means over the batch, and all agree
        # on whether the step is sound.
        share = labelled_share(labels)
        values = accelerator.reduce(torch.stack([total.detach(), *components.values(), share]), "mean")
        finite = bool(torch.isfinite(values[0]) & torch.isfinite(norm))
        # One poisoned step would spoil the weights for good. The fp16 scaler skips it by itself, and must see it to adapt.
        if finite or accelerator.scaler is not None:
            optimizer.step()
        if finite:
            seen.add(loss=values[0], gradient_norm=norm, **dict(zip(components, values[1:-1])), labelled=values[-1])
        done = step + 1
        if settings.save_every_steps and done % settings.save_every_steps == 0 and done < settings.steps_per_epoch:
            state.step, state.partial = done, seen.state_dict()
            run.save("last")
    means = seen.means()
    skipped = settings.steps_per_epoch - seen.count
    if not means:
        raise TrainingDivergedError(
            f"no step of the epoch had a finite loss and gradient ({skipped} skipped); a lower "
            "train.learning_rate or train.precision fp32 may help"
        )
    return {**means, "skipped_steps": skipped}


def _one_batch(accelerator):
    """A context in which the batches of all processes are one, for layers that look at more than a single patch."""
    return SharedBatchNorm() if accelerator.num_processes > 1 else nullcontext()


def _images_of_epoch(run, epoch, loader, progress):
    """The training images of an epoch, as this process's share of every batch."""
    loader.set_epoch(epoch)
    for batch in progress(loader, desc="batch statistics", leave=False, total=run.config.train.steps_per_epoch):
        yield batch["image"]


def _is_scored(settings, state, epoch, loss):
    """Whether whole volumes are scored after an epoch: when it is due, and where the run may end, so that it has a best."""
    due = (epoch + 1) % settings.score_every_epochs == 0 or epoch + 1 == settings.num_epochs
    better = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
    return due or (not better and 0 < settings.early_stopping_patience <= state.epochs_without_improvement + 1)


def _seed_step(*key):
    """Seed torch for one step, from (seed, epoch, step, process): what drops out is the same after a resume."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def _diagnose_gradients(run, epoch, loss_function, probe):
    """The gradient diagnostics of an epoch in which it is due, taken by the main process while the others wait."""
    every = run.config.train.gradient_diagnostics_every_epochs
    if not run.accelerator.is_main_process or every == 0 or epoch % every:
        return None
    patches = [
        (patch["image"].to(run.accelerator.device), read_labels(run.config, patch["label"].to(run.accelerator.device)))
        for patch in probe
    ]
    components = {name: loss_function.alone(name) for name in loss_function.weights}
    scaler = run.accelerator.scaler
    scale = 1.0 if scaler is None else scaler.get_scale()
    return gather_gradient_diagnostics(run.model, patches, components, loss_function.weights, scale)


@torch.no_grad()
def _validate_patches(accelerator, model, config, loader):
    """Loss and components, and the output's mean and spread over all labelled voxels of the fixed validation patches.

    The loss is that of the last epoch's weights: one yardstick for all epochs, where a schedule moves the weights.
    """
    loss_function = make_loss(config, config.train.num_epochs - 1, report=config.loss.schedule)
    model.eval()
    sums = Counter()
    for batch in loader:
        image, label = (batch[name].to(accelerator.device) for name in ("image", "label"))
        label = read_labels(config, label)
        logits = model(image).float()
        total, components = loss_function(logits, label)
        for name, value in {"loss": total, **components}.items():
            sums[name] += float(value) * len(label)
        # A patch without a labelled voxel has a loss of 0 and is no part of the mean.
        sums["patches"] += int((label != UNLABELLED).flatten(1).any(1).sum())
        probability = logits.sigmoid()[:, 0][label != UNLABELLED].double()
        sums["voxels"] += probability.numel()
        sums["surface"] += int((label == SURFACE).sum())
        sums["output"] += float(probability.sum())
        sums["output_squared"] += float(probability.square().sum())
    # Not a sum of Counters, which would drop what is not positive.
    rows = gather_rows([dict(sums)])
    sums = {name: math.fsum(row.get(name, 0) for row in rows) for name in sorted(set().union(*rows))}
    patches, voxels = sums.pop("patches"), max(sums.pop("voxels"), 1)
    surface, output, squared = (sums.pop(name) / voxels for name in ("surface", "output", "output_squared"))
    shape = {"output_mean": output, "output_std": math.sqrt(max(squared - output**2, 0.0)), "surface_share": surface}
    return {**{name: total / patches for name, total in sums.items()}, **shape}


def _score_volumes(config, accelerator, model, chunks, progress):
    """Mean competition score over whole validation volumes, predicted and repaired as a submission would be."""
    parts = ("score", "toposcore", "surface_dice", "voi_score")
    chunks = choose_scored(config, chunks)
    rows = []
    for chunk in chunks[accelerator.process_index :: accelerator.num_processes]:
        label = read_volume(chunk.label_path)
        # The official score of a volume that nobody labelled is 1, whatever was predicted.
        if not np.any(label != UNLABELLED):
            continue
        # The type is predict_volume's to choose: it goes back to float32 where float16 overflows.
        with plain_forward(model):
            probability = predict_volume(
                model,
                read_volume(chunk.image_path),
                window=inference_window(config),
                overlap=config.predict.overlap,
                batch_size=config.predict.batch_size,
                device=accelerator.device,
                dtype=dtype_of(accelerator),
                progress=progress,
            )
        mask = make_mask(probability, **config_to_dict(config.postprocess))
        result = leaderboard_score(mask, label)
        rows.append([getattr(result, part) for part in parts])
    rows = gather_rows(rows)
    # Summed exactly, so that the number of processes does not show in the last digit.
    return {"volumes": len(rows), **{part: math.fsum(values) / len(rows) for part, values in zip(parts, zip(*rows))}}


def _known_events(config, state, epoch):
    """What is to be said of an epoch before it is judged."""
    events = []
    if config.loss.unlabelled_as_surface:
        events.append({"kind": "labels", "reason": "label 2 is read as surface, for the plateau study"})
    start = f"epoch {epoch}: {RESUMED_FROM}"
    events += [{"kind": "resumed", "reason": note} for note in state.history if note.startswith(start)]
    return events


def _find_degradation(config, state, epoch, loss):
    """Why the run should go back to its best state after this epoch, or None."""
    settings = config.train
    # Written so that NaN counts as worse.
    rose = state.last_loss is not None and not loss <= state.last_loss
    state.rising_epochs = state.rising_epochs + 1 if rose else 0
    state.last_loss = loss if math.isfinite(loss) else state.last_loss
    nowhere = state.rollback_epoch is None or state.rollbacks >= settings.max_rollbacks
    if not may_roll_back(config) or nowhere or epoch < config.lr.warmup_epochs:
        return None
    best = f"the best, {state.best_loss:.4f} in epoch {state.rollback_epoch}"
    if settings.rollback_tolerance and not loss <= state.best_loss * (1 + settings.rollback_tolerance):
        return f"the validation loss, {loss:.4f}, is more than {settings.rollback_tolerance:.0%} worse than {best}"
    if 0 < settings.rollback_rising_epochs <= state.rising_epochs:
        return f"the validation loss has risen for {state.rising_epochs} epochs in a row, to {loss:.4f}, from {best}"
    return None


def _step_controller(run, line):
    """End the epoch for the controller; before it raises the rate, the diagnosis is asked whether the loss is to blame."""
    config, controller, loss = run.config, run.controller, line["validation"]["loss"]
    before = len(controller.interventions)
    allow_raise = config.lr.allow_raise and not averages_weights(config, line["epoch"])
    if isinstance(controller, LegacyHandler):
        controller.see_gradient(line["train"]["gradient_norm"])
    elif allow_raise and _would_raise(controller, loss):
        reason = None
        if run.accelerator.is_main_process:
            lines = [*read_lines(run.folder / "log.jsonl"), without_nan(line)]
            reason = suspect_loss(lines, config_to_dict(config))
        reason = broadcast(reason)
        if reason:
            allow_raise = False
            line["events"].append({"kind": "raise_held", "reason": reason})
            logger.info("the learning rate is not raised: %s", reason)
    controller.step(loss, allow_raise=allow_raise)
    line["interventions"] = controller.interventions[before:]


def _would_raise(controller, loss):
    trial = copy.deepcopy(controller)
    trial.step(loss)
    return len(trial.interventions) > len(controller.interventions)


def _check_processes(batch_size, processes):
    if batch_size % processes:
        raise InputValueError(
            f"train.batch_size must be divisible by the {processes} processes that share it, got {batch_size}"
        )


def _make_loaders(config, accelerator, model, train_chunks, validation_chunks):
    """The loader of training batches, still to be split by Accelerate, and that of this process's validation patches."""
    patches, settings = config.patches, config.train
    shared = {
        "patch_size": patches.size,
        "surface_fraction": patches.surface_fraction,
        "max_unlabelled_fraction": patches.max_unlabelled_fraction,
        "cache_volumes": patches.cache_volumes,
        "normalise": model.record.normalisation,
        "seed": settings.seed,
    }
    train_set = PatchDataset(
        train_chunks,
        samples_per_epoch=settings.steps_per_epoch * settings.batch_size,
        patches_per_volume=patches.per_volume,
        augmentation=Augmentation(patches.augmentation),
        **shared,
    )
    validation_set = make_validation_patches(config, validation_chunks, model.record.normalisation)
    # Training patches, unaltered, for the gradient diagnostics.
    probe = PatchDataset(train_chunks, samples_per_epoch=N_PATCHES, **shared)
    wanted = settings.gradient_diagnostics_every_epochs > 0 and accelerator.is_main_process
    pinned = torch.cuda.is_available()
    processes = accelerator.num_processes
    mine = Subset(validation_set, range(accelerator.process_index, settings.validation_patches, processes))
    return (
        DataLoader(
            train_set,
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            pin_memory=pinned,
            worker_init_fn=ignore_interrupts,
        ),
        DataLoader(mine, batch_size=settings.batch_size // processes, pin_memory=pinned),
        [probe[index] for index in range(len(probe))] if wanted else [],
    )


def _update_best(state, epoch, loss, scored):
    """Note what is better than before: the loss, the score."""
    better_loss = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
    better_score = scored is not None and (state.best_score is None or scored["score"] > state.best_score)
    # The first score is the best, and no improvement.
    improved = better_loss or (better_score and state.best_score is not None)
    if better_loss:
        state.best_loss = loss
    if better_score:
        state.best_score, state.best_epoch = scored["score"], epoch
    state.epochs_without_improvement = 0 if improved else state.epochs_without_improvement + 1
    return better_loss, better_score


class _Means:
    """Running means of named scalars, kept on the device so that no step waits for them.

    A sum that comes back from a checkpoint goes on in the same float32 arithmetic.
    """

    def __init__(self, state=None):
        self._sums, self.count = dict((state or {}).get("sums", {})), (state or {}).get("count", 0)

    def add(self, **values):
        self.count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()

    def means(self):
        # A patch without a labelled voxel has a loss of 0 and is no part of the mean.
        sums = {name: float(total) for name, total in self._sums.items()}
        labelled = sums.pop("labelled", 0.0) or math.nan
        return {name: total / (self.count if name == "gradient_norm" else labelled) for name, total in sums.items()}

    def state_dict(self):
        return {"sums": {name: float(total) for name, total in self._sums.items()}, "count": self.count}


def _summary(line):
    text = f"loss {line['train']['loss']:.4f}, validation {line['validation']['loss']:.4f}, rate {line['rate']:.2e}"
    if line["score"]:
        text += f", score {line['score']['score']:.4f} (surface dice {line['score']['surface_dice']:.4f})"
    return f"{text}, {line['seconds']:.0f} s"
