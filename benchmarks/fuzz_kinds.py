"""What `fuzz.py` feeds to the kit: for each kind of file some good forms, ways to spoil them, and the entry that reads them.

A way to spoil says what must follow. ``REFUSE``: the format itself contradicts, so a result would be a silent acceptance.
``SAME``: a result must be what the good form holds, or the file is refused. ``ACCEPT``: a good file, which must be read.
``TOLD``: a result is fine that mentions what it left out. ``ANY``: a result or a refusal.
"""

import csv
import io
import json
import logging
import os
import random
import struct
import time
import traceback
import zipfile
import zlib
from pathlib import Path

import numpy as np

REFUSE, SAME, ACCEPT, TOLD, ANY = (
    "must be refused",
    "must be right or refused",
    "must be read",
    "must be told",
    "anything",
)
SHAPE = (3, 20, 24)


class Refused(Exception):
    """The kit refused, in a way that is no exception of its own: a list of problems, for example."""


# -- spoiling bytes of any format --


def flip_bits(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwrite(rng, data):
    data, start = bytearray(data), rng.randrange(len(data))
    chunk = rng.choice([rng.randbytes(rng.randrange(1, 16)), b"\0" * 8, b"\xff" * 8, struct.pack("<I", 2**31 - 1)])
    data[start : start + len(chunk)] = chunk
    return bytes(data)


def insert(rng, data):
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randrange(1, 64)) + data[at:]


