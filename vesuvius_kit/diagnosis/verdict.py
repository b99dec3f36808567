"""From a log to a diagnosis: every fault is looked for, the most basic one gives the verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vesuvius_kit.diagnosis import loss_faults, rate_faults, score_faults
from vesuvius_kit.diagnosis.advice import advice_yaml, advise
from vesuvius_kit.diagnosis.curves import Plateau, find_plateau, loss_curve
from vesuvius_kit.diagnosis.finding import Finding
from vesuvius_kit.diagnosis.logs import Config, LoggedEpoch, RunLog
from vesuvius_kit.diagnosis.readers import read_runs
from vesuvius_kit.io.record import EpochRecord, without_nan

Verdict = Literal[
    "labels first", "loss first", "does not learn", "not a number", "rate runaway", "rate too high", "score stands still",
    "rate too low", "over-fitting", "healthy", "too short to judge",
]  # fmt: skip
"""What `Diagnosis` says of a run in a few words; ``too short to judge`` where nothing was found in a few epochs."""
_Find = Callable[[Sequence[LoggedEpoch], Config | None], Finding | None]

# The most basic first: what stands earlier would make a cure of what stands later useless.
FAULTS: dict[str, tuple[_Find, Verdict]] = {
    "labels": (loss_faults.find_wrong_labels, "labels first"),
    "zero_batches": (score_faults.find_zero_batches, "labels first"),
    "variance_reward": (loss_faults.find_variance_reward, "loss first"),
    "conflict": (loss_faults.find_conflict, "loss first"),
    "chance_level": (score_faults.find_chance_level, "does not learn"),
    "no_learning": (score_faults.find_no_learning, "does not learn"),
    "standstill": (loss_faults.find_standstill, "loss first"),
    "not_finite": (rate_faults.find_not_finite, "not a number"),
    "runaway": (rate_faults.find_runaway, "rate runaway"),
    "high_rate": (rate_faults.find_high_rate, "rate too high"),
    "uniform_output": (loss_faults.find_uniform_output, "loss first"),
    "standing_score": (score_faults.find_standing_score, "score stands still"),
    "low_rate": (rate_faults.find_low_rate, "rate too low"),
    "overfitting": (rate_faults.find_overfitting, "over-fitting"),
    "parting": (rate_faults.find_parting, "over-fitting"),
}
# Worth knowing, but no fault of the run.
REMARKS: tuple[_Find, ...] = (score_faults.find_disguised_loss,)
HEALTHY: Verdict = "healthy"
TOO_SHORT: Verdict = "too short to judge"
# No trend shows in fewer epochs.
MIN_EPOCHS = 6


@dataclass(frozen=True)
class Diagnosis:
    """Why a run does not learn, or that it does."""

    verdict: Verdict
    """That of the most basic fault."""
    findings: list[Finding]
    """What was found, the most basic first."""
    best_epoch: int | None
    """Epoch of the lowest loss; None where no loss was a number."""
    best_loss: float | None
    """That loss, of the validation if it was logged."""
    plateau: Plateau | None
    """The epochs since the last improvement that counts, if they are many."""
    advice: str
    """What to change, as a configuration file; empty for nothing."""
    notes: list[str]
    """What was found out in reading the log, and what the training loop did by itself."""
    unread: list[str]
    """What could not be read."""
    run: RunLog = field(repr=False)
    """What was read."""
    remarks: list[Finding] = field(default_factory=list)
    """What is worth knowing without being wrong with the run."""
    others: list["Diagnosis"] = field(default_factory=list, repr=False)
    """Of a log with several runs the other ones, in the order of the log; this one is the worst."""

    @property
    def healthy(self) -> bool:
        """Whether no fault was found."""
        return not self.findings

    def to_text(self) -> str:
        """Return the diagnosis in plain words, in several lines without a line ending at the end."""
        place = f", run {self.run.number} of {self.run.n_runs}" if self.run.n_runs > 1 else ""
        parts = [f"{self.run.source}{place}: {self._span()}", f"Verdict: {self.verdict}"]
        if self.others:
            worst = "it is the worst" if not self.healthy else "none shows a fault"
            parts.append(
                f"The log holds {self.run.n_runs} runs, each judged; this is run {self.run.number}: {worst}. The "
                "others:"
            )
            for other in self.others:
                best = (
                    "" if other.best_epoch is None else f", best loss {other.best_loss:.4f} at epoch {other.best_epoch}"
                )
                parts.append(f"    run {other.run.number}, {other._span()}: {other.verdict}{best}")
        if self.best_epoch is not None:
            parts.append(f"Best loss {self.best_loss:.4f} at epoch {self.best_epoch}.")
        if self.plateau is not None:
            parts.append(f"Plateau: epochs {self.plateau.best_epoch + 1} to {self.plateau.last_epoch}.")
        for number, finding in enumerate(self.findings, start=1):
            parts.append(f"{number}. {finding.text}")
        if self.verdict == TOO_SHORT:
            parts.append(f"Nothing is wrong so far, but a trend shows in {MIN_EPOCHS} epochs or more.")
        if self.advice:
            parts += ["What to change, as a configuration:", *(f"    {line}" for line in self.advice.splitlines())]
        parts += [f"Worth knowing: {remark.text}" for remark in self.remarks]
        if self.run.roles:
            parts.append(f"Read as {self.run.form}: {'; '.join(self.run.roles)}.")
        if self.run.missing() and "the kit's" not in self.run.form:
            parts.append(f"Not in this log: {', '.join(self.run.missing())}.")
        parts += [f"Note: {note}." for note in self.notes]
        parts += [f"Not read: {entry}" for entry in self.unread]
        return "\n".join(parts)

    def _span(self) -> str:
        first, last = self.run.records[0].epoch, self.run.records[-1].epoch
        return f"epochs {first} to {last}" if len(self.run.records) > 1 else f"epoch {first}"

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain types that JSON holds; what is not a number is None."""
        plateau = self.plateau and [self.plateau.best_epoch + 1, self.plateau.last_epoch]
        return without_nan(
            {
                "source": self.run.source,
                "verdict": self.verdict,
                "findings": [vars(finding) for finding in self.findings],
                "best_epoch": self.best_epoch,
                "best_loss": self.best_loss,
                "plateau": plateau,
                "advice": self.advice,
                "notes": self.notes,
                "unread": self.unread,
                "remarks": [vars(remark) for remark in self.remarks],
                "form": self.run.form,
                "taken_as": self.run.roles,
                "not_in_the_log": self.run.missing(),
                "run": self.run.number,
                "others": [other.to_dict() for other in self.others],
            }
        )

    def figure(self, path: Path | str) -> None:
        """Draw losses, components, rate, interventions and gradient diagnostics, with the epochs that the findings point at.

        The ending of ``path`` says the kind of picture.
        """
        from vesuvius_kit.diagnosis.figure import draw_diagnosis

        draw_diagnosis(self, path)


