import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.worker_jobs import LateNews, Square, StagedSquare

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.inference.stages import Stop, run_here
from vesuvius_kit.inference.workers import WorkerError, run_in_processes

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    assert multiprocessing.active_children() == []


def results_of(jobs, tasks, **settings):
    return {task: result[0] for task, result in run_in_processes(jobs, tasks, **settings)}


def test_every_task_is_done_once():
    done = list(run_in_processes([Square()] * 3, list(range(20))))
    assert sorted(task for task, _ in done) == list(range(20))
    assert all(result[0] == task * task for task, result in done)


def test_no_task_starts_no_process():
    assert list(run_in_processes([Square()], [])) == []


def test_a_process_has_its_threads_and_hears_its_time():
    ((_, (_, seconds, threads)),) = run_in_processes([Square()], [3], threads=3, order_for=lambda task, process: 5.0)
    assert (seconds, threads) == (5.0, "3")


def test_a_killed_process_leaves_its_task_to_another(tmp_path, caplog):
    done = results_of([Square(tmp_path)] * 2, ["kill once", 1, 2, 3])
    assert done == {"kill once": "kill once", 1: 1, 2: 4, 3: 9}
    assert "was killed at kill once, which another takes (signal 9" in caplog.text


def test_when_all_are_killed_one_more_takes_over(tmp_path):
    assert results_of([Square(tmp_path)], ["kill once", 2]) == {"kill once": "kill once", 2: 4}


def test_a_task_that_kills_everybody_comes_last_and_ends_in_one_line():
    shared = run_in_processes([Square()] * 2, ["kill", 1, 2, 3])
    assert sorted(next(shared)[0] for _ in range(3)) == [1, 2, 3]
    with pytest.raises(WorkerError, match=r"^every process was killed, the last signal 9.*; 1 tasks are left: kill$"):
        next(shared)


def test_a_fault_is_one_line_that_names_the_task():
    with pytest.raises(WorkerError, match=r"^process \d failed at fault: ZeroDivisionError: no way$"):
        results_of([Square()] * 2, [1, "fault", "sleep"])


def test_unusable_input_stays_unusable_input():
    with pytest.raises(InputValueError, match=r"^volume must be whole$"):
        results_of([Square()], ["input"])


def test_a_job_that_cannot_be_sent_is_the_callers_fault():
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        results_of([lambda task, seconds: task], [1])


def test_no_task_is_begun_when_its_time_is_over():
    stop_at_two = lambda task, process: None if task == 1 else Stop.STOP  # noqa: E731
    assert results_of([Square()], [1, 2, 3], order_for=stop_at_two) == {1: 1}


def test_a_process_that_does_not_come_back_is_ended_with_the_time():
    started = time.monotonic()
    end = started + 8
    done = results_of([Square()] * 2, [1, "sleep", 2], seconds_left=lambda: end - time.monotonic())
    assert done == {1: 1, 2: 4}
    assert time.monotonic() - started < 60


def test_a_script_without_a_guard_is_told_so(tmp_path):
    call = "print(list(run_in_processes([Square()], [3])))"
    lines = ["from helpers.worker_jobs import Square", "from vesuvius_kit.inference.workers import run_in_processes"]
    guarded, bare, notebook = (
        subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [TESTS, TESTS.parent]))},
            capture_output=True,
            text=True,
        )
        for arguments in (
            [write(tmp_path / "guarded.py", [*lines, f"if __name__ == '__main__': {call}"])],
            [write(tmp_path / "bare.py", [*lines, call])],
            # As in a notebook, there is no file to import.
            ["-c", "\n".join([*lines, call])],
        )
    )
    assert "[(3, (9, None, '1'))]" in guarded.stdout
    assert "[(3, (9, None, '1'))]" in notebook.stdout
    assert 'a script must make this call under if __name__ == "__main__"' in bare.stderr.splitlines()[-1]


def write(path, lines):
    path.write_text("\n".join(lines))
    return path


def test_leaving_the_loop_ends_the_processes():
    shared = run_in_processes([Square()] * 2, [1, "sleep"])
    assert next(shared)[0] == 1
    shared.close()


def test_processes_end_at_once_when_the_parent_alone_is_killed():
    """Else they would write into a folder that is another command's by then."""
    lines = [
        "import multiprocessing, sys",
        f"sys.path.insert(0, {str(TESTS)!r})",
        "from helpers.worker_jobs import Square",
        "from vesuvius_kit.inference.workers import run_in_processes",
        "orders = []",
        "def tell():",
        "    if len(orders) == 2:",
        "        print(*[child.pid for child in multiprocessing.active_children()], flush=True)",
        "jobs, tasks = [Square()] * 2, ['sleep', 'sleep again']",
        "list(run_in_processes(jobs, tasks, order_for=lambda *order: orders.append(order), seconds_left=tell))",
    ]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
        parent.wait()
        assert len(children) == 2
        until = time.monotonic() + 20
        while any(is_running(pid) for pid in children) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(is_running(pid) for pid in children)


def is_running(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("jobs", "threads", "message"), [([], 1, "jobs must hold"), ([Square()], 0, "threads must be")]
)
def test_bad_arguments(jobs, threads, message):
    with pytest.raises(InputValueError, match=message):
        list(run_in_processes(jobs, [1], threads=threads))


def in_one_process(job, tasks, **settings):
    return run_in_processes([job], tasks, **settings)


@pytest.mark.parametrize("runner", [run_here, in_one_process])
def test_a_staged_job_reads_ahead_and_finishes_behind(tmp_path, runner):
    """Of each task in turn; each is read while the one before is worked on, and begun before that is finished."""
    tasks, seen, news = [1, 2, 3, 4], [], []
    done = runner(
        StagedSquare(tmp_path),
        tasks,
        order_for=lambda task, process: f"order {task}",
        on_ready=lambda process, content: seen.append(content),
        on_news=lambda task, process, item: news.append((task, item)),
    )
    assert list(done) == [(task, (task * task, f"order {task}")) for task in tasks]
    assert seen == ["prepared"]
    assert news == [(task, f"worked on {task}") for task in tasks]
    log = (tmp_path / "log").read_text().split()
    for task in tasks[:-1]:
        assert log.index(f"read-{task + 1}") < log.index(f"worked-{task}")
        assert log.index(f"work-{task + 1}") < log.index(f"finished-{task}")


def test_the_news_of_the_last_task_are_told_though_its_result_comes_first():
    told = []
    assert len(list(run_in_processes([LateNews()], [1, 2], on_news=lambda *content: told.append(content)))) == 2
    assert told == [(1, 0, "news"), (2, 0, "news")]


def test_a_killed_process_gives_both_of_its_tasks_back(tmp_path):
    """What it was to do next has been told to it already."""
    done = dict(run_in_processes([StagedSquare(tmp_path)] * 2, ["kill once", 1, 2, 3, 4, 5]))
    assert sorted(map(str, done)) == ["1", "2", "3", "4", "5", "kill once"]


def test_a_spoilt_process_is_replaced_and_its_task_comes_last(tmp_path):
    done = [task for task, _ in run_in_processes([StagedSquare(tmp_path)], ["spoil once", 1, 2])]
    assert done == [1, 2, "spoil once"]


def test_a_task_that_spoils_two_processes_is_given_up(tmp_path):
    lost, gone = [], []
    done = run_in_processes(
        [StagedSquare(tmp_path)], ["spoil", 1, 2], on_lost=lambda *what: lost.append(what), on_gone=gone.append
    )
    assert sorted(task for task, _ in done) == [1, 2]
    assert lost == [("spoil", "no GPU")]
    assert gone == [0, 0]