def delete(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, max(2, len(data) // 4)) :]


def repeat(rng, data):
    start = rng.randrange(len(data))
    end = rng.randrange(start, len(data)) + 1
    return data[:end] + data[start:end] + data[end:]


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def empty(_rng, _data):
    return b""


def noise(rng, data):
    return data[:4] + rng.randbytes(rng.randrange(4, 400))


BYTES = [(flip_bits, ANY), (overwrite, ANY), (insert, ANY), (delete, ANY), (repeat, ANY), (cut, ANY), (noise, ANY)]


class Kind:
    """One kind of file. ``make`` writes a mutant, ``read`` calls the kit, ``check`` looks at a result."""

    name = ""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def make(self, rng):
        """The form, the way it is spoiled, what must follow, and what `read` takes."""
        form, data = rng.choice(sorted(self.forms.items()))
        if rng.random() < 0.06:
            return form, "as it is", self.of_good(form), self.write(form, data)
        way, follows = rng.choice(BYTES if rng.random() < 0.35 else self.ways)
        return form, way.__name__, follows, self.write(form, way(rng, data))

    def of_good(self, form):
        return ACCEPT

    def write(self, form, data):
        path = self.folder / f"{form}{self.suffix}"
        path.write_bytes(data)
        return path

    def check(self, form, result):
        """What is wrong with a result, or None."""

    def tells(self, result):
        """Whether a result mentions that something was left out."""
        return False


# -- TIFF --


SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Tiff:
    """The directories of a TIFF, to be spoiled in place; written as the specifications of TIFF 6 and BigTIFF have it."""

    def __init__(self, data):
        self.data = bytearray(data)
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = struct.unpack(f"{self.order}H", data[2:4])[0] == 43
        self.word, self.count = ("Q", "Q") if self.big else ("I", "H")
        self.pages, self.links, self.tables = [], [8 if self.big else 4], []
        at = self._get(self.word, self.links[0])
        while at:
            number = self._get(self.count, at)
            start, size = at + struct.calcsize(f"={self.count}"), 20 if self.big else 12
            self.pages.append({self._get("H", start + n * size): start + n * size for n in range(number)})
            self.links.append(start + number * size)
            self.tables.append((at, start + number * size + struct.calcsize(f"={self.word}")))
            at = self._get(self.word, self.links[-1])

    def _get(self, form, at):
        return struct.unpack_from(f"{self.order}{form}", self.data, at)[0]

    def put(self, form, at, value):
        struct.pack_into(f"{self.order}{form}", self.data, at, value)

    def place_of(self, page, tag):
        """Where the values of a tag stand, their type's letter, and how many there are."""
        entry = self.pages[page][tag]
        kind, number = self._get("H", entry + 2), self._get(self.word, entry + 4)
        at, room = entry + 4 + struct.calcsize(f"={self.word}"), struct.calcsize(f"={self.word}")
        if SIZES[kind] * number > room:
            at = self._get(self.word, at)
        return at, {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind, "B"), number

    def values(self, page, tag):
        at, form, number = self.place_of(page, tag)
        return [self._get(form, at + n * struct.calcsize(f"={form}")) for n in range(number)]

    def set(self, page, tag, value, index=0):
        at, form, _ = self.place_of(page, tag)
        self.put(form, at + index * struct.calcsize(f"={form}"), value % 2 ** (8 * struct.calcsize(f"={form}")))

    @property
    def offsets_tag(self):
        return 273 if 273 in self.pages[0] else 324

    def end(self):
        """The last byte that a reader needs."""
        ends = [end for _, end in self.tables]
        for page in range(len(self.pages)):
            pairs = zip(self.values(page, self.offsets_tag), self.values(page, self.counts_tag), strict=True)
            ends += [start + size for start, size in pairs]
        return max(ends)

    @property
    def counts_tag(self):
        return 279 if self.offsets_tag == 273 else 325


def tiff_cut(rng, data):
    return data[: rng.randrange(max(1, Tiff(data).end() - 40), Tiff(data).end())]


def tiff_data_past_the_end(rng, data):
    tiff = Tiff(data)
    page = rng.randrange(len(tiff.pages))
    strip = rng.randrange(tiff.place_of(page, tiff.counts_tag)[2])
    tiff.set(page, tiff.counts_tag, len(data) + rng.randrange(1, 1000), strip)
    return bytes(tiff.data)


def tiff_offset_past_the_end(rng, data):
    tiff = Tiff(data)
    page = rng.randrange(len(tiff.pages))
    strip = rng.randrange(tiff.place_of(page, tiff.offsets_tag)[2])
    tiff.set(page, tiff.offsets_tag, len(data) + rng.randrange(1, 1000), strip)
    return bytes(tiff.data)


def tiff_directory_in_a_ring(rng, data):
    tiff = Tiff(data)
    tiff.put(tiff.word, tiff.links[-1], tiff.tables[rng.randrange(len(tiff.pages))][0])
    return bytes(tiff.data)


def tiff_directory_past_the_end(rng, data):
    tiff = Tiff(data)
    tiff.put(tiff.word, rng.choice(tiff.links), len(data) + rng.randrange(1, 1000))
    return bytes(tiff.data)


def tiff_taller(rng, data):
    """Rows for which there are no pixels."""
    tiff = Tiff(data)
    for page in range(len(tiff.pages)):
        tiff.set(page, 257, SHAPE[1] * rng.choice([3, 10, 60]))
    return bytes(tiff.data)


def tiff_page_of_another_size(rng, data):
    tiff = Tiff(data)
    tiff.set(rng.randrange(len(tiff.pages)), 256, SHAPE[2] - rng.randrange(1, 8))
    return bytes(tiff.data)


def tiff_unknown_compression(rng, data):
    tiff = Tiff(data)
    for page in range(len(tiff.pages)):
        tiff.set(page, 259, rng.choice([0, 60000, 65000]))
    return bytes(tiff.data)


def tiff_odd_bits(rng, data):
    tiff = Tiff(data)
    for page in range(len(tiff.pages)):
        tiff.set(page, 258, rng.choice([0, 3, 48, 1000]))
    return bytes(tiff.data)


def tiff_several_channels(_rng, data):
    tiff = Tiff(data)
    for page in range(len(tiff.pages)):
        tiff.set(page, 277, 3)
    return bytes(tiff.data)


def tiff_no_offsets(_rng, data):
    tiff = Tiff(data)
    tiff.put("H", tiff.pages[-1][tiff.offsets_tag], 65000)
    return bytes(tiff.data)


def tiff_any_tag(rng, data):
    tiff = Tiff(data)
    page = rng.choice(tiff.pages)
    at = page[rng.choice(sorted(page))] + rng.choice([0, 2, 4, 8])
    tiff.put("H", at, rng.choice([0, 1, 2, 13, 255, 65535, rng.randrange(65536)]))
    return bytes(tiff.data)


def tiff_a_wide_page(rng, data):
    """Millions of pixels are announced and not there; whoever makes room for them first runs out of it."""
    tiff = Tiff(data)
    for page in range(len(tiff.pages)):
        for tag in (256, 257):
            tiff.set(page, tag, rng.choice([60_000, 65_535]))
    return bytes(tiff.data)


def tiff_checksum(rng, data):
    """A wrong Adler sum at the end of a Deflate stream; elsewhere a cut."""
    tiff = Tiff(data)
    if tiff.values(0, 259)[0] != 8:
        return tiff_cut(rng, data)
    page = rng.randrange(len(tiff.pages))
    start, size = tiff.values(page, tiff.offsets_tag)[0], tiff.values(page, tiff.counts_tag)[0]
    tiff.data[start + size - rng.randrange(1, 5)] ^= 1 << rng.randrange(8)
    return bytes(tiff.data)


class Volumes(Kind):
    """TIFF volumes, through `read_volume`."""

    name, suffix = "tiff", ".tif"
    ways = (
        (tiff_cut, REFUSE),
        (tiff_data_past_the_end, REFUSE),
        (tiff_offset_past_the_end, REFUSE),
        (tiff_directory_in_a_ring, REFUSE),
        (tiff_directory_past_the_end, REFUSE),
        (tiff_taller, REFUSE),
        (tiff_page_of_another_size, REFUSE),
        (tiff_unknown_compression, REFUSE),
        (tiff_odd_bits, REFUSE),
        (tiff_several_channels, REFUSE),
        (tiff_no_offsets, REFUSE),
        (tiff_a_wide_page, REFUSE),
        (tiff_checksum, REFUSE),
        (tiff_any_tag, ANY),
        (empty, REFUSE),
    )
    # The competition's own and the plain ones must be read; of the others a reader may say that it cannot.
    plain = ("kit", "plain", "bigtiff", "deflate", "deflate_big_endian")

    def __init__(self, folder):
        super().__init__(folder)
        import tifffile

        from vesuvius_kit.io.volume import write_volume

        rng = np.random.default_rng(0)
        self.volume = (rng.random(SHAPE) * 40).astype(np.uint8)
        self.held = {}
        write_volume(self.folder / "kit.tif", self.volume)
        self.forms = {"kit": (self.folder / "kit.tif").read_bytes()}
        self.held["kit"] = self.volume
        variants = {
            "plain": {},
            "bigtiff": {"bigtiff": True},
            "deflate": {"compression": "zlib"},
            "deflate_big_endian": {"compression": "zlib", "byteorder": ">"},
            "deflate_float_big_endian": {"compression": "zlib", "byteorder": ">", "dtype": "float32"},
            "deflate_int16": {"compression": "zlib", "dtype": "int16"},
            "zstd": {"compression": "zstd"},
            "packbits": {"compression": "packbits"},
            "lzw_strips": {"compression": "lzw", "rowsperstrip": 7},
            "lzw_predictor": {"compression": "lzw", "predictor": True},
            "lzw_tiles": {"compression": "lzw", "tile": (16, 16)},
            "lzw_tiles_float_big_endian": {
                "compression": "lzw",
                "tile": (16, 16),
                "byteorder": ">",
                "dtype": "float32",
            },
            "float_predictor": {"compression": "zlib", "predictor": True, "dtype": "float32"},
            "imagej": {"imagej": True},
            "uint16_big_endian": {"byteorder": ">", "dtype": "uint16"},
        }
        for name, options in variants.items():
            options = {"photometric": "minisblack", **options}
            held = self.volume.astype(options.pop("dtype", "uint8")) * (1 if "float" not in name else np.float32(0.37))
            names = ("bigtiff", "byteorder", "imagej", "ome")
            stream = io.BytesIO()
            with tifffile.TiffWriter(stream, **{key: options.pop(key) for key in names if key in options}) as writer:
                if "imagej" in name:
                    writer.write(held, **options)
                elif "ome" not in name:
                    for page in held:
                        writer.write(page, contiguous=False, metadata=None, **options)
            self.forms[name], self.held[name] = stream.getvalue(), held
        stream = io.BytesIO()
        options = {"metadata": {"axes": "ZYX"}, "photometric": "minisblack", "compression": "zlib"}
        tifffile.imwrite(stream, self.volume, ome=True, **options)
        self.forms["ome"], self.held["ome"] = stream.getvalue(), self.volume
        # Pages that share one directory are not to be spoiled by page.
        self.forms = {name: data for name, data in self.forms.items() if len(Tiff(data).pages) == SHAPE[0]}

    def of_good(self, form):
        return ACCEPT if form in self.plain else SAME

    def read(self, path):
        from vesuvius_kit.io.volume import read_volume

        return read_volume(path)

    def check(self, form, result):
        if result.ndim != 3 or 0 in result.shape:
            return f"a result of shape {result.shape}"
        return None

    def check_same(self, form, result):
        held = self.held[form]
        if result.shape == held.shape and np.array_equal(result, held):
            return None
        return f"wrong pixels: {result.dtype} {result.shape}, {result.ravel()[:3]} for {held.ravel()[:3]}"


# -- archives --


def make_zip(entries, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


def zip_entries(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def zip_cut(rng, data):
    return data[: len(data) - rng.randrange(1, len(data) // 2)]


def zip_wrong_sum(rng, data):
    """Another byte in what is stored; not one of the bits behind a packed stream's end, which mean nothing."""
    entry = rng.choice(zipfile.ZipFile(io.BytesIO(data)).infolist())
    start = entry.header_offset + 30 + len(entry.filename) + struct.unpack_from("<H", data, entry.header_offset + 28)[0]
    while True:
        spoilt = bytearray(data)
        spoilt[start + rng.randrange(entry.compress_size)] ^= 0x55
        if _is_spoilt(spoilt):
            return bytes(spoilt)


def _is_spoilt(data):
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, zlib.error):
        return True


def zip_wrong_noted_sum(rng, data):
    data = bytearray(data)
    data[data.index(b"PK\x01\x02") + 16 + rng.randrange(4)] ^= 0x55
    return bytes(data)


def zip_encrypted(_rng, data):
    data = bytearray(data)
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[data.index(b"PK\x03\x04") + 6] |= 1
    return bytes(data)


def zip_unknown_method(rng, data):
    data, method = bytearray(data), rng.choice([1, 9, 12, 14, 93, 99])
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 10, method)
    struct.pack_into("<H", data, data.index(b"PK\x03\x04") + 8, method)
    return bytes(data)


def zip_wrong_size(rng, data):
    data = bytearray(data)
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, rng.choice([1, 2**31, 2**32 - 2]))
    return bytes(data)


def zip_wrong_offset(rng, data):
    data = bytearray(data)
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 42, rng.choice([7, len(data), 2**32 - 2]))
    return bytes(data)


def zip_another_name_inside(_rng, data):
    data = bytearray(data)
    data[data.index(b"PK\x03\x04") + 30] ^= 1
    return bytes(data)


def zip_missing(rng, data):
    entries = zip_entries(data)
    entries.pop(rng.randrange(len(entries)))
    return make_zip(entries)


def zip_one_too_many(rng, data):
    return make_zip([*zip_entries(data), (rng.choice(["99.tif", "readme.txt", "../1.tif", "a/1.tif", "1.TIFF"]), b"x")])


def zip_twice(rng, data):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entries = zip_entries(data)
        return make_zip([*entries, rng.choice(entries)])


def zip_bomb(_rng, data):
    """Three gigabytes of zeros in three megabytes, under the name of a mask."""
    name = zip_entries(data)[0][0].encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(1 << 24)) + deflate.flush(zlib.Z_FULL_FLUSH)
    body = block * 192 + deflate.flush()
    common = struct.pack("<HHHHHIII", 20, 0, 8, 0, 33, 1, len(body), 192 << 24)
    local = b"PK\x03\x04" + common + struct.pack("<HH", len(name), 0) + name + body
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    return local + entry + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)


