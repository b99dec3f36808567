"""Finding what Kaggle mounted: both layouts, at home, and what is said when nothing is there."""

import json
import logging
import os

import pytest

from vesuvius_kit.checks import InputNotFoundError, InputTypeError, InputValueError
from vesuvius_kit.kaggle import paths

SLUG = paths.COMPETITION_SLUG
# Where each thing is mounted in the older and in the newer layout.
LAYOUTS = {
    "old": {
        "competition": SLUG,
        "bundle": "vesuvius-kit-bundle",
        "dataset": "vesuvius-kit-models",
        "model": "surface/pytorch/default/1",
        "notebook": "vesuvius-kit-train",
    },
    "new": {
        "competition": f"competitions/{SLUG}",
        "bundle": "datasets/somebody/vesuvius-kit-bundle",
        "dataset": "datasets/somebody/vesuvius-kit-models",
        "model": "models/somebody/surface/pytorch/default/1",
        "notebook": "notebooks/somebody/vesuvius-kit-train",
    },
}


@pytest.fixture(autouse=True)
def _no_kaggle_around(monkeypatch):
    for name in (paths.INPUT_VARIABLE, "KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=LAYOUTS)
def mounts(request, tmp_path):
    """A root with a competition, a bundle and three runs, in one of the layouts, and where each is."""
    places = {name: tmp_path / "input" / place for name, place in LAYOUTS[request.param].items()}
    make_competition(places["competition"])
    make_bundle(places["bundle"])
    make_run(places["dataset"])
    make_run(places["model"] / "run")
    make_run(places["notebook"] / "runs" / "long", fold="fold_1", kind="last")
    return tmp_path / "input", places


def make_competition(folder):
    for name in ("train_images", "test_images"):
        (folder / name).mkdir(parents=True)
    (folder / "test.csv").write_text("id,scroll_id\n")


def make_bundle(folder, kind=paths.BUNDLE_KIND):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"kind": kind}))


def make_run(folder, fold="fold_0", kind="best"):
    (folder / fold / kind).mkdir(parents=True)
    (folder / fold / kind / "checkpoint.safetensors").touch()


def test_everything_is_found_in_both_layouts(mounts):
    root, places = mounts
    assert paths.find_competition(roots=[root]) == places["competition"]
    assert paths.find_bundle(roots=[root]) == places["bundle"]
    assert paths.find_outputs("vesuvius-kit-train", roots=[root]) == places["notebook"]
    runs = [places["dataset"], places["model"] / "run", places["notebook"] / "runs" / "long"]
    assert paths.find_models(roots=[root]) == sorted(runs)


def test_the_environment_variable_replaces_the_root(mounts, monkeypatch, tmp_path):
    root, places = mounts
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(paths.INPUT_VARIABLE, os.pathsep.join([str(tmp_path / "empty"), str(root)]))
    assert paths.input_roots() == [tmp_path / "empty", root]
    assert paths.find_competition() == places["competition"]
    assert len(paths.find_models()) == 3


def test_a_renamed_mount_is_found_by_its_marker(tmp_path):
    make_competition(tmp_path / "somewhere" / "else")
    make_bundle(tmp_path / "datasets" / "me" / "wheels" / "inside")
    assert paths.find_competition(roots=[tmp_path]) == tmp_path / "somewhere" / "else"
    assert paths.find_bundle(roots=[tmp_path]) == tmp_path / "datasets" / "me" / "wheels" / "inside"


def test_a_bundle_with_unpacked_wheels_is_one_bundle(tmp_path):
    make_bundle(tmp_path / "wheels")
    make_bundle(tmp_path / "wheels" / "vesuvius_kit-0.1.0-py3-none-any.whl" / "odd")
    assert paths.find_bundle(roots=[tmp_path]) == tmp_path / "wheels"


def test_other_manifests_are_not_the_bundle(tmp_path):
    make_bundle(tmp_path / "a", kind="something else")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("not json")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "manifest.json").write_text("[1]")
    with pytest.raises(InputNotFoundError):
        paths.find_bundle(roots=[tmp_path])


def test_the_root_itself_may_be_what_is_wanted(tmp_path):
    make_competition(tmp_path / "here")
    make_run(tmp_path / "run")
    assert paths.find_competition(roots=[tmp_path / "here"]) == tmp_path / "here"
    assert paths.find_models(roots=[tmp_path / "run"]) == [tmp_path / "run"]


def test_at_home_the_current_folder_and_its_data_folder_are_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_KAGGLE_INPUT", tmp_path / "absent")
    monkeypatch.chdir(tmp_path)
    make_competition(tmp_path / "data" / SLUG)
    assert [str(root) for root in paths.input_roots()] == [".", "data"]
    assert paths.find_competition().resolve() == tmp_path / "data" / SLUG


