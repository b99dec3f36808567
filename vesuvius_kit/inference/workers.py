"""Tasks shared out to processes, any of which may be killed without losing a task.

The parent holds the list and hands each process its next task over a pipe of its own, so there is no lock that a killed
process could take with it: its pipe closes, and the tasks it held go back on the list. Processes are spawned, not forked,
since a forked process cannot use CUDA and may inherit a lock that is held.

A process works in stages (`stages.py`): it is told early which task will probably come next, so that it can read ahead, and it
takes the next one while the rest of the one before is still under way.
"""

import logging
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from vesuvius_kit.checks import InputError, InputValueError, check_integer, describe_error, one_line
from vesuvius_kit.inference.stages import SpoiltProcessError, StagedJob, Stages, Stop

logger = logging.getLogger(__name__)

_Task = TypeVar("_Task")
_Order = TypeVar("_Order")
_Result = TypeVar("_Result")

# Processes that one task may spoil before it is given up.
_MOST_SPOILT = 2


class WorkerError(RuntimeError):
    """A process failed, or all of them were killed; the message is one line."""


def no_order(task: object, number: int) -> None:
    """Return no order: the job knows what to do."""
    return None


def drop_ready(number: int, content: object) -> None:
    """Take what a process says of itself, and do nothing."""


def drop_news(task: object, number: int, news: object) -> None:
    """Take what is told of a task's main part, and do nothing."""


def drop_gone(number: int) -> None:
    """Take that a process is gone, and do nothing."""


def drop_lost(task: object, cause: str) -> None:
    """Take a task that was given up, and do nothing."""


