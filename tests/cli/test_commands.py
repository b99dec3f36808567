"""The command line as a user meets it: real processes, bad input included."""

import csv
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
from helpers.competitions import TINY, make_pair, write_small_competition

from vesuvius_kit.cli import COMMANDS, STORED_SETTINGS, main
from vesuvius_kit.inference.submission import validate_submission
from vesuvius_kit.io.volume import read_volume, write_volume

TINY_ARGUMENTS = [f"--{key}={str(value).replace(chr(39), chr(34))}" for key, value in TINY.items()]


def run(capsys, *arguments):
    """Exit code, standard output and standard error of a command run in this process."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def complaint(error):
    """The one line a user sees, the progress bars and log lines aside."""
    lines = [line for line in error.splitlines() if line.startswith("vesuvius-kit:")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


@pytest.fixture
def data(tmp_path):
    return write_small_competition(tmp_path / "data")


def test_the_main_line_from_a_folder_to_a_submission(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "audit", "--data", data)[0] == 0
    assert run(capsys, "train", "--data", data, "--folds", 0, *TINY_ARGUMENTS)[0] == 0
    assert (tmp_path / "checkpoints" / "fold_0" / "best" / "checkpoint.safetensors").exists()
    code, out, _ = run(capsys, "submit", "--data", data, "--budget", "1h", "--predict.precision", "fp32")
    assert (code, out.strip()) == (0, "submission.zip: 2 predicted, 0 simple, valid")
    assert validate_submission(tmp_path / "submission.zip", data / "test_images") == 2
    assert run(capsys, "predict", "--images", data / "test_images")[0] == 0
    code, _, _ = run(
        capsys, "postprocess", "--postprocess.pipeline", "public", "--postprocess.steps.hysteresis_threshold.t_low", 0.3
    )
    assert code == 0
    assert read_volume(tmp_path / "masks" / "901.tif").shape == (10, 30, 17)


def test_a_checkpoint_brings_its_settings_and_the_command_line_wins(data, tmp_path, capsys, monkeypatch):
    import json

    monkeypatch.chdir(tmp_path)
    run(capsys, "train", "--data", data, *TINY_ARGUMENTS)
    run(
        capsys,
        "submit",
        "--data",
        data,
        "--postprocess.steps.remove_small_components.min_size",
        3,
        "--predict.precision",
        "fp32",
    )
    noted = json.loads((tmp_path / "submission_masks" / "settings.json").read_text())
    threshold, _, dust = noted["postprocess"]["pipeline"]
    assert threshold["hysteresis_threshold"]["t_high"] == 0.5  # of the checkpoint
    assert dust["remove_small_components"]["min_size"] == 3  # of the command line
    assert noted["predict"]["window"] == [16, 16, 16]


def test_phantom_and_audit(tmp_path, capsys):
    folder = tmp_path / "phantom"
    code, _, _ = run(
        capsys,
        "phantom",
        "--output",
        folder,
        "--train",
        2,
        "--test",
        1,
        "--shape",
        "[40,48,44]",
        "--truth",
        tmp_path / "truth",
    )
    assert code == 0
    with open(folder / "train.csv") as stream:
        assert next(csv.reader(stream)) == ["id", "scroll_id"]
    code, out, _ = run(capsys, "audit", "--data", folder, "--json", tmp_path / "audit.json")
    assert code == 0
    assert "deprecated" in out
    assert (tmp_path / "audit.json").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_default(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "default:" in text
    if name == "train":
        for key in ("--train.learning_rate", "--loss.dice_weight", "--lr.max_factor", "--fresh", "--resume-from"):
            assert key in text


def test_it_runs_as_a_module_and_says_its_version():
    done = subprocess.run(
        [sys.executable, "-m", "vesuvius_kit", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("vesuvius-kit 0.")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_it_works_without_standard_streams(data, tmp_path, closed):
    """Schedulers and daemons close them: Python's are None then."""
    report = tmp_path / "report.json"
    command = f"{shlex.quote(sys.executable)} -m vesuvius_kit audit --data {data} --json {report} {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert json.loads(report.read_text())["ok"]


