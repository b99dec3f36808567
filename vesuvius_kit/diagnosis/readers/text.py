"""A text log line by line: JSON lines, the plateau case's lines, printed dictionaries, tables, lines of a console."""

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vesuvius_kit.diagnosis.readers import console, kit, nnunet, tables
from vesuvius_kit.diagnosis.readers.decoding import MAX_JSON_LINE
from vesuvius_kit.diagnosis.readers.documents import row_of_mapping
from vesuvius_kit.diagnosis.readers.rows import Row
from vesuvius_kit.diagnosis.readers.runs import mark_of

# As many lines are quoted as not readable; the others are counted.
MAX_QUOTED = 5
# So many other lines between two rows end a table.
MAX_BETWEEN = 500
# A line with one of these was meant for us; if it cannot be read, it is quoted.
_MEANT = re.compile(r"loss\s*[:=]|intervention\s+#|lr scale|^\{\"", re.IGNORECASE)
_DICTIONARY = re.compile(r"\{'[^{}]{3,4000}\}")
# What the words of a mark have in common: the whole search is dear, and a log may have a million lines.
_MARKS = re.compile(r"(?:[Tt]rain|TRAIN)(?:ing|ING)?\b|[Rr]esum|RESUM|[Ll]oad|LOAD|[Tt]un|[Cc]ontinu|[Ll]abel|[Mm]ask")
_DIGIT = re.compile(r"\d")
_NNUNET = "nnU-Net's log"


@dataclass
class TextLog:
    """What the lines of a text hold."""

    rows: list[Row] = field(default_factory=list)
    """In the order of the text."""
    unread: list[str] = field(default_factory=list)
    """What could not be read."""
    forms: list[str] = field(default_factory=list)
    """The forms that were met."""
    notes: list[str] = field(default_factory=list)
    """What was found out."""


def read_text(lines: Iterable[tuple[int, str, bool]]) -> TextLog:
    """Read a text log, line by line as `split_lines` yields them."""
    reader = _Reader()
    for number, line, is_cut in lines:
        reader.read(number, line, is_cut)
    return reader.finish()


