"""Reading logs: whatever arrives is read as far as it can be, and what could not be read is said.

Two forms are known. JSON lines, as the kit writes them: one object an epoch. Text, as the project of the plateau case wrote
it: `... Epoch 0 Train - Loss: 0.4097`, `... Epoch 0 Val - Loss: 0.4139 (dice: 0.4200, variance: 0.9000)` and `... Intervention
#15: LR scale 77.5x`. Both become the dicts of `log.jsonl`, so that everything behind this module knows one form only.

A number may be cut anywhere by a crash. So a text line counts only when nothing unknown follows its numbers, and the last
line of a file without a line ending only when it closes with a bracket or an x: 0.57 might have become 0.5721.
"""

import codecs
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.diagnosis.curves import number_of

# As many lines are quoted as not readable; the others are counted.
MAX_QUOTED = 20

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
_PREFIX = r"^(?:.*[-:|>\]).…]\s*)?"
_EPOCH = re.compile(
    rf"{_PREFIX}Epoch\s+(?P<epoch>\d{{1,9}})\s+(?P<part>Train|Val|Validation)\s*-\s*Loss:\s*(?P<loss>{_NUMBER})"
    r"(?:\s+\((?P<components>[^()]*)\))?\s*$",
    re.IGNORECASE,
)
_COMPONENT = re.compile(rf"^\s*(?P<name>[a-z_][a-z_0-9]*)\s*:\s*(?P<value>{_NUMBER})\s*$", re.IGNORECASE)
_INTERVENTION = re.compile(
    rf"{_PREFIX}Intervention\s+#(?P<number>\d{{1,9}}):\s*LR scale\s+(?P<scale>{_NUMBER})x\s*$", re.IGNORECASE
)
# A line with one of these words was meant for us; if it cannot be read, it is quoted.
_MEANT = re.compile(r"epoch\s*\d|intervention|loss\s*:|lr scale|^\s*\{", re.IGNORECASE)


@dataclass(frozen=True)
class RunLog:
    """The epochs of one run, in order, as far as they could be read.

    Parameters
    ----------
    lines : list of dict
        One for each epoch, with `epoch` rising strictly; every key but `epoch` may be missing, a number may be NaN.
    source : str
        What was read.
    notes : list of str
        What was found out in reading: an encoding, several runs in one file, epochs that were repeated.
    unread : list of str
        What could not be read.
    config : dict or None
        The resolved configuration beside a run of the kit.
    """

    lines: list[dict]
    source: str
    notes: list[str]
    unread: list[str]
    config: dict | None = None


def find_logs(path) -> list[Path]:
    """Return the logs that a path stands for.

    Parameters
    ----------
    path : str or Path
        A log, a fold's folder with a `log.jsonl`, or a run's folder with folds.

    Returns
    -------
    list of pathlib.Path
        One for each fold.

    Raises
    ------
    InputNotFoundError
        Nothing there, or a folder without logs.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputNotFoundError(f"run must be a folder or a log, got {path}")
    if (path / "log.jsonl").is_file():
        return [path / "log.jsonl"]
    logs = sorted(path.glob("fold_*/log.jsonl"), key=lambda log: (len(log.parent.name), log.parent.name))
    if not logs:
        raise InputNotFoundError(f"run must hold log.jsonl or fold_K/log.jsonl, got {path}")
    return logs


def read_run(path) -> RunLog:
    """Return the last run of a log.

    Parameters
    ----------
    path : str or Path
        See `find_logs`; of a run with several folds, name one.

    Returns
    -------
    RunLog

    Raises
    ------
    InputNotFoundError
        Nothing there, or a folder without logs.
    InputValueError
        Several folds, or a log in which no epoch can be read.
    """
    logs = find_logs(path)
    if len(logs) > 1:
        raise InputValueError(f"run must be one fold, got {', '.join(log.parent.name for log in logs)} in {path}")
    log = logs[0]
    text, notes = _decode(log.read_bytes())
    records, unread = _read_lines(text)
    lines = _last_run(records, notes)
    if not lines:
        raise InputValueError(f"log must hold epochs with a loss, got none that can be read in {log}")
    config, problem = _read_config(log.parent / "last" / "config.yaml")
    return RunLog(lines, str(path), notes, unread + problem, config)


def _decode(data):
    """Text of a log in whatever encoding, and a note where it was not plain UTF-8."""
    for bom, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(bom):
            return data[len(bom) :].decode(name, errors="replace"), [f"encoding: {name} with a byte-order mark"]
    # Text in a Latin script has a NUL in every second byte of UTF-16.
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(data) > 1 and data[first::2].count(0) > 0.4 * len(data[first::2]) and data[1 - first :: 2].count(0) == 0:
            return data.decode(name, errors="replace"), [f"encoding: {name}"]
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as error:
        if error.start >= len(data) - 3:
            return data.decode("utf-8", errors="replace"), []
    return data.decode("latin-1"), ["encoding: not UTF-8, read as Latin-1"]


def _read_lines(text):
    """The epochs and interventions in the order of the file, and what could not be read."""
    records, unread, others, meant = [], [], 0, 0
    lines = re.split(r"\r\n|\r|\n", text)
    for number, raw in enumerate(lines, start=1):
        line = raw.strip("\x00\ufffd \t\ufeff")
        if not line:
            continue
        is_cut = number == len(lines) and not line.endswith(("}", ")", "x"))
        read = None if is_cut else _read_json(line) if line.startswith("{") else _read_text(line, number, unread)
        if read is not None:
            records.append(read)
        elif is_cut or _MEANT.search(line):
            meant += 1
            if meant <= MAX_QUOTED:
                why = "has no line ending and may be cut" if is_cut else "cannot be read"
                unread.append(f"line {number} {why}: {line[:100]}")
        else:
            others += 1
    if meant > MAX_QUOTED:
        unread.append(f"{meant - MAX_QUOTED} more lines like these")
    if others:
        unread.append(f"{others} line{'s' * (others > 1)} of another kind")
    return records, unread


def _read_json(line):
    """An epoch of the kit's log with its numbers made sure of, or None."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("epoch")) is not int or entry["epoch"] < 0:
        return None
    read = {"epoch": entry["epoch"]}
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
    if isinstance(entry.get("evidence"), dict):
        read["evidence"] = _numbers_within(entry["evidence"])
    return read


