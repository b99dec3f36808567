"""What lies in a competition's folder: the rows of its tables, the files, and which of them belong together."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import product
from pathlib import Path

from vesuvius_kit.checks import InputNotFoundError, InputValueError, check_file, check_folder, name_os_errors
from vesuvius_kit.io.listing import list_volumes

_NAMES_SHOWN = 5  # of a long list in one line of a message
_COLUMNS = ("id", "scroll_id")
_SPREADSHEET_DIGITS = 15  # what a spreadsheet keeps of a number


@dataclass(frozen=True)
class Chunk:
    """One volume of the competition."""

    id: str
    """The name of its files without the ending."""
    scroll_id: str
    """The scroll it was cut from; "" for a test image without a row in ``test.csv``."""
    image_path: Path
    label_path: Path | None = None
    """None for a test chunk."""

    def require_label(self) -> Path:
        """Return `label_path`, which must not be None."""
        if self.label_path is None:
            raise InputValueError(f"chunks must have labels, {self.id} has none")
        return self.label_path


class CompetitionFolder:
    """The rows and files of a competition's folder; the tables are read when they are first needed."""

    def __init__(self, path: Path | str) -> None:
        self.path = check_folder("data folder", path)
        if not any((self.path / name).exists() for name in ("train.csv", "test.csv", "test_images")):
            raise InputNotFoundError(f"{self.path} must hold train.csv or test_images, got neither")
        self.id_counts: dict[str, Counter[str]] = {}
        """How often each id stands in a table that was read, by the table's name."""

    @cached_property
    def train_rows(self) -> dict[str, str]:
        """Ids of ``train.csv`` and their scrolls."""
        return self._read_rows("train.csv", needs_scroll=True)

    @cached_property
    def test_rows(self) -> dict[str, str]:
        """Ids of ``test.csv`` and their scrolls, which may be ""; none without the table."""
        return self._read_rows("test.csv", needs_scroll=False) if (self.path / "test.csv").is_file() else {}

    @cached_property
    def train_images(self) -> dict[str, Path]:
        """Images to train on by id, rows or not."""
        return self.list_files("train_images")

    @cached_property
    def train_labels(self) -> dict[str, Path]:
        """Labels to train on by id, rows or not."""
        return self.list_files("train_labels")

    @cached_property
    def tests(self) -> list[Chunk]:
        """The test images: first those of ``test.csv`` in its order, then those without a row, by name."""
        images = self.list_files("test_images")
        ids = [id_ for id_ in self.test_rows if id_ in images] + sorted(images.keys() - self.test_rows.keys())
        return [Chunk(id_, self.test_rows.get(id_, ""), images[id_]) for id_ in ids]

    @cached_property
    def problems(self) -> list[str]:
        """Why the training rows and files do not go together, one line each."""
        return [*self._find_half_pairs(), *self._find_spoilt_ids()]

    def list_files(self, name: str) -> dict[str, Path]:
        """Return the volumes of an inner folder by id; none where it is missing."""
        folder = self.path / name
        return list_volumes(name, folder) if folder.is_dir() else {}

    def list_withdrawn(self) -> dict[str, Path]:
        """Return the files of withdrawn pairs by id, of a pair one."""
        return self.list_files("deprecated_train_images") | self.list_files("deprecated_train_labels")

    def list_pairs(self) -> list[Chunk]:
        """Return the rows of ``train.csv`` that have both files, in its order."""
        return [
            Chunk(id_, scroll_id, self.train_images[id_], self.train_labels[id_])
            for id_, scroll_id in self.train_rows.items()
            if id_ in self.train_images and id_ in self.train_labels
        ]

    def _read_rows(self, name: str, *, needs_scroll: bool) -> dict[str, str]:
        rows = read_table(self.path / name, needs_scroll=needs_scroll)
        self.id_counts[name] = Counter(id_ for id_, _ in rows)
        return dict(rows)

    def _find_half_pairs(self) -> list[str]:
        lines = []
        for id_ in self.train_rows:
            image, label = self.train_images.get(id_), self.train_labels.get(id_)
            if image and not label:
                lines.append(f"half a pair: {image} has no label in {self.path / 'train_labels'}")
            if label and not image:
                lines.append(f"half a pair: {label} has no image in {self.path / 'train_images'}")
        return lines

    def _find_spoilt_ids(self) -> list[str]:
        files = self.train_labels | self.train_images
        rows = [
            (id_, number) for id_ in self.train_rows if id_ not in files and (number := _read_number(id_)) is not None
        ]
        strays = [
            (path, number)
            for id_, path in files.items()
            if id_ not in self.train_rows and (number := _read_number(id_)) is not None
        ]
        pairs = [
            f"{row} for {path}"
            for (row, written), (path, meant) in product(rows, strays)
            if _is_spoilt(written, meant, row)
        ]
        if not pairs:
            return []
        return [
            f"{self.path / 'train.csv'} must name files, got ids as a spreadsheet spoils them (keep the column as "
            f"text): {list_names(pairs)}"
        ]


