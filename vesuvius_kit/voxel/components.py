"""Connected components over runs of voxels.

A run is a stretch of foreground along x. A 320^3 mask of sheets has 33 million voxels and a million runs, so linking runs
(two pointers over neighbouring rows, union-find with the older run on top) is far cheaper than visiting voxels.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_array, check_integer
from vesuvius_kit.voxel.bits import Words, pack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.runs import connect_planes, connect_slab, count_runs, fill_runs, number_roots, paint_rows
from vesuvius_kit.voxel.slabs import for_slabs

Connectivity: TypeAlias = Literal[6, 18, 26]
"""Which voxels touch: those that share a face (6), a face or an edge (18), or a face, an edge or a corner (26)."""

_EVERY = ~np.uint64(0)
_FAR = 1 << 30  # beyond any row


class Runs(NamedTuple):
    """The runs of a mask in raster order, with the component of each.

    Attributes
    ----------
    rows
        (Z * Y + 1,): the runs of row ``z * Y + y`` are ``rows[z * Y + y]`` up to ``rows[z * Y + y + 1]``, exclusive.
    first
        First voxel of each run along x.
    last
        Last voxel of each run along x, inclusive.
    labels
        Component of each run, from 1 on, in the raster order of the components' first voxels.
    count
        Number of components.
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    labels: NDArray[np.int32]
    count: int  # type: ignore[assignment]  # the field hides the method of a tuple, which nobody calls


def find_runs(words: Words, connectivity: Connectivity = 26) -> Runs:
    """List the runs of a packed mask and connect them; a mask without foreground has no runs and a count of 0."""
    check_array("words", words, kinds="u")
    check_connectivity(connectivity)
    return connect_runs(words, connectivity)


def check_connectivity(connectivity: int) -> None:
    """Raise unless a connectivity is one of the three in a volume: 6, 18 or 26."""
    if check_integer("connectivity", connectivity) not in (6, 18, 26):
        raise InputValueError(f"connectivity must be 6, 18 or 26, got {connectivity}")


def measure_components(runs: Runs, shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Measure the voxels of each component and its bounding box, in a volume of shape (Z, Y, X).

    The sizes are (count + 1,), the boxes (count + 1, 3, 2): along z, y, x the first plane and one past the last. Entry 0, the
    background's, is 0 in both.
    """
    _check_rows(runs, shape)
    sizes = np.zeros(runs.count + 1, dtype=np.int64)
    boxes = np.zeros((runs.count + 1, 3, 2), dtype=np.int64)
    boxes[1:, :, 0] = _FAR
    _measure(runs.rows, runs.first, runs.last, runs.labels, shape[1], sizes, boxes)
    return sizes, boxes


def select_components(runs: Runs, keep: NDArray[np.bool_], shape: Sequence[int]) -> Words:
    """Pack the components that are wanted into a mask of shape (Z, Y, X).

    ``keep`` has an entry for each component and one before them, (count + 1,), which is not looked at.
    """
    check_array("keep", keep, ndim=1, kinds="b")
    if len(keep) != runs.count + 1:
        raise InputValueError(f"keep must have {runs.count + 1} entries, got {len(keep)}")
    _check_rows(runs, shape)
    n_z, n_y, n_x = shape
    words = np.zeros((n_z, n_y, -(-n_x // 64)), dtype=np.uint64)
    flat = words.reshape(n_z * n_y, words.shape[2])
    for_slabs(
        lambda start, stop: _select(runs.rows, runs.first, runs.last, runs.labels, keep, start * n_y, stop * n_y, flat),
        n_z if words.size else 0,
    )
    return words


def label_components(mask: NDArray[Any], connectivity: Connectivity = 26) -> tuple[NDArray[np.int32], int]:
    """Number the connected components of a mask.

    Parameters
    ----------
    mask
        (Z, Y, X), any numeric or bool dtype and memory order; non-zero is foreground.
    connectivity
        6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).

    Returns
    -------
    tuple
        The labels, of the mask's shape: 0 is background, components count from 1 in the raster order of their first voxels.
        And the number of components.

    Examples
    --------
    >>> import numpy as np
    >>> from vesuvius_kit.voxel.components import label_components
    >>> mask = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]]])
    >>> labels, count = label_components(mask)
    >>> labels.tolist(), count
    ([[[1, 0, 0], [0, 1, 0], [0, 0, 0], [2, 2, 0]]], 2)
    >>> label_components(mask, connectivity=6)[1]
    3
    """
    runs = find_runs(pack_mask(mask), connectivity)
    return paint_runs(runs, mask.shape), runs.count


def paint_runs(
    runs: Runs, shape: Sequence[int], dtype: type[np.integer[Any]] | np.dtype[Any] = np.int32
) -> NDArray[Any]:
    """Draw the components of runs into a volume of shape (Z, Y, X), 0 for background.

    ``dtype`` is an integer type that holds the number of components.
    """
    _check_rows(runs, shape)
    if runs.count > np.iinfo(dtype).max:
        raise InputValueError(f"dtype must hold {runs.count} components, got {np.dtype(dtype)}")
    labels = np.zeros(shape, dtype=dtype)
    flat = labels.reshape(shape[0] * shape[1], shape[2])
    for_slabs(
        lambda start, stop: paint_rows(
            runs.rows[start * shape[1] : stop * shape[1] + 1],
            runs.first,
            runs.last,
            runs.labels,
            flat[start * shape[1] : stop * shape[1]],
        ),
        shape[0] if labels.size else 0,
    )
    return labels


def list_component(runs: Runs, label: int, box: Sequence[slice], n_y: int) -> NDArray[np.int32]:
    """List the voxels of one component, without a volume that would hold them: (n, 3), z, y, x in raster order.

    The planes and rows of ``box``, three slices with start and stop within the volume, are searched, and positions count from
    its corner. ``n_y`` is the number of rows in a plane of the volume.
    """
    z, y, x = box
    if not (0 <= z.start <= z.stop and z.stop * n_y < len(runs.rows) and 0 <= y.start <= y.stop <= n_y):
        raise InputValueError(f"box must lie within {(len(runs.rows) - 1) // n_y} planes of {n_y} rows, got {box}")
    return _list_component(*runs[:4], label, n_y, z.start, z.stop, y.start, y.stop, x.start)


def count_overlaps(first: Runs, second: Runs) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Count the voxels that each pair of components of two masks of the same shape shares, background included.

    Returns the pairs, (n, 2), component of the first and component of the second, 0 for background, and how many voxels each of
    them shares. Each pair that shares a voxel stands once, (0, 0) never.
    """
    if len(first.rows) != len(second.rows):
        raise InputValueError(
            f"first and second must have the same number of rows, got {len(first.rows)} and {len(second.rows)}"
        )
    pieces = _cut_pieces(*first, *second[:4])
    return _add_pieces(*pieces, second.count)


