"""Make the log files under ``tests/files/logs`` anew, each by the program that writes such logs.

    python benchmarks/foreign_logs.py [PROGRAM ...] [--output FOLDER]

Every file is a real training on slices of phantoms, of some seconds on a CPU: healthy, or with a fault that people really
make. ``tests/files/logs/README.md`` says of each what it is. Needed beside the kit, for the program of that name only:
lightning; keras; transformers and accelerate; tensorboard; fastai; monai and pytorch-ignite; tqdm; pandas; nbclient, nbformat
and ipykernel; nnunetv2; mmengine. This does not run in CI: the tests read the files. Times, and the last digits of losses,
differ from machine to machine.
"""

import argparse
import contextlib
import functools
import getpass
import io
import json
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vesuvius_kit.phantom import make_phantom

SIDE = 48


class Task(NamedTuple):
    """Slices (n, 1, SIDE, SIDE) of float32 and labels of uint8 in {0, 1, 2}."""

    train_images: np.ndarray
    train_labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray


@functools.cache
def make_task(n_train=96, held_scroll=False):
    """Training slices from one side of a phantom, validation slices from its other side, all of them with labelled surface.

    With `held_scroll` validation is on a scroll wound the other way, so that a few training slices teach nothing about it.
    """
    phantom = make_phantom((24, 240, 384), seed=5, style="loose")
    other = make_phantom((24, 240, 384), seed=11, style="loose") if held_scroll else phantom
    parts = []
    for source, columns, count in ((phantom, range(0, 240, SIDE), n_train), (other, (288, 336), 32)):
        corners = [(z, y, x) for z in range(3, 21, 2) for y in range(0, 193, SIDE // 2) for x in columns]
        places = [(z, slice(y, y + SIDE), slice(x, x + SIDE)) for z, y, x in corners]
        places = [place for place in places if (source.label[place] == 1).mean() > 0.02]
        chosen = np.random.default_rng(0).permutation(len(places))[:count]
        images = np.stack([source.image[places[index]] for index in chosen])
        parts.append((images[:, None].astype(np.float32) - 80.0) / 40.0)
        parts.append(np.stack([source.label[places[index]] for index in chosen])[:, None])
    return Task(*parts)


def blacken(task):
    """`task` as ``(image / 255).astype(uint8)`` leaves it: every image is 0, and only the share of surface can be learned."""
    return task._replace(train_images=np.zeros_like(task.train_images), val_images=np.zeros_like(task.val_images))


class SmallUNet(nn.Module):
    """A U-Net of one step down; ``width`` filters at the top."""

    def __init__(self, width=8):
        super().__init__()

        def block(n_in, n_out):
            return nn.Sequential(
                nn.Conv2d(n_in, n_out, 3, padding=1), nn.InstanceNorm2d(n_out, affine=True), nn.ReLU(),
                nn.Conv2d(n_out, n_out, 3, padding=1), nn.InstanceNorm2d(n_out, affine=True), nn.ReLU(),
            )  # fmt: skip

        self.down, self.bottom, self.up = block(1, width), block(width, 2 * width), block(3 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images):
        fine = self.down(images)
        coarse = functional.interpolate(self.bottom(functional.max_pool2d(fine, 2)), scale_factor=2)
        return self.head(self.up(torch.cat([fine, coarse], 1)))


def masked_loss(logits, labels, dice_weight=1.0):
    """BCE and soft Dice over labelled voxels; 0 where there are none."""
    mask, target = (labels != 2).float(), (labels == 1).float()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    cross_entropy = (cross_entropy * mask).sum() / mask.sum().clamp(min=1)
    probability = torch.sigmoid(logits) * mask
    overlap, size = (probability * target).sum(), (probability + target).sum()
    return cross_entropy + dice_weight * (1 - (2 * overlap + 1) / (size + 1))


def naive_loss(logits, labels):
    """The cross entropy as beginners write it: 0 / 0 for a batch without a labelled voxel, and the logarithm of 0."""
    mask, target, probability = (labels != 2).float(), (labels == 1).float(), torch.sigmoid(logits)
    values = -(target * torch.log(probability) + (1 - target) * torch.log(1 - probability))
    return (values * mask).sum() / mask.sum()


def hard_dice(logits, labels):
    mask = labels != 2
    prediction, target = (logits > 0) & mask, (labels == 1) & mask
    return float(2 * (prediction & target).sum() / (prediction.sum() + target.sum()).clamp(min=1))


def train_plainly(
    task, n_epochs, lr=2e-3, *, width=8, batch_size=8, loss=masked_loss, surface=(1,), optimizer="adam", forget=False,
    seed=0, model=None, start=0, zero_head=False,
):  # fmt: skip
    """A loop as people write it; yields ``("step", index, n, loss, epoch)`` and ``("epoch", record)``.

    ``surface`` is which labels are taken for surface; `forget` zeroes the gradients between backward and step.
    """
    torch.manual_seed(seed)
    model = SmallUNet(width) if model is None else model
    if zero_head:
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
    kind = {"adam": torch.optim.Adam, "sgd": functools.partial(torch.optim.SGD, momentum=0.9)}[optimizer]
    steps = kind(model.parameters(), lr=lr)
    images, labels, val_images, val_labels = (torch.from_numpy(array) for array in task)
    if surface != (1,):
        labels, val_labels = (
            (part[..., None] == torch.tensor(surface)).any(-1).to(torch.uint8) for part in (labels, val_labels)
        )
    for epoch in range(start, start + n_epochs):
        model.train()
        order, losses = torch.randperm(len(images)), []
        n_steps = -(-len(images) // batch_size)
        for index in range(n_steps):
            chosen = order[index * batch_size : (index + 1) * batch_size]
            value = loss(model(images[chosen]), labels[chosen])
            steps.zero_grad()
            value.backward()
            if forget:
                steps.zero_grad()
            steps.step()
            losses.append(float(value.detach()))
            yield "step", index, n_steps, losses[-1], epoch
        model.eval()
        with torch.no_grad():
            logits = model(val_images)
            yield (
                "epoch",
                {
                    "epoch": epoch,
                    "train_loss": float(np.mean(losses)),
                    "val_loss": float(loss(logits, val_labels)),
                    "val_dice": hard_dice(logits, val_labels),
                    "lr": steps.param_groups[0]["lr"],
                },
            )


def epochs_of(*args, **options):
    return [event[1] for event in train_plainly(*args, **options) if event[0] == "epoch"]


def clean(text):
    """`text` without what it says of this machine."""
    for secret, substitute in (
        (tempfile.gettempdir(), "/data"), (str(Path.cwd()), "/data/kit"), (sys.prefix, "/data/venv"),
        (str(Path.home()), "/data"), (socket.gethostname(), "host"),
    ):  # fmt: skip
        text = text.replace(secret, substitute)
    text = re.sub(r"/data/data\w{8}\b", "/data", text)
    text = re.sub(r"/[^\s\"']*/site-packages", "/data/venv/site-packages", text)
    return text.replace(f"/{getpass.getuser()}/", "/user/")


@contextlib.contextmanager
def capturing(path):
    """What is printed inside, on both channels, as a console would receive it, to `path`."""
    stream = io.StringIO(newline="")
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield
    path.write_text(clean(stream.getvalue()), encoding="utf-8", newline="")


def copy_text(source, path):
    path.write_text(clean(Path(source).read_text(encoding="utf-8")), encoding="utf-8", newline="")


# --- Lightning -----------------------------------------------------------------------------------------------------


def make_lightning(output):
    """CSVLogger: healthy, resumed from a checkpoint, over-fitting, a rate 1000 times too low."""
    import lightning
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self, lr, width, steps, epochs):
            super().__init__()
            self.model, self.lr, self.horizon = SmallUNet(width), lr, epochs

        def training_step(self, batch, _):
            logits = self.model(batch[0])
            loss = masked_loss(logits, batch[1])
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            self.log("train_dice", hard_dice(logits, batch[1]), on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, _):
            logits = self.model(batch[0])
            self.log("val_loss", masked_loss(logits, batch[1]))
            self.log("val_dice", hard_dice(logits, batch[1]))

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.horizon)]

    def fit(name, task, epochs, lr=2e-3, width=8, resume=None, horizon=None, folder=None):
        lightning.seed_everything(0, verbose=False)
        images, labels, val_images, val_labels = (torch.from_numpy(array) for array in task)
        training = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
        validation = DataLoader(TensorDataset(val_images, val_labels), batch_size=32)
        with tempfile.TemporaryDirectory() as scratch:
            logger = CSVLogger(scratch, name="run")
            trainer = lightning.Trainer(
                max_epochs=epochs, logger=logger, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
                log_every_n_steps=4, callbacks=[LearningRateMonitor("epoch")], default_root_dir=scratch,
            )  # fmt: skip
            trainer.fit(Module(lr, width, len(training), horizon or epochs), training, validation, ckpt_path=resume)
            if folder is not None:
                trainer.save_checkpoint(folder / "half.ckpt")
            copy_text(Path(logger.log_dir) / "metrics.csv", output / f"lightning-{name}.csv")

    with tempfile.TemporaryDirectory() as scratch:
        fit("healthy", make_task(), 30)
        fit("stopped", make_task(), 14, horizon=30, folder=Path(scratch))
        fit("resumed", make_task(), 30, horizon=30, resume=Path(scratch) / "half.ckpt")
        fit("overfit", make_task(48, held_scroll=True), 40, lr=5e-3, width=12, horizon=400)
        fit("low-rate", make_task(), 25, lr=3e-6)


