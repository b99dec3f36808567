"""From rows to runs: where one run ends and the next begins, what is one epoch, in the form of `log.jsonl`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from vesuvius_kit.diagnosis.logs import LoggedEpoch
from vesuvius_kit.diagnosis.readers.names import meaning_of
from vesuvius_kit.diagnosis.readers.roles import Roles, assign_roles
from vesuvius_kit.diagnosis.readers.rows import Level, Mark, Row, base_name, give_places, has_loss

# So many epochs are listed.
MAX_LISTED = 20
# Which rows count where none tells of a whole epoch, and as what.
_STAND_INS: tuple[tuple[Level, Level], ...] = (("bar", "shown"), ("batch", "point"))
_LOADED = re.compile(
    r"\bresum(?:ed|ing)\b|\bload(?:ed|ing)\b.{0,60}(?:checkpoint|weights|state|pretrain)|\bpre-?trained weights\b"
    r"|\bfine-?tun(?:e|ing)\b|\bcontinu(?:e|ing) training\b",
    re.IGNORECASE,
)
_NOT_LOADED = re.compile(
    r"\bno(?:t|ne)?\b|(?:iteration|epoch|step) 0\b|\bfalse\b|\bwithout\b|=\s*''|: ?''", re.IGNORECASE
)
_LABELS = re.compile(r"\b(?:labels?|masks?)\b", re.IGNORECASE)
_SHARE = re.compile(
    r"\b(?:foreground|surface|fg|positives?|ink)\b(?:[^%\d]|>\s?0){0,40}?[=: ](\d{1,3}(?:\.\d{1,6})?)\s?%",
    re.IGNORECASE,
)
_STARTED = re.compile(
    r"\b(?:start(?:ing|ed)?|begin(?:ning)?)\s+(?:the\s+)?train(?:ing)?\b|\btraining\s+start(?:s|ed)\b", re.IGNORECASE
)


@dataclass
class LoggedRun:
    """One run of a log."""

    records: list[LoggedEpoch]
    """Its epochs, in the order of their numbers."""
    notes: list[str]
    """What was found out about it in reading."""


@dataclass
class _Epoch:
    """What is known of one epoch, by how surely it was told."""

    record: dict[str, Any] = field(default_factory=dict)
    """What is already in the form of `log.jsonl`."""
    strong: dict[str, float] = field(default_factory=dict)
    """Told of the whole epoch."""
    points: dict[str, list[float]] = field(default_factory=dict)
    """Told several times within the epoch."""
    bar: dict[str, float] = field(default_factory=dict)
    """What a progress bar showed last."""
    batch: dict[str, list[float]] = field(default_factory=dict)
    """Told of single batches."""


@dataclass
class _Draft:
    """A run that is being put together."""

    epochs: dict[int, _Epoch] = field(default_factory=dict)
    """By their numbers."""
    last: int | None = None
    """The epoch that was told last."""
    first: int | None = None
    """The lowest one."""
    repeated: set[int] = field(default_factory=set)
    """Epochs that came again."""
    loaded: str = ""
    """Where the log says that weights of an earlier run were loaded."""
    labels: str = ""
    """What the log tells of a share of surface that no scroll has."""


def mark_of(line: str) -> Mark | Literal[""]:
    """Return what a line without numbers of interest says about the run as a whole; empty for nothing.

    ``labels`` is a share of surface among the labels that no scroll has.
    """
    if len(line) > 400:
        return ""
    if _LABELS.search(line) and (match := _SHARE.search(line)) and 40 < float(match[1]) <= 100:
        return "labels"
    if _STARTED.search(line):
        return "start"
    if _LOADED.search(line) and not _NOT_LOADED.search(line):
        return "loaded"
    return ""


def make_runs(rows: list[Row]) -> tuple[list[LoggedRun], list[str], Roles]:
    """Divide the rows of a log into its runs.

    Returns
    -------
    list of LoggedRun
        Those with at least one epoch that has a loss.
    list of str
        Notes about the log as a whole.
    Roles
        What was taken as what.
    """
    notes: list[str] = []
    rows = give_places(rows, notes)
    _promote(rows)
    drafts, starts = _split(rows)
    roles = assign_roles(rows)
    runs = [_finish(draft, roles) for draft in drafts]
    runs = [run for run in runs if run.records]
    if starts > len(runs):
        notes.append(
            f"training was started {starts} times in this log, {starts - len(runs)} of them without an epoch that ended"
        )
    return runs, notes, roles


def _promote(rows: Sequence[Row]) -> None:
    """Where no line tells of a whole epoch, what the bars showed at their ends counts, or else the batches' mean."""
    told = {row.epoch for row in rows if row.record or (row.level in ("epoch", "point") and has_loss(row))} - {None}
    beside = {row.epoch for row in rows if row.level in ("bar", "batch") and has_loss(row)} - {None}
    # A line or two about the whole, as of a test at the end, are not the epochs.
    if told and not (len(beside) >= 3 and 3 * len(told) <= len(beside)):
        return
    for level, new in _STAND_INS:
        found = [row for row in rows if row.level == level and row.epoch is not None]
        if any(has_loss(row) or _is_bare(row) for row in found):
            for row in found:
                row.level = new
            return


