"""Reading the logs people have: each form gives back what was written into it, and damage of any kind is one line."""

import contextlib
import json
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers.log_forms import FORMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.diagnosis import diagnose
from vesuvius_kit.diagnosis.readers import read_runs
from vesuvius_kit.diagnosis.readers.names import meaning_of


def read_text(text, name="run.log"):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_runs(path)


def make_curve(n_epochs=12):
    return [
        {
            "epoch": epoch,
            "train": round(0.3 + 0.4 * 0.85**epoch, 6),
            "val": round(0.35 + 0.4 * 0.87**epoch + 0.004 * (epoch % 3), 6),
            "dice": round(0.7 - 0.5 * 0.8**epoch, 5),
            "rate": round(0.001 * (1 - epoch / n_epochs), 7),
        }
        for epoch in range(n_epochs)
    ]


def assert_read(run, curve, holds, shift):
    """Every number that the form holds is back, at its epoch."""
    assert [record.epoch for record in run.records] == [row["epoch"] + shift for row in curve]
    for record, row in zip(run.records, curve, strict=True):
        for key, found in (("train", record.train), ("val", record.validation)):
            if key in holds:
                assert math.isclose(found["loss"], row[key], rel_tol=1e-5, abs_tol=1e-7), (key, record, row)
            else:
                assert "loss" not in found, (key, record)
        if "rate" in holds:
            assert math.isclose(record.rate, row["rate"], rel_tol=1e-5), (record, row)
        if "dice" in holds:
            scores = record.scores.values()
            assert any(math.isclose(value, row["dice"], rel_tol=1e-5) for value in scores), (record, row)


@pytest.mark.parametrize("n_epochs", [3, 4, 5, 12])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_back_what_was_written(form, n_epochs):  # D6
    write, holds, shift = FORMS[form]
    curve = make_curve(n_epochs)
    runs = read_text(write(curve))
    assert len(runs) == 1
    assert_read(runs[0], curve, holds, shift)


ROUND_TRIPS = sorted(form for form in FORMS if form not in ("nnunet 2, nan",))
values = st.floats(0.001, 9.0).map(lambda value: round(value, 6))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_numbers_come_back_through_any_form(data):
    form = data.draw(st.sampled_from(ROUND_TRIPS))
    curve = [
        {
            "epoch": epoch,
            "train": data.draw(values),
            "val": data.draw(values),
            "dice": data.draw(st.floats(0, 1).map(lambda value: round(value, 5))),
            "rate": 1e-3 * (1 + epoch),
        }
        for epoch in range(data.draw(st.integers(3, 8)))
    ]
    write, holds, shift = FORMS[form]
    assert_read(read_text(write(curve))[0], curve, holds, shift)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_healthy_curve_has_no_finding_in_any_form(data):
    """A false alarm costs more than a miss: curves that fall, slow down and stand, with noise; losses may be negative."""
    form = data.draw(st.sampled_from(sorted(FORMS)))
    n_epochs = data.draw(st.integers(6, 60))
    floor = data.draw(st.sampled_from([0.0, 0.1, -1.0]))
    height = data.draw(st.floats(0.4, 1.0))
    speed = data.draw(st.floats(0.75, 0.93))
    rest = data.draw(st.floats(0.15, 0.35)) * height
    gap = data.draw(st.floats(0.0, 0.15)) * height
    noise = data.draw(st.floats(0.0, 0.02)) * height
    seed = data.draw(st.integers(0, 2**20))
    wobble = [math.sin(12.9898 * (k + 1) * (1 + seed % 97)) for k in range(3 * n_epochs)]
    curve = []
    for epoch in range(n_epochs):
        left = rest + (height - rest) * speed**epoch
        curve.append(
            {
                "epoch": epoch,
                "train": round(floor + left + noise * wobble[epoch], 6),
                "val": round(floor + left + gap + noise * wobble[epoch + n_epochs], 6),
                "dice": round(min(max(0.9 - 0.85 * left / height + 0.01 * wobble[epoch + 2 * n_epochs], 0.0), 1.0), 5),
                "rate": 1e-3,
            }
        )
    diagnosis = diagnose_text(FORMS[form][0](curve))
    assert diagnosis.findings == [], diagnosis.to_text()
    assert diagnosis.verdict == "healthy"


