"""The kernels' metadata: one table, the files in the repository, and every rule that Kaggle leaves to a hint."""

import json
from pathlib import Path

import pytest

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.kaggle import metadata
from vesuvius_kit.kaggle.metadata import KERNELS, PLACEHOLDER_OWNER, check_metadata, kernel_metadata, write_kernels

KERNELS_FOLDER = Path(__file__).parents[2] / "kernels"


@pytest.fixture
def folder(tmp_path):
    """A kernels/submit folder beside a notebook, as in the repository."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    for name in KERNELS:
        (notebooks / f"{name}.ipynb").write_text('{"cells": []}')
    (tmp_path / "kernels" / "submit").mkdir(parents=True)
    return tmp_path / "kernels" / "submit"


def test_regenerating_the_repositorys_files_changes_no_byte(tmp_path):
    written = write_kernels(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        f"{name}/kernel-metadata.json" for name in ("train", "submit", "explore")
    ]
    for path in written:
        assert path.read_bytes() == (KERNELS_FOLDER / path.relative_to(tmp_path)).read_bytes()
    assert sorted(path.name for path in KERNELS_FOLDER.iterdir()) == sorted(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_the_repositorys_files_break_no_rule(name):
    content = json.loads((KERNELS_FOLDER / name / "kernel-metadata.json").read_text())
    assert check_metadata(content, KERNELS_FOLDER / name, allow_placeholder=True) == []
    assert any("OWNER" in problem for problem in check_metadata(content, KERNELS_FOLDER / name))


@pytest.mark.parametrize("name", KERNELS)
def test_what_every_kernel_says(name):
    content = kernel_metadata(name, "some_body")
    assert content["id"] == f"some_body/vesuvius-kit-{name}"
    assert content["code_file"] == f"../../notebooks/{name}.ipynb"
    assert content["competition_sources"] == ["vesuvius-challenge-surface-detection"]
    assert content["dataset_sources"][0] == "some_body/vesuvius-kit-bundle"
    assert content["is_private"] is True
    assert content["enable_internet"] is False
    assert content["enable_gpu"] is (name != "explore")
    assert content["machine_shape"] == ("" if name == "explore" else "NvidiaTeslaT4")
    assert PLACEHOLDER_OWNER not in json.dumps(content)


def test_the_models_come_from_a_data_set_or_from_the_train_kernel():
    from_dataset, from_train = kernel_metadata("submit", "me"), kernel_metadata("submit", "me", models_from="train")
    assert from_dataset["dataset_sources"] == ["me/vesuvius-kit-bundle", "me/vesuvius-kit-models"]
    assert from_dataset["kernel_sources"] == []
    assert from_train["dataset_sources"] == ["me/vesuvius-kit-bundle"]
    assert from_train["kernel_sources"] == ["me/vesuvius-kit-train"]
    assert kernel_metadata("train", "me", models_from="train") == kernel_metadata("train", "me")


def test_our_slug_rule_is_that_of_kaggles_client():
    slugify = pytest.importorskip("slugify").slugify
    for title in [kernel.title for kernel in KERNELS.values()] + ["A  b_c: 3-D (v2)!", "--x--"]:
        assert metadata._slug_of(title) == slugify(title)


def test_the_keys_are_those_that_kaggles_client_reads(folder):
    # Every key it knows is accepted, so that "unknown" means unknown to it.
    content = {**kernel_metadata("submit", "me"), "id_no": 7, "docker_image": "some/image"}
    assert check_metadata(content, folder) == []


BROKEN = [
    ({"enable_intrenet": False}, "enable_intrenet is unknown to Kaggle and would be ignored"),
    ({"id": "me/abcd", "title": "abcd"}, "at least 5 characters, got 'abcd'"),
    ({"id": "vesuvius-kit-submit"}, "id must be owner/slug"),
    ({"id": "me/vesuvius-kit-submit/3"}, "id must be owner/slug"),
    ({"id": "Me/vesuvius-kit-submit"}, "id must be owner/slug in lower case"),
    ({"title": "Vesuvius kit: submission"}, "title must have the slug of the id, 'vesuvius-kit-submit'"),
    ({"title": "Vesuvius kit sübmit"}, "title must be plain ASCII"),
    ({"title": "abcd", "id": "me/abcd"}, "title must have 5 to 50 characters, got 4"),
    ({"title": "a" * 51, "id": "me/" + "a" * 51}, "title must have 5 to 50 characters, got 51"),
    ({"code_file": "../../notebooks/nothing.ipynb"}, "code_file must exist"),
    ({"code_file": ""}, "code_file must exist"),
    ({"code_file": "../../notebooks"}, "code_file must exist"),
    ({"language": "julia"}, "language must be one of"),
    ({"kernel_type": "notebok"}, "kernel_type must be one of"),
    ({"docker_image_pinning_type": "newest"}, "docker_image_pinning_type must be one of"),
    ({"machine_shape": "NvidiaTeslaP100"}, "machine_shape must be one of"),
    ({"machine_shape": ""}, "machine_shape must go with enable_gpu"),
    ({"enable_gpu": False}, "machine_shape must go with enable_gpu"),
    ({"enable_tpu": True}, "must not both be true"),
    ({"enable_internet": True}, "enable_internet must be false"),
    ({"enable_internet": "no"}, "enable_internet must be true or false, got 'no'"),
    ({"is_private": "true"}, "is_private must be true or false"),
    ({"title": 3}, "title must be a text"),
    ({"dataset_sources": "me/vesuvius-kit-bundle"}, "dataset_sources must be a list of texts"),
    ({"dataset_sources": [7]}, "dataset_sources must be a list of texts"),
    ({"dataset_sources": ["vesuvius-kit-bundle"]}, "dataset_sources must hold owner/slug"),
    ({"dataset_sources": ["me/kit"]}, "dataset_sources must hold slugs of at least 6 characters"),
    ({"dataset_sources": ["me/kit-bundle"] * 2}, "dataset_sources must hold each source once"),
    ({"competition_sources": ["kaggle/vesuvius"]}, "competition_sources must hold a competition's slug"),
    ({"kernel_sources": ["me/abcd"]}, "kernel_sources must hold slugs of at least 5 characters"),
    ({"kernel_sources": ["me/train kernel"]}, "kernel_sources must hold owner/slug"),
    ({"model_sources": ["me/surface"]}, "model_sources must hold owner/model/framework/variation/version"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_each_broken_rule_is_said(folder, change, words):
    content = kernel_metadata("submit", "me")
    assert check_metadata(content, folder) == []
    problems = check_metadata({**content, **change}, folder)
    assert any(words in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    "key", ["id", "title", "code_file", "language", "kernel_type", "is_private", "enable_internet"]
)
def test_a_missing_key_is_said(folder, key):
    content = kernel_metadata("submit", "me")
    del content[key]
    assert check_metadata(content, folder) == [f"{key} must be given"]


@pytest.mark.parametrize("text", ["print(1)", '{"cels": []}', "[]"])
def test_a_code_file_that_is_no_notebook_is_said(folder, text):
    (folder / "../../notebooks/submit.ipynb").resolve().write_text(text)
    (problem,) = check_metadata(kernel_metadata("submit", "me"), folder)
    assert problem.startswith("code_file must be a notebook")


def test_sources_with_a_version_and_a_model_are_taken(folder):
    content = {
        **kernel_metadata("submit", "me"),
        "dataset_sources": ["me/vesuvius-kit-bundle/3"],
        "kernel_sources": ["me/vesuvius-kit-train/12"],
        "model_sources": ["me/surface/PyTorch/default/1"],
    }
    assert check_metadata(content, folder) == []


def test_what_is_no_mapping_is_said(folder):
    assert check_metadata([1], folder) == ["metadata must be a mapping, got list"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sumbit", "me"), "kernel must be one of explore, submit, train, got 'sumbit'"),
        (("submit", "Some Body"), "owner must be a user name in lower case"),
        (("submit", ""), "owner must be a user name in lower case"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(InputValueError, match=words):
        kernel_metadata(*arguments)


def test_an_unknown_origin_of_models_is_refused():
    with pytest.raises(InputValueError, match="models_from must be one of dataset, train"):
        kernel_metadata("submit", "me", models_from="model")