# --- Keras ---------------------------------------------------------------------------------------------------------


def make_keras(output):
    """CSVLogger, the console with its progress bar and with a line an epoch, and the history as JSON."""
    import keras
    from keras import ops

    def network(width):
        inputs = keras.Input((SIDE, SIDE, 1))
        value = inputs
        for _ in range(3):
            value = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(value)
        return keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(value))

    def parts_of(labels):
        return ops.cast(labels == 1, "float32"), ops.cast(labels != 2, "float32")

    def dice(labels, probability):
        target, mask = parts_of(labels)
        prediction = ops.cast(probability > 0.5, "float32") * mask
        return (2 * ops.sum(target * prediction) + 1e-6) / (ops.sum(target) + ops.sum(prediction) + 1e-6)

    def soft_dice(labels, probability):
        target, mask = parts_of(labels)
        return 1 - (2 * ops.sum(target * probability) + 1) / (ops.sum(target) + ops.sum(probability * mask) + 1)

    def cross_entropy(labels, probability):
        target, mask = parts_of(labels)
        probability = ops.clip(probability, 1e-7, 1 - 1e-7)
        return -ops.sum((target * ops.log(probability) + (1 - target) * ops.log(1 - probability)) * mask) / ops.sum(
            mask
        )

    def both(labels, probability):
        return cross_entropy(labels, probability) + soft_dice(labels, probability)

    def overflowing(labels, probability):
        target, mask = parts_of(labels)
        return -ops.sum((target * ops.log(probability) + (1 - target) * ops.log(1 - probability)) * mask) / ops.sum(
            mask
        )

    def fit(task, epochs, loss, lr=2e-3, width=10, metrics=(dice,), callbacks=(), verbose=0, start=0, model=None):
        keras.utils.set_random_seed(0)
        images, labels, val_images, val_labels = (np.moveaxis(array, 1, -1) for array in task)
        if model is None:
            model = network(width)
            model.compile(keras.optimizers.Adam(lr), loss=loss, metrics=list(metrics))
        history = model.fit(
            images, labels, validation_data=(val_images, val_labels), epochs=epochs, batch_size=8,
            callbacks=list(callbacks), verbose=verbose, initial_epoch=start,
        )  # fmt: skip
        return model, history.history

    def dice_coef(labels, probability):
        return soft_dice(labels, probability)

    csv = keras.callbacks.CSVLogger
    fit(make_task(), 30, both, callbacks=[csv(output / "keras-healthy.csv")])
    fit(
        blacken(make_task()), 20, cross_entropy, metrics=["accuracy", dice], callbacks=[csv(output / "keras-empty.csv")]
    )
    fit(
        make_task(), 25, both, metrics=[dice_coef],
        callbacks=[csv(output / "keras-dice-is-a-loss.csv", separator=";"), keras.callbacks.ReduceLROnPlateau(patience=3)],
    )  # fmt: skip
    appended = output / "keras-appended.csv"
    appended.unlink(missing_ok=True)
    model, _ = fit(make_task(), 12, both, callbacks=[csv(appended, append=True)])
    fit(make_task(), 24, both, callbacks=[csv(appended, append=True)], start=12, model=model)
    with capturing(output / "keras-console-bar.txt"):
        fit(make_task(), 16, both, verbose=1)
    with capturing(output / "keras-console-nan.txt"):
        fit(make_task(), 15, overflowing, lr=0.1, verbose=2)
    _, history = fit(make_task(24, held_scroll=True), 40, both, lr=5e-3, width=24)
    (output / "keras-history-overfit.json").write_text(
        json.dumps({name: [float(value) for value in values] for name, values in history.items()})
    )


