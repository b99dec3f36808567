"""Tunnels of two masks inside their union, found by a sweep over 64 voxels at a time.

The complex of a mask has its voxels as vertices, face-adjacent pairs as edges, 2x2 voxels as squares and 2x2x2 voxels as
cubes. `pair_tunnels` answers what the induced matching of Betti features asks in dimension 1 (Stucki et al.,
arXiv:2407.04683) without a boundary matrix; ``docs/metric.md`` derives it. In short: let planes z = 0, 1, ... of the union
be added one after the other. A spanning forest grows by union-find over vertical runs of voxels, and an edge that closes a
cycle which no square explains is a *generator*. Every edge then has a *label*, the set of generators that its fundamental
cycle is worth; nearly all labels are empty. Squares which the labels do not satisfy by themselves are *relations*; cycles
of either mask, read through the labels, are *loops*. What is left is elimination over GF(2) among a few thousand small
sets, the latest generator of each set leading.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.voxel.bits import Words, check_parts, count_voxels, lowest_bit, shift_down
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.gf2 import Size, Store, add_sets, collect, find_leads, keep, make_store, relate, rewrite

_NONE, _ONE = np.uint64(0), np.uint64(1)
_EDGE_Y, _EDGE_X = 1, 2
_SQUARE_YX, _SQUARE_ZX, _SQUARE_ZY = 0, 1, 2


def pair_tunnels(union: Words, parts: Sequence[Words], n_x: int) -> list[NDArray[np.int64]]:
    """Pair the tunnels of two masks with the squares that close them in their union.

    The voxels outside of the union count as filling in afterwards, cell by cell in raster order: position (z, y, x), then
    type. A tunnel of a part is born with an edge of the part and, seen in the union, dies with a square outside of it.
    ``parts`` are packed masks within the union, ``n_x`` voxels long along x.

    Returns
    -------
    list
        For each part (pairs, 8): position and type of the edge of birth (1 along y, 2 along x), then of the square of death
        (0 spans y and x, 1 spans z and x, 2 spans z and y), sorted by birth. A tunnel that the union fills has no pair.
    """
    check_parts(union, parts)
    if not union.any():
        return [np.empty((0, 8), dtype=np.int64) for _ in parts]
    if len(union) == 1:
        # An empty plane on top closes no tunnel, and spares the sweep a special case.
        union, *parts = (np.concatenate([words, np.zeros_like(words)]) for words in (union, *parts))
    edges_x = union & shift_down(union)
    below, behind = edges_x & _from_below(edges_x), edges_x & _from_behind(edges_x)
    starts, fresh_x, fresh_y = union & ~_from_below(union), edges_x & ~behind & ~below, _unexplained_along_y(union)
    part_starts = np.stack([part & ~_from_below(part) for part in parts])
    part_fresh_y = np.stack([_unexplained_along_y(part) for part in parts])
    part_fresh_x = np.stack([_unexplained_along_x(part) for part in parts])
    room = (
        count_voxels(fresh_x) + count_voxels(fresh_y),
        count_voxels(starts),
        max(count_voxels(x) + count_voxels(y) for x, y in zip(part_fresh_x, part_fresh_y)),
        max(count_voxels(words) for words in part_starts),
    )
    squares, births, leads, n_loops = sweep(
        starts,
        behind & ~below,
        fresh_x,
        behind & below & ~_from_below(behind),
        fresh_y,
        part_starts,
        part_fresh_y,
        part_fresh_x,
        n_x,
        room,
    )
    size = (*union.shape[:2], n_x, 3)
    pairs = []
    for part in range(2):
        # A loop that nothing leads is one of the part's tunnels that the union fills, or no tunnel at all.
        alive = np.flatnonzero(leads[part, : n_loops[part]] >= 0)
        deaths = squares[leads[part, alive]]
        cells = np.unravel_index(births[part, alive], size) + np.unravel_index(deaths, size)
        pairs.append(np.stack(cells, axis=1))
    return pairs


def _from_below(words: Words) -> Words:
    """Move every plane one up, so that plane z of the result tells of plane z - 1."""
    moved = np.zeros_like(words)
    moved[1:] = words[:-1]
    return moved


def _from_behind(words: Words) -> Words:
    """Move every row one on, so that row y of the result tells of row y - 1."""
    moved = np.zeros_like(words)
    moved[:, 1:] = words[:, :-1]
    return moved


def _unexplained_along_y(words: Words) -> Words:
    edges = np.zeros_like(words)
    edges[:, :-1] = words[:, :-1] & words[:, 1:]
    return edges & ~_from_below(edges)


def _unexplained_along_x(words: Words) -> Words:
    edges = words & shift_down(words)
    return edges & ~_from_below(edges) & ~_from_behind(edges)


@compiled(nogil=True)
def sweep(
    starts: Words, behind: Words, fresh_x: Words, doubled: Words, fresh_y: Words,
    part_starts: Words, part_fresh_y: Words, part_fresh_x: Words, n_x: int, room: tuple[int, int, int, int],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Run the sweep; every argument is a bit set over (z, y, x), the parts' with one more axis in front.

    starts: voxels with nothing below. behind: edges along x explained only by the square behind them, in their plane.
    fresh_x, fresh_y: edges that no square explains. doubled: edges explained by the square behind and by the one below,
    without the cube between. Returns the codes of the squares that close the generators; for both parts the codes of
    the loops' last edges and the generators that lead the loops (-1 for none), and how many loops there are. ``room``
    bounds the numbers of squares, runs, loops of a part and runs of a part.
    """
    n_z, n_y = starts.shape[:2]
    most_squares, n_runs, most_loops, most_part_runs = room
    squares = np.empty(most_squares, dtype=np.int64)
    n_squares = np.zeros(1, dtype=np.int64)
    store = make_store(squares.size)
    label_x = np.zeros((n_y, n_x), dtype=np.int32)
    label_y, first_label_x, first_label_y, node = label_x.copy(), label_x.copy(), label_x.copy(), label_x.copy()
    parent = np.arange(n_runs, dtype=np.int32)

    n_loops = np.zeros(2, dtype=np.int64)
    births = np.empty((2, most_loops), dtype=np.int64)
    labels = np.empty((2, most_loops), dtype=np.int32)
    part_node = np.zeros((2, n_y, n_x), dtype=np.int32)
    part_parent = np.empty((2, most_part_runs), dtype=np.int32)
    for part in range(2):
        part_parent[part] = np.arange(most_part_runs)
    part_label = np.zeros_like(part_parent)
    part_size = np.ones_like(part_parent)
    part_count = np.zeros(2, dtype=np.int64)

    # Planes 0 and 1 grow together: a square in plane 0 comes before those that stand on it.
    n_nodes = _number_runs(starts[0], node, np.int64(0))
    n_nodes = _number_runs(starts[1], node, n_nodes)
    _join_comb(fresh_x[0, 0], fresh_y[0], node, parent)
    for plane in range(1, n_z):
        if plane > 1:
            n_nodes = _number_runs(starts[plane], node, n_nodes)
        store = _label_plane(
            plane, behind, fresh_x, doubled, fresh_y, first_label_x, label_x, label_y,
            node, parent, store, squares, n_squares,
        )  # fmt: skip
        for part in range(2):
            for z in range(0 if plane == 1 else plane, plane + 1):
                part_count[part] = _number_runs(part_starts[part, z], part_node[part], part_count[part])
                store = _close_loops(
                    z, part_fresh_y[part, z], part_fresh_x[part, z],
                    first_label_y if z == 0 else label_y, first_label_x if z == 0 else label_x,
                    part_node[part], part_parent[part], part_label[part], part_size[part],
                    store, births[part], labels[part], n_loops[part : part + 1],
                )  # fmt: skip
    leads = np.empty((2, most_loops), dtype=np.int64)
    for part in range(2):
        leads[part, : n_loops[part]] = find_leads(store, labels[part, : n_loops[part]])
    return squares[: n_squares[0]], births, leads, n_loops


