"""TIFFs of other programs: every pixel type, codec, predictor, byte order and layout, stacks, hyperstacks, damage.

The values are compared with those that were written, and so with what tifffile reads.
"""

import itertools
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile

from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype, write_volume

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
LAYOUTS = {"strips": {"rowsperstrip": 7}, "tiles": {"tile": (16, 32)}}
SHAPE = (3, 20, 40)


def make_values(dtype, shape=SHAPE, seed=0):
    return (np.random.default_rng(seed).random(shape) * 100).astype(dtype)


def predictors_of(dtype, codec):
    """No predictor, differences of integers, differences of floats' bytes; none without a codec."""
    return [None] if codec is None else [None, 3] if np.dtype(dtype).kind == "f" else [None, 2]


def write_form(path, values, codec, predictor, layout, order, **more):
    tifffile.imwrite(
        path, values, compression=codec, predictor=predictor, byteorder=order, photometric="minisblack",
        **LAYOUTS[layout], **more,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", [None, "lzw", "zlib", "packbits", "lzma", "zstd"])
def test_every_form_is_read_with_its_values(tmp_path, dtype, codec):
    """A2: big-endian compressed floats were swapped twice. D2: compressed int16, uint32, float64 were refused."""
    if codec is not None:
        pytest.importorskip("imagecodecs")
    values = make_values(dtype)
    for predictor, layout, order in itertools.product(predictors_of(dtype, codec), LAYOUTS, "<>"):
        write_form(tmp_path / "a.tif", values, codec, predictor, layout, order)
        back = read_volume(tmp_path / "a.tif", dtype)
        assert back.dtype.isnative
        np.testing.assert_array_equal(back, values, err_msg=f"{predictor}, {layout}, {order}")


READER = """
import sys
sys.modules["imagecodecs"] = None
from vesuvius_kit.io.volume import read_volume
for path in sys.argv[1:]:
    try:
        print(read_volume(path).tobytes().hex())
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_without_imagecodecs_all_but_zstandard_and_float_differences_are_read(tmp_path):
    """Kaggle's image has none. What needs it is said in words that are true."""
    pytest.importorskip("imagecodecs")
    forms = {}
    for dtype, codec in itertools.product(["uint8", "int16", "float32"], ["lzw", "zlib", "packbits", "lzma", "zstd"]):
        values = make_values(dtype)
        for predictor, layout, order in itertools.product(predictors_of(dtype, codec), LAYOUTS, "<>"):
            path = tmp_path / f"{dtype}_{codec}_{predictor}_{layout}_{'big' if order == '>' else 'little'}.tif"
            write_form(path, values, codec, predictor, layout, order)
            forms[str(path)] = values, codec, predictor
    done = subprocess.run([sys.executable, "-c", READER, *forms], capture_output=True, text=True, check=True)
    for (path, (values, codec, predictor)), line in zip(forms.items(), done.stdout.splitlines(), strict=True):
        if line.startswith("Input"):
            # Newer Pythons bring Zstandard themselves.
            assert codec == "zstd" or (predictor == 3 and codec != "lzw"), path
            assert (
                line
                == f"InputValueError {path} cannot be decoded: tifffile needs imagecodecs for it: pip install imagecodecs"
            )
        else:
            assert line == values.tobytes().hex(), path


def test_a_padded_last_lzw_strip_is_read(tmp_path):
    """D4: libtiff and tifffile read it."""
    imagecodecs = pytest.importorskip("imagecodecs")
    values = make_values("uint16", (2, 10, 9))
    strips = [page[first : first + 4] for page in values for first in range(0, 10, 4)]
    strips = [np.concatenate([strip, np.full((4 - len(strip), 9), 7, np.uint16)]) for strip in strips]
    coded = [imagecodecs.lzw_encode(strip.tobytes()) for strip in strips]
    write_by_hand(tmp_path / "a.tif", coded, (2, 10, 9), 16, rows=4, compression=5)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), values)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), values)


