"""Tables: comma, semicolon, tab, bar or space between the cells, alone in a file or in the middle of a text."""

import csv
import math
import re
from collections.abc import Iterable, Sequence

from vesuvius_kit.diagnosis.readers.names import Kind, meaning_of
from vesuvius_kit.diagnosis.readers.rows import MAX_EPOCH, Row

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_COMMA_NUMBER = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_TIME = re.compile(r"\d+(?::\d\d){1,2}(?:\.\d+)?")
_UNIT = re.compile(r"[-+]?\d+\.?\d*\s?(?:ms|s|min|h|G|M|K|k|GB|MB|GiB|MiB)")
_FRACTION = re.compile(r"(\d+)/\d+")
# A cell that already holds a value is not the name of a column.
_VALUE_WITHIN = re.compile(r"\d\.\d|[:=]\s*[-+]?\d|\b(?:epoch|ep|step|iter|batch)\W{0,3}\d", re.IGNORECASE)
_RULE = re.compile(r"[-=+|:\s]+")
_MISSING = frozenset(("", "NA", "N/A", "None", "null", "-", "--", "—", "NaT", "<NA>"))
_NOT_A_NUMBER = frozenset(("nan", "NaN", "NAN"))
_INFINITE = {"inf": math.inf, "-inf": -math.inf, "Infinity": math.inf, "-Infinity": -math.inf, "Inf": math.inf}
MAX_COLUMNS = 2000
# A name is not a sentence.
MAX_HEADER = 60


class Table:
    """A table that is being read, row by row.

    Parameters
    ----------
    separator
        What stands between the cells; a space for one or more of them, two spaces for two or more.
    names
        The columns.
    is_file
        The table begins with the file, so that its first line with a known loss is enough of a header.
    """

    def __init__(self, separator: str, names: list[str], is_file: bool = False) -> None:
        self.separator, self.names, self.is_file = separator, names, is_file
        self.kinds = [meaning_of(_last_part(name)) for name in names]
        self.rows = 0
        self.losses = 0
        self.is_commaed = False

    def read(self, line: str, number: int, is_cut: bool) -> Row | None:
        """Return the row that a line holds; one without values for a rule between rows, None for what is no row of this table.

        The last cell of a line that is cut is not taken.
        """
        if self.separator in ("|", " ", "  ") and _RULE.fullmatch(line):
            return Row(number, level="point", source="table")
        cells = split_cells(line, self.separator)
        names, kinds = self.names, self.kinds
        if len(cells) == len(names) + 1 and self.separator in (" ", "  ", "\t", "|") and cells[0].isdigit():
            cells = cells[1:]  # the index that pandas prints
        if len(cells) > len(names) and self.separator in (" ", "  ", "|") and _FRACTION.fullmatch(cells[0]):
            cells = cells[: len(names)]
        if len(cells) > len(names) or (len(cells) < len(names) and not is_cut):
            return None
        if is_cut:
            cells = cells[:-1]
        row = Row(number, level="point", source="table")
        for name, meaning, cell in zip(names, kinds, cells, strict=False):
            value = self._number(cell, meaning.kind)
            if value is None:
                if meaning.kind in ("epoch", "step", "loss", "score", "rate") and cell not in _MISSING:
                    return None
                continue
            if meaning.kind == "epoch":
                row.epoch = value if 0 <= value < MAX_EPOCH else None
            elif meaning.kind == "step":
                row.step = value
            elif meaning.kind in ("loss", "score", "rate", "bare"):
                row.values[name] = value
        self.rows += bool(row.values)
        return row

    def _number(self, cell: str, kind: Kind) -> float | None:
        """A cell's number; None for none."""
        cell = cell.strip().strip("'\"")
        if cell in _MISSING:
            return None
        if cell in _NOT_A_NUMBER:
            return None if self.separator != "," and cell == "NaN" else math.nan
        if cell in _INFINITE:
            return _INFINITE[cell]
        if cell.endswith("%") and _NUMBER.fullmatch(cell[:-1].strip()):
            return float(cell[:-1]) / 100
        if _NUMBER.fullmatch(cell):
            return float(cell)
        # A comma within a cell is a decimal comma where commas do not part the cells.
        if self.separator in (";", "\t") and _COMMA_NUMBER.fullmatch(cell):
            self.is_commaed = True
            return float(cell.replace(",", "."))
        match = _FRACTION.fullmatch(cell)
        if match and kind == "epoch":
            return float(match[1])
        if cell.startswith("tensor(") and (number := _NUMBER.match(cell[7:])) is not None:
            return float(number[0])
        return None

    def missing_epochs(self) -> bool:
        """Return whether no column numbers the epochs."""
        return not any(meaning.kind in ("epoch", "step") for meaning in self.kinds)


