"""Logging and progress bars: the only place that knows whether a person is looking.

Library code takes a ``progress`` callable with tqdm's calling form, ``progress(iterable, total=..., desc=...)``, and
defaults to `no_progress`. The command line passes `show_progress`.
"""

import logging
import math
import sys
import time

_NOTEBOOK_LINES = 10  # of one loop, at most
_NOTEBOOK_SECONDS = 5.0  # between two lines of a loop, at least
_loops_shown = []  # descriptions of the loops that print now; a loop within another is silent


def no_progress(iterable, **_kwargs):
    """Return ``iterable`` unchanged: the silent progress callable.

    Parameters
    ----------
    iterable : iterable
        What is looped over.
    **_kwargs
        tqdm's keywords, ignored.

    Returns
    -------
    iterable
    """
    return iterable


def show_progress(iterable, **kwargs):
    """Wrap ``iterable`` in a tqdm bar: live in a terminal, a line a minute in a log file, a few lines in a notebook.

    A saved notebook keeps every refresh for good, and a widget needs a package that may be missing. So a notebook gets whole
    lines, about ten for a loop of any length, and none for a loop within a loop.

    Parameters
    ----------
    iterable : iterable
        What is looped over.
    **kwargs
        tqdm's keywords, ``desc`` and ``total`` among them.

    Returns
    -------
    iterable
        A tqdm bar; in a notebook a generator.
    """
    from tqdm import tqdm

    if _in_notebook():
        return _print_lines(iterable, **kwargs)
    if not sys.stderr.isatty():
        # A log file keeps every refresh: a bar a minute is enough there.
        kwargs.setdefault("mininterval", 60.0)
    kwargs.setdefault("dynamic_ncols", True)
    return tqdm(iterable, **kwargs)


def _print_lines(iterable, desc="", total=None, initial=0, **_kwargs):
    """Yield what ``iterable`` holds and print now and then how far it is, on standard output."""
    if _loops_shown:
        yield from iterable
        return
    if total is None and hasattr(iterable, "__len__"):
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


def _in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, or in a process forked from one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


class _AboveTheBars(logging.Handler):
    """Prints a message without tearing a progress bar apart."""

    def emit(self, record):
        from tqdm import tqdm

        if _in_notebook():
            # Standard error is painted red there, as if something were wrong.
            print(self.format(record), flush=True)
        else:
            tqdm.write(self.format(record), file=sys.stderr)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the kit's log messages to standard error, one line each.

    Parameters
    ----------
    level : int
        A level of the logging module.
    """
    logger = logging.getLogger("vesuvius_kit")
    logger.setLevel(level)
    if not logger.handlers:
        handler = _AboveTheBars()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
