"""Where logs lie, and which reader a file is for."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError, name_os_errors
from vesuvius_kit.config.yaml_file import load_yaml
from vesuvius_kit.diagnosis.logs import RunLog
from vesuvius_kit.diagnosis.readers import decoding, documents, kit, nnunet, tensorboard, text
from vesuvius_kit.diagnosis.readers.runs import make_runs

# What a folder may hold, in this order: the first that is there counts.
_KNOWN = (
    "log.jsonl",
    "training_log_*.txt",
    "metrics.csv",
    "trainer_state.json",
    "results.csv",
    "events.out.tfevents.*",
)
# Files of other names that may be logs.
_ENDINGS = (".log", ".csv", ".jsonl", ".txt", ".json", ".ipynb", ".out", ".tsv")
MAX_FOLDER = 200
_TORCH_ENDINGS = (".pth", ".pt", ".ckpt", ".bin")
_NOT_LOGS = (
    "requirements",
    "license",
    "readme",
    "config",
    "dataset",
    "plans",
    "splits",
    "debug",
    "package",
    "summary",
    "fingerprint",
)


def find_logs(path: Path | str) -> list[Path]:
    """Return the logs that a path stands for, one for each fold; a folder where its several files make one run.

    The path is a log, a folder with one, or a folder with a folder for each fold or version.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputNotFoundError(f"run must be a folder or a log, got {path}")
    with name_os_errors(f"look into {path}"):
        found = _log_in(path)
        if found is not None:
            return [found]
        for inner in (
            "fold_*",
            "fold*",
            "version_*",
            "lightning_logs/version_*",
            "checkpoint-*",
            "runs/*",
            "logs",
            "*",
        ):
            folders = [folder for folder in path.glob(inner) if folder.is_dir()][:MAX_FOLDER]
            folders.sort(key=lambda folder: (len(folder.name), folder.name))
            logs = [log for folder in folders if (log := _log_in(folder)) is not None]
            if logs:
                # The state of the last checkpoint holds the whole history.
                return logs[-1:] if inner == "checkpoint-*" else logs
        files = sorted(file for file in path.iterdir() if file.is_file() and _may_be_log(file))[:MAX_FOLDER]
    logs = [file for file in files if _has_epochs(file)]
    if not logs:
        raise InputNotFoundError(f"run must hold log.jsonl or fold_K/log.jsonl, or a log of another kind, got {path}")
    return logs


def _log_in(folder: Path) -> Path | None:
    """The log in a folder by its name: a file, or the folder where several files continue each other."""
    for pattern in _KNOWN:
        files = sorted(folder.glob(pattern))
        if files:
            return files[0] if len(files) == 1 else folder
    return None


def _may_be_log(file: Path) -> bool:
    return file.suffix.lower() in _ENDINGS and not file.name.lower().startswith(_NOT_LOGS)


def _has_epochs(file: Path) -> bool:
    try:
        return bool(read_runs(file))
    except InputValueError:
        return False


def read_runs(path: Path | str) -> list[RunLog]:
    """Return the runs of a log, in the order of the log; at least one.

    Of a folder with several folds, name one: several are refused, as is a log in which no epoch can be read.
    """
    logs = find_logs(path)
    if len(logs) > 1:
        names = ", ".join(log.name if log.parent == Path(path) else log.parent.name for log in logs)
        raise InputValueError(f"run must be one fold, got {names} in {path}")
    log = logs[0]
    read = _read_folder(log) if log.is_dir() else _read_file(log)
    runs, notes, roles = make_runs(read.rows)
    if not runs:
        raise InputValueError(f"log must hold epochs with a loss, got none that can be read in {log}")
    config, problem = _read_config((log if log.is_dir() else log.parent) / "last" / "config.yaml")
    first = RunLog(
        records=[],
        source=str(path),
        notes=[*read.notes, *notes],
        unread=read.unread + problem,
        config=config,
        form=", ".join(read.forms),
        roles=roles.said,
    )
    return [
        replace(first, records=run.records, notes=[*first.notes, *run.notes], number=number, n_runs=len(runs))
        for number, run in enumerate(runs, start=1)
    ]


def _read_folder(folder: Path) -> text.TextLog:
    """Several files that make one run: training that was continued, or events."""
    for pattern in _KNOWN:
        files = sorted(folder.glob(pattern))
        if files and pattern.startswith("events"):
            return text.TextLog(rows=tensorboard.read_events(folder), forms=["TensorBoard's events"])
        if files:
            break
    logs = [_read_file(file) for file in files]
    whole = text.TextLog(
        notes=[f"{len(files)} logs of one folder, one behind the other: {files[0].name} to {files[-1].name}"]
    )
    for log in logs:
        whole.rows += log.rows
        whole.unread += log.unread
        whole.notes += [note for note in log.notes if note not in whole.notes]
        whole.forms += [form for form in log.forms if form not in whole.forms]
    return whole


def _read_file(path: Path) -> text.TextLog:
    """The rows of one file, by the reader that its content asks for."""
    with name_os_errors(f"read {path}"), path.open("rb") as stream:
        head = stream.read(4096)
    if "tfevents" in path.name or _is_events(head):
        return text.TextLog(rows=tensorboard.read_events(path), forms=["TensorBoard's events"])
    if head[:4] == b"PK\x03\x04" or (path.suffix.lower() in _TORCH_ENDINGS and head[:1] == b"\x80"):
        return _read_checkpoint(path, head)
    data = decoding.read_bytes(path)
    content, notes = decoding.decode(data)
    stripped = content[:2000].lstrip("\ufeff \t\r\n")
    if stripped[:1] in ("{", "["):
        log = _read_json(content)
        if log is not None:
            log.notes = notes + log.notes
            return log
    log = text.read_text(decoding.split_lines(content))
    log.notes = notes + log.notes
    return log


def _is_events(head: bytes) -> bool:
    """Whether a file begins with the record that TensorBoard writes first."""
    return len(head) > 40 and b"brain.Event:" in head[:64]


def _read_checkpoint(path: Path, head: bytes) -> text.TextLog:
    if head[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()[:10000]
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputValueError(f"log must hold epochs with a loss, got none that can be read in {path}") from error
        if not any(name.endswith("data.pkl") for name in names):
            raise InputValueError(f"log must hold epochs with a loss, got none that can be read in {path}: an archive")
    return text.TextLog(rows=nnunet.read_checkpoint(path), forms=["the record in nnU-Net's checkpoint"])


def _read_json(content: str) -> text.TextLog | None:
    """What a file of JSON holds; None where it is no whole JSON, or a single line of the kit's."""
    document = kit.load_json(content)
    if document is None or (isinstance(document, dict) and kit.read_kit_entry(document) is not None):
        return None
    printed = documents.notebook_text(document)
    form = "the cells of a notebook"
    if printed is None:
        printed, form = documents.kaggle_text(document), "Kaggle's log of a notebook"
    if printed is not None:
        log = text.read_text(decoding.split_lines(printed))
        log.forms.insert(0, form)
        return log
    found = documents.read_document(document)
    if found is None:
        return text.TextLog(unread=["JSON without a history"])
    return text.TextLog(rows=found[0], forms=[found[1]])


def _read_config(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The settings beside a run of the kit, and what was wrong with them."""
    if not path.is_file():
        return None, []
    try:
        config = load_yaml(path)
    except InputError as error:
        return None, [" ".join(str(error).split())]
    return (config, []) if isinstance(config, dict) else (None, [f"{path.name} holds no settings"])
