"""Which files count, in folders and archives, for everything that lists volumes; archives as other programs leave them."""

import struct
import zipfile

import numpy as np
import pytest

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.data.competition import Competition
from vesuvius_kit.inference.archive import list_images, validate_submission
from vesuvius_kit.io.listing import list_volumes, volume_id
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.metrics import score_folder
from vesuvius_kit.postprocess.files import list_probabilities

SHAPE = (3, 4, 5)
NAMES = ["1.tif", "2.tiff", "3.TIF", "4.Tiff"]


@pytest.fixture
def mixed(tmp_path):
    """Masks under every ending that counts, and beside them what does not."""
    folder = tmp_path / "test_images"
    folder.mkdir()
    for name in NAMES:
        write_volume(folder / name, np.ones(SHAPE, np.uint8))
    for name in ("._1.tif", ".2.tif", "5.tif.part", "readme.txt", "6.png"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._1.tif").write_bytes(b"\0\5\x16\7")
    return folder


def pack(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def mask_bytes(tmp_path, shape=SHAPE):
    write_volume(tmp_path / "mask.tif", np.ones(shape, np.uint8))
    return (tmp_path / "mask.tif").read_bytes()


def test_mixed_endings_are_all_listed_by_everything_that_lists(mixed):
    """A4: five listings had five rules, and a folder of .tif and .tiff lost some of its volumes."""
    expected = ["1", "2", "3", "4"]
    assert list(list_volumes("images", mixed)) == expected
    assert list(list_images(mixed)) == expected
    assert list(list_probabilities(mixed)) == expected
    assert [chunk.id for chunk in Competition(mixed.parent).test] == expected
    assert list(score_folder(mixed, mixed).scores) == expected


def test_a_folder_of_other_endings_alone_is_not_empty(tmp_path):
    """A4: alone, such a folder was "empty"."""
    for name in ("1.TIF", "2.tiff"):
        write_volume(tmp_path / name, np.ones(SHAPE, np.uint8))
    assert list(list_images(tmp_path)) == ["1", "2"]


def test_two_files_of_one_id_are_refused_by_everything_that_lists(mixed):
    """A4: one of them was taken."""
    write_volume(mixed / "1.tiff", np.zeros(SHAPE, np.uint8))
    for read in (
        lambda: list_volumes("images", mixed),
        lambda: list_images(mixed),
        lambda: list_probabilities(mixed),
        lambda: Competition(mixed.parent).test,
        lambda: score_folder(mixed, mixed),
    ):
        with pytest.raises(InputValueError, match=r"one file for each id, got .*1\.tif and .*1\.tiff"):
            read()


def test_an_archive_without_the_other_endings_is_not_valid(mixed, tmp_path):
    """A4: the incomplete archive counted as valid."""
    mask = mask_bytes(tmp_path)
    whole = pack(tmp_path / "whole.zip", [(f"{id_}.tif", mask) for id_ in "1234"])
    assert validate_submission(whole, mixed) == 4
    part = pack(tmp_path / "part.zip", [("1.tif", mask)])
    with pytest.raises(InputValueError, match=r"2\.tif is missing; 3\.tif is missing; 4\.tif is missing"):
        validate_submission(part, mixed)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.tif", "1"),
        ("1.ome.tif", "1.ome"),
        ("a b.TIFF", "a b"),
        ("._1.tif", None),
        (".tif", None),
        ("1.tif.gz", None),
        ("tif", None),
    ],
)
def test_ids(name, expected):
    assert volume_id(name) == expected


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputNotFoundError, match="images must be an existing folder"):
        list_volumes("images", tmp_path / "none")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.tif", "2.tif"):
        write_volume(folder / name, np.ones(SHAPE, np.uint8))
    return folder


def set_flag(content, flag):
    """Set a bit among the flags of every entry; the first says that it is encrypted."""
    data = bytearray(content)
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + place] |= flag
            at = data.find(signature, at + 4)
    return bytes(data)


def use_method(content, method):
    data = bytearray(content)
    for signature, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        at = data.find(signature)
        while at >= 0:
            data[at + place : at + place + 2] = struct.pack("<H", method)
            at = data.find(signature, at + 4)
    return bytes(data)


def test_unusual_archives_that_are_right_are_valid(images, tmp_path):
    """C8: every codec of Python's, zip64, macOS's companions, folders' own entries, something before the archive."""
    mask = mask_bytes(tmp_path)
    members = [("1.tif", mask), ("2.tif", mask)]
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert validate_submission(pack(tmp_path / "a.zip", members, compression), images) == 2
    companions = [("__MACOSX/", b""), ("__MACOSX/._1.tif", b"\0\5"), ("._2.tif", b"\0\5"), (".DS_Store", b"x")]
    path = pack(tmp_path / "mac.zip", members + companions)
    assert validate_submission(path, images) == 2
    assert list(score_folder(path, images).scores) == ["1", "2"]
    with zipfile.ZipFile(tmp_path / "zip64.zip", "w") as archive:
        for name, content in members:
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(content)
    assert validate_submission(tmp_path / "zip64.zip", images) == 2
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert validate_submission(path, images) == 2


