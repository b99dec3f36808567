"""Diagnosis: each fault in a run made to have it and none in a healthy one; logs of any form, cut anywhere, in any encoding."""

import contextlib
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.competitions import TINY, write_small_competition
from hypothesis import given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import config_to_dict, load_config
from vesuvius_kit.diagnosis import Diagnosis, diagnose, find_logs, suspect_loss
from vesuvius_kit.diagnosis.logs import LoggedEpoch
from vesuvius_kit.diagnosis.raise_veto import veto_raise
from vesuvius_kit.io.record import EpochRecord
from vesuvius_kit.io.volume import read_volume, write_volume

# --- logs to read ---------------------------------------------------------------------------------------------------

CASE_LOSSES = [0.66, 0.63, 0.61, 0.59, 0.58, 0.5721, 0.5812, 0.5923]
CASE_LOSSES += [0.595 + 0.02 * math.sin(1.7 * epoch) for epoch in range(8, 61)]
CASE_LOSSES[48:51] = [0.5911, 0.5957, 0.5762]
COMPONENTS = " (dice: 0.4200, focal: 0.1100, variance: 0.9000, boundary: 0.0500)"


def case_log(components=True, interventions=True, losses=CASE_LOSSES):
    """A log in the forms of the plateau case."""
    stamp = "2026-01-06 16:27:55,138 - nnunet_topo_wrapper - INFO - "
    lines, number = [], 0
    for epoch, loss in enumerate(losses):
        behind = COMPONENTS if components else ""
        lines.append(f"{stamp}Epoch {epoch} Train - Loss: {loss - 0.004:.4f}{behind}")
        lines.append(f"{stamp}Epoch {epoch} Val - Loss: {loss:.4f}{behind}")
        if interventions and epoch >= 8 and epoch % 3 == 2:
            number += 1
            lines.append(f"{stamp}Intervention #{number}: LR scale {25 * (1 + 0.15 * (number - 1)):.1f}x")
    return "\n".join(lines) + "\n"


def epoch_line(epoch, loss, train_loss=None, /, **more):
    """A line of the kit's log."""
    train_loss = loss if train_loss is None else train_loss
    line = {
        "epoch": epoch,
        "rate": 1e-3,
        "loss_weights": {"dice": 0.5, "cross_entropy": 0.5},
        "train": {"loss": train_loss, "gradient_norm": 0.3, "skipped_steps": 0},
        "validation": {"loss": loss, "output_mean": 0.13, "output_std": 0.25, "surface_share": 0.12},
        "interventions": [],
        "gradient_diagnostics": None,
        "events": [],
    }
    for key, value in more.items():
        line[key] = {**line[key], **value} if isinstance(value, dict) and isinstance(line.get(key), dict) else value
    return line


def healthy_losses(n_epochs=20):
    return [0.3 + 0.4 * 0.85**epoch for epoch in range(n_epochs)]


def healthy_lines(n_epochs=20, **more):
    return [epoch_line(epoch, loss, loss - 0.01, **more) for epoch, loss in enumerate(healthy_losses(n_epochs))]


def records_of(lines):
    """The same as a running training has it."""
    return [EpochRecord.from_dict(line) for line in lines]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def diagnose_lines(lines, tmp_path):
    return diagnose(write_lines(tmp_path / "log.jsonl", lines))


def faults_of(diagnosis):
    return [finding.fault for finding in diagnosis.findings]


