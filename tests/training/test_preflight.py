"""Everything a run needs is looked at before its first step: rows B1, A9, A12, B2 and B3 of the public reports."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.competitions import TINY, make_pair, write_small_competition

from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import PredictConfig, load_config
from vesuvius_kit.inference import predict as inference
from vesuvius_kit.inference.predict import choose_device
from vesuvius_kit.inference.submission import postprocess_folder, predict_folder, write_submission
from vesuvius_kit.io.folder_lock import lock_folder
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.training.loop import train


@pytest.fixture
def data(tmp_path):
    return write_small_competition(tmp_path / "data", test_shapes=((16, 16, 16),))


def configure(data, tmp_path, **changes):
    settings = {**TINY, "data": str(data), "output": str(tmp_path / "run"), "train.num_epochs": 1}
    return load_config(None, {**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


def unlabel(data, *ids):
    for id_ in ids:
        path = data / "train_labels" / f"{id_}.tif"
        write_volume(path, np.full_like(read_volume(path), 2))


PIPELINE = "- hysteresis_threshold: {t_low: 0.3, t_high: 0.5}\n- remove_small_components: {min_size: MIN}\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict__window": [17, 16, 16]}, r"predict\.window must be multiples of 2 for model unet3d, got \[17, 16, 16\]"),
        ({"patches__size": [16, 16, 17]}, r"patches\.size must be multiples of 2"),
        ({"postprocess__pipeline": "nowhere.yaml"}, r"postprocess\.pipeline: pipeline must be a YAML file or one of"),
        ({"postprocess__pipeline": "PIPELINE"}, r"postprocess\.pipeline: step 2 \(remove_small_components\): min_size must be"),
        ({"model__name": "unet4d"}, "model: model name must be one of"),
        ({"model__options": {"depht": 1}}, "model: options of model unet3d must be among .*, got 'depht'"),
        ({"model__options": {"depth": 1.0}}, "model: depth must be an integer"),
        ({"predict__device": "mps"}, r"predict\.device: device must be auto, cpu, cuda or xpu, got 'mps'"),
        ({"predict__device": "cuda:99"}, r"predict\.device: device must exist, got 'cuda:99'"),
        ({"predict__weights": {"a" * 16: 1}}, r"predict\.weights must be left out for a training"),
        ({"output": "file"}, "output must be a folder, got the file"),
        ({"output": "file/run"}, "output must be a folder, got the file"),
    ],
)  # fmt: skip
def test_what_the_end_of_a_run_needs_is_missed_before_its_start(data, tmp_path, monkeypatch, changes, message):
    """B1, A12"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "PIPELINE").write_text(PIPELINE.replace("MIN", "many"))
    changes = {"postprocess__steps": {}, **changes}
    config = configure(data, tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        train(config, fresh=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_normalise_its_patch_is_named(data, tmp_path):
    """B1 and B6: one voxel a channel, as timm_unet has of a patch of its size_divisor in batches of one."""
    options = {"model__name": "timm_unet", "model__options": {"encoder": "resnet18"}}
    sizes = {"patches__size": [32, 32, 32], "predict__window": [32, 32, 32], "train__batch_size": 1}
    with pytest.raises(
        InputValueError, match=r"patches\.size must suit model timm_unet, got \[32, 32, 32\] in batches of 1"
    ):
        train(configure(data, tmp_path, **options, **sizes))


def test_a_disk_that_is_too_full_for_a_checkpoint_is_found_before_the_first_step(data, tmp_path, monkeypatch):
    import vesuvius_kit.training.preflight as preflight

    class Usage:
        free = 100

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(InputError, match="output must have room for a checkpoint of 0 MB, got 0 MB in"):
        train(configure(data, tmp_path))


def test_a_refused_run_leaves_the_earlier_one_where_it_is(data, tmp_path):
    """B1, B3: nothing is moved aside by a command that is refused."""
    config = configure(data, tmp_path)
    train(config)
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "run").rglob("*"))
    other = configure(data, tmp_path, model__options={"initial_filters": 2, "depth": 1}, train__num_epochs=2)
    for refused, resume_from, message in (
        (configure(data, tmp_path, predict__window=[17, 16, 16]), None, "predict.window"),
        (config, tmp_path / "nowhere", "--resume-from must be a checkpoint"),
        (other, tmp_path / "run" / "fold_0" / "last", "model must be that of"),
        (
            configure(data, tmp_path, folds=[0, 1], train__num_epochs=2),
            tmp_path / "run" / "fold_0" / "last",
            "fold_1 must validate on chunks that the weights were not trained on",
        ),
    ):
        with pytest.raises(InputError, match=message):
            train(refused, fresh=True, resume_from=resume_from)
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "run").rglob("*")) == before