class Archives(Kind):
    """Submissions, through `validate_submission`."""

    name, suffix = "zip", ".zip"
    ways = (
        (zip_cut, REFUSE),
        (zip_wrong_sum, REFUSE),
        (zip_wrong_noted_sum, REFUSE),
        (zip_encrypted, REFUSE),
        (zip_unknown_method, REFUSE),
        (zip_wrong_size, REFUSE),
        (zip_wrong_offset, REFUSE),
        (zip_another_name_inside, REFUSE),
        (zip_missing, REFUSE),
        (zip_one_too_many, REFUSE),
        (zip_twice, REFUSE),
        (zip_bomb, REFUSE),
        (empty, REFUSE),
    )

    def __init__(self, folder):
        super().__init__(folder)
        from vesuvius_kit.io.volume import write_volume

        self.images = self.folder / "test_images"
        self.images.mkdir(exist_ok=True)
        rng, masks = np.random.default_rng(1), {}
        for name in ("1", "20"):
            write_volume(self.images / f"{name}.tif", np.zeros(SHAPE, np.uint8))
            write_volume(self.folder / "mask.tif", rng.integers(0, 2, SHAPE, np.uint8))
            masks[f"{name}.tif"] = (self.folder / "mask.tif").read_bytes()
        methods = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
        self.forms = {name: make_zip(masks.items(), method) for name, method in methods.items()}
        spoilt = {
            "cut": masks["1.tif"][:-30],
            "empty": b"",
            "picture": b"\x89PNG\r\n",
        }
        for name, volume in {
            "two": np.full(SHAPE, 2, np.uint8),
            "type": np.zeros(SHAPE, np.uint16),
            "shape": np.zeros((3, 20, 25), np.uint8),
        }.items():
            write_volume(self.folder / "mask.tif", volume)
            spoilt[name] = (self.folder / "mask.tif").read_bytes()
        self.ways = [
            *self.ways,
            *[(self._with_mask(name, content, masks), REFUSE) for name, content in spoilt.items()],
        ]

    @staticmethod
    def _with_mask(name, content, masks):
        def way(_rng, _data):
            return make_zip((masks | {"1.tif": content}).items())

        way.__name__ = f"zip_mask_{name}"
        return way

    def read(self, path):
        from vesuvius_kit.inference.archive import validate_submission

        return validate_submission(path, self.images)

    def check(self, form, result):
        return None if result == 2 else f"{result} masks where there are two"


# -- tables --


def lines_of(data):
    return data.decode().splitlines()


def table(lines):
    return ("\n".join(lines) + "\n").encode()


def csv_more_cells(rng, data):
    lines = lines_of(data)
    at = rng.randrange(1, len(lines))
    lines[at] += ",7"
    return table(lines)


