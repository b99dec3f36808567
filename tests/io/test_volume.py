import os
import sys

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vesuvius_kit.checks import InputNotFoundError, InputTypeError, InputValueError
from vesuvius_kit.constants import BACKGROUND, SURFACE, UNLABELLED
from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype, write_volume


@pytest.fixture(params=["imagecodecs", "pillow"])
def decoder(request, monkeypatch):
    """Run a test with and without imagecodecs."""
    if request.param == "pillow":
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
    else:
        pytest.importorskip("imagecodecs")
    return request.param


def make_volume(shape=(6, 20, 24), dtype="uint8", seed=0):
    return (np.random.default_rng(seed).random(shape) * 255).astype(dtype)


def write_plain(path, volume):
    """Write what a user's own Pillow script writes: no note, no predictor, LZW."""
    first, *others = (Image.fromarray(page) for page in volume)
    first.save(path, compression="tiff_lzw", save_all=True, append_images=others)


WRITERS = {
    "kit": write_volume,
    "pillow": write_plain,
    "tifffile": lambda path, volume: tifffile.imwrite(path, volume),
    "imagej": lambda path, volume: tifffile.imwrite(path, volume, imagej=True),
    "big-endian bigtiff": lambda path, volume: tifffile.imwrite(path, volume, byteorder=">", bigtiff=True),
    "strips of 7 rows": lambda path, volume: tifffile.imwrite(path, volume, rowsperstrip=7, metadata=None),
}


def test_label_values():
    assert (BACKGROUND, SURFACE, UNLABELLED) == (0, 1, 2)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "shape", [(1, 5, 6), (3, 1, 6), (3, 5, 1), (1, 1, 1), (3, 3, 3), (4, 5, 3), (4, 5, 4), (6, 20, 24)]
)
def test_round_trip_keeps_shape_dtype_and_every_voxel(tmp_path, decoder, shape, dtype):
    volume = make_volume(shape, dtype)
    write_volume(tmp_path / "a.tif", volume)
    back = read_volume(tmp_path / "a.tif")
    assert (back.shape, back.dtype) == (shape, dtype)
    np.testing.assert_array_equal(back, volume)
    assert volume_shape_and_dtype(tmp_path / "a.tif") == (shape, np.dtype(dtype))


@settings(max_examples=25, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 9)] * 3), seed=st.integers(0, 99))
def test_round_trip_of_any_shape_and_memory_order(tmp_path_factory, shape, seed):
    path = tmp_path_factory.mktemp("volumes") / "a.tif"
    volume = make_volume(shape, seed=seed).transpose(2, 0, 1)[::-1]
    write_volume(path, volume)
    np.testing.assert_array_equal(read_volume(path), volume)


def test_both_encoders_compress_with_lzw(tmp_path, decoder):
    write_volume(tmp_path / "a.tif", np.zeros((4, 64, 64), np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert {page.compression.name for page in tiff.pages} == {"LZW"}
    assert (tmp_path / "a.tif").stat().st_size < 4 * 64 * 64 / 4


def test_what_one_decoder_writes_the_other_reads(tmp_path, monkeypatch):
    volume = make_volume((1, 30, 40))
    write_volume(tmp_path / "fast.tif", volume)
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "imagecodecs", None)
        write_volume(tmp_path / "slow.tif", volume)
        np.testing.assert_array_equal(read_volume(tmp_path / "fast.tif"), volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "slow.tif"), volume)


@pytest.mark.parametrize("writer", WRITERS)
def test_files_of_other_programs_are_read(tmp_path, decoder, writer):
    volume = make_volume()
    WRITERS[writer](tmp_path / "a.tif", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), volume)
    assert volume_shape_and_dtype(tmp_path / "a.tif") == (volume.shape, np.uint8)


def test_big_endian_pixels_come_in_native_order(tmp_path, decoder):
    volume = make_volume(dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", volume, byteorder=">")
    back = read_volume(tmp_path / "a.tif")
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, volume)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.37, 0.5, 0.8, 0.9])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, decoder, writer, share):
    path = tmp_path / "cut.tif"
    WRITERS[writer](path, make_volume())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for read in (read_volume, volume_shape_and_dtype):
        with pytest.raises(InputValueError, match=r"cut\.tif is not a whole TIFF") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_damage_inside_the_pixels_is_refused(tmp_path, decoder):
    path = tmp_path / "damaged.tif"
    write_volume(path, make_volume((6, 200, 200)))
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[3].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start : start + 20000] = b"\xff" * 20000
    path.write_bytes(data)
    assert volume_shape_and_dtype(path)[0] == (6, 200, 200)
    with pytest.raises(InputValueError, match=r"damaged\.tif cannot be decoded") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_random_damage_gives_a_volume_of_the_right_shape_or_one_line(tmp_path, decoder):
    path = tmp_path / "damaged.tif"
    write_volume(path, make_volume((3, 8, 9)))
    whole, rng, messages = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(len(data), size=rng.integers(1, 8)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert read_volume(path).ndim == 3
        except InputValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)


