"""Scores of folders and archives, and what is said about files that cannot be scored."""

import csv
import json
import math
import zipfile

import numpy as np
import pytest

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.metrics import leaderboard_score, score_folder
from vesuvius_kit.metrics.folder import COLUMNS

SHAPE = (8, 9, 10)


@pytest.fixture
def volumes(tmp_path):
    """Two folders, ``predictions`` and ``labels``, with three volumes each; returns the arrays too."""
    rng = np.random.default_rng(0)
    found = {}
    for folder in ("predictions", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("10", "11", "12"):
        label = rng.choice(3, SHAPE, p=[0.4, 0.3, 0.3]).astype(np.uint8)
        prediction = ((label == 1) ^ (rng.random(SHAPE) < 0.1)).astype(np.uint8)
        found[name] = prediction, label
        write_volume(tmp_path / "predictions" / f"{name}.tif", prediction)
        write_volume(tmp_path / "labels" / f"{name}.tif", label)
    return found


def spoil(tmp_path):
    """Make one file missing, one extra, one corrupt, one of another shape."""
    predictions = tmp_path / "predictions"
    (predictions / "10.tif").unlink()
    write_volume(predictions / "99.tif", np.ones(SHAPE, np.uint8))
    content = (predictions / "11.tif").read_bytes()
    (predictions / "11.tif").write_bytes(content[: len(content) // 2])
    write_volume(predictions / "12.tif", np.ones((2, 9, 10), np.uint8))


def zip_predictions(tmp_path, prefix=""):
    path = tmp_path / "submission.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "predictions").iterdir()):
            archive.write(file, prefix + file.name)
    return path


@pytest.mark.parametrize("prefix", [None, "", "masks/"])
def test_scores_and_mean(volumes, tmp_path, prefix):
    predictions = tmp_path / "predictions" if prefix is None else zip_predictions(tmp_path, prefix)
    result = score_folder(predictions, tmp_path / "labels")
    assert list(result.scores) == ["10", "11", "12"]
    assert result.problems == {}
    expected = [leaderboard_score(*pair) for pair in volumes.values()]
    assert [score.score for score in result.scores.values()] == [score.score for score in expected]
    *rows, mean = result.rows()
    assert [row["id"] for row in rows] == ["10", "11", "12"]
    assert mean["id"] == "mean"
    assert mean["score"] == pytest.approx(np.mean([score.score for score in expected]))
    assert mean["matched_0"] == pytest.approx(np.mean([score.topo_counts[0, 0] for score in expected]))
    for row, score in zip(rows, expected):
        assert tuple(row) == COLUMNS
        assert row["voi_merge"] == score.voi_merge
        assert (row["matched_1"], row["predicted_1"], row["labelled_1"]) == tuple(score.topo_counts[1])


def test_several_processes_give_the_same(volumes, tmp_path):
    alone = score_folder(tmp_path / "predictions", tmp_path / "labels")
    together = score_folder(tmp_path / "predictions", tmp_path / "labels", processes=2)
    assert [row["score"] for row in together.rows()] == [row["score"] for row in alone.rows()]


def test_settings_reach_the_score(volumes, tmp_path):
    result = score_folder(tmp_path / "predictions", tmp_path / "labels", voi_alpha=1.0, ignore_label=None)
    for name, score in result.scores.items():
        assert score.score == leaderboard_score(*volumes[name], voi_alpha=1.0, ignore_label=None).score


def test_tables_on_disk(volumes, tmp_path):
    for name in ("10", "11", "12"):
        write_volume(tmp_path / "predictions" / f"{name}.tif", np.zeros(SHAPE, np.uint8))
        write_volume(tmp_path / "labels" / f"{name}.tif", np.zeros(SHAPE, np.uint8))
    result = score_folder(tmp_path / "predictions", tmp_path / "labels")
    result.to_csv(tmp_path / "scores.csv")
    result.to_json(tmp_path / "scores.json")
    with open(tmp_path / "scores.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == ["10", "11", "12", "mean"]
    assert rows[0]["f1_0"] == ""
    assert float(rows[3]["score"]) == 1
    table = json.loads((tmp_path / "scores.json").read_text())
    assert table["mean"]["f1_1"] is None
    assert [row["id"] for row in table["volumes"]] == ["10", "11", "12"]
    assert table["problems"] == {}


@pytest.mark.parametrize("packed", [False, True])
def test_every_bad_file_is_named_in_one_line(volumes, tmp_path, packed):
    spoil(tmp_path)
    predictions = zip_predictions(tmp_path) if packed else tmp_path / "predictions"
    with pytest.raises(InputValueError) as caught:
        score_folder(predictions, tmp_path / "labels")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("missing: 10.tif", "extra: 99.tif", "corrupt: 11.tif", "wrong shape: 12.tif (2, 9, 10)", str(SHAPE)):
        assert part in message


def test_the_rest_is_scored_when_asked_for(volumes, tmp_path):
    spoil(tmp_path)
    result = score_folder(tmp_path / "predictions", tmp_path / "labels", skip_invalid=True)
    assert result.scores == {}
    assert {kind: len(names) for kind, names in result.problems.items()} == {
        "missing": 1,
        "extra": 1,
        "corrupt": 1,
        "wrong shape": 1,
    }
    assert math.isnan(result.rows()[-1]["score"])
    write_volume(tmp_path / "predictions" / "12.tif", volumes["12"][0])
    result = score_folder(tmp_path / "predictions", tmp_path / "labels", skip_invalid=True)
    assert list(result.scores) == ["12"]


def test_pixels_that_cannot_be_decoded(volumes, tmp_path):
    """The page directory is whole, the pixels are not: only reading tells."""
    path = tmp_path / "predictions" / "11.tif"
    content = bytearray(path.read_bytes())
    pages = slice(8, len(content) // 3)
    content[pages] = bytes(255 for _ in content[pages])
    path.write_bytes(content)
    with pytest.raises(InputValueError, match=r"corrupt: 11\.tif"):
        score_folder(tmp_path / "predictions", tmp_path / "labels")
    result = score_folder(tmp_path / "predictions", tmp_path / "labels", skip_invalid=True)
    assert list(result.scores) == ["10", "12"]


def test_a_damaged_label_is_told_from_a_damaged_prediction(volumes, tmp_path):
    (tmp_path / "labels" / "10.tif").write_bytes(b"II")
    with pytest.raises(InputValueError, match=r"corrupt: label 10\.tif"):
        score_folder(tmp_path / "predictions", tmp_path / "labels")


def test_an_archive_with_a_damaged_member(volumes, tmp_path):
    path = zip_predictions(tmp_path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("11.tif").header_offset + 60
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(InputValueError) as caught:
        score_folder(path, tmp_path / "labels")
    assert "corrupt: 11.tif" in str(caught.value)
    assert "missing" not in str(caught.value)


def test_an_archive_with_a_file_twice(volumes, tmp_path):
    path = zip_predictions(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(tmp_path / "predictions" / "10.tif", "again/10.tif")
    with pytest.raises(InputValueError, match=r"extra: again/10\.tif"):
        score_folder(path, tmp_path / "labels")


def test_progress_is_told(volumes, tmp_path):
    told = []

    def progress(iterable, total, desc):
        told.append((desc, total))
        return iterable

    score_folder(tmp_path / "predictions", tmp_path / "labels", progress=progress)
    assert told[-1] == ("scoring", 3)


def test_progress_tells_of_the_compilation(volumes, tmp_path, monkeypatch):
    told = []

    def progress(iterable, total, desc):
        told.append(desc)
        return iterable

    monkeypatch.setattr("vesuvius_kit.metrics.folder.is_compilation_due", lambda: True)
    score_folder(tmp_path / "predictions", tmp_path / "labels", progress=progress)
    assert told == ["compiling the score, once per machine", "scoring"]


def test_bad_folders(volumes, tmp_path):
    with pytest.raises(InputNotFoundError, match="labels must be an existing folder"):
        score_folder(tmp_path / "predictions", tmp_path / "none")
    with pytest.raises(InputNotFoundError, match="predictions must be an existing folder or zip archive"):
        score_folder(tmp_path / "none.zip", tmp_path / "labels")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputValueError, match="labels must hold TIFF volumes"):
        score_folder(tmp_path / "predictions", tmp_path / "empty")
    (tmp_path / "no.zip").write_text("no archive")
    with pytest.raises(InputValueError, match="zip archive"):
        score_folder(tmp_path / "no.zip", tmp_path / "labels")
    with pytest.raises(InputValueError, match="processes must be >= 1"):
        score_folder(tmp_path / "predictions", tmp_path / "labels", processes=0)