def diagnose_bytes(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.log"
        path.write_bytes(data)
        return diagnose(path)


# --- the plateau case -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [True, False])
@pytest.mark.parametrize("interventions", [True, False])
def test_the_plateau_case_is_diagnosed_loss_first(components, interventions):
    diagnosis = diagnose_bytes(case_log(components, interventions).encode())
    assert diagnosis.verdict == "loss first"
    expected = ["variance_reward"] * components + ["standstill"] + ["runaway"] * interventions
    assert faults_of(diagnosis) == expected
    assert (diagnosis.best_epoch, diagnosis.best_loss) == (5, 0.5721)
    assert (diagnosis.plateau.best_epoch, diagnosis.plateau.last_epoch) == (5, 60)
    assert diagnosis.unread == []
    assert "learning_rate" not in diagnosis.advice
    if interventions:
        runaway = diagnosis.findings[-1]
        assert "88.8 times at epoch 59, in 18 interventions" in runaway.text
        assert runaway.evidence["first_epoch"] == 8
    if components:
        assert "variance at 0.90" in diagnosis.findings[1].text


def test_the_quoted_lines_are_read_as_they_stand():
    text = (
        "2026-01-06 16:27:55,138 - nnunet_topo_wrapper - INFO - Epoch 0 Train - Loss: 0.4097\n"
        "2026-01-06 16:27:55,139 - nnunet_topo_wrapper - INFO - Epoch 0 Val - Loss: 0.4139\n"
        "... Epoch 1 Val - Loss: 0.5762 (dice: 0.4200, focal: 0.1100, variance: 0.9000, boundary: 0.0500)\n"
        "2026-01-06 17:27:55,138 - nnunet_topo_wrapper - INFO - Intervention #15: LR scale 77.5x\n"
    )
    diagnosis = diagnose_bytes(text.encode())
    first, second = diagnosis.run.records
    assert first == LoggedEpoch(0, train={"loss": 0.4097}, validation={"loss": 0.4139})
    assert second.validation == {"loss": 0.5762, "dice": 0.42, "focal": 0.11, "variance": 0.9, "boundary": 0.05}
    assert second.interventions == [{"number": 15, "multiple": 77.5}]
    assert diagnosis.verdict == "rate runaway"
    assert diagnosis.unread == []


# --- what is read, and what is not ----------------------------------------------------------------------------------

TEXT = case_log(losses=CASE_LOSSES[:12])
JSON_LINES = "".join(json.dumps(epoch_line(epoch, loss, loss)) + "\n" for epoch, loss in enumerate(CASE_LOSSES[:8]))


def assert_nothing_invented(diagnosis, whole):
    """Every number that was read stands in the whole log."""
    known = {record.epoch: record for record in whole.run.records}
    for record in diagnosis.run.records:
        full = known[record.epoch]
        assert record.train.items() <= full.train.items()
        assert record.validation.items() <= full.validation.items()
        for entry in record.interventions:
            assert entry in full.interventions
        assert record.rate == full.rate


@pytest.mark.parametrize(
    "text", [TEXT, JSON_LINES, case_log(False, False, CASE_LOSSES[:9])], ids=["text", "json", "bare"]
)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_log_cut_at_any_byte_neither_crashes_nor_invents(text, data):
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]))
    encoded = text.encode(encoding)
    cut = data.draw(st.integers(0, len(encoded)))
    # The first epoch ends within the first quarter: before that there may be nothing to read.
    if cut < 0.25 * len(encoded):
        with contextlib.suppress(InputValueError):
            assert_nothing_invented(diagnose_bytes(encoded[:cut]), diagnose_bytes(text.encode()))
    else:
        assert_nothing_invented(diagnose_bytes(encoded[:cut]), diagnose_bytes(text.encode()))


def test_a_number_that_may_be_cut_is_not_taken():
    diagnosis = diagnose_bytes(b"Epoch 0 Val - Loss: 0.60\nEpoch 1 Val - Loss: 0.57")
    assert [record.epoch for record in diagnosis.run.records] == [0]
    assert diagnosis.unread == ["line 2 has no line ending and may be cut: Epoch 1 Val - Loss: 0.57"]


def test_two_lines_run_into_one_are_not_taken_for_a_number():
    text = b"Epoch 0 Val - Loss: 0.60\nEpoch 1 Val - Loss: 0.572026-01-06 16 - INFO - Epoch 0 Train - Loss: 0.41\n"
    diagnosis = diagnose_bytes(text)
    assert [record.epoch for record in diagnosis.run.records] == [0]
    assert diagnosis.unread[0].startswith("line 2 cannot be read: Epoch 1 Val - Loss: 0.572026-01-06")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("text", [TEXT, JSON_LINES], ids=["text", "json"])
def test_other_encodings_are_read_and_said(text, encoding):
    text = text + "Größe des Bündels: 2\n"
    diagnosis, plain = diagnose_bytes(text.encode(encoding)), diagnose_bytes(text.encode())
    assert diagnosis.run.records == plain.run.records
    assert diagnosis.unread == ["1 line of another kind"]
    assert plain.notes == []
    assert len(diagnosis.notes) == 1
    assert "encoding" in diagnosis.notes[0]


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_endings_of_other_systems(ending):
    assert diagnose_bytes(TEXT.replace("\n", ending).encode()).run.records == diagnose_bytes(TEXT.encode()).run.records


def test_of_several_runs_each_is_judged_and_the_worst_is_named():  # D8
    healthy = case_log(False, False, healthy_losses())
    for text, number in ((case_log() + healthy, 1), (healthy + case_log(), 2)):
        diagnosis = diagnose_bytes(text.encode())
        assert (diagnosis.verdict, diagnosis.run.number) == ("loss first", number)
        assert [other.verdict for other in diagnosis.others] == ["healthy"]
        assert len(diagnosis.others[0].run.records) == 20
        shown = diagnosis.to_text()
        assert shown.count("Verdict:") == 1
        assert f"run {3 - number}, epochs 0 to 19: healthy" in shown
    short = diagnose_bytes((healthy + case_log(False, False, [0.7, 0.6])).encode())
    assert (short.verdict, short.healthy, short.others[0].verdict) == ("healthy", True, "too short to judge")


