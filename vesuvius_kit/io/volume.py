"""TIFF volumes in and out.

A volume is an array ``(z, y, x)`` stored as a TIFF with one page for each z. The page directory is read by the kit
(`tiff.py`), and so are LZW pixels, the competition's (`lzw.py`), since imagecodecs, the usual decoder, takes the process down
when they are damaged. All other pixels are read by tifffile, a page at a time.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vesuvius_kit.checks import (
    InputTypeError,
    InputValueError,
    check_array,
    check_file,
    name_os_errors,
    one_line,
)
from vesuvius_kit.io import tiff
from vesuvius_kit.io.atomic import write_atomically

_WRITABLE_DTYPES = ("uint8", "uint16", "float32")  # what Pillow and tifffile both write
_KINDS = {1: ("u", (1, 2, 4, 8)), 2: ("i", (1, 2, 4, 8)), 3: ("f", (2, 4, 8))}  # TIFF SampleFormat: dtype.kind, bytes
_BLACK_IS_ZERO = (1,)
_NONE, _LZW = 1, 5
# TIFF compressions without loss, and the most bytes that one coded byte stands for: 4,095 in LZW's table, 258 in two bits of
# Deflate (two numbers), 128 in two bytes of PackBits, a block of 128 KiB in four bytes of Zstandard; LZMA's was measured. The
# codecs of pictures (CCITT, JPEG and so on) are not for volumes.
_MOST_BYTES = {_NONE: 1, _LZW: 4096, 8: 1100, 32946: 1100, 32773: 64, 34925: 10_000, 50000: 40_000}
_GREATEST_GREY_VALUE = 1e30  # what lies beyond is a mark for "no data", such as the -3.4e38 of geographers


class _Header(NamedTuple):
    """A volume's page directory."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    order: Literal["<", ">"]
    """The file's byte order."""
    pages: list[tiff.Page]
    """The pages that are slices."""
    numbers: list[int]
    """Their places among all pages of the file."""
    stack_offset: int | None
    """Where the pixels of a stack behind one page directory start."""


class _Layout(NamedTuple):
    """What must be equal for pages to be decoded together."""

    is_lzw: bool
    tiles: tuple[int, int] | None
    """Rows and columns; None for strips."""
    predictor: int
    fill_order: int