def test_a_page_directory_in_a_circle_is_refused(tmp_path):
    path = tmp_path / "circle.tif"
    write_volume(path, make_volume())
    with tifffile.TiffFile(path) as tiff:
        offsets = [page.offset for page in tiff.pages]
        last, entries = offsets[-1], len(tiff.pages[-1].tags)
    data = bytearray(path.read_bytes())
    data[last + 2 + 12 * entries : last + 6 + 12 * entries] = offsets[0].to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputValueError, match="page 6 leads back"):
        read_volume(path)


def test_two_dimensional_tiffs_are_refused(tmp_path, decoder):
    for name, write in (("pillow", write_plain), ("tifffile", lambda path, volume: tifffile.imwrite(path, volume[0]))):
        write(tmp_path / f"{name}.tif", make_volume((1, 8, 9)))
        with pytest.raises(
            InputValueError, match=rf"{name}\.tif must be a volume \(z, y, x\), got a 2-D TIFF of 8 x 9"
        ):
            read_volume(tmp_path / f"{name}.tif")


def test_one_slice_written_by_tifffile_is_a_volume(tmp_path, decoder):
    volume = make_volume((1, 8, 9))
    tifffile.imwrite(tmp_path / "a.tif", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), volume)


def test_required_dtype(tmp_path, decoder):
    path = tmp_path / "float.tif"
    write_volume(path, make_volume(dtype="float32"))
    assert read_volume(path).dtype == np.float32
    assert read_volume(path, "float32").dtype == np.float32
    with pytest.raises(InputValueError, match=r"float\.tif must hold uint8 pixels, got float32"):
        read_volume(path, "uint8")


def test_colour_inverted_and_bilevel_pages_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((4, 8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputValueError, match=r"rgb\.tif must have one channel of whole bytes, got 3 of 8 bits"):
        read_volume(tmp_path / "rgb.tif")
    tifffile.imwrite(tmp_path / "inverted.tif", np.zeros((4, 8, 8), np.uint8), photometric="miniswhite")
    with pytest.raises(InputValueError, match=r"inverted\.tif must be grey with black as 0"):
        read_volume(tmp_path / "inverted.tif")
    tifffile.imwrite(tmp_path / "bits.tif", np.zeros((4, 8, 8), bool))
    with pytest.raises(InputValueError, match=r"bits\.tif must have one channel of whole bytes, got 1 of 1 bits"):
        read_volume(tmp_path / "bits.tif")


def test_pages_of_different_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        for edge in (8, 8, 9):
            writer.write(np.zeros((edge, 8), np.uint8))
    with pytest.raises(InputValueError, match=r"mixed\.tif must have pages of one size and pixel type, page 2 differs"):
        read_volume(tmp_path / "mixed.tif")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"must be an existing file, got .*none\.tif"):
        read_volume(tmp_path / "none.tif")
    (tmp_path / "text.tif").write_text("not a picture at all, only text")
    with pytest.raises(InputValueError, match=r"text\.tif is not a whole TIFF: no TIFF header"):
        read_volume(tmp_path / "text.tif")


def test_arrays_that_cannot_be_written(tmp_path, decoder):
    with pytest.raises(InputTypeError, match="one of uint8, uint16, float32, got int64"):
        write_volume(tmp_path / "a.tif", np.zeros((2, 2, 2), np.int64))
    with pytest.raises(InputTypeError, match="bool"):
        write_volume(tmp_path / "a.tif", np.zeros((2, 2, 2), bool))
    with pytest.raises(InputValueError, match="3 dimensions"):
        write_volume(tmp_path / "a.tif", np.zeros((2, 2), np.uint8))
    with pytest.raises(InputValueError, match="must not be empty"):
        write_volume(tmp_path / "a.tif", np.zeros((2, 0, 2), np.uint8))
    with pytest.raises(InputNotFoundError, match=r"the folder of .* must exist"):
        write_volume(tmp_path / "none" / "a.tif", np.zeros((2, 2, 2), np.uint8))
    assert os.listdir(tmp_path) == []
