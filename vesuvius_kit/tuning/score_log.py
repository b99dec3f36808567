"""Scores that were computed, in a folder that several processes and machines add to.

Each process writes a file of its own, a line of JSON a score, and reads those of all others as they grow. A line that a kill
cut short is not read, and scored again.
"""

import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any, NamedTuple

from vesuvius_kit.checks import InputValueError, make_folder, name_os_errors
from vesuvius_kit.constants import SCORE_PARTS
from vesuvius_kit.metrics import LeaderboardScore

PARTS = SCORE_PARTS
"""The score and its parts."""


class VolumeScore(NamedTuple):
    """What a candidate scores on one volume, and what that took."""

    score: float
    toposcore: float
    surface_dice: float
    voi_score: float
    seconds_read: float
    seconds_repair: float
    seconds_score: float

    @classmethod
    def of(
        cls, score: LeaderboardScore, seconds_read: float, seconds_repair: float, seconds_score: float
    ) -> "VolumeScore":
        """Return what is kept of a score."""
        return cls(
            score.score, score.toposcore, score.surface_dice, score.voi_score,
            round(seconds_read, 4), round(seconds_repair, 4), round(seconds_score, 4),
        )  # fmt: skip

    def parts(self) -> dict[str, float]:
        """Return the score and its parts by name."""
        return {part: getattr(self, part) for part in PARTS}


class ScoreLog:
    """The scores in a folder, by candidate and volume."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = make_folder(folder)
        # Two processes of one number, on two machines that call themselves alike, must not share a file.
        self._own = self._folder / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._read: dict[Path, int] = {}
        self._scores: dict[tuple[str, str], VolumeScore] = {}

    def get(self, candidate: str, volume: str) -> VolumeScore | None:
        """Return the score of a candidate, by its digest, on a volume; None where nobody has computed it."""
        key = (candidate, volume)
        if key not in self._scores:
            self._read_on()
        return self._scores.get(key)

    def add(self, candidate: str, volume: str, score: VolumeScore) -> None:
        """Write a score down for everybody."""
        self._scores[candidate, volume] = score
        line = json.dumps({"candidate": candidate, "volume": volume, **score._asdict()}) + "\n"
        with name_os_errors(f"write {self._own}"), open(self._own, "a", encoding="utf-8") as stream:
            stream.write(line)

    def all(self) -> dict[tuple[str, str], VolumeScore]:
        """Return every score by (candidate, volume)."""
        self._read_on()
        return dict(self._scores)

    def _read_on(self) -> None:
        for path in self._folder.glob("*.jsonl"):
            start = self._read.get(path, 0)
            if path == self._own or path.stat().st_size == start:
                continue
            with name_os_errors(f"read {path}"), open(path, "rb") as stream:
                stream.seek(start)
                content = stream.read()
            whole = content.rfind(b"\n") + 1
            self._read[path] = start + whole
            for line in content[:whole].splitlines():
                try:
                    entry: dict[str, Any] = json.loads(line)
                    key = entry.pop("candidate"), entry.pop("volume")
                    self._scores[key] = VolumeScore(**entry)
                except (ValueError, TypeError, LookupError, AttributeError) as error:
                    raise InputValueError(
                        f"{path} must hold scores of a search (or give --fresh), got {line[:60]!r}"
                    ) from error
