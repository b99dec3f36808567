"""Kernels that list the runs of a packed mask and connect them: two pointers over neighbouring rows, union-find."""

import numpy as np

from vesuvius_kit.voxel.bits import _bit_count, _lowest_bit
from vesuvius_kit.voxel.compilation import compiled

_NONE, _ONE = np.uint64(0), np.uint64(1)


@compiled(nogil=True)
def _count_runs(words, start, stop, counts):
    _, n_y, n_w = words.shape
    for z in range(start, stop):
        for y in range(n_y):
            n, carry = 0, _NONE
            for k in range(n_w):
                word = words[z, y, k]
                n += _bit_count(word & ~((word << _ONE) | carry))
                carry = word >> np.uint64(63)
            counts[z * n_y + y + 1] = n


@compiled(nogil=True)
def _fill_runs(words, start, stop, rows, first, last):
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
                    first[n_first] = 64 * k + _lowest_bit(todo)
                    n_first += 1
                    todo &= todo - _ONE
                ahead = words[z, y, k + 1] << np.uint64(63) if k + 1 < n_w else _NONE
                todo = word & ~((word >> _ONE) | ahead)
                while todo != _NONE:
                    last[n_last] = 64 * k + _lowest_bit(todo)
                    n_last += 1
                    todo &= todo - _ONE


@compiled(nogil=True)
def _connect_slab(rows, first, last, parent, n_y, start, stop, connectivity):
    for run in range(rows[start * n_y], rows[stop * n_y]):
        parent[run] = run
    beside = 1 if connectivity > 6 else 0
    for z in range(start, stop):
        for row in range(z * n_y + 1, (z + 1) * n_y):
            _link_rows(rows, first, last, parent, row, row - 1, beside)
        if z > start and connectivity > 4:
            _connect_planes(rows, first, last, parent, n_y, z, connectivity)


@compiled(nogil=True)
def _connect_planes(rows, first, last, parent, n_y, z, connectivity):
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
def _number_roots(parent):
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
def _link_rows(rows, first, last, parent, row, other, slack):
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
