"""What was read from a log: the epochs of one run as records, whatever the form of the log was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from vesuvius_kit.io.record import EpochRecord

Config = Mapping[str, Any]
"""A run's settings as plain types, by section."""


@dataclass
class LoggedEpoch(EpochRecord):
    """An epoch as a log of any kind tells of it: its record, and what only logs of other programs hold."""

    scores: dict[str, float] = field(default_factory=dict)
    """Scores by the names that the log gives them."""
    batches: list[float] = field(default_factory=list)
    """Losses of single batches."""
    begins_trained: bool = False
    """Whether weights of an earlier run were loaded before it."""
    told_labels: str = ""
    """The line in which the log tells of a wrong share of surface; empty where it tells of none."""

    @classmethod
    def of(cls, record: EpochRecord) -> Self:
        """Return a record of the kit's own as a logged epoch, which shares what it holds."""
        return record if isinstance(record, cls) else cls(**vars(record))


@dataclass(frozen=True)
class RunLog:
    """The epochs of one run, in order, as far as they could be read."""

    records: Sequence[LoggedEpoch]
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
        records = self.records
        absent = []
        if not any("loss" in record.train for record in records):
            absent.append("no training loss (over-fitting cannot be told)")
        if not any("loss" in record.validation for record in records):
            absent.append("no validation loss (over-fitting cannot be told)")
        if not any(record.rate is not None or record.interventions for record in records):
            absent.append("no learning rate")
        if not any(len(record.train) > 1 or len(record.validation) > 1 for record in records):
            absent.append("no components of the loss")
        if not any("output_std" in record.validation or record.scores for record in records):
            absent.append("no score, nothing about labels or output")
        return absent