class _Reader:
    """A text log that is being read."""

    def __init__(self) -> None:
        self.log = TextLog()
        self.table: tables.Table | None = None
        self.table_start = 0
        self.seen = self.since_row = 0
        self.meant = self.others = 0

    def read(self, number: int, line: str, is_cut: bool) -> None:
        self.seen += 1
        line = console.last_of_bars(line)
        if self._read_table(number, line, is_cut):
            return
        if len(line) > console.MAX_LINE and line[0] != "{":
            self._put_by(number, line, is_cut)
            return
        if line[0] == "{" and len(line) <= MAX_JSON_LINE:
            row = None if is_cut and not line.endswith("}") else self._read_object(number, line)
        elif ("oss" in line or "OSS" in line or "ntervention" in line) and kit.is_case_line(line):
            row = self._read_case(number, line, is_cut)
        else:
            row = self._read_line(number, line, is_cut)
        if row is not None:
            self.log.rows.append(row)
            return
        self._put_by(number, line, is_cut)

    def _read_table(self, number: int, line: str, is_cut: bool) -> bool:
        """Whether a line belongs to a table: a header, or a row of the one that is being read."""
        if self.table is not None:
            row = self.table.read(line, number, is_cut)
            if row is not None:
                if row.values:
                    self.log.rows.append(row)
                self.since_row = 0
                return True
            again = tables.find_header(line, False)
            if again is not None and again.names == self.table.names:
                return True
            if self.table.is_file and self.table.rows:
                # A damaged line in a file of one table does not end it.
                self._put_by(number, line, is_cut, is_meant=True)
                return True
            # Between the rows there may be what a bar left behind, or what a callback said.
            self.since_row += 1
            if self.since_row > MAX_BETWEEN:
                self._end_table()
        if line[0] in "{[<":
            return False
        header = tables.find_header(line, self.seen == 1)
        if header is None:
            return False
        self._end_table()
        self.table, self.table_start = header, len(self.log.rows)
        return True

    def _end_table(self) -> None:
        if self.table is None:
            return
        rows = [row for row in self.log.rows[self.table_start :] if row.source == "table"]
        if rows:
            self._meet("table")
            if self.table.missing_epochs():
                self.log.notes.append(f"the table numbers no epochs: its {len(rows)} rows were counted")
                for place, row in enumerate(rows):
                    row.epoch, row.step = (place, None) if len(rows) <= 1200 else (None, place)
            else:
                _fill_epochs(rows)
            if self.table.is_commaed:
                self.log.notes.append("numbers with a decimal comma")
        self.table = None

    def _read_object(self, number: int, line: str) -> Row | None:
        entry = kit.load_json(line)
        if isinstance(entry, dict):
            record = kit.read_kit_entry(entry)
            if record is not None:
                self._meet("the kit's JSON lines")
                return Row(number, epoch=record["epoch"], record=record, source="kit")
            if kit.is_kit_shaped(entry):
                return None
            return self._row_of_mapping(number, entry, "JSON lines")
        return self._read_dictionary(number, line)

    def _read_dictionary(self, number: int, line: str) -> Row | None:
        """A dictionary as Python prints it, as Hugging Face's trainer does."""
        match = _DICTIONARY.search(line)
        if match is None:
            return None
        text = re.sub(
            r"(?:np\.)?float(?:16|32|64)\(([^()]{1,40})\)|tensor\(([^(),]{1,40})(?:,[^()]{0,60})?\)", r"\1\2", match[0]
        )
        text = re.sub(r":\s*(nan|-?inf)\b", r": '\1'", text)
        try:
            entry = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
        return self._row_of_mapping(number, entry, "printed dictionaries") if isinstance(entry, dict) else None

    def _row_of_mapping(self, number: int, entry: dict[Any, Any], form: str) -> Row | None:
        row = row_of_mapping(entry, number)
        if row is None or (row.epoch is None and row.step is None):
            return None
        self._meet(form)
        return row

    def _read_case(self, number: int, line: str, is_cut: bool) -> Row | None:
        if is_cut and not line.endswith((")", "x")):
            return None
        record = kit.read_case_line(line, number, self.log.unread)
        if record is None:
            return None
        self._meet('lines "Epoch k Train - Loss: ..."')
        return Row(number, epoch=record.get("epoch"), record=record, source="kit")

    def _read_line(self, number: int, line: str, is_cut: bool) -> Row | None:
        if "dice" in line.lower() and (row := nnunet.read_dice_line(line, number)) is not None:
            self._meet(_NNUNET)
            return row
        mark = mark_of(line) if _MARKS.search(line) else ""
        if mark:
            if mark == "labels":
                return Row(number, level=mark, text=line[:200])
            return Row(number, level=mark, text=re.sub(r"[\d:.,/-]+", " ", line)[:100].strip())
        if not _DIGIT.search(line):
            return None
        if "{'" in line and "'epoch'" in line and (row := self._read_dictionary(number, line)) is not None:
            return row
        row = console.read_console_line(line, number, is_cut)
        if row is not None and row.level not in ("header", "record"):
            self._meet("console")
        return row

    def _meet(self, form: str) -> None:
        if form not in self.log.forms:
            self.log.forms.append(form)

    def _put_by(self, number: int, line: str, is_cut: bool, is_meant: bool = False) -> None:
        if is_cut or is_meant or (len(line) < 20_000 and _MEANT.search(line)):
            self.meant += 1
            if self.meant <= MAX_QUOTED:
                why = "has no line ending and may be cut" if is_cut else "cannot be read"
                self.log.unread.append(f"line {number} {why}: {line[:100]}")
        else:
            self.others += 1

    def finish(self) -> TextLog:
        self._end_table()
        if self.meant > MAX_QUOTED:
            self.log.unread.append(f"{self.meant - MAX_QUOTED} more lines like these")
        if self.others:
            self.log.unread.append(f"{self.others} line{'s' * (self.others > 1)} of another kind")
        if _NNUNET in self.log.forms:
            self.log.forms = [_NNUNET] + [form for form in self.log.forms if form not in (_NNUNET, "console")]
        return self.log


def _fill_epochs(rows: Sequence[Row]) -> None:
    """A row without its epoch, as of a rate that was logged at the begin of one, belongs to the next row that has it."""
    epoch = None
    for row in reversed(rows):
        if row.epoch is not None:
            epoch = row.epoch
        elif epoch is not None:
            row.epoch = epoch