def diagnose_text(text, name="run.log"):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return diagnose(path)


def console(rows):
    return "".join(
        f"Epoch {epoch} | " + " | ".join(f"{name}: {value}" for name, value in row.items()) + "\n"
        for epoch, row in enumerate(rows, 1)
    )


def faults_of(diagnosis):
    return [finding.fault for finding in diagnosis.findings]


# --- findings that logs of others show -------------------------------------------------------------------------------


def test_a_run_that_is_flat_from_its_beginning_does_not_learn():
    rows = [
        {"train_loss": round(0.41 - 0.01 * (n % 3) / 3, 4), "val_loss": round(0.413 - 0.006 * (n % 4) / 3, 4)}
        for n in range(40)
    ]
    diagnosis = diagnose_text(console(rows))
    assert (diagnosis.verdict, faults_of(diagnosis)) == ("does not learn", ["no_learning"])
    good = [{**row, "val_dice": round(0.71 + 0.01 * (n % 3), 4)} for n, row in enumerate(rows)]
    assert diagnose_text(console(good)).healthy  # a network that had learned before
    assert diagnose_text("Loading checkpoint from last.pth\n" + console(rows)).healthy
    assert diagnose_text(console(rows).replace("Epoch ", "Epoch 63")).healthy  # begins at epoch 631


def test_a_score_that_jumps_about_near_nothing_does_not_learn():
    rows = [
        {
            "train_loss": round(0.582 - 0.0008 * n + 0.004 * (n % 2), 4),
            "valid_loss": round(0.56 - 0.001 * n + 0.01 * (n % 3), 4),
            "dice": d,
        }
        for n, d in enumerate([0.0, 0.0002, 0.007, 0.0, 0.003, 0.07, 0.0, 0.004, 0.05, 0.01] * 3)
    ]
    assert diagnose_text(console(rows)).verdict == "does not learn"


@pytest.mark.parametrize("level", [math.log(2), math.log(3)])
def test_a_loss_at_chance_level(level):
    rows = [
        {"loss": round(level + 0.001 * (n % 3), 5), "val_loss": round(level + 0.0005 * (n % 2), 5)} for n in range(12)
    ]
    assert faults_of(diagnose_text(console(rows))) == ["chance_level"]
    passing = [{"loss": round(level * (1.2 - 0.02 * n), 5)} for n in range(20)]
    assert diagnose_text(console(passing)).healthy


def test_a_score_that_stands_still_while_the_loss_falls():
    losses = [0.55 * 0.97**n for n in range(24)]
    rows = [
        {"train_loss": round(loss, 5), "val_loss": round(loss + 0.02, 5), "score": round(0.5 + 0.002 * n, 6)}
        for n, loss in enumerate(losses)
    ]
    assert diagnose_text(console(rows)).healthy
    middle = [{**row, "score": 0.234934} if n in (6, 7) else row for n, row in enumerate(rows)]
    assert faults_of(diagnose_text(console(middle))) == ["standing_score"]
    assert diagnose_text(console(middle)).verdict == "score stands still"
    always = [{**row, "score": 0.0} for row in rows]
    assert faults_of(diagnose_text(console(always))) == ["standing_score"]
    late_start = [{**row, "score": 0.0 if n < 6 else row["score"]} for n, row in enumerate(rows)]
    assert diagnose_text(console(late_start)).healthy
    carried = [{**row, "score": rows[n - n % 4]["score"]} for n, row in enumerate(rows)]
    assert diagnose_text(console(carried)).healthy
    coarse = [{**row, "score": round(row["score"], 1)} for row in rows]
    assert diagnose_text(console(coarse)).healthy


def test_a_dice_that_is_a_loss_is_named_and_no_fault():
    rows = []
    for n in range(30):
        wobble = 0.01 * math.sin(7 * n)
        rows.append(
            {"Loss": round(0.6 + 0.3 * 0.9**n + wobble, 4), "Dice": round(0.5 + 0.2 * 0.9**n + 0.8 * wobble, 4)}
        )
    diagnosis = diagnose_text(console(rows))
    assert (diagnosis.verdict, diagnosis.findings) == ("healthy", [])
    assert [remark.fault for remark in diagnosis.remarks] == ["disguised_loss"]
    assert "LOSS" in diagnosis.to_text()
    true = [{**row, "Dice": round(1 - row["Dice"], 4)} for row in rows]
    assert diagnose_text(console(true)).remarks == []


