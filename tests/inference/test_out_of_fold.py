"""Each training volume is predicted by exactly the networks that did not see its scroll."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.competitions import make_pair
from helpers.nnunet_folders import write_nnunet_folder

import vesuvius_kit as vk
from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import PredictConfig, RunConfig, config_to_dict
from vesuvius_kit.inference import jobs
from vesuvius_kit.inference.averaging import ProbabilityMean
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.inference.out_of_fold import predict_out_of_fold, read_out_of_fold
from vesuvius_kit.models.checkpoint import inspect_checkpoint
from vesuvius_kit.models.weights import convert_weights, inspect_weights, read_trained_on

PREDICT = PredictConfig(window=(16, 16, 16), device="cpu", precision="fp32", tta="none")
WORDS = ["--predict.window", "16", "--predict.device", "cpu", "--predict.precision", "fp32", "--predict.tta", "none"]
# Two volumes of the first scroll; of the last an id is 7, and of the third the scroll is 7.
SCROLLS = {"11": "1", "12": "1", "21": "2", "31": "7", "7": "9"}
SHAPE = (16, 18, 24)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("train_images", "train_labels"):
        (folder / name).mkdir()
    for id_ in SCROLLS:
        image, label = make_pair(SHAPE, int(id_))
        vk.write_volume(folder / "train_images" / f"{id_}.tif", image)
        vk.write_volume(folder / "train_labels" / f"{id_}.tif", label)
    (folder / "train.csv").write_text(
        "id,scroll_id\n" + "".join(f"{id_},{s}\n" for id_, s in SCROLLS.items()) + "99,2\n"
    )
    return folder


def save_network(folder, seed, **state):
    torch.manual_seed(seed)
    model = vk.create_model("unet3d", initial_filters=2, depth=1)
    return vk.save_checkpoint(folder, model, {"config": config_to_dict(RunConfig()), **state})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: one of three folds, and one of a single network that saw two scrolls."""
    folder = tmp_path_factory.mktemp("runs")
    for fold, ids in enumerate((["21", "31", "7"], ["11", "12", "31"], ["12", "99", "7"])):
        run = {"trained_on": ids, "chunk_ids": ids[:1]}
        save_network(folder / "run_a" / f"fold_{fold}" / "best", fold, run=run)
    save_network(folder / "b" / "checkpoints" / "fold_0" / "best", 5, run={"chunk_ids": ["11", "31"]})
    return [folder / "run_a", folder / "b" / "checkpoints"]


# Which networks of each run may predict a volume.
EXPECTED = {
    "run_a": {"11": [0], "12": [0], "21": [1], "31": [2], "7": [1]},
    "checkpoints": {"21": [0], "7": [0]},
}


def checkpoint_of(runs, group, number):
    return dict(zip(EXPECTED, runs))[group] / f"fold_{number}" / "best"


def predict_by_hand(data, paths, id_):
    mean = ProbabilityMean()
    for path in paths:
        volume = vk.read_volume(data / "train_images" / f"{id_}.tif")
        mean.add(
            vk.predict_volume(vk.load_model(path), volume, window=16, device="cpu", dtype=torch.float32, tta="none")
        )
    return mean.mean().astype(np.float16)


def check_all(data, runs, folder, expected=EXPECTED):
    found = read_out_of_fold(folder)
    assert list(found.groups) == list(expected)
    assert list(found.volumes) == list(SCROLLS)
    for id_, volume in found.volumes.items():
        assert volume.scroll == SCROLLS[id_]
        assert set(volume.networks) == {group for group, own in expected.items() if id_ in own}
        for group, digests in volume.networks.items():
            paths = [checkpoint_of(runs, group, number) for number in expected[group][id_]]
            assert digests == [inspect_checkpoint(path).digest for path in paths]
            np.testing.assert_array_equal(np.load(found.path(group, id_)), predict_by_hand(data, paths, id_))
    return found


def test_each_volume_is_predicted_by_exactly_those_that_did_not_see_its_scroll(data, runs, tmp_path, caplog):
    folder = predict_out_of_fold(data, runs, tmp_path / "out", PREDICT)
    assert folder == tmp_path / "out"
    found = check_all(data, runs, folder)
    assert found.groups["run_a"] == [inspect_checkpoint(checkpoint_of(runs, "run_a", k)).digest for k in range(3)]
    assert found.predict == {"window": [16, 16, 16], "overlap": 0.5, "tta": "none"}
    assert "checkpoints: every network saw the scroll of 3 of 5 volumes, which are left out: 11, 12, 31" in caplog.text
    with pytest.raises(InputValueError, match="got 11 and checkpoints"):
        found.path("checkpoints", "11")