def find_header(line: str, at_top: bool) -> Table | None:
    """Return the table that a line is the header of; ``at_top`` where nothing stands before it in the file."""
    if not 3 <= len(line) <= 50_000 or _VALUE_WITHIN.search(line):
        return None
    lower = line.lower()
    if not any(word in lower for word in ("loss", "epoch", "dice", "iou", "score", "acc", "step", "train", "val")):
        return None
    if "://" in line or lower.count(": ") > 1:
        return None
    for separator in ("\t", ";", ",", "|", "  ", " "):
        if separator.strip() and separator not in line:
            continue
        cells = split_cells(line, separator)
        if not 2 <= len(cells) <= MAX_COLUMNS or any(len(cell) > MAX_HEADER for cell in cells):
            continue
        if separator == " " and len(cells) > 20:
            continue
        names = _unique([_last_part(cell) for cell in cells])
        if len({*names}) < len(names) or any(name.endswith(" 2") for name in names):
            names = _unique(cells)
        if _is_header(names, separator, at_top):
            return Table(separator, names, at_top)
    return None


def split_cells(line: str, separator: str) -> list[str]:
    """Return the cells of a line; for the separator see `Table`."""
    if separator == " ":
        return line.split()
    if separator == "  ":
        return [cell for cell in re.split(r"\s{2,}|\t", line.strip()) if cell]
    if separator == "|":
        return [cell.strip() for cell in line.strip().strip("|").split("|")]
    if '"' in line:
        try:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
        except csv.Error:
            return []
    return [cell.strip() for cell in line.split(separator)]


def _is_header(names: Sequence[str], separator: str, at_top: bool) -> bool:
    """Whether the names are columns: no numbers, a place or a loss, and most of them known where spaces part them."""
    if any(_NUMBER.fullmatch(name) or _VALUE_WITHIN.search(name) for name in names if name):
        return False
    kinds = [meaning_of(_last_part(name)).kind for name in names]
    measured = sum(kind in ("loss", "score") for kind in kinds)
    has_place = any(kind in ("epoch", "step") for kind in kinds)
    has_loss = "loss" in kinds or ("bare" in kinds and has_place and kinds.count("bare") > 1)
    if separator == " ":
        known = sum(kind != "other" for kind in kinds)
        return has_place and measured > 0 and kinds[0] in ("epoch", "step") and 2 * known >= len(kinds)
    if has_place:
        return measured > 0 or has_loss
    return has_loss and (at_top or (measured > 1 and separator in (",", ";", "\t", "|"))) and (at_top or len(names) > 2)


def _last_part(name: str) -> str:
    """What a wandb export writes behind the run's name; "run - val_loss__MIN" is a bound and no measure."""
    return name.rsplit(" - ", 1)[-1].replace("__", " ")


def _unique(cells: Iterable[str]) -> list[str]:
    """The names, a second one of the same name marked."""
    seen: dict[str, int] = {}
    names = []
    for cell in cells:
        name = cell.strip().strip("'\"# ")
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names
