"""One curve in the many forms in which programs log it: writers for the tests of the readers, each with what it can hold."""

# ruff: noqa: E501 (what a log holds in one line stands in one line)

import json
from collections.abc import Callable
from typing import Any

Curve = list[dict[str, Any]]
"""One row an epoch: `epoch` from 0, `train`, `val`, `dice`, `rate`."""
STAMP = "2026-01-06 16:27:55,138"


def lightning_csv(curve: Curve) -> str:
    """Sparse rows: the rate at the beginning of an epoch without its number, single steps, the validation, the epoch."""
    out = ["epoch,lr-AdamW,step,train_dice_epoch,train_loss_epoch,train_loss_step,val_dice,val_loss"]
    for row in curve:
        e, step = row["epoch"], 10 * row["epoch"] + 9
        out += [
            f",{row['rate']},{step - 9},,,,,",
            f"{e},,{step - 4},,,{row['train'] * 1.1},,",
            f"{e},,{step},,,,{row['dice']},{row['val']}",
            f"{e},,{step},{row['dice']},{row['train']},,,",
        ]
    return "\n".join(out) + "\n"


def keras_csv(curve: Curve, separator: str = ",") -> str:
    rows = [("epoch", "accuracy", "dice_coef", "learning_rate", "loss", "val_dice_coef", "val_loss")]
    rows += [(r["epoch"], 0.9, r["dice"], r["rate"], r["train"], r["dice"], r["val"]) for r in curve]
    return "".join(separator.join(str(cell) for cell in row) + "\n" for row in rows)


def pandas_csv(curve: Curve) -> str:
    out = [",Epoch,Train Loss,Valid Loss,Dice,LR"]
    out += [f"{n},{r['epoch']},{r['train']},{r['val']},{r['dice']},{r['rate']}" for n, r in enumerate(curve)]
    return "\n".join(out) + "\n"


def german_csv(curve: Curve) -> str:
    rows = [["epoch", "train_loss", "val_loss", "dice", "lr"]]
    rows += [
        [str(r["epoch"]), *(f"{r[key]}".replace(".", ",") for key in ("train", "val", "dice", "rate"))] for r in curve
    ]
    return "".join(";".join(row) + "\n" for row in rows)


def tab_table(curve: Curve) -> str:
    """As fastai's table comes out of a notebook, behind other lines."""
    out = [
        "Device: cuda",
        "Better model found at epoch 0 with dice value: 0.123.",
        "epoch\ttrain_loss\tvalid_loss\tdice\ttime",
    ]
    out += [f"{r['epoch']}\t{r['train']}\t{r['val']}\t{r['dice']}\t01:46" for r in curve]
    return "\n".join([*out, "Best model loaded."]) + "\n"


def space_table(curve: Curve) -> str:
    out = ["epoch     train_loss  valid_loss  dice      time    "]
    out += [f"{r['epoch']:<9} {r['train']:<11} {r['val']:<11} {r['dice']:<9} 01:46   " for r in curve]
    return "\n".join(out) + "\n"


def bar_table(curve: Curve) -> str:
    out = ["| Epoch | Train Loss | Val Loss | Dice |", "|-------|-----------|----------|------|"]
    out += [f"| {r['epoch']} | {r['train']} | {r['val']} | {r['dice']} |" for r in curve]
    return "\n".join(out) + "\n"


def nnunet_v2(curve: Curve, spelling: str = "plain") -> str:
    write = {
        "plain": lambda v: f"[{v}, {v}]",
        "numpy": lambda v: f"[np.float32({v}), np.float32({v})]",
        "nan": lambda v: f"[{v}, nan]",
        "array": lambda v: f"[array({v}, dtype=float32)]",
    }[spelling]
    out = [
        "",
        "#######",
        "Please cite the following paper when using nnU-Net:",
        "",
        f"{STAMP}: Using splits from existing split file: /x/y.json ",
    ]
    out += [
        "This is the configuration used by this training:",
        " {'batch_size': 2, 'patch_size': [64, 160, 224], 'loss': 'x'} ",
    ]
    for r in curve:
        out += [
            f"2024-09-09 18:09:08.{r['epoch']:06d}: {text} "
            for text in (
                "", f"Epoch {r['epoch']}", f"Current learning rate: {r['rate']}", f"train_loss {r['train']}", f"val_loss {r['val']}",
                f"Pseudo dice {write(r['dice'])}", "Epoch time: 61.3 s", "Yayy! New best EMA pseudo Dice: 0.2955",
            )
        ]  # fmt: skip
    return "\n".join(out) + "\n"


