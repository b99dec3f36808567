"""Numba kernels and where their machine code is kept: the one place that decides about a cache.

Compiling the kit's kernels takes a minute or two, so numba keeps the machine code: beside the source, or in the home of
the user. An installation that may only be read, run by a user without a home (a container, a shared server), has neither,
and numba then refuses to define a kernel at all. Here the code is kept in a private folder among the temporary files
instead, or, where there is no safe one, nowhere: then every process compiles anew. Whatever happens to a cache is no error
of whoever calls a kernel.
"""

import logging
import os
import pickle
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache, NullCache

logger = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])

_said: set[str] = set()


def compiled(**options: Any) -> Callable[[_Function], _Function]:
    """Return a decorator that compiles a function with `numba.njit` and keeps the machine code where that is possible.

    The options are those of `numba.njit`, without ``cache``. To a type checker the kernel is the function that it was.
    """

    def decorate(function: _Function) -> _Function:
        kernel = numba.njit(**options)(function)
        # With NUMBA_DISABLE_JIT the kernel is the function itself.
        if kernel is not function:
            # What `kernel.enable_caching()` does, with a cache that may fail.
            kernel._cache = _open_cache(function)
        return kernel

    return decorate


def is_compiled(kernel: Callable[..., Any]) -> bool:
    """Return whether a kernel that `compiled` made can be called without being compiled first.

    It was called before, or its machine code is in the cache for this Python, numba and source, or numba is switched off.
    """
    if not hasattr(kernel, "signatures") or kernel.signatures:
        return True
    cache = getattr(kernel, "_cache", None)
    return isinstance(cache, _Cache) and cache.holds_code()


class _Cache(FunctionCache):
    """Numba's cache, but a file of it that is damaged, unreadable or cannot be written is a miss and no error.

    Numba ships a ``py.typed``, but its caches are not annotated: hence the calls that the type checker is told to ignore.
    """

    _FAILURES = (OSError, EOFError, pickle.UnpicklingError)

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]

    def holds_code(self) -> bool:
        """Whether the index lists machine code: one of another numba, or of a source that has changed since, lists none."""
        try:
            return bool(self._cache_file._load_index())  # type: ignore[no-untyped-call]
        except self._FAILURES:
            return False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except self._FAILURES as error:
            self._give_up("read", error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except self._FAILURES as error:
            self._give_up("written", error)

    def _give_up(self, what: str, error: Exception) -> None:
        self.disable()  # type: ignore[no-untyped-call]
        _say_once(f"compiled kernels cannot be {what} in {self.cache_path} ({error}): they are compiled anew each time")


def _open_cache(function: Callable[..., Any]) -> _Cache | NullCache:
    """The cache of one kernel: where numba wants it, else in the temporary folder, else none."""
    try:
        return _Cache(function)
    except RuntimeError as error:
        # "no locator available": numba has looked beside the source, in the home and in NUMBA_CACHE_DIR.
        logger.debug("%s", error)
    folder = _private_folder()
    if folder is not None:
        # Processes that are started later inherit it; for this one numba has read the environment already.
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
        numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]  # set when numba reads the environment
        try:
            cache = _Cache(function)
        except RuntimeError as error:
            logger.debug("%s", error)
        else:
            _say_once(f"compiled kernels are kept in {folder}: neither the package's folder nor a home can be written")
            return cache
    _say_once("compiled kernels can be kept nowhere, since no folder can be written: every process compiles them anew")
    return NullCache()


def _private_folder() -> Path | None:
    """A folder among the temporary files that this user alone can read and write, or None: what lies there is executed."""
    try:
        folder = Path(tempfile.gettempdir()) / f"vesuvius_kit_{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        # Not followed: a link may lead anywhere.
        found = folder.lstat()
    except OSError as error:
        logger.debug("no temporary folder: %s", error)
        return None
    is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
    return folder if is_private else None


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.info(message)
