"""A folder of results: what was noted beside them decides which of them count.

Each result is a file that appears whole or not at all, so a run that was killed goes on with the first volume that has none.
The settings, the weights' digests and those of the files that went in lie beside the results: results of two settings never
mix, and none passes for that of another file of the same name.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputNotFoundError, InputValueError, make_folder, name_os_errors
from vesuvius_kit.config import PredictConfig, changed_settings
from vesuvius_kit.inference.precision import Precision, choose_precision
from vesuvius_kit.inference.predict import choose_device
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.postprocess.files import load_probability
from vesuvius_kit.postprocess.pipeline import Step

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
# Bytes of a file, evenly spread, that tell it from another one.
_SAMPLED_BLOCKS, _BLOCK = 32, 4096


def open_results(
    folder: Path | str, settings: Mapping[str, Any], fresh: bool, ending: str, sources: Mapping[str, Path]
) -> Path:
    """Make a folder of results, or open one and check that its results were made under the same settings, of the same files.

    Parameters
    ----------
    settings
        By section, as JSON holds them.
    fresh
        Remove the results that are there.
    ending
        Of a result's file, such as ``.npy``.
    sources
        The files that go in, by id.
    """
    folder = make_folder(folder)
    digests, pattern = read_digests(sources), f"*{ending}"
    noted = folder / SETTINGS_FILE
    settings = dict(settings)
    if noted.exists() and not fresh:
        try:
            before = json.loads(noted.read_text(encoding="utf-8"))
            kept = {key: before.pop(key) for key in ("precision", "sources") if key in before}
            changed = [name for name, digest in kept.get("sources", {}).items() if digests.get(name, digest) != digest]
            changes = changed_settings(before, settings)
        except (ValueError, AttributeError, TypeError) as error:
            raise InputValueError(
                f"settings must be those that this command wrote (or give --fresh), got {noted}: {error}"
            ) from error
        if any(folder.glob(pattern)):
            if changes:
                raise InputValueError(
                    f"settings must equal those of the results in {folder} (or give --fresh), got {'; '.join(changes)}"
                )
            if replaced := [name for name in changed if (folder / f"{name}{ending}").exists()]:
                raise InputValueError(
                    f"files must be those that the results in {folder} were made of (or give --fresh, or another "
                    f"--output), got others in place of {list_some(replaced)}"
                )
            # A note of the results that are kept, not a setting: another machine may go on with the work.
            settings |= kept
    # Results first: killed in between, none of them may lie beside settings that are not theirs.
    for result in folder.glob(pattern) if fresh else ():
        with name_os_errors(f"remove {result}"):
            result.unlink()
    settings["sources"] = settings.get("sources", {}) | digests
    # Written even where it says the same: so a folder that cannot be written to is found before the work.
    _write_json(noted, settings)
    return folder


def settle_precision(folder: Path, predict: PredictConfig) -> Precision:
    """Return what the results in a folder are computed in, noted beside them: as they were so far, or as is fastest here."""
    noted = folder / SETTINGS_FILE
    settings = json.loads(noted.read_text(encoding="utf-8"))
    device = choose_device(predict.device)
    before = settings.get("precision", [])
    if predict.precision == "auto" and before and before[-1]["device"] == device.type:
        choice = Precision.resumed(before[-1])
    else:
        choice = choose_precision(predict.precision, device)
        settings["precision"] = [*before, choice.to_dict()]
        _write_json(noted, settings)
    logger.info("precision: %s", choice.to_text())
    return choice


def read_precision(folder: Path) -> str | None:
    """Return the name of the precision that the results in a folder are computed in, None before it was settled."""
    noted = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8")).get("precision", [])
    return noted[-1]["name"] if noted else None


def is_whole(path: Path) -> bool:
    """Return whether a file of probabilities is there and can be used; one with NaN, or one that is damaged, cannot."""
    try:
        load_probability(path)
    except InputNotFoundError:
        return False
    except InputValueError as error:
        logger.warning("%s; it is predicted again", error)
        return False
    return True


def note_pipeline(pipeline: Sequence[Step]) -> dict[str, Any]:
    """Return what is noted of a repair: its steps, whatever name or file they came from."""
    return {"pipeline": [{step.name: step.parameters} for step in pipeline]}


def list_some(names: Iterable[str]) -> str:
    """Return the first ten names for a message."""
    names = list(names)
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")


def read_digests(sources: Mapping[str, Path]) -> dict[str, str]:
    """Return what tells files from others of the same names, which another folder may hold; by id.

    The size and a sample: the volumes of a scroll are a hundred gigabytes, and two files that agree in both are the same one.
    What is no file is left out.
    """
    digests = {}
    for name, path in sources.items():
        if path.is_file():
            with name_os_errors(f"read {path}"), open(path, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                digest = hashlib.sha256(str(size).encode())
                for k in range(_SAMPLED_BLOCKS):
                    stream.seek(max(size - _BLOCK, 0) * k // (_SAMPLED_BLOCKS - 1))
                    digest.update(stream.read(_BLOCK))
            digests[name] = digest.hexdigest()[:16]
    return digests


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with write_atomically(path) as stream:
        json.dump(content, stream, indent=1)
