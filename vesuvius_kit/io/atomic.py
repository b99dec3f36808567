"""Files that appear whole or not at all."""

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, overload

from vesuvius_kit.checks import InputNotFoundError, name_os_errors


@overload
def write_atomically(path: Path | str, mode: Literal["w"] = "w") -> AbstractContextManager[IO[str]]: ...
@overload
def write_atomically(path: Path | str, mode: Literal["wb", "w+b"]) -> AbstractContextManager[IO[bytes]]: ...
@contextmanager
def write_atomically(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its place only when the block ends without an error.

    Until then, what was there stays untouched. The folder must exist. Text is UTF-8, with newlines as written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputNotFoundError(f"the folder of {path} must exist")
    # Hidden and with another ending, so that a killed run leaves nothing that looks like a result.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    with name_os_errors(f"write {path}"):
        try:
            with open(part, mode, encoding=encoding, newline=newline) as stream:
                yield stream
            os.replace(part, path)
        finally:
            # Where the file could not be made there is nothing to remove either.
            with suppress(OSError):
                part.unlink(missing_ok=True)


def remove_parts(path: Path | str) -> None:
    """Remove what killed runs left of a file that they were writing; only who alone writes it may call this."""
    path = Path(path)
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            part.unlink()