def diagnose(run: Path | str) -> Diagnosis:
    """Say why a run does not learn.

    Of a log with several runs the diagnosis is that of the worst, with the others in it. A folder with several folds is
    refused: name one of them.

    Parameters
    ----------
    run
        A run's folder, a fold's folder in it, a `log.jsonl`, or a log of another kind; see `vesuvius_kit.diagnosis.readers`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import vesuvius_kit as vk
    >>> losses = [(0.7 * 0.9**epoch, 0.72 * 0.9**epoch + 0.06 * max(0, epoch - 5)) for epoch in range(20)]
    >>> lines = [f"Epoch {epoch}: train loss {a:.4f}, val loss {b:.4f}" for epoch, (a, b) in enumerate(losses)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = Path(folder) / "train.log"
    ...     _ = log.write_text("\\n".join(lines) + "\\n")
    ...     diagnosis = vk.diagnose(log)
    >>> diagnosis.verdict, diagnosis.best_epoch, diagnosis.best_loss
    ('over-fitting', 5, 0.4252)
    >>> print(diagnosis.advice)
    # Against: overfitting. Give it to train after your own
    # settings: a later --config wins.
    patches:
      augmentation: light
    train:
      weight_decay: 0.01
      early_stopping_patience: 20
    <BLANKLINE>
    """
    runs = [_judge(read) for read in read_runs(run)]
    worst = min(runs, key=_badness)
    return replace(worst, others=[other for other in runs if other is not worst])


