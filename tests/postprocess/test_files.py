"""Probabilities in files: which files, on which scale, nnU-Net's own folders."""

import json
import logging
import pickle
import zipfile

import numpy as np
import pytest
import tifffile

from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.postprocess.files import list_probabilities, load_probability

SHAPE = (4, 6, 8)


def make_probability(seed=0):
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32)


class Bomb:
    """Whoever unpickles this learns of it."""

    def __reduce__(self):
        return (pytest.fail, ("a .pkl was unpickled",))


@pytest.fixture
def nnunet(tmp_path):
    """What nnUNetv2_predict leaves under --save_probabilities."""
    folder = tmp_path / "nnunet"
    folder.mkdir()
    for name in ("1", "2"):
        surface = make_probability(int(name))
        np.savez_compressed(folder / f"{name}.npz", probabilities=np.stack([1 - surface, surface]))
        write_volume(folder / f"{name}.tif", (surface > 0.5).astype(np.uint8))
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(Bomb()))
    (folder / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "surface": 1, "ignore": 2}, "file_ending": ".tif"})
    )
    (folder / "plans.json").write_text("{}")
    (folder / "predict_from_raw_data_args.json").write_text("{}")
    return folder


def test_a_folder_of_nnunets_is_read(nnunet, tmp_path):
    """D1: it was refused with "one file for each id"."""
    assert list_probabilities(nnunet) == {"1": nnunet / "1.npz", "2": nnunet / "2.npz"}
    np.testing.assert_array_equal(load_probability(nnunet / "2.npz"), make_probability(2))
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text("- hysteresis_threshold: {t_low: 0.7, t_high: 0.7}\n")
    arguments = ["--probabilities", str(nnunet), "--output", str(tmp_path / "masks"), "--pipeline", str(pipeline)]
    assert main(["postprocess", *arguments]) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "masks" / "1.tif"), make_probability(1) >= np.float32(0.7))


def test_several_classes_need_a_name(nnunet):
    """D1: label 2 trained as a class of its own, or another data set."""
    classes = np.stack([np.full(SHAPE, 0.2), np.full(SHAPE, 0.3), np.full(SHAPE, 0.5)]).astype(np.float16)
    np.savez(nnunet / "1.npz", probabilities=classes)
    described = nnunet / "dataset.json"
    for labels, expected in (
        ({"background": 0, "surface": 1, "gap": 2}, 0.3),
        ({"background": 0, "a": 1, "Surface": 2}, 0.5),
    ):
        described.write_text(json.dumps({"labels": labels}))
        np.testing.assert_allclose(load_probability(nnunet / "1.npz"), expected, rtol=1e-3)
    for content in (
        json.dumps({"labels": {"background": 0, "papyrus": 1, "gap": 2}}),
        json.dumps({"labels": {"background": 0, "surface": 7}}),
        json.dumps({"labels": {"background": 0, "surface": [1, 2]}, "regions_class_order": [1, 2]}),
        json.dumps([1]),
        "{",
        None,
    ):
        described.unlink(missing_ok=True)
        if content is not None:
            described.write_text(content)
        with pytest.raises(
            InputValueError, match=r"1\.npz holds 3 classes: .*dataset\.json must call one of its labels 'surface'"
        ):
            load_probability(nnunet / "1.npz")


def test_a_region_alone_and_other_shapes(tmp_path):
    """D1: training on regions has no channel for the background."""
    np.savez(tmp_path / "1.npz", probabilities=make_probability()[None])
    np.testing.assert_array_equal(load_probability(tmp_path / "1.npz"), make_probability())
    np.save(tmp_path / "2.npy", make_probability()[None, None])
    np.testing.assert_array_equal(load_probability(tmp_path / "2.npy"), make_probability())
    for values in (make_probability()[0], np.stack([make_probability()] * 2), np.zeros((0, 2, 2), np.float32)):
        np.save(tmp_path / "3.npy", values)
        with pytest.raises(
            InputValueError, match=r"3\.npy must hold one volume \(z, y, x\) of probabilities, got shape"
        ):
            load_probability(tmp_path / "3.npy")


@pytest.mark.parametrize("second", ["1.npy", "1.tif"])
def test_two_files_of_one_id_are_refused_unless_nnunet_left_them(tmp_path, second):
    np.savez(tmp_path / "1.npz", make_probability())
    if second == "1.npy":
        np.save(tmp_path / second, make_probability())
    else:
        write_volume(tmp_path / second, make_probability())
    with pytest.raises(InputValueError, match=rf"one file for each id, got .*{second} and .*1\.npz"):
        list_probabilities(tmp_path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "int64"])
