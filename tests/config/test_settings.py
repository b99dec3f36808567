import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import pytest
import yaml

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.config import (
    ModelConfig,
    PostprocessConfig,
    PredictConfig,
    RunConfig,
    ScheduleConfig,
    changed_settings,
    config_to_dict,
    config_to_yaml,
    find_config,
    list_configs,
    load_config,
)
from vesuvius_kit.config.parser import SettingsParser


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
    assert (config.lr.schedule, config.lr.warmup_epochs) == ("warm_restarts", 5)
    assert (config.lr.t_0, config.lr.t_mult, config.lr.eta_min) == (10, 2, 1e-6)
    swa = (config.train.swa_start_epoch, config.train.swa_every_epochs, config.train.swa_learning_rate)
    assert swa == (30, 5, 5e-5)
    assert config.model.options == {"initial_filters": 32, "depth": 4}
    assert (config.patches.size, config.n_folds) == ((128, 128, 128), 5)


@pytest.mark.parametrize("digest", ["1234567890123456", "0123456789012345", "12e4567890123456", "1e45678901234567"])
def test_a_digest_that_yaml_takes_for_a_number_stays_the_digest(digest, tmp_path):
    path = tmp_path / "mine.yaml"
    for text in (digest, f"'{digest}'"):
        path.write_text(f"predict:\n  weights: {{{text}: 0.25, aaaaaaaaaaaaaaaa: 1}}\n")
        config = load_config(path)
        assert config.predict.weights == {digest: 0.25, "a" * 16: 1.0}
        path.write_text(config_to_yaml(config))
        assert load_config(path) == config
    assert load_config(None, {f"predict.weights.{digest}": 0.5}).predict.weights == {digest: 0.5}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a" * 15: 1}, "predict.weights must name networks by digests, .*, got 'aaaaaaaaaaaaaaa'"),
        ({1e5: 1}, "predict.weights must name networks by digests"),
        ({"run_a": 1}, "predict.weights must name networks by digests, .*, got 'run_a'"),
        ({"a" * 16: -1}, "predict.weights.aaaaaaaaaaaaaaaa must be >= 0, got -1"),
        ({"a" * 16: 0, "b" * 16: 0}, "a weight above 0, got 0 for all"),
    ],
)
def test_weights_of_no_network_are_refused(weights, message):
    with pytest.raises(InputValueError, match=message):
        PredictConfig(weights=weights)
    with pytest.raises(InputValueError, match=message.replace("'", ".")):
        load_config(None, {"predict.weights": weights})


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
        ({"postprocess.steps": 3}, "postprocess.steps must be a mapping of names to values, got 3"),
        ({"postprocess.steps.slit_tunnels": 3}, "postprocess.steps must be a mapping of names to values"),
        ({"postprocess.t_low": 0.3}, "postprocess.t_low"),
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


