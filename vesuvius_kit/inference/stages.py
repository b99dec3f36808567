"""Three stages of a task that overlap with those of its neighbours: reading ahead, the work itself, the rest behind it.

While a network works on one volume, the next is decoded in a thread, and the repair of the one before ends in another: NumPy,
numba's kernels and file access let go of the interpreter meanwhile. At most one task waits on either side, so that the memory
holds three.
"""

import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import Enum
from typing import Any, Generic, TypeVar

_Task = TypeVar("_Task")
_Order = TypeVar("_Order")
_Result = TypeVar("_Result")


class SpoiltProcessError(RuntimeError):
    """Raised by a job whose process can do no further work, but another could; the message is one line."""


class Stop(Enum):
    """What is answered instead of an order when no other task is to be begun."""

    STOP = "stop"


class StagedJob(ABC, Generic[_Task, _Order, _Result]):
    """A job in stages; it goes to a process as it is, and so must be picklable."""

    def prepare(self) -> object:
        """Return what is to be known of this process before its first task, picklable; called once."""
        return None

    def read(self, task: _Task) -> Any:
        """Return what the work on a task needs; called in a thread, before anybody knows the task's order."""
        return None

    @abstractmethod
    def work(
        self, task: _Task, material: Any, order: _Order, settle: Callable[[], None]
    ) -> tuple[object, Callable[[], _Result]]:
        """Do the main part of a task.

        Parameters
        ----------
        task
            What is to be done.
        material
            As `read` returned it.
        order
            How it is to be done.
        settle
            Waits until nothing of the task before is under way any more, for a job that needs its memory.

        Returns
        -------
        news
            Told at once to whoever gives the orders; picklable.
        rest
            Called in a thread while the next task begins; returns the result, picklable.
        """


class Stages(Generic[_Task, _Order, _Result]):
    """Runs a staged job in this process; `start` is the calling thread's, the other stages have a thread each.

    Parameters
    ----------
    job
        What is done.
    done
        ``done(task, future)`` is called in a thread with each finished task.
    """

    def __init__(
        self, job: StagedJob[_Task, _Order, _Result], done: "Callable[[_Task, Future[_Result]], None]"
    ) -> None:
        self._job, self._done = job, done
        self._reader = ThreadPoolExecutor(1, "reader")
        self._finisher = ThreadPoolExecutor(1, "finisher")
        # Tasks are foreseen in one thread and started in another.
        self._lock = threading.Lock()
        self._reading: dict[_Task, Future[Any]] = {}
        self._behind: Future[_Result] | None = None

    def prepare(self) -> object:
        """Return what is to be known of this process before its first task."""
        return self._job.prepare()

    def foresee(self, task: _Task) -> None:
        """Begin to read what a task needs that will be started soon."""
        self._read(task)

    def forget(self, task: _Task) -> None:
        """Drop what was read for a task that another process took."""
        with self._lock:
            future = self._reading.pop(task, None)
        if future is not None:
            future.cancel()

    def start(self, task: _Task, order: _Order) -> object:
        """Do the main part of a task, leave the rest to a thread, and return the news."""
        future = self._read(task)
        with self._lock:
            del self._reading[task]
        material = future.result()
        # It holds a volume.
        del future
        news, rest = self._job.work(task, material, order, self.settle)
        # One at a time: each holds a volume.
        self.settle()
        self._behind = self._finisher.submit(rest)
        self._behind.add_done_callback(lambda future: self._done(task, future))
        return news

    def _read(self, task: _Task) -> Future[Any]:
        with self._lock:
            if task not in self._reading:
                self._reading[task] = self._reader.submit(self._job.read, task)
            return self._reading[task]

    def settle(self) -> None:
        """Wait for the rest of the task before; what it raised is told to ``done``."""
        if self._behind is not None:
            wait([self._behind])

    def close(self) -> None:
        """Wait for the threads; what was only read is dropped."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._finisher.shutdown(wait=True, cancel_futures=False)


def run_here(
    job: StagedJob[_Task, _Order, _Result],
    tasks: Sequence[_Task],
    *,
    order_for: Callable[[_Task, int], _Order | Stop],
    on_ready: Callable[[int, object], None],
    on_news: Callable[[_Task, int, object], None],
) -> Generator[tuple[_Task, _Result], None, None]:
    """Yield (task, result) as tasks are finished in this process; the parameters are those of `run_in_processes`."""
    if not tasks:
        return
    finished: queue.SimpleQueue[tuple[_Task, Future[_Result]]] = queue.SimpleQueue()
    stages = Stages(job, lambda task, future: finished.put((task, future)))
    n_started = n_finished = 0
    waiting = deque(tasks)
    try:
        stages.foresee(waiting[0])
        on_ready(0, stages.prepare())
        while waiting:
            task = waiting.popleft()
            order = order_for(task, 0)
            if isinstance(order, Stop):
                break
            if waiting:
                stages.foresee(task)
                stages.foresee(waiting[0])
            news = stages.start(task, order)
            n_started += 1
            on_news(task, 0, news)
            while not finished.empty():
                done, future = finished.get()
                n_finished += 1
                yield done, future.result()
        while n_finished < n_started:
            done, future = finished.get()
            n_finished += 1
            yield done, future.result()
    except SpoiltProcessError:
        # What came before is sound.
        while n_finished < n_started:
            done, future = finished.get()
            n_finished += 1
            yield done, future.result()
        raise
    finally:
        stages.close()
