import json
import shutil
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from vesuvius_kit.kaggle.execute import execute_notebook
from vesuvius_kit.training.learning_rate import BoundedLR

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CELLS = ["foreground-variance0.5-legacy", "ignored-v6"]


sys.path.insert(0, str(BENCHMARKS / "plateau"))
import handlers  # noqa: E402
import report  # noqa: E402
import study  # noqa: E402

TINY = study.Scale(chunk=48, train_chunks=4, initial_filters=2, depth=1, patch=16, epochs=2, steps=2)


def test_the_cells_are_every_combination_and_the_two_configurations(tmp_path):
    configs = {name: study.configure(name, 1, tmp_path, study.Scale()) for name in study.list_cells()}
    assert len(configs) == 12
    hooks = {name: study.make_hooks(name) for name in configs}
    seen = {
        (config.loss.variance_weight, hooks[name].on_validated is None, hooks[name].label_transform)
        for name, config in configs.items()
        if "variance" in name
    }
    assert len(seen) == 8
    for name, config in configs.items():
        assert name.startswith("foreground" if hooks[name].label_transform is handlers.read_foreground else "ignored")
        if "variance" in name:
            # All else is the same.
            assert (config.loss.dice_weight, config.loss.focal_weight, config.loss.boundary_weight) == (0.3, 0.15, 0.05)
            assert config.train.learning_rate == study.Scale().rate
            assert config.lr.schedule == "constant"
    v5, v6 = configs["ignored-v5"], configs["ignored-v6"]
    assert (v5.loss.variance_weight, v5.lr.schedule) == (0.5, "warm_restarts")
    assert (v6.loss.variance_weight, v6.lr.schedule) == (0.0, "plateau")
    made = {name: hooks[name].make_controller(configs[name]) for name in ("ignored-v5", "ignored-v6")}
    assert isinstance(made["ignored-v5"], handlers.LegacyHandler)
    assert isinstance(made["ignored-v6"], BoundedLR)
    assert v6.train.learning_rate == pytest.approx(10 * v5.train.learning_rate)


