"""What was read from a log: the epochs of one run, as dicts in the form of `log.jsonl`, whatever the form of the log was."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vesuvius_kit.diagnosis.curves import Config, Line


@dataclass(frozen=True)
class RunLog:
    """The epochs of one run, in order, as far as they could be read."""

    lines: Sequence[Line]
    """One for each epoch, with `epoch` rising strictly."""
    source: str
    """What was read."""
    notes: list[str]
    """What was found out in reading: an encoding, several runs in one file, epochs that were repeated."""
    unread: list[str]
    """What could not be read."""
    config: Config | None = None
    """The resolved configuration beside a run of the kit."""
    form: str = ""
    """The forms of the log that were met."""
    roles: list[str] = field(default_factory=list)
    """Which column or key was taken as what; empty for the kit's own form."""
    number: int = 1
    """Which of the log's runs it is, from 1."""
    n_runs: int = 1
    """How many runs the log holds."""

    def missing(self) -> list[str]:
        """Return what the log does not hold, and what therefore cannot be known."""
        parts = [(line.get("train") or {}, line.get("validation") or {}) for line in self.lines]
        absent = []
        if not any("loss" in train for train, _ in parts):
            absent.append("no training loss (over-fitting cannot be told)")
        if not any("loss" in validation for _, validation in parts):
            absent.append("no validation loss (over-fitting cannot be told)")
        if not any("rate" in line or line.get("interventions") for line in self.lines):
            absent.append("no learning rate")
        if not any(len(part) > 1 for pair in parts for part in pair):
            absent.append("no components of the loss")
        if not any("output_std" in validation for _, validation in parts) and not any(
            "scores" in line for line in self.lines
        ):
            absent.append("no score, nothing about labels or output")
        return absent