# --- Transformers --------------------------------------------------------------------------------------------------


def make_transformers(output):
    """``trainer_state.json`` and the console of the Trainer, with a tiny SegFormer that knows nothing beforehand."""
    import transformers
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainingArguments

    transformers.logging.set_verbosity_error()

    class Slices(torch.utils.data.Dataset):
        def __init__(self, images, labels):
            self.images = np.repeat(images, 3, axis=1)
            self.labels = np.where(labels[:, 0] == 2, 255, labels[:, 0]).astype(np.int64)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return {"pixel_values": self.images[index], "labels": self.labels[index]}

    def metrics(prediction):
        logits = functional.interpolate(torch.from_numpy(prediction.predictions), (SIDE, SIDE), mode="bilinear")
        labels = prediction.label_ids
        mask, found, target = labels != 255, logits.argmax(1).numpy() == 1, labels == 1
        return {"dice": float(2 * (found & target).sum() / max(1, (found & mask).sum() + target.sum()))}

    def fit(name, task, epochs, lr=2e-3, steps=None, console=False, resume=None, optimizer="adamw_torch", folder=None):
        transformers.set_seed(0)
        model = SegformerForSemanticSegmentation(
            SegformerConfig(
                num_encoder_blocks=2,
                depths=[1, 1],
                sr_ratios=[4, 2],
                hidden_sizes=[16, 24],
                patch_sizes=[3, 3],
                strides=[2, 2],
                num_attention_heads=[1, 2],
                mlp_ratios=[2, 2],
                decoder_hidden_size=24,
                num_labels=2,
                classifier_dropout_prob=0.0,
                drop_path_rate=0.0,
            )
        )
        with tempfile.TemporaryDirectory() as scratch:
            scratch = folder or scratch
            arguments = TrainingArguments(
                output_dir=scratch, num_train_epochs=epochs, per_device_train_batch_size=8, per_device_eval_batch_size=32,
                learning_rate=lr, eval_strategy="epoch", save_strategy="no", logging_strategy="steps" if steps else "epoch",
                logging_steps=steps or 500, report_to=[], use_cpu=True, optim=optimizer, disable_tqdm=not console, seed=0,
            )  # fmt: skip
            trainer = Trainer(
                model=model,
                args=arguments,
                train_dataset=Slices(*task[:2]),
                eval_dataset=Slices(*task[2:]),
                compute_metrics=metrics,
            )
            with capturing(output / f"transformers-console-{name}.txt") if console else contextlib.nullcontext():
                trainer.train()
            if not console:
                path = Path(scratch) / "state.json"
                trainer.state.save_to_json(str(path))
                copy_text(path, output / f"transformers-{name}.json")

    fit("healthy", make_task(), 30, lr=2.0, optimizer="sgd")
    fit("empty-steps", make_task(), 24, steps=5)
    fit("low-rate", make_task(), 20, lr=2e-6)
    fit("overfit", make_task(48, held_scroll=True), 60, lr=4e-3)
    fit("high-rate", make_task(), 20, lr=1.0)
    fit("nan", make_task(), 10, lr=1e8, optimizer="sgd")
    fit("healthy", make_task(), 16, lr=2.0, optimizer="sgd", console=True)