def connect_runs(words: Words, connectivity: Literal[4, 6, 18, 26]) -> Runs:
    """List and connect runs like `find_runs`; connectivity 4 connects within each plane only."""
    words = np.ascontiguousarray(words)
    n_z, n_y, _ = words.shape
    rows = np.zeros(n_z * n_y + 1, dtype=np.int64)
    for_slabs(lambda start, stop: count_runs(words, start, stop, rows), n_z)
    np.cumsum(rows, out=rows)
    first, last, parent = (np.empty(rows[-1], dtype=np.int32) for _ in range(3))

    def work(start: int, stop: int) -> int:
        fill_runs(words, start, stop, rows, first, last)
        connect_slab(rows, first, last, parent, n_y, start, stop, connectivity)
        return start

    for start in for_slabs(work, n_z)[1:]:
        if connectivity > 4:
            connect_planes(rows, first, last, parent, n_y, start, connectivity)
    return Runs(rows, first, last, *number_roots(parent))


def _check_rows(runs: Runs, shape: Sequence[int]) -> None:
    if len(runs.rows) != shape[0] * shape[1] + 1:
        raise InputValueError(f"shape must have {len(runs.rows) - 1} rows, got {tuple(shape)}")


@compiled(nogil=True)
def _measure(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    labels: NDArray[np.int32],
    n_y: int,
    sizes: NDArray[np.int64],
    boxes: NDArray[np.int64],
) -> None:
    for row in range(rows.size - 1):
        z, y = row // n_y, row % n_y
        for run in range(rows[row], rows[row + 1]):
            label = labels[run]
            sizes[label] += last[run] + 1 - first[run]
            box = boxes[label]
            box[0, 0] = min(box[0, 0], z)
            box[0, 1] = z + 1
            box[1, 0] = min(box[1, 0], y)
            box[1, 1] = max(box[1, 1], y + 1)
            box[2, 0] = min(box[2, 0], first[run])
            box[2, 1] = max(box[2, 1], last[run] + 1)