def test_archives_that_cannot_be_read_are_one_line(images, tmp_path):
    """C8: encrypted, unknown codecs, cut off, no archive: some of them were tracebacks."""
    mask = mask_bytes(tmp_path)
    good = pack(tmp_path / "good.zip", [("1.tif", mask), ("2.tif", mask)]).read_bytes()
    faults = {
        "1.tif is not a readable TIFF volume: is encrypted": set_flag(good, 1),
        "is compressed by deflate64 and cannot be read: ": use_method(good, 9),
        "is compressed by method 99 and cannot be read: ": use_method(good, 99),
        # An archive may ask for more than an unknown codec.
        "is compressed by deflate and cannot be read: compressed patched data": set_flag(good, 0x20),
        "1.tif is not a readable TIFF volume: is damaged": use_method(good, 14),
        "must be a zip archive": good[: len(good) // 2],
        "must be a zip archive, got": b"Rar!\x1a\7\0 and so on",
        "must be a zip archive, got ": b"",
    }
    for message, content in faults.items():
        (tmp_path / "bad.zip").write_bytes(content)
        for read in (validate_submission, score_folder):
            with pytest.raises(InputValueError) as caught:
                read(tmp_path / "bad.zip", images)
            text = str(caught.value)
            assert "\n" not in text
            if read is validate_submission or message.startswith("must"):
                assert message in text
            else:
                assert "corrupt: 1.tif (" in text
                assert "missing" not in text


@pytest.mark.parametrize("name", ["masks/1.tif", "masks\\1.tif", "/1.tif", "../1.tif", "1.tiff", "1.TIF"])
def test_masks_in_folders_or_under_other_names(images, tmp_path, name):
    """C8: the competition wants {id}.tif at the top; the score takes them all, and unpacks none of them elsewhere."""
    mask = mask_bytes(tmp_path)
    (tmp_path / "inner").mkdir()
    path = pack(tmp_path / "inner" / "a.zip", [(name, mask), ("2.tif", mask)])
    with pytest.raises(InputValueError, match=r"must be called 1\.tif and lie in no folder; 1\.tif is missing"):
        validate_submission(path, images)
    assert list(score_folder(path, images).scores) == ["1", "2"]
    assert sorted(entry.name for entry in (tmp_path / "inner").iterdir()) == ["a.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_twice_and_strangers(images, tmp_path):
    """C8"""
    mask = mask_bytes(tmp_path)
    path = pack(
        tmp_path / "a.zip", [("1.tif", mask), ("2.tif", mask), ("1.tif", mask), ("3.tif", mask), ("notes.txt", b"")]
    )
    with pytest.raises(
        InputValueError, match=r"1\.tif is there twice; 3\.tif has no test image; notes\.txt has no test image"
    ):
        validate_submission(path, images)
    with pytest.raises(InputValueError, match=r"extra: 1\.tif \(a second one of that id\), 3\.tif$"):
        score_folder(path, images)


def test_a_bomb_is_not_unpacked(images, tmp_path):
    """C8: a file of 60 MB of zeros, and a TIFF that claims a huge picture, for a mask of 60 voxels."""
    mask = mask_bytes(tmp_path)
    path = pack(tmp_path / "a.zip", [("1.tif", bytes(60_000_000)), ("2.tif", mask)])
    with pytest.raises(InputValueError, match=r"1\.tif is not a readable TIFF volume: has more than 1049056 bytes"):
        validate_submission(path, images)
    with pytest.raises(InputValueError, match=r"corrupt: 1\.tif \(has more than"):
        score_folder(path, images)
    huge = bytearray(mask)
    for tag, edge in ((256, SHAPE[2]), (257, SHAPE[1])):
        at = max(huge.find(struct.pack("<HHII", tag, kind, 1, edge)) for kind in (3, 4))
        assert at > 0
        huge[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 1_000_000)
    path = pack(tmp_path / "b.zip", [("1.tif", bytes(huge)), ("2.tif", mask)])
    with pytest.raises(InputValueError, match=r"1\.tif"):
        validate_submission(path, images)


@pytest.mark.filterwarnings("ignore")
def test_mutated_archives_are_valid_or_one_line(images, tmp_path):
    """C8: no traceback, whatever bytes are changed."""
    mask = mask_bytes(tmp_path)
    whole = pack(tmp_path / "a.zip", [("1.tif", mask), ("2.tif", mask)]).read_bytes()
    random, refused = np.random.default_rng(0), 0
    for _ in range(120):
        data = bytearray(whole)
        for _ in range(random.integers(1, 6)):
            data[random.integers(len(data))] = random.integers(256)
        (tmp_path / "a.zip").write_bytes(data[: len(data) - int(random.integers(3)) * 7])
        for read in (validate_submission, score_folder):
            try:
                read(tmp_path / "a.zip", images)
            except InputError as error:
                refused += 1
                text = str(error)
                if "\n" in text:
                    raise AssertionError(text) from error
    assert refused > 80


def test_a_prediction_that_is_no_mask_is_not_scored(images, tmp_path):
    """A13: whatever was not 0 counted as surface, probabilities and label 2 too."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    probability = np.linspace(0, 1, 60, dtype=np.float32).reshape(SHAPE)
    labels = np.arange(60, dtype=np.uint8).reshape(SHAPE) % 3
    for values, shown in (
        (probability, "1.tif holds 0 to 1"),
        (labels, r"1.tif holds 0 to 2 \(uint8\)"),
        (2 * np.ones(SHAPE, np.uint8), r"1.tif holds 2 to 2 \(uint8\)"),
    ):
        write_volume(folder / "1.tif", values)
        write_volume(folder / "2.tif", np.ones(SHAPE, np.uint8))
        with pytest.raises(InputValueError, match=f"no mask: {shown}"):
            score_folder(folder, images)
        assert list(score_folder(folder, images, skip_invalid=True).scores) == ["2"]
    for one in (np.uint8(1), np.uint8(255), np.uint16(65535), np.uint16(255), np.float32(1)):
        write_volume(folder / "1.tif", one * np.ones(SHAPE, one.dtype))
        assert score_folder(folder, images).scores["1"].score == pytest.approx(1)


def test_a_folder_given_as_an_archive(tmp_path):
    with pytest.raises(InputNotFoundError, match="submission must be an existing file"):
        validate_submission(tmp_path, tmp_path)
