import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.competitions import TINY, make_pair, write_small_competition

import vesuvius_kit.training.epoch as epoch
import vesuvius_kit.training.loop as loop
import vesuvius_kit.training.preflight as preflight
from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.config import load_config
from vesuvius_kit.inference.budget import EpochBudget
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.models.checkpoint import load_checkpoint, load_model
from vesuvius_kit.training.epoch import TrainingDivergedError
from vesuvius_kit.training.from_config import inference_window, make_controller
from vesuvius_kit.training.loop import train
from vesuvius_kit.training.state import RunState

COLUMNS = (
    "epoch",
    "rate",
    "loss_weights",
    "train",
    "validation",
    "score",
    "average",
    "gradient_diagnostics",
    "interventions",
    "events",
)


@pytest.fixture
def data(tmp_path):
    return write_small_competition(tmp_path / "data")


def configure(data, tmp_path, **changes):
    settings = {**TINY, "data": str(data), "output": str(tmp_path / "run")}
    return load_config(None, {**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


def read_lines(folder):
    return [json.loads(line) for line in (folder / "fold_0" / "log.jsonl").read_text().splitlines()]


def without_times(lines):
    return [{key: line[key] for key in COLUMNS} for line in lines]


def test_a_run_learns_and_leaves_what_it_promises(data, tmp_path):
    config = configure(data, tmp_path, train__num_epochs=6, train__steps_per_epoch=15, train__learning_rate=0.01)
    run = train(config)
    lines = read_lines(run)
    assert [line["epoch"] for line in lines] == list(range(6))
    assert lines[-1]["train"]["loss"] < 0.6 * lines[0]["train"]["loss"]
    assert lines[-1]["validation"]["loss"] < lines[0]["validation"]["loss"]
    assert [line["score"] is not None for line in lines] == [False, True, False, True, False, True]
    assert lines[-1]["score"]["surface_dice"] > 0.9
    for line in lines:
        assert set(line["train"]) == {"loss", "gradient_norm", "dice", "cross_entropy", "skipped_steps"}
        assert 0 <= line["validation"]["output_mean"] <= 1
        assert line["validation"]["surface_share"] > 0
        assert line["seconds"] > 0
    last, best = (load_checkpoint(run / "fold_0" / name) for name in ("last", "best"))
    assert last.state["run"]["epoch"] == 6
    assert best.state["run"]["best_epoch"] in (1, 3, 5)
    assert best.state["run"]["best_score"] == max(line["score"]["score"] for line in lines if line["score"])
    assert last.optimizer
    assert not best.optimizer
    assert load_config(run / "fold_0" / "best" / "config.yaml") == config
    image, label = make_pair((24, 24, 24), 5)
    probability = predict_volume(load_model(run / "fold_0" / "best"), image, window=16, dtype=torch.float32)
    assert probability[label == 1].mean() > 0.5 + probability[label == 0].mean()


def test_a_finished_run_is_left_as_it_is(data, tmp_path):
    config = configure(data, tmp_path)
    run = train(config)
    before = (run / "fold_0" / "last" / "checkpoint.safetensors").stat().st_mtime_ns
    train(config)
    assert (run / "fold_0" / "last" / "checkpoint.safetensors").stat().st_mtime_ns == before
    assert len(read_lines(run)) == 3


def test_stopped_after_any_epoch_it_ends_as_if_nothing_had_happened(data, tmp_path, monkeypatch):
    whole = train(configure(data, tmp_path, output=str(tmp_path / "whole")))
    config = configure(data, tmp_path)
    append = loop.append_record
    for stopped_in in range(3):
        # After the line is logged and before the checkpoint is written: the worst moment.
        def stop(path, line, at=stopped_in):
            append(path, line)
            if line.epoch == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(loop, "append_record", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    monkeypatch.setattr(loop, "append_record", append)
    run = train(config)
    assert without_times(read_lines(run)) == without_times(read_lines(whole))
    expected, arrived = (load_checkpoint(folder / "fold_0" / "last").weights for folder in (whole, run))
    for name, tensor in expected.items():
        assert torch.equal(tensor, arrived[name]), name


def test_a_budget_ends_between_two_epochs_and_the_same_call_goes_on(data, tmp_path, monkeypatch, caplog):
    whole = train(configure(data, tmp_path, output=str(tmp_path / "whole")))
    config = configure(data, tmp_path, train__budget="1h", folds=[0, 1])
    # As if each epoch had taken most of the budget.
    monkeypatch.setattr(EpochBudget, "note_epoch", lambda self, seconds: setattr(self, "_longest", 3500.0))
    for done in (1, 2, 3):
        with caplog.at_level("INFO"):
            run = train(config)
        assert len(read_lines(run)) == done
        assert ("the budget of 1h ends before epoch 1 would" in caplog.text) == (done == 1)
        assert (run / "fold_0" / "rollback").exists() == (done < 3), "kept while the run can still go back"
        assert not (run / "fold_1" / "log.jsonl").exists(), "no time for another fold"
        caplog.clear()
    assert without_times(read_lines(run)) == without_times(read_lines(whole))
    expected, arrived = (load_checkpoint(folder / "fold_0" / "last").weights for folder in (whole, run))
    assert all(torch.equal(tensor, arrived[name]) for name, tensor in expected.items())
    # Another budget is no other run.
    monkeypatch.undo()
    train(configure(data, tmp_path, folds=[0, 1]))
    assert len(read_lines(run)) == 3
    assert len((run / "fold_1" / "log.jsonl").read_text().splitlines()) == 3


def test_an_epoch_begins_only_if_the_longest_so_far_would_fit(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("vesuvius_kit.inference.budget.time.monotonic", lambda: now[0])
    budget = EpochBudget(60)
    assert budget.has_time(), "the first epoch is tried"
    budget.note_epoch(20)
    budget.note_epoch(5)
    for now[0], expected in ((120.0, True), (137.9, True), (138.1, False), (170.0, False)):
        assert budget.has_time() == expected, now
    assert not EpochBudget(0).has_time()
    assert EpochBudget(None).has_time()


@pytest.mark.long
def test_killed_in_the_middle_it_ends_with_the_same_curve(data, tmp_path):
    settings = {"train__num_epochs": 4, "train__steps_per_epoch": 30}
    whole = train(configure(data, tmp_path, output=str(tmp_path / "whole"), **settings))
    config = configure(data, tmp_path, **settings)
    arguments = [
        sys.executable,
        "-m",
        "vesuvius_kit",
        "train",
        "--config",
        str(tmp_path / "whole/fold_0/last/config.yaml"),
    ]
    arguments += ["--output", config.output]
    log = tmp_path / "run" / "fold_0" / "log.jsonl"
    for lines_before in (1, 2):
        process = subprocess.Popen(arguments)
        while not log.exists() or len(log.read_text().splitlines()) < lines_before:
            time.sleep(0.05)
            assert process.poll() is None
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(arguments, check=False).returncode == 0
    assert without_times(read_lines(tmp_path / "run")) == without_times(read_lines(whole))
    expected, arrived = (load_checkpoint(tmp_path / name / "fold_0" / "last").weights for name in ("whole", "run"))
    assert all(torch.equal(tensor, arrived[name]) for name, tensor in expected.items())


def test_other_settings_are_refused_unless_it_is_said_what_is_meant(data, tmp_path):
    run = train(configure(data, tmp_path))
    other = configure(data, tmp_path, train__learning_rate=0.5)
    with pytest.raises(InputValueError, match=r"--fresh.*train.learning_rate: 0.001 -> 0.5"):
        train(other)
    train(other, fresh=True)
    assert load_checkpoint(run / "fold_0" / "last").state["controller"]["base_lr"] == 0.5
    assert load_checkpoint(run / "before_fresh_1_fold_0" / "last").state["controller"]["base_lr"] == 1e-3


def test_settings_that_change_nothing_computed_may_differ(data, tmp_path):
    train(configure(data, tmp_path))
    moved = data.rename(tmp_path / "moved")
    run = train(configure(moved, tmp_path, train__num_workers=1, predict__batch_size=3))
    assert len(read_lines(run)) == 3


def test_resume_from_starts_with_those_weights_under_other_settings(data, tmp_path):
    first = train(configure(data, tmp_path))
    other = configure(data, tmp_path, output=str(tmp_path / "second"), train__learning_rate=1e-4, train__num_epochs=5)
    second = train(other, resume_from=first / "fold_0" / "last")
    assert [line["epoch"] for line in read_lines(second)] == [3, 4]
    assert read_lines(second)[0]["rate"] <= 1e-4
    history = load_checkpoint(second / "fold_0" / "last").state["run"]["history"]
    assert any("train.learning_rate: 0.001 -> 0.0001" in note for note in history)
    # Given again, the same command goes on with the second run; it does not start over.
    train(other, resume_from=first / "fold_0" / "last")
    assert [line["epoch"] for line in read_lines(second)] == [3, 4]


def test_another_selection_of_chunks_is_no_resume(data, tmp_path):
    train(configure(data, tmp_path))
    write_volume(data / "train_images" / "150.tif", make_pair((24, 24, 24), 1)[0])
    write_volume(data / "train_labels" / "150.tif", make_pair((24, 24, 24), 1)[1])
    with open(data / "train.csv", "a") as stream:
        stream.write("150,2\n")
    with pytest.raises(InputValueError, match="training chunks must be those"):
        train(configure(data, tmp_path))


def test_early_stopping_counts_from_the_best_and_stays_stopped(data, tmp_path):
    changes = {"train__early_stopping_patience": 2, "train__learning_rate": 1e-12, "lr__floor": 0}
    config = configure(data, tmp_path, train__num_epochs=30, **changes)
    count = len(read_lines(train(config)))
    assert count < 30
    assert len(read_lines(train(config))) == count
    # Another run may start from it, and has patience again.
    other = configure(data, tmp_path, output=str(tmp_path / "on"), train__num_epochs=30, **changes, train__batch_size=1)
    assert len(read_lines(train(other, resume_from=tmp_path / "run" / "fold_0" / "last"))) >= 2


def test_every_fold_gets_its_own_folder(data, tmp_path):
    run = train(configure(data, tmp_path, folds=[0, 1], train__num_epochs=1))
    chunks = [set(load_checkpoint(run / f"fold_{fold}" / "last").state["run"]["chunk_ids"]) for fold in (0, 1)]
    assert chunks[0].isdisjoint(chunks[1])
    assert len(chunks[0] | chunks[1]) == 4


def test_kernels_do_not_change_the_number_of_threads_that_a_run_computes_with(data, tmp_path, monkeypatch):
    """numba's first parallel kernel sets torch's number to its own; another number of threads is another order of sums."""
    before, seen = torch.get_num_threads(), []

    def start_numba(function):
        return lambda *given, **named: torch.set_num_threads(before + 2) or function(*given, **named)

    for module, name in ((epoch, "leaderboard_score"), (preflight, "try_pipeline")):
        monkeypatch.setattr(module, name, start_numba(getattr(module, name)))
    train_epoch = loop.train_epoch
    monkeypatch.setattr(loop, "train_epoch", lambda *given: seen.append(torch.get_num_threads()) or train_epoch(*given))
    train(configure(data, tmp_path, folds=[0, 1], train__score_every_epochs=1, train__num_epochs=2))
    assert seen == [before] * 4
    assert torch.get_num_threads() == before


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_weights(data, tmp_path, monkeypatch):
    from vesuvius_kit.losses import WeightedLoss

    monkeypatch.setattr(
        WeightedLoss,
        "forward",
        lambda self, logits, labels: (logits.sum() * float("nan"), {"dice": logits.sum().detach()}),
    )
    with pytest.raises(TrainingDivergedError, match="4 skipped"):
        train(configure(data, tmp_path))
    assert not (tmp_path / "run" / "fold_0" / "last").exists()


@pytest.mark.parametrize("shape", [(96, 96, 96), (61, 130, 97)])
def test_any_shape_trains(tmp_path, shape):
    data = write_small_competition(tmp_path / "data", train_shapes=[shape, (20, 30, 25)], test_shapes=[])
    changes = {"train__num_epochs": 1, "train__score_every_epochs": 1, "predict__window": [32, 32, 32]}
    lines = read_lines(train(configure(data, tmp_path, predict__overlap=0.0, **changes)))
    assert np.isfinite(lines[0]["score"]["score"])


@pytest.mark.long
@pytest.mark.parametrize("shape", [(320, 320, 320), (256, 320, 384)])
def test_full_size_chunks_train_and_predict(tmp_path, shape):
    data = write_small_competition(tmp_path / "data", train_shapes=[shape, shape], test_shapes=[])
    changes = {"train__num_epochs": 1, "train__score_every_epochs": 1, "predict__window": [128, 128, 128]}
    options = {"initial_filters": 4, "depth": 1, "half_resolution": True}
    run = train(configure(data, tmp_path, predict__overlap=0.0, model__options=options, **changes))
    assert np.isfinite(read_lines(run)[0]["score"]["score"])


@pytest.mark.parametrize("name", ["resenc_unet", "timm_unet"])
def test_other_models_train_and_come_back(data, tmp_path, name):
    options = {"resenc_unet": {"channels": [4, 8], "blocks": [1, 1]}, "timm_unet": {"encoder": "resnet10t"}}[name]
    changes = {"patches__size": [32, 32, 32], "predict__window": [32, 32, 32], "predict__overlap": 0.0}
    changes["train__num_epochs"] = 1
    config = configure(data, tmp_path, model__name=name, model__options=options, train__steps_per_epoch=1, **changes)
    run = train(config)
    assert load_model(run / "fold_0" / "best").record.name == name


def test_the_controller_follows_the_configuration():
    config = load_config("config_v6_fix_plateau")
    controller = make_controller(config)
    assert controller.base_lr == 1e-3
    rates = [controller.rate] + [controller.step(0.6) for _ in range(99)]
    assert max(rates) <= 1e-3
    assert rates[-1] < rates[5]
    assert controller.interventions == []
    assert inference_window(config) == (128, 128, 128)


def test_a_fresh_state_is_plain_json():
    assert json.loads(json.dumps(vars(RunState()))) == vars(RunState())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__name": "unet9d"}, "model name must be one of"),
        ({"model__options": {"dept": 3}}, "dept"),
        ({"n_folds": 3}, "n_folds"),
        ({"data": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_left(data, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(configure(**{"data": data, "tmp_path": tmp_path, **changes}))
    assert not (tmp_path / "run" / "fold_0" / "last").exists()
