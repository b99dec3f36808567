"""How a run starts, goes on and ends: what a checkpoint may be used for, what survives, what is said after a stop."""

import errno
import itertools
import json
import os
import resource

import pytest
from helpers.competitions import TINY, write_small_competition

import vesuvius_kit.training.epoch as epoch_module
import vesuvius_kit.training.loop as loop
from vesuvius_kit.checks import InputNotFoundError, InputOSError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import config_to_yaml, load_config
from vesuvius_kit.io.record import EpochRecord, append_record, drop_records, read_records
from vesuvius_kit.models import create_model
from vesuvius_kit.models.checkpoint import load_checkpoint, read_checkpoint_header, save_checkpoint
from vesuvius_kit.training.learning_rate import SCHEDULES, BoundedLR
from vesuvius_kit.training.loop import train
from vesuvius_kit.training.run import find_start

QUICK = {
    "train.steps_per_epoch": 1,
    "train.num_epochs": 2,
    "train.gradient_diagnostics_every_epochs": 0,
    "lr.schedule": "constant",
}


@pytest.fixture(scope="module", autouse=True)
def _quick_scores():
    """Whole volumes are scored in `test_training`; here only whether they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "score_volumes", lambda *_: {"score": 0.5, "surface_dice": 0.5, "volumes": 2})
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_competition(tmp_path_factory.mktemp("competition") / "data")


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """A finished run of fold 0."""
    return train(configure(data, tmp_path_factory.mktemp("first") / "run"))


def configure(data, output, **changes):
    settings = {**TINY, **QUICK, "data": str(data), "output": str(output)}
    return load_config(None, {**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


def load_state(path):
    return read_checkpoint_header(path)[1]


def last(run, fold=0):
    return run / f"fold_{fold}" / "last"


def history(run, fold=0):
    return load_state(last(run, fold))["run"]["history"][-1]


# --- A10: the controller of a run that is made longer


def wear(controller):
    """A controller that has reduced, raised, and seen a raise fail."""
    for _ in range(40):
        controller.step(0.6)
    return controller


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_which_schedules_depend_on_the_length_of_the_run(schedule):
    """A10: found out from the rates themselves, so that a new schedule cannot be forgotten."""
    short, long = (BoundedLR(1e-3, schedule=schedule, n_epochs=n) for n in (12, 30))
    rates = [[controller.step(0.6, allow_raise=False) for _ in range(10)] for controller in (short, long)]
    assert ("n_epochs" in short.depends_on) == (rates[0] != rates[1])


@pytest.mark.parametrize(
    ("schedule", "changes", "kept"),
    [
        ("plateau", {"train__num_epochs": 3}, True),
        ("constant", {"train__num_epochs": 3}, True),
        ("warm_restarts", {"train__num_epochs": 3}, True),
        ("polynomial", {"train__num_epochs": 3}, False),
        ("cosine", {"train__num_epochs": 3}, False),
        ("plateau", {"train__num_epochs": 3, "lr__plateau_patience": 9, "lr__cooldown": 3}, True),
        ("plateau", {"train__num_epochs": 3, "lr__plateau_factor": 0.3}, False),
        ("plateau", {"train__num_epochs": 3, "train__learning_rate": 5e-4}, False),
        ("constant", {"train__num_epochs": 3, "lr__schedule": "plateau"}, False),
    ],
)
def test_an_extended_run_keeps_its_reductions_and_failed_raises(data, tmp_path, schedule, changes, kept):
    """A10."""
    settings = {"lr__schedule": schedule}
    if schedule == "plateau":
        settings["lr__raises_on_plateau_schedule"] = True
    base = configure(data, tmp_path / "a", **settings, train__num_epochs=1)
    run = train(base)
    checkpoint = load_checkpoint(last(run))
    worn = wear(loop.make_controller(base))
    assert worn.failed
    state = {**checkpoint.state, "controller": {**worn.state_dict(), "epoch": 1}}
    model = create_model(base.model.name, **base.model.options)
    model.load_state_dict(checkpoint.weights)
    save_checkpoint(tmp_path / "worn", model, state)
    second = train(configure(data, tmp_path / "b", **{**settings, **changes}), resume_from=tmp_path / "worn")
    after = load_state(last(second))["controller"]
    assert after["epoch"] == 3
    if kept:
        assert after["reductions"] >= worn.state_dict()["reductions"]
        assert after["failed"][: len(worn.failed)] == worn.failed
        assert after["last_raise_epoch"] == worn.state_dict()["last_raise_epoch"]
    else:
        assert after["failed"] == []
        assert after["reductions"] == 0
    assert ("the learning rate starts anew" in " ".join(load_state(last(second))["run"]["history"])) != kept


# --- A15: chunks that the weights were trained on


def test_a_fold_is_not_started_from_weights_that_have_seen_its_validation_chunks(data, first, tmp_path, capsys):
    """A15, and nothing is left behind."""
    config = configure(data, tmp_path / "b", folds=[1], train__num_epochs=3)
    with pytest.raises(InputValueError, match=r"fold_1 must validate .* was trained on 2 of its 2 \(\d+, \d+\)"):
        train(config, resume_from=last(first))
    assert not (tmp_path / "b").exists()
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert main(["train", f"--config={path}", f"--resume-from={last(first)}"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vesuvius-kit: ")]
    assert "fold_1" in line


def test_of_several_folds_the_one_that_may_not_start_is_found_before_the_first_is_trained(data, first, tmp_path):
    """A15."""
    config = configure(data, tmp_path / "b", folds=[0, 1], train__num_epochs=3)
    with pytest.raises(InputValueError, match="fold_1 must validate"):
        train(config, resume_from=last(first))
    assert not (tmp_path / "b").exists()


def test_a_folder_of_a_run_stands_for_the_checkpoint_of_each_fold(data, tmp_path):
    """A15: how several folds are extended by one command."""
    both = train(configure(data, tmp_path / "a", folds=[0, 1], train__num_epochs=1))
    second = train(configure(data, tmp_path / "b", folds=[0, 1]), resume_from=both)
    for fold in (0, 1):
        assert load_state(last(second, fold))["run"]["resumed_from"] == str(last(both, fold) / "checkpoint.safetensors")
    assert find_start(both / "fold_1", 1) == last(both, 1) / "checkpoint.safetensors"
    with pytest.raises(InputNotFoundError, match="fold_2/last"):
        find_start(both, 2)


def test_what_weights_have_seen_is_carried_along_a_chain_of_runs(data, first, tmp_path):
    """A15: a run from a run from a run; here the second trains on chunks that the first did not know."""
    other = write_small_competition(tmp_path / "other", train_shapes=((24, 24, 24),) * 2, test_shapes=())
    for kind in ("images", "labels"):
        for number in (100, 101):
            (other / f"train_{kind}" / f"{number}.tif").rename(other / f"train_{kind}" / f"{number + 400}.tif")
    (other / "train.csv").write_text("id,scroll_id\n500,1\n501,2\n")
    second = train(configure(other, tmp_path / "b", train__num_epochs=3), resume_from=last(first))
    state = load_state(last(second))["run"]
    assert set(state["trained_on"]) == {*load_state(last(first))["run"]["chunk_ids"], *state["chunk_ids"]}
    assert "losses before and after do not compare" in " ".join(state["history"])
    with pytest.raises(InputValueError, match="fold_1 must validate"):
        train(configure(data, tmp_path / "c", folds=[1], train__num_epochs=4), resume_from=last(second))
    # Its own chunks are remembered through a plain resume too.
    assert set(
        load_state(last(train(configure(other, tmp_path / "b", train__num_epochs=3))))["run"]["trained_on"]
    ) == set(state["trained_on"])


# --- A19: an end without a score


def test_a_run_that_stops_early_before_it_was_ever_scored_has_a_best(data, tmp_path, monkeypatch):
    """A19."""
    losses = iter([0.5, 0.6, 0.7, 0.8])
    validate = loop.validate_patches
    monkeypatch.setattr(loop, "validate_patches", lambda *given: {**validate(*given), "loss": next(losses)})
    run = train(configure(data, tmp_path / "a", train__num_epochs=9, train__score_every_epochs=100,
                          train__early_stopping_patience=2, train__rollback_tolerance=0))  # fmt: skip
    lines = read_records(run / "fold_0" / "log.jsonl")
    assert [line.score is not None for line in lines] == [False, False, True]
    assert load_state(run / "fold_0" / "best")["run"]["best_epoch"] == 2


# --- A20: checkpoints that are used up, not there, or not this run's


def test_a_finished_run_is_nothing_to_resume_from(data, first, tmp_path):
    """A20."""
    with pytest.raises(InputValueError, match=r"train.num_epochs must be more than the 2 epochs .* has done, got 2"):
        train(configure(data, tmp_path / "b"), resume_from=last(first))
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_that_is_not_there_is_refused_wherever_the_run_stands(data, first, tmp_path):
    """A20: also where the folder holds a run already, and with --fresh nothing is moved aside first (B3)."""
    for output, fresh in ((tmp_path / "b", False), (first, False), (first, True)):
        with pytest.raises(InputNotFoundError, match="nowhere"):
            train(configure(data, output), fresh=fresh, resume_from=tmp_path / "nowhere")
    assert not (tmp_path / "b").exists()
    assert sorted(path.name for path in first.iterdir()) == ["fold_0"]


def test_a_folder_with_a_run_takes_only_the_checkpoint_it_was_started_from(data, first, tmp_path):
    """A20."""
    config = configure(data, tmp_path / "b", train__num_epochs=3)
    second = train(config, resume_from=last(first))
    for same in (last(first), first, os.path.relpath(first), last(second)):
        train(config, resume_from=same)
    elsewhere = train(configure(data, tmp_path / "c", train__num_epochs=1))
    with pytest.raises(InputValueError, match=r"must be what the run in .*b/fold_0 was started from, .*first"):
        train(config, resume_from=last(elsewhere))
    with pytest.raises(InputValueError, match="was started from, no checkpoint"):
        train(configure(data, first), resume_from=last(elsewhere))


def test_fresh_and_resume_from_the_same_folder_start_from_what_is_moved_aside(data, tmp_path):
    """B3: the checkpoint is read before its folder is moved."""
    config = configure(data, tmp_path / "b")
    run = train(configure(data, tmp_path / "b", train__num_epochs=1))
    train(config, fresh=True, resume_from=last(run))
    assert [line.epoch for line in read_records(run / "fold_0" / "log.jsonl")] == [1]
    assert (run / "before_fresh_1_fold_0" / "last").exists()


def test_weights_that_were_averaged_are_not_missed_where_the_checkpoint_has_none(data, tmp_path, monkeypatch):
    """A `best` holds no mean: it used to count as one, and the end of the run found nothing to load."""
    scores = itertools.count(1)
    monkeypatch.setattr(loop, "score_volumes", lambda *_: {"score": next(scores) / 100, "surface_dice": 0.5})
    averaging = {"train__swa_start_epoch": 1, "train__swa_every_epochs": 1, "train__score_every_epochs": 1}
    run = train(configure(data, tmp_path / "a", **averaging))
    longer = configure(data, tmp_path / "b", **{**averaging, "train__num_epochs": 3})
    assert load_state(last(train(longer, resume_from=run / "fold_0" / "best")))["averaged"] == 1
    # A mean of epochs that this run does not average is not mixed into its own.
    later = configure(data, tmp_path / "c", **{**averaging, "train__num_epochs": 5, "train__swa_start_epoch": 4})
    done = load_state(last(train(later, resume_from=last(run))))
    assert done["averaged"] == 1
    assert "the mean of the weights starts anew" in " ".join(done["run"]["history"])


# --- B7: what is said after a stop


@pytest.mark.parametrize(("fresh", "words"), [([], "; the same command goes on"), (["--fresh"], "without --fresh")])
@pytest.mark.parametrize("saved", [True, False])
def test_after_ctrl_c_the_words_are_true(data, tmp_path, monkeypatch, capsys, fresh, words, saved):
    """B7."""
    seed_step = epoch_module._seed_step

    def stop(*key):
        if key[1] == int(saved):
            raise KeyboardInterrupt
        seed_step(*key)

    monkeypatch.setattr(epoch_module, "_seed_step", stop)
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(configure(data, tmp_path / "run")))
    command = ["train", f"--config={path}", *fresh]
    assert main(command) == 130
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vesuvius-kit: stopped; ")]
    assert (words in line) if saved else ("nothing of this fold is saved yet: the same command starts it again" in line)
    monkeypatch.setattr(epoch_module, "_seed_step", seed_step)
    assert main([word for word in command if word != "--fresh"]) == 0
    assert len(read_records(tmp_path / "run" / "fold_0" / "log.jsonl")) == 2


# --- C3: a full disk


def test_a_full_disk_while_a_checkpoint_is_written_leaves_the_old_one(data, tmp_path, capsys):
    """C3: the system refuses to write more, as a quota or a full disk does."""
    run = train(configure(data, tmp_path / "run", train__num_epochs=1))
    kept = (last(run) / "checkpoint.safetensors").read_bytes()
    path = tmp_path / "config.yaml"
    longer = configure(data, tmp_path / "b", train__num_epochs=2)
    path.write_text(config_to_yaml(longer))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, limits[1]))
    try:
        assert main(["train", f"--config={path}", f"--resume-from={last(run)}"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vesuvius-kit: ")]
    assert line.startswith("vesuvius-kit: cannot write ")
    assert "checkpoint.safetensors" in line
    assert "File too large" in line
    assert list(last(tmp_path / "b").glob(".*")) == []
    # The old one is whole, here and where it is replaced.
    model = create_model(longer.model.name, **longer.model.options)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(InputOSError, match="File too large"):
            save_checkpoint(last(run), model, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (last(run) / "checkpoint.safetensors").read_bytes() == kept
    assert sorted(path.name for path in last(run).iterdir()) == ["checkpoint.safetensors", "config.yaml"]


def test_a_full_disk_while_the_log_is_written_is_named(tmp_path, monkeypatch):
    """C3."""

    def refuse(*_args, **_settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputOSError, match=r"cannot write .*log.jsonl: No space left on device"):
        append_record(tmp_path / "log.jsonl", EpochRecord(0))


def test_a_checkpoint_can_be_read_by_those_who_may_read_other_files(tmp_path):
    """C4: newer safetensors make a file that only its owner may read."""
    path = save_checkpoint(tmp_path / "a", create_model("unet3d", initial_filters=1, depth=1), {}, config_yaml="a: 1")
    assert path.stat().st_mode == (tmp_path / "a" / "config.yaml").stat().st_mode


def test_what_a_kill_left_of_a_checkpoint_is_removed(data, tmp_path):
    """C3: every kill would leave a file as large as a checkpoint, until the disk is full."""
    run = train(configure(data, tmp_path / "run", train__num_epochs=1))
    for name in (".checkpoint.safetensors.0123abcd.part", ".tmpA1b2C3", ".checkpoint.safetensors.link"):
        (last(run) / name).write_bytes(b"half")
    train(configure(data, tmp_path / "run", train__num_epochs=1))
    assert sorted(path.name for path in last(run).iterdir()) == ["checkpoint.safetensors", "config.yaml"]


# --- C10: a log that others have written in


def epoch(number):
    return {"epoch": number, "train": {"loss": 0.5}, "validation": {"loss": 0.5}}


STRANGE = [
    b"== session 2 ==\n",
    b"\x00\x00\xff\n",
    b'{"epoch": 1, "tra\n',
    b"[1, 2]\n",
    b'{"note": "mine"}\n',
    b"\n",
    b"NaN\n",
]


def test_lines_that_are_no_epoch_are_kept_aside_and_the_run_goes_on(data, tmp_path, caplog):
    """C10."""
    config = configure(data, tmp_path / "run", train__num_epochs=1)
    log = train(config) / "fold_0" / "log.jsonl"
    (good,) = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(STRANGE[0] + good + b"".join(STRANGE[1:]))
    with caplog.at_level("WARNING"):
        train(config)
    assert log.read_bytes() == good
    assert (log.parent / "log.unreadable").read_bytes() == b"".join(STRANGE)
    assert f"{len(STRANGE)} lines of {log} are no epoch of a run" in caplog.text
    caplog.clear()
    train(config)
    assert "no epoch of a run" not in caplog.text


def test_a_log_keeps_every_epoch_before_the_next_and_loses_only_what_a_kill_cut_off(tmp_path):
    """C10."""
    log = tmp_path / "log.jsonl"
    assert drop_records(log, 0) == 0
    for number in range(3):
        append_record(log, EpochRecord.from_dict(epoch(number)))
    whole = log.read_bytes()
    for cut in (b'{"epo', b'{"epoch": 3, "rate": 0.0'):
        log.write_bytes(whole + cut)
        assert [line.epoch for line in read_records(log)] == [0, 1, 2]
        assert drop_records(log, 3) == 0
        assert log.read_bytes() == whole
    # A last line without its end, as editors leave it, is an epoch all the same; so is one behind a byte order mark.
    log.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n").rstrip())
    assert drop_records(log, 3) == 0
    assert [line.epoch for line in read_records(log)] == [0, 1, 2]
    assert drop_records(log, 2) == 0
    assert [line.epoch for line in read_records(log)] == [0, 1]
    # What is put aside later is added.
    for word in (b"one\n", b"two\n"):
        log.write_bytes(log.read_bytes() + word)
        assert drop_records(log, 2) == 1
    assert (tmp_path / "log.unreadable").read_bytes() == b"one\ntwo\n"
    assert json.loads(log.read_text().splitlines()[1])["epoch"] == 1