def write_by_hand(path, coded, shape, bits, *, rows, compression, extra=()):
    """Write a little-endian TIFF of strips as they are given, with so many rows each."""
    n_pages, length, width = shape
    per_page = -(-length // rows)
    with open(path, "wb") as stream:
        stream.write(b"II*\0\0\0\0\0")
        link = 4
        for page in range(n_pages):
            strips = coded[page * per_page : (page + 1) * per_page]
            offsets = []
            for strip in strips:
                offsets.append(stream.tell())
                stream.write(strip)
            columns = {}
            for tag, column in ((273, offsets), (279, [len(strip) for strip in strips])):
                columns[tag] = stream.tell()
                stream.write(struct.pack(f"<{len(column)}I", *column))
            tags = {256: width, 257: length, 258: bits, 259: compression, 262: 1, 277: 1, 278: rows, **dict(extra)}
            entries = [(tag, 4, 1, value) for tag, value in tags.items()]
            entries += [
                (tag, 4, per_page, place if per_page > 1 else [offsets[0], len(strips[0])][tag == 279])
                for tag, place in columns.items()
            ]
            directory = stream.tell()
            stream.write(struct.pack("<H", len(entries)))
            for entry in sorted(entries):
                stream.write(struct.pack("<HHII", *entry))
            end = stream.tell()
            stream.write(bytes(4))
            stream.seek(link)
            stream.write(struct.pack("<I", directory))
            stream.seek(0, 2)
            link = end


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", [{"imagej": True}, {}])
def test_a_stack_behind_one_page_directory_is_read(tmp_path, kind, dtype, order):
    """D4: ImageJ writes so above 4 GB, tifffile when it is asked to."""
    values = make_values(dtype)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values, truncate=True, byteorder=order, photometric="minisblack", **kind)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
    np.testing.assert_array_equal(read_volume(path), values)
    assert volume_shape_and_dtype(path) == (SHAPE, np.dtype(dtype))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputValueError, match=r"stack\.tif is not a whole TIFF: it breaks off in the pixels"):
        read_volume(path)


@pytest.mark.parametrize("codec", [None, "lzw", "zlib"])
def test_slices_stored_as_the_depth_of_one_page_are_read(tmp_path, codec):
    """D4: SGI's extension, which tifffile calls volumetric."""
    if codec == "lzw":
        pytest.importorskip("imagecodecs")
    values = make_values("uint16")
    tifffile.imwrite(
        tmp_path / "a.tif", values, volumetric=True, compression=codec, photometric="minisblack", rowsperstrip=7
    )
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), values)


HYPERSTACKS = {
    "imagej channels": ({"imagej": True, "metadata": {"axes": "CZYX"}}, "6 slices x 2 channels"),
    "imagej times": ({"imagej": True, "metadata": {"axes": "TZYX"}}, "2 times x 6 slices"),
    "ome channels": ({"ome": True, "metadata": {"axes": "CZYX"}}, "2 channels x 6 slices"),
    "ome times": ({"ome": True, "metadata": {"axes": "TZYX"}}, "2 times x 6 slices"),
    "tifffile without names": ({}, "2 x 6 x 20 x 40"),
    "tifffile with names": ({"metadata": {"axes": "CZYX"}}, "2 channels x 6 slices"),
    "tifffile compressed": ({"compression": "zlib", "metadata": {"axes": "TZYX"}}, "2 times x 6 slices"),
}


@pytest.mark.parametrize("form", HYPERSTACKS)
def test_hyperstacks_are_refused_with_their_axes(tmp_path, form):
    """A3: 2 channels or times of 6 slices were read as 12 slices."""
    options, axes = HYPERSTACKS[form]
    values = make_values("uint8", (2, 6, 20, 40))
    if options.get("imagej") and options["metadata"]["axes"] == "CZYX":
        values, options = values.swapaxes(0, 1), {**options, "metadata": {"axes": "ZCYX"}}
    tifffile.imwrite(tmp_path / "hyper.tif", values, photometric="minisblack", **options)
    for read in (read_volume, volume_shape_and_dtype):
        with pytest.raises(InputValueError, match=r"hyper\.tif must be one volume \(z, y, x\), got ") as caught:
            read(tmp_path / "hyper.tif")
        assert axes in str(caught.value)
        assert "x 20 x 40" in str(caught.value)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}], ids=["imagej", "ome", "tifffile"])