@compiled(nogil=True)
def _number_runs(starts: Words, node: NDArray[np.int32], count: Size) -> Size:
    """Give the next numbers to the vertical runs that start in a plane; ``node`` holds the current run of each column."""
    for y in range(starts.shape[0]):
        for k in range(starts.shape[1]):
            todo = starts[y, k]
            while todo != _NONE:
                bit = todo & (~todo + _ONE)
                todo ^= bit
                node[y, 64 * k + lowest_bit(bit)] = count
                count += 1
    return count


@compiled(nogil=True)
def _join(parent: NDArray[np.int32], first: np.int32, second: np.int32) -> bool:
    """Join two trees; False if they were one."""
    while parent[first] != first:
        parent[first] = parent[parent[first]]
        first = parent[first]
    while parent[second] != second:
        parent[second] = parent[parent[second]]
        second = parent[second]
    if first == second:
        return False
    parent[max(first, second)] = min(first, second)
    return True


@compiled(nogil=True)
def _join_comb(row: Words, edges_y: Words, node: NDArray[np.int32], parent: NDArray[np.int32]) -> None:
    """Join plane 0 along its first row and along y: with all edges along z, the tree that raster order grows first."""
    for k in range(row.size):
        todo = row[k]
        while todo != _NONE:
            bit = todo & (~todo + _ONE)
            todo ^= bit
            x = 64 * k + lowest_bit(bit)
            _join(parent, node[0, x], node[0, x + 1])
    for y in range(edges_y.shape[0]):
        for k in range(row.size):
            todo = edges_y[y, k]
            while todo != _NONE:
                bit = todo & (~todo + _ONE)
                todo ^= bit
                x = 64 * k + lowest_bit(bit)
                _join(parent, node[y, x], node[y + 1, x])