def nnunet_v1(curve: Curve) -> str:
    out = []
    for r in curve:
        out += [
            f"2021-03-01 12:00:00.123456: {text} "
            for text in (
                "", f"epoch:  {r['epoch']}", f"train loss : {r['train']}", f"validation loss: {r['val']}",
                f"Average global foreground Dice: [{r['dice']}, {r['dice']}]", "(interpret this as an estimate for the Dice of the "
                "different classes. This is not exact.)", f"lr: {r['rate']}", "This epoch took 61.300000 s",
            )
        ]  # fmt: skip
    return "\n".join(out) + "\n"


def one_line(template: str) -> Callable[[Curve], str]:
    """Return what writes a line, or several, from a template for each epoch, between lines that a training prints."""

    def write(curve: Curve) -> str:
        out = [
            "Training on cuda",
            "Config: lr=0.001, epochs=30, batch_size=2, loss: dice",
            "Number of parameters: 22,123,456",
        ]
        for r in curve:
            values = {**r, "n": 99, "next": r["epoch"] + 1}
            out += template.format(**values).split("\n")
        return "\n".join([*out, "Training complete in 12m 30s", "Best val loss: 0.01 at epoch 3"]) + "\n"

    return write


def monai(curve: Curve) -> str:
    out = []
    for r in curve:
        out += [
            "-" * 10,
            f"epoch {r['epoch'] + 1}/99",
            f"1/41, train_loss: {r['train'] * 1.1:.4f}",
            f"2/41, train_loss: {r['train']:.4f}",
        ]
        out += [f"epoch {r['epoch'] + 1} average loss: {r['train']}", "saved new best metric model"]
        out += [f"current epoch: {r['epoch'] + 1} current mean dice: {r['dice']} best mean dice: 0.99 at epoch: 1"]
    return "\n".join(out) + "\n"


def keras_console(curve: Curve) -> str:
    out = []
    for r in curve:
        out += [f"Epoch {r['epoch'] + 1}/99"]
        bar = "\r".join(
            f"{k}/3 [{'=' * k}>....] - ETA: 3s - loss: {r['train'] * 2} - dice: 0.1" + "\x08" * 20 for k in (1, 2)
        )
        out += [
            f"{bar}\r3/3 [==============================] - 12s 120ms/step - loss: {r['train']} - dice: {r['dice']} - val_loss: "
            f"{r['val']} - val_dice: {r['dice']} - lr: {r['rate']}"
        ]
        out += [f"Epoch {r['epoch'] + 1}: val_loss improved from 0.99 to {r['val']}, saving model to best.keras"]
    return "\n".join(out) + "\n"


def tqdm_bars(curve: Curve) -> str:
    """Bars with carriage returns and colours; what is measured stands in the bar's last state, the validation on a line."""
    out = []
    for r in curve:
        states = [
            f"\x1b[32mEpoch {r['epoch']}/99:  {p}%|{'█' * (p // 10)}| {n}/4 [00:0{n}<00:03,  1.2it/s, loss={loss}]\x1b[0m"
            for p, n, loss in ((25, 1, r["train"] * 1.2), (50, 2, r["train"] * 1.1), (100, 4, r["train"]))
        ]
        out += ["\r".join(states), f"Val Loss: {r['val']} | Val Dice: {r['dice']}"]
    return "\n".join(out) + "\n"


