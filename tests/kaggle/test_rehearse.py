"""The rehearsal of a Kaggle session: what it builds, what it notices, and, in the long test, the whole of it."""

import json
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.kaggle import rehearse as module
from vesuvius_kit.kaggle.paths import COMPETITION_SLUG, find_competition, find_models
from vesuvius_kit.kaggle.rehearse import Rehearsal, Run, check_saved, rehearse

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def test_the_plan_shows_every_notebook_in_both_run_types_and_the_rerun():
    shown = {pair for plan in module.PLAN.values() for pair in plan}
    assert {(name, kind) for name in module.FIGURES for kind in ("interactive", "batch")} <= shown
    for plan in module.PLAN.values():
        assert ("submit", "rerun") in plan
        assert plan[0][0] == "train", "submit needs a model"


def test_the_image_lacks_the_kit_and_what_kaggle_lacks(tmp_path):
    module._make_image(tmp_path / "image", {"vesuvius-kit", "timm-3d", "jsonargparse", "imagecodecs"})
    names = {entry.name for entry in (tmp_path / "image").iterdir()}
    assert {"torch", "numpy", "timm", "pip", "ipykernel"} <= names
    for missing in ("timm_3d", "jsonargparse", "imagecodecs", "vesuvius_kit"):
        assert not [name for name in names if name.startswith(missing)]
    assert not [name for name in names if name.endswith(".pth")]


@pytest.mark.parametrize("layout", module.LAYOUTS)
def test_inputs_lie_where_kaggle_mounts_them(tmp_path, layout):
    for part in ("visible", "hidden"):
        images = tmp_path / "data" / part / "test_images"
        images.mkdir(parents=True)
        (images.parent / "test.csv").write_text("id,scroll_id\n")
        (images / f"{part}.tif").touch()
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "install.py").touch()
    with zipfile.ZipFile(tmp_path / "bundle" / "kit-1-py3-none-any.whl", "w") as archive:
        archive.writestr("kit/__init__.py", "")
    checkpoint = tmp_path / "left" / "checkpoints" / "fold_0" / "best" / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    for run_type, part in (("batch", "visible"), ("rerun", "hidden")):
        kaggle = tmp_path / run_type / "kaggle"
        module._mount_inputs(tmp_path, kaggle, layout, run_type, tmp_path / "left")
        found = find_competition(roots=[kaggle / "input"])
        parent = {"old": kaggle / "input", "new": kaggle / "input" / "competitions"}[layout]
        assert found == parent / COMPETITION_SLUG
        assert [path.stem for path in (found / "test_images").iterdir()] == [part]
        (models,) = find_models(roots=[kaggle / "input"])
        assert (models / "fold_0" / "best" / "checkpoint.safetensors").is_file()
        place = {"old": "vesuvius-kit-bundle", "new": "datasets/someone/vesuvius-kit-bundle"}[layout]
        assert (kaggle / "input" / place / "install.py").is_file()
        wheel = kaggle / "input" / place / "kit-1-py3-none-any.whl"
        assert wheel.is_file() == (layout == "old")
        assert (wheel.with_suffix("") / "kit" / "__init__.py").is_file() == (layout == "new")


@pytest.mark.parametrize("layout", module.LAYOUTS)
def test_weights_of_nnunet_are_mounted_as_a_push_would_send_them(tmp_path, layout):
    from tests.helpers.nnunet_folders import write_nnunet_folder

    (tmp_path / "data" / "visible" / "test_images").mkdir(parents=True)
    (tmp_path / "bundle").mkdir()
    weights = module._copy_weights([write_nnunet_folder(tmp_path / "results", folds=(0, 1))], tmp_path)
    module._mount_inputs(tmp_path, tmp_path / "kaggle", layout, "batch", None, weights)
    (models,) = find_models(roots=[tmp_path / "kaggle" / "input"])
    place = {"old": "vesuvius-kit-models", "new": "datasets/someone/vesuvius-kit-models"}[layout]
    assert models == tmp_path / "kaggle" / "input" / place / "results"
    assert not list((tmp_path / "kaggle" / "input").rglob("*.pth"))