def _is_bare(row: Row) -> bool:
    return any(meaning_of(base_name(name)).kind == "bare" for name in row.values)


def _split(rows: Sequence[Row]) -> tuple[list[_Draft], int]:
    """The rows by run and epoch; and how often the log says that training starts."""
    drafts, draft = [], _Draft()
    waiting: list[dict[str, Any]] = []  # interventions before the first epoch
    pending: list[tuple[int, Row]] = []  # bars and batches of an epoch that has not been told yet
    starts, start_text, is_fresh, loaded, labels = 0, None, False, "", ""
    for row in rows:
        if row.level == "start":
            start_text = row.text if start_text is None else start_text
            starts += row.text == start_text
            is_fresh = True
        elif row.level == "loaded":
            loaded = loaded or f"line {row.line}: {row.text}"
        elif row.level == "labels":
            labels = row.text
        elif row.record is not None and "epoch" not in row.record:
            # A text log names no epoch at an intervention: it belongs to the one before it.
            known = None if draft.last is None else draft.epochs[draft.last].record
            target = waiting if known is None else known.setdefault("interventions", [])
            target.extend(row.record["interventions"])
        elif row.epoch is None or not math.isfinite(row.epoch) or row.level == "record":
            continue
        elif row.level in ("bar", "batch"):
            pending.append((int(row.epoch), row))
        elif row.record is not None or row.values:
            epoch = int(row.epoch)
            last = draft.last
            if last is not None and _is_new_run(draft, epoch, is_fresh):
                for other in [other for other in pending if other[0] > last]:
                    _add_beside(draft, *other)
                    pending.remove(other)
                drafts.append(draft)
                draft = _Draft()
            if not draft.epochs:
                draft.loaded, draft.labels = loaded, labels
                loaded = labels = ""
            is_fresh = False
            _add(draft, epoch, row, waiting)
            for other in pending:
                _add_beside(draft, *other)
            pending = []
    for other in pending:
        _add_beside(draft, *other)
    return [*drafts, draft], starts


def _is_new_run(draft: _Draft, epoch: int, is_fresh: bool) -> bool:
    if draft.first is None or draft.last is None or epoch > draft.last:
        return False
    return epoch <= draft.first if is_fresh else epoch <= draft.first < draft.last


def _add(draft: _Draft, epoch: int, row: Row, waiting: list[dict[str, Any]]) -> None:
    """A row that tells of a whole epoch; epochs that come again count as they were run last."""
    if draft.last is not None and epoch < draft.last:
        again = [known for known in draft.epochs if known >= epoch]
        draft.repeated.update(known for known in again if _is_told(draft.epochs[known]))
        for known in again:
            del draft.epochs[known]
    target = draft.epochs.setdefault(epoch, _Epoch())
    if row.record is not None:
        if not target.record:
            target.record = {"interventions": [*waiting, *row.record.get("interventions", [])]}
            waiting.clear()
            target.record.update((key, value) for key, value in row.record.items() if key != "interventions")
        else:
            if any(part in target.record for part in row.record if part in ("train", "validation")):
                draft.repeated.add(epoch)
            target.record.update(row.record)
    for name, value in row.values.items():
        if row.level == "point":
            target.points.setdefault(name, []).append(value)
        else:
            if name in target.strong and draft.last == epoch and row.level == "epoch":
                draft.repeated.add(epoch)
            target.strong[name] = value
    draft.first = epoch if draft.first is None else min(draft.first, epoch)
    draft.last = epoch


def _add_beside(draft: _Draft, epoch: int, row: Row) -> None:
    target = draft.epochs.setdefault(epoch, _Epoch())
    for name, value in row.values.items():
        if row.level == "bar":
            target.bar[name] = value
        else:
            target.batch.setdefault(name, []).append(value)


