"""Tuned settings on their way to Kaggle: sent with the weights, found by the notebook, and followed in it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.nnunet_folders import write_nnunet_folder

import vesuvius_kit as vk
from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.config import config_to_dict
from vesuvius_kit.config.tuned import read_tuned
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.kaggle import rehearse as module
from vesuvius_kit.kaggle.paths import find_models, find_tuned
from vesuvius_kit.kaggle.rehearse import rehearse
from vesuvius_kit.kaggle.session import stored_settings
from vesuvius_kit.kaggle.shipment import _models_dataset, collect_tuned
from vesuvius_kit.models.weights import inspect_weights

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
# Unlike every preset: what lies in a narrow band of probabilities around a half.
PIPELINE = [{"hysteresis_threshold": {"t_low": 0.47, "t_high": 0.48}}, {"remove_small_components": {"min_size": 3}}]


def save_run(folder, seed, **settings):
    torch.manual_seed(seed)
    model = vk.create_model("unet3d", initial_filters=2, depth=1)
    config = vk.load_config(None, {"predict.window": 32, "predict.overlap": 0.25, **settings})
    vk.save_checkpoint(folder / "fold_0" / "best", model, {"config": config_to_dict(config)})
    return folder


def write_tuning(folder, weights=None, pipeline="pipeline.yaml"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.yaml").write_text(json.dumps(PIPELINE))
    settings = {"postprocess": {"pipeline": pipeline}} | ({"predict": {"weights": weights}} if weights else {})
    (folder / "tuned.yaml").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [save_run(tmp_path / "run_a", 0), write_nnunet_folder(tmp_path / "results", folds=(0, 1))]


def digests(runs):
    return [inspect_weights(path).digest for path in (runs[0] / "fold_0" / "best", runs[1])]


def mount(dataset, folder):
    for name, path in dataset.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return folder


@pytest.mark.parametrize("place", ["vesuvius-kit-models", "datasets/someone/vesuvius-kit-models"])
def test_what_is_sent_is_found_with_the_weights_it_is_for(tmp_path, runs, place, caplog):
    tuning = write_tuning(tmp_path / "tuning", dict(zip(digests(runs), (3, 1))))
    dataset = _models_dataset(runs, tmp_path / "models", tuning)
    assert {"tuned.yaml", "pipeline.yaml"} < set(dataset.files)
    assert {"tuned.yaml", "pipeline.yaml"} < set(json.loads(dataset.files["models.json"].read_text())["files"])
    input_ = tmp_path / "input"
    mounted = mount(dataset, input_ / place)
    models = find_models(roots=[input_])
    assert find_tuned(models, roots=[input_]) == mounted
    caplog.set_level("INFO")
    settings = stored_settings(models)
    assert f"tuned settings in {mounted}: " in caplog.text
    assert settings["postprocess.pipeline"] == str(mounted / "pipeline.yaml")
    config = vk.load_config(None, settings | {"predict.device": "cpu"})
    assert vk.load_pipeline(config.postprocess.pipeline) == vk.load_pipeline(tuning / "pipeline.yaml")
    # nnU-Net's folder has become a checkpoint of the kit, and is still the one that the weights name.
    assert dict(zip(models, Ensemble(models, config.predict).shares)) == pytest.approx(
        {mounted / "results": 0.25, mounted / "run_a": 0.75}, abs=1e-6
    )


def test_another_tuning_is_another_data_set(tmp_path, runs):
    plain = _models_dataset(runs[:1], tmp_path / "models")
    tuned = _models_dataset(runs[:1], tmp_path / "models", write_tuning(tmp_path / "tuning"))
    assert plain.digest != tuned.digest
    assert _models_dataset(runs[:1], tmp_path / "models").digest == plain.digest


def test_the_parameters_of_the_trainings_pipeline_go_with_it(tmp_path):
    steps = {"hysteresis_threshold": {"t_low": 0.3}}
    run = save_run(tmp_path / "input" / "run", 0, **{"postprocess.pipeline": "public", "postprocess.steps": steps})
    assert stored_settings([run])["postprocess.steps"] == steps
    write_tuning(tmp_path / "input")
    settings = stored_settings([run])
    assert settings["predict.overlap"] == 0.25
    assert "postprocess.steps" not in settings
    vk.load_pipeline(vk.load_config(None, settings).postprocess.pipeline)


def test_a_preset_and_a_pipeline_elsewhere_are_sent_too(tmp_path, runs):
    files = collect_tuned(write_tuning(tmp_path / "a", pipeline="public"), runs, tmp_path / "work_a")
    assert list(files) == ["tuned.yaml"]
    assert read_tuned(files["tuned.yaml"]) == {"postprocess.pipeline": "public"}
    elsewhere = write_tuning(tmp_path / "elsewhere") / "pipeline.yaml"
    files = collect_tuned(write_tuning(tmp_path / "b", pipeline=str(elsewhere)), runs, tmp_path / "work_b")
    assert read_tuned(files["tuned.yaml"]) == {"postprocess.pipeline": str(tmp_path / "work_b" / "pipeline.yaml")}


def test_what_would_fail_on_kaggle_is_refused_here(tmp_path, runs):
    weights = dict.fromkeys(digests(runs), 1)
    for tuning, checkpoints, message in [
        (write_tuning(tmp_path / "a", weights), runs[:1], "predict.weights must name networks that are given"),
        (write_tuning(tmp_path / "b", pipeline="nonsense"), runs, "pipeline must be a YAML file or one of"),
        (tmp_path, runs, "tuned settings must be tuned.yaml"),
    ]:
        with pytest.raises(InputError, match=message):
            collect_tuned(tuning, checkpoints, tmp_path / "work")
    write_tuning(tmp_path / "c")
    (tmp_path / "c" / "pipeline.yaml").write_text("- nonsense\n")
    with pytest.raises(InputValueError, match="nonsense"):
        collect_tuned(tmp_path / "c", runs, tmp_path / "work")


def test_on_kaggle_a_data_set_of_its_own_is_found_and_at_home_only_what_lies_with_the_models(tmp_path, monkeypatch):
    run = save_run(tmp_path / "input" / "models" / "run", 0)
    tuning = write_tuning(tmp_path / "input" / "datasets" / "someone" / "tuning")
    assert find_tuned([run], roots=[tmp_path / "input"]) is None
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert find_tuned([run], roots=[tmp_path / "input"]) == tuning
    write_tuning(tmp_path / "input" / "other")
    with pytest.raises(InputValueError, match=r"tuned settings \(tuned.yaml\) must be in one place only"):
        find_tuned([run], roots=[tmp_path / "input"])
    # What lies with the models is meant for them.
    write_tuning(run)
    assert find_tuned([run], roots=[tmp_path / "input"]) == run


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_the_notebook_repairs_by_the_tuned_pipeline_in_the_rehearsal(tmp_path, monkeypatch):
    runs = [save_run(tmp_path / name, seed) for seed, name in enumerate("ab")]
    weights = {inspect_weights(run / "fold_0" / "best").digest: weight for run, weight in zip(runs, (3, 1))}
    tuning = write_tuning(tmp_path / "tuning", weights)
    # Submit alone: the train notebook's network is not asked for.
    for layout, kinds in (("old", ("batch",)), ("new", ("rerun",))):
        monkeypatch.setitem(module.PLAN, layout, (("train", "none"), *(("submit", kind) for kind in kinds)))
    run_one = module._run
    monkeypatch.setattr(
        module, "_run", lambda source, *rest: (0.0, "left out") if source.stem == "train" else run_one(source, *rest)
    )
    result = rehearse(tmp_path / "out", notebooks=NOTEBOOKS, checkpoints=runs, tuned=tuning, checkout=NOTEBOOKS.parent)
    assert [run.problems for run in result.runs if run.notebook == "submit"] == [[], []], result.to_text()
    models = [vk.load_model(run / "fold_0" / "best") for run in runs]
    for place, data in (("old_submit_batch", "visible"), ("new_submit_rerun", "hidden")):
        working = tmp_path / "out" / place / "kaggle" / "working"
        assert "tuned:" in (tmp_path / "out" / place / "saved.ipynb").read_text()
        noted = json.loads((working / "submission_masks" / "settings.json").read_text())
        assert noted["postprocess"]["pipeline"][0] == PIPELINE[0]
        assert sorted(noted["predict"]["shares"]) == [0.25, 0.75]
        assert noted["predict"]["overlap"] == 0.25, "of the training"
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[noted["precision"][-1]["name"]]
        for path in sorted((tmp_path / "out" / "data" / data / "test_images").iterdir()):
            volume = vk.read_volume(path)
            answers = [
                vk.predict_volume(model, volume, window=32, overlap=0.25, device="cpu", dtype=dtype) for model in models
            ]
            probability = (0.75 * answers[0] + 0.25 * answers[1]).astype(np.float32)
            mask = vk.read_volume(working / "submission_masks" / f"{path.stem}.tif").astype(bool)
            tuned = vk.run_pipeline(probability, vk.load_pipeline(tuning / "pipeline.yaml"))
            default = vk.make_mask(probability)
            assert np.mean(mask != tuned) < 1e-3
            assert np.mean(mask != default) > 0.01
            assert 0.01 < mask.mean() < 0.99