def list_names(names: Sequence[object]) -> str:
    """Return names for a message, the first few of many."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(str(name) for name in names[:_NAMES_SHOWN]) + more


def read_table(path: Path, *, needs_scroll: bool) -> list[tuple[str, str]]:
    """Return (id, scroll_id) in the file's order; a row may be there twice, an id with two scrolls may not.

    Commas, semicolons or tabs divide the fields; other columns do not matter.
    """
    check_file(path.name, path)
    with name_os_errors(f"read {path}"):
        text = _decode_text(path, path.read_bytes())
    rows: list[tuple[str, str]] = []
    scroll_of: dict[str, str] = {}
    spellings: dict[str | Decimal, str] = {}
    try:
        # Strict: a quote that is never closed would otherwise swallow the rest of the table.
        table = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=_find_delimiter(path, text), skipinitialspace=True, strict=True
        )
        names = table.fieldnames = [(name or "").strip() for name in table.fieldnames or ()]
        for row in table:
            if any(field.strip() for field in row.pop(None, ())):
                raise InputValueError(f"{path} must have {len(names)} fields in line {table.line_num}, got more")
            if not any((value or "").strip() for value in row.values()):
                continue
            if None in row.values():
                raise InputValueError(f"{path} must have {len(names)} fields in line {table.line_num}, got {row}")
            id_, scroll_id = (row[column].strip() for column in _COLUMNS)
            if not id_ or (needs_scroll and not scroll_id):
                raise InputValueError(f"{path} must have an id and a scroll_id in line {table.line_num}, got {row}")
            if scroll_of.setdefault(id_, scroll_id) != scroll_id:
                raise InputValueError(
                    f"{path} must not repeat an id, got {id_} again in line {table.line_num} with another scroll"
                )
            # A scroll in two spellings would be two, and lie on both sides of a fold.
            number = _read_number(scroll_id)
            spelt = spellings.setdefault(scroll_id.casefold() if number is None else number, scroll_id)
            if spelt != scroll_id:
                raise InputValueError(
                    f"{path} must spell a scroll_id in one way, got {scroll_id} in line {table.line_num} and {spelt} before"
                )
            rows.append((id_, scroll_id))
    except csv.Error as error:
        raise InputValueError(f"{path} is not a table: {error}") from error
    return rows


def _decode_text(path: Path, content: bytes) -> str:
    # Byte order marks: spreadsheets put that of UTF-8 before the first column's name, or write UTF-16.
    is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputValueError(f"{path} is not a table in UTF-8 or UTF-16: {error}") from error
    if "\0" in text:
        raise InputValueError(f"{path} is not a table in UTF-8: it holds NUL characters")
    # Lines may end with CR LF, LF, or the CR of an old Mac.
    return text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")


def _find_delimiter(path: Path, text: str) -> str:
    """Return the delimiter under which the first line names both columns once: comma, semicolon or tab."""
    first = text.partition("\n")[0]
    for delimiter in ",;\t":
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])]
        if all(names.count(column) == 1 for column in _COLUMNS):
            return delimiter
    names = [name.strip() for name in next(csv.reader([first]), [])]
    column = next(column for column in _COLUMNS if names.count(column) != 1)
    a = "one" if column in names else "a"
    raise InputValueError(f"{path} must have {a} column {column}, got {names or 'no line'}")


def _read_number(id_: str) -> Decimal | None:
    # Exponents of more digits are not a spreadsheet's.
    is_number = re.fullmatch(r"[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]{1,3})?", id_)
    return Decimal(id_.replace(",", ".")) if is_number else None


def _is_spoilt(written: Decimal, meant: Decimal, text: str) -> bool:
    """Whether a table's id is what a spreadsheet makes of a file's id: 12 of 0012, 1.01209E+09 of 1012093321."""
    is_rounded = "E" in text.upper()
    n_kept = len(written.as_tuple().digits) if is_rounded else _SPREADSHEET_DIGITS
    if not is_rounded and written.adjusted() < n_kept:
        return written == meant
    # The last digit that was kept may have been rounded or cut.
    return abs(written - meant) < Decimal(10) ** (written.adjusted() - n_kept + 1)
