import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.competitions import make_pair, public_pipeline

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import PredictConfig, RunConfig, config_to_dict
from vesuvius_kit.inference import ensemble
from vesuvius_kit.inference import predict as inference
from vesuvius_kit.inference.predict import NotFiniteError, OutOfTimeError
from vesuvius_kit.inference.submission import (
    list_images,
    postprocess_folder,
    predict_folder,
    validate_submission,
    write_submission,
)
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.models import checkpoint, create_model
from vesuvius_kit.models.checkpoint import FILE_NAME, inspect_checkpoint, save_checkpoint
from vesuvius_kit.postprocess.files import load_probability

PREDICT = PredictConfig(window=(16, 16, 16), precision="fp32")
POSTPROCESS = public_pipeline(0.3, 0.5, 1, 1, 2)
SHAPES = {"7": (24, 24, 24), "11": (10, 30, 17), "402": (16, 20, 33)}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, shape in SHAPES.items():
        write_volume(folder / f"{name}.tif", make_pair(shape, int(name))[0])
    return folder


@pytest.fixture
def run(tmp_path):
    model = create_model("unet3d", initial_filters=2, depth=1)
    save_checkpoint(tmp_path / "run" / "fold_0" / "best", model, {"config": config_to_dict(RunConfig())})
    return tmp_path / "run"