def test_a_session_sees_kaggles_variables_and_none_of_ours(tmp_path, monkeypatch):
    for name in ("KAGGLE_KEY", "VESUVIUS_KIT_SETTINGS", "PYTHONPATH", "VIRTUAL_ENV", "KAGGLE_IS_COMPETITION_RERUN"):
        monkeypatch.setenv(name, "ours")
    for run_type, kind in (("interactive", "Interactive"), ("batch", "Batch"), ("rerun", "Batch")):
        seen = module._environment(tmp_path, run_type, True, 600)
        assert "ours" not in seen.values()
        assert seen["KAGGLE_KERNEL_RUN_TYPE"] == kind
        assert ("KAGGLE_IS_COMPETITION_RERUN" in seen) == (run_type == "rerun")
        assert "VESUVIUS_KIT_INPUT" not in seen, "it must find /kaggle/input by itself"
    assert module._environment(tmp_path, "batch", False, 600)["VESUVIUS_KIT_INPUT"].endswith("kaggle/input")
    assert os.environ["KAGGLE_KEY"] == "ours"


def saved(path, **changes):
    """A saved notebook of one cell that printed a line and showed a picture, with changes."""
    text = {"output_type": "stream", "name": "stdout", "text": ["all is well\n"]}
    picture = {"output_type": "display_data", "data": {"image/png": "aaaa"}, "metadata": {}}
    cell = {
        "cell_type": "code",
        "id": "cell-1",
        "source": [],
        "execution_count": 1,
        "outputs": [text, picture],
    } | changes
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": []}, cell]}))
    return path


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": [text]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"execution_count": None}, "cell-1 did not run"),
        ({"outputs": []}, "must show 1 pictures, got 0"),
        (
            {"outputs": [stream("Traceback ...\nKeyError: 3\n", "stderr")]},
            "standard error must be empty, got KeyError: 3",
        ),
        ({"outputs": [stream("one more\n" * 201)]}, "at most 200 lines of text, got 201"),
        ({"outputs": [stream("\r 5%" * 300)]}, "at most 200 lines of text, got 300"),
        ({"outputs": [stream(module._SECRET)]}, "a secret"),
    ],
)
def test_each_fault_of_a_saved_notebook_is_noticed(tmp_path, changes, problem):
    assert check_saved(saved(tmp_path / "good.ipynb"), 1) == []
    assert any(problem in line for line in check_saved(saved(tmp_path / "bad.ipynb", **changes), 1))


def test_what_a_run_did_not_leave_is_noticed(tmp_path):
    for name in module.FIGURES:
        (tmp_path / name / "kaggle" / "working").mkdir(parents=True)
        saved(tmp_path / name / "saved.ipynb")
        problems = "\n".join(module.check_run(tmp_path / name, name))
        for figure in module.FIGURES[name]:
            assert f"{figure} is missing" in problems
    assert "checkpoint must be" in "\n".join(module.check_run(tmp_path / "train", "train"))
    assert "competition" in "\n".join(module.check_run(tmp_path / "submit", "submit"))


def test_the_table_says_what_failed_and_whether_the_network_was_there(tmp_path):
    good = Run("train", "old", "batch", 12.3, 4_500_000, [], tmp_path)
    bad = Run("submit", "new", "rerun", 1.0, 0, ["ValueError: the sheet is torn"], tmp_path)
    assert Rehearsal([good], True).ok
    result = Rehearsal([good, bad], False)
    assert not result.ok
    text = result.to_text()
    assert "submit, new, rerun: ValueError: the sheet is torn" in text
    assert "THE NETWORK WAS THERE" in text
    assert [line.split()[-1] for line in text.splitlines()[2:4]] == ["ok", "FAILED"]


