"""The page directory of a TIFF: where the pixels of each page lie, and what the file says of the axes of its pages.

It is read here rather than by a library: both tifffile and Pillow return the pages they can still find when a file was cut off,
and a volume that is silently shorter than its label is the worst of all outcomes. What a file says of itself is taken at its
word only where its bytes agree.

TIFF 6.0 (1992), section 2; BigTIFF; ImageJ's and tifffile's descriptions; the OME-TIFF specification.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = (
    254, 255, 256, 257, 258, 259, 262, 266,
)  # fmt: skip
DESCRIPTION, OFFSETS, SAMPLES, ROWS_PER_STRIP, BYTE_COUNTS, PREDICTOR = 270, 273, 277, 278, 279, 317
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTE_COUNTS, SAMPLE_FORMAT = 322, 323, 324, 325, 339
IMAGE_DEPTH, TILE_DEPTH, NO_DATA = 32997, 32998, 42113
_TAGS = {
    SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER,
    DESCRIPTION, OFFSETS, SAMPLES, ROWS_PER_STRIP, BYTE_COUNTS, PREDICTOR,
    TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTE_COUNTS, SAMPLE_FORMAT,
    IMAGE_DEPTH, TILE_DEPTH, NO_DATA,
}  # fmt: skip
FOREIGN_FORMATS = {33628: "MetaMorph STK", 33629: "MetaMorph STK", 34361: "FluoView", 34412: "Zeiss LSM"}
"""Tags of microscopes' own formats, in which pages may be channels, times or planes without a page of their own."""

_TEXTS = (DESCRIPTION, NO_DATA)
_TEXT_TYPES, _NUMBER_TYPES = {2: "s"}, {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_TAGS = 4096
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED = 2  # value of SubfileType


Page = dict[int, tuple[Any, ...]]
"""Numbers of a page's tags to their values: integers, but for texts, which are one value of bytes."""


class TiffError(ValueError):
    """The page directory breaks off, points outside the file or contradicts itself; the message says how."""


class Note(NamedTuple):
    """What a file's description says of its pages."""

    program: str
    """Whose note it is."""
    axes: tuple[tuple[str, int], ...]
    """Name ("" where the note has none) and length of every axis above the page; those of length 1 are left out."""
    n_pages: int
    """The product of all their lengths."""
    is_stack: bool = False
    """Whether the note is of an array with an axis above the page, be it of length 1."""


def walk_pages(stream: BinaryIO, file_size: int) -> Iterator[Page]:
    """Yield the tags of every page that decide how pixels are read, and raise at the first page that is cut off.

    ``file_size`` is in bytes. The tags of `FOREIGN_FORMATS` are there with an empty tuple.
    """
    start = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2], "")
    version = struct.unpack(order + "H", start[2:4])[0] if order and len(start) == 16 else None
    if version == 42:
        count_format, entry_format, offset_format = order + "H", order + "HHI4s", order + "I"
        offset = struct.unpack(offset_format, start[4:8])[0]
    elif version == 43:
        count_format, entry_format, offset_format = order + "Q", order + "HHQ8s", order + "Q"
        offset = struct.unpack(offset_format, start[8:16])[0]
    else:
        raise TiffError("no TIFF header")
    entry_size = struct.calcsize(entry_format)
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise TiffError(f"page {len(seen)} leads back to an earlier one")
        seen.add(offset)
        number = len(seen) - 1
        count = struct.unpack(
            count_format, _read_exactly(stream, offset, struct.calcsize(count_format), file_size, number)
        )[0]
        if count > _MAX_TAGS:
            raise TiffError(f"page {number} claims {count} tags")
        block = _read_exactly(
            stream, stream.tell(), count * entry_size + struct.calcsize(offset_format), file_size, number
        )
        tags: Page = {}
        for tag, kind, length, value in struct.iter_unpack(entry_format, block[: count * entry_size]):
            if tag in FOREIGN_FORMATS:
                tags[tag] = ()
            elif tag in _TAGS and length and (letter := (_TEXT_TYPES if tag in _TEXTS else _NUMBER_TYPES).get(kind)):
                size = length * struct.calcsize(order + letter)
                if size > len(value):
                    value = _read_exactly(stream, struct.unpack(offset_format, value)[0], size, file_size, number)
                tags[tag] = struct.unpack(f"{order}{length}{letter}", value[:size])
        _check_data_lies_in_file(tags, file_size, number)
        yield tags
        offset = struct.unpack(offset_format, block[count * entry_size :])[0]
    if not seen:
        raise TiffError("no page")


def is_slice(page: Page) -> bool:
    """Return whether a page is a picture of its own, not a smaller copy (thumbnail, pyramid) or a mask of another."""
    is_copy_or_mask = page.get(SUBFILE_TYPE, (0,))[0] & (_REDUCED | _MASK)
    return not is_copy_or_mask and page.get(OLD_SUBFILE_TYPE) != (_OLD_REDUCED,)