def masks_in(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_submission_holds_one_valid_mask_for_each_image(images, run, tmp_path):
    path = tmp_path / "submission.zip"
    summary = write_submission(path, images, [run], PREDICT, POSTPROCESS)
    assert sorted(summary.predicted) == sorted(SHAPES)
    assert summary.simple == []
    assert sorted(masks_in(path)) == sorted(f"{name}.tif" for name in SHAPES)
    for name, shape in SHAPES.items():
        mask = read_volume(tmp_path / "submission_masks" / f"{name}.tif")
        assert mask.dtype == np.uint8
        assert mask.shape == shape
        assert set(np.unique(mask)) <= {0, 1}
    assert validate_submission(path, images) == 3


def test_the_masks_are_those_of_predict_and_postprocess(images, run, tmp_path):
    write_submission(tmp_path / "submission.zip", images, [run], PREDICT, POSTPROCESS)
    predict_folder(images, [run], tmp_path / "probabilities", PREDICT)
    postprocess_folder(tmp_path / "probabilities", tmp_path / "masks", POSTPROCESS)
    for name, shape in SHAPES.items():
        probability = np.load(tmp_path / "probabilities" / f"{name}.npy")
        assert probability.dtype == np.float16
        assert probability.shape == shape
        mask = read_volume(tmp_path / "masks" / f"{name}.tif")
        # float16 may move a voxel that lies exactly at a threshold.
        assert (mask != read_volume(tmp_path / "submission_masks" / f"{name}.tif")).mean() < 0.01


def test_a_stopped_run_goes_on_with_what_is_missing(images, run, tmp_path, monkeypatch):
    path = tmp_path / "submission.zip"
    calls = []
    predict = ensemble.predict_volume

    def stop_at_second(model, volume, **settings):
        calls.append(volume.shape)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(model, volume, **settings)

    monkeypatch.setattr(ensemble, "predict_volume", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        write_submission(path, images, [run], PREDICT, POSTPROCESS)
    # What is there already would be accepted.
    assert validate_submission(path, images) == 3
    assert len(list((tmp_path / "submission_masks").glob("*.tif"))) == 1
    write_submission(path, images, [run], PREDICT, POSTPROCESS)
    assert len(calls) == 4  # one done, one stopped, then the second and third
    assert validate_submission(path, images) == 3


def test_masks_of_other_settings_never_mix(images, run, tmp_path):
    path = tmp_path / "submission.zip"
    write_submission(path, images, [run], PREDICT, POSTPROCESS)
    other = public_pipeline(0.3, 0.5, 0, 0, 2)
    with pytest.raises(InputValueError, match=r"--fresh.*postprocess.pipeline: .*z_radius"):
        write_submission(path, images, [run], PREDICT, other)
    save_checkpoint(
        run / "fold_0" / "best",
        create_model("unet3d", initial_filters=2, depth=1),
        {"config": config_to_dict(RunConfig())},
    )
    with pytest.raises(InputValueError, match=r"predict.weights"):
        write_submission(path, images, [run], PREDICT, POSTPROCESS)
    write_submission(path, images, [run], PREDICT, other, fresh=True)


def test_a_result_never_passes_for_that_of_another_file(images, run, tmp_path):
    """Both default folders are used again and again: masks of an earlier prediction were kept without a word."""
    probabilities, masks, archive = tmp_path / "probabilities", tmp_path / "masks", tmp_path / "s.zip"
    predict_folder(images, [run], probabilities, PREDICT)
    postprocess_folder(probabilities, masks, POSTPROCESS)
    write_submission(archive, images, [run], PREDICT, POSTPROCESS)
    stamp = (masks / "7.tif").stat().st_mtime_ns
    shutil.copytree(probabilities, tmp_path / "copy")
    postprocess_folder(tmp_path / "copy", masks, POSTPROCESS)  # the same bytes elsewhere are the same file
    assert (masks / "7.tif").stat().st_mtime_ns == stamp
    np.save(probabilities / "7.npy", np.ones(SHAPES["7"], np.float16))
    with pytest.raises(InputValueError, match=rf"results in {masks} .*--fresh.*in place of 7$"):
        postprocess_folder(probabilities, masks, POSTPROCESS)
    write_volume(images / "11.tif", read_volume(images / "11.tif")[::-1])
    for again in (
        lambda: predict_folder(images, [run], probabilities, PREDICT),
        lambda: write_submission(archive, images, [run], PREDICT, POSTPROCESS),
    ):
        with pytest.raises(InputValueError, match=r"--fresh.*in place of 11$"):
            again()
    postprocess_folder(probabilities, masks, POSTPROCESS, fresh=True)
    assert read_volume(masks / "7.tif").any()
    postprocess_folder(probabilities, masks, POSTPROCESS)


def test_an_image_without_contrast_is_named(images, run, tmp_path, caplog):
    """A conversion that left black: the network finds surfaces in it all the same."""
    write_volume(images / "11.tif", np.zeros(SHAPES["11"], np.uint8))
    predict_folder(images, [run], tmp_path / "p", PREDICT)
    assert [line for line in caplog.messages if "nothing can be seen" in line] == [
        "volume 11 is 0 everywhere: nothing can be seen in it"
    ]


def test_a_source_without_a_result_may_change(images, run, tmp_path):
    """A run that was stopped goes on, whatever became of the volumes it had not reached."""
    predict_folder(images, [run], tmp_path / "p", PREDICT)
    (tmp_path / "p" / "11.npy").unlink()
    write_volume(images / "11.tif", read_volume(images / "11.tif")[::-1])
    predict_folder(images, [run], tmp_path / "p", PREDICT)
    predict_folder(images, [run], tmp_path / "p", PREDICT)


def test_when_the_time_is_over_the_rest_gets_simple_masks_and_the_next_run_goes_on(
    images, run, tmp_path, monkeypatch, caplog
):
    path = tmp_path / "submission.zip"
    predict = ensemble.predict_volume
    done = []

    def out_of_time_after_one(model, volume, *, deadline, name, **settings):
        assert deadline is not None
        if "of noise" not in name:
            if done:
                raise OutOfTimeError
            done.append(volume.shape)
        return predict(model, volume, deadline=None, name=name, **settings)

    monkeypatch.setattr(ensemble, "predict_volume", out_of_time_after_one)
    with caplog.at_level("WARNING"):
        summary = write_submission(path, images, [run], PREDICT, POSTPROCESS, budget_seconds=3600)
    assert len(summary.predicted) == 1
    assert len(summary.simple) == 2
    assert "2 of 3 volumes get a simple mask" in caplog.text
    assert validate_submission(path, images) == 3
    monkeypatch.setattr(ensemble, "predict_volume", predict)
    summary = write_submission(path, images, [run], PREDICT, POSTPROCESS)
    assert summary.simple == []


def test_a_budget_too_small_for_anything_still_leaves_a_valid_archive(images, run, tmp_path):
    summary = write_submission(tmp_path / "s.zip", images, [run], PREDICT, POSTPROCESS, budget_seconds=1e-3)
    assert summary.predicted == []
    assert validate_submission(tmp_path / "s.zip", images) == 3


def test_two_checkpoints_are_averaged(images, run, tmp_path):
    model = create_model("unet3d", initial_filters=2, depth=1)
    save_checkpoint(run / "fold_1" / "best", model, {"config": config_to_dict(RunConfig())})
    for output, checkpoints in (("both", [run]), ("first", [run / "fold_0"]), ("second", [run / "fold_1"])):
        predict_folder(images, checkpoints, tmp_path / output, PREDICT)
    both, first, second = (
        np.load(tmp_path / output / "7.npy").astype(np.float32) for output in ("both", "first", "second")
    )
    np.testing.assert_allclose(both, (first + second) / 2, atol=2e-3)


def test_each_fault_of_an_archive_is_named(images, run, tmp_path):
    good = tmp_path / "good.zip"
    write_submission(good, images, [run], PREDICT, POSTPROCESS)
    content = masks_in(good)
    write_volume(tmp_path / "x.tif", np.full(SHAPES["7"], 3, np.uint8))
    write_volume(tmp_path / "y.tif", np.zeros((3, 4, 5), np.uint8))
    write_volume(tmp_path / "z.tif", np.zeros(SHAPES["7"], np.float32))
    changed = {
        "7.tif is missing": {"7.tif": None},
        "8.tif has no test image": {"8.tif": content["7.tif"]},
        "7.tif must hold 0 and 1 only": {"7.tif": (tmp_path / "x.tif").read_bytes()},
        r"7.tif must have the image's shape \(24, 24, 24\), has \(3, 4, 5\)": {
            "7.tif": (tmp_path / "y.tif").read_bytes()
        },
        "7.tif must be uint8, is float32": {"7.tif": (tmp_path / "z.tif").read_bytes()},
        "7.tif is not a readable TIFF": {"7.tif": content["7.tif"][:40]},
    }
    for message, changes in changed.items():
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            for name, data in {**content, **changes}.items():
                if data is not None:
                    archive.writestr(name, data)
        with pytest.raises(InputValueError, match=message):
            validate_submission(tmp_path / "bad.zip", images)
    (tmp_path / "no.zip").write_bytes(b"PK no")
    with pytest.raises(InputValueError, match="must be a zip archive"):
        validate_submission(tmp_path / "no.zip", images)
    with pytest.raises(InputNotFoundError):
        validate_submission(tmp_path / "nowhere.zip", images)


def test_bad_images_stop_before_anything_is_predicted(images, run, tmp_path):
    path = tmp_path / "submission.zip"
    whole = (images / "402.tif").read_bytes()
    (images / "402.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"402\.tif"):
        list_images(images)
    with pytest.raises(InputError, match=r"402\.tif"):
        predict_folder(images, [run], tmp_path / "p", PREDICT)
    assert not (tmp_path / "p").exists()
    for file in images.iterdir():
        file.write_bytes(whole[:50])
    with pytest.raises(InputValueError, match=r"at least one volume that can be read, got .* and 2 more"):
        write_submission(path, images, [run], PREDICT, POSTPROCESS)
    assert not path.exists()
    assert not (tmp_path / "submission_masks").exists()
    for file in images.iterdir():
        file.unlink()
    with pytest.raises(InputValueError, match=r"at least one \.tif or \.tiff, got none in"):
        list_images(images)


def test_a_failing_archive_leaves_no_archive(images, run, tmp_path, monkeypatch):
    path = tmp_path / "submission.zip"

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_submission(path, images, [run], PREDICT, POSTPROCESS)
    assert not path.exists()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_probabilities_that_cannot_be_used_are_named(tmp_path):
    folder = tmp_path / "probabilities"
    folder.mkdir()
    with pytest.raises(InputValueError, match=r"at least one \.npy"):
        postprocess_folder(folder, tmp_path / "masks", POSTPROCESS)
    np.save(folder / "7.npy", np.zeros((4, 5, 6), np.float16))
    (folder / "8.npy").write_bytes((folder / "7.npy").read_bytes()[:100])
    with pytest.raises(InputValueError, match=r"complete \.npy array, got .*8\.npy"):
        postprocess_folder(folder, tmp_path / "masks", POSTPROCESS)
    assert not (tmp_path / "masks" / "8.tif").exists()


def test_settings_lie_beside_the_results(images, run, tmp_path):
    predict_folder(images, [run], tmp_path / "probabilities", PREDICT)
    noted = json.loads((tmp_path / "probabilities" / "settings.json").read_text())["predict"]
    assert noted["window"] == [16, 16, 16]
    assert len(noted["weights"]) == 1


def save_run(folder, *, patch_size=16, spoilt=False, seed=0, **options):
    """A checkpoint with the settings that a run would note; spoilt, its weights are NaN."""
    torch.manual_seed(seed)
    model = create_model("unet3d", initial_filters=2, depth=1, **options)
    if spoilt:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
    config = config_to_dict(RunConfig())
    config["patches"]["size"] = [patch_size] * 3
    config["predict"] |= {"window": [0, 0, 0], "precision": "fp32"}
    config["postprocess"] |= config_to_dict(POSTPROCESS)
    save_checkpoint(folder, model, {"config": config})
    return folder


TRAINED_WINDOW = PredictConfig(precision="fp32")


def test_the_same_weights_twice_are_refused(images, tmp_path, caplog):
    """A5: a copy of a fold was averaged with it."""
    caplog.set_level("INFO")
    first, second = (save_run(tmp_path / f"fold_{seed}" / "best", seed=seed) for seed in (0, 1))
    (tmp_path / "fold_0_backup" / "best").mkdir(parents=True)
    copy = tmp_path / "fold_0_backup" / "best" / FILE_NAME
    copy.write_bytes((first / FILE_NAME).read_bytes())
    predict_folder(images, [tmp_path], tmp_path / "p", TRAINED_WINDOW)
    assert all(f"weights {fold / FILE_NAME}" in caplog.text for fold in (first, second))
    assert "fold_0_backup" not in caplog.text
    with pytest.raises(InputValueError, match=r"different weights, got the same in .*fold_0.* and .*fold_0"):
        predict_folder(images, [tmp_path, copy], tmp_path / "q", TRAINED_WINDOW)
    assert not (tmp_path / "q").exists()


def test_each_network_predicts_with_the_window_of_its_training(images, tmp_path):
    """A6: the first checkpoint's patch size was everybody's window, so the order of the checkpoints mattered."""
    a = save_run(tmp_path / "a", patch_size=16, seed=1)
    b = save_run(tmp_path / "b", patch_size=32, seed=2, normalisation={"scheme": "fixed", "mean": 90.0, "std": 30.0})
    for name, checkpoints in (("a", [a]), ("b", [b]), ("ab", [a, b]), ("ba", [b, a])):
        predict_folder(images, checkpoints, tmp_path / f"p_{name}", TRAINED_WINDOW)
    for volume in SHAPES:
        alone_a, alone_b, ab, ba = (
            np.load(tmp_path / f"p_{name}" / f"{volume}.npy") for name in ("a", "b", "ab", "ba")
        )
        np.testing.assert_array_equal(ab, ba)
        mean = (alone_a.astype(np.float64) + alone_b) / 2
        np.testing.assert_allclose(ab, mean, atol=1e-3)
    noted = json.loads((tmp_path / "p_ab" / "settings.json").read_text())
    assert noted == json.loads((tmp_path / "p_ba" / "settings.json").read_text())
    windows = {inspect_checkpoint(a).digest: [16, 16, 16], inspect_checkpoint(b).digest: [32, 32, 32]}
    assert noted["predict"]["windows"] == [windows[digest] for digest in noted["predict"]["weights"]]
    predict_folder(images, [b, a], tmp_path / "given", PREDICT)
    assert json.loads((tmp_path / "given" / "settings.json").read_text())["predict"]["window"] == [16, 16, 16]


def test_a_network_that_answers_nan_is_named_and_leaves_no_result(images, tmp_path, capsys):
    """A8: a file of NaN counted as done."""
    spoilt = save_run(tmp_path / "spoilt", spoilt=True)
    with pytest.raises(NotFiniteError, match=r"images/11\.tif has no result: .*spoilt.*must return finite logits"):
        predict_folder(images, [spoilt], tmp_path / "p", TRAINED_WINDOW)
    assert list((tmp_path / "p").glob("*.npy")) == []
    assert (
        main(["predict", "--images", str(images), "--checkpoints", str(spoilt), "--output", str(tmp_path / "p")]) == 2
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("vesuvius-kit: ")
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_submission_is_complete_also_when_the_network_answers_nan(images, tmp_path, capsys, caplog, workers):
    """A8: no archive was left."""
    spoilt = save_run(tmp_path / "spoilt", spoilt=True)
    path = tmp_path / "s.zip"
    command = ["submit", "--images", images, "--checkpoints", spoilt, "--output", path, "--workers", workers]
    assert main([*map(str, command), "--predict.device", "cpu", "--predict.precision", "fp32"]) == 0
    assert "0 predicted, 3 simple (3 of them because the network failed), valid" in capsys.readouterr().out
    assert "the network failed: 3 of 3 volumes get a simple mask" in caplog.text
    assert f"volume 402: the network of {spoilt / FILE_NAME}" in caplog.text
    assert validate_submission(path, images) == 3
    # Nothing of it counts as done.
    assert list((tmp_path / "s_masks").glob("*.tif")) == []


def test_a_network_that_answers_nan_is_shed_and_the_others_predict(images, tmp_path):
    good, spoilt = save_run(tmp_path / "good", seed=1), save_run(tmp_path / "spoilt", spoilt=True)
    write_submission(tmp_path / "good.zip", images, [good], TRAINED_WINDOW, POSTPROCESS)
    summary = write_submission(tmp_path / "both.zip", images, [spoilt, good], TRAINED_WINDOW, POSTPROCESS)
    assert (sorted(summary.predicted), summary.simple, sorted(summary.reduced)) == (sorted(SHAPES), [], sorted(SHAPES))
    assert masks_in(tmp_path / "both.zip") == masks_in(tmp_path / "good.zip")
    volumes = json.loads((tmp_path / "both_masks" / "run.json").read_text())["volumes"]
    assert [len(volumes[name]["networks"]) for name in SHAPES] == [1, 1, 1]
    assert "must return finite logits" in volumes["11"]["causes"][0]
    # Asked at two volumes in vain, it is asked no more.
    assert [len(volumes[name]["causes"]) for name in sorted(SHAPES)] == [1, 1, 0]
    assert not volumes["7"]["is_whole"]


def test_one_volume_that_overflows_leaves_the_others(images, run, tmp_path, monkeypatch):
    real = inference.predict_windows

    def fail_at_one(job):
        # Padded to the window.
        if job.image.shape == (16, 30, 17):
            raise NotFiniteError("must return finite logits, got NaN")
        return real(job)

    monkeypatch.setattr(inference, "predict_windows", fail_at_one)
    summary = write_submission(tmp_path / "s.zip", images, [run], PREDICT, POSTPROCESS)
    assert (sorted(summary.predicted), summary.simple, summary.failed) == (["402", "7"], ["11"], ["11"])
    monkeypatch.undo()
    summary = write_submission(tmp_path / "s.zip", images, [run], PREDICT, POSTPROCESS)
    assert (summary.simple, summary.failed) == ([], [])


def test_a_result_that_cannot_be_used_is_made_again(images, run, tmp_path, caplog):
    """A8: what an earlier version or a damaged disk left does not count as done."""
    folder = tmp_path / "p"
    predict_folder(images, [run], folder, PREDICT)
    whole = {name: (folder / f"{name}.npy").read_bytes() for name in SHAPES}
    np.save(folder / "7.npy", np.full(SHAPES["7"], np.nan, np.float16))
    (folder / "11.npy").write_bytes(whole["11"][:200])
    stamp = (folder / "402.npy").stat().st_mtime_ns
    with pytest.raises(InputValueError, match=r"7\.npy must hold probabilities in \[0, 1\] without NaN"):
        load_probability(folder / "7.npy")
    predict_folder(images, [run], folder, PREDICT)
    assert {name: (folder / f"{name}.npy").read_bytes() for name in SHAPES} == whole
    assert (folder / "402.npy").stat().st_mtime_ns == stamp
    assert "it is predicted again" in caplog.text


def test_a_checkpoint_that_is_replaced_meanwhile_is_refused(images, tmp_path):
    """A18: the new weights' result lay under the old digest."""
    run = save_run(tmp_path / "run", seed=1)
    replaced = ensemble.Ensemble([run], TRAINED_WINDOW)
    save_run(tmp_path / "run", seed=2)
    with pytest.raises(InputValueError, match=rf"must not be replaced while it is in use, got .*run/{FILE_NAME}"):
        replaced.predict("7", np.zeros((8, 8, 8), np.uint8))


def test_settings_that_nobody_wrote_are_refused_in_a_line(images, run, tmp_path):
    (tmp_path / "p").mkdir()
    for content in ("{", "[1]", '"text"'):
        (tmp_path / "p" / "settings.json").write_text(content)
        with pytest.raises(InputValueError, match=r"settings must be those that this command wrote .*settings\.json"):
            predict_folder(images, [run], tmp_path / "p", PREDICT)
    predict_folder(images, [run], tmp_path / "p", PREDICT, fresh=True)


def test_a_checkpoint_is_read_whole_for_its_digest_and_to_be_loaded_and_not_again(images, tmp_path, monkeypatch):
    """A18: a checkpoint was read whole up to four times before a prediction."""
    runs = [save_run(tmp_path / f"run_{seed}", seed=seed) for seed in range(3)]
    tensors, streamed, loaded = [], [], []
    open_tensors, hash_file, read_bytes = checkpoint.safe_open, hashlib.file_digest, Path.read_bytes

    class Watched:
        """An open file of tensors that counts those that are asked for."""

        def __init__(self, path, **options):
            self.path, self.file = path, open_tensors(path, **options)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            self.file.__exit__(*error)

        def keys(self):
            return self.file.keys()

        def get_tensor(self, name):
            tensors.append(self.path)
            return self.file.get_tensor(name)

    monkeypatch.setattr(checkpoint, "safe_open", Watched)
    monkeypatch.setattr(
        hashlib, "file_digest", lambda stream, name: streamed.append(Path(stream.name)) or hash_file(stream, name)
    )
    monkeypatch.setattr(Path, "read_bytes", lambda path: loaded.append(path) or read_bytes(path))
    predict_folder(images, runs, tmp_path / "p", TRAINED_WINDOW)
    paths = sorted(run / FILE_NAME for run in runs)
    assert sorted(streamed) == sorted(loaded) == paths
    # Each of three pairs is told apart by a tensor or two.
    assert len(tensors) <= 3 * 2 * 3
