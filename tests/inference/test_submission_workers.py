"""Several processes make the archive of one, whatever happens to them."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
import torch
from helpers.competitions import make_pair, public_pipeline
from helpers.prediction_jobs import Faulty, KilledInAVolume, KilledThrice, Spoilt, SpoiltForEver, Stuck

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import PredictConfig, RunConfig, config_to_dict
from vesuvius_kit.inference import jobs, submission
from vesuvius_kit.inference.submission import predict_folder, validate_submission, write_submission
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.models import create_model
from vesuvius_kit.models.checkpoint import save_checkpoint

PREDICT = PredictConfig(window=(16, 16, 16), precision="fp32", device="cpu")
POSTPROCESS = public_pipeline(0.3, 0.5, 1, 1, 2)
SHAPES = {"7": (24, 24, 24), "11": (20, 30, 17), "402": (18, 20, 33), "500": (30, 24, 24), "501": (24, 31, 24)}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Images, a run, and the archive that a single process makes of them."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "images").mkdir()
    for name, shape in SHAPES.items():
        write_volume(folder / "images" / f"{name}.tif", make_pair(shape, int(name))[0])
    model = create_model("unet3d", initial_filters=2, depth=1)
    save_checkpoint(folder / "run" / "fold_0" / "best", model, {"config": config_to_dict(RunConfig())})
    write_submission(folder / "one.zip", folder / "images", [folder / "run"], PREDICT, POSTPROCESS, workers=1)
    return folder


def write_with(work, path, workers=2, **settings):
    return write_submission(path, work / "images", [work / "run"], PREDICT, POSTPROCESS, workers=workers, **settings)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_archive_again_is_the_same_to_the_byte(work, tmp_path):
    write_with(work, tmp_path / "again.zip", workers=1)
    assert digest(tmp_path / "again.zip") == digest(work / "one.zip")


def test_two_processes_make_the_archive_of_one(work, tmp_path):
    summary = write_with(work, tmp_path / "two.zip")
    assert sorted(summary.predicted) == sorted(SHAPES)
    assert digest(tmp_path / "two.zip") == digest(work / "one.zip")


def test_the_number_of_threads_is_the_callers_in_every_process(work, tmp_path):
    # bfloat16 shows at once when sums are taken in another order.
    predict = PredictConfig(window=(16, 16, 16), precision="bf16", device="cpu")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for workers in (1, 2):
            predict_folder(work / "images", [work / "run"], tmp_path / str(workers), predict, workers=workers)
    finally:
        torch.set_num_threads(before)
    for name in SHAPES:
        one, two = (np.load(tmp_path / str(workers) / f"{name}.npy") for workers in (1, 2))
        np.testing.assert_array_equal(one, two)


@pytest.mark.long
def test_several_processes_write_the_probabilities_of_one(work, tmp_path):
    for workers in (1, 2):
        written = predict_folder(work / "images", [work / "run"], tmp_path / str(workers), PREDICT, workers=workers)
        assert [path.stem for path in written] == sorted(SHAPES)
    for name in SHAPES:
        one, two = (np.load(tmp_path / str(workers) / f"{name}.npy") for workers in (1, 2))
        np.testing.assert_array_equal(one, two)


def test_a_process_killed_inside_a_volume_loses_nothing(work, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(submission, "VolumeJob", KilledInAVolume)
    summary = write_with(work, tmp_path / "two.zip")
    assert "signal 9" in caplog.text
    assert summary.simple == []
    assert digest(tmp_path / "two.zip") == digest(work / "one.zip")


def test_a_process_killed_from_outside_loses_nothing(work, tmp_path, caplog):
    def kill_one_after_the_first(iterable, desc, **_):
        for number, item in enumerate(iterable):
            yield item
            if desc == "volumes" and number == 0:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    write_with(work, tmp_path / "two.zip", progress=kill_one_after_the_first)
    assert "signal 9" in caplog.text
    assert digest(tmp_path / "two.zip") == digest(work / "one.zip")


def run_record(path):
    return json.loads((path.with_name(f"{path.stem}_masks") / "run.json").read_text())


@pytest.mark.long
def test_when_all_are_killed_the_archive_is_complete_and_what_is_done_serves_the_next_run(work, tmp_path, monkeypatch):
    # Two processes and the one that takes over: each is killed in the first volume it begins.
    monkeypatch.setattr(submission, "VolumeJob", KilledThrice)
    summary = write_with(work, tmp_path / "two.zip")
    assert sorted(summary.simple) == sorted(SHAPES)
    assert validate_submission(tmp_path / "two.zip", work / "images") == len(SHAPES)
    assert any("every process was killed" in line for line in run_record(tmp_path / "two.zip")["warnings"])
    monkeypatch.undo()
    assert write_with(work, tmp_path / "two.zip").simple == []
    assert digest(tmp_path / "two.zip") == digest(work / "one.zip")


@pytest.mark.long
def test_a_process_that_raises_leaves_a_valid_archive_and_the_rest_is_kept(work, tmp_path, monkeypatch, capsys, caplog):
    command = ["submit", "--images", work / "images", "--checkpoints", work / "run", "--output", tmp_path / "two.zip"]
    command += [
        "--workers",
        "2",
        "--predict.device",
        "cpu",
        "--predict.precision",
        "fp32",
        "--predict.window",
        "[16,16,16]",
    ]
    command += ["--postprocess.pipeline", POSTPROCESS.pipeline, "--postprocess.steps", json.dumps(POSTPROCESS.steps)]
    command = list(map(str, command))
    monkeypatch.setattr(submission, "VolumeJob", Faulty)
    assert main(command) == 0
    assert re.search(r"process \d failed at 402: RuntimeError: something unforeseen", caplog.text)
    assert "402" in run_record(tmp_path / "two.zip")["volumes"]
    assert validate_submission(tmp_path / "two.zip", work / "images") == len(SHAPES)
    monkeypatch.undo()
    assert main(command) == 0
    assert digest(tmp_path / "two.zip") == digest(work / "one.zip")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_lost_its_gpu_is_replaced_and_the_volume_comes_last(
    work, tmp_path, monkeypatch, caplog, workers
):
    monkeypatch.setattr(submission, "VolumeJob", Spoilt)
    assert write_with(work, tmp_path / "two.zip", workers=workers).simple == []
    assert "illegal memory access" in caplog.text
    assert digest(tmp_path / "two.zip") == digest(work / "one.zip")


@pytest.mark.long
def test_a_volume_that_spoils_every_process_gets_a_simple_mask(work, tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "VolumeJob", SpoiltForEver)
    summary = write_with(work, tmp_path / "two.zip")
    assert summary.simple == summary.failed == ["402"]
    entry = run_record(tmp_path / "two.zip")["volumes"]["402"]
    assert entry["mask"] == "ridge"
    assert entry["causes"] == ["CUDA error: an illegal memory access was encountered"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_volume_is_named_and_the_archive_is_complete(work, tmp_path, workers):
    images = tmp_path / "images"
    images.mkdir()
    for name in SHAPES:
        (images / f"{name}.tif").write_bytes((work / "images" / f"{name}.tif").read_bytes())
    # Damaged pixels under a sound header, which only the process that decodes them can see.
    whole = (images / "402.tif").read_bytes()
    with tifffile.TiffFile(images / "402.tif") as file:
        at, size = file.pages[3].dataoffsets[0], file.pages[3].databytecounts[0]
    (images / "402.tif").write_bytes(whole[:at] + b"\xff" * size + whole[at + size :])
    # And a file that says nothing at all.
    (images / "500.tif").write_bytes(whole[:50])
    summary = write_submission(tmp_path / "s.zip", images, [work / "run"], PREDICT, POSTPROCESS, workers=workers)
    assert sorted(summary.blank) == sorted(summary.simple) == ["402", "500"]
    # To run again would be of no use.
    assert not any("run again" in line or "no process is left" in line for line in summary.warnings)
    assert validate_submission(tmp_path / "s.zip", images) == len(SHAPES)
    volumes = run_record(tmp_path / "s.zip")["volumes"]
    assert sorted(volumes) == sorted(SHAPES)
    assert "402.tif cannot be decoded" in volumes["402"]["causes"][0]
    assert "500.tif" in volumes["500"]["causes"][0]
    (images / "500.tif").unlink()
    with pytest.raises(InputValueError, match=r"402\.tif"):
        predict_folder(images, [work / "run"], tmp_path / "p", PREDICT, workers=workers)


@pytest.mark.long
def test_the_budget_holds_over_processes(work, tmp_path, monkeypatch):
    summary = write_with(work, tmp_path / "none.zip", budget_seconds=1e-3)
    assert summary.predicted == []
    assert validate_submission(tmp_path / "none.zip", work / "images") == len(SHAPES)
    # One process never comes back: at the end of the budget it is ended, and its volume gets a simple mask.
    monkeypatch.setattr(submission, "VolumeJob", Stuck)
    started = time.monotonic()
    summary = write_with(work, tmp_path / "stuck.zip", budget_seconds=15)
    assert time.monotonic() - started < 60
    assert "402" in summary.simple
    assert validate_submission(tmp_path / "stuck.zip", work / "images") == len(SHAPES)
    assert multiprocessing.active_children() == []
    monkeypatch.undo()
    write_with(work, tmp_path / "stuck.zip")
    assert digest(tmp_path / "stuck.zip") == digest(work / "one.zip")


def test_each_gpu_has_a_process_and_one_that_is_named_has_all(work, tmp_path, monkeypatch):
    seen = []

    def note(copies, tasks, **_):
        seen.append([job.ensemble.predict_settings.device for job in copies])
        yield from ()

    monkeypatch.setattr(jobs, "run_in_processes", note)
    monkeypatch.setattr(jobs.torch.cuda, "device_count", lambda: 2)
    auto = PredictConfig(window=(16, 16, 16), precision="fp32")
    for predict, workers in ((auto, None), (auto, 3), (PREDICT, 2)):
        predict_folder(work / "images", [work / "run"], tmp_path / "p", predict, workers=workers)
    assert seen == [["cuda:0", "cuda:1"], ["cuda:0", "cuda:1", "cuda:0"], ["cpu", "cpu"]]


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_refused(work, tmp_path, workers):
    with pytest.raises(InputValueError, match="workers must be >= 1"):
        write_with(work, tmp_path / "s.zip", workers=workers)


def test_what_is_refused_costs_no_mask_of_an_earlier_run(work, tmp_path):
    write_with(work, tmp_path / "s.zip", workers=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for wrong in ({"workers": 0}, {"budget_seconds": 0.0}, {"budget_seconds": float("nan")}):
        with pytest.raises(InputValueError, match=next(iter(wrong))):
            write_with(work, tmp_path / "s.zip", **wrong, fresh=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def processes_of_group(group):
    found = subprocess.run(["ps", "-o", "pid=", "-g", str(group)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_ctrl_c_ends_the_children(work, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("1", "2"):
        write_volume(images / f"{name}.tif", np.full((96, 160, 160), 7, np.uint8))
    command = [sys.executable, "-m", "vesuvius_kit", "submit", "--images", images, "--checkpoints", work / "run"]
    command += [
        "--output",
        tmp_path / "s.zip",
        "--workers",
        "2",
        "--predict.window",
        "[16,16,16]",
        "--predict.device",
        "cpu",
    ]
    # A test run in the background of a shell ignores Ctrl-C, and so would what it starts.
    started = subprocess.Popen(
        command,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until = time.monotonic() + 60
        while len(processes_of_group(started.pid)) < 3 and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(2)
        os.killpg(started.pid, signal.SIGINT)
        _, errors = started.communicate(timeout=60)
        assert started.returncode == 130, errors
        assert "Traceback" not in errors
        while processes_of_group(started.pid) and time.monotonic() < until:
            time.sleep(0.1)
        assert processes_of_group(started.pid) == []
    finally:
        for process in processes_of_group(started.pid):
            os.kill(process, signal.SIGKILL)