# --- TensorBoard ---------------------------------------------------------------------------------------------------


def make_tensorboard(output):
    """Event files of ``torch.utils.tensorboard``: healthy, over-fitting, a rate too high, a run continued in a second file."""
    from torch.utils.tensorboard import SummaryWriter

    def write(name, records, suffix=""):
        folder = output / f"tensorboard-{name}"
        with tempfile.TemporaryDirectory() as scratch:
            with SummaryWriter(scratch, filename_suffix=suffix) as writer:
                for record in records:
                    for tag, key in (
                        ("train/loss", "train_loss"),
                        ("val/loss", "val_loss"),
                        ("val/dice", "val_dice"),
                        ("lr", "lr"),
                    ):
                        writer.add_scalar(tag, record[key], record["epoch"])
            for index, path in enumerate(sorted(Path(scratch).iterdir())):
                stamp = path.name.split(".")[3]
                folder.mkdir(exist_ok=True)
                shutil.copy(path, folder / f"events.out.tfevents.{stamp}.host.1.{index}{suffix}")

    for path in output.glob("tensorboard-*"):
        shutil.rmtree(path)
    write("healthy", epochs_of(make_task(), 30))
    write("overfit", epochs_of(make_task(48, held_scroll=True), 30, lr=4e-3, width=12))
    write("high-rate", epochs_of(make_task(), 25, lr=5.0, optimizer="sgd"))
    model = SmallUNet()
    write("resumed", epochs_of(make_task(), 12, model=model), ".first")
    write("resumed", epochs_of(make_task(), 12, model=model, start=10, seed=1), ".second")


# --- plain loops ---------------------------------------------------------------------------------------------------


def make_pandas(output):
    """Histories written by ``DataFrame.to_csv``, with and without its index column."""
    import pandas

    pandas.DataFrame(epochs_of(make_task(), 30)).to_csv(output / "pandas-healthy.csv")
    stuck = epochs_of(
        make_task(), 25, forget=True, zero_head=True, loss=functools.partial(masked_loss, dice_weight=0.0)
    )
    pandas.DataFrame(stuck).rename(columns={"val_dice": "dice", "train_loss": "loss"}).to_csv(
        output / "pandas-ln2.csv", index=False
    )
    low = pandas.DataFrame(epochs_of(make_task(), 30, lr=3e-6)).rename(
        columns=lambda name: name.replace("_", " ").title()
    )
    low.to_csv(output / "pandas-low-rate.csv", index=False, sep="\t", float_format="%.5f")


def make_tqdm(output):
    """tqdm bars in a file: carriage returns, and colours; some batches without a labelled voxel, and a loss that overflows."""
    from tqdm import tqdm

    def show(path, events, colour, n_epochs):
        with capturing(path):
            bar, total = None, 0.0
            for event in events:
                if event[0] == "step":
                    _, index, n_steps, loss, epoch = event
                    if index == 0:
                        bar, total = (
                            tqdm(total=n_steps, desc=f"Epoch {epoch + 1}/{n_epochs}", colour=colour, mininterval=0),
                            0.0,
                        )
                    total += loss
                    bar.set_postfix(loss=f"{loss:.4f}")
                    bar.update()
                else:
                    bar.close()
                    record = event[1]
                    tqdm.write(
                        f"\x1b[32mEpoch {record['epoch'] + 1}/{n_epochs}\x1b[0m - loss: {record['train_loss']:.4f} - val_loss: "
                        f"{record['val_loss']:.4f} - val_dice: {record['val_dice']:.4f}",
                        file=sys.stdout,
                    )

    task = make_task(24)
    labels = task.train_labels.copy()
    labels[::2] = 2
    show(
        output / "tqdm-batches-of-zero.txt",
        train_plainly(task._replace(train_labels=labels), 20, batch_size=2),
        "green",
        20,
    )
    labels = task.train_labels.copy()
    labels[:3] = 2
    show(
        output / "tqdm-nan.txt",
        train_plainly(task._replace(train_labels=labels), 16, batch_size=2, loss=naive_loss),
        None,
        16,
    )