def test_a_tiny_study_runs_goes_on_and_makes_table_and_figures(tmp_path, capsys, monkeypatch):
    trained = []
    train = study.train

    def stop_at_the_second(config, hooks):
        trained.append(config)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(config, hooks=hooks)

    monkeypatch.setattr(study, "train", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        study.run_study(tmp_path, CELLS, [0], TINY)
    written = study.run_study(tmp_path, CELLS, [0], TINY)
    assert len(trained) == 3  # one done, one stopped, then that one again
    assert [path.exists() for path in written] == [True, True]
    study.run_study(tmp_path, CELLS, [0], TINY)
    assert len(trained) == 3

    for path in written:
        (line,) = path.read_text().splitlines()
        result = json.loads(line)
        assert {len(curve) for curve in result["curves"].values()} == {2}
        assert len(result["held_out"]) == 2
        for chunk in result["held_out"]:
            assert chunk["matched"]["share"] == pytest.approx(chunk["truth_share"], rel=0.2)
            assert 0 <= chunk["half"]["score_truth"] <= 1
    chance = study.score_chance(tmp_path)
    assert chance["half"]["share"] == pytest.approx(0.5, abs=0.02)
    assert 0 < chance["matched"]["surface_dice_truth"] < 1
    capsys.readouterr()
    report.main([str(tmp_path / "results"), "--output", str(tmp_path)])
    table = capsys.readouterr().out
    for name in CELLS:
        assert f"| {name} | 1 |" in table
    for name in ("curves", "scores", "slices"):
        assert (tmp_path / f"plateau_{name}.png").stat().st_size > 5000


def test_the_area_under_the_curve():
    truth = np.array([1, 1, 0, 0])
    assert study.area_under_curve(np.array([0.9, 0.8, 0.2, 0.1]), truth) == 1
    assert study.area_under_curve(np.array([0.1, 0.2, 0.8, 0.9]), truth) == 0
    assert study.area_under_curve(np.array([0.5, 0.5, 0.5, 0.5]), truth) == 0.5
    assert study.area_under_curve(np.array([0.9, 0.3, 0.5, 0.1]), truth) == 0.75


def make_result(cell, seed, dice):
    chunk = {
        "auc": dice,
        **{
            name: {"surface_dice_truth": dice, "score_truth": dice, "score_label": dice} for name in ("half", "matched")
        },
    }
    curves = {"rate": [0.001, 0.002], "interventions": [1, 0], "gradient_norm": [0.1, 0.3], "loss": [0.5, 0.7]}
    curves |= {"dice": [0.4, 0.4], "output_mean": [0.5, 0.5], "output_std": [0.1, 0.1], "surface_share": [0.2, 0.2]}
    parts = {"base_rate": 0.001, "best_constant": {"output": 0.5, "loss": 0.6}, "curves": curves, "held_out": [chunk]}
    return {"cell": cell, "seed": seed, **parts}


def test_an_effect_is_the_difference_of_cells_that_differ_in_one_suspect():
    results = [
        make_result("foreground-variance0-bounded", 0, 0.2),
        make_result("ignored-variance0-bounded", 0, 0.5),
        make_result("foreground-variance0-bounded", 1, 0.3),
        make_result("ignored-variance0-bounded", 1, 0.2),
        make_result("ignored-variance0.5-bounded", 0, 0.4),
        make_result("ignored-v6", 0, 0.9),
    ]
    text = report.write_effects(results)
    assert "| label 2 as foreground | -0.100 | -0.300 to +0.100 | 1 of 2 |" in text
    assert "| variance weight 0.5 | -0.100 | -0.100 to -0.100 | 1 of 1 |" in text
    assert "legacy" not in text
    assert "| ignored-v6 | 1 | 0.90 | 0.90 |" in report.write_table(results)
    assert "| ignored-v6 | 1 | 0.50 | 0 | 2 |" in report.write_table(
        results, ["best loss", "best epoch", "highest rate / base"]
    )
    assert "| foreground-variance0-bounded | 2 | 0.25 (0.20 to 0.30) |" in report.write_table(results, ["dice matched"])


def test_the_best_constant_is_a_loss_that_a_constant_output_has(tmp_path):
    config = study.configure("foreground-variance0.5-legacy", 0, tmp_path, TINY)
    study.write_competition(tmp_path / "data", train=4, test=0, shape=48, train_styles=study.TRAIN_STYLES, deprecated=0)
    constant = study.find_best_constant(config, handlers.read_foreground)
    assert 0.02 <= constant["output"] <= 0.98
    # The variance term of a constant is 1 and weighs 0.5; dice, focal and boundary add to that.
    assert 0.5 < constant["loss"] < 1


@pytest.mark.long
def test_the_notebook_shows_the_runs_and_repeats_a_part(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    shutil.copytree(BENCHMARKS, tmp_path / "benchmarks")
    shutil.copy(BENCHMARKS.parent / "docs" / "plateau_runs.jsonl", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "saved.ipynb"
    assert execute_notebook(BENCHMARKS.parent / "notebooks" / "plateau_study.ipynb", saved, 200) == ""
    text = saved.read_text()
    assert "36 runs of 12 cells" in text
    assert text.count("image/png") == 2
    assert len(list((tmp_path / "dist" / "plateau_study_small" / "results").glob("*.json"))) == 2


def test_the_page_shows_the_runs_that_are_kept():
    docs = BENCHMARKS.parent / "docs"
    results = report.read_results(docs / "plateau_runs.jsonl")
    page = (docs / "plateau.md").read_text()
    assert report.write_table(results, report.TRAINING) in page
    assert report.write_table(results) in page
    assert report.write_effects(results, "area under curve") in page
    assert {(result["cell"], result["seed"]) for result in results} == set(product(study.list_cells(), study.SEEDS))
