"""Tasks shared out to processes, any of which may be killed without losing a task.

The parent holds the list and hands each process its next task over a pipe of its own, so there is no lock that a killed
process could take with it: its pipe closes, and the task it held goes back on the list. Processes are spawned, not forked,
since a forked process cannot use CUDA and may inherit a lock that is held.
"""

import logging
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from vesuvius_kit.checks import InputError, InputValueError, check_integer, one_line

logger = logging.getLogger(__name__)

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class WorkerError(RuntimeError):
    """A process failed, or all of them were killed; the message is one line."""


def run_in_processes(
    jobs: Sequence[Callable[[_Task, float | None], _Result]],
    tasks: Sequence[_Task],
    *,
    threads: int = 1,
    seconds_for: Callable[[_Task], float | None] | None = None,
    seconds_left: Callable[[], float | None] | None = None,
) -> Generator[tuple[_Task, _Result], None, None]:
    """Yield (task, result) in the order in which processes finish the tasks.

    A process that is killed leaves its task to the others, at the end of the list, where a task that kills whoever takes it
    does the least harm. When all have been killed, one more is started; when that is killed too, the call fails. However the
    loop over this generator ends, closing the generator ends the processes.

    Parameters
    ----------
    jobs
        One for each process, picklable: ``job(task, seconds)`` returns a picklable result; ``seconds`` is what ``seconds_for``
        said. No more processes are started than there are tasks.
    tasks
        Picklable; empty gives nothing.
    threads
        Threads of numerical libraries in each process.
    seconds_for
        ``seconds_for(task)`` is asked when a task is about to be handed out: how long the job may work on it, or None for no
        limit. At 0 or less it is not handed out, and neither are those after it.
    seconds_left
        ``seconds_left()`` is asked while waiting: after how many seconds the call ends, whatever the processes are at; None
        for never.

    Raises
    ------
    InputError
        A job raised one.
    WorkerError
        A job raised something else, or every process was killed.
    """
    check_integer("threads", threads, minimum=1)
    if not jobs:
        raise InputValueError("jobs must hold at least one job, got none")
    waiting = deque(tasks)
    workers: list[_Worker[_Task, _Result]] = []
    try:
        for number, job in enumerate(jobs[: len(waiting)]):
            workers.append(_Worker(number, job, threads))
        spare_jobs = [jobs[0]]
        while True:
            for worker in workers:
                if waiting and worker.is_idle:
                    seconds = None if seconds_for is None else seconds_for(waiting[0])
                    if seconds is not None and seconds <= 0:
                        waiting.clear()
                    else:
                        worker.hand(waiting.popleft(), seconds)
            if not waiting and not any(worker.held for worker in workers):
                return
            timeout = None if seconds_left is None else seconds_left()
            if timeout is not None and timeout <= 0:
                return
            heard = wait([worker.connection for worker in workers], timeout)
            for worker in [worker for worker in workers if worker.connection in heard]:
                try:
                    kind, content = worker.connection.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    waiting.extend(worker.held)
                    worker.report_death()
                    if not workers and waiting:
                        if not spare_jobs:
                            raise WorkerError(
                                f"every process was killed, the last {worker.end()}; {len(waiting)} tasks are left: "
                                f"{', '.join(map(str, waiting))}"
                            ) from None
                        workers.append(_Worker(worker.number, spare_jobs.pop(), threads))
                    continue
                if kind == "failed":
                    raise _as_exception(worker, content)
                # A process that says that it is ready held none.
                for task in worker.finish():
                    yield task, content
    finally:
        for worker in workers:
            worker.stop()


class _Worker(Generic[_Task, _Result]):
    """The parent's side of one process."""

    def __init__(self, number: int, job: Callable[[_Task, float | None], _Result], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        # The task that the process works on; none while it starts and while it is idle.
        self.held: list[_Task] = []
        # Idle from the message that it has imported what the job needs.
        self.is_idle = self._was_ready = False
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, threads), name=f"worker-{number}", daemon=True)
        self._process.start()
        # The process holds the other end alone, so that its death closes the pipe.
        theirs.close()
        with ExitStack() as undo:
            # Of a job that cannot be pickled, or an interrupt: nobody would know of this process.
            undo.callback(self.stop)
            self._send(job)
            undo.pop_all()

    def hand(self, task: _Task, seconds: float | None) -> None:
        """Give the process its next task."""
        self.held, self.is_idle = [task], False
        self._send((task, seconds))

    def finish(self) -> list[_Task]:
        """Take back what the process held: it is idle."""
        held, self.held, self.is_idle = self.held, [], True
        self._was_ready = True
        return held

    def report_death(self) -> None:
        """Log that the process was killed, and at what."""
        at = f" at {self.held[0]}, which another takes" if self.held else ""
        logger.warning("process %d was killed%s (%s)", self.number, at, self.end())

    def end(self) -> str:
        """How the process ended, in words."""
        self._process.join()
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return "signal 9, as when the memory is full"
        if code == 1 and not self._was_ready:
            # A spawned process imports the script that started it, which then calls this again.
            return 'exit code 1 at its start: a script must make this call under if __name__ == "__main__"'
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _send(self, message: object) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            # Killed meanwhile: the closed pipe is read as such in its turn.
            logger.debug("process %d was gone before it could be given anything", self.number)


def _work(connection: Connection, threads: int) -> None:
    """What a process does: one task after the other, until the parent closes the pipe or is gone."""
    # Ctrl-C reaches the whole group of processes; the parent decides what becomes of its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    try:
        # Receiving the job imports what it needs: the numbers of threads must have been set before.
        job = connection.recv()
        connection.send(("ready", None))
        while True:
            task, seconds = connection.recv()
            connection.send(("done", job(task, seconds)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        connection.send(("failed", (isinstance(error, InputError), _describe(error), traceback.format_exc())))


def _as_exception(worker: _Worker[Any, Any], content: tuple[bool, str, str]) -> Exception:
    is_input, line, trace = content
    logger.debug("process %d:\n%s", worker.number, trace)
    if is_input:
        return InputValueError(line)
    return WorkerError(f"process {worker.number} failed{f' at {worker.held[0]}' if worker.held else ''}: {line}")


def _describe(error: BaseException) -> str:
    """The message of an error on one line; of one that is no user's fault, its class too."""
    name, text = type(error).__name__, one_line(error)
    return text if isinstance(error, InputError) or text == name else f"{name}: {text}"
