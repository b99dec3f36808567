"""Ctrl-C that cannot get lost: a scheduler sends one SIGINT, and one must be enough.

Python raises KeyboardInterrupt wherever the main thread happens to be. Where that is a callback of ``os.fork`` or a
``__del__``, the exception is printed and dropped, and a loop that forks its loader processes anew in each epoch runs to its
end. So the signal is noted as well as raised, and the note is looked at in every step.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from vesuvius_kit.console import Progress, no_progress

_T = TypeVar("_T")

# Whether this process is in the callbacks of os.fork, where an exception would be printed and dropped. These two are called
# first before a fork and last after it, of all that were registered earlier.
_forking: list[bool] = []
os.register_at_fork(before=lambda: _forking.append(True), after_in_parent=_forking.clear, after_in_child=_forking.clear)


class InterruptWatch:
    """Within the ``with`` statement no Ctrl-C is lost; afterwards the process treats it as it did before.

    It stands in for Python's own handler only, in the main thread only: a process that ignores the signal (``nohup``), or has a
    handler of its own, keeps that.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._came = False
        self._stands = False

    def __enter__(self) -> "InterruptWatch":
        mine = threading.current_thread() is threading.main_thread()
        if mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._stands = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._stands:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a Ctrl-C came and was lost."""
        if self._came:
            raise KeyboardInterrupt

    def watched(self, progress: Progress = no_progress) -> Progress:
        """Return a progress function whose loops look at every item whether a Ctrl-C was lost."""

        def wrap(iterable: Iterable[_T], /, **settings: Any) -> Iterator[_T]:
            for item in progress(iterable, **settings):
                self.check()
                yield item
            self.check()

        return wrap

    def _note(self, *_: object) -> None:
        # A forked loader process inherits the handler for a moment; its parent ends it.
        if os.getpid() == self._process:
            self._came = True
            if not _forking:
                raise KeyboardInterrupt


def ignore_interrupts(_worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes of a group, to the process that started this one.

    A ``worker_init_fn`` of `torch.utils.data.DataLoader`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