@pytest.mark.parametrize(("every", "found"), [(3, True), (10, True), (1000, False)])
def test_batches_whose_loss_is_exactly_zero(every, found):
    def loss(epoch, batch):
        return 0 if batch % every == 1 else 0.6 + 0.01 * (batch % 7) - 0.05 * epoch

    text = "".join(
        f"[train] ep {epoch:03d} batch {batch:04d}/686 loss={loss(epoch, batch):.4f}\n"
        + (
            f"epoch {epoch:03d} | train_loss={0.6 - 0.05 * epoch:.4f} | val_loss={0.62 - 0.05 * epoch:.4f}\n"
            if batch == 29
            else ""
        )
        for epoch in range(1, 8)
        for batch in range(30)
    )
    assert faults_of(diagnose_text(text)) == ["zero_batches"] * found
    assert len(read_text(text)[0].records[0].batches) == 30


def test_losses_that_print_as_zero_because_they_are_small_are_no_fault():
    text = "".join(
        f"Epoch {epoch} [{batch}/30] Loss: {0.4 * 0.5 ** (epoch + batch / 30):.4f}\n"
        for epoch in range(14)
        for batch in range(30)
    )
    assert diagnose_text(text).healthy


def test_over_fitting_with_negative_losses():
    rows = [(-0.1 - 0.78 * (1 - 0.9**n), -0.52 + 0.5 * 0.7**n + 0.0008 * max(0, n - 15)) for n in range(90)]
    text = "".join(
        f"Epoch {n}\nCurrent learning rate: 0.01\ntrain_loss {a:.4f}\nval_loss {b:.4f}\n"
        for n, (a, b) in enumerate(rows)
    )
    assert diagnose_text(text).verdict == "over-fitting"
    usual = "".join(
        f"Epoch {n}\nCurrent learning rate: 0.01\ntrain_loss {a:.4f}\nval_loss {a + 0.08 + 0.01 * (n % 3):.4f}\n"
        for n, (a, _) in enumerate(rows)
    )
    assert diagnose_text(usual).healthy


def test_a_loss_that_rises_by_design_while_the_score_rises_is_no_fault():
    rows = [
        {
            "loss": round(0.5 * 0.9**n + (0.4 if n >= 20 else 0) + (0.5 if n >= 40 else 0), 4),
            "val_dice": round(0.4 + 0.006 * n, 4),
        }
        for n in range(60)
    ]
    assert diagnose_text(console(rows)).healthy


def test_a_share_of_surface_that_the_log_tells_of():
    rows = console([{"train_loss": round(0.6 * 0.9**n, 4)} for n in range(12)])
    assert diagnose_text(rows).healthy
    assert diagnose_text("Label distribution: bg=37.3%, fg=4.9%, unlabeled=57.8%\n" + rows).healthy
    assert diagnose_text("Foreground (label > 0): 60.2% of voxels\n" + rows).verdict == "labels first"


def test_what_was_taken_as_what_and_what_is_not_there_is_said():
    shown = diagnose_text(console([{"Loss": round(0.6 * 0.9**n, 4), "Val": 0.5} for n in range(12)])).to_text()
    assert 'training loss = "Loss" (the log does not say of what)' in shown
    assert "not used: Val" in shown
    assert "Not in this log: no validation loss (over-fitting cannot be told), no learning rate" in shown


def test_validation_that_was_not_taken_in_every_epoch_is_no_broken_number():
    rows = [
        {"train_loss": round(0.6 * 0.95**n, 4), "val_loss": round(0.62 * 0.95**n, 4) if n % 5 == 4 else "nan"}
        for n in range(30)
    ]
    assert diagnose_text(console(rows)).healthy
    broken = [{"train_loss": "nan" if n > 9 else 0.5, "val_loss": "nan" if n > 9 else 0.5} for n in range(14)]
    assert diagnose_text(console(broken)).verdict == "not a number"


