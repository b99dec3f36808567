"""The notebooks: their form, and what a person sees when they run on a small phantom."""

import ast
import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vesuvius_kit import console
from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.inference.results import note_pipeline
from vesuvius_kit.inference.submission import validate_submission
from vesuvius_kit.kaggle import execute, session
from vesuvius_kit.kaggle.notebooks import build_notebook, write_notebooks
from vesuvius_kit.kaggle.rehearse import FIGURES, check_saved
from vesuvius_kit.postprocess.pipeline import choose_pipeline

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = ("explore", "submit", "train")
ALL_NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
TINY = {
    "train.num_epochs": 2,
    "train.steps_per_epoch": 2,
    "train.validation_patches": 2,
    "train.score_every_epochs": 2,
    "patches.size": [32, 32, 32],
    "predict.window": [48, 48, 48],
    "model.options": {"initial_filters": 8, "depth": 1},
}


@pytest.mark.parametrize("name", ALL_NAMES)
def test_regenerating_changes_no_byte(name, tmp_path):
    (tmp_path / f"{name}.py").write_bytes((NOTEBOOKS / f"{name}.py").read_bytes())
    (written,) = write_notebooks(tmp_path)
    assert written.read_bytes() == (NOTEBOOKS / f"{name}.ipynb").read_bytes(), (
        "run: python -c \"from vesuvius_kit.kaggle.notebooks import write_notebooks; write_notebooks('notebooks')\""
    )


def test_every_source_has_a_notebook_and_every_notebook_a_source():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == ALL_NAMES
    assert set(NAMES) <= set(ALL_NAMES)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_notebook_is_thin_and_clean(name):
    import nbformat

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 3 <= len(code) <= 8
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, defined)], cell.source
    # Text before every piece of code, and nothing without a word of explanation.
    for before, cell in zip(notebook.cells, notebook.cells[1:]):
        assert cell.cell_type == "markdown" or before.cell_type == "markdown"


def test_the_first_code_is_the_same_everywhere_but_for_the_clock():
    def first_cell(name):
        cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
        source = "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])
        return [line for line in source.splitlines() if line and "time" not in line]

    assert first_cell("train") == first_cell("submit") == first_cell("explore")


def test_percent_format_becomes_cells():
    notebook = json.loads(
        build_notebook("# dropped\n\n# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 1\n\n\nb = 2\n", "n")
    )
    assert [(cell["cell_type"], cell["id"], "".join(cell["source"])) for cell in notebook["cells"]] == [
        ("markdown", "n-1", "# Title\n\ntext"),
        ("code", "n-2", "a = 1\n\n\nb = 2"),
    ]


@pytest.mark.parametrize(
    ("source", "message"), [("a = 1\n", "at least one cell"), ("# %% [markdown]\nbare\n", "n line 2: 'bare'")]
)
def test_a_source_that_is_not_in_percent_format_is_refused(source, message):
    with pytest.raises(InputValueError, match=message):
        build_notebook(source, "n")


def test_a_folder_without_sources_is_refused(tmp_path):
    with pytest.raises(InputValueError, match=r"at least one \.py"):
        write_notebooks(tmp_path)


def run_notebook(path, saved, folder, **variables):
    """Run a notebook as a person at home would, in a process of its own; exit code and standard error."""
    hidden = ("KAGGLE", "VESUVIUS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        [sys.executable, "-P", execute.__file__, str(path), str(saved), "250"],
        cwd=folder,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""} | variables,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The three notebooks, run one after the other in an empty folder: the first makes a phantom, submit uses train's model."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("train", "submit", "explore"):
        settings = {"VESUVIUS_KIT_SETTINGS": json.dumps(TINY)} if name == "train" else {}
        code, error = run_notebook(NOTEBOOKS / f"{name}.ipynb", folder / f"{name}.ipynb", folder, **settings)
        assert code == 0, error
    return folder


def text_of(path):
    outputs = [out for cell in json.loads(path.read_text())["cells"] for out in cell.get("outputs", [])]
    return "".join("".join(out["text"]) for out in outputs if out["output_type"] == "stream")


def pictures_of(path):
    outputs = [out for cell in json.loads(path.read_text())["cells"] for out in cell.get("outputs", [])]
    encoded = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")) for picture in encoded]


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_notebook_is_complete_short_and_quiet(name, executed):
    assert check_saved(executed / f"{name}.ipynb", len(FIGURES[name])) == []
    assert len(text_of(executed / f"{name}.ipynb").splitlines()) < 100


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_show_something(name, executed):
    pictures = pictures_of(executed / f"{name}.ipynb")
    assert len(pictures) == len(FIGURES[name])
    for pixels in pictures:
        assert min(pixels.shape[:2]) > 250
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
        grey = pixels.min(axis=2) == pixels.max(axis=2)
        assert 0.001 < (~grey).mean() < 0.9, "lines or painted voxels, neither none nor all"


