"""An archive that is valid at every moment."""

import zipfile

import numpy as np
import pytest

from vesuvius_kit.checks import InputOSError
from vesuvius_kit.inference import live_archive
from vesuvius_kit.inference.live_archive import LiveArchive
from vesuvius_kit.inference.submission import validate_submission
from vesuvius_kit.io.volume import read_volume, write_volume

SHAPES = {"7": (5, 6, 7), "11": (5, 6, 7), "402": (4, 8, 9)}


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name, shape in SHAPES.items():
        write_volume(tmp_path / "images" / f"{name}.tif", np.zeros(shape, np.uint8))
        write_volume(tmp_path / "masks" / f"{name}.tif", np.ones(shape, np.uint8))
    return tmp_path / "images"


def sums_in(path):
    with zipfile.ZipFile(path) as archive:
        for name in SHAPES:
            archive.extract(f"{name}.tif", path.parent / "unpacked")
    return [int(read_volume(path.parent / "unpacked" / f"{name}.tif").sum()) for name in SHAPES]


def test_it_begins_with_empty_masks_and_takes_each_in_as_it_is_done(images, tmp_path):
    path, now = tmp_path / "s.zip", [0.0]

    def clock():
        now[0] += 1.0  # every look at the clock takes a second, and so does every writing
        return now[0]

    archive = LiveArchive(path, SHAPES, clock)
    archive.write()
    assert validate_submission(path, images) == 3
    assert sums_in(path) == [0, 0, 0]
    archive.put("11", tmp_path / "masks" / "11.tif")
    assert archive.writings == 1, "too soon after the last time"
    now[0] += 100
    archive.put("402", tmp_path / "masks" / "402.tif")
    assert archive.writings == 2
    assert validate_submission(path, images) == 3
    assert sums_in(path) == [0, 210, 288]
    archive.put("7", tmp_path / "masks" / "7.tif")
    archive.write()
    archive.write()
    assert archive.writings == 3, "nothing new is nothing to write"
    assert sums_in(path) == [210, 210, 288]


def test_a_full_disk_leaves_the_archive_as_it_was(images, tmp_path, monkeypatch, caplog):
    path = tmp_path / "s.zip"
    archive = LiveArchive(path, SHAPES, lambda: 0.0)
    archive.write()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live_archive.zipfile.ZipFile, "writestr", full)
    archive.put("7", tmp_path / "masks" / "7.tif")
    assert "the archive stays without 7 for now: cannot write" in caplog.text
    assert validate_submission(path, images) == 3
    with pytest.raises(InputOSError, match="No space left"):
        LiveArchive(tmp_path / "t.zip", SHAPES).write()
    assert not (tmp_path / "t.zip").exists()
    monkeypatch.undo()
    archive.put("402", tmp_path / "masks" / "402.tif")
    assert sums_in(path) == [210, 0, 288]


def test_masks_of_an_earlier_run_are_in_it_from_the_beginning(images, tmp_path):
    archive = LiveArchive(tmp_path / "s.zip", SHAPES)
    archive.hold({"402": tmp_path / "masks" / "402.tif"})
    archive.write()
    assert sums_in(tmp_path / "s.zip") == [0, 0, 288]