def csv_fewer_cells(rng, data):
    lines = lines_of(data)
    at = rng.randrange(1, len(lines))
    lines[at] = lines[at].split(",")[0]
    return table(lines)


def csv_cut_in_the_last_line(rng, data):
    lines = lines_of(data)
    return "\n".join([*lines[:-1], lines[-1][: rng.randrange(1, lines[-1].index(",") + 1)]]).encode()


def csv_repeated_id(rng, data):
    """An id of two scrolls."""
    lines = lines_of(data)
    return table([*lines, f"{rng.choice(lines[1:]).split(',')[0]},gamma"])


def csv_repeated_row(rng, data):
    lines = lines_of(data)
    return table([*lines, rng.choice(lines[1:])])


def csv_repeated_column(_rng, data):
    lines = lines_of(data)
    return table([f"id,{lines[0]}", *[f"{n},{line}" for n, line in enumerate(lines[1:])]])


def csv_no_header(_rng, data):
    return table(lines_of(data)[1:])


def csv_open_quote(rng, data):
    lines = lines_of(data)
    at = rng.randrange(1, len(lines))
    lines[at] = '"' + lines[at]
    return table(lines)


def csv_semicolons(_rng, data):
    return data.replace(b",", b";")


def csv_latin(rng, data):
    return data.replace(b"alpha", b"alph\xe4") + rng.choice([b"", b"\xff\xfe"])


def csv_utf16(_rng, data):
    return data.decode().encode("utf-16")