@compiled(nogil=True)
def _label_plane(
    plane: int, behind: Words, fresh_x: Words, doubled: Words, fresh_y: Words,
    first_label_x: NDArray[np.int32], label_x: NDArray[np.int32], label_y: NDArray[np.int32], node: NDArray[np.int32],
    parent: NDArray[np.int32], store: Store, squares: NDArray[np.int64], n_squares: NDArray[np.int64],
) -> Store:  # fmt: skip
    """Label the edges of a plane of the union that the plane below does not explain, and note its relations.

    The edges come in the order of the squares that end in them: (y, x), along x before along y. Plane 1 brings plane 0.
    """
    n_y, n_w = behind.shape[1:]
    n_x = label_x.shape[1]
    for word in _busy_words(plane, behind, fresh_x, doubled, fresh_y):
        y, k = word // n_w, word % n_w
        explained, again = behind[plane, y, k], doubled[plane, y, k]
        new_x, new_y = fresh_x[plane, y, k], fresh_y[plane, y, k]
        ground_explained = ground_new = _NONE
        if plane == 1 and y + 1 < n_y:
            ground_explained, ground_new = behind[0, y + 1, k], fresh_x[0, y + 1, k]
        todo = explained | new_x | again | new_y | ground_explained | ground_new
        while todo != _NONE:
            bit = todo & (~todo + _ONE)
            todo ^= bit
            x = 64 * k + lowest_bit(bit)
            # Nearly every label is empty: the store is touched only where one is not.
            if (ground_explained | ground_new) & bit:
                label = first_label_x[y, x]
                if ground_new & bit:
                    label = np.int32(0)
                    if not _join(parent, node[y + 1, x], node[y + 1, x + 1]):
                        store, label = _open_generator(store, squares, n_squares, (y * n_x + x) * 3 + _SQUARE_YX)
                first_label_x[y + 1, x] = label
                label_x[y + 1, x] = label
            if (explained | again) & bit:
                first, second, third = label_x[y - 1, x], label_y[y - 1, x], label_y[y - 1, x + 1]
                if again & bit:
                    if first | second | third | label_x[y, x]:
                        store = relate(store, first, second, third, label_x[y, x])
                elif first | second | third:
                    store, n = add_sets(store, first, second, third, np.int32(0))
                    store, label_x[y, x] = keep(store, n)
                else:
                    label_x[y, x] = 0
            below = (((plane - 1) * n_y + y) * n_x + x) * 3
            if new_x & bit:
                label_x[y, x] = 0
                if not _join(parent, node[y, x], node[y, x + 1]):
                    store, label_x[y, x] = _open_generator(store, squares, n_squares, below + _SQUARE_ZX)
            if new_y & bit:
                label_y[y, x] = 0
                if not _join(parent, node[y, x], node[y + 1, x]):
                    store, label_y[y, x] = _open_generator(store, squares, n_squares, below + _SQUARE_ZY)
    return store