def test_first_validations_that_are_no_numbers_are_no_fault_of_a_run_that_goes_on():
    def run(broken, n_epochs=20, train="0.5"):
        return console(
            [
                {
                    "train_loss": round(0.6 * 0.95**n, 4) if n else train,
                    "val_loss": "inf" if n in broken else round(0.62 * 0.95**n, 4),
                }
                for n in range(n_epochs)
            ]
        )

    assert diagnose_text(run((0, 1, 2))).healthy
    # Later, in too short a run, or with a training that broke as well, it is one.
    for text in (run((5, 6)), run((0, 1, 2), n_epochs=9), run((0, 1), train="nan")):
        assert diagnose_text(text).verdict == "not a number"


def test_a_loss_that_never_changes_is_a_network_that_does_not_learn():
    still = [{"loss": -4.38 if n else -4.36, "acc": 0.327, "val_loss": -4.386, "val_acc": 0.33} for n in range(8)]
    assert diagnose_text(console(still)).verdict == "does not learn"
    assert diagnose_text(console(still[:5])).healthy
    learned = [{**row, "val_iou": 0.81} for row in still]
    assert diagnose_text(console(learned)).healthy
    falling = [{"loss": round(-3 - 0.1 * n, 3), "val_loss": -4.386} for n in range(8)]
    assert diagnose_text(console(falling)).healthy


def test_scores_that_part_are_over_fitting_where_no_validation_loss_is_told():
    def run(validated, trained=lambda n: 0.88 + n / 500):
        return diagnose_text(
            "".join(
                f"Epoch [{n}/100], Loss: {2 - n / 20:.4f},\n[Training] Acc: 0.96, F1: {trained(n):.4f}\n"
                f"[Validation] Acc: 0.86, F1: {validated(n):.4f}\n"
                for n in range(1, 13)
            )
        )

    parted = run(lambda n: 0.5 - n / 100)
    assert parted.verdict == "over-fitting"
    assert "validation F1 stands at 0.395" in parted.findings[0].text
    # A gap that closes, a small one, and a training that has hardly learned are none.
    assert run(lambda n: 0.3 + n / 60).healthy
    assert run(lambda n: 0.7 - n / 100).healthy
    assert run(lambda n: 0.3 - n / 100, trained=lambda n: 0.5 + n / 500).healthy


# --- how programs write their lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["IoU", "mIoU", "Mean IoU", "val IoU", "valIoU", "Validation/mIoU", "MIoU"])
def test_an_intersection_over_union_is_a_score_however_it_is_spelled(name):
    run = read_text("".join(f"Epoch {n}/9 loss: {0.9 - n / 20:.3f}, {name}: {n / 20:.3f}\n" for n in range(1, 9)))[0]
    ((label, value),) = run.records[-1].scores.items()
    assert (label, value) == (name, 0.4)
    assert meaning_of(name).overlap


def test_a_split_before_the_word_epoch_holds_for_the_line():
    text = "".join(
        f"train: epoch {n}, iter:0, loss: {0.9 - n / 20:.3f}, lr: 0.001\nval epoch: {n}, loss: {1 - n / 20:.3f}, miou: 0.5\n"
        for n in range(1, 8)
    )
    run = read_text(text)[0]
    assert [record.train["loss"] for record in run.records] == [round(0.9 - n / 20, 3) for n in range(1, 8)]
    assert [record.validation["loss"] for record in run.records] == [round(1 - n / 20, 3) for n in range(1, 8)]


def test_the_final_line_of_an_epoch_outdoes_its_batches_and_an_epoch_that_was_begun_is_none():
    text = "".join(
        f"Epoch {n}/300 0/100 loss: 0.2 time 4.5s\nEpoch {n}/300 50/100 loss: 0.3 time 1.5s\n"
        f"Final training  {n}/299 loss: {0.9 - n / 20:.3f} time 147.6s\n"
        f"Final validation stats {n}/299 , Dice_TC: {n / 10} , Dice_WT: {n / 9:.3f} , time 10.2s\n"
        for n in range(7)
    )
    run = read_text(text + "Epoch 7/300 0/100 loss: 0.01 time 4.5s\n")[0]
    assert [record.epoch for record in run.records] == list(range(7))
    assert [record.train["loss"] for record in run.records] == [round(0.9 - n / 20, 3) for n in range(7)]
    assert run.records[-1].scores["validation Dice_TC"] == 0.6
    assert any("epoch 7 was begun" in note for note in run.notes)