def csv_nul(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + b"\0" + data[at:]


def csv_huge_cell(_rng, data):
    return data + b"5," + b"x" * 200_000 + b"\n"


def csv_no_id(_rng, data):
    return data + b",alpha\n"


def csv_spreadsheet(_rng, data):
    """Ids as a spreadsheet saves them: the leading zeros are gone."""
    return data.replace(b"0012", b"12")


def csv_blank_lines(_rng, data):
    return data + b"\n\n"


def csv_windows(_rng, data):
    return b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")


class Tables(Kind):
    """``train.csv`` and ``test.csv``, through ``Competition(folder).audit()``."""

    name, suffix = "csv", ".csv"
    ways = (
        (csv_more_cells, REFUSE),
        (csv_fewer_cells, REFUSE),
        (csv_cut_in_the_last_line, REFUSE),
        (csv_repeated_id, TOLD),
        (csv_repeated_row, ANY),
        (csv_repeated_column, REFUSE),
        (csv_no_header, REFUSE),
        (csv_open_quote, REFUSE),
        (csv_semicolons, ACCEPT),
        (csv_latin, REFUSE),
        (csv_utf16, ANY),
        (csv_nul, ANY),
        (csv_huge_cell, ANY),
        (csv_no_id, REFUSE),
        (csv_spreadsheet, TOLD),
        (csv_blank_lines, ACCEPT),
        (csv_windows, ACCEPT),
    )

    def __init__(self, folder):
        super().__init__(folder)
        from vesuvius_kit.io.volume import write_volume

        rows = {
            "train": [("0012", "alpha"), ("0034", "alpha"), ("77", "beta")],
            "test": [("0012", "alpha"), ("9", "beta")],
        }
        self.forms = {}
        for part, entries in rows.items():
            for kind in ("images", "labels")[: 2 if part == "train" else 1]:
                (self.folder / f"{part}_{kind}").mkdir(exist_ok=True)
                for number, (id_, _) in enumerate(entries):
                    volume = np.full(SHAPE, 10 * number, np.uint8) if kind == "images" else np.ones(SHAPE, np.uint8)
                    write_volume(self.folder / f"{part}_{kind}" / f"{id_}.tif", volume)
            stream = io.StringIO()
            csv.writer(stream, lineterminator="\n").writerows([("id", "scroll_id"), *entries])
            self.forms[part] = stream.getvalue().encode()

    def make(self, rng):
        form, way, follows, path = super().make(rng)
        if form == "test" and way in ("csv_fewer_cells", "csv_cut_in_the_last_line"):
            follows = ANY  # a test image may be of an unknown scroll
        return form, way, follows, path

    def write(self, form, data):
        for name, good in self.forms.items():
            (self.folder / f"{name}.csv").write_bytes(data if name == form else good)
        return self.folder

    def read(self, path):
        from vesuvius_kit.data.competition import Competition

        audit = Competition(path).audit()
        if audit.errors:
            raise Refused("; ".join(audit.errors))
        return audit

    def tells(self, result):
        return bool(result.warnings)


# -- YAML --


def yaml_key_twice(rng, data):
    """A line of the file once more, in its place."""
    lines = lines_of(data)
    at = rng.choice([n for n, line in enumerate(lines) if ":" in line and not line.lstrip().startswith(("#", "-"))])
    depth = len(lines[at]) - len(lines[at].lstrip())
    end = next((n for n in range(at + 1, len(lines)) if len(lines[n]) - len(lines[n].lstrip()) <= depth), len(lines))
    return table([*lines[:end], *lines[at:end], *lines[end:]])


def yaml_unknown_key(rng, data):
    return data + f"{rng.choice(['trian', 'epochs', 'Model', '3'])}: 1\n".encode()


def yaml_wrong_kind(rng, data):
    lines = lines_of(data)
    at = rng.choice([n for n, line in enumerate(lines) if line.startswith("  ") and line.rstrip()[-1:].isdigit()])
    value = rng.choice(["[a, {b: c}]", "{a: 1}", "some words", ".nan", ".inf", "-.inf", "null", "'1'x"])
    lines[at] = f"{lines[at].split(':')[0]}: {value}"
    return table(lines)


def yaml_python_object(rng, data):
    return data + rng.choice(
        [
            b"model: !!python/object/apply:os.getcwd []\n",
            b"x: !!python/name:os.system\n",
            b"? !!python/tuple [1]\n: 2\n",
        ]
    )


def yaml_two_documents(_rng, data):
    return data + b"---\n" + data


def yaml_no_mapping(rng, _data):
    return rng.choice([b"- a\n- b\n", b"just text\n", b"7\n", b"[]\n", b"true\n"])


def yaml_deep(rng, _data):
    return rng.choice([b"a: " + b"[" * 3000, b"{a: " * 3000, b"- " * 3000 + b"x"])


def yaml_control(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + rng.choice([b"\x00", b"\x07", b"\x80", b"\xff\xfe"]) + data[at:]


def yaml_open(rng, data):
    return data + rng.choice(
        [b"x: [1, 2\n", b"x: {a: 1\n", b"x: 'text\n", b'x: "text\n', b"\t x: 1\n", b"x: *nobody\n"]
    )


def yaml_laughs(_rng, data):
    """Lists of lists of the same list: billions of entries for whoever walks through them."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return data + table(lines)


def yaml_recursive(rng, data):
    return data + rng.choice([b"x: &x [*x]\n", b"x: &x {y: *x}\n"])


def yaml_numbers(rng, data):
    return data.replace(b"14", rng.choice([b"1" * 400, b"0x" + b"f" * 400, b"1e999", b"-3", b"14:14", b"0o17", b"1_4"]))


def yaml_other_newlines(rng, data):
    return rng.choice([b"\xef\xbb\xbf", b""]) + data.replace(b"\n", b"\r\n")


YAML_WAYS = [
    (yaml_key_twice, REFUSE),
    (yaml_python_object, REFUSE),
    (yaml_two_documents, REFUSE),
    (yaml_no_mapping, REFUSE),
    (yaml_deep, REFUSE),
    (yaml_control, REFUSE),
    (yaml_open, REFUSE),
    (yaml_laughs, REFUSE),
    (yaml_recursive, REFUSE),
]


class Configurations(Kind):
    """Settings of a run, through `load_config`."""

    name, suffix = "config", ".yaml"
    ways = (
        *YAML_WAYS,
        (yaml_unknown_key, REFUSE),
        (yaml_wrong_kind, REFUSE),
        (yaml_numbers, ANY),
        (yaml_other_newlines, ACCEPT),
    )

    def __init__(self, folder):
        super().__init__(folder)
        from vesuvius_kit.config import RunConfig, config_to_yaml, find_config

        small = ["n_folds: 3", "model:", "  name: unet3d", "loss:", "  dice_weight: 0.5", "  cross_entropy_weight: 0.5"]
        small += ["train:", "  num_epochs: 14", "  learning_rate: 0.01"]
        self.forms = {"small": table(small), "whole": config_to_yaml(RunConfig()).encode()}
        self.forms["demo"] = find_config("cpu_demo").read_bytes()

    def read(self, path):
        from vesuvius_kit.config import load_config

        return load_config(path)


def pipeline_unknown_step(rng, data):
    return data + rng.choice(
        [b"- remove_dust\n", b"- {binarize: {treshold: 0.4}}\n", b"- 7\n", b"- [a]\n", b"-\n", b"- {}\n"]
    )


def pipeline_two_steps_in_one(_rng, data):
    return data + b"- {fill_cavities: {}, patch_heights: {}}\n"


def pipeline_step_twice_in_one(_rng, data):
    return data + b"- {remove_small_components: {min_size: 2}, remove_small_components: {min_size: 3}}\n"


def pipeline_parameter_twice(_rng, data):
    return data + b"- remove_small_components: {min_size: 2, min_size: 30}\n"


def pipeline_no_list(rng, _data):
    return rng.choice([b"a: 1\n", b"text\n", b"[]\n", b"7\n", b"null\n"])


class Pipelines(Kind):
    """Pipelines of repair, through `load_pipeline`."""

    name, suffix = "pipeline", ".yaml"
    ways = (
        *[(way, follows) for way, follows in YAML_WAYS if way not in (yaml_no_mapping, yaml_key_twice)],
        (pipeline_unknown_step, REFUSE),
        (pipeline_two_steps_in_one, REFUSE),
        (pipeline_step_twice_in_one, REFUSE),
        (pipeline_parameter_twice, REFUSE),
        (pipeline_no_list, REFUSE),
        (yaml_other_newlines, ACCEPT),
    )

    def __init__(self, folder):
        super().__init__(folder)
        from importlib import resources

        from vesuvius_kit.postprocess.pipeline import list_presets

        presets = resources.files("vesuvius_kit.postprocess") / "presets"
        self.forms = {name: (presets / f"{name}.yaml").read_bytes() for name in list_presets()}

    def read(self, path):
        from vesuvius_kit.postprocess.pipeline import load_pipeline

        return load_pipeline(path)


# -- logs --


def log_cut(rng, data):
    """In the middle of the last line: of its object, or of its number."""
    start = data.rstrip(b"\n").rindex(b"\n") + 12 if data.startswith(b"{") else data.rindex(b" ") + 2
    return data[: rng.randrange(start, len(data) - 1)]


def log_key_twice(rng, data):
    lines = lines_of(data)
    at = rng.randrange(len(lines))
    lines[at] = lines[at].replace('"epoch":', '"epoch": 3, "epoch":', 1)
    return table(lines)


def log_damaged_line(rng, data):
    lines = lines_of(data)
    at = rng.randrange(len(lines) - 1)
    lines[at] = lines[at][: len(lines[at]) // 2]
    return table(lines)


def log_other_lines(rng, data):
    lines = lines_of(data)
    others = [
        "Traceback (most recent call last):",
        "{",
        "[]",
        "null",
        "\x1b[31mred\x1b[0m",
        "epoch epoch epoch",
        "}" * 50,
        "[" * 5000,
    ]
    for _ in range(rng.randrange(1, 5)):
        lines.insert(rng.randrange(len(lines)), rng.choice(others))
    return table(lines)


def log_strange_numbers(rng, data):
    number = rng.choice(
        ["NaN", "-Infinity", "1e999", "9" * 5000, "-1", "1e-320", "null", '"0.5"', "true", "[1]", "{}", "0x10"]
    )
    lines = lines_of(data)
    at = rng.randrange(len(lines))
    parts = lines[at].split("0.", 1)
    lines[at] = f"{parts[0]}{number}{parts[1].lstrip('0123456789')}" if len(parts) == 2 else lines[at]
    return table(lines)


def log_strange_epochs(rng, data):
    number = rng.choice(["-1", str(10**18), "9" * 5000, "1.5", '"3"', "null", "true"])
    return data.replace(b'epoch": 5', f'epoch": {number}'.encode()).replace(b"Epoch 5", f"Epoch {number}".encode())


def log_shuffled(rng, data):
    lines = lines_of(data)
    rng.shuffle(lines)
    return table(lines)


def log_twice(_rng, data):
    return data + data


def log_utf16(_rng, data):
    return data.decode().encode("utf-16")


def log_without_losses(_rng, _data):
    return b"nothing\nof the kind\n"


class Logs(Kind):
    """Logs of training, through `diagnose`."""

    name, suffix = "log", ""
    ways = (
        (log_cut, TOLD),
        (log_key_twice, TOLD),
        (log_damaged_line, TOLD),
        (log_other_lines, ANY),
        (log_strange_numbers, ANY),
        (log_strange_epochs, ANY),
        (log_shuffled, ANY),
        (log_twice, ANY),
        (log_utf16, ANY),
        (log_without_losses, REFUSE),
        (empty, REFUSE),
    )

    def __init__(self, folder):
        super().__init__(folder)
        rng = np.random.default_rng(2)
        losses = [(0.8 * 0.8**n + 0.1 + 0.01 * rng.random(), 0.8 * 0.82**n + 0.12) for n in range(14)]
        lines, texts = [], []
        for epoch, (train, validation) in enumerate(losses):
            parts = {
                name: {"loss": loss, "dice": 0.6 * loss, "cross_entropy": 0.4 * loss}
                for name, loss in (("train", train), ("validation", validation))
            }
            weights = {"dice": 0.5, "cross_entropy": 0.5}
            lines.append(
                json.dumps({"epoch": epoch, "rate": 0.01, "loss_weights": weights, "interventions": [], **parts})
            )
            texts += [f"Epoch {epoch} Train - Loss: {train:.4f}", f"Epoch {epoch} Val - Loss: {validation:.4f}"]
        self.forms = {"log.jsonl": table(lines), "training.log": table(texts)}

    def make(self, rng):
        form, way, follows, path = super().make(rng)
        if way == "log_key_twice" and form != "log.jsonl":
            follows = ANY
        if way == "log_damaged_line" and form != "log.jsonl":
            follows = ANY
        return form, way, follows, path

    def read(self, path):
        from vesuvius_kit.diagnosis import diagnose

        diagnosis = diagnose(path)
        diagnosis.to_text()
        return diagnosis

    def tells(self, result):
        return bool(result.unread or result.notes)


# -- credentials and metadata --

SECRET = "0123456789abcdef0123456789abcdef"


def json_cut(rng, data):
    return data[: rng.randrange(2, len(data.rstrip()) - 1)]


def json_key_twice(_rng, data):
    content = json.loads(data)
    key = sorted(content)[0]
    return data.replace(b"{", f'{{"{key}": {json.dumps(content[key])}, '.encode(), 1)


def json_more_behind(rng, data):
    return data + rng.choice([b"}", data, b"x"])


def json_no_object(rng, data):
    return rng.choice([b"[" + data + b"]", b"null", b"7", json.dumps(data.decode()).encode(), b"[" * 50_000])


def json_wrong_kind(rng, data):
    content = json.loads(data)
    for key in content:
        content[key] = rng.choice([5, [content[key]], {"a": content[key]}, True])
    return json.dumps(content).encode()


def json_unseen_character(rng, data):
    at = data.index(SECRET.encode()) + rng.randrange(1, len(SECRET) - 1)
    return data[:at] + rng.choice(["\u200b", "\u00e9", "\u2028", "\\n", "\\u0000", "\\ud800"]).encode() + data[at:]


def json_missing(rng, data):
    content = json.loads(data)
    content.pop(rng.choice(sorted(content)))
    return json.dumps(content).encode()


def json_surrounded(rng, data):
    around = rng.choice(["\n{}\n", "{}\r\n", " {}", "\u200b{}\u200b", '\\"{}\\"'])
    return data.replace(SECRET.encode(), around.format(SECRET).replace("\n", "\\n").replace("\r", "\\r").encode())


def json_utf16(_rng, data):
    return data.decode().encode("utf-16")


def json_huge(_rng, data):
    return data + b" " * (1 << 22)


class Credentials(Kind):
    """``kaggle.json``, through ``KaggleClient()``; nobody is asked, and the key must not be in any message."""

    name, suffix = "credentials", ".json"
    ways = (
        (json_cut, REFUSE),
        (json_key_twice, REFUSE),
        (json_more_behind, REFUSE),
        (json_no_object, REFUSE),
        (json_wrong_kind, REFUSE),
        (json_unseen_character, REFUSE),
        (json_missing, REFUSE),
        (json_surrounded, ACCEPT),
        (json_utf16, ACCEPT),
        (json_huge, REFUSE),
        (empty, REFUSE),
    )

    def __init__(self, folder):
        super().__init__(folder)
        for name in list(os.environ):
            if name.startswith("KAGGLE"):
                del os.environ[name]
        os.environ["HOME"] = str(self.folder)
        os.environ["KAGGLE_CONFIG_DIR"] = str(self.folder / ".kaggle")
        (self.folder / ".kaggle").mkdir(exist_ok=True)
        plain = json.dumps({"username": "papyrus", "key": SECRET})
        self.forms = {"one_line": plain.encode(), "indented": json.dumps(json.loads(plain), indent=2).encode() + b"\n"}

    def write(self, form, data):
        (self.folder / ".kaggle" / "kaggle.json").write_bytes(data)
        return self.folder

    def read(self, path):
        from vesuvius_kit.kaggle.client import KaggleClient

        return KaggleClient(max_attempts=1)

    def check(self, form, result):
        shown = f"{result!r} {vars(result)}"
        return "the key shows" if SECRET in f"{result!r}" or "Secret" in shown else None

    def check_message(self, message):
        return "the key is in the message" if SECRET[:12] in message or SECRET[-12:] in message else None


class Metadata(Kind):
    """``kernel-metadata.json``, through what a push reads of it."""

    name, suffix = "metadata", ".json"
    ways = (
        (json_cut, REFUSE),
        (json_key_twice, REFUSE),
        (json_more_behind, REFUSE),
        (json_no_object, REFUSE),
        (json_wrong_kind, REFUSE),
        (json_missing, TOLD),
        (json_utf16, ANY),
        (json_huge, ANY),
        (empty, REFUSE),
    )

    def __init__(self, folder):
        super().__init__(folder)
        from vesuvius_kit.kaggle.metadata import KERNELS, kernel_metadata

        (self.folder.parent / "notebooks").mkdir(exist_ok=True)
        (self.folder / "code").mkdir(exist_ok=True)
        self.forms = {}
        for name in KERNELS:
            content = kernel_metadata(name, "papyrus") | {"code_file": "code/notebook.ipynb"}
            self.forms[name] = json.dumps(content, indent=2).encode()
        (self.folder / "code" / "notebook.ipynb").write_text('{"cells": []}')

    def read(self, path):
        from vesuvius_kit.kaggle.metadata import check_metadata, find_edits, read_json_object

        problems = check_metadata(read_json_object(path), path.parent)
        if problems:
            raise Refused("; ".join(problems))
        return find_edits(path, path.stem)

    def tells(self, result):
        return bool(result)


# -- probabilities --


def npy(array, header=None, version=(1, 0)):
    stream = io.BytesIO()
    if header is None:
        np.lib.format.write_array(stream, array, version, allow_pickle=False)
        return stream.getvalue()
    text = header.encode() + b"\n"
    text = text.rjust(0) + b" " * (-(len(text) + 10) % 64)
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + array.tobytes()


def header_of(shape, descr="<f4", order=False):
    return repr({"descr": descr, "fortran_order": order, "shape": shape})


class Probabilities(Kind):
    """``.npy`` and ``.npz``, through `load_probability`."""

    name = "probability"

    def __init__(self, folder):
        super().__init__(folder)
        rng = np.random.default_rng(3)
        self.volume = rng.random((3, 5, 7)).astype(np.float32)
        both = np.stack([1 - self.volume, self.volume])
        arrays = {
            "float32": self.volume,
            "float16": self.volume.astype(np.float16),
            "fortran": np.asfortranarray(self.volume),
        }
        arrays["uint8"] = (self.volume * 255).astype(np.uint8)
        self.forms = {f"{name}.npy": npy(array) for name, array in arrays.items()}
        for name, content in {"one": {"a": self.volume}, "nnunet": {"probabilities": both}}.items():
            stream = io.BytesIO()
            np.savez_compressed(stream, **content)
            self.forms[f"{name}.npz"] = stream.getvalue()
        self.ways = [(self.spoil_header, REFUSE), (self.spoil_content, REFUSE), (self.cut, REFUSE), (empty, REFUSE)]

    def write(self, form, data):
        path = self.folder / form
        path.write_bytes(data)
        return path

    def make(self, rng):
        form, way, follows, path = super().make(rng)
        return form, way if not hasattr(self, "last") else f"{way}: {self.last}", follows, path

    def _pack(self, data, new):
        """The new array in the place of the old one, in an archive if it was in one."""
        return make_zip([("a.npy", new)]) if data[:2] == b"PK" else new

    def spoil_header(self, rng, data):
        size = self.volume.size
        headers = {
            "more voxels": header_of((3, 5, 8)),
            "fewer voxels": header_of((3, 5, 6)),
            "very many voxels": header_of((10**6, 10**6, 10**6)),
            "many voxels": header_of((3000, 3000, 3000)),
            "a negative edge": header_of((3, -5, 7)),
            "two axes": header_of((15, 7)),
            "no axis": header_of(()),
            "an empty axis": header_of((0, 5, 7)),
            "objects": header_of((3, 5, 7), "|O"),
            "texts": header_of((3, 5, 7), "|S4"),
            "complex": header_of((3, 5, 7), "<c8"),
            "records": header_of((3, 5, 7), [("a", "<f4")]),
            "dates": header_of((3, 5, 7), "<M8[s]"),
            "another type": header_of((3, 5, 7), "<f8"),
            "an unknown type": header_of((3, 5, 7), "<q99"),
            "a shape of texts": header_of(("3", "5", "7")),
            "deep brackets": "(" * 9000,
            "no mapping": repr([1, 2]),
            "an expression": "__import__('os').getcwd()",
            "a key more": repr({"descr": "<f4", "fortran_order": False, "shape": (3, 5, 7), "more": 1}),
        }
        self.last = rng.choice(sorted(headers))
        array = np.zeros(size, np.complex64 if self.last == "complex" else np.float32)
        if self.last in ("no axis", "an empty axis"):
            array = array[: self.last == "no axis"]
        if self.last == "dates":
            array = np.zeros(size, np.int64)
        return self._pack(data, npy(array, headers[self.last]))

    def spoil_content(self, rng, data):
        archives = {
            "no array": [],
            "a text beside": [("a.npy", npy(self.volume)), ("b.npy", npy(self.volume))],
            "no npy": [("a.npy", b"text")],
            "a picture": [("probabilities.npy", npy(np.zeros((5, 7), np.float32)))],
        }
        plain = {
            "unknown version": npy(self.volume).replace(b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x09"),
            "pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x05.",
            "text": b"0.5 0.5 0.5\n",
        }
        if data[:2] == b"PK":
            if rng.random() < 0.3:
                self.last = "checksum"
                return zip_wrong_sum(rng, data)
            self.last = rng.choice(sorted(archives))
            return make_zip(archives[self.last])
        self.last = rng.choice(sorted(plain))
        return plain[self.last]

    def cut(self, rng, data):
        self.last = "cut"
        return data[: rng.randrange(1, len(data))]

    def read(self, path):
        from vesuvius_kit.postprocess.files import load_probability

        return load_probability(path)

    def check(self, form, result):
        if result.dtype != np.float32 or result.ndim != 3 or 0 in result.shape:
            return f"a result of {result.dtype} {result.shape}"
        return None

    def check_same(self, form, result):
        worst = np.abs(result - self.volume).max() if result.shape == self.volume.shape else np.inf
        return None if worst < 0.005 else f"the values of a good file are wrong by {worst}"


# -- checkpoints --


def tensors_header(data):
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(header, rest):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def tensors_cut(rng, data):
    return data[: rng.randrange(1, len(data))]


def tensors_header_size(rng, data):
    return struct.pack("<Q", rng.choice([0, 1, 7, len(data), 2**31, 2**63, 2**64 - 1])) + data[8:]


def tensors_metadata(rng, data):
    header, rest = tensors_header(data)
    metadata = header["__metadata__"]
    name = rng.choice(["record", "state"])
    change = rng.choice(["missing", "no JSON", "list", "number", "null", "deep"])
    values = {"no JSON": "{", "list": "[]", "number": "7", "null": "null", "deep": "[" * 60_000}
    if change == "missing":
        del metadata[name]
    else:
        metadata[name] = values[change]
    return with_header(header, rest)


def tensors_record(rng, data):
    header, rest = tensors_header(data)
    record = json.loads(header["__metadata__"]["record"])
    key = rng.choice(sorted(record))
    record[key] = rng.choice(["unheard-of", None, 7, [], {"a": {"b": 1}}, True])
    header["__metadata__"]["record"] = json.dumps(record)
    return with_header(header, rest)


def tensors_options(rng, data):
    header, rest = tensors_header(data)
    record = json.loads(header["__metadata__"]["record"])
    record["options"][rng.choice(["initial_filters", "depth", "unheard_of"])] = rng.choice(
        [0, -1, 3, 2.5, "x", None, [2]]
    )
    header["__metadata__"]["record"] = json.dumps(record)
    return with_header(header, rest)


def tensors_missing(rng, data):
    header, rest = tensors_header(data)
    names = sorted(name for name in header if name.startswith("model."))
    name = rng.choice(names)
    header[f"model.{rng.choice(['x', '', name + '.y'])}"] = header.pop(name)
    return with_header(header, rest)


def tensors_shape(rng, data):
    header, rest = tensors_header(data)
    name = rng.choice(sorted(name for name in header if name.startswith("model.") and len(header[name]["shape"]) > 1))
    shape = header[name]["shape"]
    header[name]["shape"] = rng.choice(
        [[*shape[::-1], 1], [int(np.prod(shape))], [2**40, *shape], [-1, *shape], ["3"], []]
    )
    return with_header(header, rest)


def tensors_offsets(rng, data):
    header, rest = tensors_header(data)
    name = rng.choice(sorted(set(header) - {"__metadata__"}))
    start, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = rng.choice([[start, end + 4], [end, start - 1], [0, 2**60], [-4, end], [start]])
    return with_header(header, rest)


def tensors_type(rng, data):
    header, rest = tensors_header(data)
    header[rng.choice(sorted(set(header) - {"__metadata__"}))]["dtype"] = rng.choice(["F16", "F64", "U8", "X99", 7])
    return with_header(header, rest)


class Checkpoints(Kind):
    """Weights, through `load_checkpoint` and `load_model`."""

    name, suffix = "checkpoint", ".safetensors"
    ways = (
        (tensors_cut, REFUSE),
        (tensors_header_size, REFUSE),
        (tensors_metadata, REFUSE),
        (tensors_record, ANY),
        (tensors_options, ANY),
        (tensors_missing, REFUSE),
        (tensors_shape, REFUSE),
        (tensors_offsets, REFUSE),
        (tensors_type, REFUSE),
        (empty, REFUSE),
    )

    def __init__(self, folder):
        super().__init__(folder)
        import torch

        from vesuvius_kit.config import RunConfig, config_to_dict
        from vesuvius_kit.models import create_model
        from vesuvius_kit.models.checkpoint import FILE_NAME, save_checkpoint

        torch.set_num_threads(1)
        model = create_model("unet3d", initial_filters=2, depth=1)
        save_checkpoint(self.folder / "good", model, {"config": config_to_dict(RunConfig()), "epoch": 3})
        self.forms = {"unet3d": (self.folder / "good" / FILE_NAME).read_bytes()}

    def read(self, path):
        from vesuvius_kit.models.checkpoint import load_checkpoint, load_model

        checkpoint = load_checkpoint(path)
        load_model(path)
        return checkpoint


# -- the harness itself --


class Faults(Kind):
    """Readers with every fault that counts, so that a test can see each counted; not among `KINDS`."""

    name, suffix = "faults", ""
    faults = ("good", "accepts", "several lines", "no words", "traceback", "hangs", "aborts", "takes memory", "refuses")

    def __init__(self, folder):
        super().__init__(folder)
        self.forms = {}

    def make(self, rng):
        fault = self.faults[rng.randrange(len(self.faults))]
        follows = {"good": ACCEPT, "accepts": REFUSE, "refuses": ACCEPT}.get(fault, ANY)
        return "none", fault, follows, fault

    def read(self, fault):
        from vesuvius_kit.checks import InputValueError

        if fault == "traceback":
            raise ZeroDivisionError("by zero")
        if fault == "hangs":
            time.sleep(60)
        if fault == "aborts":
            os.abort()
        if fault == "takes memory":
            return bytearray(3 << 30)
        words = {"several lines": "one\ntwo", "no words": " ", "refuses": "it is not to my liking"}
        if fault in words:
            raise InputValueError(words[fault])
        return fault


KINDS = {
    kind.name: kind
    for kind in (
        Volumes, Archives, Tables, Configurations, Pipelines, Logs, Credentials, Metadata, Probabilities, Checkpoints,
    )
}  # fmt: skip


def tell(error):
    """An exception with the place in the kit that it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "vesuvius_kit" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:200]}"


