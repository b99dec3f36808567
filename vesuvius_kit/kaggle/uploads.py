"""What earlier runs left: uploads that go on where they stopped, and other small facts."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputValueError, make_folder
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.kaggle.metadata import read_json_object

LIFETIME_SECONDS = 6 * 24 * 3600.0  # Google keeps a begun upload for a week


class Memory:
    """Entries with fields of certain kinds in a JSON file that only the user may read: an upload's address is a secret."""

    def __init__(self, path: Path | str, kinds: Mapping[str, type]) -> None:
        self._path = Path(path)
        self._kinds = kinds

    def read(self) -> dict[str, dict[str, Any]]:
        """Return all entries; {} without a file."""
        entries = read_json_object(self._path) if self._path.exists() else {}
        for key, entry in entries.items():
            kinds = {name: type(value) for name, value in entry.items()} if isinstance(entry, dict) else {}
            if any(kinds.get(name) is not kind for name, kind in self._kinds.items()):
                what = f"got another entry for {key}; remove it to start anew"
                raise InputValueError(f"{self._path} must be as the kit wrote it, {what}")
        return entries

    def write(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace all entries."""
        make_folder(self._path.parent)
        with write_atomically(self._path) as stream:
            os.chmod(stream.name, 0o600)
            json.dump(entries, stream, indent=1, sort_keys=True)

    def forget(self, *keys: str) -> None:
        """Forget entries, those that are not known included."""
        entries = self.read()
        if not entries.keys().isdisjoint(keys):
            self.write({key: entry for key, entry in entries.items() if key not in keys})


class UploadMemory(Memory):
    """Token and address of each upload that was begun, by a key that names the file, its content and the data set."""

    def __init__(self, folder: Path | str) -> None:
        super().__init__(Path(folder) / "uploads.json", {"token": str, "url": str, "time": float})

    def read(self) -> dict[str, dict[str, Any]]:
        """Return all entries; a damaged memory costs an upload, no more."""
        try:
            return super().read()
        except InputValueError:
            return {}

    def get(self, key: str) -> tuple[str, str] | None:
        """Return token and address of an upload; None if none is known that can still be used."""
        entry = self.read().get(key)
        fresh = entry is not None and entry["time"] >= time.time() - LIFETIME_SECONDS
        return (entry["token"], entry["url"]) if entry and fresh else None

    def note(self, key: str, token: str, url: str) -> None:
        """Remember an upload that has begun."""
        self.write(self.read() | {key: {"token": token, "url": url, "time": time.time()}})
