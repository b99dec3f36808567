"""``log.jsonl``: one JSON line an epoch."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from vesuvius_kit.checks import name_os_errors
from vesuvius_kit.io.volume import write_atomically

# Gets the lines of a log that are not an epoch's, byte for byte.
ASIDE_NAME = "log.unreadable"


class _Line(NamedTuple):
    """A line as it stands in the file, its end included, and the epoch it tells of; None where it tells of none."""

    raw: bytes
    record: dict | None


def append_line(path: Path, line: dict) -> None:
    """Add a line; a number that is not finite, which JSON has not, becomes null.

    Parameters
    ----------
    path : pathlib.Path
        The log; made if missing.
    line : dict
        Plain types.

    Raises
    ------
    InputOSError
        The disk is full or read-only.
    """
    with name_os_errors(f"write {path}"), open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(without_nan(line), allow_nan=False) + "\n")


def read_lines(path: Path) -> list[dict]:
    """Return the epochs of a log; whatever else its lines hold is left out.

    Parameters
    ----------
    path : pathlib.Path
        The log; without the file there are no lines.

    Returns
    -------
    list of dict
    """
    return [line.record for line in _split(path) if line.record is not None]


def drop_lines(path: Path, epoch: int) -> int:
    """Keep the lines of the epochs before ``epoch``: a killed run may have logged one that it will repeat.

    Lines that are not an epoch's go to the file ``log.unreadable`` beside the log, byte for byte, but for an epoch at the end
    that a kill cut off.

    Parameters
    ----------
    path : pathlib.Path
        The log; it may be missing.
    epoch : int
        The epoch that will run next.

    Returns
    -------
    int
        How many lines were put aside.

    Raises
    ------
    InputOSError
        The disk is full or read-only.
    """
    lines = _split(path)
    kept = [line.raw.rstrip(b"\r\n") + b"\n" for line in lines if line.record and line.record["epoch"] < epoch]
    strange = [line.raw for line in lines if line.record is None]
    if strange and strange[-1] is lines[-1].raw and _is_cut_off(strange[-1]):
        strange.pop()
    if strange:
        # Before the log is written anew: what a kill between the two leaves twice is not lost.
        aside = path.with_name(ASIDE_NAME)
        before = aside.read_bytes() if aside.exists() else b""
        with write_atomically(aside, "wb") as stream:
            stream.write(before + b"".join(strange))
    if lines:
        with write_atomically(path, "wb") as stream:
            stream.writelines(kept)
    return len(strange)


def _split(path) -> list[_Line]:
    if not path.exists():
        return []
    with name_os_errors(f"read {path}"):
        content = path.read_bytes()
    return [_Line(raw, _parse(raw)) for raw in content.splitlines(keepends=True)]


def _parse(raw: bytes) -> dict | None:
    """The epoch that a line tells of, with what every line of a run has; None for anything else."""
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        return None
    return record if all(isinstance(record.get(part), dict) for part in ("train", "validation")) else None


def _is_cut_off(raw: bytes) -> bool:
    """Whether a last line is the beginning of an epoch's, as a kill or a full disk leaves it."""
    start = b'{"epoch": '
    return not raw.endswith(b"\n") and (raw.startswith(start) or start.startswith(raw))


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