def test_kaggles_own_folder_is_the_only_root_where_it_exists(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_KAGGLE_INPUT", tmp_path)
    assert paths.input_roots() == [tmp_path]


def test_the_first_root_wins(tmp_path):
    for name in ("a", "b"):
        make_competition(tmp_path / name / SLUG)
    assert paths.find_competition(roots=[tmp_path / "b", tmp_path / "a"]) == tmp_path / "b" / SLUG


def test_two_in_one_root_are_refused_and_a_link_to_the_same_is_not(tmp_path):
    for owner in ("anna", "bert"):
        make_bundle(tmp_path / "datasets" / owner / paths.BUNDLE_SLUG)
    with pytest.raises(InputValueError, match=r"must be in one place only, got .*anna.*, .*bert"):
        paths.find_bundle(roots=[tmp_path])
    make_competition(tmp_path / "competitions" / SLUG)
    (tmp_path / SLUG).symlink_to(tmp_path / "competitions" / SLUG)
    assert paths.find_competition(roots=[tmp_path]).resolve() == tmp_path / "competitions" / SLUG


def test_the_nearest_wins_a_search(tmp_path):
    make_competition(tmp_path / "near")
    make_competition(tmp_path / "far" / "away")
    assert paths.find_competition(roots=[tmp_path]) == tmp_path / "near"


@pytest.mark.parametrize(
    ("find", "words"),
    [
        (lambda roots: paths.find_competition(roots=roots), f"competitions/{SLUG}"),
        (lambda roots: paths.find_bundle(roots=roots), "datasets/*/vesuvius-kit-bundle"),
        (lambda roots: paths.find_models(roots=roots), "fold_*/best/checkpoint.safetensors"),
        (lambda roots: paths.find_outputs("some-notebook", roots=roots), "notebooks/*/some-notebook"),
    ],
)
def test_nothing_found_is_one_line_that_says_where(tmp_path, find, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputNotFoundError) as caught:
        find([tmp_path / "empty", tmp_path / "absent"])
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert str(tmp_path / "empty") in message
    assert f"{tmp_path / 'absent'} (which is no folder)" in message


def test_no_root_at_all_is_said(tmp_path):
    with pytest.raises(InputNotFoundError, match="looked in no folder at all"):
        paths.find_models(roots=[])


def test_one_path_in_place_of_a_sequence_is_refused(tmp_path):
    with pytest.raises(InputTypeError, match="roots must be a sequence of folders"):
        paths.find_bundle(roots=str(tmp_path))


def test_a_variable_that_names_nothing_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.INPUT_VARIABLE, str(tmp_path / "typo"))
    with pytest.raises(InputNotFoundError, match=f"{paths.INPUT_VARIABLE} must be an existing folder"):
        paths.find_competition()


def test_folders_of_volumes_are_never_read(tmp_path, monkeypatch):
    make_competition(tmp_path / SLUG)
    make_run(tmp_path / SLUG / "train_images" / "odd")
    make_run(tmp_path / ".hidden")
    read = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (read.append(str(folder)), real(folder))[1])
    with pytest.raises(InputNotFoundError):
        paths.find_models(roots=[tmp_path])
    assert set(read) == {str(tmp_path), str(tmp_path / SLUG)}


def test_the_search_is_bounded_in_depth_and_in_number(tmp_path, monkeypatch, caplog):
    (tmp_path / "root").mkdir()
    root = tmp_path / "root"
    make_run(root.joinpath(*"12345678"))  # the last level that is looked at
    assert len(paths.find_models(roots=[root])) == 1
    with pytest.raises(InputNotFoundError, match="8 levels below"):
        paths.find_models(roots=[tmp_path])
    monkeypatch.setattr(paths, "_FOLDERS_READ", 3)
    with caplog.at_level(logging.WARNING), pytest.raises(InputNotFoundError):
        paths.find_models(roots=[root])
    assert "the search stopped after 3" in caplog.text


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (False, False, "local")),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, (True, False, "interactive")),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, (True, False, "batch")),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_IS_COMPETITION_RERUN": "1"}, (True, True, "batch")),
    ],
)
def test_the_kind_of_session(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (paths.is_kaggle(), paths.is_rerun(), paths.run_type()) == expected


def test_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "_KAGGLE_WORKING", tmp_path / "working")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert paths.working_folder() == tmp_path
    (tmp_path / "working").mkdir()
    assert paths.working_folder() == tmp_path / "working"
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    assert paths.working_folder() == tmp_path


def test_results_folders_of_nnunet_are_models(tmp_path):
    from tests.helpers.nnunet_folders import write_nnunet_folder

    root = tmp_path / "input" / "datasets" / "somebody" / "weights"
    folder = write_nnunet_folder(root / "nnUNetTrainer__nnUNetPlans__3d_fullres", folds=(0, 1), name="best")
    assert paths.find_models(roots=[tmp_path / "input"]) == [folder]
    (folder / "dataset.json").unlink()
    with pytest.raises(InputNotFoundError):
        paths.find_models(roots=[tmp_path / "input"])


def test_a_converted_checkpoint_is_a_model(tmp_path):
    from tests.helpers.nnunet_folders import write_nnunet_folder
    from vesuvius_kit.models.weights import convert_weights, find_weights

    # As the README says to send it: the folder that was written, as a data set.
    root = tmp_path / "input" / "datasets" / "somebody" / "surface-m7"
    path = convert_weights(write_nnunet_folder(tmp_path / "nnunet"), root)
    assert paths.find_models(roots=[tmp_path / "input"]) == [root]
    assert find_weights(paths.find_models(roots=[tmp_path / "input"])) == [path]


def test_the_two_checkpoints_of_a_fold_are_no_two_models(tmp_path):
    for kind in ("best", "last"):
        make_run(tmp_path, "alone", kind)
    with pytest.raises(InputNotFoundError):
        paths.find_models(roots=[tmp_path / "alone"])
