"""Whole files of JSON: Keras's history, Hugging Face's `trainer_state.json`, lists of epochs, notebooks, Kaggle's logs."""

import math
import re
from html import unescape
from typing import Any

from vesuvius_kit.diagnosis.readers.names import meaning_of
from vesuvius_kit.diagnosis.readers.rows import MAX_EPOCH, Row

# The entry that Hugging Face's trainer writes when all is over: means of the whole run.
_SUMMARY = frozenset(("train_runtime", "train_samples_per_second", "total_flos"))
_TABLE_HTML = re.compile(r"<table", re.IGNORECASE)
MAX_HTML = 5_000_000


def row_of_mapping(entry: dict[Any, Any], number: int) -> Row | None:
    """Return the row of one object whose keys are names and whose values are numbers; None where nothing in it is measured.

    ``number`` is its line, or its place in a list.
    """
    if _SUMMARY & entry.keys() and "train_loss" in entry:
        return None
    row = Row(number, level="point", source="object")
    mode = entry.get("mode", entry.get("split", entry.get("phase", "")))
    mode = (
        mode
        if isinstance(mode, str) and mode.lower() in ("train", "val", "valid", "validation", "test", "eval")
        else ""
    )
    for key, value in _flat(entry).items():
        value = _number(value)
        if value is None or not isinstance(key, str):
            continue
        meaning = meaning_of(key)
        if meaning.kind == "epoch":
            if 0 <= value < MAX_EPOCH:
                row.epoch = value
            else:
                return None
        elif meaning.kind == "step":
            row.step = value if math.isfinite(value) else None
        elif meaning.kind in ("loss", "score", "rate", "bare"):
            name = f"{mode} {key}" if mode and not meaning.split and meaning.kind != "rate" else key
            row.values[name] = value
    return row if row.values else None


def _flat(entry: dict[Any, Any]) -> dict[Any, Any]:
    """An object whose parts for training and validation are objects of their own, on one level."""
    flat: dict[Any, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict) and isinstance(key, str) and meaning_of(key).kind == "bare":
            flat.update((f"{key} {inner}", number) for inner, number in value.items())
        else:
            flat[key] = value
    return flat


def read_document(document: object) -> tuple[list[Row], str] | None:
    """Return the rows of a JSON file that is neither a notebook nor a text, and its form; None for nothing that is known."""
    if isinstance(document, dict):
        for key, form in (
            ("log_history", "Hugging Face's trainer state"),
            *(
                (key, "a history")
                for key in ("history", "training_history", "train_history", "logs", "epochs", "records", "results")
            ),
        ):
            if isinstance(document.get(key), (list, dict)):
                found = read_document(document[key])
                if found is not None:
                    return found[0], form
        columns = {
            name: values
            for name, values in _flat(document).items()
            if isinstance(values, list) and values and any(_number(value) is not None for value in values)
        }
        columns = {name: values for name, values in columns.items() if meaning_of(name).kind != "other"}
        if any(meaning_of(name).kind in ("loss", "bare") for name in columns):
            return _read_columns(columns), "a history"
        entries = [
            (place, key, entry) for place, (key, entry) in enumerate(document.items()) if isinstance(entry, dict)
        ]
        mapped = [(key, row_of_mapping(entry, place)) for place, key, entry in entries]
        rows = [_with_epoch(row, key) for key, row in mapped if row is not None]
        return (rows, "a history") if rows else None
    if isinstance(document, list):
        found_rows = (row_of_mapping(entry, place) for place, entry in enumerate(document) if isinstance(entry, dict))
        rows = [row for row in found_rows if row is not None]
        if rows and all(row.epoch is None and row.step is None for row in rows):
            for place, row in enumerate(rows):
                row.epoch = place
        return (rows, "a list of epochs") if rows else None
    return None


def _with_epoch(row: Row, key: str) -> Row:
    if row.epoch is None and row.step is None:
        digits = re.findall(r"\d+", key)
        row.epoch = float(digits[-1]) if digits and len(digits[-1]) < 10 else None
    return row


def _read_columns(columns: dict[str, list[Any]]) -> list[Row]:
    """One list for each name, as Keras's history has them."""
    places = next((values for name, values in columns.items() if meaning_of(name).kind == "epoch"), None)
    rows = []
    for place in range(max(len(values) for values in columns.values())):
        row = Row(place + 1, epoch=place, level="point", source="object")
        if places is not None and place < len(places) and (epoch := _number(places[place])) is not None:
            row.epoch = epoch if 0 <= epoch < MAX_EPOCH else None
        for name, values in columns.items():
            value = _number(values[place]) if place < len(values) else None
            if value is not None and meaning_of(name).kind in ("loss", "score", "rate", "bare"):
                row.values[name] = value
        rows.append(row)
    return rows


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, str) and len(value) < 30:
        try:
            return float(value)
        except ValueError:
            return None
    return None


def notebook_text(document: object) -> str | None:
    """Return what the cells of a notebook printed, tables of HTML as lines with tabs; None for what is no notebook."""
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        return None
    parts = []
    for cell in document["cells"]:
        outputs = cell.get("outputs") if isinstance(cell, dict) else None
        for output in outputs if isinstance(outputs, list) else ():
            if isinstance(output, dict):
                parts.append(_output_text(output))
    return "\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _output_text(output: dict[str, Any]) -> str:
    if "text" in output:
        return _joined(output["text"])
    data = output.get("data")
    if isinstance(data, dict):
        html = _joined(data.get("text/html", ""))
        if _TABLE_HTML.search(html) and len(html) <= MAX_HTML:
            return html_tables(html)
        return _joined(data.get("text/plain", ""))
    return _joined(output.get("traceback", ""), "\n")


def _joined(text: object, between: str = "") -> str:
    if isinstance(text, list):
        return between.join(part for part in text if isinstance(part, str))
    return text if isinstance(text, str) else ""


def kaggle_text(document: object) -> str | None:
    """Return what a run on Kaggle printed, from the list of pieces that its log is; None for what is no such list."""
    if not isinstance(document, list) or not document:
        return None
    pieces = [entry for entry in document if isinstance(entry, dict) and isinstance(entry.get("data"), str)]
    if len(pieces) < len(document) / 2 or not any("stream_name" in entry for entry in pieces):
        return None
    # What two streams wrote at one time is kept apart; a piece is not always a whole line.
    streams: dict[Any, list[str]] = {}
    for entry in pieces:
        streams.setdefault(entry.get("stream_name"), []).append(entry["data"])
    return "\n".join("".join(data) for data in streams.values()) + "\n"


def html_tables(html: str) -> str:
    """Return the tables of a piece of HTML, as a notebook keeps it, as lines with tabs."""
    rows: list[str] = []
    cells: list[str] = []
    words: list[str] | None = None
    # The library's parser takes quadratic time on tags that do not end.
    for piece in html.split("<")[1:]:
        tag, end, words_behind = piece.partition(">")
        name = tag.split(None, 1)[0].lower() if end and tag.strip() else ""
        if name in ("td", "th"):
            words = []
        elif name in ("/td", "/th") and words is not None:
            cells.append(" ".join(unescape("".join(words)).split()))
            words = None
        elif name == "tr":
            cells = []
        elif name == "/tr" and cells:
            rows.append("\t".join(cells))
            cells = []
        if words is not None:
            words.append(words_behind)
    return "\n".join(rows)
