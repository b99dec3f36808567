"""Kernels that list the runs of a packed mask and connect them: two pointers over neighbouring rows, union-find.

``rows``, ``first``, ``last`` and labels are those of `vesuvius_kit.voxel.components.Runs`; ``parent`` is the forest of the
union-find, in which the oldest run of a tree is its root.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.voxel.bits import Words, bit_count, lowest_bit
from vesuvius_kit.voxel.compilation import compiled

_NONE, _ONE = np.uint64(0), np.uint64(1)


def list_runs(words: Words) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """List the runs of a packed mask without connecting them, in this thread: where each row's begin, first and last voxels."""
    words = np.ascontiguousarray(words)
    rows = np.zeros(words.shape[0] * words.shape[1] + 1, dtype=np.int64)
    count_runs(words, 0, len(words), rows)
    np.cumsum(rows, out=rows)
    first, last = (np.empty(rows[-1], dtype=np.int32) for _ in range(2))
    fill_runs(words, 0, len(words), rows, first, last)
    return rows, first, last


@compiled(nogil=True)
def count_runs(words: Words, start: int, stop: int, counts: NDArray[np.int64]) -> None:
    """Count the runs of each row of planes ``start`` to ``stop``, exclusive; those of row r go to ``counts[r + 1]``."""
    _, n_y, n_w = words.shape
    for z in range(start, stop):
        for y in range(n_y):
            n, carry = 0, _NONE
            for k in range(n_w):
                word = words[z, y, k]
                n += bit_count(word & ~((word << _ONE) | carry))
                carry = word >> np.uint64(63)
            counts[z * n_y + y + 1] = n


@compiled(nogil=True)
def fill_runs(
    words: Words,
    start: int,
    stop: int,
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
) -> None:
    """Note the first and the last voxel of each run of planes ``start`` to ``stop``, exclusive."""
    _, n_y, n_w = words.shape
    n_first = n_last = rows[start * n_y]
    for z in range(start, stop):
        for y in range(n_y):
            carry = _NONE
            for k in range(n_w):
                word = words[z, y, k]
                if word == _NONE:
                    carry = _NONE
                    continue
                todo = word & ~((word << _ONE) | carry)
                carry = word >> np.uint64(63)
                while todo != _NONE:
                    first[n_first] = 64 * k + lowest_bit(todo)
                    n_first += 1
                    todo &= todo - _ONE
                ahead = words[z, y, k + 1] << np.uint64(63) if k + 1 < n_w else _NONE
                todo = word & ~((word >> _ONE) | ahead)
                while todo != _NONE:
                    last[n_last] = 64 * k + lowest_bit(todo)
                    n_last += 1
                    todo &= todo - _ONE


@compiled(nogil=True)
def connect_slab(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    parent: NDArray[np.int32],
    n_y: int,
    start: int,
    stop: int,
    connectivity: int,
) -> None:
    """Link the runs within planes ``start`` to ``stop``, exclusive, and, unless the connectivity is 4, between them."""
    for run in range(rows[start * n_y], rows[stop * n_y]):
        parent[run] = run
    beside = 1 if connectivity > 6 else 0
    for z in range(start, stop):
        for row in range(z * n_y + 1, (z + 1) * n_y):
            _link_rows(rows, first, last, parent, row, row - 1, beside)
        if z > start and connectivity > 4:
            connect_planes(rows, first, last, parent, n_y, z, connectivity)


@compiled(nogil=True)
def connect_planes(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    parent: NDArray[np.int32],
    n_y: int,
    z: int,
    connectivity: int,
) -> None:
    """Link the runs of plane z to those of the plane before."""
    below = 0 if connectivity == 6 else 1
    across = 1 if connectivity == 26 else 0
    for y in range(n_y):
        row = z * n_y + y
        if rows[row] == rows[row + 1]:
            continue
        _link_rows(rows, first, last, parent, row, row - n_y, below)
        if connectivity > 6:
            if y > 0:
                _link_rows(rows, first, last, parent, row, row - n_y - 1, across)
            if y + 1 < n_y:
                _link_rows(rows, first, last, parent, row, row - n_y + 1, across)


@compiled(nogil=True)
def number_roots(parent: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Number the trees from 1 on, in the order of their roots; return the number of each run's tree and how many there are."""
    labels = np.empty(parent.size, dtype=np.int32)
    count = 0
    for run in range(parent.size):
        # A root is the oldest run of its tree, so it has its number before the others ask for it.
        if parent[run] == run:
            count += 1
            labels[run] = count
        else:
            labels[run] = labels[parent[run]]
    return labels, count


@compiled(nogil=True)
def paint_rows(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    labels: NDArray[np.int32],
    out: NDArray[Any],
) -> None:
    """Draw the labels of runs into rows of voxels, (rows, X)."""
    for row in range(rows.size - 1):
        for run in range(rows[row], rows[row + 1]):
            out[row, first[run] : last[run] + 1] = labels[run]


@compiled(nogil=True)
def _link_rows(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    parent: NDArray[np.int32],
    row: int,
    other: int,
    slack: int,
) -> None:
    """Link the runs of two rows that touch: share an x, or with a slack of 1 lie side by side."""
    i, j = rows[row], rows[other]
    while i < rows[row + 1] and j < rows[other + 1]:
        if last[i] + slack < first[j]:
            i += 1
        elif last[j] + slack < first[i]:
            j += 1
        else:
            a, b = i, j
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a < b:
                parent[b] = a
            else:
                parent[a] = b
            if last[i] < last[j]:
                i += 1
            else:
                j += 1