def make_console(output):
    """Lines of ``print`` and of ``logging``, one an epoch, in the forms people choose."""
    log = logging.getLogger("train")
    log.propagate = False
    log.setLevel(logging.INFO)

    def logged(path, *runs):
        path.unlink(missing_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
        log.addHandler(handler)
        for head, events, n_epochs in runs:
            for line in head:
                log.info(line)
            best = 0.0
            for _, record in (event for event in events if event[0] == "epoch"):
                log.info(
                    f"Epoch {record['epoch'] + 1}/{n_epochs} | train_loss={record['train_loss']:.6f} | "
                    f"val_loss={record['val_loss']:.6f} | dice={record['val_dice']:.4f} | lr={record['lr']:.2e}"
                )
                if record["val_dice"] > best:
                    best = record["val_dice"]
                    log.info(f"New best model saved (dice {best:.4f})")
        log.removeHandler(handler)
        handler.close()

    task = make_task()
    share = (task.train_labels > 0).mean()
    standing_still = train_plainly(task, 20, forget=True)
    logged(
        output / "console-two-runs.log",
        (["Starting training, lr 0.002"], standing_still, 20),
        (["Starting training, lr 0.002"], train_plainly(task, 20), 20),
    )
    logged(
        output / "console-label-2-as-surface.log",
        (
            [f"Label unique values: {np.unique(task.train_labels)}", f"Foreground (label > 0): {share:.1%} of voxels"],
            train_plainly(task, 16, surface=(1, 2)), 16,
        ),
    )  # fmt: skip
    logged(
        output / "console-high-rate.log",
        (["Starting training, lr 5"], train_plainly(task, 25, lr=5.0, optimizer="sgd"), 25),
    )

    with capturing(output / "console-all-zero.txt"):
        empty = task._replace(train_labels=np.full_like(task.train_labels, 2))
        for record in epochs_of(empty, 12, loss=functools.partial(masked_loss, dice_weight=0.0)):
            losses = f"loss {record['train_loss']:.4f} val {record['val_loss']:.4f}"
            print(f"[{record['epoch']:03d}/012] {losses} dice {record['val_dice']:.3f}")

    with capturing(output / "console-overfit.txt"):
        for record in epochs_of(make_task(48, held_scroll=True), 30, lr=4e-3, width=12):
            print(f"Epoch {record['epoch'] + 1}")
            print(f"  Train loss: {record['train_loss']:.4f}")
            print(f"  Valid loss: {record['val_loss']:.4f}, Dice score: {record['val_dice']:.4f}")

    with capturing(output / "console-short.txt"):
        for record in epochs_of(task, 3):
            print(
                f"epoch {record['epoch'] + 1:3d}  train {record['train_loss']:.4f}  valid {record['val_loss']:.4f}  (12.3s)"
            )


# --- fastai --------------------------------------------------------------------------------------------------------


def make_fastai(output):
    """The table on the console, and CSVLogger's file."""
    import importlib

    from fastai.callback.progress import CSVLogger
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from torch.utils.data import TensorDataset

    def dice(logits, labels):
        return hard_dice(logits, labels)

    # This module adds fit_one_cycle to Learner.
    importlib.import_module("fastai.callback.schedule")

    def fit(task, epochs, lr, loss, path=None):
        torch.manual_seed(0)
        images, labels, val_images, val_labels = (torch.from_numpy(array) for array in task)
        loaders = DataLoaders(
            DataLoader(TensorDataset(images, labels), bs=8, shuffle=True, num_workers=0),
            DataLoader(TensorDataset(val_images, val_labels), bs=32, num_workers=0),
            device="cpu",
        )
        with tempfile.TemporaryDirectory() as scratch:
            callbacks = [CSVLogger(fname="history.csv")] if path else []
            learner = Learner(loaders, SmallUNet(), loss_func=loss, metrics=dice, cbs=callbacks, path=scratch)
            if path:
                with learner.no_bar():
                    learner.fit_one_cycle(epochs, lr)
                copy_text(Path(scratch) / "history.csv", path)
            else:
                learner.fit_one_cycle(epochs, lr)

    fit(make_task(), 25, 5e-3, masked_loss, output / "fastai-healthy.csv")
    with capturing(output / "fastai-console-healthy.txt"):
        fit(make_task(), 20, 5e-3, masked_loss)
    with capturing(output / "fastai-console-empty.txt"):
        fit(blacken(make_task()), 15, 3e-3, functools.partial(masked_loss, dice_weight=0.0))


# --- nnU-Net -------------------------------------------------------------------------------------------------------


def prepare_nnunet(raw, number, name, cases, labels):
    """One data set planned and preprocessed by nnU-Net; `cases` are (image, label), the last two of them for validation."""
    import SimpleITK
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.paths import nnUNet_preprocessed

    folder = raw / f"Dataset{number:03d}_{name}"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for index, (image, label) in enumerate(cases):
        for array, path in (
            (image.astype(np.float32), f"imagesTr/c{index}_0000"),
            (label.astype(np.uint8), f"labelsTr/c{index}"),
        ):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(folder / f"{path}.nii.gz"))
    facts = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(facts))
    # The planner takes this number for torch's threads, where 0 is an error; the trainer needs 0 to augment in its own process.
    os.environ |= {"nnUNet_n_proc_DA": "1"}
    with contextlib.redirect_stdout(io.StringIO()):
        extract_fingerprints([number], num_processes=1, show_progress_bar=False)
        plan_experiments([number])
        plans_path = Path(os.fspath(nnUNet_preprocessed)) / folder.name / "nnUNetPlans.json"
        plans = json.loads(plans_path.read_text())
        plans["configurations"] = {"2d": plans["configurations"]["2d"]}
        plans["configurations"]["2d"] |= {"batch_size": 4, "patch_size": [SIDE, SIDE]}
        network = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
        network |= {
            "n_stages": 3, "features_per_stage": [8, 16, 16], "kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]],
            "n_conv_per_stage": [2] * 3, "n_conv_per_stage_decoder": [2] * 2,
        }  # fmt: skip
        plans_path.write_text(json.dumps(plans))
        preprocess([number], configurations=["2d"], num_processes=[1], show_progress_bar=False)
    names = [f"c{index}" for index in range(len(cases))]
    (plans_path.parent / "splits_final.json").write_text(json.dumps([{"train": names[:-2], "val": names[-2:]}]))
    shutil.copy(folder / "dataset.json", plans_path.parent)
    return plans_path.parent