UNUSED = [
    # What is set, which setting is named, which makes it useful.
    ({"loss.focal_gamma": 3}, "loss.focal_gamma", {"loss.focal_weight": 0.1}),
    ({"loss.focal_alpha": 0.5}, "loss.focal_alpha", {"loss.schedule": {"focal_weight": [[1, 0.5]]}}),
    ({"loss.class_weights": [0, 0]}, "loss.class_weights", None),
    ({"loss.class_weights": [0, 0], "loss.focal_weight": 0.5}, "loss.class_weights and loss.focal_alpha", None),
    ({"loss.class_weights": [0, 1], "loss.focal_alpha": 0, "loss.focal_weight": 1},
     "loss.class_weights and loss.focal_alpha", None),
    ({"loss.schedule_kind": "linear"}, "loss.schedule_kind", {"loss.schedule": {"dice_weight": [[0, 0.5], [9, 1]]}}),
    ({"loss.dice_weight": 0.3, "loss.schedule": {"dice_weight": [[0, 0.8]]}}, "loss.dice_weight", None),
    ({"loss.schedule": {"dice_weight": [[0, 0.5], [100, 1]]}}, "loss.schedule.dice_weight", {"train.num_epochs": 101}),
    ({"lr.eta_min": 1e-5}, "lr.eta_min", {"lr.schedule": "cosine"}),
    ({"lr.t_0": 5}, "lr.t_0", {"lr.schedule": "warm_restarts"}),
    ({"lr.t_mult": 3}, "lr.t_mult", {"lr.schedule": "warm_restarts"}),
    ({"lr.power": 2, "lr.schedule": "constant"}, "lr.power", {"lr.schedule": "polynomial"}),
    ({"lr.plateau_patience": 2}, "lr.plateau_patience", {"lr.schedule": "plateau"}),
    ({"lr.plateau_factor": 0.3}, "lr.plateau_factor", {"lr.schedule": "plateau"}),
    ({"lr.plateau_threshold": 0.3}, "lr.plateau_threshold", {"lr.schedule": "plateau"}),
    ({"lr.raises_on_plateau_schedule": True}, "lr.raises_on_plateau_schedule", {"lr.schedule": "plateau"}),
    ({"lr.patience": 9, "lr.allow_raise": False}, "lr.patience", {"lr.allow_raise": True}),
    ({"lr.cooldown": 9, "lr.max_factor": 1}, "lr.cooldown", {"lr.max_factor": 2}),
    ({"lr.min_delta": 0, "lr.schedule": "plateau"}, "lr.min_delta", {"lr.raises_on_plateau_schedule": True}),
    ({"train.swa_start_epoch": 100}, "train.swa_start_epoch", {"train.num_epochs": 101}),
    ({"train.swa_every_epochs": 2}, "train.swa_every_epochs", {"train.swa_start_epoch": 9}),
    ({"train.swa_learning_rate": 1e-4}, "train.swa_learning_rate", {"train.swa_start_epoch": 9}),
    ({"train.max_rollbacks": 9, "train.rollback_tolerance": 0, "train.rollback_rising_epochs": 0},
     "train.max_rollbacks", {"train.rollback_rising_epochs": 2}),
    ({"train.max_rollbacks": 0, "train.rollback_tolerance": 0.3}, "train.rollback_tolerance", {"train.max_rollbacks": 1}),
    ({"train.rollback_tolerance": 0.3, "lr.schedule": "warm_restarts"}, "train.rollback_tolerance", {"lr.schedule": "cosine"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "named", "remedy"), UNUSED)
def test_a_setting_without_effect_is_refused(changes, named, remedy):
    """A21"""
    with pytest.raises(InputValueError, match=rf"^{named} must ") as caught:
        load_config(None, changes)
    assert "\n" not in str(caught.value)
    if remedy is not None:
        load_config(None, changes | remedy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict.window": [0, 8, 8]}, r"predict\.window must be three edges above 0"),
        ({"predict.window": [8, 8, 16], "predict.tta": "seven"}, r"predict\.window must be square in y and x"),
        ({"train.num_epochs": 2}, r"lr\.warmup_epochs must be below train\.num_epochs, 2, got 2"),
        ({"lr.floor": 1}, r"lr\.floor must be <= 0\.001"),
        ({"lr.schedule": "cosine", "lr.eta_min": 1}, r"lr\.eta_min must be <= 0\.001"),
        ({"folds": [0, 0]}, "folds must name at least one fold, each once"),
        ({"folds": []}, "folds must name at least one fold"),
        ({"output": ""}, "output must name a folder"),
        ({"lr.patience": 0}, r"lr\.patience must be >= 1"),
        ({"lr.plateau_factor": 1, "lr.schedule": "plateau"}, r"lr\.plateau_factor must be"),
        ({"loss.focal_weight": 1, "loss.focal_gamma": -1}, r"loss\.focal_gamma must be >= 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    """A21"""
    with pytest.raises(InputError, match=message):
        load_config(None, changes)


def test_a_limit_that_a_short_run_never_reaches_is_no_fault():
    load_config("config_v6_fix_plateau", {"train.num_epochs": 3})
    changes = {"train.num_epochs": 3, "train.early_stopping_patience": 9, "train.score_every_epochs": 9}
    load_config(
        None,
        changes
        | {"train.save_every_steps": 900, "train.gradient_diagnostics_every_epochs": 9, "lr.raise_start_epoch": 5},
    )


def test_a_later_source_takes_the_effect_of_an_earlier_setting_away(tmp_path, caplog):
    """Another pipeline on the command line is no fault of the file, whose thresholds belonged to the one before."""
    path = tmp_path / "mine.yaml"
    path.write_text("postprocess:\n  steps: {hysteresis_threshold: {t_low: 0.3}}\n  pipeline: public\n")
    assert load_config(path).postprocess.steps == {"hysteresis_threshold": {"t_low": 0.3}}
    with caplog.at_level("INFO"):
        config = load_config(path, {"postprocess.pipeline": "sheet_repair"})
    assert config_to_dict(config.postprocess) == config_to_dict(RunConfig().postprocess) | {"pipeline": "sheet_repair"}
    assert "not used, because of postprocess.pipeline sheet_repair" in caplog.text
    assert "mine.yaml, line 2: postprocess.steps" in caplog.text
    assert load_config(path, {"postprocess.pipeline": "public"}) == load_config(path), "the same pipeline"
    assert load_config("config_v5_variance_focused", {"train.num_epochs": 6}).train.swa_start_epoch == 0
    path.write_text("loss: {schedule: {dice_weight: [[0, 0.5], [4, 0.7], [9, 0.9]]}}\n")
    assert load_config(path, {"train.num_epochs": 5}).loss.schedule == {"dice_weight": [(0, 0.5), (4, 0.7)]}
    linear = {"train.num_epochs": 6, "loss.schedule_kind": "linear"}
    assert load_config(path, linear).loss.weights(5) == load_config(
        path, {"loss.schedule_kind": "linear"}
    ).loss.weights(5)
    path.write_text("loss: {focal_weight: 0,\n  focal_gamma: 3}\n")
    with pytest.raises(InputValueError, match=r"mine\.yaml, line 2: loss\.focal_gamma must be left out"):
        load_config(path)
    path.write_text("lr: {schedule: constant}\ntrain:\n  num_epochs: 2\n")
    with pytest.raises(
        InputValueError, match=r"mine\.yaml, line 3: lr\.warmup_epochs must be below train\.num_epochs, 2"
    ):
        load_config(path)


def test_a_file_that_replaces_a_word_of_the_command_line_says_so(tmp_path, caplog):
    """A later source wins; whoever names the file last may not have meant that."""
    (tmp_path / "mine.yaml").write_text("train: {num_epochs: 3, batch_size: 2}\n")
    words = ["--train.num_epochs", "300", "--train.batch_size", "2", "--config", str(tmp_path / "mine.yaml")]

    def read(*words):
        parser = SettingsParser({"": RunConfig}, reads_files=True)
        assert parser.read_words(words) == []
        return parser.build()[""]

    assert read(*words).train.num_epochs == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'mine.yaml'}, line 1: 3 replaces --train.num_epochs 300, which stands before it"
    ]
    assert read(*words[-2:], *words[:-2]).train.num_epochs == 300
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("kind", "word", "message"),
    [
        (tuple[int, int, int], "4.8", "--size must be an integer or three of them in brackets, got 4.8"),
        (tuple[int, int, int], "[48, 48]", "--size must be an integer or three of them in brackets, got [48, 48]"),
        (float, "nan", "--size must be a number, got nan"),
        (int, "1.5", "--size must be an integer, got 1.5"),
    ],
)
def test_an_option_that_is_no_setting_is_named_in_the_same_words(kind, word, message):
    with pytest.raises(InputValueError, match=re.escape(message)):
        SettingsParser({}, {"size": kind}).read_words(["--size", word])


@pytest.mark.parametrize("word", ["48", "[48, 48, 48]"])
def test_a_single_edge_stands_for_three(word, tmp_path):
    assert load_config(None, {"predict.window": word, "patches.size": word}).predict.window == (48, 48, 48)
    (tmp_path / "mine.yaml").write_text(f"patches: {{size: {word}}}\n")
    assert load_config(tmp_path / "mine.yaml").patches.size == (48, 48, 48)
    parser = SettingsParser({}, {"shape": tuple[int, int, int]})
    assert parser.read_words(["--shape", word]) == []
    assert parser.values == {"shape": (48, 48, 48)}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lr: {handler: bounded}", "lr.handler"),
        ("lr.handler: legacy", "lr.handler"),
        ("loss:\n  unlabelled_as_surface: true", "loss.unlabelled_as_surface"),
    ],
)
def test_what_was_a_setting_for_the_plateau_study_is_refused_with_the_reason(text, name, tmp_path):
    (tmp_path / "old.yaml").write_text(text)
    with pytest.raises(InputValueError, match=rf"old\.yaml, line \d: {name} must be left out: .*benchmarks/plateau"):
        load_config(tmp_path / "old.yaml")
    section, key = name.split(".")
    stored = SettingsParser({"": RunConfig})
    with pytest.raises(InputValueError, match=f"checkpoint must not hold {name}: .*benchmarks/plateau"):
        stored.read_stored({section: {key: "legacy"}})


def test_entries_of_mappings_are_given_one_by_one_at_any_depth():
    changes = {"postprocess.steps.slit_tunnels.min_size": 9, "postprocess.steps.bridge_gaps.length": 8}
    config = load_config(None, changes | {"model.options.depth": 3, "model.options.initial_filters": 8})
    assert config.postprocess.steps == {"slit_tunnels": {"min_size": 9}, "bridge_gaps": {"length": 8}}
    assert config.model.options == {"depth": 3, "initial_filters": 8}
    assert load_config(None, {"postprocess.steps": "{raw: {t_low: 0.3}}"}).postprocess.steps == {"raw": {"t_low": 0.3}}


def test_the_settings_of_a_checkpoint_give_way_to_a_pipeline_on_the_command_line():
    def parse(*words):
        parser = SettingsParser({"postprocess": PostprocessConfig})
        stored = PostprocessConfig("public", {"hysteresis_threshold": {"t_low": 0.1, "t_high": 0.2}})
        parser.read_stored({"postprocess": config_to_dict(stored)})
        assert parser.read_words(words) == []
        return parser.build()["postprocess"]

    assert parse() == PostprocessConfig("public", {"hysteresis_threshold": {"t_low": 0.1, "t_high": 0.2}})
    given = parse("--postprocess.steps.close_cylinder.z_radius=5")
    assert given.steps == {"hysteresis_threshold": {"t_low": 0.1, "t_high": 0.2}, "close_cylinder": {"z_radius": 5}}
    assert parse("--postprocess.pipeline", "raw") == PostprocessConfig("raw")


def test_parameters_that_do_not_apply_are_refused():
    from vesuvius_kit.postprocess import make_mask

    probability = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(
        InputValueError, match=r"steps must name a step that pipeline raw has once, .*got close_cylinder"
    ):
        make_mask(probability, "raw", {"close_cylinder": {"z_radius": 1}})
    with pytest.raises(
        InputValueError, match=r"step 1 of pipeline raw \(hysteresis_threshold\) must have parameters among"
    ):
        make_mask(probability, "raw", {"hysteresis_threshold": {"threshold": 1}})
    with pytest.raises(InputValueError, match=r"steps must have parameters by name for hysteresis_threshold, got 0\.3"):
        make_mask(probability, "raw", {"hysteresis_threshold": 0.3})


def test_values_of_python_are_taken_for_what_they_are(tmp_path):
    config = load_config(None, {"data": tmp_path, "model.options.depth": np.int64(3), "patches.size": np.int64(32)})
    assert (config.data, config.model.options, config.patches.size) == (str(tmp_path), {"depth": 3}, (32, 32, 32))
    assert RunConfig(folds=np.int64(1)).folds == [1]
    assert PredictConfig(window=96).window == (96, 96, 96)
    for call in (lambda: PredictConfig(tta="all"), lambda: ScheduleConfig(schedule="rising")):
        with pytest.raises(InputValueError, match="must be one of"):
            call()


def test_a_removed_setting_on_the_command_line_says_why():
    with pytest.raises(InputValueError, match=r"^--lr\.handler must be left out: the rate is always bounded"):
        load_config(None, {"lr.handler": "legacy"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.options.a", "1", "--model.options.a.b", "2"], "--model.options.a.b must name an entry of a mapping"),
        (["--loss", "{dice_weight: 1" + " " * 5000 + "}"], None),
        (["--train.num-epochs", "7"], None),
        (["--train.num_epochs="], "--train.num_epochs must be followed by its value, got nothing"),
        (["-n", "3"], "option must be one of this command's, got -n"),
        (["--train.num_epoch", "3"], r"did you mean --train\.num_epochs\?"),
    ],
)
def test_words_of_a_command_line(words, message):
    parser = SettingsParser({"": RunConfig}, reads_files=True)
    if message is None:
        assert parser.read_words(words) == []
        assert parser.build()
    else:
        with pytest.raises(InputValueError, match=message):
            parser.read_words(words)


def test_switches_and_options_of_several_words():
    options = {"fresh": bool, "checkpoints": Sequence[str], "skip_invalid": bool}
    parser = SettingsParser({}, options)
    assert parser.read_words(["a", "--checkpoints", "b", "c", "--skip-invalid", "d"]) == ["a", "d"]
    assert parser.values == {"checkpoints": ["b", "c"], "skip_invalid": True}
    for words in (["--fresh=true"], ["--checkpoints"], ["--checkpoints", "--fresh"]):
        with pytest.raises(InputValueError, match="must"):
            SettingsParser({}, options).read_words(words)


def test_text_that_another_reader_might_misread_is_written_in_quotes(tmp_path):
    options = {"a": "1e-3", "b": "0o17", "c": "no", "d": "plain words", "e": "", "f": "~", "g": "a: b"}
    config = RunConfig(model=ModelConfig(options=options))
    (tmp_path / "written.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "written.yaml") == config
