"""Sparse vectors over GF(2): sets of generators, added by symmetric difference, under relations that arrive one by one.

Sets live in a store and are known by number, their *label*; set 0 is the empty one. A relation makes its latest generator
*bound*, worth the rest of the relation, which holds earlier generators only; every sum is rewritten in the generators that
are still free. Sums therefore stay short as long as few generators are free, however many there have been: the idea of
annotations in persistent cohomology (Dey, Fan, Wang, arXiv:1208.5018).

Functions that may lengthen an array of a store return the store anew.
"""

from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.voxel.compilation import compiled

Store: TypeAlias = tuple[
    NDArray[np.int32],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
]
"""Items of all sets, where each set starts, how many sets, two work spaces, the label each generator is worth (-1: free)."""
Size: TypeAlias = int | np.int64
"""A number of items; numba makes no difference between the two."""

_Number = TypeVar("_Number", bound=np.integer[Any])


@compiled(nogil=True)
def make_store(n_generators: int) -> Store:
    """Make a store for generators 0 to ``n_generators - 1``, with the empty set in it."""
    return (
        np.empty(4096, np.int32),
        np.zeros(1024, np.int64),
        np.ones(1, np.int64),
        np.empty(1024, np.int32),
        np.empty(1024, np.int32),
        np.full(n_generators, -1, np.int32),
    )


@compiled(nogil=True)
def _lengthened(array: NDArray[_Number]) -> NDArray[_Number]:
    longer = np.empty(2 * array.size, array.dtype)
    longer[: array.size] = array
    return longer


@compiled(nogil=True)
def collect(store: Store, label: np.int32, n: Size) -> tuple[Store, Size]:
    """Append a set to the ``n`` items in the work space."""
    items, starts, n_sets, work, spare, worth = store
    begin, end = starts[label], starts[label + 1]
    while n + end - begin > work.size:
        work = _lengthened(work)
    for i in range(begin, end):
        work[n] = items[i]
        n += 1
    return (items, starts, n_sets, work, spare, worth), n


@compiled(nogil=True)
def rewrite(store: Store, n: Size) -> tuple[Store, Size]:
    """Cancel equal items of the work space in pairs and bound generators by their worth; leave it sorted."""
    while True:
        items, starts, n_sets, work, spare, worth = store
        _sort(work, n)
        kept, i, n_bound = 0, 0, 0
        while i < n:
            if i + 1 < n and work[i] == work[i + 1]:
                i += 2
                continue
            work[kept] = work[i]
            n_bound += worth[work[i]] >= 0
            kept += 1
            i += 1
        if n_bound == 0:
            return store, kept
        store = (items, starts, n_sets, spare, work, worth)
        n = np.int64(0)
        for i in range(kept):
            if worth[work[i]] >= 0:
                store, n = collect(store, worth[work[i]], n)
            else:
                store, n = _append(store, work[i], n)


@compiled(nogil=True)
def _sort(items: NDArray[np.int32], n: Size) -> None:
    """Sort the first ``n`` items; nearly always a handful, for which a general sort is slow."""
    if n > 24:
        items[:n].sort()
        return
    for i in range(1, n):
        item = items[i]
        j = i
        while j > 0 and items[j - 1] > item:
            items[j] = items[j - 1]
            j -= 1
        items[j] = item


@compiled(nogil=True)
def _append(store: Store, item: np.int32, n: Size) -> tuple[Store, Size]:
    items, starts, n_sets, work, spare, worth = store
    if n == work.size:
        work = _lengthened(work)
    work[n] = item
    return (items, starts, n_sets, work, spare, worth), n + 1


@compiled(nogil=True)
def keep(store: Store, n: Size) -> tuple[Store, np.int32]:
    """Add the first ``n`` items of the work space, sorted and all different, as a set; return its label."""
    items, starts, n_sets, work, spare, worth = store
    if n == 0:
        return store, np.int32(0)
    label = n_sets[0]
    if label + 2 > starts.size:
        starts = _lengthened(starts)
    end = starts[label]
    while end + n > items.size:
        items = _lengthened(items)
    items[end : end + n] = work[:n]
    starts[label + 1] = end + n
    n_sets[0] += 1
    return (items, starts, n_sets, work, spare, worth), np.int32(label)


@compiled(nogil=True)
def add_sets(store: Store, first: np.int32, second: np.int32, third: np.int32, fourth: np.int32) -> tuple[Store, Size]:
    """Put the sum of four sets into the work space; return its size."""
    if first | second | third | fourth == 0:
        return store, np.int64(0)
    n: Size = np.int64(0)
    for label in (first, second, third, fourth):
        store, n = collect(store, label, n)
    return rewrite(store, n)


@compiled(nogil=True)
def relate(store: Store, first: np.int32, second: np.int32, third: np.int32, fourth: np.int32) -> Store:
    """Let the sum of four sets be worth nothing."""
    store, n = add_sets(store, first, second, third, fourth)
    if n > 0:
        latest = store[3][n - 1]
        store, label = keep(store, n - 1)
        store[5][latest] = label
    return store


@compiled(nogil=True)
def find_leads(store: Store, labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return for each set the generator that leads it (its latest) once earlier sets are taken away; -1 for none left."""
    leads = np.full(labels.size, -1, dtype=np.int64)
    owner = np.full(store[5].size, -1, dtype=np.int64)
    begins, ends = np.empty(labels.size, dtype=np.int64), np.empty(labels.size, dtype=np.int64)
    reduced = np.empty(4096, dtype=np.int32)
    column, sum_ = np.empty(1024, dtype=np.int32), np.empty(1024, dtype=np.int32)
    used: Size = 0
    for i in range(labels.size):
        store, n = collect(store, labels[i], np.int64(0))
        store, n = rewrite(store, n)
        while n > column.size:
            column = _lengthened(column)
        column[:n] = store[3][:n]
        while n > 0 and owner[column[n - 1]] >= 0:
            other = owner[column[n - 1]]
            size = ends[other] - begins[other]
            while n + size > sum_.size:
                sum_ = _lengthened(sum_)
            n = _symmetric_difference(column[:n], reduced[begins[other] : ends[other]], sum_)
            column, sum_ = sum_, column
        if n > 0:
            while used + n > reduced.size:
                reduced = _lengthened(reduced)
            reduced[used : used + n] = column[:n]
            begins[i], ends[i] = used, used + n
            used += n
            leads[i] = column[n - 1]
            owner[leads[i]] = i
    return leads


@compiled(nogil=True)
def _symmetric_difference(first: NDArray[np.int32], second: NDArray[np.int32], out: NDArray[np.int32]) -> int:
    """Write the items that are in one of two sorted arrays, sorted; return how many."""
    i, j, n = 0, 0, 0
    while i < first.size and j < second.size:
        if first[i] == second[j]:
            i += 1
            j += 1
            continue
        if first[i] < second[j]:
            out[n] = first[i]
            i += 1
        else:
            out[n] = second[j]
            j += 1
        n += 1
    while i < first.size:
        out[n] = first[i]
        i += 1
        n += 1
    while j < second.size:
        out[n] = second[j]
        j += 1
        n += 1
    return n