def test_epochs_that_a_resume_repeated_count_once():
    lines = healthy_lines(12)
    again = [epoch_line(epoch, 0.35) for epoch in (9, 10, 11)]
    text = "".join(json.dumps(line) + "\n" for line in lines + again)
    diagnosis = diagnose_bytes(text.encode())
    assert [record.epoch for record in diagnosis.run.records] == list(range(12))
    assert diagnosis.run.records[9].validation["loss"] == 0.35
    assert diagnosis.notes == ["epochs that occur again count as they were run last: 9, 10, 11"]


def test_lines_written_twice_by_two_processes_are_one_epoch():
    text = "".join(f"{line}\n{line}\n" for line in TEXT.splitlines() if "Intervention" not in line)
    diagnosis = diagnose_bytes(text.encode())
    assert [record.epoch for record in diagnosis.run.records] == list(range(12))
    assert all(record.train and record.validation for record in diagnosis.run.records)


def test_missing_epochs_and_a_late_beginning_are_said():
    diagnosis = diagnose_bytes("".join(json.dumps(epoch_line(epoch, 0.5)) + "\n" for epoch in (4, 5, 8)).encode())
    assert diagnosis.notes == ["2 epochs between the first and the last are missing", "the log begins with epoch 4"]


STRAY = [
    "Traceback (most recent call last):",
    "{'epoch': 3}",
    '{"epoch": -1, "train": {"loss": 1}}',
    '{"epoch": 2.5, "train": {"loss": 1}}',
    '{"epoch": 3, "train": {"loss": ',
    '{"epoch": 3}',
    "[" * 3000,
    '{"epoch": ' + "[" * 3000,
    '{"epoch": 1' + "0" * 5000 + "}",
    "Epoch 3 Val - Loss: 0.5e",
    "Epoch 3 Val - Loss: 0.57 (dice: 0.4200, fo",
    "Epoch three Val - Loss: 0.57",
    "Epoch 3 Val - Loss: 0,57",
    "Intervention #4: LR scale infx",
    "Saving checkpoint for epoch 3",
]


@pytest.mark.parametrize("stray", STRAY, ids=lambda text: text[:25])
def test_stray_lines_change_nothing_and_are_said(stray):
    lines = TEXT.splitlines()
    plain = diagnose_bytes(TEXT.encode())
    diagnosis = diagnose_bytes("\n".join([*lines[:9], stray, *lines[9:], ""]).encode())
    assert diagnosis.run.records == plain.run.records
    assert len(diagnosis.unread) == 1
    assert diagnosis.findings == plain.findings


def test_a_component_that_cannot_be_read_is_left_out_and_said():
    diagnosis = diagnose_bytes(b"Epoch 0 Val - Loss: 0.6 (dice: 0.42, focal: o.11, variance: 0.9)\n")
    assert diagnosis.run.records[0].validation == {"loss": 0.6, "dice": 0.42, "variance": 0.9}
    assert diagnosis.unread == ["line 1 has a component that cannot be read: focal: o.11"]


def test_many_unreadable_lines_are_counted():
    text = "Epoch 0 Val - Loss: 0.6\n" + "Epoch x1 - Loss: none\n" * 50
    unread = diagnose_bytes(text.encode()).unread
    assert len(unread) == 6
    assert unread[-1] == "45 more lines like these"


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_what_is_no_log_is_one_line(data):
    with pytest.raises(InputValueError, match="log must hold epochs with a loss, got none that can be read in"):
        diagnose_bytes(data)


names = st.sampled_from(["loss", "dice", "multiple", "a,b", "kind"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=4,
)
KEYS = ("rate", "loss_weights", "train", "validation", "interventions", "gradient_diagnostics", "events", "score")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4), max_size=8))
def test_lines_with_anything_in_them_do_not_crash(entries):
    lines = [{"epoch": epoch, "validation": {"loss": 0.5}, **entry} for epoch, entry in enumerate(entries)]
    lines.append(epoch_line(len(lines), 0.5))
    diagnosis = diagnose_bytes("".join(json.dumps(line) + "\n" for line in lines).encode())
    json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert diagnosis.to_text()


def test_folders_and_folds(tmp_path):
    with pytest.raises(InputNotFoundError, match="run must be a folder or a log"):
        diagnose(tmp_path / "nothing")
    with pytest.raises(InputNotFoundError, match=r"must hold log\.jsonl or fold_K"):
        diagnose(tmp_path)
    for fold in (0, 2, 10):
        (tmp_path / f"fold_{fold}").mkdir()
        write_lines(tmp_path / f"fold_{fold}" / "log.jsonl", healthy_lines())
    assert [log.parent.name for log in find_logs(tmp_path)] == ["fold_0", "fold_2", "fold_10"]
    with pytest.raises(InputValueError, match="must be one fold, got fold_0, fold_2, fold_10"):
        diagnose(tmp_path)
    assert diagnose(tmp_path / "fold_2").healthy