@pytest.mark.parametrize("greatest", [1, 2, 255])
def test_integers_on_another_scale_are_refused(tmp_path, dtype, greatest):
    """A13: a 0/1 mask, or 0..255 in uint16, was divided by 255 or 65535 and gave an empty mask with exit code 0."""
    values = np.zeros(SHAPE, dtype)
    values[1] = greatest
    np.save(tmp_path / "1.npy", values)
    if greatest == 255 and dtype == "uint8":
        assert load_probability(tmp_path / "1.npy").max() == 1
        return
    with pytest.raises(
        InputValueError, match=rf"1\.npy must hold probabilities from 0 to .*, got 0 to {greatest} "
    ) as caught:
        load_probability(tmp_path / "1.npy")
    assert "floats in [0, 1]" in str(caught.value)
    assert ("as a mask does" in str(caught.value)) == (greatest == 1)


def test_a_mask_given_to_postprocess_is_one_line(tmp_path, capsys):
    """A13"""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "5.tif", np.ones(SHAPE, np.uint16), photometric="minisblack")
    assert main(["postprocess", "--probabilities", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 2
    assert (
        "5.tif must hold probabilities from 0 to 65535 (uint16), got 0 to 1 as a mask does" in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "5.tif").exists()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros(SHAPE, np.uint16), 0),
        (np.full(SHAPE, 51, np.uint8), 0.2),
        (np.full(SHAPE, 65535, np.uint16), 1),
        (np.ones(SHAPE, bool), 1),
        (np.ones(SHAPE, np.float64), 1),
        (np.full(SHAPE, 0.001, np.float32), 0.001),
        (np.full(SHAPE, 1.00001, np.float32), 1),
    ],
)
def test_what_is_on_the_scale_of_its_type_is_read(tmp_path, values, expected):
    """A13: an empty volume, faint floats and bools are what they are."""
    np.save(tmp_path / "1.npy", values)
    probability = load_probability(tmp_path / "1.npy")
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected, rtol=1e-4)


def test_percentages_are_warned_of(tmp_path, caplog):
    """A13: 0..100 in uint8 may be meant as it stands."""
    np.save(tmp_path / "1.npy", np.full(SHAPE, 100, np.uint8))
    with caplog.at_level(logging.WARNING):
        load_probability(tmp_path / "1.npy")
    assert "1.npy: the highest probability is 0.39 (100 of 255" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(SHAPE, np.nan, np.float32), r"must hold probabilities in \[0, 1\] without NaN, got nan to nan"),
        (np.full(SHAPE, 255.0, np.float32), "got 255 to 255"),
        (np.full(SHAPE, -4.0, np.float32), "logits need a sigmoid first"),
        (np.full(SHAPE, -1, np.int8), "must hold probabilities from 0 to 127"),
        (np.full(SHAPE, 1j), "must hold numbers, got complex128"),
        (np.full(SHAPE, "a"), "must hold numbers, got <U1"),
        (np.full(SHAPE, None), "must be a complete .npy array"),
    ],
)
def test_what_is_no_probability_is_named(tmp_path, values, message):
    np.save(tmp_path / "9.npy", values, allow_pickle=True)
    with pytest.raises(InputValueError, match=message) as caught:
        load_probability(tmp_path / "9.npy")
    assert "9.npy" in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_mutated_files_are_read_or_one_line(tmp_path, ending):
    """C8: no traceback and no allocation of what a damaged length claims."""
    path = tmp_path / f"1{ending}"
    np.save(path, make_probability()) if ending == ".npy" else np.savez_compressed(path, make_probability())
    whole, random, messages = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(random.integers(1, 6)):
            data[random.integers(min(len(data), 200))] = random.choice([random.integers(256), ord("9"), 255])
        path.write_bytes(data)
        try:
            assert load_probability(path).ndim == 3
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all("\n" not in message and str(path) in message for message in messages)


def test_a_length_that_no_file_has_is_not_allocated(tmp_path):
    np.save(tmp_path / "1.npy", np.zeros((4, 6, 800), np.float32))
    data = (tmp_path / "1.npy").read_bytes()
    (tmp_path / "1.npy").write_bytes(data.replace(b"(4, 6, 800)", b"(99999999999, 6, 800)"[:11].ljust(11, b" ")))
    (tmp_path / "2.npy").write_bytes(data.replace(b"(4, 6, 800)", b"(9999, 9999, 99)"[:11]))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999, 99999), }".ljust(117) + b"\n"
    (tmp_path / "3.npy").write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(100))
    with zipfile.ZipFile(tmp_path / "4.npz", "w") as archive:
        archive.writestr("a.npy", (tmp_path / "3.npy").read_bytes())
    for name in ("1.npy", "2.npy", "3.npy", "4.npz"):
        with pytest.raises(InputValueError, match="must be a complete"):
            load_probability(tmp_path / name)
