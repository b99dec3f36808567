"""TIFF volumes in and out, the label values, and files that appear whole or not at all.

A volume is an array ``(z, y, x)`` stored as a TIFF with one page for each z. The page directory is read here rather
than by a library: both tifffile and Pillow return the pages they can still find when a file was cut off, and a volume
that is silently shorter than its label is the worst of all outcomes. LZW pixels, the competition's, are decoded here too
(`vesuvius_kit.lzw`), since imagecodecs, the usual decoder, takes the process down when they are damaged; other compressed
pixels by Pillow, plain ones by tifffile.
"""

import json
import os
import secrets
import struct
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vesuvius_kit.checks import InputNotFoundError, InputTypeError, InputValueError, check_array, check_file

BACKGROUND, SURFACE, UNLABELLED = 0, 1, 2
"""Label values: looked at and not surface, surface, and not looked at (neither of the two)."""

_WRITABLE_DTYPES = ("uint8", "uint16", "float32")  # what Pillow and tifffile both write
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _DESCRIPTION, _SAMPLES, _SAMPLE_FORMAT = 256, 257, 258, 259, 270, 277, 339
_PHOTOMETRIC, _BLACK_IS_ZERO = 262, (1,)
_ROWS_PER_STRIP, _PREDICTOR = 278, 317
# Deflate (two numbers), PackBits, LZMA, Zstandard. The codecs of pictures (CCITT, JPEG and so on) are not for volumes.
_NONE, _LZW, _OTHERS = (1,), (5,), {(8,), (32946,), (32773,), (34925,), (50000,)}
_OFFSETS, _BYTE_COUNTS, _TILE_OFFSETS, _TILE_BYTE_COUNTS = 273, 279, 324, 325
_TAGS = {
    _WIDTH, _LENGTH, _BITS, _COMPRESSION, _DESCRIPTION, _SAMPLES, _SAMPLE_FORMAT, _PHOTOMETRIC,
    _ROWS_PER_STRIP, _PREDICTOR,
    _OFFSETS, _BYTE_COUNTS, _TILE_OFFSETS, _TILE_BYTE_COUNTS,
}  # fmt: skip
_TAG_TYPES = {2: "s", 3: "H", 4: "I", 16: "Q"}
_KINDS = {1: "u", 2: "i", 3: "f"}  # TIFF SampleFormat to dtype.kind


class _Header(NamedTuple):
    shape: tuple[int, int, int]
    dtype: np.dtype
    order: str  # the file's byte order, "<" or ">"
    pages: list[dict]  # tag: values


class _BrokenTiffError(Exception):
    """The page directory breaks off or points outside the file; the message says how."""


def read_volume(path, dtype=None) -> np.ndarray:
    """Read a multi-page TIFF as one array.

    Parameters
    ----------
    path : str or Path
        A TIFF or BigTIFF with one page of one channel for each z, compressed without loss or not (LZW in the competition). A
        file of a single page is a volume only if `write_volume` or tifffile wrote it from an array (1, Y, X).
    dtype : dtype-like, optional
        Required pixel type, for example ``"uint8"``; nothing is converted. None allows any.

    Returns
    -------
    numpy.ndarray
        Shape (Z, Y, X), in the file's pixel type and the machine's byte order.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    InputValueError
        Not a TIFF, cut off, corrupt, 2-D, several channels, pages of different sizes, or another pixel type; one line
        that names the file.
    """
    path = check_file("volume", path)
    header = _read_header(path)
    if dtype is not None and header.dtype != np.dtype(dtype):
        raise InputValueError(f"{path} must hold {np.dtype(dtype)} pixels, got {header.dtype}")
    compressions = {page.get(_COMPRESSION, _NONE) for page in header.pages}
    if foreign := compressions - {_NONE, _LZW} - _OTHERS:
        raise InputValueError(
            f"{path} must have lossless pixels (LZW in the competition), got TIFF compression {min(foreign)}"
        )
    if compressions == {_NONE}:
        decode = _decode_with_tifffile
    elif compressions == {_LZW} and all(_is_plain_strips(page) for page in header.pages):
        decode = _decode_lzw
    else:
        decode = _decode_with_pillow
    try:
        return decode(path, header)
    # Decoders of damaged data raise whatever they stumble over, Pillow for example a SyntaxError.
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError, LookupError, TypeError, struct.error) as error:
        raise InputValueError(f"{path} cannot be decoded: {_one_line(error)}") from error


