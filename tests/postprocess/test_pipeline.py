"""Pipelines in YAML, and files of probabilities to masks."""

import json

import numpy as np
import pytest
from helpers.competitions import public_pipeline
from scipy import ndimage

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import PostprocessConfig, config_to_dict
from vesuvius_kit.inference.submission import postprocess_folder
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.postprocess import list_presets, load_pipeline, make_mask, run_pipeline, topo_postprocess
from vesuvius_kit.postprocess.files import load_probability
from vesuvius_kit.postprocess.pipeline import STEPS, make_pipeline

SHORT = "- hysteresis_threshold: {t_low: 0.4, t_high: 0.6}\n- fill_cavities\n"


def smooth_noise(shape=(24, 30, 20), seed=0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape, dtype=np.float32), 1.0)
    noise -= noise.min()
    return (noise / noise.max()).astype(np.float32)


def test_the_presets_are_there_and_run():
    assert {"raw", "public", "first_place", "second_place", "sheet_repair"} <= set(list_presets())
    probability = smooth_noise()
    for name in list_presets():
        mask = run_pipeline(probability, load_pipeline(name))
        assert mask.dtype == bool
        assert mask.shape == probability.shape


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_constant_volumes_pass_through_every_preset(value, dtype):
    for name in list_presets():
        mask = run_pipeline(np.full((10, 11, 12), value, dtype), load_pipeline(name))
        if value == 0:
            assert not mask.any()


def test_public_equals_the_function():
    probability = smooth_noise()
    np.testing.assert_array_equal(
        run_pipeline(probability, load_pipeline("public")), topo_postprocess(probability, 0.35, 0.85, 3, 2, 100)
    )
    setting = {"t_low": 0.4, "t_high": 0.7, "z_radius": 1, "xy_radius": 1, "dust_min_size": 20}
    settings = config_to_dict(public_pipeline(*setting.values()))
    np.testing.assert_array_equal(make_mask(probability, **settings), topo_postprocess(probability, **setting))


def test_the_report_adds_up():
    probability = smooth_noise()
    before = probability.copy()
    mask, changes = run_pipeline(probability, load_pipeline("public"), report=True)
    np.testing.assert_array_equal(probability, before)
    assert [change["step"] for change in changes] == [
        "hysteresis_threshold", "close_cylinder", "remove_small_components",
    ]  # fmt: skip
    voxels = 0
    for change in changes:
        voxels += change["added"] - change["removed"]
        assert voxels == change["voxels"]
        assert change["seconds"] >= 0
    assert changes[-1]["voxels"] == mask.sum()
    assert changes[-1]["components"] == ndimage.label(mask, np.ones((3, 3, 3)))[1]
    json.dumps(changes)


def test_a_ring_is_reported_as_a_tunnel():
    probability = np.zeros((5, 9, 9), np.float32)
    probability[2, 2:7, 2:7] = 1
    probability[2, 4, 4] = 0
    _, changes = run_pipeline(probability, load_pipeline("raw"), report=True)
    assert (changes[0]["tunnels"], changes[0]["components"], changes[0]["cavities"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- close_cylindre: {z_radius: 1, xy_radius: 1}",
            "step 1 of pipeline .* must be one of .*got 'close_cylindre'",
        ),
        ("- hysteresis_threshold: {low: 0.3}", "must have parameters among t_low, t_high, got 'low'"),
        ("- raw\n- close_sheets", "must be one of"),
        ("- hysteresis_threshold\n- close_ball", "must be given radius"),
        ("- hysteresis_threshold: 0.3", "must have parameters by name"),
        ("- fill_cavities", "must come after one that makes a mask, got fill_cavities"),
        ("- trace_ridges", "must have a step that makes a mask, got trace_ridges"),
        ("fill_cavities: {}", "must be a list of steps, got dict"),
        ("[]", "must be a list of steps"),
        ("- [", "p.yaml, line 1: the text must be YAML"),
        ("- {a: 1, b: 2}", "must be a step's name or a mapping of one name"),
        ("- hysteresis_threshold: {t_low: 0.3, t_high: 0.3, probability: 1}", "got 'probability'"),
    ],
)
def test_bad_pipelines_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputValueError, match=message) as raised:
        load_pipeline(path)
    assert "\n" not in str(raised.value)


