"""The kit's own `log.jsonl`, and the text of the plateau case: the two forms that are read to the letter.

A number may be cut anywhere by a crash, and two processes may write into one line. So a line of the plateau case counts only
when its number ends with the line, with the components in brackets, or with a remark that a space parts from it.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from vesuvius_kit.diagnosis.curves import number_of

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
# The beginning of a line of the case: from here on the line is read to the letter or not at all.
_CASE = re.compile(r"\bEpoch\s+\S+\s+(?:Train|Val|Validation)\s*-\s*Loss\b|\bIntervention\s+#", re.IGNORECASE)
_EPOCH = re.compile(
    rf"\bEpoch\s+(?P<epoch>\d{{1,9}})\s+(?P<part>Train|Val|Validation)\s*-\s*Loss:\s*(?P<loss>{_NUMBER})"
    r"(?:\s+\((?P<components>[^()]*)\))?(?P<remark>\s+.*)?$",
    re.IGNORECASE,
)
# Behind the number may stand a remark, but no bracket that was cut and no number that may belong to the loss.
_REMARK = re.compile(r"\s+[^\d\s(][^(\d]*(?:\([^()]*\)\s*)?$")
# The kit calls its parts train and validation; an object with one of these is another program's.
_FOREIGN_PARTS = ("val", "valid", "eval", "test")
_COMPONENT = re.compile(rf"^\s*(?P<name>[a-z_][a-z_0-9]*)\s*:\s*(?P<value>{_NUMBER})\s*$", re.IGNORECASE)
_INTERVENTION = re.compile(
    rf"\bIntervention\s+#(?P<number>\d{{1,9}}):\s*LR scale\s+(?P<scale>{_NUMBER})x\s*$", re.IGNORECASE
)


def is_case_line(line: str) -> bool:
    """Return whether a line has the form of the plateau case."""
    return _CASE.search(line) is not None


def read_case_line(line: str, number: int, unread: list[str]) -> dict[str, Any] | None:
    """Return what a line of the plateau case says: a part of an epoch, or an intervention, as in `log.jsonl`.

    A component that cannot be read is told in ``unread``, with the line's ``number``.
    """
    match = _INTERVENTION.search(line)
    if match:
        scale = float(match["scale"])
        return (
            {"interventions": [{"number": int(match["number"]), "multiple": scale}]} if math.isfinite(scale) else None
        )
    match = _EPOCH.search(line)
    if not match or len(re.findall("epoch", line, re.IGNORECASE)) > 1:
        return None
    before = line[: match.start()].rstrip()
    if before and before[-1] not in "-:|>]).…":
        return None
    if match["remark"] and match["remark"].strip() and not _REMARK.match(match["remark"]):
        return None
    values = {"loss": float(match["loss"])}
    for pair in (match["components"] or "").split(",") if match["components"] else ():
        component = _COMPONENT.match(pair)
        if component is None:
            unread.append(f"line {number} has a component that cannot be read: {pair.strip()[:100]}")
        else:
            values[component["name"].lower()] = float(component["value"])
    part = "train" if match["part"].lower() == "train" else "validation"
    return {"epoch": int(match["epoch"]), part: values}


def read_kit_entry(entry: object) -> dict[str, Any] | None:
    """Return an epoch of the kit's log with its numbers made sure of; None for what is no epoch of the kit."""
    if not isinstance(entry, dict) or type(entry.get("epoch")) is not int or entry["epoch"] < 0:
        return None
    if any(isinstance(entry.get(part), dict) for part in _FOREIGN_PARTS):
        return None
    read: dict[str, Any] = {"epoch": entry["epoch"]}
    for part in ("train", "validation"):
        if isinstance(entry.get(part), dict) and "loss" in entry[part]:
            read[part] = {str(name): number_of(value) for name, value in entry[part].items()}
    if len(read) == 1:
        return None
    if isinstance(entry.get("rate"), (int, float)):
        read["rate"] = number_of(entry["rate"])
    if isinstance(entry.get("loss_weights"), dict):
        read["loss_weights"] = {str(name): number_of(value) for name, value in entry["loss_weights"].items()}
    for name in ("interventions", "events"):
        values = entry.get(name)
        read[name] = [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    if isinstance(entry.get("gradient_diagnostics"), dict):
        read["gradient_diagnostics"] = _numbers_within(entry["gradient_diagnostics"])
    return read


def is_kit_shaped(entry: Mapping[str, Any]) -> bool:
    """Return whether an object has the kit's parts, so that only the kit's reader may read it."""
    return any(isinstance(entry.get(part), dict) for part in ("train", "validation")) and not any(
        isinstance(entry.get(part), dict) for part in _FOREIGN_PARTS
    )


def load_json(line: str) -> object:
    """Return what JSON says of a line or a whole file; None where it is none."""
    try:
        return json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no key occurs twice: which of two values was meant cannot be known."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _numbers_within(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The two levels of numbers that the gradient diagnostics of an epoch hold."""
    return {
        str(name): {str(key): number_of(entry) for key, entry in value.items()}
        if isinstance(value, dict)
        else number_of(value)
        for name, value in mapping.items()
    }