def test_the_settings_beside_a_run_are_read(tmp_path):
    lines = [{key: value for key, value in line.items() if key != "loss_weights"} for line in variance_lines(0.5, 9)]
    write_lines(tmp_path / "log.jsonl", lines)
    (tmp_path / "last").mkdir()
    settings_file = tmp_path / "last" / "config.yaml"
    settings_file.write_text("loss: {dice_weight: 0.8, variance_weight: 0.5}\n")
    assert faults_of(diagnose(tmp_path)) == ["variance_reward"]
    settings_file.write_text("loss: {variance: [\n")
    diagnosis = diagnose(tmp_path)
    assert diagnosis.healthy
    assert "config.yaml, line 2: " in diagnosis.unread[0]


# --- faults, one at a time, at their thresholds ---------------------------------------------------------------------


def test_a_healthy_run_has_no_fault(tmp_path):
    diagnosis = diagnose_lines(healthy_lines(), tmp_path)
    assert (diagnosis.verdict, diagnosis.findings, diagnosis.advice, diagnosis.plateau) == ("healthy", [], "", None)
    assert "Verdict: healthy" in diagnosis.to_text()


@pytest.mark.parametrize("n_epochs", range(1, 20))
def test_a_healthy_run_has_no_fault_at_any_time(n_epochs, tmp_path):
    diagnosis = diagnose_lines(healthy_lines(n_epochs), tmp_path)
    assert diagnosis.verdict == ("healthy" if n_epochs >= 6 else "too short to judge")


def test_a_run_that_converged_and_stands_is_healthy(tmp_path):
    losses = [0.3 + 0.4 * 0.7**epoch + 0.004 * (epoch % 3) for epoch in range(80)]
    diagnosis = diagnose_lines([epoch_line(epoch, loss, loss - 0.02) for epoch, loss in enumerate(losses)], tmp_path)
    assert diagnosis.verdict == "healthy"
    assert diagnosis.plateau.last_epoch == 79


@pytest.mark.parametrize(
    ("share", "faults"), [(0.05, []), (0.2, []), (0.39, []), (0.41, ["labels"]), (0.75, ["labels"])]
)
def test_surface_share(share, faults, tmp_path):
    diagnosis = diagnose_lines(healthy_lines(validation={"surface_share": share}), tmp_path)
    assert faults_of(diagnosis) == faults
    if faults:
        assert diagnosis.verdict == "labels first"
        assert "allow_raise: false" in diagnosis.advice


def test_wrong_labels_explain_the_uniform_output_they_bring(tmp_path):
    shown = {"surface_share": 0.75, "output_mean": 0.75, "output_std": 0.01}
    assert faults_of(diagnose_lines(healthy_lines(validation=shown), tmp_path)) == ["labels"]


@pytest.mark.parametrize(("deviation", "faults"), [(0.07, []), (0.06, ["uniform_output"]), (0.0, ["uniform_output"])])
def test_uniform_output(deviation, faults, tmp_path):
    shown = {"output_std": deviation, "output_mean": 0.12, "surface_share": 0.12}
    diagnosis = diagnose_lines(healthy_lines(validation=shown), tmp_path)
    assert faults_of(diagnosis) == faults
    if faults:
        assert "is the labels' share of surface" in diagnosis.findings[0].text
        assert diagnosis.verdict == "loss first"


def test_an_output_that_is_uniform_at_first_only_is_no_fault(tmp_path):
    lines = [
        epoch_line(epoch, loss, validation={"loss": loss, "output_std": 0.25 if epoch > 17 else 0.0})
        for epoch, loss in enumerate(healthy_losses())
    ]
    assert diagnose_lines(lines, tmp_path).healthy
    assert diagnose_lines(lines[:5], tmp_path).healthy


def variance_lines(weight, n_epochs=12, **more):
    dice, variance = 0.45, 0.9
    weights = {"dice": 0.8, "variance": weight}
    part = {"loss": 0.8 * dice + weight * variance, "dice": dice, "variance": variance}
    return [epoch_line(e, 0, train=part, validation=part, loss_weights=weights, **more) for e in range(n_epochs)]


@pytest.mark.parametrize(("weight", "found"), [(0.5, True), (0.41, True), (0.39, False), (0.1, False)])
def test_variance_is_a_fault_when_it_is_half_of_the_loss(weight, found, tmp_path):
    # 0.8 x 0.45 = 0.36 of Dice against weight x 0.9.
    faults = faults_of(diagnose_lines(variance_lines(weight), tmp_path))
    assert ("variance_reward" in faults) == found


def test_a_schedule_that_took_the_variance_away_is_believed(tmp_path):
    lines = variance_lines(0.5, 6) + [{**line, "epoch": line["epoch"] + 6} for line in variance_lines(0.1, 6)]
    assert "variance_reward" not in faults_of(diagnose_lines(lines, tmp_path))


def gradient_diagnostics(cosine, norms=(0.1, 0.1)):
    return {
        "gradient_diagnostics": {
            "gradient_norms": {"cross_entropy": norms[0], "dice": norms[1]},
            "cosines": {"cross_entropy,dice": cosine},
        }
    }