@pytest.mark.parametrize("axes", [None, "ZYX", "CYX", "TYX"])
def test_one_axis_above_the_page_is_z_whatever_it_is_called(tmp_path, options, axes):
    """A3: tifffile calls slices channels in ImageJ's and OME's form unless it is told."""
    values = make_values("uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", metadata={"axes": axes} if axes else {}, **options
    )
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("options", [{"ome": True}, {}], ids=["ome", "tifffile"])
def test_axes_of_length_one_do_not_count(tmp_path, options):
    """A3: one channel, one time."""
    values = make_values("uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", values[None, :, None], photometric="minisblack", metadata={"axes": "TZCYX"}, **options
    )
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), values)


def test_smaller_copies_and_masks_of_pages_do_not_count(tmp_path):
    """A3: thumbnails among the pages, pyramids in sub-directories."""
    values = make_values("uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in values:
            writer.write(page, photometric="minisblack", metadata=None, subifds=1)
            writer.write(page[::2, ::2], photometric="minisblack", metadata=None, subfiletype=1)
            writer.write(page[::4, ::4], photometric="minisblack", metadata=None, subfiletype=1)
            writer.write(page > 50, photometric="minisblack", metadata=None, subfiletype=4)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), values)
    tifffile.imwrite(tmp_path / "b.tif", values, subfiletype=1, photometric="minisblack")
    with pytest.raises(InputValueError, match=r"b\.tif must hold slices, got thumbnails or masks only"):
        read_volume(tmp_path / "b.tif")


def test_two_volumes_in_one_file_and_notes_that_disagree_are_refused(tmp_path):
    """A3: the pages and the file's own note must agree."""
    values = make_values("uint8")
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(values, photometric="minisblack")
        writer.write(values, photometric="minisblack")
    with pytest.raises(InputValueError, match=r"got 6 pages where its note \(tifffile's\) says 3"):
        read_volume(tmp_path / "two.tif")
    tifffile.imwrite(tmp_path / "one.tif", values[0], description="ImageJ=1.53\nimages=9\nslices=9\n", metadata=None,
                     compression="zlib")  # fmt: skip
    with pytest.raises(InputValueError, match=r"got a single page where its note \(ImageJ's\) says 9"):
        read_volume(tmp_path / "one.tif")


def test_pages_written_one_by_one_are_a_volume(tmp_path):
    """Each has a note of its own, which says nothing of the others."""
    values = make_values("uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in values:
            writer.write(page, photometric="minisblack")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), values)


def test_formats_of_microscopes_are_refused_by_name(tmp_path):
    values = make_values("uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", metadata=None, extratags=[(34412, 7, 4, b"1234")]
    )
    with pytest.raises(InputValueError, match=r"a\.tif must be a plain TIFF, got the form of Zeiss LSM"):
        read_volume(tmp_path / "a.tif")


def test_pages_of_several_codecs_are_read(tmp_path):
    pytest.importorskip("imagecodecs")
    values = make_values("uint16", (4, 20, 40))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page, options in zip(values, ({"compression": "lzw"}, {"compression": "zlib", "tile": (16, 16)}, {},
                                          {"compression": "lzw", "predictor": 2, "tile": (32, 16)})):  # fmt: skip
            writer.write(page, photometric="minisblack", metadata=None, **options)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), values)


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-3.4e38, "-3.4e+38")])
def test_a_volume_with_no_data_is_refused_by_its_name(tmp_path, value, shown):
    """B4: the message named a mean that nobody gave, and no file."""
    values = make_values("float32")
    values[1, 2, 3] = values[2, 0, 0] = value
    write_volume(tmp_path / "7.tif", values)
    with pytest.raises(InputValueError) as caught:
        read_volume(tmp_path / "7.tif")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / '7.tif'} must hold finite grey values")
    assert f"got {shown} at (z, y, x) = (1, 2, 3), and 2 such voxels of 2400" in message


def test_a_file_that_names_its_own_mark_for_no_data(tmp_path):
    """B4: GDAL's tag; 0 is simply black."""
    values = make_values("int16")
    values[0, 0, 0] = 0
    for mark, refused in ((-9999, True), (0, False), (-32768, False)):
        part = values.copy()
        if refused:
            part[0, 1] = mark
        tifffile.imwrite(tmp_path / "a.tif", part, photometric="minisblack", extratags=[(42113, 2, 0, str(mark))])
        if refused:
            with pytest.raises(
                InputValueError, match=r"a\.tif must not hold its own mark for 'no data', -9999, got it in 40 of"
            ):
                read_volume(tmp_path / "a.tif")
        else:
            np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), part)