@pytest.mark.parametrize("n_bars", [3, 400])  # the second is longer than a line may be
def test_of_bars_that_ran_together_the_last_counts(n_bars):
    text = ""
    for n in range(1, 8):
        bar = "[..............] - ETA: 1:43 - loss: 0.8220 - dice_score: 0.0123 - accuracy: 0.5258"
        text += f"Epoch {n}/100\n" + "".join(f"  {k}/500 {bar}" for k in range(1, n_bars + 1))
        text += f" 500/500 [==========] - 12s 60ms/step - loss: {1 - n / 20:.3f} - dice_score: {n / 10} - val_loss: 0.{n}5\n"
    run = read_text(text)[0]
    assert [record.epoch for record in run.records] == list(range(1, 8))
    assert [record.train["loss"] for record in run.records] == [round(1 - n / 20, 3) for n in range(1, 8)]
    assert run.records[-1].scores["dice_score"] == 0.7


def test_bars_that_validate_are_of_the_validation():
    text = "".join(
        f"Epoch [{n}]\nTraining: 100%|██████████| 572/572 [00:25<00:00, 22.7it/s, loss={1 - n / 20:.3f}, dice=0.{n}]\n"
        f"Validating: 100%|██████████| 144/144 [00:05<00:00, 22.7it/s, loss={1.1 - n / 20:.3f}, dice=0.{n}5]\n"
        for n in range(1, 8)
    )
    run = read_text(text)[0]
    assert [record.validation["loss"] for record in run.records] == [round(1.1 - n / 20, 3) for n in range(1, 8)]
    assert run.records[-1].scores == {"train dice": 0.7, "validation dice": 0.75}


def test_what_a_batch_costs_in_seconds_is_no_loss():
    text = "".join(
        f"[TRAIN] epoch: {n}, iter: {n}00/900, loss: {1 - n / 20:.3f}, lr: 0.001, batch_cost: 0.5{n}, reader_cost: 0.01{n}\n"
        "200/200 [==========] - 6s 30ms/step - batch_cost: 0.0290 - reader cost: 0.001\n"
        f"[EVAL] #Images: 200 mIoU: 0.{n}00 Acc: 0.9 Kappa: nan\n"
        for n in range(1, 8)
    )
    run = read_text(text)[0]
    assert [record.train["loss"] for record in run.records] == [round(1 - n / 20, 3) for n in range(1, 8)]
    assert run.records[-1].scores["validation mIoU"] == 0.7
    assert not any("cost" in role for role in run.roles)


def test_the_best_epoch_of_a_fold_is_not_begun_again():
    fold = "".join(f"Epoch {n}/50 | Train: loss={1 - n / 20:.3f} dice=0.{n}1\n" for n in range(1, 9))
    told = "Fold done!\n   Best Val Dice: 0.9325 (epoch 41)\n   Test Dice: 0.8908\n"
    runs = read_text(fold + told + fold + told)
    assert [len(run.records) for run in runs] == [8, 8]
    assert not any("was begun" in note for run in runs for note in run.notes)


def test_a_validation_without_its_step_was_made_at_the_step_before_it():
    text = "".join(
        f"mmseg - INFO - Iter [{500 * k}/4000]\tlr: 1.0e-02, eta: 0:01:01, loss: {1 - k / 20:.3f}\n"
        + (f"mmseg - INFO - Iter(val) [2016]\taAcc: 0.8, mIoU: {k / 20:.3f}\n" if k % 2 == 0 else "")
        for k in range(1, 9)
    )
    run = read_text(text)[0]
    assert [record.scores["validation mIoU"] for record in run.records] == [0.1, 0.2, 0.3, 0.4]
    assert math.isclose(run.records[0].train["loss"], (0.95 + 0.9) / 2)


# --- several files, other kinds of files -----------------------------------------------------------------------------


