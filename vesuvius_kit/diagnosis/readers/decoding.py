"""From the bytes of a log to its lines: encodings, colours, carriage returns, what a progress bar left behind."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from vesuvius_kit.checks import InputValueError, name_os_errors

# No log is larger; a larger file is refused before it fills the memory.
MAX_BYTES = 512 * 2**20
# A longer line is not the line of an epoch. JSON lines may be long, since the kit's hold the gradient diagnostics.
MAX_LINE = 20_000
MAX_JSON_LINE = 2_000_000
_ANSI = re.compile(r"\x1b(?:\[[0-?]{0,40}[ -/]{0,10}[@-~]|\][^\x07\x1b\n]{0,400}(?:\x07|\x1b\\)|[@-Z\\-_])")
# The backspaces of older progress bars start a line anew, as carriage returns do.
_BACKSPACES = re.compile(r"\x08+")
# Bytes that no text holds; more of them than this share, and a file is none.
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r\x08\x1b\x0c")
MAX_CONTROLS = 0.05
_STRIPPED = "\x00\ufffd \t\ufeff\u200b\u00a0"


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raise for a file that is larger than any log."""
    with name_os_errors(f"read {path}"):
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputValueError(f"log must be smaller than {MAX_BYTES >> 20} MB, got {size >> 20} MB in {path}")
        return path.read_bytes()


def decode(data: bytes) -> tuple[str, list[str]]:
    """Return the text of a log in whatever encoding, empty for what is no text, and a note where it was not plain UTF-8."""
    for bom, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(bom):
            return data[len(bom) :].decode(name, errors="replace"), [f"encoding: {name} with a byte-order mark"]
    # Text in a Latin script has a NUL in every second byte of UTF-16.
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(data) > 1 and data[first::2].count(0) > 0.4 * len(data[first::2]) and data[1 - first :: 2].count(0) == 0:
            return data.decode(name, errors="replace"), [f"encoding: {name}"]
    head = data[:65536]
    if len(head) - len(head.translate(None, _CONTROLS)) > MAX_CONTROLS * len(head):
        return "", []
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as error:
        if error.start >= len(data) - 3:
            return data.decode("utf-8", errors="replace"), []
    return data.decode("latin-1"), ["encoding: not UTF-8, read as Latin-1"]


def split_lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the lines of a text, without colours and control characters.

    Yields
    ------
    int
        Number of the line, from 1.
    str
        The line without the spaces around it; never empty.
    bool
        Whether the text ends within the line, so that its last number may be cut.
    """
    if "\x08" in text:
        text = _BACKSPACES.sub("\n", text)
    has_colours = "\x1b" in text
    ends_open = bool(text) and text[-1:].splitlines()[0] != ""
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if has_colours:
            line = _ANSI.sub("", line)
        line = line.strip(_STRIPPED)
        if line:
            yield number, line, ends_open and number == len(lines)