@pytest.mark.parametrize(
    ("cosine", "norms", "dice", "found"),
    [
        (-0.8, (0.1, 0.1), 0.5, True),
        (-0.2, (0.1, 0.1), 0.5, False),
        (-0.8, (0.001, 0.1), 0.5, False),  # too weak to matter
        (-0.8, (0.1, 0.1), 0.2, False),  # gradients cancel near an optimum
    ],
)
def test_components_in_conflict(cosine, norms, dice, found, tmp_path):
    part = {"loss": 0.6, "dice": dice, "cross_entropy": 0.5}
    shown = gradient_diagnostics(cosine, norms)
    lines = [epoch_line(epoch, 0, train=part, validation=part, **shown) for epoch in range(14)]
    diagnosis = diagnose_lines(lines, tmp_path)
    assert ("conflict" in faults_of(diagnosis)) == found
    if found:
        assert "cross_entropy and dice (cosine -0.80)" in diagnosis.findings[0].text
        assert "cross_entropy_weight: 0.0" in diagnosis.advice  # Dice stays
    # While the run learns, a conflict is no fault.
    assert diagnose_lines(healthy_lines(**shown), tmp_path).healthy


@pytest.mark.parametrize(
    ("multiples", "found"),
    [([2.0, 3.0, 3.6], False), ([5.0], False), ([5.01], True), ([25.0, 28.75], True)],
)
def test_rate_runaway(multiples, found, tmp_path):
    lines = healthy_lines()
    for number, multiple in enumerate(multiples):
        lines[8 + number]["interventions"] = [{"epoch": 8 + number, "scale": 2.0, "multiple": multiple}]
    diagnosis = diagnose_lines(lines, tmp_path)
    assert faults_of(diagnosis) == ["runaway"] * found
    if found:
        assert diagnosis.findings[0].evidence["highest_multiple"] == multiples[-1]
        assert "max_factor: 5.0" in diagnosis.advice


@pytest.mark.parametrize(("rate", "found"), [(4.9e-3, False), (5.1e-3, True)])
def test_a_rate_that_was_raised_without_an_intervention_in_the_log(rate, found, tmp_path):
    lines = healthy_lines()
    for line in lines[16:]:
        line["rate"] = rate
    assert faults_of(diagnose_lines(lines, tmp_path)) == ["runaway"] * found


def test_schedules_and_new_bases_are_no_runaway(tmp_path):
    climbing = [epoch_line(e, loss, rate=1e-5 * (e + 1)) for e, loss in enumerate(healthy_losses(100))]
    assert diagnose_lines(climbing, tmp_path).healthy
    cut = [epoch_line(e, loss, rate=1e-6 if e < 35 else 1e-3) for e, loss in enumerate(healthy_losses(60))][30:]
    assert diagnose_lines(cut, tmp_path).healthy  # a warm restart; its base lies before the log's beginning
    resumed = healthy_lines(30)
    resumed[20]["events"] = [{"kind": "resumed", "reason": "changed train.learning_rate"}]
    for line in resumed[20:]:
        line["rate"] = 1e-2
    assert diagnose_lines(resumed, tmp_path).healthy


def test_a_loss_that_explodes_or_is_thrown_about(tmp_path):
    exploded = [*healthy_losses(15), 0.5, 0.9, 1.5, 2.0, 2.5]
    found = diagnose_lines([epoch_line(epoch, loss) for epoch, loss in enumerate(exploded)], tmp_path)
    assert (found.verdict, faults_of(found)) == ("rate too high", ["high_rate"])
    assert "exploded" in found.findings[0].text
    assert "learning_rate: 0.0001" in found.advice
    thrown = [0.6 + 0.25 * (-1) ** epoch for epoch in range(20)]
    found = diagnose_lines([epoch_line(epoch, loss) for epoch, loss in enumerate(thrown)], tmp_path)
    assert faults_of(found) == ["high_rate"]
    blind = [epoch_line(epoch, loss, train={"cross_entropy": 0.9}) for epoch, loss in enumerate(thrown)]
    found = diagnose_lines(blind, tmp_path)
    assert faults_of(found) == ["high_rate"]
    assert "in 19 of 19 epochs the cross entropy is above chance level" in found.findings[0].text
    noisy = [loss + 0.02 * (-1) ** epoch for epoch, loss in enumerate(healthy_losses())]
    assert diagnose_lines([epoch_line(epoch, loss) for epoch, loss in enumerate(noisy)], tmp_path).healthy
    spike = healthy_losses()
    spike[10] = 3.0
    assert diagnose_lines([epoch_line(epoch, loss) for epoch, loss in enumerate(spike)], tmp_path).healthy


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([0.7 - 0.001 * epoch for epoch in range(20)], True),
        ([0.7 - 0.01 * epoch for epoch in range(20)], False),  # it wins a quarter
        ([0.7 - 0.05 * (1 - 0.7**epoch) for epoch in range(20)], False),  # it has slowed down
        ([0.7 - 0.001 * epoch for epoch in range(7)], False),  # too short
    ],
)
def test_rate_too_low(losses, found, tmp_path):
    lines = [epoch_line(epoch, loss) for epoch, loss in enumerate(losses)]
    diagnosis = diagnose_lines(lines, tmp_path)
    assert ("low_rate" in faults_of(diagnosis)) == found
    if found:
        assert diagnosis.verdict == "rate too low"
        assert "learning_rate: 0.01" in diagnosis.advice


