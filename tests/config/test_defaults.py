"""One probability, one mask: whatever makes a mask by default makes the same."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate import Accelerator
from helpers.competitions import TINY

from vesuvius_kit.cli import main
from vesuvius_kit.config import PostprocessConfig, PredictConfig, RunConfig, config_to_dict, list_configs, load_config
from vesuvius_kit.data.competition import Chunk
from vesuvius_kit.inference import submission
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.metrics import leaderboard_score
from vesuvius_kit.models import create_model
from vesuvius_kit.models.checkpoint import save_checkpoint
from vesuvius_kit.phantom import make_phantom
from vesuvius_kit.postprocess import make_mask
from vesuvius_kit.postprocess.pipeline import load_pipeline, run_pipeline
from vesuvius_kit.training.epoch import score_volumes

OPTIONS = {"initial_filters": 2, "depth": 1}


@pytest.fixture(scope="module")
def seen():
    """A chunk, and the probability of a network that took most of its sheets for what they are."""
    phantom = make_phantom((48, 72, 64), 3)
    noise = np.random.default_rng(0).random(phantom.image.shape, dtype=np.float32)
    probability = np.where(phantom.surface == 1, 0.9, 0.1).astype(np.float32) * (0.6 + 0.4 * noise)
    return phantom, probability.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def expected(seen):
    _, probability = seen
    mask = make_mask(probability)
    for other in ("public", "raw"):
        assert (mask != run_pipeline(probability, load_pipeline(other))).mean() > 0.005, (
            "the pipelines cannot be told apart"
        )
    assert mask.any()
    return mask


@pytest.fixture
def folder(seen, tmp_path, monkeypatch):
    """A test image, a network that cannot predict and, in its place, the probability."""
    phantom, probability = seen
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "test_images").mkdir(parents=True)
    write_volume(tmp_path / "data" / "test_images" / "901.tif", phantom.image)
    config = load_config(None, {"patches.size": [16, 16, 16]})
    save_checkpoint(
        tmp_path / "checkpoints" / "fold_0" / "best",
        create_model("unet3d", **OPTIONS),
        {"config": config_to_dict(config)},
    )
    monkeypatch.setattr("vesuvius_kit.inference.ensemble.predict_volume", lambda *_, **__: probability.copy())
    monkeypatch.setattr("vesuvius_kit.training.epoch.predict_volume", lambda *_, **__: probability.copy())
    return tmp_path


def mask_in(path):
    with zipfile.ZipFile(path) as archive:
        archive.extract("901.tif", path.parent / "unpacked")
    return read_volume(path.parent / "unpacked" / "901.tif")


def test_submit_makes_the_mask_of_make_mask(folder, expected):
    assert main(["submit", "--data", "data"]) == 0
    np.testing.assert_array_equal(mask_in(folder / "submission.zip"), expected)


def test_write_submission_makes_the_mask_of_make_mask(folder, expected):
    images, runs = folder / "data" / "test_images", [folder / "checkpoints"]
    submission.write_submission(folder / "a.zip", images, runs, PredictConfig(), PostprocessConfig())
    np.testing.assert_array_equal(mask_in(folder / "a.zip"), expected)


def test_predict_and_postprocess_make_the_mask_of_make_mask(folder, expected):
    assert main(["predict", "--images", "data/test_images"]) == 0
    assert main(["postprocess"]) == 0
    np.testing.assert_array_equal(read_volume(folder / "masks" / "901.tif"), expected)


def test_validation_of_a_training_scores_the_mask_of_make_mask(folder, seen, expected):
    phantom, _ = seen
    write_volume(folder / "label.tif", phantom.label)
    chunk = Chunk("901", "1", folder / "data" / "test_images" / "901.tif", folder / "label.tif")
    given = {name: value for name, value in TINY.items() if not name.startswith("postprocess")}
    run = SimpleNamespace(config=load_config(None, given), accelerator=Accelerator(cpu=True))
    scored = score_volumes(run, create_model("unet3d", **OPTIONS), [chunk], lambda items, **_: items)
    assert scored["score"] == leaderboard_score(expected, phantom.label).score


@pytest.mark.parametrize("name", list_configs())
def test_no_configuration_of_the_kit_repairs_otherwise(name):
    """The demo and the notebooks take one of these, or what a training with one of them noted."""
    assert load_config(name).postprocess == RunConfig().postprocess == PostprocessConfig()
