"""One reader for every YAML of the kit: row A7 of the public reports, and its kind."""

import time

import pytest

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.config import config_to_dict, load_config
from vesuvius_kit.config.yaml_file import load_yaml, read_document


def write(folder, content):
    path = folder / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: {num_epochs: 3}\nlr: {}\ntrain: {learning_rate: 0.1}\n", "train"),
        ("n_folds: 3\ndata: here\nn_folds: 3\n", "n_folds"),
        ("train:\n  num_epochs: 3\n  num_epochs: 4\n", r"train\.num_epochs"),
        ("model: {options: {depth: 1,\n depth: 2}}", r"model\.options\.depth"),
        ("train: {num_epochs: 3}\ntrain.num_epochs: 4\n", r"train\.num_epochs"),
    ],
)
def test_a_key_that_occurs_twice_is_named_with_both_lines(tmp_path, text, key):
    """A7"""
    with pytest.raises(InputValueError, match=rf"mine\.yaml: {key} must be given once, got it in lines \d and \d$"):
        load_config(write(tmp_path, text))


def test_a_step_s_parameter_and_the_settings_beside_a_checkpoint_go_through_the_same_reader(tmp_path):
    from vesuvius_kit.diagnosis.readers.places import _read_config
    from vesuvius_kit.postprocess.pipeline import load_pipeline

    path = write(tmp_path, "- hysteresis_threshold: {t_low: 0.3,\n    t_high: 0.5, t_low: 0.4}")
    with pytest.raises(InputValueError, match=r"mine\.yaml: 0\.hysteresis_threshold\.t_low .* lines 1 and 2"):
        load_pipeline(path)
    settings, problems = _read_config(write(tmp_path, "n_folds: 3\nn_folds: 4"))
    assert settings is None
    assert "n_folds must be given once" in problems[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {num_epochs: 0o17}", r"line 1: train\.num_epochs must be an integer, got 0o17"),
        ("train: {num_epochs: 017}", "must be an integer, got 017"),
        ("train:\n  num_epochs: 1:30", r"line 2: train\.num_epochs must be an integer, got 1:30"),
        ("train: {num_epochs: 3.0}", "must be an integer, got 3.0"),
        ("train: {num_epochs: true}", "must be an integer, got true"),
        ("train: {num_epochs:}", "must be an integer, got nothing"),
        ("train: {budget: 1:30}", r"line 1: train\.budget must look like"),
        ("train: {learning_rate: .nan}", r"train\.learning_rate must be finite, got \.nan"),
        ("lr: {eta_min: -.inf}", "must be finite"),
        ("lr: {eta_min: 1e999}", "must be finite"),
        ("train: {learning_rate: fast}", "must be a number, got fast"),
        ("\ntrain: {num_epochs: 0}", r"mine\.yaml, line 2: train\.num_epochs must be >= 1, got 0"),
        ("data: null", "data must be a text, got null"),
        ("model: {options: {half_resolution: no}}", r"model\.options\.half_resolution must be spelt .*, got no"),
        ("model: {options: {depth: 017}}", "must be spelt"),
        ("patches: {size: 6.4}", r"patches\.size must be an integer or three of them in brackets, got 6\.4"),
        ("folds: [0, true]", "folds must be an integer or a list"),
        ("lr: {schedule: rising}", r"lr\.schedule must be one of constant, .*, got rising"),
        ("train: null", "train must be a section of settings, got null"),
        ("train: 3", "train must be a section of settings, got 3"),
        ("trian: {num_epochs: 3}", r"trian must be a setting's name, got trian \(did you mean train"),
        ("train: {num_epoch: 3}", r"did you mean train\.num_epochs\?"),
        ("- n_folds: 3", "must hold settings by name, got a list"),
        ("n_folds", "must hold settings by name, got a single value"),
        ("# nothing\n", "must hold settings by name, got nothing"),
        ("n_folds: 3\n---\nn_folds: 4", "line 2: YAML must be one document, got a second one"),
        ("train:\n\tnum_epochs: 3", "line 2: YAML must be indented by spaces, got a tab"),
        ("n_folds: [3", "line 1: the text must be YAML"),
        ("n_folds: 3\x00", "YAML must be printable text"),
        ('data: "\\UFFFFFFFF"', "the text must be YAML"),
        (b"data: here\noutput: \xff\xfe", r"line 2: YAML must be text in UTF-8 .*, got the byte 0xff"),
        ("n_folds: 3".encode("utf-16-le"), "YAML must be printable text"),
        ("data: !!binary aGk=", "YAML must be plain values, got !!binary"),
        ("data: !!python/object/apply:os.system [ls]", "YAML must be plain values"),
        ("data: !mine x", "YAML must be plain values, got !mine"),
        ("? [a]\n: b", "line 1: a key must be a word"),
        ("model: {options: &a {b: *a}}", "YAML must not contain itself"),
        ("data: *nowhere", "line 1: .*undefined alias"),
        ("[" * 5000, "YAML must nest at most"),
        ("a: " * 1 + "{b: " * 60 + "1" + "}" * 60, "YAML must nest at most"),
        ("data: " + "x" * 300_000, "must be YAML of at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line_with_file_and_line(tmp_path, text, message):
    with pytest.raises(InputValueError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "mine.yaml"))


def test_a_bomb_of_aliases_ends_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    started = time.monotonic()
    with pytest.raises(InputValueError, match="YAML must hold at most"):
        load_yaml(write(tmp_path, "\n".join(lines)))
    assert time.monotonic() - started < 20


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(InputNotFoundError, match="pipeline must be an existing file"):
            load_yaml(path, "pipeline")


def test_settings_on_the_command_line_are_read_alike():
    """A7, on the command line"""
    assert load_config(None, {"train.num_epochs": "1_000"}).train.num_epochs == 1000
    assert load_config(None, {"lr.allow_raise": "no"}).lr.allow_raise is False
    assert load_config(None, {"output": "[a]"}).output == "[a]"
    assert load_config(None, {"train.budget": None}).train.budget is None
    assert load_config(None, {"model.options.depth": 3, "model.options.initial_filters": 8}).model.options == {
        "depth": 3, "initial_filters": 8,
    }  # fmt: skip
    for overrides, message in (
        ({"train.num_epochs": "017"}, r"^train\.num_epochs must be an integer, got 017$"),
        ({"train.num_epochs": "1:30"}, r"^train\.num_epochs must be an integer"),
        ({"train.num_epochs": float("nan")}, r"^train\.num_epochs must be an integer, got NaN"),
        ({"train.learning_rate": float("nan")}, "must be a number, got NaN"),
        ({"model.options": "{depth: 1, depth: 2}"}, r"--model\.options: depth must be given once"),
        ({"train": "{num_epochs: 3, num_epochs: 4}"}, "--train: num_epochs must be given once"),
        ({"predict.window": "[8, 8"}, r"--predict\.window, line 1: the text must be YAML"),
        ({"predict.window": "[0,8,8]"}, r"^predict\.window must be three edges above 0"),
        ({"patches.sizes": 3}, r"did you mean --patches\.size\?"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_config(None, overrides)
        assert "\n" not in str(caught.value)


def test_a_whole_section_comes_from_a_file_or_the_command_line(tmp_path):
    assert load_config(None, {"train": "{num_epochs: 3, seed: 5}"}).train.seed == 5
    assert load_config(None, {"train": str(write(tmp_path, "seed: 6"))}).train.seed == 6


def test_a_later_file_wins_and_the_message_names_the_one_that_counts(tmp_path):
    from vesuvius_kit.config import RunConfig
    from vesuvius_kit.config.parser import SettingsParser

    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("train: {num_epochs: 5, seed: 1}\n")
    second.write_text("\ntrain: {seed: 2, batch_size: 0}\n")
    parser = SettingsParser({"": RunConfig}, reads_files=True)
    words = [f"--config={first}", "--train.num_epochs", "7", "--config", str(second)]
    assert parser.read_words(words) == []
    assert (parser.values["train.num_epochs"], parser.values["train.seed"]) == (7, 2)
    with pytest.raises(InputValueError, match=r"second\.yaml, line 2: train\.batch_size must be >= 1"):
        parser.build()


def test_untyped_values_keep_their_kind_and_refuse_what_reads_two_ways(tmp_path):
    document = read_document(write(tmp_path, "a: [1, 2.5, true, null, text, '1', 1e3]\nb: no\n"))
    assert document.value == {"a": [1, 2.5, True, None, "text", "1", 1000.0], "b": "no"}
    assert document.place(("b",)) == f"{tmp_path / 'mine.yaml'}, line 2: "
    with pytest.raises(InputValueError, match=r"line 2: b must be spelt .*, got no"):
        load_yaml(tmp_path / "mine.yaml")


def test_what_the_kit_writes_it_reads_back_to_the_last_bit(tmp_path):
    from vesuvius_kit.config import config_to_yaml

    changes = {
        "output": "017",
        "data": "yes",
        "train.learning_rate": 1 / 3,
        "train.weight_decay": 1e-300,
        "train.budget": "600",
    }
    config = load_config(None, {**changes, "model.options": {"upsampling": "nearest", "depth": 2}})
    assert config_to_dict(load_config(write(tmp_path, config_to_yaml(config)))) == config_to_dict(config)


def test_what_a_mapping_says_itself_replaces_what_it_merges(tmp_path):
    document = read_document(write(tmp_path, "base: &b {a: no, c: }\nmine:\n  <<: *b\n  a: 1\n  c: {d: 2}\n"))
    assert document.value["mine"] == {"a": 1, "c": {"d": 2}}
    document.require_plain(("mine",))
    assert document.words.get(("mine", "c")) is None
