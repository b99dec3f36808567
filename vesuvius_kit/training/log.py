"""``log.jsonl``: one JSON line an epoch."""

import json
import math

from vesuvius_kit.volume import write_atomically


def append_line(path, line: dict) -> None:
    """Add a line; a number that is not finite, which JSON has not, becomes null.

    Parameters
    ----------
    path : Path
        The log; made if missing.
    line : dict
        Plain types.
    """
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(without_nan(line), allow_nan=False) + "\n")


def read_lines(path) -> list[dict]:
    """Return the whole lines of a log; one that a kill cut off is left out.

    Parameters
    ----------
    path : Path
        The log; without the file there are no lines.

    Returns
    -------
    list of dict
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def drop_lines(path, epoch: int) -> None:
    """Keep the lines of the epochs before ``epoch``: a killed run may have logged one that it will repeat.

    Parameters
    ----------
    path : Path
        The log; it may be missing.
    epoch : int
        The epoch that will run next.
    """
    if path.exists():
        kept = [line for line in read_lines(path) if line["epoch"] < epoch]
        with write_atomically(path) as stream:
            stream.writelines(json.dumps(line) + "\n" for line in kept)


def without_nan(value):
    """Return a value as the log will hold it.

    Parameters
    ----------
    value : object
        Dicts, lists and scalars.

    Returns
    -------
    object
        The same with None for every number that is not finite.
    """
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
