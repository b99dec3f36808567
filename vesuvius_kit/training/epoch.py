"""The parts of an epoch: its steps, the validation loss on fixed patches, the score of whole volumes, gradient diagnostics."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vesuvius_kit.checks import RunFailedError
from vesuvius_kit.config import config_to_dict
from vesuvius_kit.console import Progress
from vesuvius_kit.constants import SURFACE, UNLABELLED
from vesuvius_kit.data.competition import Chunk
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.inference.threads import keep_torch_threads
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.losses import WeightedLoss
from vesuvius_kit.metrics import leaderboard_score
from vesuvius_kit.postprocess import make_mask
from vesuvius_kit.training.batch_norm import SharedBatchNorm, measure_statistics
from vesuvius_kit.training.from_config import choose_scored, inference_window, labelled_share, make_loss
from vesuvius_kit.training.gradient_diagnostics import gather_gradient_diagnostics
from vesuvius_kit.training.processes import dtype_of, gather_rows, plain_forward
from vesuvius_kit.training.run import Run

LabelTransform = Callable[[Tensor], Tensor]
"""Labels (B, Z, Y, X) as the loss is to see them."""


class TrainingDivergedError(RunFailedError):
    """Not one step of an epoch had a finite loss and gradient."""


def train_epoch(
    run: Run,
    epoch: int,
    model: nn.Module,
    optimizer: Any,
    loss_function: WeightedLoss,
    loader: Any,
    read_labels: LabelTransform,
    progress: Progress,
) -> dict[str, float]:
    """Make one pass over the epoch's patches, or over those that are left of it; return the means of what was seen.

    ``model``, ``optimizer`` and ``loader`` are those that Accelerate has prepared.

    Raises
    ------
    TrainingDivergedError
        Not one step had a finite loss and gradient.
    """
    state, accelerator, settings = run.state, run.accelerator, run.config.train
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
        with one_batch(accelerator):
            logits = model(batch["image"])
        labels = read_labels(batch["label"])
        total, components = loss_function(logits, labels)
        accelerator.backward(total)
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        # Each process has an equal part of the batch, so means over processes are means over the batch, and all agree
        # on whether the step is sound.
        share = labelled_share(labels)
        values = accelerator.reduce(torch.stack([total.detach(), *components.values(), share]), "mean")
        finite = bool(torch.isfinite(values[0]) & torch.isfinite(norm))
        # One step with NaN would ruin the weights for good. The fp16 scaler skips it by itself, and must see it to adapt.
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
            f"no step of the epoch had a finite loss and gradient ({skipped} skipped); a lower train.learning_rate or "
            "train.precision fp32 may help"
        )
    return {**means, "skipped_steps": skipped}


@torch.no_grad()
def validate_patches(
    run: Run, model: nn.Module, batches: Iterable[Mapping[str, Tensor]], read_labels: LabelTransform
) -> dict[str, float]:
    """Return loss and components on the fixed validation patches, and the output's mean and spread over labelled voxels.

    The loss is that of the last epoch's weights: one yardstick for all epochs, where a schedule moves the weights.
    """
    config, accelerator = run.config, run.accelerator
    loss_function = make_loss(config, config.train.num_epochs - 1, report=config.loss.schedule)
    model.eval()
    sums: dict[str, float] = defaultdict(float)
    for batch in batches:
        image, label = (batch[name].to(accelerator.device) for name in ("image", "label"))
        label = read_labels(label)
        with plain_forward(model), accelerator.autocast():
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
    rows = gather_rows([dict(sums)])
    totals = {name: math.fsum(row.get(name, 0) for row in rows) for name in sorted(set().union(*rows))}
    patches, voxels = totals.pop("patches"), max(totals.pop("voxels"), 1)
    surface, output, squared = (totals.pop(name) / voxels for name in ("surface", "output", "output_squared"))
    shape = {"output_mean": output, "output_std": math.sqrt(max(squared - output**2, 0.0)), "surface_share": surface}
    return {**{name: total / patches for name, total in totals.items()}, **shape}


def score_volumes(run: Run, model: nn.Module, chunks: Sequence[Chunk], progress: Progress) -> dict[str, float]:
    """Return the mean competition score over whole validation volumes, predicted and repaired as a submission would be."""
    config, accelerator = run.config, run.accelerator
    parts = ("score", "toposcore", "surface_dice", "voi_score")
    rows = []
    for chunk in choose_scored(config, chunks)[accelerator.process_index :: accelerator.num_processes]:
        label = read_volume(chunk.require_label())
        # The official score of a volume without a label is 1, whatever was predicted.
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
        with keep_torch_threads():
            result = leaderboard_score(make_mask(probability, **config_to_dict(config.postprocess)), label)
        rows.append([getattr(result, part) for part in parts])
    rows = gather_rows(rows)
    # Summed exactly, so that the number of processes does not show in the last digit.
    return {"volumes": len(rows), **{part: math.fsum(values) / len(rows) for part, values in zip(parts, zip(*rows))}}


def diagnose_gradients(
    run: Run,
    epoch: int,
    loss_function: WeightedLoss,
    probe: Sequence[Mapping[str, Tensor]],
    read_labels: LabelTransform,
) -> dict[str, Any] | None:
    """Return the gradient diagnostics of an epoch in which they are due, taken by the main process while the others wait."""
    every, accelerator = run.config.train.gradient_diagnostics_every_epochs, run.accelerator
    if not accelerator.is_main_process or every == 0 or epoch % every:
        return None
    device = accelerator.device
    patches = [(patch["image"].to(device), read_labels(patch["label"].to(device))) for patch in probe]
    components = {name: loss_function.alone(name) for name in loss_function.weights}
    scale = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()
    return gather_gradient_diagnostics(run.model, patches, components, loss_function.weights, scale)


def renew_statistics(run: Run, model: nn.Module, epoch: int, loader: Any, progress: Progress) -> None:
    """Take the statistics of batch normalisation anew over an epoch's training images, for averaged weights."""
    loader.set_epoch(epoch)
    batches = progress(loader, desc="batch statistics", leave=False, total=run.config.train.steps_per_epoch)
    with one_batch(run.accelerator), run.accelerator.autocast():
        measure_statistics(model, _images(batches))


def _images(batches: Iterable[Mapping[str, Tensor]]) -> Iterator[Tensor]:
    for batch in batches:
        yield batch["image"]


def one_batch(accelerator: Accelerator) -> AbstractContextManager[Any]:
    """Return a context in which the batches of all processes are one, for layers that look at more than a single patch."""
    return SharedBatchNorm() if accelerator.num_processes > 1 else nullcontext()


def _seed_step(*key: int) -> None:
    """Seed torch for one step, from (seed, epoch, step, process): what drops out is the same after a resume."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


class _Means:
    """Running means of named scalars, kept on the device so that no step waits for them.

    A sum that comes back from a checkpoint goes on in the same float32 arithmetic.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._sums: dict[str, Any] = dict(state.get("sums", {}))
        self.count: int = state.get("count", 0)

    def add(self, **values: Tensor) -> None:
        self.count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()

    def means(self) -> dict[str, float]:
        # A patch without a labelled voxel has a loss of 0 and is no part of the mean.
        sums = {name: float(total) for name, total in self._sums.items()}
        labelled = sums.pop("labelled", 0.0) or math.nan
        return {name: total / (self.count if name == "gradient_norm" else labelled) for name, total in sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: float(total) for name, total in self._sums.items()}, "count": self.count}
