"""Logging and progress bars: the only place that knows whether a person is looking.

Library code takes a ``progress`` callable with tqdm's calling form, ``progress(iterable, total=..., desc=...)``, and
defaults to `no_progress`. The command line passes `show_progress`.
"""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Protocol, TextIO, TypeVar, cast

_T = TypeVar("_T")


class Progress(Protocol):
    """Wraps what is looped over, in tqdm's calling form."""

    def __call__(self, iterable: Iterable[_T], /, **kwargs: Any) -> Iterable[_T]:
        """Return what yields the items of ``iterable``; ``desc``, ``total`` and ``initial`` are tqdm's."""


_NOTEBOOK_LINES = 10  # of one loop, at most
_NOTEBOOK_SECONDS = 5.0  # between two lines of a loop, at least
_loops_shown: list[str] = []  # descriptions of the loops that print now; a loop within another is silent


def no_progress(iterable: Iterable[_T], /, **_kwargs: Any) -> Iterable[_T]:
    """Return ``iterable`` unchanged: the silent progress callable."""
    return iterable


def show_progress(iterable: Iterable[_T], /, **kwargs: Any) -> Iterable[_T]:
    """Wrap ``iterable`` in a tqdm bar: live in a terminal, a line a minute in a log file, a few lines in a notebook.

    A saved notebook keeps every refresh for good, and a widget needs a package that may be missing. So a notebook gets whole
    lines, about ten for a loop of any length, and none for a loop within a loop.
    """
    from tqdm import tqdm

    if _in_notebook():
        return _print_lines(iterable, **kwargs)
    if not sys.stderr.isatty():
        # A log file keeps every refresh: a bar a minute is enough there.
        kwargs.setdefault("mininterval", 60.0)
    kwargs.setdefault("dynamic_ncols", True)
    return tqdm(iterable, **kwargs)


def _print_lines(
    iterable: Iterable[_T], desc: str = "", total: int | None = None, initial: int = 0, **_kwargs: Any
) -> Iterator[_T]:
    """Yield what ``iterable`` holds and print now and then how far it is, on standard output."""
    if _loops_shown:
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    every = max(1, (total or 0) // _NOTEBOOK_LINES)
    started = printed = time.monotonic()
    wait = _NOTEBOOK_SECONDS
    done = said = initial
    _loops_shown.append(desc)
    try:
        for item in iterable:
            yield item
            done += 1
            now = time.monotonic()
            if done < (total or math.inf) and done - said >= every and now - printed >= wait:
                print(f"{desc}: {done}{f' of {total}' if total else ''}, {now - started:.0f} s", flush=True)
                printed, said = now, done
                # Without a total nobody knows how many lines will come: make the next one wait twice as long.
                wait *= 1 if total else 2
        print(f"{desc}: {done}, {time.monotonic() - started:.1f} s", flush=True)
    finally:
        _loops_shown.remove(desc)


def how_to_go_on(fresh: bool) -> str:
    """Return what to type after a stop, for a command that keeps its work; ``fresh``: it was told to start anew."""
    if fresh:
        return "the same command starts anew; without --fresh it goes on with what is there"
    return "the same command goes on"


def _in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, or in a process forked from one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


class _AboveTheBars(logging.Handler):
    """Prints a message without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if _in_notebook():
            # Standard error is painted red there, as if something were wrong.
            print(self.format(record), flush=True)
        else:
            tqdm.write(self.format(record), file=sys.stderr)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the kit's log messages of a ``logging`` level and above to standard error, one line each."""
    logger = logging.getLogger("vesuvius_kit")
    logger.setLevel(level)
    if not logger.handlers:
        handler = _AboveTheBars()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)


class _Tolerant:
    """A standard stream that forgets what it cannot write, when what fails is of the given kind, and names itself else.

    What its encoding has no character for, as ASCII for the name of a folder, is written as an escape.
    """

    def __init__(self, stream: TextIO, failures: type[OSError]) -> None:
        self._stream, self._failures, self._is_gone = stream, failures, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not self._is_gone:
            self._try(self._stream.write, self._escape(text))
        return len(text)

    def _escape(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding, getattr(self._stream, "errors", None) or "strict")
        except UnicodeEncodeError:
            return text.encode(encoding, "backslashreplace").decode(encoding)
        return text

    def flush(self) -> None:
        if not self._is_gone:
            self._try(self._stream.flush)

    def _try(self, function: Callable[..., object], *arguments: str) -> None:
        try:
            function(*arguments)
        except self._failures:
            self._is_gone = True
            if self._stream in (sys.__stdout__, sys.__stderr__):
                # The interpreter flushes at its end what is left in the buffer, and would fail again.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error


@contextmanager
def outlive_readers() -> Iterator[None]:
    """Go on working when nobody reads standard output (``| head``) or the log any longer: what is written there is dropped.

    Anything else that keeps the log from being written is no reason to stop either; the output itself must not be lost. A
    stream that was closed before the start (``>&-``), as schedulers do, is one that nobody reads.
    """
    output, log = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        # What a `_Tolerant` has not itself it takes from its stream.
        sys.stdout = cast(TextIO, _Tolerant(output or nowhere, BrokenPipeError))
        sys.stderr = cast(TextIO, _Tolerant(log or nowhere, OSError))
        try:
            yield
            sys.stdout.flush()
        finally:
            sys.stdout, sys.stderr = output, log