def trainer_state(curve: Curve) -> str:
    history = []
    for r in curve:
        e = r["epoch"] + 1
        history += [
            {"epoch": e - 0.5, "grad_norm": 0.3, "learning_rate": r["rate"], "loss": r["train"], "step": 20 * e - 10},
            {"epoch": float(e), "grad_norm": 0.3, "learning_rate": r["rate"], "loss": r["train"], "step": 20 * e},
            {"epoch": float(e), "eval_loss": r["val"], "eval_dice": r["dice"], "eval_runtime": 3.1, "step": 20 * e},
        ]
    history.append({"epoch": 30.0, "step": 600, "total_flos": 1e15, "train_loss": 0.3, "train_runtime": 61.0})
    return json.dumps({"best_metric": 0.1, "epoch": 30.0, "global_step": 600, "log_history": history}, indent=2)


def trainer_console(curve: Curve) -> str:
    entries = json.loads(trainer_state(curve))["log_history"]
    lines = []
    for entry in entries:
        lines.append(str({key: value for key, value in entry.items() if key != "step"}))
        lines.append(" 10%|█         | 10/100 [00:10<01:30,  1.0s/it]")
    return "\n".join(lines) + "\n"


def history_json(curve: Curve) -> str:
    return json.dumps({
        "loss": [r["train"] for r in curve], "val_loss": [r["val"] for r in curve], "dice": [r["dice"] for r in curve],
        "lr": [r["rate"] for r in curve],
    })  # fmt: skip


def list_json(curve: Curve) -> str:
    return json.dumps([
        {"epoch": r["epoch"], "train_loss": r["train"], "val_loss": r["val"], "val_dice": r["dice"], "lr": r["rate"]} for r in curve
    ])  # fmt: skip


def json_lines(curve: Curve) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in json.loads(list_json(curve)))


def notebook(curve: Curve) -> str:
    text = one_line("Epoch {next}/{n} | train_loss {train} | val_loss {val} | dice {dice}")(curve)
    html = "<table border='1'><thead><tr><th>epoch</th><th>train_loss</th><th>valid_loss</th></tr></thead></table>"
    cells = [
        {"cell_type": "markdown", "source": ["# Epoch 1 Train Loss: 9.0"]},
        {"cell_type": "code", "source": ["print('loss: 1')"], "outputs": [
            {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)},
            {"output_type": "display_data", "data": {"text/html": [html], "text/plain": ["<IPython.core.display.HTML object>"]}},
        ]},
    ]  # fmt: skip
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def fastai_notebook(curve: Curve) -> str:
    rows = "".join(
        f"<tr><td>{r['epoch']}</td><td>{r['train']}</td><td>{r['val']}</td><td>{r['dice']}</td><td>01:46</td></tr>"
        for r in curve
    )
    names = "".join(f"<th>{name}</th>" for name in ("epoch", "train_loss", "valid_loss", "dice", "time"))
    html = f"<style>td {{color: red}}</style><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"
    outputs = [{"output_type": "display_data", "data": {"text/html": html, "text/plain": "<HTML>"}}]
    return json.dumps({"cells": [{"cell_type": "code", "source": "", "outputs": outputs}], "nbformat": 4})


def kaggle_json(curve: Curve) -> str:
    text = one_line(
        "Epoch {next} - avg_train_loss: {train}  avg_val_loss: {val}  time: 50s\nEpoch {next} - avg_dice: {dice}"
    )(curve)
    pieces = [
        {"stream_name": "stdout", "time": 1.0 + n, "data": line}
        for n, line in enumerate(text.splitlines(keepends=True))
    ]
    return json.dumps([{"stream_name": "stderr", "time": 0.1, "data": "warning: x\n"}, *pieces])