@pytest.mark.parametrize(("rise", "fall", "found"), [(0.02, 0.02, True), (0.003, 0.02, False), (0.02, 0.0, False)])
def test_over_fitting(rise, fall, found, tmp_path):
    losses = healthy_losses(12)
    lines = [epoch_line(epoch, loss) for epoch, loss in enumerate(losses)]
    lines += [epoch_line(11 + k, losses[-1] + rise * k, losses[-1] - fall * k) for k in range(1, 10)]
    diagnosis = diagnose_lines(lines, tmp_path)
    assert faults_of(diagnosis) == ["overfitting"] * found
    if found:
        assert diagnosis.findings[0].evidence["best_epoch"] == 11


def test_over_fitting_that_rollbacks_cut_short(tmp_path):
    lines = [epoch_line(epoch, 0.6, 0.6 - 0.05 * epoch) for epoch in range(4)]
    for start in (4, 8):
        lines += [epoch_line(start + k, 0.6 + 0.04 * k, 0.4 - 0.06 * k) for k in range(4)]
        lines[-1]["events"] = [{"kind": "rollback", "reason": "worse", "to_epoch": 3}]
    assert faults_of(diagnose_lines(lines, tmp_path)) == ["overfitting"]
    assert diagnose_lines(lines[:8], tmp_path).healthy  # once may be an accident


def test_numbers_that_broke(tmp_path):
    lines = healthy_lines()
    lines[0]["train"]["skipped_steps"] = 6  # a loss scaler that finds its scale
    lines[9]["train"]["skipped_steps"] = 2
    assert diagnose_lines(lines, tmp_path).healthy
    lines[9]["train"]["skipped_steps"] = 40
    lines[12]["validation"]["loss"] = None
    found = diagnose_lines(lines, tmp_path)
    assert (found.verdict, faults_of(found)) == ("not a number", ["not_finite"])
    assert found.findings[0].evidence == {"epochs": [12], "skipped_steps": {9: 40}}
    assert diagnose_bytes(b"Epoch 0 Val - Loss: 0.6\nEpoch 1 Val - Loss: nan\n").verdict == "not a number"


# --- before a rate is raised ----------------------------------------------------------------------------------------


def test_the_loss_is_suspected_before_the_rate():
    assert suspect_loss([]) is None
    plateau = [epoch_line(epoch, 0.3) for epoch in range(40)]
    for lines in (healthy_lines(), plateau):  # a plateau is what raises are for
        assert suspect_loss(records_of(lines)) is None
    assert "label" in suspect_loss(records_of(healthy_lines(validation={"surface_share": 0.75})))
    assert "variance" in suspect_loss(records_of(variance_lines(0.5)))
    assert "uniform" in suspect_loss(records_of(healthy_lines(validation={"output_std": 0.01})))


def test_weights_that_the_lines_lack_are_taken_from_the_settings():
    records = [replace(record, loss_weights={}) for record in records_of(variance_lines(0.5))]
    settings_of = config_to_dict(load_config("config_v6_fix_plateau"))
    assert suspect_loss(records, settings_of) is None  # its variance weight is 0
    settings_of["loss"]["variance_weight"] = 0.5
    assert "variance" in suspect_loss(records, settings_of)


def test_lines_with_null_and_without_parts_are_no_obstacle():
    lines = healthy_lines()
    lines[3]["validation"] = {"loss": None, "output_std": None, "surface_share": None}
    lines[4] = {"epoch": 4}
    lines[5] |= {"events": None, "interventions": None, "loss_weights": None}
    assert suspect_loss(records_of(lines)) is None


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_in_a_fresh_record_counts_as_in_the_log(broken):
    config = load_config("config_v5_variance_focused")
    for lines in faulty_lines():
        records = records_of(lines)
        for record in records[3::4]:
            record.validation = {name: broken for name in record.validation}
            record.train = record.train | {"loss": broken, "gradient_norm": broken}
            if record.gradient_diagnostics is not None:
                record.gradient_diagnostics |= {"cosines": {"cross_entropy,dice": broken}}
        logged = records_of(json.loads(json.dumps([record.to_dict() for record in records], allow_nan=False)))
        assert veto_raise(records, config) == veto_raise(logged, config)
        assert suspect_loss(records) == suspect_loss(logged)