def test_foreign_folders_and_missing_notebooks_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / "notebooks").mkdir()
    with pytest.raises(InputNotFoundError, match=r"train\.ipynb"):
        rehearse(tmp_path / "out", notebooks=tmp_path / "notebooks")
    for name in module.FIGURES:
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    with pytest.raises(InputValueError, match="an earlier rehearsal"):
        rehearse(tmp_path / "mine", notebooks=tmp_path / "notebooks")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(InputValueError, match="layout"):
        rehearse(tmp_path / "out", layout="newest", notebooks=tmp_path / "notebooks")


def test_an_earlier_rehearsal_is_replaced(tmp_path):
    module._clear(tmp_path / "out")
    (tmp_path / "out" / "old").mkdir()
    module._clear(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".rehearsal"]


def make_empty_kaggle(_folder, kaggle, *_):
    for name in ("input", "working"):
        (kaggle / name).mkdir(parents=True)


@pytest.mark.parametrize("isolated", [True, False])
def test_a_failing_cell_is_shown_and_the_exit_code_is_1(tmp_path, monkeypatch, capsys, isolated):
    """A whole rehearsal of notebooks that fail at once; without data and bundle, which have tests of their own."""
    if isolated and not module._can_isolate(tmp_path / "try"):
        pytest.skip("namespaces are not permitted here")
    from vesuvius_kit.kaggle.notebooks import build_notebook

    # The driver is tested as it is: namespaces, environment, kernel, table.
    look = "import os\nprint(sorted(os.listdir('/proc/sys/net/ipv4/conf')), os.listdir('/kaggle/input'), os.getcwd())\n"
    write = "open('/kaggle/input/mine', 'w')\n"
    source = f"# %%\n{look if isolated else ''}\n# %%\n{write if isolated else 'raise ValueError(3)'}"
    (tmp_path / "notebooks").mkdir()
    for name in module.FIGURES:
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(build_notebook(source, name))
    monkeypatch.setattr(module, "build_bundle", lambda folder, checkout: type("Manifest", (), {"files": ()}))
    monkeypatch.setattr(module, "_make_data", lambda folder: None)
    monkeypatch.setattr(module, "_mount_inputs", make_empty_kaggle)
    monkeypatch.setitem(module.PLAN, "old", (("train", "batch"),))
    if not isolated:
        monkeypatch.setattr(module, "_can_isolate", lambda folder: False)
    out = tmp_path / "out"
    code = main(["rehearse", "--notebooks", str(tmp_path / "notebooks"), "--output", str(out), "--layout", "old"])
    printed = capsys.readouterr().out
    assert code == 1, printed
    assert "FAILED" in printed
    if isolated:
        assert "train, old, batch: OSError: [Errno 30] Read-only file system: '/kaggle/input/mine'" in printed
        (cell, _) = json.loads((out / "old_train_batch" / "saved.ipynb").read_text())["cells"]
        assert "".join(cell["outputs"][0]["text"]) == "['all', 'default', 'lo'] [] /kaggle/working\n"
    else:
        assert "train, old, batch: ValueError: 3" in printed
        assert "THE NETWORK WAS THERE" in printed


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_the_whole_rehearsal_in_both_layouts(tmp_path, capsys):
    code = main(["rehearse", "--output", str(tmp_path / "rehearsal"), "--notebooks", str(NOTEBOOKS)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    rows = [line.split() for line in printed.splitlines() if line.endswith(" ok")]
    assert len(rows) == sum(len(plan) for plan in module.PLAN.values())
    for name, layout, run_type, *_ in rows:
        place = tmp_path / "rehearsal" / f"{layout}_{name}_{run_type}"
        text = (place / "saved.ipynb").read_text()
        (said,) = set(re.findall(r'session: +Kaggle, ([^"\\]*)', text))
        assert said.endswith(", hidden rerun") == (run_type == "rerun"), said
        if name == "submit":
            assert f"{2 if run_type == 'rerun' else 1} predicted, 0 with a simple mask" in text
