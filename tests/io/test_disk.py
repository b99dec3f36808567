"""What the disk refuses becomes one line that names the path, before the work where it can be known (C1, C2, C3)."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.competitions import write_small_competition
from helpers.strangers import run_as_stranger

from vesuvius_kit.checks import InputNotFoundError, InputOSError, check_output_file, make_scratch_folder
from vesuvius_kit.config import RunConfig, config_to_dict
from vesuvius_kit.models import create_model
from vesuvius_kit.models.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    write_small_competition(folder / "data", train_shapes=((16, 16, 16),) * 4, test_shapes=((16, 20, 24), (16, 16, 16)))
    config = config_to_dict(RunConfig())
    config["predict"] |= {"window": [16, 16, 16], "precision": "fp32", "device": "cpu"}
    model = create_model("unet3d", initial_filters=2, depth=1)
    save_checkpoint(folder / "run" / "fold_0" / "best", model, {"config": config})
    (folder / "probabilities").mkdir()
    for name in ("1", "2"):
        np.save(folder / "probabilities" / f"{name}.npy", np.full((16, 16, 16), 0.2, np.float16))
    line = {"epoch": 0, "train": {"loss": 0.5}, "validation": {"loss": 0.5}, "rate": 1e-3, "seconds": 1.0}
    (folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def test_every_command_names_an_output_that_cannot_be_written(work, tmp_path):
    """C1, C2: tracebacks on a read-only mount, on a folder where a file must be, on a file where a folder must be."""
    for name in ("read_only", "folder", "free"):
        (work / name).mkdir()
    (work / "file").write_text("mine\n")
    (work / "read_only").chmod(0o555)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    # The only other place where the commands could leave something.
    (work / "free").chmod(0o777)
    command = [ROOT / "tests" / "helpers" / "outputs_refused.py", work]
    # Kaggle's own library wants a home as soon as it is imported.
    done = run_as_stranger(command, package=ROOT, temporary=temporary, home=temporary, cwd=temporary, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == 51
    for case in said:
        last = case["log"].splitlines()[-1]
        assert case["code"] == 2, case
        assert "Traceback" not in case["log"], case
        assert last.startswith("vesuvius-kit: "), case
        # The output itself, or the file that is in its way.
        assert case["bad"] in last or re.search(rf"{work / 'file'}(:|$)", last), case
    assert list((work / "read_only").iterdir()) == list((work / "folder").iterdir()) == []
    assert (work / "file").read_text() == "mine\n"
    assert [path for path in (work / "free").rglob("*") if path.is_file() and path.suffix != ".json"] == []


def run_with_small_files(command, kilobytes, cwd):
    """Run a command that can write no file beyond a size, as on a disk that is full."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes,) * 2)

    # What measures coverage would want to write a file of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, "-m", "vesuvius_kit", *map(str, command)],
        cwd=cwd, capture_output=True, text=True, preexec_fn=limit, env={**environment, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "kilobytes", "named", "left"),
    [
        (["predict", "--output", "p"], 4, r"cannot write p/90\d.npy: ", ["p", "p/settings.json"]),
        pytest.param(
            ["submit", "--output", "s.zip"],
            1,
            # The empty mask, before the archive that is to hold it.
            r"cannot write (s|.*blank\.tif)",
            ["s_masks", "s_masks/settings.json"],
            marks=pytest.mark.long,
        ),
    ],
    ids=["predict", "submit"],
)
def test_a_disk_that_is_full_amid_the_work_leaves_nothing_half_written(work, tmp_path, command, kilobytes, named, left):
    """C3: the words for a full disk, with what is done kept and nothing half-written."""
    command = [*command, "--images", work / "data" / "test_images", "--checkpoints", work / "run"]
    command += ["--predict.precision", "fp32", "--predict.device", "cpu"]
    if command[0] == "submit":
        # Masks of noise, larger than the limit.
        command += ["--postprocess.pipeline", "raw"]
    done = run_with_small_files(command, kilobytes, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(rf"^vesuvius-kit: {named}", done.stderr, re.MULTILINE), done.stderr
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name != ".lock"}
    assert sorted(found) == left


@pytest.mark.parametrize("reader", ["true", "head -1"])
def test_output_that_nobody_reads_is_no_error(work, tmp_path, reader):
    """C1: a closed pipe; what a command writes into files is written all the same, and its exit code stays."""
    line = f"{sys.executable} -m vesuvius_kit audit --data {work / 'data'} --json audit.json 2>&1 | {reader}; "
    shell = ["bash", "-c", line + 'echo "code ${PIPESTATUS[0]}"']
    done = subprocess.run(
        shell, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert "code 0" in done.stdout
    assert done.stderr == ""
    assert json.loads((tmp_path / "audit.json").read_text())["errors"] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_on_a_full_disk_is_an_error(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vesuvius_kit", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "vesuvius-kit: standard output: No space left on device\n"


def test_an_output_file_is_tried_without_leaving_anything(tmp_path):
    assert check_output_file("--json", str(tmp_path / "x.json")) == tmp_path / "x.json"
    (tmp_path / "old").write_text("old")
    check_output_file("--json", tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"
    with pytest.raises(InputOSError, match="--json must be a file, got the folder"):
        check_output_file("--json", tmp_path)
    for path in (tmp_path / "no" / "x", tmp_path / "old" / "x"):
        with pytest.raises(InputNotFoundError, match=r"the folder of .* must exist"):
            check_output_file("--json", path)


def test_without_a_temporary_folder_the_message_says_what_to_set(tmp_path, monkeypatch):
    with make_scratch_folder() as folder:
        (folder / "x").write_text("x")
    assert not folder.exists()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(InputOSError, match=r"TMPDIR may name another place"), make_scratch_folder():
        pass