def test_what_the_steps_refuse_names_the_step():
    pipeline = make_pipeline([{"hysteresis_threshold": {"t_low": 0.6, "t_high": 0.3}}])
    with pytest.raises(InputValueError, match=r"step 1 \(hysteresis_threshold\): t_high must be >= 0.6"):
        run_pipeline(smooth_noise(), pipeline)
    pipeline = make_pipeline([{"hysteresis_threshold": {"t_low": 0.3, "t_high": 0.6}}, {"close_ball": {"radius": -1}}])
    with pytest.raises(InputValueError, match=r"step 2 \(close_ball\): radius must be >= 0"):
        run_pipeline(smooth_noise(), pipeline)
    with pytest.raises(InputNotFoundError, match=r"one of .*sheet_repair.*got nosuch"):
        load_pipeline("nosuch")


@pytest.mark.parametrize("name", ["raw", "public", "sheet_repair"])
def test_bad_probabilities_are_refused(name):
    for broken in (np.full((4, 4, 4), np.nan, np.float32), np.full((4, 4, 4), 1.5, np.float32)):
        with pytest.raises(InputValueError, match="probability must lie in"):
            run_pipeline(broken, load_pipeline(name))
    for broken in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8), None):
        with pytest.raises(InputError, match="probability must"):
            run_pipeline(broken, load_pipeline(name))


def test_all_file_kinds_give_the_same_mask(tmp_path):
    probability = smooth_noise((9, 10, 12))
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "1.npy", probability)
    np.savez_compressed(folder / "2.npz", softmax=probability)
    np.savez(folder / "3.npz", probabilities=np.stack([1 - probability, probability]))
    write_volume(folder / "4.tif", probability)
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text(SHORT)
    report = tmp_path / "report.json"
    arguments = ["postprocess", "--probabilities", str(folder), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--pipeline", str(pipeline), "--report", str(report)]) == 0
    masks = [read_volume(tmp_path / "out" / f"{k}.tif") for k in range(1, 5)]
    expected = run_pipeline(probability, load_pipeline(pipeline))
    for mask in masks:
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, expected)
    noted = json.loads(report.read_text())
    assert list(noted) == ["1", "2", "3", "4"]
    assert [change["step"] for change in noted["1"]] == ["hysteresis_threshold", "fill_cavities"]
    # Again: nothing to do, the report keeps what it holds; another pipeline does not mix in.
    before = (tmp_path / "out" / "1.tif").stat().st_mtime_ns
    assert main([*arguments, "--pipeline", str(pipeline), "--report", str(report)]) == 0
    assert (tmp_path / "out" / "1.tif").stat().st_mtime_ns == before
    assert json.loads(report.read_text()) == noted
    pipeline.write_text(SHORT.replace("0.6", "0.7"))
    assert main([*arguments, "--pipeline", str(pipeline)]) == 2


def test_integers_count_up_to_the_largest_of_their_type(tmp_path):
    write_volume(tmp_path / "a.tif", np.array([[[0, 51, 255]]], np.uint8))
    np.testing.assert_allclose(load_probability(tmp_path / "a.tif"), [[[0, 0.2, 1]]], rtol=1e-6)


def test_processes_give_the_same_files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(3):
        np.save(folder / f"{k}.npy", smooth_noise(seed=k).astype(np.float16))
    settings = PostprocessConfig(pipeline="raw")
    one = postprocess_folder(folder, tmp_path / "one", settings)
    two = postprocess_folder(folder, tmp_path / "two", settings, processes=2, report=tmp_path / "r.json")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert set(json.loads((tmp_path / "r.json").read_text())) == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pipeline", "nosuch"], "pipeline must be a YAML file or one of"),
        (["--processes", "0"], "processes must be >= 1"),
        (["--probabilities", "empty"], "at least one .npy, .npz or .tif"),
        (["--probabilities", "twice"], "one file for each id"),
        (["--probabilities", "cut"], "complete .npz array"),
        (["--probabilities", "many"], "only array"),
    ],
)
def test_mistakes_at_the_command_line_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("probabilities", "empty", "twice", "cut", "many"):
        (tmp_path / name).mkdir()
    probability = smooth_noise((4, 5, 6))
    for path in ("probabilities/1.npy", "twice/1.npy"):
        np.save(tmp_path / path, probability)
    np.savez(tmp_path / "twice/1.npz", probability)
    np.savez(tmp_path / "many/1.npz", a=probability, b=probability)
    np.savez(tmp_path / "cut/1.npz", probability)
    (tmp_path / "cut/1.npz").write_bytes((tmp_path / "cut/1.npz").read_bytes()[:200])
    assert main(["postprocess", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_steps_are_named_as_their_functions():
    assert all(STEPS[name].__name__ == name for name in STEPS)
