"""torch's number of threads, which decides the order of its sums on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def keep_torch_threads() -> Iterator[None]:
    """Give torch its number of threads back when the ``with`` statement ends.

    numba's first parallel kernel in a process sets it to numba's own number.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
