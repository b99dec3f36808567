"""What the plateau case asks of the loop: both ways out, weights that move, averaging, the mistake repeated on purpose."""

import json

import pytest
import torch
from helpers.competitions import TINY, write_small_competition
from torch.optim.swa_utils import AveragedModel

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import load_config
from vesuvius_kit.models.checkpoint import load_checkpoint
from vesuvius_kit.training.loop import Hooks, train

# The shipped configurations with a network, patches and epochs that fit a test.
SMALL = {
    "model.options": {"initial_filters": 4, "depth": 1},
    "n_folds": 2,
    "patches.size": [16, 16, 16],
    "predict.window": [16, 16, 16],
    "train.steps_per_epoch": 4,
    "train.validation_patches": 2,
    "train.validation_volumes": 1,
    "train.num_workers": 0,
    "train.precision": "fp32",
}


@pytest.fixture
def data(tmp_path):
    return write_small_competition(tmp_path / "data")


def words(settings):
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def configure(data, tmp_path, **changes):
    settings = {**TINY, "data": str(data), "output": str(tmp_path / "run")}
    return load_config(None, {**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


def read_lines(folder):
    return [json.loads(line) for line in (folder / "fold_0" / "log.jsonl").read_text().splitlines()]


def test_option_a_a_fresh_start_with_the_fix(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = words({**SMALL, "data": str(data), "train.num_epochs": 3})
    assert main(["train", "--config", "config_v6_fix_plateau.yaml", "--folds", "0", *small]) == 0
    lines = read_lines(tmp_path / "checkpoints")
    assert lines[0]["loss_weights"] == {"dice": 0.8, "focal": 0.15, "boundary": 0.05}
    assert lines[-1]["rate"] == 1e-3
    assert load_checkpoint(tmp_path / "checkpoints" / "fold_0" / "best").state["run"]["epoch"] == 3


def test_option_b_resume_the_plateau_with_other_weights_and_batch(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {**SMALL, "data": str(data), "lr.warmup_epochs": 1}
    v5 = ["train", "--config", "config_v5_variance_focused", "--folds", "0"]
    assert main([*v5, *words({**small, "train.num_epochs": 2})]) == 0
    (tmp_path / "escape.yaml").write_text(
        "loss: {variance_weight: 0.1, dice_weight: 0.7}\ntrain: {batch_size: 4, learning_rate: 0.0005, num_epochs: 5}\n"
    )
    again = [
        *v5,
        "--config",
        "escape.yaml",
        "--resume-from",
        "checkpoints/fold_0/last",
        "--output",
        "escape",
        *words(small),
    ]
    assert main(again) == 0
    lines = read_lines(tmp_path / "escape")
    assert [line["epoch"] for line in lines] == [2, 3, 4]
    assert lines[0]["loss_weights"] == {"dice": 0.7, "focal": 0.15, "boundary": 0.05, "variance": 0.1}
    checkpoint = load_checkpoint(tmp_path / "escape" / "fold_0" / "last")
    (note,) = [note for note in checkpoint.state["run"]["history"] if "resumed from" in note]
    for change in ("loss.variance_weight: 0.5 -> 0.1", "loss.dice_weight: 0.3 -> 0.7", "train.batch_size: 2 -> 4"):
        assert change in note
    assert "train.learning_rate: 0.0001 -> 0.0005" in note
    assert "the learning rate starts anew from the base 0.0005" in note
    assert "best loss and patience start anew" in note
    assert checkpoint.state["controller"]["base_lr"] == 0.0005
    # The same command again has nothing left to do, and says so.
    assert main(again) == 0
    assert len(read_lines(tmp_path / "escape")) == 3


def test_only_the_rate_changed_keeps_best_loss_and_patience(data, tmp_path):
    first = train(configure(data, tmp_path, train__early_stopping_patience=50))
    before = load_checkpoint(first / "fold_0" / "last").state["run"]
    other = configure(
        data, tmp_path, output=str(tmp_path / "second"), train__learning_rate=1e-12, lr__floor=0, train__num_epochs=4,
        train__early_stopping_patience=50,
    )  # fmt: skip
    second = train(other, resume_from=first / "fold_0" / "last")
    after = load_checkpoint(second / "fold_0" / "last").state["run"]
    # A rate of nearly nothing: the epoch brings no better loss, and the first score of this run is no improvement either.
    assert after["best_loss"] <= before["best_loss"]
    assert after["best_loss"] == pytest.approx(before["best_loss"], abs=1e-5)
    assert load_checkpoint(second / "fold_0" / "best").state["run"]["best_epoch"] == 3


def test_another_network_is_no_resume(data, tmp_path):
    first = train(configure(data, tmp_path, train__num_epochs=1))
    other = configure(data, tmp_path, output=str(tmp_path / "b"), model__options={"initial_filters": 8, "depth": 1})
    with pytest.raises(InputValueError, match="model must be that of"):
        train(other, resume_from=first / "fold_0" / "last")


def test_scheduled_weights_move_the_training_and_not_the_yardstick(data, tmp_path):
    schedule = {"variance_weight": [[0, 0.5], [2, 0.0]]}
    changes = {"loss__schedule": schedule, "loss__schedule_kind": "linear", "train__num_epochs": 4}
    whole = train(configure(data, tmp_path, **changes))
    lines = read_lines(whole)
    weights = [line["loss_weights"].get("variance", 0.0) for line in lines]
    assert weights == pytest.approx([0.5, 0.25, 0.0, 0.0])
    for line, variance in zip(lines, weights):
        seen = line["train"]
        expected = 0.5 * seen["dice"] + 0.5 * seen["cross_entropy"] + variance * seen.get("variance", 0.0)
        assert seen["loss"] == pytest.approx(expected, abs=1e-5)
        # Every epoch is measured by the last one's weights, and the component that fades is still reported.
        seen = line["validation"]
        assert seen["loss"] == pytest.approx(0.5 * seen["dice"] + 0.5 * seen["cross_entropy"], abs=1e-5)
        assert 0.5 < seen["variance"] <= 1.5


def train_until(monkeypatch, epoch, config):
    """Stop a training after the line of an epoch is logged and before its checkpoint is written: the worst moment."""
    import vesuvius_kit.training.loop as loop

    append = loop.append_record

    def stop(path, record):
        append(path, record)
        if record.epoch == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "append_record", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)


def test_a_schedule_survives_a_stop(data, tmp_path, monkeypatch):
    changes = {"loss__schedule": {"variance_weight": [[1, 0.5], [2, 0.1]]}, "train__num_epochs": 4}
    whole = train(configure(data, tmp_path, output=str(tmp_path / "whole"), **changes))
    train_until(monkeypatch, 1, configure(data, tmp_path, **changes))
    run = train(configure(data, tmp_path, **changes))
    assert [line["loss_weights"] for line in read_lines(run)] == [line["loss_weights"] for line in read_lines(whole)]
    assert same_weights(run, whole)


def same_weights(one, two, kind="weights"):
    left, right = (getattr(load_checkpoint(folder / "fold_0" / "last"), kind) for folder in (one, two))
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_averaged_weights_are_the_mean_are_kept_and_are_scored_at_the_end(data, tmp_path, monkeypatch):
    seen = []
    update = AveragedModel.update_parameters

    def spy(self, model):
        seen.append({name: tensor.cpu().clone() for name, tensor in model.state_dict().items()})
        update(self, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", spy)
    changes = {
        "train__num_epochs": 6,
        "train__swa_start_epoch": 1,
        "train__swa_every_epochs": 2,
        "train__swa_learning_rate": 5e-4,
    }
    run = train(configure(data, tmp_path, **changes))
    lines = read_lines(run)
    assert [line["rate"] for line in lines[1:]] == [5e-4] * 5
    assert lines[0]["rate"] == 1e-3
    assert len(seen) == 3  # epochs 1, 3 and 5
    checkpoint = load_checkpoint(run / "fold_0" / "last")
    for name, tensor in checkpoint.average.items():
        mean = torch.stack([weights[name] for weights in seen]).mean(0)
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-7)
        assert torch.equal(checkpoint.weights[name], seen[-1][name])  # its own, not the mean
    assert [line["average"] is not None for line in lines] == [False] * 5 + [True]
    averaged = lines[-1]["average"]
    scores = [line["score"]["score"] for line in lines if line["score"]]
    best = load_checkpoint(run / "fold_0" / "best")
    assert best.state["run"]["best_score"] == max([*scores, averaged["score"]["score"]])
    chosen = averaged["score"]["score"] > max(scores)
    assert all(torch.equal(best.weights[name], tensor) for name, tensor in checkpoint.average.items()) == chosen


def test_averaging_survives_a_stop(data, tmp_path, monkeypatch):
    changes = {"train__num_epochs": 5, "train__swa_start_epoch": 1, "train__swa_every_epochs": 1}
    whole = train(configure(data, tmp_path, output=str(tmp_path / "whole"), **changes))
    train_until(monkeypatch, 3, configure(data, tmp_path, **changes))
    run = train(configure(data, tmp_path, **changes))
    assert same_weights(run, whole)
    assert same_weights(run, whole, "average")


def test_labels_read_otherwise_are_learned_otherwise(data, tmp_path):
    right = train(configure(data, tmp_path, train__num_epochs=1))
    hooks = Hooks(label_transform=lambda labels: (labels > 0).to(labels.dtype))
    wrong = train(configure(data, tmp_path, output=str(tmp_path / "b"), train__num_epochs=1), hooks=hooks)
    (line,) = read_lines(wrong)
    assert line["validation"]["surface_share"] > read_lines(right)[0]["validation"]["surface_share"]
    assert line["train"]["loss"] != read_lines(right)[0]["train"]["loss"]


def test_without_a_rate_of_their_own_averaged_epochs_keep_the_schedule(data, tmp_path):
    changes = {"train__num_epochs": 3, "train__swa_start_epoch": 1, "train__swa_learning_rate": None}
    run = train(configure(data, tmp_path, **changes, lr__schedule="constant"))
    assert [line["rate"] for line in read_lines(run)] == [1e-3] * 3
