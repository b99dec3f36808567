"""Jobs for processes under test: a spawned process imports them by name."""

import os
import signal
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.inference.stages import SpoiltProcessError, StagedJob


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def claim(marker) -> bool:
    """True for the first process that asks."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class Square:
    """Squares a number; a task may ask for a fault instead."""

    folder: Path = Path()

    def __call__(self, task, seconds):
        if task == "input":
            raise InputValueError("volume must be\nwhole")
        if task == "fault":
            raise ZeroDivisionError("no\nway")
        if task == "kill" or (task == "kill once" and claim(self.folder / "killed")):
            kill_me()
        if task in ("sleep", "sleep again"):
            time.sleep(600)
        return (task * task if isinstance(task, int) else task), seconds, os.environ["OMP_NUM_THREADS"]


@dataclass(frozen=True)
class StagedSquare(StagedJob):
    """Squares a number in stages, and writes down when each was; what it leaves behind ends when the next has begun."""

    folder: Path

    def _note(self, word):
        with open(self.folder / "log", "a") as stream:
            stream.write(f"{word}\n")

    def _wait_for(self, word):
        until = time.monotonic() + 10
        while word not in (self.folder / "log").read_text().split() and time.monotonic() < until:
            time.sleep(0.01)

    def prepare(self):
        return "prepared"

    def read(self, task):
        self._note(f"read-{task}")
        return task

    def work(self, task, material, order, settle):
        if task == "kill once" and claim(self.folder / "killed"):
            kill_me()
        if task == "spoil" or (task == "spoil once" and claim(self.folder / "spoilt")):
            raise SpoiltProcessError("no GPU")
        self._note(f"work-{task}")
        if task in (1, 2, 3) and order:
            self._wait_for(f"read-{task + 1}")
        self._note(f"worked-{task}")

        def rest():
            if task in (1, 2, 3) and order:
                self._wait_for(f"work-{task + 1}")
            self._note(f"finished-{task}")
            return (material * material if isinstance(material, int) else material), order

        return f"worked on {task}", rest


class LateNews(StagedJob):
    """Its results are there before its news are, as may happen when what is left of a task takes no time."""

    def prepare(self):
        add = Future.add_done_callback

        def add_when_done(future, action):
            wait([future])
            add(future, action)

        Future.add_done_callback = add_when_done

    def work(self, task, material, order, settle):
        return "news", lambda: task
