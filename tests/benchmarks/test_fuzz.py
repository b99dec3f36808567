"""A small run of the fuzzing harness (benchmarks/fuzz.py runs two thousand), and that the harness sees what it looks for."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


def run(*words):
    done = subprocess.run([sys.executable, str(FUZZ), *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_spoilt_files_are_read_or_refused_in_one_line():
    code, table, errors = run("--count", "300", "--seed", "1", "--hang-seconds", "60")
    assert code == 0, f"{table}\n{errors}"
    assert "all              300" in table


def test_the_harness_counts_every_fault_and_nothing_else():
    # Nine mutants with this seed: each fault once. The limit is long for a busy machine, and waited for once.
    code, table, errors = run("--kind", "faults", "--count", "9", "--seed", "197", "--hang-seconds", "4")
    assert code == 1, f"{table}\n{errors}"
    wrong = dict(line.split(": none, ", 1)[1].split(": ", 1) for line in table.splitlines() if ": none, " in line)
    assert "good" not in wrong
    assert wrong.pop("accepts") == "accepted without a word"
    assert wrong.pop("several lines") == "the message is not one line: 'one\\ntwo'"
    assert wrong.pop("no words") == "the message is not one line: ' '"
    assert wrong.pop("refuses") == "a good file is refused: it is not to my liking"
    assert wrong.pop("traceback").startswith("ZeroDivisionError at fuzz_kinds.py:")
    assert wrong.pop("hangs") == "hangs for more than 4 s"
    assert wrong.pop("aborts").startswith("the process ended with SIGABRT")
    if sys.platform == "linux":
        assert wrong.pop("takes memory").startswith("MemoryError")
    assert not wrong