def test_training_that_was_continued_in_a_second_log_is_one_run(tmp_path):
    curve = make_curve(20)
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "training_log_2024_9_9_18_09_02.txt").write_text(FORMS["nnunet 2"][0](curve[:13]))
    (tmp_path / "fold_0" / "training_log_2024_9_9_21_09_02.txt").write_text(FORMS["nnunet 2"][0](curve[10:]))
    for place in (tmp_path, tmp_path / "fold_0"):
        run = read_runs(place)[0]
        assert [record.epoch for record in run.records] == list(range(20))
        assert "2 logs of one folder" in run.notes[0]


def test_the_record_in_a_checkpoint_of_nnunet(tmp_path):
    import numpy as np
    import torch

    curve = make_curve()
    logging = {
        "train_losses": [np.float32(row["train"]) for row in curve],
        "val_losses": [np.float64(row["val"]) for row in curve],
        "mean_fg_dice": [np.float64(row["dice"]) for row in curve],
        "ema_fg_dice": [row["dice"] for row in curve],
        "dice_per_class_or_region": [[np.float32(row["dice"]), np.float32(0.1)] for row in curve],
        "lrs": [row["rate"] for row in curve],
        "epoch_start_timestamps": [0.0] * len(curve),
    }
    torch.save(
        {"network_weights": {"w": torch.zeros(2)}, "logging": logging, "init_args": {"plans": {}}},
        tmp_path / "checkpoint_final.pth",
    )
    run = read_runs(tmp_path / "checkpoint_final.pth")[0]
    assert_read(run, curve, ("train", "val", "dice", "rate"), 0)
    torch.save({"logging": Path("x")}, tmp_path / "other.pth")
    with pytest.raises(InputValueError, match="must hold plain numbers and weights only"):
        read_runs(tmp_path / "other.pth")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(InputValueError, match="dictionary 'logging', got none"):
        read_runs(tmp_path / "weights.pth")


def test_an_event_file_without_the_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    path.write_bytes(b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\t\0\0\0\0\0\0\0\x1a\rbrain.Event:2" + bytes(20))
    with pytest.raises(InputValueError, match="install the package tensorboard"):
        diagnose(path)


def test_event_files_with_the_package(tmp_path):
    pytest.importorskip("tensorboard")
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(tmp_path / "run")
    curve = make_curve()
    for row in curve:
        for tag, key in (("Loss/train", "train"), ("Loss/val", "val"), ("Dice/val", "dice"), ("lr", "rate")):
            writer.add_scalar(tag, row[key], row["epoch"])
    writer.close()
    assert_read(read_runs(tmp_path / "run")[0], curve, ("train", "val", "dice", "rate"), 0)


def test_a_log_by_steps_is_divided_by_its_validations():
    text = "".join(
        f"step {step}: loss {0.6 * 0.9 ** (step / 100):.4f}\n"
        + (
            f"step {step}: train loss {0.6 * 0.9 ** (step / 100):.4f}, val loss {0.61 * 0.9 ** (step / 100):.4f}\n"
            if step % 100 == 0
            else ""
        )
        for step in range(0, 2000, 20)
    )
    run = read_text(text)[0]
    assert len(run.records) == 20
    assert any("no epochs in this log" in note for note in run.notes)


@pytest.mark.parametrize(
    ("names", "every", "epochs", "said"),
    [
        (["eval_loss"], 5, [0, 1, 2, 3], "too few epochs in this log (2)"),  # twice an epoch: four points
        (["eval_a_loss", "eval_b_loss"], 10, [1, 2], None),  # two sets once an epoch: no more points than epochs
    ],
)
def test_a_log_of_two_epochs_is_divided_only_by_what_is_finer(names, every, epochs, said):
    history = []
    for tenth in range(1, 21):
        place = {"epoch": tenth / 10, "step": 10 * tenth}
        history.append(place | {"loss": 0.6 * 0.9**tenth, "learning_rate": 1e-3})
        if tenth % every == 0:
            history += [place | {name: 0.61 * 0.9**tenth} for name in names]
    (run,) = read_text(json.dumps({"global_step": 200, "log_history": history}), "trainer_state.json")
    assert [record.epoch for record in run.records] == epochs
    assert [note.split(":")[0] for note in run.notes if "epochs in this log" in note] == ([said] if said else [])


# --- damage ----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_log_of_any_form_is_read_or_one_line(data):
    text = FORMS[data.draw(st.sampled_from(sorted(FORMS)))][0](make_curve(6)).encode()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, min(len(text), at + 300)))
        text = (
            text[:at]
            + data.draw(st.sampled_from([b"", b"\0", b"\r", b"{", b"\xff\xfe", b"nan", b"1e999", b'"', b"9" * 400]))
            + text[end:]
        )
    with contextlib.suppress(InputValueError):
        diagnosis = diagnose_text(text)
        json.dumps(diagnosis.to_dict(), allow_nan=False)
        assert diagnosis.to_text()


