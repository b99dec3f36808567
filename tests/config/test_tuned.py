"""Tuned settings as an overlay, and pipelines whose path stands in a settings file."""

import logging

import pytest

from vesuvius_kit.checks import InputError
from vesuvius_kit.config import load_config
from vesuvius_kit.config.tuned import lay_over, read_tuned

PIPELINE = "- hysteresis_threshold: {t_low: 0.2, t_high: 0.4}\n"


def write(folder, text, name="tuned.yaml"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_tuning_names_its_settings_and_a_pipeline_beside_it(tmp_path):
    folder = tmp_path / "tuning"
    write(folder, PIPELINE, "pipeline.yaml")
    file = write(
        folder,
        "predict:\n  weights: {1234567890123456: 1, 'aaaaaaaaaaaaaaaa': .5}\npostprocess: {pipeline: pipeline.yaml}\n",
    )
    expected = {
        "predict.weights": {"1234567890123456": 1.0, "a" * 16: 0.5},
        "postprocess.pipeline": str(folder / "pipeline.yaml"),
    }
    assert read_tuned(folder) == read_tuned(file) == expected
    write(folder, "postprocess.pipeline: public\n")
    assert read_tuned(folder) == {"postprocess.pipeline": "public"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "must be tuned.yaml, or a folder that holds it, got "),
        ("", "must hold settings by name, got nothing"),
        ("{}", "must hold at least one of predict or postprocess"),
        ("train: {learning_rate: 1}", "train must be a setting's name"),
        ("predict: {weights: {run_a: 1}}", "must name networks by digests"),
        ("predict: {overlap: 2}", "predict.overlap must be "),
        ("postprocess: {pipeline: pipeline.yaml}", "a pipeline that lies beside it, got pipeline.yaml"),
        ("postprocess: {pipeline: /nowhere/p.yaml}", "a pipeline that lies beside it, got /nowhere/p.yaml"),
    ],
)
def test_what_is_no_tuning_is_refused_in_a_line(tmp_path, monkeypatch, text, message):
    # Where the command is given there is one, which nobody tuned.
    write(tmp_path, PIPELINE, "pipeline.yaml")
    monkeypatch.chdir(tmp_path)
    if text is not None:
        write(tmp_path / "tuning", text)
    with pytest.raises(InputError) as error:
        read_tuned("tuning")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tuned_pipeline_takes_the_parameters_of_another_away():
    stored = {"predict.overlap": 0.25, "postprocess.pipeline": "public", "postprocess.steps": {"close_cylinder": {}}}
    assert lay_over(stored, {"postprocess.pipeline": "p.yaml"}) == {
        "predict.overlap": 0.25,
        "postprocess.pipeline": "p.yaml",
    }
    assert lay_over(stored, {"predict.overlap": 0.5}) == stored | {"predict.overlap": 0.5}
    assert lay_over(stored, {}) == stored


@pytest.mark.parametrize("inner", ["mine.yaml", "inner/mine.yaml", "./mine.yaml"])
def test_the_path_of_a_pipeline_starts_from_the_file_that_names_it(tmp_path, monkeypatch, inner):
    pipeline = tmp_path / "settings" / inner
    pipeline.parent.mkdir(parents=True, exist_ok=True)
    pipeline.write_text(PIPELINE)
    file = write(tmp_path / "settings", f"postprocess: {{pipeline: {inner}}}\n", "run.yaml")
    for folder, given in ((tmp_path, "settings/run.yaml"), (tmp_path / "settings", "run.yaml"), (tmp_path, file)):
        monkeypatch.chdir(folder)
        found = load_config(given).postprocess.pipeline
        assert (folder / found).resolve() == pipeline
    # What lies where the command is given is still found, and on the command line nothing else is meant.
    pipeline.rename(tmp_path / "mine.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_config("settings/run.yaml").postprocess.pipeline == inner
    assert load_config(None, {"postprocess.pipeline": "mine.yaml"}).postprocess.pipeline == "mine.yaml"


def test_a_preset_is_a_preset_whatever_lies_beside(tmp_path, caplog):
    write(tmp_path, PIPELINE, "public")
    file = write(tmp_path, "postprocess: {pipeline: public}\n", "run.yaml")
    with caplog.at_level(logging.INFO):
        assert load_config(file).postprocess.pipeline == "public"
