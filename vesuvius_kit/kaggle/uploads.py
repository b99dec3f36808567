"""Uploads that an earlier run began: a file of gigabytes goes on where it stopped instead of starting again.

The official client remembers uploads by path, size and date; here it is the hash, since a wheel that was built again may have
all three in common with its forerunner.
"""

import json
import os
import time
from pathlib import Path

from vesuvius_kit.checks import InputOSError, explain_os_error, make_folder
from vesuvius_kit.io.volume import write_atomically

FILE_NAME = "uploads.json"
# Google keeps a begun upload for a week.
LIFETIME_SECONDS = 6 * 24 * 3600.0


class UploadMemory:
    """Token and address of each upload that was begun and has not become part of a data set.

    Parameters
    ----------
    folder : str or Path
        Keeps `FILE_NAME`, which only the user may read: an address is the right to write there.
    """

    def __init__(self, folder):
        self._path = Path(folder) / FILE_NAME

    def get(self, key):
        """Return what is known of the upload of a file.

        Parameters
        ----------
        key : str
            Names the file, its content and the data set.

        Returns
        -------
        tuple of str or None
            Token and address; None if there is none that can still be used.
        """
        entry = self._read().get(key)
        if entry is None or entry["time"] < time.time() - LIFETIME_SECONDS:
            return None
        return entry["token"], entry["url"]

    def note(self, key, token, url) -> None:
        """Remember an upload that has begun.

        Parameters
        ----------
        key : str
            Names the file, its content and the data set.
        token : str
            What a data set is made from.
        url : str
            Where the file goes.
        """
        entries = self._read()
        entries[key] = {"token": token, "url": url, "time": time.time()}
        self._write(entries)

    def forget(self, *keys) -> None:
        """Forget uploads, those that are not known included.

        Parameters
        ----------
        *keys : str
            As in `note`.
        """
        entries = self._read()
        left = {key: entry for key, entry in entries.items() if key not in keys}
        if left != entries:
            self._write(left)

    def _read(self):
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            # A damaged memory costs an upload, no more.
            return {}
        except OSError as error:
            raise InputOSError(f"cannot read {self._path}: {explain_os_error(error)}") from error
        return {key: entry for key, entry in entries.items() if _is_entry(entry)} if isinstance(entries, dict) else {}

    def _write(self, entries):
        make_folder(self._path.parent)
        with write_atomically(self._path) as stream:
            os.chmod(stream.name, 0o600)
            json.dump(entries, stream, indent=1)


def _is_entry(entry):
    if not isinstance(entry, dict) or not isinstance(entry.get("time"), (int, float)):
        return False
    return all(isinstance(entry.get(name), str) for name in ("token", "url"))