def test_several_networks_that_did_not_see_a_scroll_are_averaged(data, tmp_path):
    for fold, ids in enumerate((["11"], ["21"], ["12"])):
        save_network(tmp_path / "run" / f"fold_{fold}" / "best", fold, trained_on=ids)
    found = read_out_of_fold(predict_out_of_fold(data, [tmp_path / "run"], tmp_path / "out", PREDICT))
    for id_, numbers in {"11": [1], "21": [0, 2], "7": [0, 1, 2]}.items():
        paths = [tmp_path / "run" / f"fold_{number}" / "best" for number in numbers]
        assert found.volumes[id_].networks["run"] == [inspect_checkpoint(path).digest for path in paths]
        np.testing.assert_array_equal(np.load(found.path("run", id_)), predict_by_hand(data, paths, id_))


def test_networks_that_are_not_asked_are_let_go(data, runs):
    ensemble = Ensemble([runs[0]], PREDICT)
    volume = vk.read_volume(data / "train_images" / "7.tif")
    for numbers in ((0, 2), (2,), (1, 2)):
        ensemble.predict("7", volume, numbers=numbers)
        assert set(ensemble._models) == set(numbers)


def test_two_processes_write_what_one_writes(data, runs, tmp_path):
    folder = predict_out_of_fold(data, runs[:1], tmp_path / "out", PREDICT, workers=2)
    check_all(data, runs, folder, {"run_a": EXPECTED["run_a"]})


def test_a_call_that_was_killed_goes_on(data, runs, tmp_path, monkeypatch):
    command = [sys.executable, "-m", "vesuvius_kit", "predict", "--out-of-fold", "--data", data, *WORDS]
    command += ["--checkpoints", *runs, "--output", tmp_path / "out"]
    process = subprocess.Popen(
        list(map(str, command)), env=os.environ | {"PYTHONPATH": str(Path(vk.__file__).parents[1])}
    )
    until = time.monotonic() + 120
    while not any((tmp_path / "out").glob("run_a/*.npy")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.npy")}
    assert 0 < len(before) < 7, "it was to be killed in between"
    with pytest.raises(InputNotFoundError, match=r"must be complete, got .* without out_of_fold.json"):
        read_out_of_fold(tmp_path / "out")
    read = []
    monkeypatch.setattr(jobs, "read_volume", lambda path: read.append(path.stem) or vk.read_volume(path))
    predict_out_of_fold(data, runs, tmp_path / "out", PREDICT)
    assert len(read) == 7 - len(before)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.npy")}.items()
    check_all(data, runs, tmp_path / "out")


def test_a_group_more_keeps_what_the_others_predicted(data, runs, tmp_path, monkeypatch):
    predict_out_of_fold(data, runs[:1], tmp_path / "out", PREDICT)
    monkeypatch.setattr(jobs, "read_volume", lambda path: vk.read_volume(path) if path.stem in ("21", "7") else None)
    predict_out_of_fold(data, runs, tmp_path / "out", PREDICT)
    check_all(data, runs, tmp_path / "out")


def test_predictions_of_other_settings_are_refused_and_fresh_makes_them_anew(data, runs, tmp_path):
    def predict(**changes):
        settings = {"data": data, "predict": PREDICT, "fresh": False} | changes
        return predict_out_of_fold(
            settings["data"], runs[1:], tmp_path / "out", settings["predict"], fresh=settings["fresh"]
        )

    predict()
    other = PredictConfig(window=(16, 16, 16), device="cpu", precision="fp32", tta="mirror")
    with pytest.raises(InputValueError, match=r"settings must equal those .*predict.tta: none -> mirror"):
        predict(predict=other)
    assert read_out_of_fold(tmp_path / "out").predict["tta"] == "none"
    # A volume that changes its scroll changes who saw it.
    moved = shutil.copytree(data, tmp_path / "moved")
    (moved / "train.csv").write_text((data / "train.csv").read_text().replace("31,7", "31,2"))
    with pytest.raises(InputValueError, match=r"settings must equal those .*seen"):
        predict(data=moved)
    predict(predict=other, fresh=True)
    assert read_out_of_fold(tmp_path / "out").predict["tta"] == "mirror"


def test_groups_of_one_name_get_names_of_their_own(data, tmp_path):
    entries = []
    for seed, place in enumerate(("a/run", "b/run", "c/fold_0", "d")):
        save_network(tmp_path / place, seed, trained_on=["11"])
        entries.append(tmp_path / place)
    entries[-1] = entries[-1] / "checkpoint.safetensors"
    found = read_out_of_fold(predict_out_of_fold(data, entries, tmp_path / "out", PREDICT))
    assert list(found.groups) == ["run", "run_2", "c_fold_0", "d"]


def test_when_all_saw_everything_it_is_said(data, tmp_path):
    save_network(tmp_path / "run", 0, trained_on=list(SCROLLS))
    with pytest.raises(InputValueError, match="a network that did not see every scroll"):
        predict_out_of_fold(data, [tmp_path / "run"], tmp_path / "out", PREDICT)
    assert not (tmp_path / "out").exists()
    save_network(tmp_path / "other", 1, trained_on=["11"])
    entries = [tmp_path / "run", tmp_path / "other"]
    found = read_out_of_fold(predict_out_of_fold(data, entries, tmp_path / "out", PREDICT))
    assert list(found.groups) == ["other"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "must list them in its state .*got none in"),
        ({"run": {"trained_on": [], "chunk_ids": []}}, "must list them in its state"),
        ({"trained_on": "11"}, "trained_on of a checkpoint must be a list of ids, got '11'"),
        ({"trained_on": ["case_1", "case_2"]}, "must be rows of .*train.csv, .*got case_1, case_2"),
    ],
)
def test_a_network_of_which_nobody_knows_what_it_saw_is_refused(data, tmp_path, state, message):
    save_network(tmp_path / "run", 0, **state)
    with pytest.raises(InputError, match=message):
        predict_out_of_fold(data, [tmp_path / "run"], tmp_path / "out", PREDICT)