def train_nnunet(prepared, epochs, options, resume=False):
    """nnU-Net's trainer on a prepared data set, with short epochs; its log lies in the results folder then."""
    from nnunetv2.run.run_training import maybe_load_checkpoint
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

    torch.manual_seed(0)
    np.random.seed(0)
    torch.set_num_threads(1)
    plans = json.loads((prepared / "nnUNetPlans.json").read_text()) | {"continue_training": resume}
    facts = json.loads((prepared / "dataset.json").read_text())
    kind = nnUNetTrainerNoDA if options.get("plain") else nnUNetTrainer
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = kind(plans, "2d", 0, facts, torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = epochs, 10, 5
        trainer.initial_lr, trainer.save_every = options.get("lr", 1e-2), 5
        maybe_load_checkpoint(trainer, resume, False)
        trainer.run_training()


def make_nnunet(output):
    """``training_log_*.txt``: healthy, over-fitting, killed and continued, label 2 as a class, two rates; checkpoints."""
    import multiprocessing
    import time

    phantom = make_phantom((24, 240, 384), seed=5, style="loose")
    other = make_phantom((24, 240, 384), seed=11, style="loose")

    def cut(source, y, x):
        return source.image[3:19, y : y + 72, x : x + 72], source.label[3:19, y : y + 72, x : x + 72]

    training = [cut(phantom, y, x) for x in (3, 75, 147) for y in (3, 75, 147)]
    held, held_scroll = ([cut(source, y, 290) for y in (40, 120)] for source in (phantom, other))
    right = {"background": 0, "surface": 1, "ignore": 2}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = f"{scratch}/{name}"
            Path(scratch, name).mkdir()
        os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
        for number, name, cases, labels, epochs, options in (
            (1, "healthy", training + held, right, 30, {}),
            (2, "overfit", training[4:5] + held_scroll, right, 40, {"plain": True}),
            (3, "continued", training + held, right, 24, {"killed_at": 13}),
            (4, "label-2-as-class", training + held, {"background": 0, "surface": 1, "unlabelled": 2}, 20, {}),
            (5, "nan", training + held, right, 12, {"lr": 1e12}),
            (6, "low-rate", training + held, right, 20, {"lr": 1e-5}),
        ):
            prepared = prepare_nnunet(Path(scratch, "raw"), number, name.replace("-", ""), cases, labels)
            os.environ |= {"nnUNet_n_proc_DA": "0"}
            fold = Path(
                scratch,
                "results",
                prepared.name,
                f"nnUNetTrainer{'NoDA' * ('plain' in options)}__nnUNetPlans__2d",
                "fold_0",
            )
            if "killed_at" in options:
                child = multiprocessing.get_context("spawn").Process(
                    target=train_nnunet, args=(prepared, epochs, options)
                )
                child.start()
                sign = f"Epoch {options['killed_at']}"
                while child.is_alive() and not any(
                    sign in path.read_text() for path in fold.glob("training_log_*.txt")
                ):
                    time.sleep(0.1)
                child.kill()
                child.join()
                keep_logging(fold / "checkpoint_latest.pth", output / "nnunet-checkpoint_latest.pth")
                train_nnunet(prepared, epochs, options, resume=True)
                folder = output / f"nnunet-{name}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                keep_logging(fold / "checkpoint_final.pth", folder / "checkpoint_final.pth")
                for path in sorted(fold.glob("training_log_*.txt")):
                    copy_nnunet(path, folder / path.name)
            else:
                train_nnunet(prepared, epochs, options)
                copy_nnunet(next(fold.glob("training_log_*.txt")), output / f"nnunet-{name}.txt")


def copy_nnunet(source, path):
    """Without the citation banner, which is prose of its authors'."""
    text = re.sub(r"#{20,}\n.*?#{20,}\n", "", clean(source.read_text(encoding="utf-8")), flags=re.DOTALL)
    path.write_text(text, encoding="utf-8", newline="")


def keep_logging(source, path):
    """The checkpoint without weights and optimiser state, everything else as nnU-Net wrote it."""
    checkpoint = torch.load(source, weights_only=False)
    torch.save(checkpoint | {"network_weights": {}, "optimizer_state": {}}, path)


# --- MONAI and ignite ----------------------------------------------------------------------------------------------


def make_monai(output):
    """The lines of StatsHandler under ignite's engines, and the loop of the tutorials with MONAI's own loss and metric."""
    from monai.engines import SupervisedEvaluator, SupervisedTrainer
    from monai.handlers import MeanDice, StatsHandler, ValidationHandler, from_engine
    from monai.losses import DiceLoss
    from monai.metrics import DiceMetric
    from monai.transforms import AsDiscreted, Compose
    from torch.utils.data import DataLoader, Dataset

    class Slices(Dataset):
        def __init__(self, images, labels):
            self.images, self.labels = torch.from_numpy(images), torch.from_numpy((labels == 1).astype(np.float32))

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return {"image": self.images[index], "label": self.labels[index]}

    task = make_task(64)
    loaders = DataLoader(Slices(*task[:2]), batch_size=8, shuffle=True), DataLoader(Slices(*task[2:]), batch_size=32)
    loss = DiceLoss(sigmoid=True)

    torch.manual_seed(0)
    model = SmallUNet()
    with capturing(output / "monai-stats.txt"):
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
        evaluator = SupervisedEvaluator(
            "cpu",
            loaders[1],
            model,
            key_val_metric={"val_mean_dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
            postprocessing=Compose(
                [lambda data: data | {"pred": torch.sigmoid(data["pred"])}, AsDiscreted(keys="pred", threshold=0.5)]
            ),
            val_handlers=[StatsHandler(output_transform=lambda _: None)],
        )
        trainer = SupervisedTrainer(
            "cpu",
            20,
            loaders[0],
            model,
            torch.optim.Adam(model.parameters(), 2e-3),
            loss,
            train_handlers=[
                ValidationHandler(1, evaluator),
                StatsHandler(tag_name="train_loss", output_transform=from_engine(["loss"], first=True)),
            ],
        )
        trainer.run()
    logging.basicConfig(force=True)

    def loop(path, task, epochs, rate):
        torch.manual_seed(0)
        model, metric, best, best_epoch = SmallUNet(), DiceMetric(include_background=True), -1.0, -1
        optimizer = torch.optim.Adam(model.parameters(), rate)
        training, validation = (
            DataLoader(Slices(*task[:2]), batch_size=8, shuffle=True),
            DataLoader(Slices(*task[2:]), batch_size=32),
        )
        with capturing(path):
            for epoch in range(epochs):
                print("-" * 10)
                print(f"epoch {epoch + 1}/{epochs}")
                total = 0.0
                for step, batch in enumerate(training, 1):
                    value = loss(model(batch["image"]), batch["label"])
                    optimizer.zero_grad()
                    value.backward()
                    optimizer.step()
                    total += value.item()
                    print(f"{step}/{len(training)}, train_loss: {value.item():.4f}")
                print(f"epoch {epoch + 1} average loss: {total / len(training):.4f}")
                if (epoch + 1) % 2 == 0:
                    with torch.no_grad():
                        for batch in validation:
                            metric((model(batch["image"]) > 0).float(), batch["label"])
                    mean = metric.aggregate().item()
                    metric.reset()
                    if mean > best:
                        best, best_epoch = mean, epoch + 1
                        print("saved new best metric model")
                    print(f"current epoch: {epoch + 1} current mean dice: {mean:.4f}")
                    print(f"best mean dice: {best:.4f} at epoch: {best_epoch}")
        return model

    loop(output / "monai-loop-healthy.txt", task, 24, 5e-3)
    loop(output / "monai-loop-low-rate.txt", task, 16, 5e-6)


# --- mmengine ------------------------------------------------------------------------------------------------------


def make_mmengine(output):
    """The log and the ``scalars.json`` of OpenMMLab's runner."""
    from mmengine.evaluator import BaseMetric, Evaluator
    from mmengine.model import BaseModel
    from mmengine.runner import Runner
    from torch.utils.data import DataLoader, TensorDataset

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.network = SmallUNet()

        def forward(self, images, labels, mode):
            logits = self.network(images)
            return {"loss": masked_loss(logits, labels)} if mode == "loss" else (logits, labels)

    class Dice(BaseMetric):
        def process(self, batch, samples):
            logits, labels = samples
            self.results.append((hard_dice(logits, labels), float(masked_loss(logits, labels))))

        def compute_metrics(self, results):
            dice, loss = np.mean(results, axis=0)
            return {"dice": float(dice), "val_loss": float(loss)}

    task = [torch.from_numpy(array) for array in make_task(64)]
    with tempfile.TemporaryDirectory() as scratch:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runner = Runner(
                Model(), scratch, train_dataloader=DataLoader(TensorDataset(*task[:2]), batch_size=8, shuffle=True),
                val_dataloader=DataLoader(TensorDataset(*task[2:]), batch_size=32), val_evaluator=Evaluator([Dice()]),
                val_cfg={},
                train_cfg={"by_epoch": True, "max_epochs": 20}, optim_wrapper={"optimizer": {"type": "Adam", "lr": 2e-3}},
                default_hooks={"logger": {"type": "LoggerHook", "interval": 4}}, randomness={"seed": 0},
            )  # fmt: skip
            runner.train()
        copy_text(next(Path(scratch).glob("*/vis_data/scalars.json")), output / "mmengine-scalars.json")
        lines = clean(next(Path(scratch).glob("*/*.log")).read_text(encoding="utf-8")).splitlines(keepends=True)
        kept = [line for line in lines if " - mmengine - " in line and "Epoch(" in line]
        (output / "mmengine-healthy.log").write_text("".join(kept), encoding="utf-8", newline="")


# --- notebooks -----------------------------------------------------------------------------------------------------


def make_notebook(output):
    """Notebooks executed by nbclient: the output of a loop, of tqdm's bars, and fastai's table, kept in the file."""
    import nbclient
    import nbformat

    setup = (
        "import sys; sys.path.insert(0, 'benchmarks')\nimport torch; torch.set_num_threads(1)\n"
        "from foreign_logs import make_task, masked_loss, hard_dice, SmallUNet, train_plainly"
    )
    loop = (
        "from tqdm.auto import tqdm\n"
        "bar = tqdm(total=30)\n"
        "for event in train_plainly(make_task(48, held_scroll=True), 30, 4e-3, width=12):\n"
        "    if event[0] == 'epoch':\n"
        "        record = event[1]\n"
        "        bar.update()\n"
        "        print(f\"Epoch {record['epoch'] + 1:02d}: train loss {record['train_loss']:.4f}, \"\n"
        "              f\"val loss {record['val_loss']:.4f}, val dice {record['val_dice']:.4f}\")"
    )
    table = (
        "from fastai.vision.all import DataLoaders, DataLoader, Learner\n"
        "from torch.utils.data import TensorDataset\n"
        "images, labels, val_images, val_labels = map(torch.from_numpy, make_task())\n"
        "data = DataLoaders(DataLoader(TensorDataset(images, labels), bs=8, shuffle=True, num_workers=0),\n"
        "                   DataLoader(TensorDataset(val_images, val_labels), bs=32, num_workers=0), device='cpu')\n"
        "def dice(logits, labels):\n"
        "    return hard_dice(logits, labels)\n"
        "learner = Learner(data, SmallUNet(), loss_func=masked_loss, metrics=dice)\n"
        "learner.fit_one_cycle(20, 5e-3)"
    )
    for name, cell in (("overfit", loop), ("fastai", table)):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (setup, cell)])
        nbclient.NotebookClient(
            notebook, timeout=3600, resources={"metadata": {"path": str(Path(__file__).parents[1])}}
        ).execute()
        for output_of_cell in notebook.cells[-1].outputs:
            data = output_of_cell.get("data", {})
            if "text/html" in data:
                # The style sheet of fastai's progress bars.
                data["text/html"] = re.sub(r"<style>.*?</style>", "", data["text/html"], flags=re.DOTALL)
        (output / f"notebook-{name}.ipynb").write_text(
            clean(nbformat.writes(notebook)) + "\n", encoding="utf-8", newline=""
        )


# --- command line --------------------------------------------------------------------------------------------------

PROGRAMS = {
    name.removeprefix("make_"): function
    for name, function in list(globals().items())
    if name.startswith("make_") and name not in ("make_phantom", "make_task")
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PROGRAMS)}; all of them if none is named"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "tests" / "files" / "logs")
    arguments = parser.parse_args()
    unknown = set(arguments.programs) - set(PROGRAMS)
    if unknown:
        parser.error(f"no program {', '.join(sorted(unknown))}: {', '.join(PROGRAMS)} are known")
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.programs or PROGRAMS:
        print(f"{name} ...", flush=True)
        PROGRAMS[name](arguments.output.resolve())


if __name__ == "__main__":
    main()