HOSTILE = {
    "spaces": "Epoch" + " " * 19000 + "\n" + "loss" + " " * 19000 + "1\n",
    "signs": "-" * 19000 + " loss 3\n" + "=" * 19000 + "loss: 3.0\n",
    "brackets": "[" * 100_000,
    "braces": '{"a":' * 50_000,
    "escapes": "\x1b[" * 9000 + "loss\n",
    "words": ("epoch loss train val " * 900 + "\n") * 3,
    "one line": "Epoch 3 loss: 0.4 | " * 50_000,
    "wrapped": "tensor(" * 2500 + "loss: 1\n",
    "html": json.dumps({"cells": [{"outputs": [{"data": {"text/html": "<table" * 30_000}}]}]}),
    "numbers": "loss " + "1." * 9000 + "\n",
    "names": "a," * 20_000 + "loss\n",
    "nothing": "\0" * 100_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_takes_no_time_and_no_traceback(kind):
    start = time.process_time()
    with contextlib.suppress(InputValueError):
        diagnose_text(HOSTILE[kind])
    assert time.process_time() - start < 10  # a blow-up takes minutes


def test_random_bytes_are_no_log():
    with pytest.raises(InputValueError, match="got none that can be read in"):
        diagnose_text(random.Random(0).randbytes(300_000), "run.pth")


# --- logs by the programs themselves, see tests/files/logs/README.md -------------------------------------------------

LOGS = Path(__file__).parents[1] / "files" / "logs"
# The family of the verdict that a person would give, as the table calls it.
FAMILIES = {
    "healthy": {"healthy"},
    "over-fitting": {"over-fitting"},
    "does not learn": {"does not learn", "rate too low", "loss first"},
    "empty prediction": {"score stands still"},
    "not a number": {"not a number"},
    "batches of loss 0": {"labels first"},
    "label reading": {"labels first", "score stands still"},
    "rate too high": {"rate too high", "not a number", "score stands still"},
    "too short": {"too short to judge", "healthy"},
    "the first does not learn": {"does not learn"},
}


def told_logs():
    """Name and judgement of each row of the table."""
    table = LOGS / "README.md"
    rows = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    cells = [row.strip("|").split("|") for row in rows if row.startswith("| `")]
    return [(row[0].strip(" `/"), row[-1].strip()) for row in cells]


@pytest.mark.parametrize(("name", "judgement"), told_logs())
def test_logs_of_the_programs_themselves_are_judged_as_a_person_judges_them(name, judgement):  # D6
    if name.startswith("tensorboard"):
        pytest.importorskip("tensorboard")
    (family,) = [family for family in FAMILIES if judgement.startswith(family)]
    diagnosis = diagnose(LOGS / name)
    assert diagnosis.verdict in FAMILIES[family], diagnosis.to_text()
    assert ("is a loss" in judgement) == bool(diagnosis.remarks)


# --- real logs, where they lie ---------------------------------------------------------------------------------------

REAL = {"a": "does not learn", "b": "over-fitting", "c": "healthy", "d": "healthy", "e": "score stands still",
        "f": "labels first", "g": "does not learn", "h": "healthy"}  # fmt: skip


@pytest.mark.skipif(
    "VESUVIUS_KIT_REAL" not in os.environ, reason="VESUVIUS_KIT_REAL names no folder with real material"
)
@pytest.mark.parametrize("letter", REAL)
def test_real_logs_are_judged_as_a_person_judges_them(letter):  # D8
    (path,) = (Path(os.environ["VESUVIUS_KIT_REAL"]) / "logs").glob(f"{letter}-*")
    diagnosis = diagnose(path)
    assert diagnosis.verdict == REAL[letter]
    assert bool(diagnosis.remarks) == (letter in "dh")
    assert len(diagnosis.unread) <= 3