def read_volume(path: Path | str, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Read a multi-page TIFF as one array (Z, Y, X), in the file's pixel type and the machine's byte order.

    Whatever is not one whole volume of plain grey values raises `InputValueError`, in one line that names the file: cut off,
    damaged, 2-D, several channels or times, NaN or a mark for "no data".

    Parameters
    ----------
    path
        A TIFF or BigTIFF with one page of one channel for each z, compressed without loss or not (LZW in the competition);
        smaller copies of pages (thumbnails, pyramids) do not count. A file of a single page is a volume only if its
        description says so: `write_volume` or tifffile wrote it from an array (1, Y, X), or it is a whole stack behind one
        page directory, as ImageJ writes what is larger than 4 GB.
    dtype
        Required pixel type, for example ``"uint8"``; nothing is converted. None allows any.

    Notes
    -----
    Where a file names one axis above its pages, that is z, whatever it is called: tifffile calls the slices of an array
    (Z, Y, X) channels when it is asked for ImageJ's or OME's form and not told better. Two such axes are refused.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vk.write_volume(f"{folder}/1.tif", np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    ...     volume = vk.read_volume(f"{folder}/1.tif", dtype="uint8")
    >>> volume.shape, str(volume.dtype)
    ((2, 3, 4), 'uint8')
    >>> volume[1, 0].tolist()
    [12, 13, 14, 15]
    """
    path = check_file("volume", path)
    header = _read_header(path)
    if dtype is not None and header.dtype != np.dtype(dtype):
        raise InputValueError(f"{path} must hold {np.dtype(dtype)} pixels, got {header.dtype}")
    compressions = {page.get(tiff.COMPRESSION, (_NONE,))[0] for page in header.pages}
    if foreign := compressions - _MOST_BYTES.keys():
        raise InputValueError(
            f"{path} must have lossless pixels (LZW in the competition), got TIFF compression {min(foreign)}"
        )
    try:
        if header.stack_offset is None:
            _check_sizes(header)
            volume = _decode_pages(path, header)
        else:
            volume = _read_stack(path, header, header.stack_offset)
    except MemoryError as error:
        size = np.prod(header.shape, dtype=float) * header.dtype.itemsize / 1e9
        raise InputValueError(f"{path} needs more memory than there is, {size:.1f} GB for {header.shape}") from error
    except (OSError, ValueError) as error:
        raise InputValueError(f"{path} cannot be decoded: {one_line(error)}") from error
    check_grey_values(path, volume)
    _check_no_data_mark(path, volume, header.pages[0])
    return volume


def check_grey_values(name: Path | str, volume: NDArray[Any]) -> None:
    """Raise `InputValueError` if a volume holds NaN, infinity or a mark for "no data": any mean over it would be wrong.

    The message calls the volume by ``name``, and tells the first such voxel and how many there are. Integers always pass.
    """
    if volume.dtype.kind != "f" or volume.size == 0:
        return
    greatest = volume.dtype.type(min(_GREATEST_GREY_VALUE, float(np.finfo(volume.dtype).max)))
    with np.errstate(invalid="ignore"):
        # NaN passes through both.
        if volume.min() >= -greatest and volume.max() <= greatest:
            return
        is_wrong = ~(np.abs(volume) <= greatest)
    first = tuple(int(index) for index in np.unravel_index(np.argmax(is_wrong), volume.shape))
    raise InputValueError(
        f"{name} must hold finite grey values and no mark for 'no data', got {volume[first]:g} at (z, y, x) = {first}, "
        f"and {np.count_nonzero(is_wrong)} such voxels of {volume.size}"
    )


def write_volume(path: Path | str, array: NDArray[Any]) -> None:
    """Write an array as a multi-page TIFF, LZW-compressed, whole or not at all.

    Parameters
    ----------
    path
        Where to; the folder must exist. A file that is there is replaced.
    array
        Shape (Z, Y, X), no axis empty; uint8, uint16 or float32.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> mask = np.zeros((2, 3, 4), bool)
    >>> mask[:, 1] = True
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vk.write_volume(f"{folder}/mask.tif", mask.astype(np.uint8))
    ...     int(vk.read_volume(f"{folder}/mask.tif").sum())
    8
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


def volume_shape_and_dtype(path: Path | str) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Read a volume's shape (Z, Y, X) and pixel type, without decoding the pixels: damage inside them is not seen."""
    header = _read_header(check_file("volume", path))
    return header.shape, header.dtype


def _read_header(path: Path) -> _Header:
    """Read the page directory, and refuse what is not one volume."""
    try:
        with name_os_errors(f"read {path}"), open(path, "rb") as stream:
            order: Literal["<", ">"] = "<" if stream.read(2) == b"II" else ">"
            stream.seek(0)
            file_size = path.stat().st_size
            pages = list(tiff.walk_pages(stream, file_size))
    except tiff.TiffError as error:
        raise InputValueError(f"{path} is not a whole TIFF: {error}") from error
    numbers = [number for number, page in enumerate(pages) if tiff.is_slice(page)]
    if not numbers:
        raise InputValueError(f"{path} must hold slices, got thumbnails or masks only")
    pages = [pages[number] for number in numbers]
    first = pages[0]
    for tag, program in tiff.FOREIGN_FORMATS.items():
        if tag in first:
            raise InputValueError(
                f"{path} must be a plain TIFF, got the form of {program}: export one channel of it as a TIFF stack"
            )
    dtype = _read_dtype(path, first)
    length, width = first[tiff.LENGTH][0], first[tiff.WIDTH][0]
    alike = (tiff.LENGTH, tiff.WIDTH, tiff.BITS, tiff.SAMPLES, tiff.SAMPLE_FORMAT, tiff.PHOTOMETRIC, tiff.IMAGE_DEPTH)
    for z, page in enumerate(pages):
        if any(page.get(tag) != first.get(tag) for tag in alike):
            raise InputValueError(f"{path} must have pages of one size and pixel type, page {z} differs from the first")
    depth, stack_offset = _count_slices(path, pages, file_size, dtype)
    return _Header((depth, length, width), dtype, order, pages, numbers, stack_offset)


def _read_dtype(path: Path, page: tiff.Page) -> np.dtype[Any]:
    # TIFF's defaults: one bit, one channel, unsigned, black as 0.
    bits, samples = page.get(tiff.BITS, (1,)), page.get(tiff.SAMPLES, (1,))
    if samples != (1,) or bits[0] % 8:
        raise InputValueError(f"{path} must have one channel of whole bytes, got {samples[0]} of {bits[0]} bits")
    if page.get(tiff.PHOTOMETRIC, _BLACK_IS_ZERO) != _BLACK_IS_ZERO:
        raise InputValueError(f"{path} must be grey with black as 0, got an inverted or coloured TIFF")
    sample_format = page.get(tiff.SAMPLE_FORMAT, (1,))[0]
    kind, sizes = _KINDS.get(sample_format, ("", ()))
    if bits[0] // 8 not in sizes:
        raise InputValueError(
            f"{path} has a pixel type that NumPy does not know: {bits[0]} bits of TIFF's sample format {sample_format}"
        )
    return np.dtype(f"{kind}{bits[0] // 8}")


def _count_slices(
    path: Path, pages: Sequence[tiff.Page], file_size: int, dtype: np.dtype[Any]
) -> tuple[int, int | None]:
    """Return the number of slices and, for a stack behind one page directory, where its pixels start.

    The pages are counted, and the file's own note on its axes must agree with the count: what has channels or times besides
    slices, or two volumes one after the other, is no volume.
    """
    first = pages[0]
    length, width = first[tiff.LENGTH][0], first[tiff.WIDTH][0]
    n_slices = first.get(tiff.IMAGE_DEPTH, (1,))[0] if len(pages) == 1 else len(pages)
    note = tiff.read_note(first.get(tiff.DESCRIPTION, (b"",))[0], length, width)
    if note is not None:
        if len(note.axes) > 1:
            axes = " x ".join(f"{n} {name}".rstrip() for name, n in note.axes)
            raise InputValueError(
                f"{path} must be one volume (z, y, x), got {axes} x {length} x {width} ({note.program}'s note): save "
                "one of them in a file of its own"
            )
        if note.n_pages == n_slices and (note.is_stack or n_slices > 1):
            return n_slices, None
        if n_slices == 1 and note.n_pages > 1:
            return note.n_pages, _find_stack(path, first, note, file_size, length * width * dtype.itemsize)
        # A note of one page says nothing of a stack: it was written with each of the pages.
        if note.n_pages != 1:
            raise InputValueError(
                f"{path} must be one whole volume, got {n_slices} pages where its note ({note.program}'s) says "
                f"{note.n_pages}"
            )
    if n_slices == 1:
        raise InputValueError(f"{path} must be a volume (z, y, x), got a 2-D TIFF of {length} x {width}")
    return n_slices, None


def _find_stack(path: Path, page: tiff.Page, note: tiff.Note, file_size: int, page_bytes: int) -> int:
    """Return where a stack behind one page directory starts: its pixels lie in one piece, which only plain ones can."""
    offsets = page.get(tiff.OFFSETS, ())
    counts = page.get(tiff.BYTE_COUNTS, ())
    is_plain = page.get(tiff.COMPRESSION, (_NONE,)) == (_NONE,) and page.get(tiff.FILL_ORDER, (1,)) == (1,)
    is_one_piece = all(start + size == following for start, size, following in zip(offsets, counts, offsets[1:]))
    if not offsets or not is_plain or not is_one_piece or page.get(tiff.PREDICTOR, (1,)) != (1,):
        raise InputValueError(
            f"{path} must be one whole volume, got a single page where its note ({note.program}'s) says {note.n_pages}"
        )
    if offsets[0] + note.n_pages * page_bytes > file_size:
        raise InputValueError(
            f"{path} is not a whole TIFF: it breaks off in the pixels of the {note.n_pages} pages that its note "
            f"({note.program}'s) promises"
        )
    return offsets[0]


def _check_sizes(header: _Header) -> None:
    """Raise unless every page has its strips or tiles, with as many bytes as its pixels can have come from.

    A damaged size would otherwise be allocated, and tifffile fills with zeros what is not there.
    """
    for page, number in zip(header.pages, header.numbers):
        offsets = page.get(tiff.OFFSETS) or page[tiff.TILE_OFFSETS]
        counts = page.get(tiff.BYTE_COUNTS) or page[tiff.TILE_BYTE_COUNTS]
        wanted = tiff.count_segments(page)
        if len(offsets) != wanted:
            raise ValueError(f"page {number} must have {wanted} strips or tiles, has {len(offsets)}")
        if min(counts) == 0 or min(offsets) == 0:
            raise ValueError(f"page {number} has an empty strip or tile")
        n_bytes = header.shape[1] * header.shape[2] * header.dtype.itemsize * page.get(tiff.IMAGE_DEPTH, (1,))[0]
        if n_bytes > sum(counts) * _MOST_BYTES[page.get(tiff.COMPRESSION, (_NONE,))[0]]:
            raise ValueError(f"page {number} has {sum(counts)} bytes for {n_bytes} of pixels")


def _check_no_data_mark(path: Path, volume: NDArray[Any], page: tiff.Page) -> None:
    """Raise if voxels have the value that the file itself calls "no data" (GDAL's tag); 0 is black."""
    text = page.get(tiff.NO_DATA, (b"",))[0].rstrip(b"\0 ").decode("ascii", "replace")
    try:
        mark = float(text)
    except ValueError:
        return
    if mark and (found := np.count_nonzero(volume == mark)):
        raise InputValueError(
            f"{path} must not hold its own mark for 'no data', {text}, got it in {found} of {volume.size} voxels"
        )


def _read_stack(path: Path, header: _Header, offset: int) -> NDArray[Any]:
    """Read a stack that lies in one piece behind its only page directory."""
    stored = np.fromfile(path, header.dtype.newbyteorder(header.order), int(np.prod(header.shape)), offset=offset)
    return stored.astype(header.dtype, copy=False).reshape(header.shape)


def _decode_pages(path: Path, header: _Header) -> NDArray[Any]:
    # Pages of one layout at once: all of them, but for files that several programs wrote.
    runs = [list(run) for _, run in groupby(zip(header.numbers, header.pages), lambda item: _layout(item[1]))]
    parts = [(_decode_lzw if _is_lzw(run[0][1]) else _decode_with_tifffile)(path, run, header) for run in runs]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _is_lzw(page: tiff.Page) -> bool:
    return page.get(tiff.COMPRESSION) == (_LZW,)


def _layout(page: tiff.Page) -> _Layout:
    tiles = tiff.segment_size(page) if tiff.TILE_OFFSETS in page else None
    return _Layout(_is_lzw(page), tiles, page.get(tiff.PREDICTOR, (1,))[0], page.get(tiff.FILL_ORDER, (1,))[0])


def _split_depth(page: tiff.Page) -> list[tiff.Page]:
    """Return one page for each slice of a page that has a depth (SGI's extension of TIFF)."""
    depth = page.get(tiff.IMAGE_DEPTH, (1,))[0]
    if depth == 1:
        return [page]
    if page.get(tiff.TILE_DEPTH, (1,)) != (1,):
        raise ValueError("LZW tiles of several slices")
    tags = [tag for tag in (tiff.OFFSETS, tiff.BYTE_COUNTS, tiff.TILE_OFFSETS, tiff.TILE_BYTE_COUNTS) if tag in page]
    share = len(page[tags[0]]) // depth
    return [page | {tag: page[tag][z * share : (z + 1) * share] for tag in tags} for z in range(depth)]


def _decode_lzw(path: Path, numbered_pages: Sequence[tuple[int, tiff.Page]], header: _Header) -> NDArray[Any]:
    from vesuvius_kit.io.lzw import decode_strips

    _, length, width = header.shape
    pages = [part for _, page in numbered_pages for part in _split_depth(page)]
    layout = _layout(pages[0])
    data = np.fromfile(path, np.uint8)
    if layout.fill_order == 2:
        data = np.packbits(np.unpackbits(data, bitorder="little"))
    segments: list[tuple[int, int, int, int]] = []  # offset, coded bytes, decoded bytes, those of a whole one
    for page in pages:
        rows, columns = tiff.segment_size(page)
        n_segments = tiff.count_segments(page | {tiff.IMAGE_DEPTH: (1,)})
        whole = [rows * columns * header.dtype.itemsize] * n_segments
        cut = list(whole)
        if not layout.tiles:
            cut[-1] -= (n_segments * rows - length) * columns * header.dtype.itemsize
        found = page.get(tiff.OFFSETS) or page[tiff.TILE_OFFSETS]
        coded = page.get(tiff.BYTE_COUNTS) or page[tiff.TILE_BYTE_COUNTS]
        segments.extend(zip(found, coded, cut, whole))
    offsets, byte_counts, sizes, padded = np.array(segments, np.int64).T.copy()
    try:
        decoded = decode_strips(data, offsets, byte_counts, sizes)
    except ValueError:
        if (sizes == padded).all():
            raise
        # Some programs fill the last strip of a page up with rows below the picture.
        decoded = decode_strips(data, offsets, byte_counts, padded)
        starts = np.cumsum(padded) - padded
        decoded = np.concatenate([decoded[start : start + size] for start, size in zip(starts, sizes)])
    values = _undo_predictor(decoded.reshape(-1, columns * header.dtype.itemsize), layout.predictor, header)
    if not layout.tiles:
        return values.reshape(len(pages), length, width)
    down, across = -(-length // rows), -(-width // columns)
    volume = values.reshape(len(pages), down, across, rows, columns).swapaxes(2, 3)
    return np.ascontiguousarray(volume.reshape(len(pages), down * rows, across * columns)[:, :length, :width])


def _undo_predictor(lines: NDArray[np.uint8], predictor: int, header: _Header) -> NDArray[Any]:
    """Turn lines of decoded bytes (n, bytes of a line) into grey values (n, width): TIFF 6.0, section 14, and supplement 3."""
    dtype = header.dtype
    if predictor == 3 and dtype.kind == "f":
        # Differences of bytes, with the first bytes of all values of a line before all second ones, whatever the file's order.
        planes = np.cumsum(lines, axis=1, dtype=np.uint8).reshape(len(lines), dtype.itemsize, -1)
        return np.ascontiguousarray(planes.swapaxes(1, 2)).view(dtype.newbyteorder(">"))[..., 0].astype(dtype)
    values = lines.view(dtype.newbyteorder(header.order)).astype(dtype, copy=False)
    if predictor == 1:
        return values
    if predictor != 2:
        raise ValueError(f"TIFF predictor {predictor} of {dtype} pixels")
    steps = values.view(f"u{dtype.itemsize}")
    return np.cumsum(steps, axis=1, dtype=steps.dtype).view(dtype)


def _decode_with_tifffile(path: Path, numbered_pages: Sequence[tuple[int, tiff.Page]], header: _Header) -> NDArray[Any]:
    import tifffile

    depth = header.shape[0] // len(header.pages)
    pixels = np.empty((len(numbered_pages), depth, *header.shape[1:]), header.dtype)
    try:
        with tifffile.TiffFile(path) as file:
            for target, (number, _) in zip(pixels, numbered_pages):
                page = file.pages[number]
                if page.dtype != header.dtype or page.shape not in (target.shape, target.shape[1:]):
                    raise ValueError(f"page {number} is {page.dtype} of {page.shape}")
                target[...] = page.asarray()
    except MemoryError:
        raise
    except Exception as error:  # a library among damaged bytes raises any exception at all
        is_missing = isinstance(error, ImportError) or "imagecodecs" in str(error)
        if is_missing and not find_spec("imagecodecs"):
            raise ValueError("tifffile needs imagecodecs for it: pip install imagecodecs") from error
        raise ValueError(one_line(error)) from error
    return pixels.reshape(-1, *header.shape[1:])


def _encode_with_tifffile(stream: IO[bytes], array: NDArray[Any], note: str) -> None:
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


def _encode_with_pillow(stream: IO[bytes], array: NDArray[Any], note: str) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(np.ascontiguousarray(page)) for page in array)
    first.save(
        stream, "TIFF", compression="tiff_lzw", tiffinfo={tiff.DESCRIPTION: note}, save_all=True, append_images=others
    )
