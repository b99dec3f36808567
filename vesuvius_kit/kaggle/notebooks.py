"""Notebooks from their sources: a ``.py`` in percent format becomes the ``.ipynb`` beside it, the same bytes each time."""

import json
from pathlib import Path

from vesuvius_kit.checks import InputValueError, check_folder
from vesuvius_kit.io.volume import write_atomically

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def build_notebook(source: str, name: str) -> str:
    """Return the notebook that a source in percent format describes.

    A line ``# %%`` starts a cell of code, ``# %% [markdown]`` one of text whose lines start with ``#``. Whatever stands
    before the first of them is dropped.

    Parameters
    ----------
    source : str
        The file's content.
    name : str
        Of the notebook; the cells' ids are made of it and their number, so that they never change by themselves.

    Returns
    -------
    str
        JSON of notebook format 4.5, without outputs, ending in a line break.

    Raises
    ------
    InputValueError
        There is no cell, or a line of a text cell does not start with ``#``.
    """
    cells, lines = [], None
    for number, line in enumerate(source.splitlines(), start=1):
        if line.rstrip() in ("# %%", "# %% [markdown]"):
            lines = []
            cells.append(("markdown" if line.rstrip().endswith("]") else "code", lines))
        elif lines is not None and cells[-1][0] == "markdown" and line.strip():
            if not line.startswith("#"):
                raise InputValueError(f"lines of a text cell must start with #, got {name} line {number}: {line!r}")
            lines.append(line[1:].removeprefix(" "))
        elif lines is not None:
            lines.append(line)
    if not cells:
        raise InputValueError(f"a notebook must have at least one cell, got none in {name}")
    content = {
        "cells": [_make_cell(kind, lines, f"{name}-{index}") for index, (kind, lines) in enumerate(cells, start=1)],
        "metadata": _METADATA,
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_notebooks(folder) -> list[Path]:
    """Write the ``.ipynb`` of every ``.py`` in a folder beside it.

    Parameters
    ----------
    folder : str or Path
        Holds sources in percent format.

    Returns
    -------
    list of pathlib.Path
        The notebooks, sorted.

    Raises
    ------
    InputNotFoundError
        No such folder.
    InputValueError
        No source in it, or one that is not in percent format.
    """
    sources = sorted(check_folder("notebooks", folder).glob("*.py"))
    if not sources:
        raise InputValueError(f"notebooks must hold at least one .py, got none in {folder}")
    written = []
    for source in sources:
        content = build_notebook(source.read_text(encoding="utf-8"), source.stem)
        written.append(source.with_suffix(".ipynb"))
        with write_atomically(written[-1]) as stream:
            stream.write(content)
    return written


def _make_cell(kind, lines, cell_id):
    text = "\n".join(lines).strip("\n")
    cell = {"cell_type": kind, "id": cell_id, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