def write_volume(path, array) -> None:
    """Write an array as a multi-page TIFF, LZW-compressed, whole or not at all.

    Parameters
    ----------
    path : str or Path
        Where to; the folder must exist. A file that is there is replaced.
    array : numpy.ndarray
        Shape (Z, Y, X), no axis empty; uint8, uint16 or float32.

    Raises
    ------
    InputTypeError
        Another pixel type.
    InputValueError
        Not three axes, or an empty one.
    InputNotFoundError
        The folder does not exist.
    """
    check_array("array", array, kinds="uif")
    if array.dtype.name not in _WRITABLE_DTYPES:
        raise InputTypeError(f"array must be one of {', '.join(_WRITABLE_DTYPES)}, got {array.dtype}")
    if 0 in array.shape:
        raise InputValueError(f"array must not be empty, got shape {array.shape}")
    # The note is what tells a volume of one slice from a picture.
    note = json.dumps({"shape": list(array.shape)})
    encode = _encode_with_tifffile if find_spec("imagecodecs") else _encode_with_pillow
    with write_atomically(path, "w+b") as stream:
        encode(stream, array, note)


def volume_shape_and_dtype(path) -> tuple[tuple[int, int, int], np.dtype]:
    """Read a volume's shape and pixel type from its page directory, without decoding a pixel.

    Parameters
    ----------
    path : str or Path
        As `read_volume` takes it.

    Returns
    -------
    shape : tuple of int
        (Z, Y, X).
    dtype : numpy.dtype
        In the machine's byte order.

    Raises
    ------
    InputNotFoundError, InputValueError
        As `read_volume`; damage inside the compressed pixels is not seen.
    """
    header = _read_header(check_file("volume", path))
    return header.shape, header.dtype


