"""A run's training as the page holds it: curves by epoch, with raises, rollbacks and what the diagnosis found."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.constants import MAX_FACTOR
from vesuvius_kit.diagnosis import Diagnosis, diagnose
from vesuvius_kit.diagnosis.curves import base_rate, number_of, series
from vesuvius_kit.diagnosis.figure import locate_finding
from vesuvius_kit.diagnosis.panels import find_components, find_rates
from vesuvius_kit.io.record import EpochRecord, read_records

EVENTS = {"rollback": "rolled back", "resumed": "resumed", "raise_vetoed": "raise held back"}
"""What the page calls the events of a run."""


def read_training(folds: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return what the page shows of each fold's log, by the fold's name.

    Raises
    ------
    InputValueError
        A line of a log is no epoch, or a log is empty.
    """
    return {name: _read_fold(folder) for name, folder in folds.items()}


def _read_fold(folder: Path) -> dict[str, Any]:
    records = read_records(folder, strict=True)
    if not records:
        raise InputValueError(f"log must hold at least one epoch, got none in {folder}")
    diagnosis = diagnose(folder)
    scored = [record for record in records if record.score]
    best = max(scored, key=lambda record: number_of((record.score or {}).get("score")), default=None)
    rates = find_rates(records)
    return {
        "epochs": len(records),
        "seconds": sum(record.seconds or 0.0 for record in records),
        "verdict": diagnosis.verdict,
        "healthy": diagnosis.healthy,
        "findings": _list_findings(diagnosis),
        "notes": diagnosis.notes,
        "advice": diagnosis.advice,
        "best_epoch": diagnosis.best_epoch,
        "best_loss": diagnosis.best_loss,
        "best_score": None if best is None else (best.score or {}).get("score"),
        "best_score_epoch": None if best is None else best.epoch,
        "loss": {part: series(records, part, "loss") for part in ("train", "validation")},
        "score": {
            name: [(record.epoch, value) for record in scored if math.isfinite(value := _score_of(record, name))]
            for name in ("score", "toposcore", "surface_dice", "voi_score")
        },
        "components": find_components(records, "train"),
        "rate": rates,
        "cap": None if (base := base_rate(records, diagnosis.run.config)) is None else MAX_FACTOR * base,
        "marks": _list_marks(records, dict(rates)),
    }


def _score_of(record: EpochRecord, name: str) -> float:
    return number_of((record.score or {}).get(name))


def _list_findings(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    listed = []
    for number, finding in enumerate(diagnosis.findings, start=1):
        panel, span = locate_finding(finding)
        listed.append({"number": number, "text": finding.text, "panel": panel, "epochs": list(span)})
    return listed


def _list_marks(records: Sequence[EpochRecord], rates: Mapping[int, float]) -> list[dict[str, Any]]:
    """Raises of the rate and other events: epoch, kind, the rate there, and what is said of it."""
    marks = []
    for record in records:
        for entry in record.interventions:
            multiple = number_of(entry.get("multiple"))
            text = f"rate raised to {multiple:.3g} times its base" if math.isfinite(multiple) else "rate raised"
            marks.append({"epoch": record.epoch, "kind": "raise", "rate": rates.get(record.epoch + 1), "text": text})
        for event in record.events:
            kind = str(event.get("kind"))
            reason = str(event.get("reason", "")).strip()
            text = EVENTS.get(kind, kind.replace("_", " ")) + (f": {reason}" if reason else "")
            marks.append({"epoch": record.epoch, "kind": kind, "rate": rates.get(record.epoch), "text": text})
    return marks