def test_a_run_starts_anew_from_a_checkpoint_of_the_run_that_moves_aside(data, tmp_path):
    """B3"""
    config = configure(data, tmp_path)
    train(config)
    longer = configure(data, tmp_path, train__num_epochs=2)
    train(longer, fresh=True, resume_from=tmp_path / "run" / "fold_0" / "last")
    lines = (tmp_path / "run" / "fold_0" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]
    assert (tmp_path / "run" / "before_fresh_1_fold_0" / "last").is_dir()


def test_a_fold_that_nobody_labelled_is_refused(data, tmp_path):
    """A9: it had a loss of 0 and a score of 1 from epoch 0 on, and its best network was the untrained one."""
    competition = [chunk for chunk in sorted(path.stem for path in (data / "train_labels").iterdir())]
    for ids, what in ((competition[::2], "chunks of fold"), (competition[1::2], "chunks of fold")):
        unlabel(data, *ids)
        with pytest.raises(
            InputValueError, match=f"(training|scored validation) {what} 0 must hold a labelled voxel, got label 2"
        ):
            train(configure(data, tmp_path))
        for id_ in ids:
            write_volume(data / "train_labels" / f"{id_}.tif", make_pair((24, 24, 24), int(id_))[1])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("value", "missing"), [(0, r"surface \(1\)"), (1, r"background \(0\)")])
def test_a_fold_of_one_class_is_refused(data, tmp_path, value, missing):
    """Labels that a conversion emptied: the run ended with exit code 0 and a score."""
    for path in (data / "train_labels").iterdir():
        write_volume(path, np.full((24, 24, 24), value, np.uint8))
    with pytest.raises(InputValueError, match=f"training chunks of fold 0 .* got no voxel of {missing} in"):
        train(configure(data, tmp_path))


def test_unlabelled_chunks_and_patches_are_left_out_of_every_mean(data, tmp_path):
    """A9"""
    from vesuvius_kit.data.competition import Competition

    _, validation = Competition(data).folds(2, 0)[0]
    config = configure(data, tmp_path, train__validation_volumes=0, train__validation_patches=8)
    train(config)
    unlabel(data, validation[-1].id)
    other = configure(
        data, tmp_path, output=str(tmp_path / "other"), train__validation_volumes=0, train__validation_patches=8
    )
    train(other)
    whole, part = (
        json.loads((folder / "fold_0" / "log.jsonl").read_text().splitlines()[-1])
        for folder in (tmp_path / "run", tmp_path / "other")
    )
    assert (whole["score"]["volumes"], part["score"]["volumes"]) == (2, 1)
    # Counted as 0, half the patches would halve the loss.
    assert part["validation"]["loss"] > 0.8 * whole["validation"]["loss"]
    assert part["score"]["score"] < 0.95


def test_the_training_loss_is_a_mean_over_labelled_patches(data, tmp_path):
    """A9"""
    from vesuvius_kit.data.competition import Competition

    training, _ = Competition(data).folds(2, 0)[0]
    losses = []
    for output in ("whole", "part"):
        config = configure(
            data, tmp_path, output=str(tmp_path / output), train__learning_rate=1e-6, train__steps_per_epoch=8
        )
        train(config)
        line = json.loads((tmp_path / output / "fold_0" / "log.jsonl").read_text().splitlines()[-1])
        losses.append(line["train"]["loss"])
        assert line["train"]["skipped_steps"] == 0
        unlabel(data, training[0].id)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_a_run_that_is_under_way_is_not_started_twice(data, tmp_path, capsys):
    """B2"""
    config = configure(data, tmp_path)
    with lock_folder(tmp_path / "run", ".fold_0.lock"):
        with pytest.raises(InputValueError, match=rf"run/fold_0, got a second one beside process {os.getpid()} on"):
            train(config)
        assert not (tmp_path / "run" / "fold_0").exists()
        train(configure(data, tmp_path, folds=[1]))
    train(config)
    # A process of the same launch that is not the main one takes no lock.
    train(configure(data, tmp_path, folds=[1]))


