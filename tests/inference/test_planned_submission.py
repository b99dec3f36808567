"""Runs that plan themselves and runs that something happens to: each ends with every id in a valid archive, and says why."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.competitions import make_pair
from helpers.slow_models import SlowJob
from numba.core.errors import NumbaError

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import PostprocessConfig, PredictConfig, RunConfig, config_to_dict
from vesuvius_kit.inference import ensemble, jobs, submission
from vesuvius_kit.inference.jobs import VolumeJob
from vesuvius_kit.inference.ladder import RIDGE, Rung
from vesuvius_kit.inference.schedule import Order
from vesuvius_kit.inference.submission import validate_submission, write_submission
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.models import create_model
from vesuvius_kit.models.checkpoint import save_checkpoint
from vesuvius_kit.postprocess.pipeline import choose_pipeline

PREDICT = PredictConfig(window=(16, 16, 16), precision="fp32", device="cpu", tta="mirror", batch_size=2)
RAW = PostprocessConfig("raw")
NAMES = [str(number) for number in range(901, 911)]
SHAPE = (16, 24, 32)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def prediction_as_it_is():
    """`SlowJob` changes it in whichever process it works."""
    real = ensemble.predict_volume
    yield
    ensemble.predict_volume = real


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Ten test images in the competition's layout, with their table, and two networks."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "test_images").mkdir()
    for name in NAMES:
        write_volume(folder / "test_images" / f"{name}.tif", make_pair(SHAPE, int(name))[0])
    (folder / "test.csv").write_text("id,scroll_id\n" + "".join(f"{name},1\n" for name in NAMES))
    for fold in (0, 1):
        model = create_model("unet3d", initial_filters=2, depth=1)
        save_checkpoint(folder / "run" / f"fold_{fold}" / "best", model, {"config": config_to_dict(RunConfig())})
    return folder


def write_with(work, path, *, images=None, predict=PREDICT, **settings):
    return write_submission(path, images or work / "test_images", [work / "run"], predict, RAW, **settings)


def record_of(path):
    return json.loads((path.with_name(f"{path.stem}_masks") / "run.json").read_text())


def names_in(path):
    with zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".tif") for name in archive.namelist())


def use_job(monkeypatch, **settings):
    monkeypatch.setattr(submission, "VolumeJob", functools.partial(SlowJob, **settings))


@pytest.mark.long
def test_a_budget_too_small_for_all_is_used_and_what_it_made_is_kept(work, tmp_path, monkeypatch):
    """The whole plan sleeps for 10 volumes x 2 networks x 3 batches x 8 views x 0.1 s = 48 s."""
    use_job(monkeypatch, seconds=0.1)
    shown = []
    summary = write_with(work, tmp_path / "s.zip", budget_seconds=30.0, show_plan=shown.append)
    assert sorted(summary.predicted) == NAMES
    assert summary.reduced
    assert summary.simple == []
    assert "9  " in shown[0]
    assert "ridge filter" in shown[0]
    assert len(shown[1].splitlines()) == len(NAMES)
    record = record_of(tmp_path / "s.zip")
    counts = [len(rung["members"]) for rung in record["plans"]]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (2, 0)
    assert record["trial"]["seconds_a_window"][0] >= 0.01
    for name in NAMES:
        entry = record["volumes"][name]
        assert entry["mask"] == "network"
        assert entry["precision"] == "fp32"
        assert entry["networks"][0]["window"] == [16, 16, 16]
        assert entry["networks"][0]["digest"] == record["weights"][entry["networks"][0]["number"]]["digest"]
        assert {"decode", "network", "repair"} <= entry["seconds"].keys()
    # What was made with a smaller plan is kept, and says so; the settings that are compared are those asked for.
    use_job(monkeypatch, seconds=0.0)
    again = write_with(work, tmp_path / "s.zip")
    assert again.reduced == summary.reduced
    assert record_of(tmp_path / "s.zip")["volumes"] == record["volumes"]
    assert json.loads((tmp_path / "s_masks" / "settings.json").read_text())["predict"]["tta"] == "mirror"
    whole = write_with(work, tmp_path / "s.zip", fresh=True)
    assert whole.reduced == []


def test_without_a_budget_the_plan_is_the_whole_one_and_nothing_is_timed(work, tmp_path):
    summary = write_with(work, tmp_path / "s.zip")
    record = record_of(tmp_path / "s.zip")
    assert summary.reduced == summary.warnings == []
    assert all(entry["is_whole"] and entry["plan"] == 0 for entry in record["volumes"].values())
    assert record["budget_seconds"] is None
    assert not (tmp_path / "s_masks" / "simple").exists()


def test_plans_that_are_given_are_followed(work, tmp_path):
    small = Rung(((1, "none"),), 0.0)
    summary = write_with(work, tmp_path / "s.zip", plan=[small, RIDGE])
    volumes = record_of(tmp_path / "s.zip")["volumes"]
    assert [entry["networks"][0]["number"] for entry in volumes.values()] == [1] * 10
    assert {entry["what"] for entry in volumes.values()} == {"1 network, tta none, overlap 0"}
    assert sorted(summary.predicted) == NAMES


def test_views_that_a_window_does_not_allow_are_refused_before_the_work(work, tmp_path):
    flat = PredictConfig(window=(16, 16, 32), precision="fp32", device="cpu")
    with pytest.raises(InputValueError, match="window must be square in y and x for tta 'seven'"):
        write_with(work, tmp_path / "s.zip", predict=flat, plan=[Rung(((0, "seven"),), 0.0)])
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_plans_and_what_was_done(work, tmp_path, capsys):
    (tmp_path / "plan.yaml").write_text("- {tta: mirror}\n- {models: 1, tta: none}\n")
    command = ["submit", "--data", work, "--checkpoints", work / "run", "--output", tmp_path / "s.zip", "--plan"]
    command += ["--plan-file", tmp_path / "plan.yaml", "--predict.window", "[16,16,16]", "--predict.device", "cpu"]
    command += ["--predict.precision", "fp32", "--postprocess.pipeline", "raw"]
    assert main(list(map(str, command))) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:2] == ["plan", "networks"]
    assert out[1].endswith("2 networks, tta mirror, overlap 0.5 <- first")
    assert out[2].endswith("1 network, tta none, overlap 0.5")
    assert out[3].endswith("ridge filter")
    assert out[5].startswith("901: 2 networks, tta mirror, overlap 0.5 (decode ")
    assert out[-1].endswith("10 predicted, 0 simple, valid")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("raise", "failed: ZeroDivisionError: a network of somebody else's"),
        ("nan", "must return finite logits"),
        ("shape", "must return one tensor of logits of the input's shape"),
        ("no memory", "Unable to allocate"),
    ],
)
def test_a_network_that_fails_is_shed_and_with_it_alone_the_ridge_filter_takes_over(
    work, tmp_path, monkeypatch, fault, cause, workers
):
    use_job(monkeypatch, seconds=0.0, fault=fault, faulty=(0,))
    summary = write_with(work, tmp_path / "s.zip", workers=workers)
    assert sorted(summary.predicted) == NAMES
    entry = record_of(tmp_path / "s.zip")["volumes"]["901"]
    assert [one["number"] for one in entry["networks"]] == [1]
    assert cause in entry["causes"][0]
    use_job(monkeypatch, seconds=0.0, fault=fault, faulty=(0, 1))
    summary = write_with(work, tmp_path / "t.zip", workers=workers)
    assert sorted(summary.simple) == sorted(summary.failed) == NAMES
    assert summary.blank == []
    assert validate_submission(tmp_path / "t.zip", work / "test_images") == 10
    assert cause in record_of(tmp_path / "t.zip")["volumes"]["910"]["causes"][0]


@pytest.mark.parametrize("fault", ["memory", "cuda memory"])
def test_out_of_memory_shrinks_the_batch_and_the_network_still_answers(work, tmp_path, monkeypatch, fault, caplog):
    use_job(monkeypatch, seconds=0.0)
    write_with(work, tmp_path / "s.zip")
    use_job(monkeypatch, seconds=0.0, fault=fault, faulty=(0, 1))
    summary = write_with(work, tmp_path / "t.zip")
    assert sorted(summary.predicted) == NAMES
    if fault == "memory":
        assert "once more, with single windows" in caplog.text
    for name in NAMES[:3]:
        one, other = (read_volume(tmp_path / f"{which}_masks" / f"{name}.tif") for which in "st")
        assert (one != other).mean() < 1e-3


@pytest.mark.parametrize("budget", [None, 600.0])
def test_a_repair_that_fails_leaves_the_probability_as_a_mask(work, tmp_path, monkeypatch, budget):
    """Where it is timed beforehand too."""

    def no_memory(*_):
        raise MemoryError("simulated")

    monkeypatch.setattr("vesuvius_kit.inference.jobs.run_pipeline", no_memory)
    summary = write_with(work, tmp_path / "s.zip", budget_seconds=budget)
    assert sorted(summary.predicted) == sorted(summary.reduced) == NAMES
    assert (
        "the repair failed, the mask is what exceeds 0.5: MemoryError"
        in record_of(tmp_path / "s.zip")["volumes"]["905"]["causes"][0]
    )


@pytest.mark.long
def test_when_the_clock_runs_out_at_the_third_of_ten_the_rest_is_filtered(work, tmp_path, monkeypatch):
    """The networks are a hundred times slower from the third volume on than the first two made one believe."""
    real, calls = ensemble.predict_volume, []

    def slower_later(model, volume, *, name, deadline=None, **settings):
        calls.append(name)
        if "volume 903" in name or "volume 904" in name:
            time.sleep(max(0.0, deadline - time.monotonic()) + 0.01)
        return real(model, volume, name=name, deadline=deadline, **settings)

    monkeypatch.setattr(ensemble, "predict_volume", slower_later)
    summary = write_with(work, tmp_path / "s.zip", budget_seconds=30.0)
    assert summary.predicted[:2] == ["901", "902"]
    assert "903" in summary.simple
    assert summary.failed == []
    assert validate_submission(tmp_path / "s.zip", work / "test_images") == 10
    volumes = record_of(tmp_path / "s.zip")["volumes"]
    assert sorted(volumes) == NAMES
    assert volumes["903"]["causes"] == ["the time was over when 0 of 2 networks had answered"]
    assert any("the budget of 30 s is over" in line for line in record_of(tmp_path / "s.zip")["warnings"])
    monkeypatch.undo()
    assert write_with(work, tmp_path / "s.zip").simple == []


def test_a_file_more_than_the_table_and_a_row_without_a_file(work, tmp_path):
    images = tmp_path / "test_images"
    images.mkdir()
    for name in (*NAMES[:3], "999"):
        write_volume(images / f"{name}.tif", make_pair(SHAPE, int(name))[0])
    (tmp_path / "test.csv").write_text("id,scroll_id\n901,1\n902,1\n903,1\n777,1\n")
    summary = write_with(work, tmp_path / "s.zip", images=images)
    assert names_in(tmp_path / "s.zip") == ["777", "901", "902", "903", "999"]
    assert validate_submission(tmp_path / "s.zip", images) == 5
    assert (summary.simple, summary.blank) == (["777"], ["777"])
    record = record_of(tmp_path / "s.zip")
    assert any("test.csv has no row of 999" in line for line in record["warnings"])
    assert "there is no such file" in record["volumes"]["777"]["causes"][0]
    assert read_volume_of(tmp_path / "s.zip", "777").shape == SHAPE


def read_volume_of(path, name):
    with zipfile.ZipFile(path) as archive:
        archive.extract(f"{name}.tif", path.parent / "unpacked")
    return read_volume(path.parent / "unpacked" / f"{name}.tif")


def test_a_corrupt_file_among_ten_costs_that_file(work, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in NAMES:
        (images / f"{name}.tif").write_bytes((work / "test_images" / f"{name}.tif").read_bytes())
    (images / "904.tif").write_bytes((images / "904.tif").read_bytes()[:700])
    summary = write_with(work, tmp_path / "s.zip", images=images)
    assert summary.blank == summary.simple == ["904"]
    assert len(summary.predicted) == 9
    assert validate_submission(tmp_path / "s.zip", images) == 10
    mask = read_volume_of(tmp_path / "s.zip", "904")
    assert (mask.shape, mask.any()) == (SHAPE, False)
    assert "904.tif" in record_of(tmp_path / "s.zip")["volumes"]["904"]["causes"][0]


def test_a_disk_that_is_full_at_a_mask_stops_the_work_and_leaves_the_archive(work, tmp_path, monkeypatch):
    real = jobs.write_volume

    def full_from_the_third(path, volume):
        if Path(path).stem not in NAMES[:2]:
            raise OSError(28, "No space left on device")
        real(path, volume)

    monkeypatch.setattr(jobs, "write_volume", full_from_the_third)
    summary = write_with(work, tmp_path / "s.zip")
    assert summary.predicted == NAMES[:2]
    assert validate_submission(tmp_path / "s.zip", work / "test_images") == 10
    record = record_of(tmp_path / "s.zip")
    assert sorted(record["volumes"]) == NAMES
    assert "No space left on device" in record["volumes"]["903"]["causes"][0]


def test_a_plan_of_fewer_networks_is_not_all_that_was_asked_for(work, tmp_path):
    one = Rung(((0, "mirror"),), PREDICT.overlap)
    summary = write_with(work, tmp_path / "s.zip", plan=[one, RIDGE])
    assert summary.predicted == summary.reduced == NAMES
    assert not any(entry["is_whole"] for entry in record_of(tmp_path / "s.zip")["volumes"].values())


def test_a_window_that_a_network_does_not_take_is_refused_before_the_work(work, tmp_path):
    with pytest.raises(
        InputValueError, match=r"window must be multiples of 2 for the network of .*, got \(15, 16, 16\)"
    ):
        write_with(work, tmp_path / "s.zip", predict=replace(PREDICT, window=(15, 16, 16), tta="none"))
    assert not (tmp_path / "s.zip").exists()


def test_what_a_killed_run_left_of_the_archive_is_removed(work, tmp_path):
    left, foreign = tmp_path / ".s.zip.0123abcd.part", tmp_path / ".other.zip.0123abcd.part"
    for path in (left, foreign):
        path.write_bytes(b"PK")
    write_with(work, tmp_path / "s.zip")
    assert not left.exists()
    assert foreign.exists()


@pytest.mark.parametrize("error", [TypeError("no"), NumbaError("no")])
def test_a_repair_that_fails_in_any_way_costs_only_itself(work, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(jobs, "run_pipeline", fail)
    summary = write_with(work, tmp_path / "s.zip")
    assert summary.predicted == NAMES
    assert (
        "the repair failed, the mask is what exceeds 0.5"
        in record_of(tmp_path / "s.zip")["volumes"]["901"]["causes"][0]
    )


def test_the_time_that_a_volume_was_waited_for_is_the_networks_loss(work, tmp_path):
    networks = ensemble.Ensemble([work / "run" / "fold_0"], PREDICT)
    job = VolumeJob({"901": work / "test_images" / "901.tif"}, networks, tmp_path, choose_pipeline("raw"))
    made = {}
    for waited in (0.0, 60.0):
        order = Order(networks.whole, 0, 50.0, True, issued=time.monotonic() - waited)
        _, rest = job.work("901", job.read("901"), order, lambda: None)
        made[waited] = rest()
    assert (made[0.0].made, made[0.0].is_late) == ("network", False)
    assert (made[60.0].made, made[60.0].is_late) == ("ridge", True)


def submit(work, output, *more, environment=None):
    """Start the command in a process group of its own."""
    command = [sys.executable, "-m", "vesuvius_kit", "submit", "--data", work, "--checkpoints", work / "run"]
    command += ["--output", output, "--predict.window", "[16,16,16]", "--predict.device", "cpu"]
    command += ["--predict.precision", "fp32", "--postprocess.pipeline", "raw", *more]
    names = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**names, "PYTHONPATH": str(ROOT), **(environment or {})},
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_of_the_command_leaves_a_valid_archive_and_the_next_run_goes_on(work, tmp_path, workers):
    output = tmp_path / "s.zip"
    process = submit(work, output, "--workers", workers, "--predict.tta", "mirror", "--predict.overlap", "0.8")
    until = time.monotonic() + 120
    while len(list((tmp_path / "s_masks").glob("*.tif"))) < 3 and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        if output.exists():
            # At every moment.
            assert validate_submission(output, work / "test_images") == 10
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s_masks").glob("*.tif")}
    assert validate_submission(output, work / "test_images") == 10
    again = submit(work, output, "--workers", workers, "--predict.tta", "mirror", "--predict.overlap", "0.8")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "10 predicted, 0 simple, valid" in out
    for name, stamp in done.items():
        assert (tmp_path / "s_masks" / name).stat().st_mtime_ns == stamp
    assert sorted(record_of(output)["volumes"]) == NAMES


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
@pytest.mark.long
def test_a_disk_that_is_really_full(work, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        process = submit(work, disk / "s.zip")
        _, err = process.communicate(timeout=300)
        if process.returncode == 0:
            assert validate_submission(disk / "s.zip", work / "test_images") == 10
            record = record_of(disk / "s.zip")
            assert sorted(record["volumes"]) == NAMES
            assert any(
                "No space left" in cause for entry in record["volumes"].values() for cause in entry["causes"]
            ) or any("No space left" in line for line in record["warnings"])
        else:
            # Not even the empty archive found room.
            assert process.returncode == 2
            assert "No space left" in err
    finally:
        subprocess.run(["umount", disk], check=True)
