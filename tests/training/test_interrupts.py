"""One Ctrl-C stops a run, wherever it lands (B5)."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vesuvius_kit.training.interrupts import InterruptWatch, ignore_interrupts

# Sends SIGINT to itself from a callback of the fork of a loader process, where Python prints an exception and drops it.
SWALLOWED = """
# Registered before those of the kit, as the standard library's are.
import os, signal, sys
from vesuvius_kit.cli import main
forks = []
def interrupt():
    forks.append(1)
    if len(forks) == 2:
        os.kill(os.getpid(), signal.SIGINT)
os.register_at_fork(after_in_parent=interrupt)
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_while_loader_processes_are_forked_stops_the_run(tmp_path):
    """B5: it was swallowed in nine of eleven tries, and the run trained to its end."""
    from helpers.competitions import TINY, write_small_competition

    from vesuvius_kit.config import config_to_yaml, load_config

    data = write_small_competition(tmp_path / "data")
    config = load_config(None, {**TINY, "data": str(data), "output": str(tmp_path / "run"), "train.num_workers": 2,
                                "train.num_epochs": 50, "train.score_every_epochs": 100, "train.steps_per_epoch": 2,
                                "train.gradient_diagnostics_every_epochs": 0})  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, "train", f"--config={path}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Exception ignored" not in done.stderr
    assert done.returncode == 130
    assert "vesuvius-kit: stopped; nothing of this fold is saved yet" in done.stderr
    assert not (tmp_path / "run" / "fold_0" / "log.jsonl").exists()


def lose(_worker=None):
    """A callback that drops what is raised in it, as those of os.fork are dropped."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
    except KeyboardInterrupt:
        return


def count_and_lose_one(seen):
    with InterruptWatch() as watch:
        for item in watch.watched()(range(5), desc="steps"):
            seen.append(item)
            if item == 1:
                lose()


def lose_one_and_send_another(seen):
    with InterruptWatch():
        lose()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        seen.append("not stopped")


def lose_one_at_the_end(_seen):
    with InterruptWatch():
        lose()


@pytest.mark.parametrize(
    ("loop", "expected"), [(count_and_lose_one, [0, 1]), (lose_one_and_send_another, []), (lose_one_at_the_end, [])]
)
def test_a_lost_interrupt_is_raised_at_the_next_item_by_the_next_one_or_at_the_end(loop, expected):
    before = signal.getsignal(signal.SIGINT)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        loop(seen)
    assert seen == expected
    assert signal.getsignal(signal.SIGINT) is before


def test_other_handlers_and_other_threads_are_left_alone():
    """A process that ignores Ctrl-C goes on ignoring it; a notebook's thread cannot set a handler at all."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with InterruptWatch() as watch:
            lose()
            watch.check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    failed = []

    def enter():
        try:
            with InterruptWatch() as watch:
                watch.check()
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failed


def test_loader_processes_leave_ctrl_c_to_their_parent():
    before = signal.getsignal(signal.SIGINT)
    try:
        ignore_interrupts(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
