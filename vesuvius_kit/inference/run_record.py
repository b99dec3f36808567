"""``run.json``: what was done to each volume of a submission, with which weights, plan and times, and what went wrong.

It is replaced whole after each volume, and an entry stays as long as the mask that it describes. A file beside it keeps some
room on the disk, so that a full disk can still be written down as the cause.
"""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import vesuvius_kit
from vesuvius_kit.checks import InputOSError, one_line
from vesuvius_kit.io.atomic import write_atomically

logger = logging.getLogger(__name__)

RECORD_FILE = "run.json"
MaskKind = Literal["network", "ridge", "blank"]
"""Where a mask came from: networks, the ridge filter, or nowhere (all 0)."""

_ROOM_FILE = ".room"
_ROOM = 64 * 1024
_ROOM_A_VOLUME = 4 * 1024


class RunRecord:
    """The record of a run in the folder of its masks; what an earlier run noted of the masks that are kept is taken over.

    Parameters
    ----------
    folder
        Of the masks.
    run
        What holds for the whole run, as JSON holds it.
    kept
        Ids of the volumes whose masks are kept.
    n_volumes
        Volumes there are.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], kept: list[str], n_volumes: int) -> None:
        self.path = folder / RECORD_FILE
        self._room = folder / _ROOM_FILE
        self._is_full = False
        before = read_run_record(folder).get("volumes", {}) if kept else {}
        self._run = {"kit": vesuvius_kit.__version__, "started": _now(), "ended": None, **run}
        self._warnings: list[str] = []
        self.volumes: dict[str, dict[str, Any]] = {
            name: entry if isinstance(entry := before.get(name), dict) else {"mask": "network", "causes": []}
            for name in kept
        }
        """What is noted of each volume, by id."""
        try:
            with write_atomically(self._room, "wb") as stream:
                stream.write(b"\0" * (_ROOM + n_volumes * _ROOM_A_VOLUME))
        except InputOSError as error:
            self.warn(f"the disk is nearly full: {one_line(error)}")
        self._write()

    def note_volume(self, name: str, mask: MaskKind, **details: Any) -> None:
        """Note what became of a volume, and write the record."""
        self.volumes[name] = {"mask": mask, **details}
        self._write()

    def note(self, **details: Any) -> None:
        """Note what holds for the whole run; it is written with the next volume, or at the end."""
        self._run |= details

    def warn(self, line: str) -> None:
        """Log a warning and note it."""
        logger.warning("%s", line)
        self._warnings.append(line)

    @property
    def warnings(self) -> list[str]:
        """What was warned of, a line each."""
        return list(self._warnings)

    def close(self) -> None:
        """Write the record for the last time, and give the room on the disk back."""
        self._run["ended"] = _now()
        self.make_room()
        self._write()

    def make_room(self) -> None:
        """Give back the room that was kept on the disk."""
        with suppress(OSError):
            self._room.unlink(missing_ok=True)

    def _write(self) -> None:
        content = {**self._run, "warnings": self._warnings, "volumes": dict(sorted(self.volumes.items()))}
        for is_last in (False, True):
            try:
                with write_atomically(self.path) as stream:
                    json.dump(content, stream, indent=1)
                return
            except InputOSError as error:
                # The first record finds a folder that nothing can be written to; later ones must not end the work.
                if not self.path.exists():
                    self.make_room()
                    raise
                self.make_room()
                if is_last and not self._is_full:
                    self._is_full = True
                    logger.warning("%s is not up to date: %s", self.path, one_line(error))


def read_run_record(folder: Path | str) -> dict[str, Any]:
    """Return what ``run.json`` in a folder of masks holds; empty where there is none that can be read."""
    path = Path(folder) / RECORD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read and is written anew: %s", path, one_line(error))
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("volumes", {}), dict) else {}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