def judge(kind, seed, index, begin=lambda said: None):
    """Make one mutant, have the kit read it, and judge what came of it; a dict for the table.

    ``begin`` hears of the mutant before it is read: perhaps nobody hears of it afterwards.
    """
    from vesuvius_kit.checks import InputError
    from vesuvius_kit.kaggle.errors import KaggleError

    rng = random.Random(f"{kind.name}:{seed}:{index}")
    form, way, follows, given = kind.make(rng)
    said = {"kind": kind.name, "index": index, "form": form, "way": way, "follows": follows}
    begin(said)
    logging.disable(logging.CRITICAL)
    try:
        result = kind.read(given)
    except (InputError, KaggleError, Refused) as error:
        message = str(error)
        wrong = getattr(kind, "check_message", lambda _: None)(message)
        if not isinstance(error, Refused) and (not message.strip() or len(message.splitlines()) != 1):
            wrong = f"the message is not one line: {message!r}"
        if follows == ACCEPT:
            wrong = f"a good file is refused: {message}"
        return said | {"outcome": "refused", "wrong": wrong, "message": message[:200]}
    except Exception as error:
        # Whatever comes is what is looked for.
        return said | {"outcome": "failed", "wrong": tell(error)}
    wrong = kind.check(form, result)
    if follows == REFUSE:
        wrong = "accepted without a word"
    elif follows == TOLD and not kind.tells(result):
        wrong = "accepted without a word of what was left out"
    elif wrong is None and follows in (ACCEPT, SAME) and hasattr(kind, "check_same"):
        wrong = kind.check_same(form, result)
    return said | {"outcome": "result", "wrong": wrong}
