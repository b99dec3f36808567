"""``--tuned`` lies above what the weights bring along and below the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.competitions import make_pair, public_pipeline

import vesuvius_kit as vk
from vesuvius_kit.cli import main
from vesuvius_kit.config import PredictConfig, RunConfig, config_to_dict
from vesuvius_kit.models.checkpoint import inspect_checkpoint

WORDS = ["--predict.device", "cpu", "--predict.precision", "fp32"]
TUNED = [{"hysteresis_threshold": {"t_low": 0.45, "t_high": 0.5}}]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Images, two runs trained under settings of their own, and a tuning for them."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "images").mkdir()
    vk.write_volume(folder / "images" / "7.tif", make_pair((16, 20, 24), 7)[0])
    config = replace(
        RunConfig(),
        predict=PredictConfig(window=(16, 16, 16), overlap=0.25),
        postprocess=public_pipeline(0.3, 0.6, 1, 1, 2),
    )
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = vk.create_model("unet3d", initial_filters=2, depth=1)
        vk.save_checkpoint(folder / name / "fold_0" / "best", model, {"config": config_to_dict(config)})
    digests = [inspect_checkpoint(folder / name / "fold_0" / "best").digest for name in "ab"]
    (folder / "tuning").mkdir()
    settings = {"predict": {"weights": dict(zip(digests, (3, 1)))}, "postprocess": {"pipeline": "pipeline.yaml"}}
    (folder / "tuning" / "tuned.yaml").write_text(json.dumps(settings))
    (folder / "tuning" / "pipeline.yaml").write_text(json.dumps(TUNED))
    return folder


def checkpoints(work, names="ab"):
    return ["--checkpoints", *(str(work / name) for name in names)]


def noted(folder):
    content = json.loads((folder / "settings.json").read_text())
    return content.get("predict"), [next(iter(step)) for step in content.get("postprocess", {}).get("pipeline", [])]


def submit(work, output, *words):
    command = ["submit", "--images", str(work / "images"), *checkpoints(work), *WORDS, "--output", str(output)]
    return main([*command, *words])


def test_submit_takes_the_rest_from_the_checkpoints(work, tmp_path):
    assert submit(work, tmp_path / "s.zip", "--tuned", str(work / "tuning")) == 0
    predict, steps = noted(tmp_path / "s_masks")
    assert steps == ["hysteresis_threshold"]
    assert sorted(predict["shares"]) == [0.25, 0.75]
    assert (predict["overlap"], predict["window"]) == (0.25, [16, 16, 16])
    mask = vk.read_volume(tmp_path / "s_masks" / "7.tif")
    assert main(["predict", "--images", str(work / "images"), *checkpoints(work), *WORDS, "--output", str(tmp_path / "p"),
                 "--tuned", str(work / "tuning" / "tuned.yaml")]) == 0  # fmt: skip
    assert noted(tmp_path / "p")[0] == predict
    command = ["postprocess", "--probabilities", str(tmp_path / "p"), "--tuned", str(work / "tuning")]
    assert main([*command, "--output", str(tmp_path / "m")]) == 0
    assert noted(tmp_path / "m")[1] == ["hysteresis_threshold"]
    # float16 may move a voxel that lies at a threshold.
    assert np.mean(mask != vk.read_volume(tmp_path / "m" / "7.tif")) < 0.01


def test_without_it_nothing_changes_and_the_command_line_wins(work, tmp_path):
    assert submit(work, tmp_path / "a.zip") == 0
    predict, steps = noted(tmp_path / "a_masks")
    assert "shares" not in predict
    assert steps[:2] == ["hysteresis_threshold", "close_cylinder"]
    words = ["--tuned", str(work / "tuning"), "--postprocess.pipeline", "public", "--predict.overlap", "0.5"]
    assert submit(work, tmp_path / "b.zip", *words) == 0
    predict, steps = noted(tmp_path / "b_masks")
    assert steps == ["hysteresis_threshold", "close_cylinder", "remove_small_components"]
    assert predict["overlap"] == 0.5
    content = json.loads((tmp_path / "b_masks" / "settings.json").read_text())
    assert content["postprocess"]["pipeline"][0]["hysteresis_threshold"]["t_low"] != 0.3, "of the checkpoints' pipeline"
    assert submit(work, tmp_path / "c.zip", *words[:2], "--postprocess.steps.hysteresis_threshold.t_high", "0.9") == 0
    content = json.loads((tmp_path / "c_masks" / "settings.json").read_text())
    assert content["postprocess"]["pipeline"] == [{"hysteresis_threshold": {"t_low": 0.45, "t_high": 0.9}}]


def test_it_lies_above_a_configuration(work, tmp_path):
    (tmp_path / "mine.yaml").write_text("predict: {overlap: 0.125, window: 16}\npostprocess: {pipeline: raw}\n")
    words = ["--tuned", str(work / "tuning"), "--config", str(tmp_path / "mine.yaml")]
    assert submit(work, tmp_path / "s.zip", *words) == 0
    predict, steps = noted(tmp_path / "s_masks")
    assert (predict["overlap"], steps) == (0.125, ["hysteresis_threshold"])
    assert "shares" in predict


def test_postprocess_takes_another_pipeline_on_the_command_line(work, tmp_path):
    (tmp_path / "p").mkdir()
    np.save(tmp_path / "p" / "7.npy", np.full((8, 8, 8), 0.45, np.float16))
    command = ["postprocess", "--probabilities", str(tmp_path / "p"), "--tuned", str(work / "tuning")]
    for number, words in enumerate((["--pipeline", "public"], ["--postprocess.pipeline", "public"])):
        assert main([*command, *words, "--output", str(tmp_path / f"m{number}")]) == 0
        assert len(noted(tmp_path / f"m{number}")[1]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["submit", "--tuned", "/nowhere"],
            "tuned settings must be tuned.yaml, or a folder that holds it, got /nowhere",
        ),
        (["submit", "--tuned", "tuning", "--checkpoints", "a"], "predict.weights must name networks that are given"),
        (["postprocess", "--tuned", "/nowhere"], "got /nowhere"),
        (["predict", "--out-of-fold", "--data", "d", "--tuned", "tuning"], "predict.weights must be left out"),
        (["ship", "--tuned", "tuning", "--dry-run"], "tuned settings must go with checkpoints"),
        (["rehearse", "--tuned", "tuning"], "tuned settings must go with checkpoints"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(work, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(work)
    if words[0] in ("submit", "predict") and "--checkpoints" not in words:
        words = [*words, *checkpoints(work)]
    words = [*words, "--images", "images"] if words[0] == "submit" else words
    words = [*words, "--data", "d"] if words[0] == "ship" else words
    (work / "d" / "test_images").mkdir(parents=True, exist_ok=True)
    vk.write_volume(work / "d" / "test_images" / "1.tif", np.zeros((4, 4, 4), np.uint8))
    assert main(words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
