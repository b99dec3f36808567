import dataclasses

import pytest
import yaml

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.config import (
    RunConfig,
    changed_settings,
    config_to_dict,
    config_to_yaml,
    find_config,
    list_configs,
    load_config,
)


@pytest.mark.parametrize("name", list_configs())
def test_shipped_configurations_load_and_survive_yaml(name, tmp_path):
    config = load_config(name)
    path = tmp_path / "resolved.yaml"
    path.write_text(config_to_yaml(config))
    assert load_config(path) == config


def test_the_fix_of_the_plateau_has_the_figures_of_the_case():
    config = load_config("config_v6_fix_plateau")
    assert config.loss.weights() == {
        "dice": 0.8, "cross_entropy": 0.0, "focal": 0.15, "boundary": 0.05, "variance": 0.0, "cldice": 0.0, "connectivity": 0.0,
    }  # fmt: skip
    assert (config.loss.focal_gamma, config.loss.focal_alpha, config.loss.class_weights) == (2.0, 0.35, (1.0, 1.5))
    assert (config.train.learning_rate, config.train.weight_decay, config.train.batch_size) == (1e-3, 1e-4, 4)
    assert (config.train.num_epochs, config.train.gradient_clip, config.train.early_stopping_patience) == (100, 2.0, 20)
    assert (config.lr.schedule, config.lr.warmup_epochs) == ("plateau", 2)
    assert (config.lr.plateau_patience, config.lr.plateau_factor, config.lr.plateau_threshold) == (5, 0.5, 0.001)
    assert config.model.options == {"initial_filters": 32, "depth": 4}
    assert (config.patches.size, config.n_folds) == ((128, 128, 128), 5)


def test_the_run_of_the_plateau_has_the_figures_of_the_case():
    config = load_config("config_v5_variance_focused")
    assert config.loss.weights() == {
        "dice": 0.3, "cross_entropy": 0.0, "focal": 0.15, "boundary": 0.05, "variance": 0.5, "cldice": 0.0, "connectivity": 0.0,
    }  # fmt: skip
    assert (config.loss.focal_gamma, config.loss.focal_alpha, config.loss.class_weights) == (2.0, 0.4, (1.0, 2.0))
    assert (config.train.learning_rate, config.train.weight_decay, config.train.batch_size) == (1e-4, 1e-2, 2)
    assert (config.train.num_epochs, config.train.gradient_clip) == (300, 0.5)
    assert (config.lr.schedule, config.lr.warmup_epochs, config.lr.handler) == ("warm_restarts", 5, "bounded")
    assert (config.lr.t_0, config.lr.t_mult, config.lr.eta_min) == (10, 2, 1e-6)
    swa = (config.train.swa_start_epoch, config.train.swa_every_epochs, config.train.swa_learning_rate)
    assert swa == (30, 5, 5e-5)
    assert not config.loss.unlabelled_as_surface
    assert config.model.options == {"initial_filters": 32, "depth": 4}
    assert (config.patches.size, config.n_folds) == ((128, 128, 128), 5)


def scheduled(kind, **points):
    return load_config(None, {"loss.variance_weight": 0.5, "loss.schedule": points, "loss.schedule_kind": kind}).loss


