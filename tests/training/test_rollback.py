"""Going back to the best state, and asking the diagnosis before the rate is raised."""

import json

import pytest
import torch
from helpers.competitions import TINY, write_small_competition

import vesuvius_kit.training.loop as loop
from vesuvius_kit.config import load_config
from vesuvius_kit.models.checkpoint import load_checkpoint
from vesuvius_kit.training.learning_rate import BoundedLR
from vesuvius_kit.training.loop import Hooks, train


@pytest.fixture
def data(tmp_path):
    return write_small_competition(tmp_path / "data")


@pytest.fixture
def fake_losses(monkeypatch):
    """Replaces the validation loss of each epoch; what is trained stays real."""

    def install(losses):
        fold = {}
        find, validate = loop.make_loss, loop.validate_patches
        monkeypatch.setattr(
            loop, "make_loss", lambda config, epoch, **more: fold.update(epoch=epoch) or find(config, epoch)
        )

        def fake(*given):
            return {**validate(*given), "loss": losses[fold["epoch"]]}

        monkeypatch.setattr(loop, "validate_patches", fake)

    return install


def configure(data, tmp_path, losses, **changes):
    settings = {**TINY, "data": str(data), "output": str(tmp_path / "run"), "train.num_epochs": len(losses)}
    # No score comes between the losses and the counters.
    settings |= {"train.score_every_epochs": 100, "train.steps_per_epoch": 2, "lr.schedule": "constant"}
    return load_config(None, {**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


def read_lines(folder):
    return [json.loads(line) for line in (folder / "fold_0" / "log.jsonl").read_text().splitlines()]


def rollbacks(folder):
    return {
        line["epoch"]: event["to_epoch"]
        for line in read_lines(folder)
        for event in line["events"]
        if event["kind"] == "rollback"
    }


def equal(one, two, kind):
    left, right = getattr(one, kind), getattr(two, kind)
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_a_loss_far_worse_than_the_best_takes_the_run_back(data, tmp_path, fake_losses):
    fake_losses([0.5, 0.4, 0.461, 0.45])
    run = train(configure(data, tmp_path, [0] * 4))
    assert rollbacks(run) == {2: 1}
    (event,) = read_lines(run)[2]["events"]
    assert event["reason"] == "the validation loss, 0.4610, is more than 15% worse than the best, 0.4000 in epoch 1"
    # What was kept to go back to is removed at the end.
    assert not (run / "fold_0" / "rollback").exists()
    last = load_checkpoint(run / "fold_0" / "last").state["run"]
    assert last["rollbacks"] == 1
    assert last["epoch"] == 4
    assert last["epochs_without_improvement"] == 2
    assert any("rolled back to the state after epoch 1" in note for note in last["history"])


def test_what_follows_a_rollback_starts_from_the_best_state(data, tmp_path, fake_losses, monkeypatch):
    fake_losses([0.5, 0.4, 0.9, 0.4])
    before = {}
    train_epoch = loop.train_epoch

    def spy(run, epoch, *rest):
        before[epoch] = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        before[epoch, "steps"] = [float(entry["step"]) for entry in run.optimizer.state.values()][:1]
        return train_epoch(run, epoch, *rest)

    monkeypatch.setattr(loop, "train_epoch", spy)
    train(configure(data, tmp_path, [0] * 4))
    assert all(torch.equal(tensor, before[2][name]) for name, tensor in before[3].items())
    # The optimiser's memory as well: two epochs of two steps, as when epoch 2 began.
    assert before[3, "steps"] == before[2, "steps"] == [4.0]


@pytest.mark.parametrize(
    ("losses", "changes", "expected"),
    [
        ([0.5, 0.4, 0.459, 0.455], {}, {}),
        ([0.4, 0.41, 0.42, 0.43, 0.44, 0.445, 0.44], {}, {5: 0}),
        ([0.4, 0.41, 0.42, 0.41, 0.44, 0.445, 0.44], {}, {}),
        ([0.5, 0.4, float("nan"), 0.39], {}, {2: 1}),
        ([0.4, 0.8, 0.8, 0.8, 0.8, 0.8], {}, {1: 0, 2: 0, 3: 0}),
        ([0.4, 0.8, 0.8, 0.8], {"train__max_rollbacks": 1}, {1: 0}),
        ([0.4, 0.8, 0.8], {"train__max_rollbacks": 0}, {}),
        ([0.4, 0.8, 0.8], {"train__rollback_tolerance": 0}, {}),
        ([0.4, 0.42, 0.44, 0.45], {"train__rollback_rising_epochs": 2}, {2: 0}),
        ([0.4, 0.8, 0.8, 0.4], {"lr__warmup_epochs": 2}, {2: 0}),
        ([0.4, 0.8, 0.8], {"lr__schedule": "warm_restarts"}, {}),
        # The last epoch has nothing to go back for.
        ([0.4, 0.8], {}, {}),
    ],
)
def test_when_a_run_goes_back(data, tmp_path, fake_losses, losses, changes, expected):
    fake_losses(losses)
    assert rollbacks(train(configure(data, tmp_path, losses, **changes))) == expected


def test_early_stopping_counts_through_rollbacks(data, tmp_path, fake_losses):
    losses = [0.5, 0.4, 0.8, 0.8, 0.8, 0.3, 0.2]
    fake_losses(losses)
    run = train(configure(data, tmp_path, losses, train__early_stopping_patience=3))
    assert [line["epoch"] for line in read_lines(run)] == [0, 1, 2, 3, 4]
    assert rollbacks(run) == {2: 1, 3: 1}


def test_a_stop_anywhere_around_a_rollback_changes_nothing(data, tmp_path, fake_losses, monkeypatch):
    losses = [0.5, 0.4, 0.8, 0.42, 0.39, 0.7, 0.4]
    fake_losses(losses)
    whole = train(configure(data, tmp_path, losses, output=str(tmp_path / "whole")))
    save = loop.Run.save
    for stopped_at in range(1, 12):
        calls = []

        def stop(self, name, calls=calls, at=stopped_at):
            calls.append(name)
            if len(calls) == at:
                raise KeyboardInterrupt
            save(self, name)

        monkeypatch.setattr(loop.Run, "save", stop)
        try:
            train(configure(data, tmp_path, losses))
        except KeyboardInterrupt:
            pass
        else:
            break
    monkeypatch.setattr(loop.Run, "save", save)
    run = train(configure(data, tmp_path, losses))
    assert rollbacks(run) == rollbacks(whole) == {2: 1, 5: 4}
    one, two = (load_checkpoint(folder / "fold_0" / "last") for folder in (run, whole))
    for kind in ("weights", "optimizer"):
        assert equal(one, two, kind)
    assert one.state["controller"] == two.state["controller"]
    counters = ("epochs_without_improvement", "rollbacks", "rollback_epoch", "rising_epochs", "last_loss", "best_loss")
    assert [one.state["run"][name] for name in counters] == [two.state["run"][name] for name in counters]


EARLY_RAISES = {"lr__raise_start_epoch": 1, "lr__patience": 2, "lr__cooldown": 1}


def test_the_rate_is_raised_where_the_loss_is_no_suspect(data, tmp_path, fake_losses, monkeypatch):
    losses = [0.4, 0.41, 0.4, 0.4]
    fake_losses(losses)
    asked = []
    hooks = Hooks(veto_raise=lambda records, config: asked.append((records, config)))
    lines = read_lines(train(configure(data, tmp_path, losses, **EARLY_RAISES), hooks=hooks))
    assert [len(line["interventions"]) for line in lines] == [0, 0, 1, 1]
    assert lines[3]["rate"] == pytest.approx(2e-3)
    # Asked only when a raise is due, with all lines up to and including the epoch that has just run.
    assert [[record.epoch for record in seen] for seen, _ in asked] == [[0, 1, 2], [0, 1, 2, 3]]
    assert asked[0][1].loss.dice_weight == 0.5


def test_the_rate_stays_where_the_loss_is_the_suspect(data, tmp_path, fake_losses, monkeypatch):
    losses = [0.4, 0.41, 0.4, 0.4]
    fake_losses(losses)
    hooks = Hooks(veto_raise=lambda records, config: "the variance term rewards uncertainty")
    lines = read_lines(train(configure(data, tmp_path, losses, **EARLY_RAISES), hooks=hooks))
    assert [line["interventions"] for line in lines] == [[]] * 4
    assert {line["rate"] for line in lines} == {1e-3}
    held = {"kind": "raise_vetoed", "reason": "the variance term rewards uncertainty"}
    assert [line["events"] for line in lines] == [[], [], [held], [held]]


def test_a_run_takes_what_its_hooks_bring(data, tmp_path, fake_losses):
    """Another controller, another reading of labels, and a look at each epoch before its rate is decided."""
    fake_losses([0.4, 0.5, 0.5])

    class Doubled(BoundedLR):
        @property
        def rate(self):
            return 2 * super().rate

    seen, labels = [], []

    def read(batch):
        labels.append(set(batch.unique().tolist()))
        return batch

    hooks = Hooks(
        on_validated=lambda record: seen.append((record.epoch, record.interventions, record.seconds)),
        make_controller=lambda config: Doubled(config.train.learning_rate, schedule="constant", n_epochs=3),
        label_transform=read,
    )
    lines = read_lines(train(configure(data, tmp_path, [0] * 3), hooks=hooks))
    assert [line["rate"] for line in lines] == [2e-3] * 3
    assert seen == [(0, [], None), (1, [], None), (2, [], None)]
    assert {1, 2} <= set().union(*labels) <= {0, 1, 2}
