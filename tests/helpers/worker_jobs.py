"""Jobs for processes under test: a spawned process imports them by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from vesuvius_kit.checks import InputValueError


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
        if task == "sleep":
            time.sleep(600)
        return (task * task if isinstance(task, int) else task), seconds, os.environ["OMP_NUM_THREADS"]