def test_a_name_that_the_terminal_cannot_show_is_escaped(data, tmp_path):
    """LANG=C, as in many containers: a traceback, after all the work."""
    folder = tmp_path / "r\u00f6lle"
    folder.symlink_to(data)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "vesuvius_kit", "audit", "--data", str(folder)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.startswith(f"{tmp_path}/r\\xf6lle\n")


def test_help_needs_no_docstrings():
    done = subprocess.run([sys.executable, "-OO", "-m", "vesuvius_kit", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rehearse" in done.stdout


def break_nothing(data):
    pass


def remove_label(data):
    (data / "train_labels" / "101.tif").unlink()


def truncate_image(data):
    path = data / "train_images" / "102.tif"
    path.write_bytes(path.read_bytes()[:-200])


def write_2d(data):
    tifffile.imwrite(data / "train_images" / "102.tif", np.zeros((24, 24), np.uint8))


def write_float(data):
    write_volume(data / "train_images" / "102.tif", np.zeros((24, 24, 24), np.float32))


def write_seven(data):
    for chunk in ("100", "101", "102", "103"):
        label = make_pair((24, 24, 24), 1)[1]
        label[5] = 7
        write_volume(data / "train_labels" / f"{chunk}.tif", label)


def write_other_shape(data):
    write_volume(data / "train_labels" / "103.tif", np.zeros((24, 24, 20), np.uint8))


@pytest.mark.parametrize(
    ("breakage", "options", "named"),
    [
        (break_nothing, ["--data", "/nowhere"], "/nowhere"),
        (remove_label, [], "101.tif"),
        (truncate_image, [], "102.tif"),
        (write_2d, [], "102.tif"),
        (write_float, [], "102.tif"),
        (write_seven, [], ".tif"),
        (write_other_shape, [], "103"),
        (break_nothing, ["--model.name", "unet9d"], "unet9d"),
        (break_nothing, ["--loss.diec_weight", "1"], "loss.diec_weight"),
        (break_nothing, ["--train.learning_rat", "1"], "train.learning_rat"),
        (break_nothing, ["--nonsense", "1"], "nonsense"),
        (break_nothing, ["--loss.dice_weight", "-1"], "loss.dice_weight"),
        (break_nothing, ["--config", "config_v9"], "config_v9"),
        (break_nothing, ["--resume-from", "/nowhere/last"], "/nowhere/last"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_input_to_train_is_one_line_and_leaves_nothing(data, tmp_path, capsys, breakage, options, named, workers):
    if workers and breakage is not write_seven:
        pytest.skip("a loader process matters only where the loader finds the fault")
    breakage(data)
    given = ["--data", data, "--output", tmp_path / "run", *TINY_ARGUMENTS, f"--train.num_workers={workers}", *options]
    code, out, err = run(capsys, "train", *given)
    assert code == 2
    assert out == ""
    assert named in complaint(err)
    assert not (tmp_path / "run" / "fold_0" / "last").exists()
    assert not (tmp_path / "run" / "fold_0" / "best").exists()


def test_training_that_diverged_is_one_line(data, tmp_path, capsys, monkeypatch):
    from vesuvius_kit.losses import WeightedLoss

    monkeypatch.setattr(
        WeightedLoss,
        "forward",
        lambda self, logits, labels: (logits.sum() * float("nan"), {"dice": logits.sum().detach()}),
    )
    code, out, err = run(capsys, "train", "--data", data, "--output", tmp_path / "run", *TINY_ARGUMENTS)
    assert code == 1
    assert out == ""
    assert "no step of the epoch had a finite loss" in complaint(err)


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate 2 GiB.\nSee the manual.", "out of memory", ""]
)
def test_training_that_does_not_fit_a_gpu_is_one_line(data, tmp_path, capsys, monkeypatch, message):
    from vesuvius_kit.losses import WeightedLoss

    def run_out(*_):
        raise torch.cuda.OutOfMemoryError(message)

    monkeypatch.setattr(WeightedLoss, "forward", run_out)
    code, _, err = run(capsys, "train", "--data", data, "--output", tmp_path / "run", *TINY_ARGUMENTS)
    assert code == 2
    assert "must fit the GPU's memory" in complaint(err)
    assert complaint(err).endswith(message.partition("\n")[0])


def test_an_empty_test_folder_is_one_line(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(capsys, "train", "--data", data, *TINY_ARGUMENTS)
    for path in (data / "test_images").iterdir():
        path.unlink()
    code, _, err = run(capsys, "submit", "--data", data)
    assert code == 2
    assert "test_images" in complaint(err)
    assert not (tmp_path / "submission.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["submit", "--checkpoints", "/nowhere", "--data", "x"], "/nowhere"),
        (["audit", "--data", "/nowhere"], "/nowhere"),
        (["audit"], "data"),
        (["postprocess", "--probabilities", "/nowhere"], "/nowhere"),
        (["postprocess", "--postprocess.steps", "2"], "postprocess.steps must be a mapping"),
        (["predict", "--output", "x"], "--images must be given"),
        (["predict", "--images", "x", "--predict.window", "a"], "predict.window must be an integer or three of them"),
        (["phantom", "--output", "x", "--train", "-1"], "train"),
        (["train"], "--data"),
    ],
)
def test_other_bad_input_is_one_line(arguments, named, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert named in complaint(err)
    assert os.listdir(tmp_path) in ([], ["x"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit"], "the same command starts again"),
        (["score"], "the same command starts again"),
        (["phantom"], "the same command goes on"),
        (["submit"], "the same command goes on"),
        (["submit", "--fresh"], "the same command starts anew; without --fresh it goes on with what is there"),
        (["postprocess", "--fresh"], "the same command starts anew; without --fresh it goes on with what is there"),
    ],
)
def test_ctrl_c_ends_with_130_and_one_line_that_is_true(capsys, monkeypatch, arguments, words):
    """B7."""

    def stop(*, fresh: bool = False):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, arguments[0], stop)
    monkeypatch.delitem(STORED_SETTINGS, arguments[0], raising=False)
    code, _, err = run(capsys, *arguments)
    assert code == 130
    assert complaint(err) == f"vesuvius-kit: stopped; {words}"


@pytest.fixture
def masks(data, tmp_path):
    """Perfect predictions of the training chunks."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for path in (data / "train_labels").iterdir():
        write_volume(folder / path.name, (read_volume(path) == 1).astype(np.uint8))
    return folder


def test_score_prints_a_table_and_writes_it(data, masks, tmp_path, capsys):
    given = [
        "--predictions",
        masks,
        "--labels",
        data / "train_labels",
        "--csv",
        tmp_path / "s.csv",
        "--json",
        tmp_path / "s.json",
    ]
    code, out, _ = run(capsys, "score", *given)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["score", "100", "101", "102", "103", "mean"]
    assert lines[-1].split()[1:] == ["1.0000"] * 4
    with open(tmp_path / "s.csv") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["100", "101", "102", "103", "mean"]
    assert (tmp_path / "s.json").exists()


def test_score_names_each_file_it_cannot_use_and_scores_the_rest_only_when_told_to(data, masks, capsys):
    (masks / "100.tif").unlink()
    (masks / "101.tif").write_bytes(b"II*\0 no")
    write_volume(masks / "102.tif", np.zeros((3, 4, 5), np.uint8))
    write_volume(masks / "777.tif", np.zeros((3, 4, 5), np.uint8))
    given = ["--predictions", masks, "--labels", data / "train_labels"]
    code, out, err = run(capsys, "score", *given)
    assert (code, out) == (2, "")
    for name in ("100", "101", "102", "777"):
        assert name in complaint(err)
    code, out, _ = run(capsys, "score", *given, "--skip-invalid")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["103", "mean"]
    for name in ("100", "101", "102", "777"):
        assert name in out