def test_the_train_notebook_tells_what_it_found_and_leaves_a_model(executed):
    text = text_of(executed / "train.ipynb")
    for part in (
        "a small phantom, made here",
        "4 pairs on disk",
        "unlabelled",
        "epoch 1: loss",
        "Verdict:",
        "held out: score",
    ):
        assert part in text, part
    assert (executed / "checkpoints" / "fold_0" / "best" / "checkpoint.safetensors").is_file()
    page = (executed / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{section}"' in page for section in ("training", "scores", "slices", "errors"))
    log = (executed / "checkpoints" / "fold_0" / "log.jsonl").read_text()
    assert len(log.splitlines()) == TINY["train.num_epochs"]


def test_the_submit_notebook_leaves_a_valid_archive_of_the_trained_model(executed):
    text = text_of(executed / "submit.ipynb")
    assert "1 predicted, 0 with a simple mask" in text
    assert "valid, 1 masks" in text
    assert "models:      checkpoints" in text
    assert "a small network is trained" not in text
    assert validate_submission(executed / "submission.zip", executed / "phantom" / "test_images") == 1
    settings = json.loads((executed / "submission_masks" / "settings.json").read_text())
    assert settings["postprocess"] == note_pipeline(choose_pipeline()), "the default of the kit"


def test_the_explore_notebook_counts_what_is_there(executed):
    text = text_of(executed / "explore.ipynb")
    assert "4 pairs on disk" in text
    header = next(line for line in text.splitlines() if "thickness" in line)
    assert header.split()[:4] == ["scroll", "volumes", "background", "surface"]


def test_a_failing_cell_is_named_and_the_notebook_saved(tmp_path):
    source = "# %% [markdown]\n# text\n\n# %%\nprint('before')\n\n# %%\nraise ValueError('the sheet is torn')\n"
    (tmp_path / "bad.ipynb").write_text(build_notebook(source, "bad"))
    code, error = run_notebook(tmp_path / "bad.ipynb", tmp_path / "saved.ipynb", tmp_path)
    assert code == 1
    assert error.startswith("ValueError: the sheet is torn")
    assert text_of(tmp_path / "saved.ipynb") == "before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.ipynb", "saved.ipynb"], "sockets were left"


@pytest.mark.long
def test_two_processes_train_from_a_notebook(tmp_path):
    code, error = run_notebook(
        NOTEBOOKS / "train.ipynb",
        tmp_path / "saved.ipynb",
        tmp_path,
        VESUVIUS_KIT_PROCESSES="2",
        VESUVIUS_KIT_SETTINGS=json.dumps(TINY | {"train.precision": "fp32"}),
    )
    assert code == 0, error
    assert "Launching" in text_of(tmp_path / "saved.ipynb")
    assert check_saved(tmp_path / "saved.ipynb", len(FIGURES["train"])) == []
    assert len((tmp_path / "checkpoints" / "fold_0" / "log.jsonl").read_text().splitlines()) == 2


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty folder, with no variable of Kaggle's set."""
    monkeypatch.chdir(tmp_path)
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN", session.PROCESSES_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VESUVIUS_KIT_INPUT", str(tmp_path))
    return tmp_path


def test_on_kaggle_nothing_is_made_up(nowhere, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    with pytest.raises(InputNotFoundError, match="competition"):
        session.open_session()
    here = session.Session(nowhere, nowhere, False, 1, "cpu_demo")
    with pytest.raises(InputNotFoundError, match="model"):
        session.find_or_train_models(here)
    assert list(nowhere.iterdir()) == []


def test_the_next_session_goes_on_where_the_last_ended(nowhere):
    assert session.find_earlier_checkpoint(0) is None
    last = nowhere / "notebooks" / "someone" / "vesuvius-kit-train" / "checkpoints" / "fold_0" / "last"
    last.mkdir(parents=True)
    assert session.find_earlier_checkpoint(0) == last
    assert session.find_earlier_checkpoint(1) is None


def test_the_rerun_is_told(nowhere, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert "hidden rerun" in session.Session(nowhere, nowhere, False, 1, "cpu_demo").to_text()


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_a_bad_number_of_processes_is_refused(nowhere, monkeypatch, value):
    monkeypatch.setenv(session.PROCESSES_VARIABLE, value)
    with pytest.raises(InputError, match="at least 1"):
        session.open_session()


@pytest.fixture
def in_notebook(monkeypatch):
    monkeypatch.setattr(console, "_in_notebook", lambda: True)
    monkeypatch.setattr(console, "_NOTEBOOK_SECONDS", 0.0)


@pytest.mark.parametrize("total", [1, 3, 10, 999, 12_345])
def test_a_loop_in_a_notebook_prints_a_few_whole_lines(in_notebook, capsys, total):
    assert list(console.show_progress(range(total), desc="work")) == list(range(total))
    out, err = capsys.readouterr()
    assert err == ""
    assert 1 <= len(out.splitlines()) <= 12
    assert "\r" not in out
    assert out.splitlines()[-1].startswith(f"work: {total}, ")


def test_a_loop_within_a_loop_is_silent_and_an_interrupted_one_forgotten(in_notebook, capsys):
    for _ in console.show_progress(range(3), desc="outer"):
        list(console.show_progress(range(500), desc="inner"))
    assert "inner" not in capsys.readouterr().out
    for number in console.show_progress(range(9), desc="broken"):
        if number == 2:
            break
    list(console.show_progress(iter("abc"), desc="next"))
    assert "next: 3, " in capsys.readouterr().out