def test_a_scheduled_weight_holds_until_the_next_point_or_goes_straight_to_it():
    points = {"variance_weight": [[2, 0.4], [6, 0.0]], "dice_weight": [[4, 1.0]]}
    step, linear = scheduled("step", **points), scheduled("linear", **points)
    assert [step.weights(epoch)["variance"] for epoch in range(8)] == [0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.0, 0.0]
    expected = [0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
    assert [linear.weights(epoch)["variance"] for epoch in range(8)] == pytest.approx(expected, abs=1e-15)
    assert [step.weights(epoch)["dice"] for epoch in (0, 3, 4, 100)] == [0.5, 0.5, 1.0, 1.0]
    assert step.weights(5)["cross_entropy"] == 0.5
    assert step.weights()["variance"] == 0.5


def test_a_schedule_is_yaml_and_comes_back_from_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "loss: {variance_weight: 0.5, schedule: {variance_weight: [[0, 0.5], [20, 0.1]]}, schedule_kind: linear}"
    )
    config = load_config(path)
    assert config.loss.weights(10)["variance"] == pytest.approx(0.3)
    path.write_text(config_to_yaml(config))
    assert load_config(path) == config
    assert changed_settings(config_to_dict(load_config(path)), config_to_dict(config)) == []


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        ({"variance": [[0, 1.0]]}, "must name weights such as variance_weight, got variance"),
        ({"focal_gamma": [[0, 1.0]]}, "must name weights"),
        ({"variance_weight": []}, "at least one point"),
        ({"variance_weight": [[3, 1.0], [3, 0.5]]}, r"epochs in loss.schedule.variance_weight must rise, got \[3, 3\]"),
        ({"variance_weight": [[0, -1.0]]}, "weight in loss.schedule.variance_weight must be >= 0"),
        ({"variance_weight": [[-1, 1.0]]}, "epoch in loss.schedule.variance_weight must be >= 0"),
        ({"variance_weight": [[0, 1.0, 2.0]]}, "loss.schedule"),
        (
            {"dice_weight": [[5, 0.0]], "cross_entropy_weight": [[4, 0.0]]},
            "at least one weight > 0, got all 0 in epoch 5",
        ),
    ],
)
def test_a_bad_schedule_is_named_in_one_line(schedule, named):
    with pytest.raises(InputError, match=named) as caught:
        load_config(None, {"loss.schedule": schedule})
    assert "\n" not in str(caught.value)


def test_averaging_cannot_get_past_the_cap_of_the_rate():
    with pytest.raises(InputValueError, match=r"train\.swa_learning_rate must be .*<= 0\.0005"):
        load_config(None, {"train.learning_rate": 1e-4, "train.swa_start_epoch": 3, "train.swa_learning_rate": 6e-4})


def test_a_name_is_found_with_and_without_ending_and_a_file_comes_first(tmp_path, monkeypatch):
    assert find_config("cpu_demo") == find_config("cpu_demo.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cpu_demo.yaml").write_text("n_folds: 7\n")
    assert load_config("cpu_demo.yaml").n_folds == 7
    with pytest.raises(InputNotFoundError, match=r"one of config_v5_variance_focused, .*, cpu_demo, got nowhere"):
        find_config("nowhere")


def test_overrides_replace_single_settings():
    config = load_config("cpu_demo", {"train.learning_rate": 0.5, "patches.size": [32, 48, 64], "data": "somewhere"})
    assert config.train.learning_rate == 0.5
    assert config.patches.size == (32, 48, 64)
    assert config.data == "somewhere"
    assert config.train.num_epochs == load_config("cpu_demo").train.num_epochs


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"train.learning_rat": 1}, "train.learning_rat"),
        ({"train.nonsense": 1}, "train.nonsense"),
        ({"train.num_epochs": 0}, "train.num_epochs must be >= 1"),
        ({"train.num_epochs": "many"}, "train.num_epochs"),
        ({"loss.dice_weight": -0.1}, "loss.dice_weight must be >= 0"),
        ({"loss.dice_weight": 0, "loss.cross_entropy_weight": 0}, "at least one weight"),
        ({"lr.max_factor": 6}, "lr.max_factor must be"),
        ({"lr.schedule": "rising"}, "lr.schedule"),
        ({"patches.size": [1, 2]}, "patches.size"),
        ({"postprocess.t_low": 0.9, "postprocess.t_high": 0.5}, "postprocess.t_high must be >= 0.9"),
        ({"n_folds": 1}, "n_folds must be >= 2"),
        ({"folds": 9}, "folds must be"),
    ],
)
def test_bad_settings_are_named_in_one_line(overrides, named):
    with pytest.raises(InputError, match=named) as caught:
        load_config("cpu_demo", overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"train": {"learning_rate": 0.1, "warmup": 3}}))
    with pytest.raises(InputValueError, match="warmup") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_single_fold_is_a_list_of_one():
    assert load_config(None, {"folds": 2}).folds == [2]
    assert load_config(None, {"folds": [0, 3]}).folds == [0, 3]


def test_changes_are_listed_by_dotted_key():
    before = RunConfig()
    after = dataclasses.replace(before, train=dataclasses.replace(before.train, learning_rate=0.5))
    changes = changed_settings(config_to_dict(before), config_to_dict(after))
    assert changes == ["train.learning_rate: 0.001 -> 0.5"]
    assert changed_settings(config_to_dict(before), config_to_dict(before)) == []