def _badness(diagnosis: Diagnosis) -> tuple[int, bool, int]:
    """The most basic fault comes first, then the longer run; of runs without a fault one that is long enough to judge."""
    ranks = list(FAULTS)
    rank = ranks.index(diagnosis.findings[0].fault) if diagnosis.findings else len(ranks)
    return rank, diagnosis.verdict == TOO_SHORT, -len(diagnosis.run.records)


def _judge(read: RunLog) -> Diagnosis:
    """The diagnosis of one run."""
    findings = [found for find, _ in FAULTS.values() if (found := find(read.records, read.config)) is not None]
    findings = _without_consequences(findings)
    remarks = [found for find in REMARKS if (found := find(read.records, read.config)) is not None]
    curve = loss_curve(read.records)
    best: tuple[int, float] | tuple[None, None] = min(curve, key=lambda pair: pair[1]) if curve else (None, None)
    verdict: Verdict
    if findings:
        verdict = FAULTS[findings[0].fault][1]
    else:
        verdict = HEALTHY if len(read.records) >= MIN_EPOCHS else TOO_SHORT
    return Diagnosis(
        verdict=verdict,
        findings=findings,
        best_epoch=best[0],
        best_loss=best[1],
        plateau=find_plateau(read.records),
        advice=advice_yaml(advise(findings, read.records, read.config), findings),
        notes=read.notes + _retell_events(read.records),
        unread=read.unread,
        run=read,
        remarks=remarks,
    )


# None of these is cured by a higher rate.
_NOT_THE_RATE = ("labels", "variance_reward", "conflict", "uniform_output", "overfitting")


def suspect_loss(records: Sequence[EpochRecord], config: Config | None = None) -> str | None:
    """Return why the loss, and not the learning rate, is the suspect where a run does not improve, in plain words.

    The training loop asks before a rate is raised. Wrongly read labels, a loss led by the variance term, components in
    conflict, a uniform output and over-fitting count: a higher rate cures none of them. A standstill alone does not, since
    that is what raises are for. The settings tell what the records do not hold. It costs a few milliseconds for a hundred
    epochs.
    """
    logged = [LoggedEpoch.of(record) for record in records]
    for fault in _NOT_THE_RATE if logged else ():
        finding = FAULTS[fault][0](logged, config)
        if finding is not None:
            return finding.text
    return None


# What the first brings about, so that the second is no finding of its own.
_CONSEQUENCES = {
    "labels": ("uniform_output", "standstill", "low_rate", "overfitting", "parting", "no_learning", "chance_level"),
    "zero_batches": ("no_learning", "chance_level", "standstill", "standing_score"),
    "not_finite": ("high_rate", "no_learning", "standing_score"),
    "runaway": ("high_rate", "no_learning"),
    "high_rate": (
        "uniform_output",
        "standstill",
        "overfitting",
        "parting",
        "no_learning",
        "chance_level",
        "standing_score",
    ),
    "variance_reward": ("low_rate", "no_learning"),
    "conflict": ("no_learning",),
    "uniform_output": ("no_learning", "chance_level", "standing_score"),
    "chance_level": ("no_learning", "standstill", "low_rate"),
    "no_learning": ("standstill", "low_rate"),
    # What falls in every epoch does not stand.
    "low_rate": ("standstill",),
    "overfitting": ("parting",),
}


def _without_consequences(findings: Sequence[Finding]) -> list[Finding]:
    found = {finding.fault for finding in findings}
    explained = {consequence for fault in found for consequence in _CONSEQUENCES.get(fault, ())}
    return [finding for finding in findings if finding.fault not in explained]


def _retell_events(records: Sequence[LoggedEpoch]) -> list[str]:
    """What the training loop did about it."""
    notes = []
    for kind, text in (("rollback", "rolled back to the best"), ("raise_vetoed", "a raise of the rate was held back")):
        events = [(record.epoch, event) for record in records for event in record.events if event.get("kind") == kind]
        if events:
            epochs = ", ".join(str(epoch) for epoch, _ in events)
            notes.append(
                f"{text} after epoch {epochs}, the last time because "
                f"{str(events[-1][1].get('reason', 'unknown')).rstrip('.')}"
            )
    return notes