def count_segments(page: Page) -> int:
    """Return how many strips or tiles the size of a page asks for."""
    rows, columns = segment_size(page)
    length, width, depth = page[LENGTH][0], page[WIDTH][0], page.get(IMAGE_DEPTH, (1,))[0]
    if min(rows, columns, length, width, depth) < 1:
        raise TiffError("a page, strip or tile is 0 wide or long")
    return -(-length // rows) * -(-width // columns) * depth


def segment_size(page: Page) -> tuple[int, int]:
    """Return rows and columns of a page's tiles, or of its strips."""
    if TILE_OFFSETS not in page:
        length = page[LENGTH][0]
        return min(page.get(ROWS_PER_STRIP, (length,))[0], length), page[WIDTH][0]
    if TILE_LENGTH not in page or TILE_WIDTH not in page:
        raise TiffError("its tiles have no size")
    return page[TILE_LENGTH][0], page[TILE_WIDTH][0]


def read_note(description: bytes, length: int, width: int) -> Note | None:
    """Return what a page's description says of the axes above the page, ``length`` and ``width`` being the page's own.

    ImageJ's descriptions (and SCIFIO's, which uses the same words), OME's and tifffile's are read; None for any other.
    """
    text = description.rstrip(b"\0 \r\n").decode("utf-8", "replace")
    if text.startswith(("ImageJ=", "SCIFIO=")):
        lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        found = {name: _read_count(lines.get(name, "1")) for name in ("frames", "slices", "channels", "images")}
        axes = [("times", found["frames"]), ("slices", found["slices"]), ("channels", found["channels"])]
        if math.prod(n for _, n in axes) == 1:
            axes = [("images", found["images"])]
        return _make_note("ImageJ", axes)
    if "<OME" in text or ":OME" in text:
        pictures = re.findall(r"<(?:\w+:)?Pixels\b([^>]*)>", text)
        if len(pictures) > 1:
            return _make_note("OME", [("pictures", len(pictures)), *_read_ome_axes(pictures[0])])
        return _make_note("OME", _read_ome_axes(pictures[0])) if pictures else None
    if text.startswith("{"):
        return _read_json_note(text, length, width)
    return None


def _read_count(text: str) -> int:
    # 0 agrees with no number of pages.
    return int(text) if text.strip().isascii() and text.strip().isdigit() and len(text) < 12 else 0


def _read_ome_axes(attributes: str) -> list[tuple[str, int]]:
    sizes = dict(re.findall(r"\bSize([ZCT])\s*=\s*[\"'](\d{1,12})[\"']", attributes))
    return [(name, int(sizes.get(letter, "1"))) for letter, name in zip("TCZ", ("times", "channels", "slices"))]


def _read_json_note(text: str, length: int, width: int) -> Note | None:
    try:
        note = json.loads(text)
        shape, letters = note["shape"], str(note.get("axes", ""))
        if not all(type(edge) is int and edge >= 0 for edge in shape):
            return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    # A last axis of 1 is tifffile's, for a channel.
    n_page_axes = 3 if shape[-2:] != [length, width] and shape[-3:] == [length, width, 1] else 2
    if len(shape) < n_page_axes:
        return None
    names = {"Z": "slices", "C": "channels", "T": "times"}
    letters = letters if len(letters) == len(shape) else " " * len(shape)
    axes = [(names.get(letter, ""), n) for letter, n in zip(letters, shape[:-n_page_axes])]
    return _make_note("tifffile", axes)._replace(is_stack=bool(axes))


def _make_note(program: str, axes: Sequence[tuple[str, int]]) -> Note:
    return Note(program, tuple((name, n) for name, n in axes if n != 1), math.prod(n for _, n in axes))


def _check_data_lies_in_file(tags: Page, file_size: int, number: int) -> None:
    offsets = tags.get(OFFSETS) or tags.get(TILE_OFFSETS)
    sizes = tags.get(BYTE_COUNTS) or tags.get(TILE_BYTE_COUNTS)
    if not offsets or not sizes or len(offsets) != len(sizes) or not tags.get(WIDTH) or not tags.get(LENGTH):
        raise TiffError(f"page {number} does not say where its pixels are")
    if max(offset + size for offset, size in zip(offsets, sizes)) > file_size:
        raise TiffError(f"it breaks off in the pixels of page {number}")


def _read_exactly(stream: BinaryIO, offset: int, size: int, file_size: int, number: int) -> bytes:
    # Asked first: a damaged length would otherwise fetch gigabytes to no purpose.
    if offset + size > file_size:
        raise TiffError(f"it breaks off at page {number}")
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        raise TiffError(f"it breaks off at page {number}")
    return data