def _numbers_within(mapping):
    """The two levels of numbers that the evidence of an epoch holds."""
    return {
        str(name): {str(key): number_of(entry) for key, entry in value.items()}
        if isinstance(value, dict)
        else number_of(value)
        for name, value in mapping.items()
    }


def _read_text(line, number, unread):
    """A part of an epoch, or an intervention, or None."""
    match = _INTERVENTION.match(line)
    if match:
        scale = float(match["scale"])
        return (
            {"interventions": [{"number": int(match["number"]), "multiple": scale}]} if math.isfinite(scale) else None
        )
    match = _EPOCH.match(line)
    if not match or len(re.findall("epoch", line, re.IGNORECASE)) > 1:
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


def _last_run(records, notes):
    """The epochs of the last run, repeated ones once, as they were run last."""
    lines, waiting, runs, repeated = [], [], 1, []
    for record in records:
        if "epoch" not in record:
            # A text log names no epoch at an intervention: it belongs to the one before it.
            (lines[-1].setdefault("interventions", []) if lines else waiting).extend(record["interventions"])
            continue
        epoch = record["epoch"]
        if lines and epoch <= lines[-1]["epoch"] and epoch <= lines[0]["epoch"] < lines[-1]["epoch"]:
            runs += 1
            lines, repeated = [], []
        if lines and epoch == lines[-1]["epoch"]:
            if any(part in lines[-1] for part in record if part in ("train", "validation")):
                repeated.append(epoch)
            lines[-1] = {**lines[-1], **record}
            continue
        if lines and epoch < lines[-1]["epoch"]:
            repeated += [line["epoch"] for line in lines if line["epoch"] >= epoch]
            lines = [line for line in lines if line["epoch"] < epoch]
        lines.append(
            {"interventions": [*waiting, *record.get("interventions", [])], **_without(record, "interventions")}
        )
        waiting = []
    if runs > 1:
        notes.append(f"{runs} runs one after the other: the last is diagnosed")
    if repeated:
        epochs = ", ".join(str(epoch) for epoch in sorted(set(repeated))[:MAX_QUOTED])
        notes.append(f"epochs that occur again count as they were run last: {epochs}")
    if lines and len(lines) < lines[-1]["epoch"] - lines[0]["epoch"] + 1:
        notes.append(
            f"{lines[-1]['epoch'] - lines[0]['epoch'] + 1 - len(lines)} epochs between the first and the last are missing"
        )
    if lines and lines[0]["epoch"] > 1:
        notes.append(f"the log begins with epoch {lines[0]['epoch']}")
    return lines


def _without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


def _read_config(path):
    """The settings beside a run of the kit, and what was wrong with them."""
    if not path.is_file():
        return None, []
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return None, [f"{path.name}: {' '.join(str(error).split())[:100]}"]
    return (config, []) if isinstance(config, dict) else (None, [f"{path.name} holds no settings"])