# Name of the form: what writes it, what it holds of a row, and what is added to the epoch.
ALL = ("train", "val", "dice", "rate")
FORMS: dict[str, tuple[Callable[[Curve], str], tuple[str, ...], int]] = {
    "lightning csv": (lightning_csv, ALL, 0),
    "keras csv": (keras_csv, ALL, 0),
    "keras csv, semicolons": (lambda curve: keras_csv(curve, ";"), ALL, 0),
    "pandas csv": (pandas_csv, ALL, 0),
    "german csv": (german_csv, ALL, 0),
    "tab table": (tab_table, ("train", "val", "dice"), 0),
    "space table": (space_table, ("train", "val", "dice"), 0),
    "bar table": (bar_table, ("train", "val", "dice"), 0),
    "nnunet 2": (nnunet_v2, ALL, 0),
    "nnunet 2, numpy": (lambda curve: nnunet_v2(curve, "numpy"), ALL, 0),
    "nnunet 2, nan": (lambda curve: nnunet_v2(curve, "nan"), ALL, 0),
    "nnunet 2, array": (lambda curve: nnunet_v2(curve, "array"), ALL, 0),
    "nnunet 1": (nnunet_v1, ALL, 0),
    "monai": (monai, ("train", "dice"), 1),
    "keras console": (keras_console, ALL, 1),
    "tqdm": (tqdm_bars, ("train", "val", "dice"), 0),
    "trainer state": (trainer_state, ALL, 1),
    "trainer console": (trainer_console, ALL, 1),
    "history": (history_json, ALL, 0),
    "list": (list_json, ALL, 0),
    "json lines": (json_lines, ALL, 0),
    "notebook": (notebook, ("train", "val", "dice"), 1),
    "fastai notebook": (fastai_notebook, ("train", "val", "dice"), 0),
    "kaggle": (kaggle_json, ("train", "val", "dice"), 1),
}
LINES: dict[str, tuple[tuple[str, ...], int]] = {
    "Epoch {epoch}/{n} | 809.5s | LR: {rate} | Loss: {train} | Dice: {dice} | Val Loss: {val}": (ALL, 0),
    "[Epoch {next}] train: {train} val: {val}": (("train", "val"), 1),
    "Epoch [{next}/{n}] Train Loss: {train}, Val Loss: {val}, Val Dice: {dice}, LR: {rate:e}": (ALL, 1),
    "epoch {next:03d} | train_loss={train} | val_loss={val} | dice={dice} | time=200.6s": (("train", "val", "dice"), 1),
    "epoch {next}/{n} ... loss: {train} - val_loss: {val}": (("train", "val"), 1),
    "Epoch {epoch}: train loss {train}, val loss {val}, dice {dice}": (("train", "val", "dice"), 0),
    "Epoch: {next} | Train Loss: {train} | Valid Loss: {val} | Time: 798.57 seconds   ": (("train", "val"), 1),
    "2025-07-07 13:55:26.649 INFO: Epoch [{next:03d}/300] - Train Loss: {train}, Valid Loss: {val}, LR: [{rate}]\n"
    "2025-07-07 13:55:26.653 INFO:   [SAVE] Best model at epoch {next}.": (("train", "val", "rate"), 1),
    "Epoch {next}/{n}\n  Train Loss: {train}\n  Val Loss:   {val}\n  Val Dice:   {dice}\n  LR:         {rate}\n"
    "  → Saved best model (Dice: 0.9911)\n": (ALL, 1),
    "Epoch {epoch}/{n}\n----------\ntrain Loss: {train} Dice: 0.5000\nval Loss: {val} Dice: {dice}\n": (("train", "val"), 0),
    "Train Loss: {train}\nVal Loss: {val}\nEpoch {next} completed in 20s": (("train", "val"), 1),
    "Epoch {epoch} Train - Loss: {train}\nEpoch {epoch} Val - Loss: {val}  <- BEST": (("train", "val"), 0),
    "epoch {next}, phase train, step 10, loss_train, 0.838\nepoch {next} | train_loss: {train}\nepoch {next} | val_loss: {val}\n"
    "epoch {next} | val_dsc: {dice}\nTime:  2025-04-20 00:42:56.226535": (("train", "val", "dice"), 1),
    "epoch : {next}, iteration : 3021, train loss : 0.172042, train loss_ce: 0.133527\nepoch : {next}, mean train loss : {train}, "
    "mean train ce loss: 0.126\nepoch : {next}, mean val loss : {val}, mean val dice : {dice}": (("train", "val", "dice"), 1),
    "Epoch {epoch} [0/314] Loss: 0.3850\nEpoch {epoch} finished. Training loss: {train}; validation loss: {val}": (("train", "val"), 0),
    "INFO:root:Epoch={next} train_loss={train:.6e} val_loss={val:.6e} iou={dice}": (("train", "val", "dice"), 1),
    "Ep {next}/{n}  trn_loss {train}  vl val_loss {val}  val_iou {dice}": (("train", "val", "dice"), 1),
    "wandb: syncing\nE{next} ignored 3.5\nEpoch #{next} TRAIN loss: {train}\nEpoch #{next} VALID loss: {val}": (("train", "val"), 1),
    "Epoch {next}/{n} - 12s - train_loss: {train} - val_loss: {val} - best: 0.01 (epoch 3) - patience 2/10": (("train", "val"), 1),
    "Epoch {next} | Train: loss {train}, dice 0.3 | Val: loss {val}, dice {dice} | lr {rate}": (("train", "val", "rate"), 1),
    "   Epoch {next:>4d}   loss = {train:10.6f}   validation loss = {val:10.6f}": (("train", "val"), 1),
    "==> Epoch {epoch} Average training loss: {train}\n==> Epoch {epoch} Average validation loss: {val} (best 0.1)": (("train", "val"), 0),
    "epoch={next} loss={train} (dice: 0.4200, bce: 0.1100) val_loss={val}": (("train", "val"), 1),
    "Epoch Progress:   0%|      | {epoch}/1000 [00:00<?, ?it/s]Dataset Size: 1%, Epoch: {next}, Train Loss: {train}, Val Loss: {val}": (
        ("train", "val"), 1),
    "Epoch {next}: 100%|██████████| 36/36 [00:12<00:00,  2.85it/s, v_num=3, train_loss_step=0.4, val_loss={val}, "
    "train_loss_epoch={train}]": (("train", "val"), 1),
    "Epoch {epoch}, global step 1115: 'val_loss' reached 0.50315 (best 0.50315), saving model to 'x-epoch=3.ckpt' as top 1\n"
    "Epoch {epoch}: train_loss={train} val_loss={val}": (("train", "val"), 0),
    "{{'epoch': {next}, 'train_loss': {train}, 'val_loss': {val}, 'val_dice': np.float64({dice})}}": (("train", "val", "dice"), 1),
    "INFO - Epoch {next} results: {{'epoch': {next}, 'train_loss': {train}, 'val_loss': {val}}}": (("train", "val"), 1),
    "Epoch {next}/{n}\nTraining: 100%|██████████| 314/314 [11:53<00:00,  2.27s/it, loss={train}]\n"
    "Validation: 100%|███| 79/79 [01:13<00:00, 1.1it/s, loss={val}]": (("train", "val"), 1),
    "Epoch: [{next}][0/100] Elapsed 0m 1s (remain 2m 3s) Loss: 0.7000(0.7000) Grad: 1.1  LR: 0.5  \nEVAL: [0/10] Elapsed 0m 1s Loss: "
    "0.6100(0.6100) \nEpoch {next} - avg_train_loss: {train}  avg_val_loss: {val}  time: 61s\nEpoch {next} - Score: {dice}\n"
    "Epoch {next} - Save Best Score: 0.9999 Model": (("train", "val", "dice"), 1),
    "[{next:3d}/10] tr_loss {train} va_loss {val} va_dice {dice}": (("train", "val", "dice"), 1),
    "{{\"epoch\": {epoch}, \"train\": {{\"loss\": {train}}}, \"val\": {{\"loss\": {val}, \"dice\": {dice}}}}}": (("train", "val", "dice"), 0),
    "12.3s\t7\tEpoch {next}/10 | Train Loss: {train} | Val Loss: {val} | Val Dice: {dice}": (("train", "val", "dice"), 1),
    "step {epoch}: train loss {train}, val loss {val}": (("train", "val"), 0),
}  # fmt: skip
FORMS |= {template: (one_line(template), holds, shift) for template, (holds, shift) in LINES.items()}