def test_a_short_strip_is_refused_and_not_filled_up(tmp_path):
    """A volume that is silently wrong is worse than none: tifffile gives zeros for an empty strip."""
    page = bytes(range(200))
    for name, strips in {
        "short": [zlib.compress(page), zlib.compress(page[:150])],
        "empty": [zlib.compress(page), b""],
        "plain": [page, page[:150]],
    }.items():
        compression = 1 if name == "plain" else 8
        write_by_hand(tmp_path / f"{name}.tif", strips, (2, 10, 20), 8, rows=10, compression=compression)
        with pytest.raises(InputValueError, match=rf"{name}\.tif cannot be decoded"):
            read_volume(tmp_path / f"{name}.tif")


@pytest.mark.parametrize("tag", [270, 273, 279, 256, 259, 42113])
@pytest.mark.parametrize("kind", [1, 2, 3, 5, 12, 76])
def test_tags_of_a_foreign_type_are_one_line_or_left_aside(tmp_path, tag, kind):
    values = make_values("uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", rowsperstrip=7, extratags=[(42113, 2, 0, "-9999")]
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages[0].tags[tag].offset
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[place + 2] = kind
    (tmp_path / "a.tif").write_bytes(data)
    try:
        np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), values)
    except InputError as error:
        message = str(error)
        if "\n" in message or not message.startswith(str(tmp_path / "a.tif")):
            raise AssertionError(message) from error


MUTATED = {
    "kit": lambda path, values: write_volume(path, values),
    "tiles": lambda path, values: write_form(path, values, "lzw", 2, "tiles", ">"),
    "zlib": lambda path, values: write_form(path, values, "zlib", 2, "strips", "<"),
    "zstd tiles": lambda path, values: write_form(path, values, "zstd", None, "tiles", "<"),
    "packbits": lambda path, values: write_form(path, values, "packbits", None, "strips", ">"),
    "plain bigtiff": lambda path, values: write_form(path, values, None, None, "strips", "<", bigtiff=True),
    "imagej": lambda path, values: tifffile.imwrite(path, values, imagej=True, truncate=True),
    "ome": lambda path, values: tifffile.imwrite(path, values, ome=True, photometric="minisblack"),
}
MUTATIONS = 80


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", MUTATED)
def test_mutated_files_give_a_volume_or_one_line(tmp_path, form, monkeypatch):
    """No traceback, no hang, and no more memory than so small a file can need, whatever its lengths claim."""
    pytest.importorskip("imagecodecs")
    path = tmp_path / "mutant.tif"
    MUTATED[form](path, make_values("uint16", (3, 10, 12)))
    whole, random, messages = path.read_bytes(), np.random.default_rng(1), []
    empty, sizes = np.empty, [0.0]

    def note_size(shape, *more, **named):
        sizes.append(np.prod(shape, dtype=float))
        return empty(shape, *more, **named)

    monkeypatch.setattr(np, "empty", note_size)
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(whole, random))
        try:
            volume = read_volume(path)
        except InputError as error:
            messages.append(str(error))
        else:
            assert volume.ndim == 3
            assert volume.size > 0
    assert len(messages) > MUTATIONS / 8
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)
    # The largest that Zstandard can make of so many bytes.
    assert max(sizes) < 40_000 * len(whole)


def mutate(whole, random):
    """Change one to four places: a byte, a number of the page directory that becomes huge, a piece cut out or repeated."""
    data = bytearray(whole)
    for _ in range(random.integers(1, 5)):
        place = int(random.integers(len(data)))
        kind = random.integers(5)
        if kind == 0:
            data[place] = random.integers(256)
        elif kind == 1:
            data[place : place + 4] = random.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x01\0\0\0"]
            )
        elif kind == 2:
            del data[place : place + int(random.integers(1, 40))]
        elif kind == 3:
            data[place:place] = data[place : place + int(random.integers(1, 40))]
        else:
            data[place] ^= 1 << int(random.integers(8))
        data = data or bytearray(b"\0")
    return bytes(data)