# --- advice ---------------------------------------------------------------------------------------------------------


def faulty_lines():
    """A log for each fault."""
    rows = [
        healthy_lines(validation={"surface_share": 0.75}),
        variance_lines(0.5),
        healthy_lines(validation={"output_std": 0.01}),
        [epoch_line(epoch, loss) for epoch, loss in enumerate(CASE_LOSSES)],
        [epoch_line(epoch, 0.7 - 0.001 * epoch) for epoch in range(20)],
        [epoch_line(epoch, 0.6 + 0.25 * (-1) ** epoch) for epoch in range(20)],
        [epoch_line(epoch, 0.3 + 0.02 * epoch, 0.3 - 0.01 * epoch) for epoch in range(15)],
        [epoch_line(epoch, None if epoch == 7 else 0.5) for epoch in range(8)],
        [epoch_line(e, loss, rate=1e-3 if e < 16 else 1e-1) for e, loss in enumerate(healthy_losses())],
    ]
    part = {"loss": 0.6, "dice": 0.5, "cross_entropy": 0.5}
    shown = gradient_diagnostics(-0.9)
    return [*rows, [epoch_line(epoch, 0, train=part, validation=part, **shown) for epoch in range(14)]]


def test_every_advice_is_a_configuration_that_train_takes(tmp_path):
    seen = set()
    for lines in faulty_lines():
        diagnosis = diagnose_lines(lines, tmp_path)
        seen |= set(faults_of(diagnosis))
        assert diagnosis.advice
        path = tmp_path / "advice.yaml"
        path.write_text(diagnosis.advice)
        loaded = config_to_dict(load_config(path))
        for section, values in yaml.safe_load(diagnosis.advice).items():
            assert {name: loaded[section][name] for name in values} == values
    assert seen == {
        "labels", "variance_reward", "conflict", "uniform_output", "standstill", "runaway", "high_rate", "low_rate",
        "overfitting", "not_finite",
    }  # fmt: skip


def test_where_the_loss_is_at_fault_the_rate_is_left_alone(tmp_path):
    lines = variance_lines(0.5, 9)
    lines[7]["validation"]["loss"] = None
    diagnosis = diagnose_lines(lines, tmp_path)
    assert faults_of(diagnosis) == ["variance_reward", "not_finite"]
    assert "variance_weight: 0.0" in diagnosis.advice
    assert "allow_raise: false" in diagnosis.advice
    assert "learning_rate" not in diagnosis.advice


# --- what comes out -------------------------------------------------------------------------------------------------