def run_in_processes(
    jobs: Sequence[Callable[[_Task, Any], _Result] | StagedJob[_Task, Any, _Result]],
    tasks: Sequence[_Task],
    *,
    threads: int = 1,
    order_for: Callable[[_Task, int], Any] = no_order,
    seconds_left: Callable[[], float | None] | None = None,
    on_ready: Callable[[int, Any], None] = drop_ready,
    on_news: Callable[[_Task, int, Any], None] = drop_news,
    on_gone: Callable[[int], None] = drop_gone,
    on_lost: Callable[[_Task, str], None] = drop_lost,
) -> Generator[tuple[_Task, _Result], None, None]:
    """Yield (task, result) in the order in which processes finish the tasks.

    A process that is killed leaves its tasks to the others: what it worked on at the end of the list, where a task that kills
    whoever takes it does the least harm, what it only expected in front. When all have been killed, one more is started; when
    that is killed too, the call fails. A process that says that it is spoilt (`SpoiltProcessError`) is replaced by a new one;
    a task that spoils two is given up. However the loop over this generator ends, closing the generator ends the processes.

    Parameters
    ----------
    jobs
        One for each process, picklable: a `StagedJob`, or ``job(task, order)``, which returns a picklable result. No more
        processes are started than there are tasks.
    tasks
        Picklable and hashable; empty gives nothing.
    threads
        Threads of numerical libraries in each process.
    order_for
        ``order_for(task, process)`` is asked when a task is about to be handed out, for what the job gets beside it; the
        process is its number. At `Stop` neither this task nor those after it are handed out.
    seconds_left
        ``seconds_left()`` is asked while waiting: after how many seconds the call ends, whatever the processes are at; None
        for never.
    on_ready
        ``on_ready(process, content)`` is told what `StagedJob.prepare` returned.
    on_news
        ``on_news(task, process, news)`` is told of the main part of a task as soon as it is done.
    on_gone
        ``on_gone(process)`` is told when a process was killed or is spoilt; what it held waits again.
    on_lost
        ``on_lost(task, cause)`` is told of a task that was given up.

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
    spoilt: Counter[_Task] = Counter()
    try:
        for number, job in enumerate(jobs[: len(waiting)]):
            workers.append(_Worker(number, job, threads))
        spare_jobs = [jobs[0]]
        while True:
            _hand_out(workers, waiting, order_for)
            if not waiting and not any(worker.is_busy for worker in workers):
                return
            timeout = None if seconds_left is None else seconds_left()
            if timeout is not None and timeout <= 0:
                return
            heard = wait([worker.connection for worker in workers], timeout)
            for worker in [worker for worker in workers if worker.connection in heard]:
                try:
                    kind, *content = worker.connection.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    waiting.extendleft(worker.expected)
                    waiting.extend(worker.held)
                    worker.report_death()
                    on_gone(worker.number)
                    if not workers and waiting:
                        if not spare_jobs:
                            raise WorkerError(
                                f"every process was killed, the last {worker.end()}; {len(waiting)} tasks are left: "
                                f"{', '.join(map(str, waiting))}"
                            ) from None
                        workers.append(_Worker(worker.number, spare_jobs.pop(), threads))
                    continue
                if kind == "failed":
                    raise _as_exception(worker, *content)
                if kind == "spoilt":
                    task, cause = content
                    workers.remove(worker)
                    worker.stop()
                    on_gone(worker.number)
                    spoilt[task] += 1
                    waiting.extendleft(worker.expected)
                    waiting.extend(other for other in worker.held if other != task)
                    logger.warning("process %d is replaced: %s", worker.number, cause)
                    if spoilt[task] == _MOST_SPOILT:
                        if task is None:
                            raise WorkerError(f"process {worker.number} failed: {cause}")
                        on_lost(task, cause)
                    elif task is not None:
                        waiting.append(task)
                    if waiting:
                        workers.append(_Worker(worker.number, jobs[worker.number], threads))
                elif kind == "ready":
                    worker.was_ready = worker.is_idle = True
                    on_ready(worker.number, *content)
                elif kind == "free":
                    worker.is_idle = True
                    on_news(content[0], worker.number, content[1])
                else:
                    task, result = content
                    worker.held.remove(task)
                    yield task, result
    finally:
        for worker in workers:
            worker.stop()


def _hand_out(
    workers: "Sequence[_Worker[_Task, _Result]]",
    waiting: deque[_Task],
    order_for: Callable[[_Task, int], Any],
) -> None:
    """Give every idle process a task, and tell every busy one which will probably be its next."""
    for worker in workers:
        while worker.is_idle:
            holder = worker if worker.expected else _other_holder(workers, worker)
            if holder is not worker and waiting:
                holder = worker
            if holder.expected:
                task = holder.expected.pop()
                if holder is not worker:
                    holder.forget(task)
            elif waiting:
                task = waiting.popleft()
            else:
                break
            order = order_for(task, worker.number)
            if isinstance(order, Stop):
                waiting.clear()
                for other in workers:
                    other.expected.clear()
                return
            worker.hand(task, order)
    for worker in workers:
        if waiting and worker.was_ready and not worker.is_idle and not worker.expected:
            worker.expect(waiting.popleft())


def _other_holder(
    workers: "Sequence[_Worker[_Task, _Result]]", worker: "_Worker[_Task, _Result]"
) -> "_Worker[_Task, _Result]":
    """A busy process that expects a task, or the given one where there is none."""
    return next((other for other in workers if other.expected and not other.is_idle), worker)


class _Worker(Generic[_Task, _Result]):
    """The parent's side of one process."""

    def __init__(self, number: int, job: object, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        # The tasks that the process was given and has not finished, and the one it was told to expect, if any.
        self.held: list[_Task] = []
        self.expected: list[_Task] = []
        # Idle from the message that it has imported what the job needs, and again when the main part of a task is done.
        self.is_idle = self.was_ready = False
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

    @property
    def is_busy(self) -> bool:
        """Whether there is anything more to be heard of a task: what is left of a short one may end before its news."""
        return bool(self.held or self.expected) or (self.was_ready and not self.is_idle)

    def hand(self, task: _Task, order: object) -> None:
        """Give the process its next task."""
        self.held.append(task)
        self.is_idle = False
        self._send(("start", task, order))

    def expect(self, task: _Task) -> None:
        """Tell the process which task will probably be its next."""
        self.expected = [task]
        self._send(("foresee", task, None))

    def forget(self, task: _Task) -> None:
        """Tell the process that another took the task it expected."""
        self._send(("forget", task, None))

    def report_death(self) -> None:
        """Log that the process was killed, and at what."""
        at = f" at {', '.join(map(str, self.held))}, which another takes" if self.held else ""
        logger.warning("process %d was killed%s (%s)", self.number, at, self.end())

    def end(self) -> str:
        """How the process ended, in words."""
        self._process.join()
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return "signal 9, as when the memory is full"
        if code == 1 and not self.was_ready:
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


class _PlainJob(StagedJob[Any, Any, Any]):
    """A job of one piece as one in stages."""

    def __init__(self, job: Callable[[Any, Any], Any]) -> None:
        self._job = job

    def work(
        self, task: Any, material: Any, order: Any, settle: Callable[[], None]
    ) -> tuple[object, Callable[[], Any]]:
        """Do all of it at once."""
        result = self._job(task, order)
        return None, lambda: result


class _Reports:
    """The process's way to the parent, for its main thread and the one that finishes tasks."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, *message: object) -> None:
        with self._lock:
            self._connection.send(message)

    def send_failure(self, task: object, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(error))
        self.send("failed", task, isinstance(error, InputError), describe_error(error), trace)

    def send_result(self, task: object, future: "Future[object]") -> None:
        error = future.exception()
        try:
            if error is None:
                self.send("done", task, future.result())
            else:
                self.send_failure(task, error)
        except OSError:
            # The parent is gone, and the main thread finds out in its turn.
            logger.debug("nobody hears of %s", task)


def _work(connection: Connection, threads: int) -> None:
    """What a process does: one task after the other, until the parent ends it or is gone."""
    # Ctrl-C reaches the whole group of processes; the parent decides what becomes of its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    reports = _Reports(connection)
    task: object = None
    try:
        # Receiving the job imports what it needs: the numbers of threads must have been set before.
        if (job := _receive(connection)) is None:
            return
        stages = Stages[Any, Any, Any](job if isinstance(job, StagedJob) else _PlainJob(job), reports.send_result)
        with ExitStack() as undo:
            undo.callback(stages.close)
            orders: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
            # What the next task will be is told while the one before is under way.
            threading.Thread(target=_listen, args=(connection, stages, orders), daemon=True).start()
            reports.send("ready", stages.prepare())
            while True:
                task, order = orders.get()
                reports.send("free", task, stages.start(task, order))
    except SpoiltProcessError as error:
        reports.send("spoilt", task, one_line(error))
    except (BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        reports.send_failure(task, error)


def _listen(
    connection: Connection, stages: Stages[Any, Any, Any], orders: "queue.SimpleQueue[tuple[Any, Any]]"
) -> None:
    """Take what the parent says: what is to be read ahead at once, what is to be started in its turn.

    A parent that is gone was killed, and its folder may be another command's by now: this process ends at once, whatever it
    is at. One that has no more work ends it from outside.
    """
    while (message := _receive(connection)) is not None:
        kind, task, order = message
        if kind == "foresee":
            stages.foresee(task)
        elif kind == "forget":
            stages.forget(task)
        else:
            orders.put((task, order))
    os._exit(1)


def _receive(connection: Connection) -> Any:
    """What the parent says next; None when it has closed the pipe or is gone."""
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        return None


def _as_exception(worker: _Worker[Any, Any], task: object, is_input: bool, line: str, trace: str) -> Exception:
    logger.debug("process %d:\n%s", worker.number, trace)
    if is_input:
        return InputValueError(line)
    return WorkerError(f"process {worker.number} failed{'' if task is None else f' at {task}'}: {line}")
