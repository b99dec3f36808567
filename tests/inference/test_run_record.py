"""``run.json``: whole at every moment, kept as long as the masks, written even on a full disk."""

import json
import os

import pytest

from vesuvius_kit.checks import InputOSError
from vesuvius_kit.inference import run_record
from vesuvius_kit.inference.run_record import RunRecord, read_run_record


def test_it_holds_the_run_and_each_volume_and_is_whole_after_each(tmp_path):
    record = RunRecord(tmp_path, {"budget_seconds": 60}, [], 3)
    record.note_volume("7", "network", plan=0, causes=[])
    noted = json.loads((tmp_path / "run.json").read_text())
    assert (noted["budget_seconds"], noted["ended"], noted["warnings"]) == (60, None, [])
    assert noted["volumes"] == {"7": {"mask": "network", "plan": 0, "causes": []}}
    record.warn("something")
    record.note(trial={"seconds_a_window": [0.1]})
    record.note_volume("11", "ridge", causes=["the time was over"])
    record.close()
    noted = read_run_record(tmp_path)
    assert sorted(noted["volumes"]) == ["11", "7"]
    assert noted["ended"] is not None
    assert (noted["warnings"], noted["trial"]) == (["something"], {"seconds_a_window": [0.1]})
    assert os.listdir(tmp_path) == ["run.json"]


def test_what_an_earlier_run_noted_stays_with_the_masks_that_are_kept(tmp_path):
    record = RunRecord(tmp_path, {}, [], 2)
    record.note_volume("7", "network", plan=4)
    record.note_volume("11", "ridge")
    record.close()
    record = RunRecord(tmp_path, {}, ["7", "402"], 3)
    assert record.volumes == {"7": {"mask": "network", "plan": 4}, "402": {"mask": "network", "causes": []}}
    for content in ("{", "[]", '{"volumes": 3}', '{"volumes": {"7": 3}}'):
        (tmp_path / "run.json").write_text(content)
        assert RunRecord(tmp_path, {}, ["7"], 3).volumes == {"7": {"mask": "network", "causes": []}}
    assert read_run_record(tmp_path / "nowhere") == {}


def test_a_full_disk_gives_the_room_back_and_the_cause_is_written(tmp_path, monkeypatch):
    record = RunRecord(tmp_path, {}, [], 1)
    assert (tmp_path / ".room").stat().st_size > 64000
    real = run_record.write_atomically

    def write(path, *mode):
        if (tmp_path / ".room").exists():
            raise InputOSError(f"cannot write {path}: No space left on device")
        return real(path, *mode)

    monkeypatch.setattr(run_record, "write_atomically", write)
    record.note_volume("7", "blank", causes=["No space left on device"])
    assert read_run_record(tmp_path)["volumes"]["7"]["causes"] == ["No space left on device"]


def test_a_record_that_can_be_written_no_more_is_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    record = RunRecord(tmp_path, {}, [], 1)

    def full(path, *mode):
        raise InputOSError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(run_record, "write_atomically", full)
    record.note_volume("7", "network")
    record.note_volume("11", "network")
    assert caplog.text.count("is not up to date") == 1
    with pytest.raises(InputOSError):
        RunRecord(tmp_path / "other", {}, [], 1)
