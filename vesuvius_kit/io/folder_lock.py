"""A folder that one command works in at a time.

The lock is the system's own (POSIX record lock) on a small hidden file: it ends with the process that holds it, however that
ends, so a stale one cannot block; loader processes that outlive it do not keep it; and NFS passes it on between machines.
"""

import fcntl
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vesuvius_kit.checks import InputValueError, explain_os_error, make_folder, name_os_errors

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"

# A record lock knows processes only: a second thread of this one would be let in, and its end would end the lock.
_held_here: set[Path] = set()
_guard = threading.Lock()


@contextmanager
def lock_folder(folder: Path | str, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold a folder, made if missing, within the ``with`` statement, or raise `InputValueError` that says who does.

    ``name`` is that of the lock's file in it, which is gone afterwards. ``.fold_0.lock`` is the lock of ``fold_0`` in the
    folder, and holds while that is renamed.
    """
    path = (make_folder(folder) / name).absolute()
    with _guard:
        if path in _held_here:
            raise InputValueError(_describe_holder(path, f"process {os.getpid()} on {socket.gethostname()}, this one"))
        _held_here.add(path)
    try:
        file = _take(path)
        try:
            yield
        finally:
            # Removed while it is held: who opened it meanwhile finds that it is no longer the one (`_take`).
            path.unlink(missing_ok=True)
            os.close(file)
    finally:
        _held_here.discard(path)


def _take(path: Path) -> int:
    """Open the lock's file, lock it and return its descriptor."""
    while True:
        with name_os_errors(f"write {path}"):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, path)
            with name_os_errors(f"write {path}"):
                if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                    os.ftruncate(file, 0)
                    os.pwrite(file, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        # POSIX allows either of the two.
        raise InputValueError(_describe_holder(path, _read_holder(file))) from error
    except OSError as error:
        logger.warning(
            "%s cannot be locked (%s): see to it that no second command works there",
            path.parent,
            explain_os_error(error),
        )


def _read_holder(file: int) -> str:
    """Return who holds the lock, as it wrote itself; it may just have taken it."""
    try:
        holder = json.loads(os.pread(file, 4096, 0))
        return f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _describe_holder(path: Path, holder: str) -> str:
    inner = path.name.removesuffix(LOCK_NAME).removeprefix(".")
    return f"only one command at a time may work in {path.parent / inner}, got a second one beside {holder}"