def test_a_diagnosis_as_text_dict_and_figure(tmp_path):
    (tmp_path / "case.log").write_text(case_log())
    diagnosis = diagnose(tmp_path / "case.log")
    assert isinstance(diagnosis, Diagnosis)
    text = diagnosis.to_text()
    assert "Verdict: loss first\nBest loss 0.5721 at epoch 5.\nPlateau: epochs 6 to 60.\n1. The variance term" in text
    table = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert [row["fault"] for row in table["findings"]] == faults_of(diagnosis)
    assert table["plateau"] == [6, 60]
    diagnosis.figure(tmp_path / "case.png")
    assert (tmp_path / "case.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_loop_did_by_itself_is_told(tmp_path):
    lines = healthy_lines()
    lines[7]["events"] = lines[12]["events"] = [
        {"kind": "rollback", "reason": "the validation loss is worse", "to_epoch": 5}
    ]
    diagnosis = diagnose_lines(lines, tmp_path)
    assert diagnosis.healthy
    assert diagnosis.notes == [
        "rolled back to the best after epoch 7, 12, the last time because the validation loss is worse"
    ]


def test_every_fault_can_be_drawn(tmp_path):
    for number, lines in enumerate([healthy_lines(1), *faulty_lines()]):
        diagnose_lines(lines, tmp_path).figure(tmp_path / f"{number}.svg")
        assert "<svg" in (tmp_path / f"{number}.svg").read_text()


OUTPUTS = {"figure": "png", "json": "json", "yaml": "yaml"}


def test_the_command(tmp_path, capsys):
    write_lines(tmp_path / "healthy.jsonl", healthy_lines())
    (tmp_path / "case.log").write_text(case_log())
    (tmp_path / "empty.log").write_text("nothing\n")
    assert main(["diagnose", str(tmp_path / "healthy.jsonl")]) == 0
    outputs = [f"--{option}={tmp_path / f'out.{kind}'}" for option, kind in OUTPUTS.items()]
    assert main(["diagnose", f"--run={tmp_path / 'case.log'}", *outputs]) == 1
    assert "Verdict: loss first" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["verdict"] == "loss first"
    assert load_config(tmp_path / "out.yaml").loss.dice_weight == 0.8
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    no_picture = f"--figure={tmp_path / 'out.xyz'}"
    for arguments in (["empty.log"], ["missing.log"], [], ["case.log", "--run=case.log"], ["case.log", no_picture]):
        assert main(["diagnose", *(str(tmp_path / word) if word.endswith(".log") else word for word in arguments)]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1
        assert error.startswith("vesuvius-kit: ")


def test_the_command_on_a_run_of_several_folds(tmp_path, capsys):
    for fold, lines in enumerate([healthy_lines(), variance_lines(0.5)]):
        (tmp_path / f"fold_{fold}").mkdir()
        write_lines(tmp_path / f"fold_{fold}" / "log.jsonl", lines)
    assert main(["diagnose", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("Verdict:") == 2
    assert main(["diagnose", str(tmp_path), "--json=x.json"]) == 2


# --- runs made by the kit, one fault each ---------------------------------------------------------------------------

FOUND_IN = {
    "healthy": ("healthy", set()),
    "labels": ("labels first", {"labels"}),
    "variance": ("loss first", {"variance_reward"}),
    "high_rate": ("rate too high", {"high_rate"}),
    "low_rate": ("rate too low", {"low_rate"}),
    "overfitting": ("over-fitting", {"overfitting"}),
    "not_finite": ("not a number", {"not_finite"}),
    "runaway": ("rate runaway", {"runaway"}),
}
SMALL = {
    **TINY,
    "train.num_epochs": 12,
    "train.steps_per_epoch": 8,
    "train.validation_patches": 4,
    "train.score_every_epochs": 100,
    "train.validation_volumes": 1,
    "train.learning_rate": 0.01,
    "patches.augmentation": "symmetries",
}
V5_LOSS = {
    "loss.dice_weight": 0.3,
    "loss.cross_entropy_weight": 0.0,
    "loss.focal_weight": 0.15,
    "loss.variance_weight": 0.5,
    "loss.boundary_weight": 0.05,
}
CHANGED = {
    "healthy": {},
    "labels": {},
    "variance": V5_LOSS,
    "high_rate": {"train.learning_rate": 1000.0, "lr.schedule": "constant"},
    "low_rate": {"train.learning_rate": 1e-6, "lr.schedule": "constant"},
    "overfitting": {
        "patches.augmentation": "none",
        "model.options": {"initial_filters": 8, "depth": 1},
        "lr.schedule": "constant",
        "train.rollback_tolerance": 0.0,
        "train.rollback_rising_epochs": 0,
    },
    "not_finite": {"train.learning_rate": 1e30},
    # A loss scaled down, so that the gradients are small, on images without a sheet: the plateau the handler reacts to.
    "runaway": {
        "loss.dice_weight": 0.02,
        "loss.cross_entropy_weight": 0.02,
        "lr.schedule": "constant",
        "train.num_epochs": 16,
        "train.rollback_tolerance": 0.0,
        "train.rollback_rising_epochs": 0,
    },
}
# The cell of the plateau study whose reading of labels, or whose handler of the rate, makes the fault.
CELLS = {"labels": "foreground-variance0-bounded", "runaway": "ignored-variance0-legacy"}


def make_data(folder, kind):
    write_small_competition(folder, train_shapes=((24, 24, 24),) * (2 if kind == "overfitting" else 4))
    for path in (folder / "train_labels").glob("*.tif"):
        label = read_volume(path)
        if kind == "labels":
            # As the competition labels: a band round the sheet, unlabelled beyond.
            rows = np.flatnonzero((label == 1).any(axis=(0, 2)))
            label[:, : rows[0] - 3] = label[:, rows[-1] + 4 :] = 2
            write_volume(path, label)
        if kind in ("overfitting", "runaway"):
            # Nothing in the image tells where the sheet is: it can only be memorised.
            image = np.random.default_rng(int(path.stem)).normal(100, 20, label.shape)
            write_volume(folder / "train_images" / path.name, image.clip(0, 255).astype(np.uint8))
    return folder


@pytest.mark.long
@pytest.mark.parametrize("kind", FOUND_IN)
def test_a_run_made_to_have_a_fault_is_found_to_have_it(kind, tmp_path, monkeypatch):
    from vesuvius_kit.training.epoch import TrainingDivergedError
    from vesuvius_kit.training.loop import train

    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "plateau")
    import study

    hooks = study.make_hooks(CELLS.get(kind, "ignored-variance0-bounded"))
    data = make_data(tmp_path / "data", kind)
    config = load_config(None, {**SMALL, "data": str(data), "output": str(tmp_path / "run"), **CHANGED[kind]})
    with contextlib.suppress(TrainingDivergedError) if kind == "not_finite" else contextlib.nullcontext():
        train(config, hooks=hooks)
    diagnosis = diagnose(tmp_path / "run")
    assert (diagnosis.verdict, set(faults_of(diagnosis))) == FOUND_IN[kind], diagnosis.to_text()
    assert bool(diagnosis.advice) == (kind != "healthy")
    diagnosis.figure(tmp_path / "run.png")