@contextmanager
def write_atomically(path, mode: str = "w"):
    """Open a temporary file beside ``path`` that takes its place only when the block ends without an error.

    Parameters
    ----------
    path : str or Path
        The file that shall appear. What was there stays untouched until then.
    mode : str
        As in `open`: "w" for text (UTF-8, newlines as written), "wb" or "w+b" for bytes.

    Yields
    ------
    file object

    Raises
    ------
    InputNotFoundError
        The folder of ``path`` does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputNotFoundError(f"the folder of {path} must exist")
    # Hidden and with another ending, so that a killed run leaves nothing that looks like a result.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(part, mode, **text) as stream:
            yield stream
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _is_plain_strips(page) -> bool:
    """Whether a page is what `_decode_lzw` reads: strips of whole rows, no tiles, rows stored as they are."""
    if _OFFSETS not in page or page.get(_PREDICTOR, (1,)) != (1,):
        return False
    length, rows = page[_LENGTH][0], page.get(_ROWS_PER_STRIP, page[_LENGTH])[0]
    return rows > 0 and len(page[_OFFSETS]) == -(-length // rows)


def _decode_lzw(path, header) -> np.ndarray:
    from vesuvius_kit.lzw import decode_strips

    _, length, width = header.shape
    offsets, byte_counts, sizes = [], [], []
    for page in header.pages:
        rows = page.get(_ROWS_PER_STRIP, (length,))[0]
        offsets += page[_OFFSETS]
        byte_counts += page[_BYTE_COUNTS]
        sizes += [min(rows, length - row) * width * header.dtype.itemsize for row in range(0, length, rows)]
    data = np.fromfile(path, np.uint8)
    pixels = decode_strips(data, *(np.array(column, np.int64) for column in (offsets, byte_counts, sizes)))
    stored = pixels.view(header.dtype.newbyteorder(header.order))
    return stored.astype(header.dtype, copy=False).reshape(header.shape)


def _decode_with_tifffile(path, header) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        volume = tiff.asarray(key=range(header.shape[0]))
    return volume.astype(header.dtype, copy=False).reshape(header.shape)


def _decode_with_pillow(path, header) -> np.ndarray:
    from PIL import Image

    volume = np.empty(header.shape, header.dtype)
    with Image.open(path) as image:
        for z in range(len(volume)):
            image.seek(z)
            page = np.asarray(image)
            if page.dtype.newbyteorder("=") != volume.dtype:
                raise ValueError(f"Pillow decodes {volume.dtype} as {page.dtype}; install imagecodecs")
            volume[z] = page
    return volume


def _encode_with_tifffile(stream, array, note) -> None:
    import tifffile

    with tifffile.TiffWriter(stream, bigtiff=array.nbytes > 2**31) as writer:
        # Page by page: given the whole array, tifffile takes a last axis of 1 for channels.
        for z, page in enumerate(array):
            writer.write(
                page,
                compression="lzw",
                photometric="minisblack",
                rowsperstrip=len(page),
                metadata=None,
                description=note if z == 0 else None,
            )


def _encode_with_pillow(stream, array, note) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(np.ascontiguousarray(page)) for page in array)
    first.save(
        stream, "TIFF", compression="tiff_lzw", tiffinfo={_DESCRIPTION: note}, save_all=True, append_images=others
    )


def _read_header(path: Path) -> _Header:
    try:
        with open(path, "rb") as stream:
            order = "<" if stream.read(2) == b"II" else ">"
            stream.seek(0)
            pages = list(_walk_pages(stream, path.stat().st_size))
        first = pages[0]
        # TIFF's defaults: one bit, one channel, unsigned.
        bits, samples = first.get(_BITS, (1,)), first.get(_SAMPLES, (1,))
        if samples != (1,) or bits[0] % 8:
            raise InputValueError(f"{path} must have one channel of whole bytes, got {samples[0]} of {bits[0]} bits")
        if first.get(_PHOTOMETRIC, _BLACK_IS_ZERO) != _BLACK_IS_ZERO:
            # Pillow inverts such pages and tifffile does not.
            raise InputValueError(f"{path} must be grey with black as 0, got an inverted or coloured TIFF")
        dtype = np.dtype(f"{_KINDS[first.get(_SAMPLE_FORMAT, (1,))[0]]}{bits[0] // 8}")
        length, width = first[_LENGTH][0], first[_WIDTH][0]
    except _BrokenTiffError as error:
        raise InputValueError(f"{path} is not a whole TIFF: {error}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise InputValueError(f"{path} has a pixel type that NumPy does not know") from error
    for z, page in enumerate(pages):
        if any(page.get(tag) != first.get(tag) for tag in (_LENGTH, _WIDTH, _BITS, _SAMPLES, _SAMPLE_FORMAT)):
            raise InputValueError(f"{path} must have pages of one size and pixel type, page {z} differs from the first")
    if len(pages) == 1 and not _notes_one_slice(first, length, width):
        raise InputValueError(f"{path} must be a volume (z, y, x), got a 2-D TIFF of {length} x {width}")
    return _Header((len(pages), length, width), dtype, order, pages)


def _notes_one_slice(page, length, width) -> bool:
    note = page.get(_DESCRIPTION, (b"",))[0].rstrip(b"\0 ")
    return note.replace(b" ", b"") == b'{"shape":[1,%d,%d]}' % (length, width)


def _walk_pages(stream, file_size):
    """Yield the tags of every page and raise at the first that is cut off: TIFF 6.0, section 2, and BigTIFF."""
    start = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = struct.unpack(order + "H", start[2:4])[0] if order and len(start) == 16 else None
    if version == 42:
        count_format, entry_format, offset_format = order + "H", order + "HHI4s", order + "I"
        offset = struct.unpack(offset_format, start[4:8])[0]
    elif version == 43:
        count_format, entry_format, offset_format = order + "Q", order + "HHQ8s", order + "Q"
        offset = struct.unpack(offset_format, start[8:16])[0]
    else:
        raise _BrokenTiffError("no TIFF header")
    entry_size = struct.calcsize(entry_format)
    seen = set()
    while offset:
        if offset in seen:
            raise _BrokenTiffError(f"page {len(seen)} leads back to an earlier one")
        seen.add(offset)
        number = len(seen) - 1
        count = struct.unpack(
            count_format, _read_exactly(stream, offset, struct.calcsize(count_format), file_size, number)
        )[0]
        if count > 4096:
            raise _BrokenTiffError(f"page {number} claims {count} tags")
        block = _read_exactly(
            stream, stream.tell(), count * entry_size + struct.calcsize(offset_format), file_size, number
        )
        tags = {}
        for tag, kind, length, value in struct.iter_unpack(entry_format, block[: count * entry_size]):
            if tag in _TAGS and kind in _TAG_TYPES:
                letter = _TAG_TYPES[kind]
                size = length * struct.calcsize(order + letter)
                if size > len(value):
                    value = _read_exactly(stream, struct.unpack(offset_format, value)[0], size, file_size, number)
                tags[tag] = struct.unpack(f"{order}{length}{letter}", value[:size])
        _check_data_lies_in_file(tags, file_size, number)
        yield tags
        offset = struct.unpack(offset_format, block[count * entry_size :])[0]
    if not seen:
        raise _BrokenTiffError("no page")


def _check_data_lies_in_file(tags, file_size, number) -> None:
    offsets = tags.get(_OFFSETS) or tags.get(_TILE_OFFSETS)
    sizes = tags.get(_BYTE_COUNTS) or tags.get(_TILE_BYTE_COUNTS)
    if not offsets or not sizes or len(offsets) != len(sizes) or _WIDTH not in tags or _LENGTH not in tags:
        raise _BrokenTiffError(f"page {number} does not say where its pixels are")
    if max(offset + size for offset, size in zip(offsets, sizes)) > file_size:
        raise _BrokenTiffError(f"it breaks off in the pixels of page {number}")


def _read_exactly(stream, offset, size, file_size, number) -> bytes:
    # Asked first: a damaged length would otherwise fetch gigabytes to no purpose.
    stream.seek(offset)
    data = stream.read(size) if offset + size <= file_size else b""
    if len(data) != size:
        raise _BrokenTiffError(f"it breaks off at page {number}")
    return data


def _one_line(error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