def test_results_of_two_commands_never_meet_in_one_folder(data, tmp_path):
    """B2"""
    run = train(configure(data, tmp_path))
    predict = PredictConfig(window=(16, 16, 16), precision="fp32")
    images, config = data / "test_images", configure(data, tmp_path)
    predict_folder(images, [run], tmp_path / "probabilities", predict)
    busy = "only one command at a time may work in .*"
    with lock_folder(tmp_path / "probabilities"), pytest.raises(InputValueError, match=f"{busy}probabilities"):
        predict_folder(images, [run], tmp_path / "probabilities", predict)
    with lock_folder(tmp_path / "masks"), pytest.raises(InputValueError, match=f"{busy}masks"):
        postprocess_folder(tmp_path / "probabilities", tmp_path / "masks", config.postprocess)
    with lock_folder(tmp_path / "submission_masks"), pytest.raises(InputValueError, match=f"{busy}submission_masks"):
        write_submission(tmp_path / "submission.zip", images, [run], predict, config.postprocess)
    assert not (tmp_path / "submission.zip").exists()
    # A lock leaves nothing behind.
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("device", ["mps", "xpu", "cuda:7", "meta", "cpu:1", "gpu", ""])
def test_a_device_that_is_not_there_is_refused_alike_by_every_command(data, tmp_path, capsys, device):
    """A12"""
    if device == "xpu" and torch.xpu.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputValueError, match="device must "):
        choose_device(device)


def test_predict_and_submit_refuse_a_device_before_they_write(data, tmp_path, capsys):
    """A12"""
    run = train(configure(data, tmp_path))
    for command, output in (("predict", "probabilities"), ("submit", "submission.zip")):
        words = [
            command,
            "--images",
            str(data / "test_images"),
            "--checkpoints",
            str(run),
            "--output",
            str(tmp_path / output),
        ]
        assert main([*words, "--predict.device", "mps"]) == 2
        assert "device must be auto, cpu, cuda or xpu, got 'mps'" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run"}


def test_the_first_gpu_is_chosen_where_there_is_one(monkeypatch):
    monkeypatch.setattr(inference.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(inference.torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputValueError, match="device must exist, got 'cuda:2' on a machine with 2 of cuda"):
        choose_device("cuda:2")


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="a folder is never read-only for root")
def test_a_read_only_output_is_one_line(data, tmp_path):
    """C1, before the first step; /proc is a place where nobody may write."""
    with pytest.raises(InputError, match=r"cannot write into /proc, for output /proc/run"):
        train(configure(data, tmp_path, output="/proc/run"))


@pytest.mark.long
def test_two_commands_started_at_once_end_with_one_run(data, tmp_path):
    """B2, with two processes"""
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in TINY.items()]
    command = [sys.executable, "-m", "vesuvius_kit", "train", *words, f"--data={data}", f"--output={tmp_path / 'run'}"]
    first, second = (
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(2)
    )
    errors = [process.communicate()[1] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    # Or the second came so late that it found a finished run.
    assert sorted(codes) in ([0, 2], [0, 0]), errors
    if sorted(codes) == [0, 2]:
        refused = errors[codes.index(2)].strip().splitlines()[-1]
        assert "only one command at a time may work in" in refused
        assert f"process {(first, second)[codes.index(0)].pid} on" in refused
    epochs = [
        json.loads(line)["epoch"] for line in (tmp_path / "run" / "fold_0" / "log.jsonl").read_text().splitlines()
    ]
    assert epochs == [0, 1, 2]
