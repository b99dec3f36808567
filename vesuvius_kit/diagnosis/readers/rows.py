"""What every reader hands on: rows of named numbers with their place, and how rows without a place of their own find one."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from vesuvius_kit.diagnosis.readers.names import meaning_of

# Fewer epochs show no trend; a log of fractions of epochs, or of steps, is then divided by its own points.
FEW_EPOCHS = 6
# Steps without validation between them are averaged into at most so many points.
MAX_POINTS = 40
# More lines that nothing numbers are not epochs but steps.
_LEAST_COUNTED = 3
MAX_COUNTED = 1200
# An epoch's number has at most nine digits; a longer one is something else.
MAX_EPOCH = 10**9

Mark = Literal["start", "loaded", "labels"]
"""What a line says about the run as a whole: training begins, weights of an earlier run were loaded, or what the log tells of
the labels."""
Level = Literal["epoch", "point", "bar", "shown", "batch", "record", "header"] | Mark
"""What a row tells of.

``epoch``: a whole epoch. ``point``: one of several of an epoch, which are averaged. ``bar``: what a progress bar showed at its
end. ``shown``: the same where nothing else tells of an epoch. ``batch``: one batch. ``record``: the best so far, told again.
``header``: no number, but the epoch that what follows belongs to."""
Source = Literal["", "checkpoint", "console", "events", "kit", "object", "table"]
"""The form that a row was read in."""


@dataclass
class Row:
    """Some numbers of a log that belong together."""

    line: int
    """Where they stand, from 1."""
    values: dict[str, float] = field(default_factory=dict)
    """The numbers by the names they have in the log; NaN and infinity are kept."""
    epoch: float | None = None
    """The epoch as written; a fraction where the log counts so."""
    step: float | None = None
    """The step as written."""
    level: Level = "epoch"
    """What they tell of."""
    source: Source = ""
    """The form they were read in."""
    record: dict[str, Any] | None = None
    """An epoch that is already in the form of `log.jsonl`."""
    text: str = ""
    """Of a mark, the line without its numbers."""


def has_loss(row: Row) -> bool:
    """Return whether a row holds a loss."""
    return any(meaning_of(base_name(name)).kind == "loss" for name in row.values)


def base_name(name: str) -> str:
    """Return the name without the component behind it: ``val loss`` of ``val loss::dice``."""
    return name.split("::", 1)[0]


def give_places(rows: list[Row], notes: list[str]) -> list[Row]:
    """Give every row an epoch, or a point where the log has none; return those that have a place, and the marks.

    The rows come in the order of the log and are changed; how it was counted is told in ``notes``.
    """
    placed = [row for row in rows if row.epoch is not None and (row.level != "header")]
    console = [row for row in rows if row.source == "console"]
    if any(row.epoch is not None for row in console):
        _follow_headings(console)
    rows = [row for row in rows if row.level != "header"]
    measured = [row for row in rows if (row.values and row.level != "record") or row.record]
    if any(row.epoch is not None and row.level != "batch" for row in measured) or placed:
        return _number_fractions(rows, notes)
    if any(row.step is not None for row in measured):
        return _number_points(rows, notes)
    return _count_repeats(rows, notes)


def _follow_headings(rows: list[Row]) -> None:
    """Rows without an epoch belong to the heading before them, or, where the epoch is told behind its numbers, to the next."""
    losses = [number for number, row in enumerate(rows) if row.epoch is None and row.level == "epoch" and has_loss(row)]
    epochs = [number for number, row in enumerate(rows) if row.epoch is not None and row.level != "batch"]
    told_behind = bool(losses and epochs) and losses[0] < epochs[0] and losses[-1] < epochs[-1]
    has_headings = any(row.epoch is not None and row.level in ("header", "epoch") for row in rows)
    epoch = None
    for row in reversed(rows) if told_behind else rows:
        if row.level == "start" and not told_behind:
            epoch = None
        elif row.epoch is not None:
            if (row.level not in ("batch", "record")) or epoch is None or (row.level == "batch" and not has_headings):
                epoch = row.epoch
        elif row.values and epoch is not None:
            row.epoch = epoch
            if row.level == "epoch" and not has_loss(row) and not told_behind:
                # A lone score behind a heading may be of a test after the training: it fills a gap and overrides nothing.
                row.level = "bar"


def _number_fractions(rows: list[Row], notes: list[str]) -> list[Row]:
    """Whole epochs from fractions of them: what was logged within an epoch, its end included, belongs to it."""
    logged = [row for row in rows if row.epoch is not None and row.values]
    epochs = [row.epoch for row in logged if row.epoch is not None]
    if not any(epoch != int(epoch) for epoch in epochs if math.isfinite(epoch)):
        return rows
    ends = {math.ceil(epoch - 1e-6) for epoch in epochs}
    points, _ = _choose_points(logged)
    # A run validated once an epoch has no more points than epochs: it keeps its epochs.
    if len(ends) < FEW_EPOCHS and len(logged) >= 2 * FEW_EPOCHS and len({row.epoch for row in points}) > len(ends):
        for row in logged:
            row.step = row.epoch if row.step is None else row.step
            row.epoch = None
        return _number_points(rows, notes, why=f"too few epochs in this log ({len(ends)})")
    for row, epoch in zip(logged, epochs, strict=True):
        row.epoch = math.ceil(epoch - 1e-6)
        row.level = "point" if row.level == "epoch" else row.level
    return rows


def _choose_points(logged: list[Row]) -> tuple[list[Row], str]:
    """The rows that points end at, and what each is: validations where there are three, else all."""
    validated = [row for row in logged if _is_validation(row)]
    return (validated, "validation") if len(validated) >= 3 else (logged, "logged step")


def _number_points(rows: list[Row], notes: list[str], why: str = "no epochs in this log") -> list[Row]:
    """Points where there are no epochs: from one validation to the next, or equal groups of steps."""
    _follow_steps(rows)
    logged = [(row, row.step) for row in rows if row.step is not None and row.values]
    for row in rows:
        if row.step is None and row.values:
            row.epoch = None
    points, what = _choose_points([row for row, _ in logged])
    steps = sorted({row.step for row in points if row.step is not None})
    size = 1
    if what == "logged step" and len(steps) > MAX_POINTS:
        size = -(-len(steps) // MAX_POINTS)
        what = f"mean of {size} logged steps"
    ends = steps[size - 1 :: size]
    if steps and (not ends or ends[-1] != steps[-1]):
        ends.append(steps[-1])
    place = 0
    for row, step in logged:
        if place >= len(ends) or step < (ends[place - 1] if place else -math.inf):
            place = 0
        while place < len(ends) and step > ends[place]:
            place += 1
        row.epoch = place if place < len(ends) else None
        row.level = "point"
    if ends:
        notes.append(f'{why}: "epoch" k is the k-th point, each a {what}; {len(ends)} points, to step {ends[-1]:g}')
    return rows


def _follow_steps(rows: list[Row]) -> None:
    """A validation that does not tell its step was made at the step before it."""
    step = None
    for row in rows:
        if row.step is not None:
            step = row.step
        elif row.source == "console" and row.level == "epoch" and row.values and _is_validation(row):
            row.step = step


def _is_validation(row: Row) -> bool:
    return any(meaning_of(base_name(name)).split in ("validation", "test") for name in row.values)


def _count_repeats(rows: list[Row], notes: list[str]) -> list[Row]:
    """Epochs counted where nothing numbers them: a name that comes again begins the next."""
    measured = [row for row in rows if row.values and row.level == "epoch" and has_loss(row)]
    others = [row for row in rows if row.values and row.level in ("bar", "batch", "point")]
    if not measured and others:
        for row in others:
            row.level = "epoch"
        measured = [row for row in others if has_loss(row)]
    if len(measured) > MAX_COUNTED:
        for step, row in enumerate(measured, start=1):
            row.step = step
        return _number_points(rows, notes)
    epoch = 1
    seen: Counter[str] = Counter()
    # Once or twice a number behind the word loss is prose as often as a log.
    if sum(not set(row.values).isdisjoint(measured[0].values) for row in measured) < _LEAST_COUNTED:
        for row in rows:
            row.values = {}
        return rows
    for row in measured:
        if any(name in seen for name in row.values):
            epoch, seen = epoch + 1, Counter()
        seen.update(row.values)
        row.epoch = epoch
    if measured:
        notes.append(f"no epochs are numbered in this log: {epoch} were counted")
    return rows