@compiled(nogil=True)
def _select(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    labels: NDArray[np.int32],
    keep: NDArray[np.bool_],
    start: int,
    stop: int,
    words: Words,
) -> None:
    for row in range(start, stop):
        for run in range(rows[row], rows[row + 1]):
            if keep[labels[run]]:
                low, high = first[run] // 64, last[run] // 64
                below = _EVERY << np.uint64(first[run] % 64)
                above = _EVERY >> np.uint64(63 - last[run] % 64)
                if low == high:
                    words[row, low] |= below & above
                else:
                    words[row, low] |= below
                    for k in range(low + 1, high):
                        words[row, k] = _EVERY
                    words[row, high] |= above


@compiled(nogil=True)
def _list_component(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    labels: NDArray[np.int32],
    label: int,
    n_y: int,
    z_start: int,
    z_stop: int,
    y_start: int,
    y_stop: int,
    x_start: int,
) -> NDArray[np.int32]:
    n = 0
    for z in range(z_start, z_stop):
        for run in range(rows[z * n_y + y_start], rows[z * n_y + y_stop]):
            if labels[run] == label:
                n += last[run] + 1 - first[run]
    voxels = np.empty((n, 3), dtype=np.int32)
    n = 0
    for z in range(z_start, z_stop):
        for y in range(y_start, y_stop):
            for run in range(rows[z * n_y + y], rows[z * n_y + y + 1]):
                if labels[run] == label:
                    for x in range(first[run], last[run] + 1):
                        voxels[n, 0], voxels[n, 1], voxels[n, 2] = z - z_start, y - y_start, x - x_start
                        n += 1
    return voxels


@compiled(nogil=True)
def _cut_pieces(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    labels: NDArray[np.int32],
    count: int,
    other_rows: NDArray[np.int64],
    other_first: NDArray[np.int32],
    other_last: NDArray[np.int32],
    other_labels: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Cut rows where either mask changes; return the label, the other label and the voxels of each piece.

    The last array holds how many pieces each label has, that of label i at i + 1.
    """
    most = 2 * (first.size + other_first.size)
    piece_label = np.empty(most, dtype=np.int32)
    piece_other = np.empty(most, dtype=np.int32)
    piece_voxels = np.empty(most, dtype=np.int32)
    n_pieces = np.zeros(count + 2, dtype=np.int64)
    n = 0
    for row in range(rows.size - 1):
        i, j = rows[row], other_rows[row]
        end_i, end_j = rows[row + 1], other_rows[row + 1]
        x = 0
        while i < end_i or j < end_j:
            from_i = max(x, first[i]) if i < end_i else _FAR
            from_j = max(x, other_first[j]) if j < end_j else _FAR
            x = min(from_i, from_j)
            in_i, in_j = from_i == x, from_j == x
            # The piece ends where the runs that it lies in end, or where the other mask's next run begins.
            stop = min(
                last[i] + 1 if in_i else from_i,
                other_last[j] + 1 if in_j else from_j,
            )
            piece_label[n] = labels[i] if in_i else 0
            piece_other[n] = other_labels[j] if in_j else 0
            piece_voxels[n] = stop - x
            n_pieces[piece_label[n] + 1] += 1
            n += 1
            x = stop
            if in_i and last[i] + 1 == stop:
                i += 1
            if in_j and other_last[j] + 1 == stop:
                j += 1
    return piece_label[:n], piece_other[:n], piece_voxels[:n], n_pieces


@compiled(nogil=True)
def _add_pieces(
    piece_label: NDArray[np.int32],
    piece_other: NDArray[np.int32],
    piece_voxels: NDArray[np.int32],
    n_pieces: NDArray[np.int64],
    other_count: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Add up the voxels of each pair of labels.

    Pieces are grouped by label, and each group is added up in a table over the other mask's labels: linear in the pieces, with
    no table of all pairs.
    """
    n, count = piece_label.size, n_pieces.size - 2
    begins = n_pieces.copy()
    for label in range(count + 1):
        begins[label + 1] += begins[label]
    order = np.empty(n, dtype=np.int64)
    place = begins.copy()
    for piece in range(n):
        order[place[piece_label[piece]]] = piece
        place[piece_label[piece]] += 1
    shared = np.zeros(other_count + 1, dtype=np.int64)
    pairs = np.empty((n, 2), dtype=np.int32)
    voxels = np.empty(n, dtype=np.int64)
    n_pairs = 0
    for label in range(count + 1):
        for at in range(begins[label], begins[label + 1]):
            shared[piece_other[order[at]]] += piece_voxels[order[at]]
        for at in range(begins[label], begins[label + 1]):
            other = piece_other[order[at]]
            if shared[other] > 0:
                pairs[n_pairs, 0], pairs[n_pairs, 1] = label, other
                voxels[n_pairs] = shared[other]
                shared[other] = 0
                n_pairs += 1
    return pairs[:n_pairs], voxels[:n_pairs]
