"""``vesuvius-kit convert``, and how commands take nnU-Net's folders."""

import pytest

from tests.helpers.nnunet_folders import dataset, write_nnunet_folder
from vesuvius_kit.cli import main
from vesuvius_kit.cli.prediction import settings_of_training
from vesuvius_kit.models.checkpoint import load_model
from vesuvius_kit.models.nnunet import load_nnunet


def test_convert_writes_a_checkpoint_of_the_kit(tmp_path, capsys):
    folder = write_nnunet_folder(tmp_path / "nnunet", folds=(0, 1))
    assert main(["convert", str(folder), "--output", str(tmp_path / "kit")]) == 0
    path = tmp_path / "kit" / "checkpoint.safetensors"
    assert capsys.readouterr().out.startswith(f"{path}: 0.")
    assert load_model(path).record == load_nnunet(folder).record
    assert main(["convert", str(folder), "--output", str(tmp_path / "half"), "--half"]) == 0
    assert (tmp_path / "half" / "checkpoint.safetensors").stat().st_size < 0.7 * path.stat().st_size


def test_convert_takes_folds_and_the_surface(tmp_path):
    labels = {"background": 0, "recto": 1, "verso": 2}
    folder = write_nnunet_folder(tmp_path / "nnunet", dataset_content=dataset(labels), folds=(0, 1, 2), name="best")
    words = ["--folds", "0", "2", "--surface", "recto", "verso", "--checkpoint", "best"]
    assert main(["convert", str(folder), "--output", str(tmp_path / "kit"), *words]) == 0
    record = load_model(tmp_path / "kit").record
    assert record.options["n_members"] == 2
    assert record.rules.output.surface == (1, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "first"], "--folds must be numbers or all, got first"),
        (["--folds", "7"], "fold_7 must hold checkpoint_final.pth"),
        (["--surface", "ink"], "surface must be among surface, got 'ink'"),
        (["--checkpoint", "latest"], "with checkpoint_latest.pth, got none"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(tmp_path, capsys, words, message):
    folder = write_nnunet_folder(tmp_path / "nnunet")
    assert main(["convert", str(folder), "--output", str(tmp_path / "kit"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert main(["convert", "--output", str(tmp_path / "kit")]) == 2
    assert main(["convert", str(tmp_path / "nowhere"), "--output", str(tmp_path / "kit")]) == 2


def test_nnunets_weights_need_no_settings(tmp_path):
    folder = write_nnunet_folder(tmp_path / "nnunet")
    options = {"config": None, "checkpoints": [str(folder)], "predict": None, "postprocess": None}
    assert settings_of_training(options) == {"predict": {}, "postprocess": {}}
    assert main(["convert", str(folder), "--output", str(tmp_path / "kit")]) == 0
    assert settings_of_training({**options, "checkpoints": [tmp_path / "kit"]}) == {"predict": {}, "postprocess": {}}
