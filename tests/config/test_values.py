"""What a type makes of a word, and how it is asked for."""

from typing import Any, Literal

import pytest

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import RunConfig, Size, load_config
from vesuvius_kit.config.values import convert_value, describe_type, flatten, suggest
from vesuvius_kit.config.yaml_file import YamlDocument, parse_document


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("train: {learning_rate: 1e-3}", "train.learning_rate", 1e-3),
        ("train: {learning_rate: 1E+1}", "train.learning_rate", 10.0),
        ("train: {learning_rate: .5e-3}", "train.learning_rate", 5e-4),
        ("train: {learning_rate: 1}", "train.learning_rate", 1.0),
        ("train: {num_epochs: 1_000}", "train.num_epochs", 1000),
        ("train: {num_epochs: '12'}", "train.num_epochs", 12),
        ("train: {budget: 600}", "train.budget", "600"),
        ("lr: {allow_raise: no}", "lr.allow_raise", False),
        ("lr: {allow_raise: Off}", "lr.allow_raise", False),
        ("lr: {allow_raise: yes}", "lr.allow_raise", True),
        ("predict: {tta: none}", "predict.tta", "none"),
        ("output: on", "output", "on"),
        ("output: 017", "output", "017"),
        ("output: 2024_01", "output", "2024_01"),
        ("output: 2024-01-01", "output", "2024-01-01"),
        ("output: 1:30", "output", "1:30"),
        ("data: 12", "data", "12"),
        ("data: 'null'", "data", "null"),
        ("train:\n# num_epochs: 3\n", "train.num_epochs", 100),
        ("patches: {size: [64, 32, 16]}", "patches.size", (64, 32, 16)),
        ("\ufeffn_folds: 3", "n_folds", 3),
        ("n_folds: 3".encode("utf-16"), "n_folds", 3),
        ("n_folds: 3".encode("utf-32"), "n_folds", 3),
        ("n_folds: 3\r\nfolds: [1]\r\n", "n_folds", 3),
        ("patches: &it {per_volume: 7}\n", "patches.per_volume", 7),
        ("patches: &p {per_volume: 7}\ntrain: {<<: {num_epochs: 5, seed: 1}, seed: 2}", "train.seed", 2),
    ],
)
def test_a_word_means_what_the_setting_s_type_makes_of_it(tmp_path, text, key, expected):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    value = load_config(path)
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Any, "[1, 2.5, true, '1']", [1, 2.5, True, "1"]),
        (bool, "no", False),
        (int | list[int], "3", 3),
        (int | list[int], "[3, '4']", [3, 4]),
        (str | None, "null", None),
        (str | None, "'null'", "null"),
        (float | None, "1_0.5", 10.5),
        (Literal["1", "2"], "2", "2"),
        (Size, "8", (8, 8, 8)),
        (Size, "[8, 8, 4]", (8, 8, 4)),
        (dict[str, list[tuple[int, float]]], "{a: [[0, 1], [2, 3e-1]]}", {"a": [(0, 1.0), (2, 0.3)]}),
    ],
)
def test_a_type_converts(kind, text, expected):
    value = convert_value(kind, parse_document(text, ""), (), "x")
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("kind", "text", "requirement"),
    [
        (bool, "1", "true or false"),
        (int | None, "1.0", "an integer or null"),
        (float, "true", "a number"),
        (str, "[a]", "a text"),
        (Literal["p", "q"], "r", "one of p, q"),
        (Size, "[8, 8]", "an integer or three of them in brackets"),
        (tuple[float, float], "1", "2 values in brackets, each a number"),
        (list[str], "a", "a list in brackets, each a text"),
        (dict[str, Any], "[a]", "a mapping of names to values"),
    ],
)
def test_a_message_says_what_the_type_asks_for(kind, text, requirement):
    assert describe_type(kind) == requirement
    with pytest.raises(InputValueError, match=f"^mine, line 1: x must be {requirement}, got "):
        convert_value(kind, parse_document(text, "mine"), (), "x")


def test_a_value_within_a_document_is_found_by_its_path():
    document = parse_document("a: [1, 2.5]\nb: no\n", "mine")
    assert convert_value(Any, document, ("a", 1), "x") == 2.5
    assert convert_value(bool, document, ("b",), "x") is False
    with pytest.raises(InputValueError, match=r"^mine, line 2: b must be spelt .*, got no$"):
        convert_value(Any, document, ("b",), "x")


def test_a_value_that_stands_in_no_text_is_converted_too():
    assert convert_value(Size, YamlDocument("", [8, 8, 4]), (), "x") == (8, 8, 4)
    with pytest.raises(InputValueError, match=r"^x must be an integer, got None$"):
        convert_value(int, YamlDocument("", None), (), "x")


def test_settings_are_found_by_their_dotted_names_in_both_spellings():
    leaves = {"a": int, "s.b": int, "s.c": int}
    document = parse_document("s:\n  c: 1\ns.b: 2\na: 3\n", "")
    assert list(flatten(document, leaves).items()) == [("s.c", ("s", "c")), ("s.b", ("s.b",)), ("a", ("a",))]
    with pytest.raises(InputValueError, match=r"^mine, line 1: a must be left out: it was no good$"):
        flatten(parse_document("a: 3", "mine"), {"b": int}, {"a": "it was no good"})


def test_a_near_name_is_suggested():
    assert suggest("trian", RunConfig.__dataclass_fields__) == ", got trian (did you mean train?)"
    assert suggest("xyz", ["train"]) == ", got xyz"