def _is_told(epoch: _Epoch) -> bool:
    return bool(epoch.record or epoch.strong or epoch.points)


def _finish(draft: _Draft, roles: Roles) -> LoggedRun:
    """The epochs of a run as `log.jsonl` has them, and what there is to say about it."""
    lines, begun = [], []
    notes: list[str] = []
    for number, epoch in sorted(draft.epochs.items()):
        line = _line_of(number, epoch, roles)
        if not _is_told(epoch) or ("train" not in line and "validation" not in line and "scores" not in line):
            begun.append(number)
            continue
        lines.append(line)
    lines = [line for line in lines if line.keys() & {"train", "validation", "scores"}]
    if not any("loss" in (line.get(part) or {}) for line in lines for part in ("train", "validation")):
        return LoggedRun([], [])
    _drop_gaps(lines, notes)
    if draft.repeated:
        epochs = ", ".join(str(epoch) for epoch in sorted(draft.repeated)[:MAX_LISTED])
        notes.append(f"epochs that occur again count as they were run last: {epochs}")
    missing = lines[-1]["epoch"] - lines[0]["epoch"] + 1 - len(lines)
    if missing > 0:
        notes.append(f"{missing} epochs between the first and the last are missing")
    if lines[0]["epoch"] > 1:
        notes.append(f"the log begins with epoch {lines[0]['epoch']}")
    cut = [number for number in begun if number > lines[-1]["epoch"]]
    if cut:
        notes.append(f"epoch {cut[0]} was begun and did not end: the run was stopped or killed in it, or goes on")
    if draft.loaded:
        notes.append(f"it began with weights of an earlier run ({draft.loaded[:100]})")
        lines[0]["begins_trained"] = True
    if draft.labels:
        lines[0]["told_labels"] = draft.labels
    return LoggedRun([LoggedEpoch.from_dict(line) for line in lines], notes)


def _line_of(number: int, epoch: _Epoch, roles: Roles) -> dict[str, Any]:
    line: dict[str, Any] = {"epoch": number, "interventions": []}
    line.update(epoch.record)
    told = {name: fmean(values) if values else math.nan for name, values in _finite(epoch.points).items()}
    told = {**epoch.bar, **told, **epoch.strong}
    for part, names, parts in (
        ("train", roles.train, roles.train_parts),
        ("validation", roles.validation, roles.validation_parts),
    ):
        values = {}
        if names and all(name in told for name in names):
            values["loss"] = sum(told[name] for name in names)
        elif names and epoch.batch.get(names[0]) and (part == "validation" or roles.from_batches):
            values["loss"] = _mean(epoch.batch[names[0]])
        values.update({name: told[source] for name, source in parts.items() if source in told})
        if values:
            line[part] = {**values, **line.get(part, {})}
    rates = epoch.batch.get(roles.rate)
    rate = told.get(roles.rate, rates[-1] if rates else None)
    if rate is not None and math.isfinite(rate):
        line["rate"] = rate
    scores = {label: told[name] for label, name in roles.scores.items() if name in told}
    if scores:
        line["scores"] = scores
    losses = [value for name in roles.batch for value in (*epoch.batch.get(name, ()), *epoch.points.get(name, ()))]
    if losses:
        line["batches"] = losses
    return line


def _finite(points: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """The values of each name without NaN where there are others."""
    return {name: [value for value in values if not math.isnan(value)] or values for name, values in points.items()}


def _mean(values: Sequence[float]) -> float:
    return fmean(value for value in values) if values else math.nan


def _drop_gaps(lines: Sequence[dict[str, Any]], notes: list[str]) -> None:
    """A validation loss that is no number between epochs where it is one was not taken there, and did not break."""
    known = [(line, line["validation"]["loss"]) for line in lines if "loss" in line.get("validation", {})]
    finite = [number for number, (_, loss) in enumerate(known) if math.isfinite(loss)]
    gaps = [number for number, (_, loss) in enumerate(known) if math.isnan(loss)]
    if len(finite) < 3 or len(gaps) < 3 or len(gaps) < len(finite):
        return
    if any("loss" in line.get("train", {}) and not math.isfinite(line["train"]["loss"]) for line in lines):
        return
    between = sum(finite[0] < number < finite[-1] for number in gaps)
    if between < len(gaps) / 2:
        return
    for number in gaps:
        del known[number][0]["validation"]["loss"]
    notes.append(f"{len(gaps)} epochs had no validation (nan between epochs with one)")
