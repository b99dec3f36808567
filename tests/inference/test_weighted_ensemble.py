"""Networks of an ensemble that count more than others, by `PredictConfig.weights`."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.competitions import make_pair, public_pipeline

import vesuvius_kit as vk
from vesuvius_kit.checks import InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import PredictConfig, RunConfig, config_to_dict
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.inference.submission import write_submission
from vesuvius_kit.models.checkpoint import inspect_checkpoint
from vesuvius_kit.models.weights import agreed_settings, convert_weights, find_weights

PREDICT = PredictConfig(window=(16, 16, 16), device="cpu", precision="fp32")
SHAPE = (16, 20, 24)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with one image, three runs of a network each, what each says alone, and their digests."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "images").mkdir()
    vk.write_volume(folder / "images" / "7.tif", make_pair(SHAPE, 7)[0])
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        model = vk.create_model("unet3d", initial_filters=2, depth=1)
        vk.save_checkpoint(folder / name / "fold_0" / "best", model, {"config": config_to_dict(RunConfig())})
    return folder


def runs_of(work):
    return [work / name for name in "abc"]


def digest_of(run):
    return inspect_checkpoint(run / "fold_0" / "best").digest


def alone(work, name):
    model = vk.load_model(work / name / "fold_0" / "best")
    volume = vk.read_volume(work / "images" / "7.tif")
    return vk.predict_volume(model, volume, window=16, device="cpu", dtype=torch.float32)


def predict(work, output, weights, runs=None, **options):
    settings = replace(PREDICT, weights=weights)
    (path,) = vk.predict_folder(work / "images", runs or runs_of(work), output, settings, **options)
    return np.load(path)


def test_the_mean_is_weighted_and_the_order_of_the_networks_does_not_matter(work, tmp_path):
    weights = dict(zip(map(digest_of, runs_of(work)), (0.5, 0.3, 0.2)))
    found = predict(work, tmp_path / "a", weights)
    expected = sum(share * alone(work, name) for share, name in zip((0.5, 0.3, 0.2), "abc"))
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=1e-3)
    again = predict(
        work, tmp_path / "a", {digest: 10 * weight for digest, weight in weights.items()}, runs_of(work)[::-1]
    )
    np.testing.assert_array_equal(again, found)
    noted = json.loads((tmp_path / "a" / "settings.json").read_text())["predict"]
    assert dict(zip(noted["weights"], noted["shares"])) == pytest.approx(weights)
    with pytest.raises(InputValueError, match="shares: "):
        predict(work, tmp_path / "a", dict(zip(weights, (0.3, 0.5, 0.2))))


def test_equal_weights_are_none(work, tmp_path):
    plain = predict(work, tmp_path / "a", {})
    # The same settings: nothing is predicted again, and nothing refused.
    np.testing.assert_array_equal(
        predict(work, tmp_path / "a", dict.fromkeys(map(digest_of, runs_of(work)), 0.7)), plain
    )
    assert "shares" not in json.loads((tmp_path / "a" / "settings.json").read_text())["predict"]


def test_a_network_of_weight_0_is_neither_loaded_nor_asked(work, tmp_path):
    weights = dict(zip(map(digest_of, runs_of(work)), (1, 0, 1)))
    ensemble = Ensemble(runs_of(work), replace(PREDICT, weights=weights))
    assert [path.parts[-4] for path in ensemble.paths] == ["a", "c"]
    two = [work / "a", work / "c"]
    np.testing.assert_array_equal(predict(work, tmp_path / "a", weights), predict(work, tmp_path / "b", {}, two))


def test_weights_that_do_not_fit_are_refused(work, tmp_path):
    a, b, c = map(digest_of, runs_of(work))
    for weights, message in [
        ({a: 1, b: 1, c: 1, "0123456789abcdef": 1}, "must name networks that are given, .*, got 0123456789abcdef"),
        ({a: 1, b: 1}, f"must name every network or none, got none for {c}"),
    ]:
        with pytest.raises(InputValueError, match=message):
            predict(work, tmp_path / "a", weights)
    assert not (tmp_path / "a").exists()


def test_what_was_converted_is_known_by_what_it_was_made_from(work, tmp_path):
    converted = convert_weights(work / "a", tmp_path / "half", half=True)
    weights = {digest_of(work / "a"): 3, digest_of(work / "b"): 1}
    ensemble = Ensemble([converted, work / "b"], replace(PREDICT, weights=weights))
    assert ensemble.shares == pytest.approx([0.75, 0.25], abs=1e-6)


def test_the_settings_of_a_training_bring_no_weights(work, tmp_path):
    digest = digest_of(work / "a")
    config = config_to_dict(replace(RunConfig(), predict=replace(PREDICT, weights={digest: 1.0})))
    vk.save_checkpoint(tmp_path / "run", vk.create_model("unet3d", initial_filters=2, depth=1), {"config": config})
    assert "predict.weights" not in agreed_settings(find_weights([tmp_path / "run"]))


def test_a_submission_is_weighted_and_its_record_says_so(work, tmp_path):
    weights = dict(zip(map(digest_of, runs_of(work)), (0.5, 0.3, 0.2)))
    postprocess = public_pipeline(0.4, 0.5, 1, 1, 2)
    write_submission(tmp_path / "s.zip", work / "images", runs_of(work), replace(PREDICT, weights=weights), postprocess)
    record = json.loads((tmp_path / "s_masks" / "run.json").read_text())
    assert {entry["digest"]: entry["share"] for entry in record["weights"]} == pytest.approx(weights)
    vk.predict_folder(work / "images", runs_of(work), tmp_path / "p", replace(PREDICT, weights=weights))
    vk.postprocess_folder(tmp_path / "p", tmp_path / "m", postprocess)
    mask, other = (vk.read_volume(tmp_path / folder / "7.tif") for folder in ("s_masks", "m"))
    assert np.mean(mask != other) < 0.01


def test_the_command_line_and_a_file_give_weights(work, tmp_path, capsys):
    digests = list(map(digest_of, runs_of(work)))
    command = ["predict", "--images", str(work / "images"), "--checkpoints", *map(str, runs_of(work))]
    command += ["--predict.window", "16", "--predict.device", "cpu", "--predict.precision", "fp32"]
    words = [
        word for digest, weight in zip(digests, (5, 3, 2)) for word in (f"--predict.weights.{digest}", str(weight))
    ]
    assert main([*command, *words, "--output", str(tmp_path / "a")]) == 0
    file = tmp_path / "mine.yaml"
    file.write_text("predict:\n  weights:\n" + "".join(f"    {d}: {w}\n" for d, w in zip(digests, (5, 3, 2))))
    assert main([*command, "--config", str(file), "--output", str(tmp_path / "b")]) == 0
    expected = predict(work, tmp_path / "c", dict(zip(digests, (0.5, 0.3, 0.2))))
    for name in "ab":
        np.testing.assert_array_equal(np.load(tmp_path / name / "7.npy"), expected)
    capsys.readouterr()
    assert main([*command, *words[:2], "--output", str(tmp_path / "d")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert re.search("predict.weights must name every network or none", lines[-1])