def test_volumes_of_another_competition_are_named(data, tmp_path, caplog):
    save_network(tmp_path / "run", 0, trained_on=["phantom_1", "11"])
    found = read_out_of_fold(predict_out_of_fold(data, [tmp_path / "run"], tmp_path / "out", PREDICT))
    assert list(found.volumes) == ["21", "31", "7"]
    assert "was trained on 1 volumes without a row" in caplog.text


def test_the_same_network_in_two_groups_is_refused(data, runs, tmp_path):
    with pytest.raises(InputValueError, match="different weights, got the same in"):
        predict_out_of_fold(data, [runs[0], runs[0] / "fold_1"], tmp_path / "out", PREDICT)


def test_weights_are_refused(data, runs, tmp_path):
    weighted = PredictConfig(window=(16, 16, 16), weights={"a" * 16: 1.0})
    with pytest.raises(InputValueError, match=r"predict.weights must be left out"):
        predict_out_of_fold(data, runs, tmp_path / "out", weighted)


def test_half_a_pair_and_a_folder_without_training_volumes_are_refused(data, runs, tmp_path):
    half = shutil.copytree(data, tmp_path / "half")
    (half / "train_labels" / "21.tif").unlink()
    with pytest.raises(InputValueError, match=r"half a pair: .*21.tif has no label"):
        predict_out_of_fold(half, runs, tmp_path / "out", PREDICT)
    shutil.rmtree(half / "train_images")
    shutil.rmtree(half / "train_labels")
    with pytest.raises(InputValueError, match="no training pairs"):
        predict_out_of_fold(half, runs, tmp_path / "out", PREDICT)


SPLITS = [
    {"train": ["21", "31", "7"], "val": ["11", "12"]},
    {"train": ["11", "12", "31", "7"], "val": ["21"]},
    {"train": ["11", "12", "21"], "val": ["31", "7"]},
]


