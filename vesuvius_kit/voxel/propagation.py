"""Which components of a mask hold a voxel of another mask.

With 26 neighbours all voxels of a block of 2x2 rows that lie side by side or above each other belong together, so the runs
of the united rows take the place of the voxels' own: a quarter of the rows, and far fewer unions. A run is known by how many
runs start before it: a count of bits.
"""

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_same_shape
from vesuvius_kit.voxel.bits import Words, bit_count, lowest_bit
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import for_slabs

_NONE, _ONE, _TOP, _EVERY = np.uint64(0), np.uint64(1), np.uint64(63), ~np.uint64(0)


def propagate_words(seeds: Words, words: Words) -> Words:
    """Keep the 26-connected components of a packed mask that hold a seed; seeds outside of the mask do not count."""
    check_array("seeds", seeds, kinds="u")
    check_array("words", words, kinds="u")
    check_same_shape("seeds", seeds, "words", words)
    kept = np.zeros(words.shape, dtype=np.uint64)
    if not words.size:
        return kept
    seeds, words = np.ascontiguousarray(seeds), np.ascontiguousarray(words)
    n_z, n_y, n_w = words.shape
    n_blocks = -(-n_z // 2)
    starts = np.empty((n_blocks, -(-n_y // 2), n_w), dtype=np.uint64)
    # How many runs start before each word of the united rows.
    before = np.zeros(starts.size + 1, dtype=np.int32)
    for_slabs(lambda start, stop: _find_starts(words, start, stop, starts, before), n_blocks)
    np.cumsum(before, out=before)
    parent = np.arange(before[-1], dtype=np.int32)

    def connect(start: int, stop: int) -> int:
        for z in range(start, stop):
            _connect_blocks(words, starts, before, parent, z, z > start)
        return start

    for start in for_slabs(connect, n_blocks)[1:]:
        _connect_blocks(words, starts, before, parent, start, True)
    keep = np.zeros(len(parent), dtype=bool)
    _mark_seeds(seeds, words, starts, before, parent, keep)
    for_slabs(lambda start, stop: _paint_kept(words, starts, before, keep, start, stop, kept), n_blocks)
    return kept


@compiled(nogil=True)
def _unite_rows(words: Words, first_z: int, last_z: int, first_y: int, last_y: int, k: int) -> np.uint64:
    """Unite the rows of a block, given inclusively; those beyond the volume do not count."""
    n_z, n_y, n_w = words.shape
    word = _NONE
    if 0 <= k < n_w:
        for z in range(first_z, min(last_z + 1, n_z)):
            for y in range(first_y, min(last_y + 1, n_y)):
                word |= words[z, y, k]
    return word


@compiled(nogil=True)
def _find_starts(words: Words, start: int, stop: int, starts: Words, before: NDArray[np.int32]) -> None:
    _, n_y, n_w = starts.shape
    for z in range(start, stop):
        for y in range(n_y):
            last = _NONE
            for k in range(n_w):
                word = _unite_rows(words, 2 * z, 2 * z + 1, 2 * y, 2 * y + 1, k)
                starts[z, y, k] = word & ~((word << _ONE) | (last >> _TOP))
                before[(z * n_y + y) * n_w + k + 1] = bit_count(starts[z, y, k])
                last = word


@compiled(nogil=True)
def _connect_blocks(
    words: Words,
    starts: Words,
    before: NDArray[np.int32],
    parent: NDArray[np.int32],
    z: int,
    with_plane_below: bool,
) -> None:
    """Link the runs of a plane of blocks to each other, or to those of the plane before."""
    n_y = starts.shape[1]
    for y in range(n_y):
        if with_plane_below:
            here, there = (2 * z, 2 * z), (2 * z - 1, 2 * z - 1)
            rows = (2 * y, 2 * y + 1)
            _link(words, starts, before, parent, z, y, here, rows, z - 1, y, there, rows)
            if y > 0:
                _link(
                    words,
                    starts,
                    before,
                    parent,
                    z,
                    y,
                    here,
                    (2 * y, 2 * y),
                    z - 1,
                    y - 1,
                    there,
                    (2 * y - 1, 2 * y - 1),
                )
            if y + 1 < n_y:
                _link(
                    words,
                    starts,
                    before,
                    parent,
                    z,
                    y,
                    here,
                    (2 * y + 1, 2 * y + 1),
                    z - 1,
                    y + 1,
                    there,
                    (2 * y + 2, 2 * y + 2),
                )
        if y > 0:
            planes = (2 * z, 2 * z + 1)
            _link(words, starts, before, parent, z, y, planes, (2 * y, 2 * y), z, y - 1, planes, (2 * y - 1, 2 * y - 1))


@compiled(nogil=True)
def _link(
    words: Words,
    starts: Words,
    before: NDArray[np.int32],
    parent: NDArray[np.int32],
    z: int,
    y: int,
    planes: tuple[int, int],
    rows: tuple[int, int],
    other_z: int,
    other_y: int,
    other_planes: tuple[int, int],
    other_rows: tuple[int, int],
) -> None:
    """Link the runs of two blocks where the rows of theirs that face each other touch."""
    n_y, n_w = starts.shape[1:]
    row, other_row = (z * n_y + y) * n_w, (other_z * n_y + other_y) * n_w
    a_last = b_last = both_last = _NONE
    a = _unite_rows(words, planes[0], planes[1], rows[0], rows[1], 0)
    b = _unite_rows(words, other_planes[0], other_planes[1], other_rows[0], other_rows[1], 0)
    for k in range(n_w):
        a_next = _unite_rows(words, planes[0], planes[1], rows[0], rows[1], k + 1)
        b_next = _unite_rows(words, other_planes[0], other_planes[1], other_rows[0], other_rows[1], k + 1)
        both = a & b
        todo = both & ~((both << _ONE) | (both_last >> _TOP))
        while todo != _NONE:
            bit = lowest_bit(todo)
            run = _find_run(starts, before, z, y, row, k, bit)
            _unite(parent, run, _find_run(starts, before, other_z, other_y, other_row, k, bit))
            todo &= todo - _ONE
        # Corners: the other row's voxel lies one step back or ahead, and nothing else joins the two.
        todo = a & ~b & ((b << _ONE) | (b_last >> _TOP)) & ~((a << _ONE) | (a_last >> _TOP))
        while todo != _NONE:
            bit = lowest_bit(todo)
            other_k, other_bit = (k, bit - 1) if bit > 0 else (k - 1, 63)
            run = _find_run(starts, before, z, y, row, k, bit)
            _unite(parent, run, _find_run(starts, before, other_z, other_y, other_row, other_k, other_bit))
            todo &= todo - _ONE
        todo = a & ~b & ((b >> _ONE) | (b_next << _TOP)) & ~((a >> _ONE) | (a_next << _TOP))
        while todo != _NONE:
            bit = lowest_bit(todo)
            other_k, other_bit = (k, bit + 1) if bit < 63 else (k + 1, 0)
            run = _find_run(starts, before, z, y, row, k, bit)
            _unite(parent, run, _find_run(starts, before, other_z, other_y, other_row, other_k, other_bit))
            todo &= todo - _ONE
        a_last, b_last, both_last, a, b = a, b, both, a_next, b_next


@compiled(nogil=True)
def _find_run(starts: Words, before: NDArray[np.int32], z: int, y: int, row: int, k: int, bit: int) -> int:
    """Return the run that a voxel of the united rows lies in."""
    return before[row + k] + bit_count(starts[z, y, k] & (_EVERY >> np.uint64(63 - bit))) - 1


@compiled(nogil=True)
def _unite(parent: NDArray[np.int32], a: int, b: int) -> None:
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


@compiled(nogil=True)
def _mark_seeds(
    seeds: Words,
    words: Words,
    starts: Words,
    before: NDArray[np.int32],
    parent: NDArray[np.int32],
    keep: NDArray[np.bool_],
) -> None:
    n_z, n_y, n_w = words.shape
    for run in range(parent.size):
        # A root is the oldest run of its tree, so its children find it settled.
        parent[run] = parent[parent[run]]
    for z in range(n_z):
        for y in range(n_y):
            row = (z // 2 * starts.shape[1] + y // 2) * n_w
            last = _NONE
            for k in range(n_w):
                word = seeds[z, y, k] & words[z, y, k]
                todo = word & ~((word << _ONE) | (last >> _TOP))
                while todo != _NONE:
                    keep[parent[_find_run(starts, before, z // 2, y // 2, row, k, lowest_bit(todo))]] = True
                    todo &= todo - _ONE
                last = word
    for run in range(parent.size):
        keep[run] = keep[parent[run]]


@compiled(nogil=True)
def _paint_kept(
    words: Words,
    starts: Words,
    before: NDArray[np.int32],
    keep: NDArray[np.bool_],
    start: int,
    stop: int,
    kept: Words,
) -> None:
    n_z, n_y, n_w = words.shape
    for z in range(start, stop):
        for y in range(starts.shape[1]):
            goes_on = _NONE  # whether a run that is kept enters the word
            for k in range(n_w):
                row = _unite_rows(words, 2 * z, 2 * z + 1, 2 * y, 2 * y + 1, k)
                run = before[(z * starts.shape[1] + y) * n_w + k]
                todo = starts[z, y, k]
                wanted = goes_on & row
                while todo != _NONE:
                    if keep[run]:
                        wanted |= todo & (~todo + _ONE)
                    run += 1
                    todo &= todo - _ONE
                # Adding its first bit to a run carries through it and clears it.
                whole = row & ~(row + wanted)
                goes_on = whole >> _TOP
                for at_z in range(2 * z, min(2 * z + 2, n_z)):
                    for at_y in range(2 * y, min(2 * y + 2, n_y)):
                        kept[at_z, at_y, k] = words[at_z, at_y, k] & whole
