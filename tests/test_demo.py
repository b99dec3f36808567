import json

import numpy as np
import pytest
from PIL import Image

from vesuvius_kit import demo
from vesuvius_kit.checks import InputError
from vesuvius_kit.config import load_config
from vesuvius_kit.data.competition import Chunk, Competition
from vesuvius_kit.inference.results import note_pipeline
from vesuvius_kit.inference.submission import validate_submission
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.postprocess.pipeline import choose_pipeline


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny demo that was stopped once after its training and then called again."""
    folder = tmp_path_factory.mktemp("run") / "demo"
    write_submission, demo.write_submission = demo.write_submission, stop
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(folder, tiny=True)
    demo.write_submission = write_submission
    checkpoint = folder / "checkpoints" / "fold_0" / "last" / "checkpoint.safetensors"
    before = checkpoint.stat().st_mtime_ns
    summary = demo.run_demo(folder, tiny=True)
    assert checkpoint.stat().st_mtime_ns == before, "the training was repeated"
    return folder, summary


def stop(*_, **__):
    raise KeyboardInterrupt


def test_the_demo_leaves_a_valid_submission_and_a_picture(finished):
    folder, _ = finished
    for path in ("submission.zip", "tuned/submission.zip"):
        assert validate_submission(folder / path, folder / "data" / "test_images") == 2
    with Image.open(folder / "report.png") as picture:
        assert picture.size[0] > 1000
        assert np.asarray(picture).std() > 10
    audit = Competition(folder / "data").audit()
    assert audit.ok
    assert audit.deprecated


def test_the_table_has_every_method_on_both_scrolls(finished):
    folder, summary = finished
    assert {(row["method"], row["scroll"]) for row in summary.rows} == {
        (method, scroll)
        for method in ("network", "network, tuned", "brightest", "ridges")
        for scroll in demo.TEST_STYLES
    }
    for row in summary.rows:
        for name in ("score", "surface_dice", "surface_dice_truth", "toposcore", "voi_score"):
            assert 0 <= row[name] <= 1
    assert set(summary.seconds) == {"data", "training", "tuning", "submission", "comparison", "page"}
    assert json.loads((folder / "summary.json").read_text())["rows"] == summary.rows
    for text in ("network, tuned", *demo.TEST_STYLES, "submission.zip is valid"):
        assert text in summary.to_text()


def test_the_duration_is_expected_from_a_timed_step(monkeypatch):
    monkeypatch.setattr(demo, "_time_step", lambda *_: (0.5, 0.1))
    monkeypatch.setattr(demo, "_time_filter", lambda: 0.0)
    config = load_config("cpu_demo", {"train.precision": "fp32"})
    expected = demo.expect_duration(config)
    steps = config.train.num_epochs * config.train.steps_per_epoch
    patches = config.train.num_epochs * config.train.validation_patches / config.train.batch_size
    # Windows of 96^3: 2^3 in a chunk of 160^3, two scored and three to tune on, and 5^3 in each of two test chunks, twice.
    windows = (5 * 2**3 + 4 * 5**3) * (96 / 64) ** 3 / config.train.batch_size
    assert expected.seconds == pytest.approx(steps * 0.5 + (patches + windows) * 0.1)
    minutes = round(expected.seconds / 60)
    assert f"about {minutes} minutes here: {steps} training steps of 0.50 s in fp32" in expected.to_text()


def test_a_real_step_is_timed():
    expected = demo.expect_duration(load_config("cpu_demo", {"patches.size": [16, 16, 16], "train.precision": "fp32"}))
    assert 0 < expected.step_seconds < expected.seconds


def test_the_pipeline_is_tuned_on_the_scroll_that_was_held_out_and_applied_to_the_test_chunks(finished):
    folder, _ = finished
    figures = json.loads((folder / "tuning" / "tuning.json").read_text())
    (validation,) = {
        chunk.scroll_id for chunk in Competition(folder / "data").folds(len(demo.TRAIN_STYLES), seed=0)[0][1]
    }
    assert {row["scroll"] for row in figures["volumes"].values()} == {validation}
    settings = json.loads((folder / "tuned" / "submission_masks" / "settings.json").read_text())
    assert settings["postprocess"] == note_pipeline(choose_pipeline(folder / "tuning" / "pipeline.yaml"))


def test_the_demo_ends_with_a_page(finished):
    folder, _ = finished
    page = (folder / "report.html").read_text(encoding="utf-8")
    for text in ("Tuning", *(chunk.id for chunk in Competition(folder / "data").test)):
        assert text in page


def test_the_second_test_scroll_is_never_trained_on():
    assert demo.TEST_STYLES[0] in demo.TRAIN_STYLES
    assert demo.TEST_STYLES[1] not in demo.TRAIN_STYLES


def test_the_demo_repairs_as_the_kit_does_by_default(finished):
    folder, _ = finished
    settings = json.loads((folder / "submission_masks" / "settings.json").read_text())
    assert settings["postprocess"] == note_pipeline(choose_pipeline())


def test_the_first_test_scroll_is_in_the_training_part_of_the_fold(finished):
    folder, _ = finished
    config = load_config(folder / "checkpoints" / "fold_0" / "last" / "config.yaml")
    competition = Competition(folder / "data")
    trained, held_out = competition.folds(config.n_folds, config.train.seed)[config.fold_list[0]]
    assert list(demo._by_style(competition.test)) == list(demo.TEST_STYLES)
    assert demo.TEST_STYLES[0] in demo._by_style(trained)
    assert len(demo._by_style(held_out)) == 1


def test_trivial_masks_find_a_bright_sheet(tmp_path):
    image = np.random.default_rng(0).normal(60, 5, (40, 40, 40))
    image[:, 19:22] += 60
    label = np.zeros(image.shape, np.uint8)
    label[:, 19:21] = 1
    for name, volume in (("image", image.clip(0, 255).astype(np.uint8)), ("label", label)):
        write_volume(tmp_path / f"{name}.tif", volume)
    chunk = Chunk("1", "2", tmp_path / "image.tif", tmp_path / "label.tif")
    chosen = demo.choose_trivial_masks([chunk])
    assert set(chosen) == {"brightest", "ridges"}
    assert chosen["brightest"][1] <= 0.1


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "demo" / "data" / "train_images").mkdir(parents=True)
    write_volume(tmp_path / "demo" / "data" / "train_images" / "1.tif", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"1\.tif"):
        demo.run_demo(tmp_path / "demo", tiny=True)
