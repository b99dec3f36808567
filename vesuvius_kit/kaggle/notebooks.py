"""Notebooks from their sources: a ``.py`` in percent format becomes the ``.ipynb`` beside it, the same bytes each time."""

import re
from pathlib import Path

from vesuvius_kit.checks import InputValueError, check_folder
from vesuvius_kit.io.atomic import write_atomically

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_CELL = re.compile(r"^# %%( \[markdown\])?\s*$", re.MULTILINE)


def build_notebook(source: str, name: str) -> str:
    """Return the notebook, as JSON of format 4.5, that a source in jupytext's percent format describes.

    Whatever stands before its first cell is dropped. The cells' ids are made of the name and their number, so that they never
    change by themselves.
    """
    import jupytext
    import nbformat

    if not (first := _CELL.search(source)):
        raise InputValueError(f"a notebook must have at least one cell, got none in {name}")
    _check_text_cells(source, name)
    notebook = jupytext.reads(source[first.start() :], fmt="py:percent")
    notebook.metadata = _METADATA
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id, cell.metadata = f"{name}-{number}", {}
    return nbformat.writes(notebook) + "\n"  # type: ignore[no-untyped-call] # it claims to be typed


def _check_text_cells(source: str, name: str) -> None:
    """jupytext takes a line of text without # as it is, and a forgotten marker would turn code into text."""
    is_text = False
    for number, line in enumerate(source.splitlines(), start=1):
        if marker := _CELL.match(line):
            is_text = marker[1] is not None
        elif is_text and line.strip() and not line.startswith("#"):
            raise InputValueError(f"lines of a text cell must start with #, got {name} line {number}: {line!r}")


def write_notebooks(folder: Path | str) -> list[Path]:
    """Write the ``.ipynb`` of every ``.py`` in a folder beside it and return them, sorted."""
    sources = sorted(check_folder("notebooks", folder).glob("*.py"))
    if not sources:
        raise InputValueError(f"notebooks must hold at least one .py, got none in {folder}")
    for source in sources:
        with write_atomically(source.with_suffix(".ipynb")) as stream:
            stream.write(build_notebook(source.read_text(encoding="utf-8"), source.stem))
    return [source.with_suffix(".ipynb") for source in sources]
