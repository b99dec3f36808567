"""The record of a run: ``log.jsonl``, one JSON line an epoch. Training writes it, report and diagnosis read it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from vesuvius_kit.checks import InputValueError, check_file, name_os_errors
from vesuvius_kit.io.atomic import write_atomically

LOG_NAME = "log.jsonl"
ASIDE_NAME = "log.unreadable"
"""Gets the lines of a log that are not an epoch's, byte for byte."""
BESIDE_COMPONENTS = ("loss", "gradient_norm", "skipped_steps", "output_mean", "output_std", "surface_share")
"""What `EpochRecord.train` and `EpochRecord.validation` hold beside the components of the loss."""


@dataclass
class EpochRecord:
    """One epoch of a run, and one line of its log. What is not known is None or empty; numbers may be NaN until written."""

    epoch: int
    """Counted from 0."""
    rate: float | None = None
    """Learning rate."""
    precision: dict[str, Any] = field(default_factory=dict)
    """What the run computes in, as `Precision.to_dict` returns it."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Weight of each loss component in this epoch."""
    train: dict[str, Any] = field(default_factory=dict)
    """Means over the epoch's patches: ``loss``, each component, ``gradient_norm``; and the number of ``skipped_steps``."""
    validation: dict[str, Any] = field(default_factory=dict)
    """The same on the fixed validation patches, with ``output_mean``, ``output_std`` and ``surface_share``."""
    score: dict[str, Any] | None = None
    """Mean competition score over whole validation volumes, where they were scored, with its parts."""
    average: dict[str, Any] | None = None
    """``validation`` and ``score`` of the averaged weights, at the end of a run that averages."""
    gradient_diagnostics: dict[str, Any] | None = None
    """What `gather_gradient_diagnostics` returned, where it was due."""
    interventions: list[dict[str, Any]] = field(default_factory=list)
    """Raises of the rate that were decided at this epoch's end, as `BoundedLR.interventions`."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What else happened, each with ``kind`` and ``reason``: a resume, a rollback, a raise that was held back."""
    seconds: float | None = None
    """Duration, scoring included."""

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """Return the record that a line of a log holds; keys that are no field, and those with null, are left out."""
        return cls(**{name: entry[name] for name in (f.name for f in fields(cls)) if entry.get(name) is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON will hold it: None for every number that is not finite."""
        record: dict[str, Any] = without_nan(asdict(self))
        return record

    def summary(self) -> str:
        """Return loss, rate and score in one line."""
        text = f"loss {self.train['loss']:.4f}, validation {self.validation['loss']:.4f}, rate {self.rate:.2e}"
        if self.score:
            text += f", score {self.score['score']:.4f} (surface dice {self.score['surface_dice']:.4f})"
        return text if self.seconds is None else f"{text}, {self.seconds:.0f} s"


class _Line(NamedTuple):
    """A line as it stands in the file, its end included, and the epoch it tells of; None where it tells of none."""

    raw: bytes
    record: EpochRecord | None


def append_record(path: Path, record: EpochRecord) -> None:
    """Add a line to a log, which is made if missing.

    Raises
    ------
    InputOSError
        The disk is full or read-only.
    """
    with name_os_errors(f"write {path}"), open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(record.to_dict(), allow_nan=False) + "\n")


def read_records(path: Path | str, *, strict: bool = False) -> list[EpochRecord]:
    """Return the epochs of a log.

    Parameters
    ----------
    path
        The log, or the fold's folder that holds one. Without the file there are no epochs.
    strict
        Refuse a missing file, and a line that is no epoch, which is otherwise left out.

    Raises
    ------
    InputNotFoundError
        Only if strict: there is no such file.
    InputValueError
        Only if strict: a line is no epoch; the message gives its number.
    """
    path = Path(path)
    path = path / LOG_NAME if path.is_dir() else path
    if strict:
        check_file("log", path)
    lines = _split(path)
    for number, line in enumerate(lines, start=1):
        if strict and line.record is None:
            raise InputValueError(f"log must hold one epoch as JSON a line, got {path} line {number}")
    return [line.record for line in lines if line.record is not None]


def drop_records(path: Path, epoch: int) -> int:
    """Keep the lines of the epochs before ``epoch``: a killed run may have logged one that it will repeat.

    Lines that are not an epoch's go to the file ``log.unreadable`` beside the log, byte for byte, but for an epoch at the end
    that a kill cut off. Return how many were put aside.

    Raises
    ------
    InputOSError
        The disk is full or read-only.
    """
    lines = _split(path)
    kept = [line.raw.rstrip(b"\r\n") + b"\n" for line in lines if line.record and line.record.epoch < epoch]
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


def _split(path: Path) -> list[_Line]:
    if not path.exists():
        return []
    with name_os_errors(f"read {path}"):
        content = path.read_bytes()
    return [_Line(raw, _parse(raw)) for raw in content.splitlines(keepends=True)]


def _parse(raw: bytes) -> EpochRecord | None:
    """The epoch that a line tells of, with what every line of a run has; None for anything else."""
    try:
        entry = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("epoch")) is not int:
        return None
    return (
        EpochRecord.from_dict(entry) if all(isinstance(entry.get(p), dict) for p in ("train", "validation")) else None
    )


def _is_cut_off(raw: bytes) -> bool:
    """Whether a last line is the beginning of an epoch's, as a kill or a full disk leaves it."""
    start = b'{"epoch": '
    return not raw.endswith(b"\n") and (raw.startswith(start) or start.startswith(raw))


def without_nan(value: Any) -> Any:
    """Return dicts, lists and scalars as JSON has them: keys that are text, and None for every number that is not finite."""
    if isinstance(value, dict):
        return {str(key): without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
