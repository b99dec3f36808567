"""Row B2: one command at a time in a folder, and no lock that outlives its command."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.io import folder_lock
from vesuvius_kit.io.folder_lock import lock_folder

HOLD = """
import os, sys, time
from vesuvius_kit.io.folder_lock import lock_folder
with lock_folder(sys.argv[1]):
    if os.fork() == 0:  # as a loader process that outlives the run
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_second_command_is_refused_by_process_and_host_and_a_killed_one_blocks_nobody(tmp_path, holder):
    with (
        pytest.raises(
            InputValueError, match=rf"may work in .*run, got a second one beside process {holder.pid} on \S+$"
        ),
        lock_folder(tmp_path / "run"),
    ):
        pass
    with lock_folder(tmp_path / "run", ".fold_1.lock"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    # Its fork lives on.
    with lock_folder(tmp_path / "run"):
        pass


def test_two_threads_are_two_commands_and_an_ended_one_lets_the_next_in(tmp_path):
    entered, leave = threading.Event(), threading.Event()

    def work():
        with lock_folder(tmp_path, ".fold_0.lock"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(30)
    refused = pytest.raises(InputValueError, match=r"fold_0, got a second one beside process \d+ on .*, this one")
    with refused, lock_folder(tmp_path, ".fold_0.lock"):
        pass
    leave.set()
    thread.join()
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path, ".fold_0.lock"):
        raise ZeroDivisionError
    with lock_folder(tmp_path, ".fold_0.lock"):
        pass


def test_a_file_system_without_locks_is_said_and_a_stale_file_counts_for_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / ".lock").write_text("not what the kit writes")

    def refuse(*_):
        raise OSError(37, "No locks available")

    with lock_folder(tmp_path):
        pass
    monkeypatch.setattr(folder_lock.fcntl, "lockf", refuse)
    with caplog.at_level("WARNING"), lock_folder(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in caplog.text


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / ".lock").mkdir()
    for folder in (tmp_path / "file", tmp_path):
        with pytest.raises(InputError, match="cannot "), lock_folder(folder):
            pass


def test_the_lock_is_released_with_its_process_alone(tmp_path, holder):
    # Nobody waits: a second command is refused at once.
    started = time.monotonic()
    with pytest.raises(InputValueError), lock_folder(tmp_path / "run"):
        pass
    assert time.monotonic() - started < 5