@pytest.mark.parametrize("place", ["beside", "preprocessed", "variable"])
def test_folds_of_nnunet_predict_one_by_one(data, tmp_path, monkeypatch, place):
    results = tmp_path / "nnUNet_results" / "Dataset001_Scroll" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    write_nnunet_folder(results, folds=(0, 1, 2))
    if place == "variable":
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "elsewhere"))
    folder = {"beside": results, "variable": tmp_path / "elsewhere" / "Dataset001_Scroll"}.get(
        place, tmp_path / "nnUNet_preprocessed" / "Dataset001_Scroll"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "splits_final.json").write_text(json.dumps(SPLITS))
    found = read_out_of_fold(predict_out_of_fold(data, [results], tmp_path / "out", PREDICT))
    assert found.groups == {results.name: [inspect_weights(results).digest]}
    for id_, fold in {"11": 0, "12": 0, "21": 1, "31": 2, "7": 2}.items():
        assert found.volumes[id_].networks[results.name] == [inspect_weights(results / f"fold_{fold}").digest]
        volume = vk.read_volume(data / "train_images" / f"{id_}.tif")
        model = vk.load_nnunet(results, fold)
        expected = vk.predict_volume(model, volume, window=16, device="cpu", dtype=torch.float32, tta="none")
        np.testing.assert_array_equal(np.load(found.path(results.name, id_)), expected.astype(np.float16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "put splits_final.json beside plans.json, got none of "),
        ("[", "must be JSON"),
        ("{}", "must be a list of folds"),
        ('[{"train": [1], "val": []}]', "must be a list of folds"),
        (json.dumps(SPLITS[:1]), "must hold the volumes of fold 1, got 1 folds"),
    ],
)
def test_splits_of_nnunet_that_say_nothing_are_refused(data, tmp_path, content, message):
    results = write_nnunet_folder(tmp_path / "results", folds=(0, 1))
    if content is not None:
        (results / "splits_final.json").write_text(content)
    with pytest.raises(InputError, match=message):
        predict_out_of_fold(data, [results], tmp_path / "out", PREDICT)


def test_what_was_converted_still_knows_what_it_saw(runs, tmp_path):
    converted = convert_weights(runs[0] / "fold_0", tmp_path / "kit", half=True)
    assert read_trained_on(converted) == {"21", "31", "7"}
    results = write_nnunet_folder(tmp_path / "results", folds=(0, 1))
    with pytest.raises(InputNotFoundError, match="must list them"):
        read_trained_on(convert_weights(results, tmp_path / "unknown"))
    (results / "splits_final.json").write_text(json.dumps(SPLITS))
    assert read_trained_on(convert_weights(results / "fold_1", tmp_path / "one")) == {"11", "12", "31", "7"}
    assert read_trained_on(results) == set(SCROLLS)


def test_a_network_of_all_data_saw_all(tmp_path):
    results = write_nnunet_folder(tmp_path / "results", folds=("all",))
    (results / "splits_final.json").write_text(json.dumps(SPLITS))
    assert read_trained_on(results) == set(SCROLLS)


def test_the_command(data, runs, tmp_path, capsys):
    command = ["predict", "--out-of-fold", "--data", str(data), "--checkpoints", *map(str, runs), *WORDS]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    check_all(data, runs, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--images must be given, or --out-of-fold with --data, got neither"),
        (["--out-of-fold"], "got --out-of-fold"),
        (["--data", "x"], "got --data"),
        (["--images", "x", "--out-of-fold", "--data", "y"], "got --images and --data and --out-of-fold"),
    ],
)
def test_the_command_says_what_it_must_be_given(words, message, capsys):
    assert main(["predict", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.fixture(scope="module")
def done(data, runs, tmp_path_factory):
    return predict_out_of_fold(data, runs[1:], tmp_path_factory.mktemp("done") / "out", PREDICT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.write_text("{"), "must be as predict --out-of-fold wrote it"),
        (lambda index: index.write_text("[]"), "must be as predict --out-of-fold wrote it"),
        (lambda index: index.write_text('{"format": 2}'), "format must be 1, got 2"),
        (lambda index: index.write_text('{"format": 1}'), "groups"),
        (lambda index: index.write_text(index.read_text().replace('"checkpoints": [', '"other": [')), "got other"),
        (lambda index: index.write_text(index.read_text().replace('"checkpoints"', '"../x"')), "got '../x'"),
        (lambda index: (index.parent / "checkpoints" / "7.npy").unlink(), "7.npy"),
        (lambda index: index.unlink(), "without out_of_fold.json"),
    ],
)
def test_a_folder_that_is_not_what_was_written_is_refused_in_a_line(done, tmp_path, change, message):
    folder = shutil.copytree(done, tmp_path / "copy")
    assert list(read_out_of_fold(folder).volumes) == ["21", "7"]
    change(folder / "out_of_fold.json")
    with pytest.raises(InputError, match=message) as error:
        read_out_of_fold(folder)
    assert "\n" not in str(error.value)