@compiled(nogil=True)
def _busy_words(plane: int, behind: Words, fresh_x: Words, doubled: Words, fresh_y: Words) -> NDArray[np.int64]:
    """List the words of a plane that `_label_plane` has to look at.

    A loop that may replace the store costs 30 ns a turn in reference counts, so it must not turn for nothing.
    """
    n_y, n_w = behind.shape[1:]
    words = np.empty(n_y * n_w, dtype=np.int64)
    n = 0
    for y in range(n_y):
        for k in range(n_w):
            word = behind[plane, y, k] | fresh_x[plane, y, k] | doubled[plane, y, k] | fresh_y[plane, y, k]
            if plane == 1 and y + 1 < n_y:
                word |= behind[0, y + 1, k] | fresh_x[0, y + 1, k]
            words[n] = y * n_w + k
            n += word != _NONE
    return words[:n]


@compiled(nogil=True)
def _open_generator(
    store: Store, squares: NDArray[np.int64], n_squares: NDArray[np.int64], square: int
) -> tuple[Store, np.int32]:
    """Note a generator and the square that closes it; return the label of the generator alone."""
    store[3][0] = n_squares[0]
    squares[n_squares[0]] = square
    n_squares[0] += 1
    return keep(store, np.int64(1))


@compiled(nogil=True)
def _close_loops(
    plane: int, fresh_y: Words, fresh_x: Words, label_y: NDArray[np.int32], label_x: NDArray[np.int32],
    node: NDArray[np.int32], parent: NDArray[np.int32], parent_label: NDArray[np.int32], size: NDArray[np.int32],
    store: Store, births: NDArray[np.int64], labels: NDArray[np.int32], n_loops: NDArray[np.int64],
) -> Store:  # fmt: skip
    """Grow a part's own forest by the unexplained edges of a plane, and note the label of each cycle that one closes."""
    n_y, n_w = fresh_y.shape
    n_x = label_x.shape[1]
    for word in np.flatnonzero(fresh_y | fresh_x):
        y, k = word // n_w, word % n_w
        new_y, new_x = fresh_y[y, k], fresh_x[y, k]
        todo = new_y | new_x
        while todo != _NONE:
            bit = todo & (~todo + _ONE)
            todo ^= bit
            x = 64 * k + lowest_bit(bit)
            for kind in (_EDGE_Y, _EDGE_X):
                if kind == _EDGE_Y:
                    if not new_y & bit:
                        continue
                    first, second, label = node[y, x], node[y + 1, x], label_y[y, x]
                else:
                    if not new_x & bit:
                        continue
                    first, second, label = node[y, x], node[y, x + 1], label_x[y, x]
                root, is_labelled = _find_labelled(parent, parent_label, first)
                other, other_is_labelled = _find_labelled(parent, parent_label, second)
                if is_labelled or other_is_labelled:
                    store, label = _label_between(store, parent, parent_label, first, second, label)
                if root != other:
                    if size[root] > size[other]:
                        root, other = other, root
                    parent[root] = other
                    parent_label[root] = label
                    size[other] += size[root]
                elif label != 0:
                    births[n_loops[0]] = ((plane * n_y + y) * n_x + x) * 3 + kind
                    labels[n_loops[0]] = label
                    n_loops[0] += 1
    return store


@compiled(nogil=True)
def _find_labelled(parent: NDArray[np.int32], label: NDArray[np.int32], node: int) -> tuple[int, bool]:
    """Find the root of a tree whose links carry labels, and whether a link on the way carries one that is not empty.

    Halves the path wherever that adds no two labels.
    """
    is_labelled = False
    while parent[node] != node:
        above = parent[node]
        if parent[above] != above and (label[node] == 0 or label[above] == 0):
            label[node] |= label[above]
            parent[node] = parent[above]
        is_labelled |= label[node] != 0
        node = above
    return node, is_labelled


@compiled(nogil=True)
def _label_between(
    store: Store,
    parent: NDArray[np.int32],
    parent_label: NDArray[np.int32],
    first: int,
    second: int,
    label: np.int32,
) -> tuple[Store, np.int32]:
    """Add the labels on both ways up to the root to ``label``."""
    store, n = collect(store, label, np.int64(0))
    for start in (first, second):
        node = start
        while parent[node] != node:
            store, n = collect(store, parent_label[node], n)
            node = parent[node]
    store, n = rewrite(store, n)
    return keep(store, n)
