"""What was read from a log: the epochs of one run, as dicts in the form of `log.jsonl`, whatever the form of the log was."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunLog:
    """The epochs of one run, in order, as far as they could be read.

    Parameters
    ----------
    lines : list of dict
        One for each epoch, with `epoch` rising strictly; every key but `epoch` may be missing, a number may be NaN. Logs of
        others may have `scores` (name to value) and `batches` (losses of single batches).
    source : str
        What was read.
    notes : list of str
        What was found out in reading: an encoding, several runs in one file, epochs that were repeated.
    unread : list of str
        What could not be read.
    config : dict or None
        The resolved configuration beside a run of the kit.
    form : str
        The forms of the log that were met.
    roles : list of str
        Which column or key was taken as what; empty for the kit's own form.
    number : int
        Which of the log's runs it is, from 1.
    n_runs : int
        How many runs the log holds.
    """

    lines: list[dict]
    source: str
    notes: list[str]
    unread: list[str]
    config: dict | None = None
    form: str = ""
    roles: list[str] = field(default_factory=list)
    number: int = 1
    n_runs: int = 1

    def missing(self) -> list[str]:
        """Return what the log does not hold, and what therefore cannot be known.

        Returns
        -------
        list of str
        """
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
