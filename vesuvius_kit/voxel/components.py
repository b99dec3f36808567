"""Connected components over runs of voxels.

A run is a stretch of foreground along x. A 320^3 mask of sheets has 33 million voxels and a million runs, so linking runs
(two pointers over neighbouring rows, union-find with the older run on top) is far cheaper than visiting voxels.
"""

from typing import NamedTuple

import numpy as np

from vesuvius_kit.checks import InputValueError, check_array, check_integer
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.runs import _connect_planes, _connect_slab, _count_runs, _fill_runs, _number_roots
from vesuvius_kit.voxel.slabs import for_slabs

_EVERY = ~np.uint64(0)
_FAR = 1 << 30  # beyond any row


class Runs(NamedTuple):
    """The runs of a mask in raster order, with the component of each.

    Attributes
    ----------
    rows : numpy.ndarray
        int64, (Z * Y + 1): the runs of row ``z * Y + y`` are ``rows[z * Y + y]`` up to ``rows[z * Y + y + 1]``, exclusive.
    first : numpy.ndarray
        int32: first voxel of each run along x.
    last : numpy.ndarray
        int32: last voxel of each run along x, inclusive.
    labels : numpy.ndarray
        int32: component of each run, from 1 on, in the raster order of the components' first voxels.
    count : int
        Number of components.
    """

    rows: np.ndarray
    first: np.ndarray
    last: np.ndarray
    labels: np.ndarray
    count: int


def find_runs(words, connectivity=26):
    """List the runs of a packed mask and connect them.

    Parameters
    ----------
    words : numpy.ndarray
        uint64, (Z, Y, words), as `vesuvius_kit.voxel.bits.pack_mask` gives it.
    connectivity : int
        6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).

    Returns
    -------
    Runs
        No runs and a count of 0 for an empty mask.

    Raises
    ------
    InputTypeError, InputValueError
        Not an unsigned array of three dimensions, or another connectivity.
    """
    check_array("words", words, kinds="u")
    check_connectivity(connectivity)
    return _find_runs(words, connectivity)


def check_connectivity(connectivity):
    """Raise unless a connectivity is one of the three in a volume.

    Parameters
    ----------
    connectivity : int
        What arrived.

    Raises
    ------
    InputTypeError, InputValueError
        Not 6, 18 or 26.
    """
    if check_integer("connectivity", connectivity) not in (6, 18, 26):
        raise InputValueError(f"connectivity must be 6, 18 or 26, got {connectivity}")


def measure_components(runs, shape):
    """Measure the size and the bounding box of each component.

    Parameters
    ----------
    runs : Runs
        What `find_runs` gave.
    shape : tuple of 3 int
        (Z, Y, X) of the volume.

    Returns
    -------
    sizes : numpy.ndarray
        int64, (count + 1,): voxels of each component; entry 0, the background's, is 0.
    boxes : numpy.ndarray
        int64, (count + 1, 3, 2): along z, y, x the first plane and one past the last; zeros for entry 0.

    Raises
    ------
    InputValueError
        The runs are not those of a volume with so many rows.
    """
    _check_rows(runs, shape)
    sizes = np.zeros(runs.count + 1, dtype=np.int64)
    boxes = np.zeros((runs.count + 1, 3, 2), dtype=np.int64)
    boxes[1:, :, 0] = _FAR
    _measure(runs.rows, runs.first, runs.last, runs.labels, shape[1], sizes, boxes)
    return sizes, boxes


def select_components(runs, keep, shape):
    """Pack the components that are wanted.

    Parameters
    ----------
    runs : Runs
        What `find_runs` gave.
    keep : numpy.ndarray
        bool, (count + 1,): which components; entry 0 is not looked at.
    shape : tuple of 3 int
        (Z, Y, X) of the volume.

    Returns
    -------
    numpy.ndarray
        uint64, (Z, Y, ceil(X / 64)): a packed mask.

    Raises
    ------
    InputTypeError, InputValueError
        ``keep`` is not such an array, or the runs are not those of a volume with so many rows.
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


def label_components(mask, connectivity=26):
    """Number the connected components of a mask.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype and memory order; non-zero is foreground.
    connectivity : int
        6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).

    Returns
    -------
    labels : numpy.ndarray
        int32, (Z, Y, X): 0 is background, components count from 1 in the raster order of their first voxels.
    count : int
        Number of components; 0 for an empty mask.

    Raises
    ------
    InputTypeError, InputValueError
        Not a numeric array of three dimensions, or another connectivity.
    """
    runs = find_runs(pack_mask(mask), connectivity)
    return paint_runs(runs, mask.shape), runs.count


def paint_runs(runs, shape, dtype=np.int32):
    """Draw the components of runs into a volume.

    Parameters
    ----------
    runs : Runs
        What `find_runs` gave.
    shape : tuple of 3 int
        (Z, Y, X) of the volume.
    dtype : type
        An integer type that holds the number of components.

    Returns
    -------
    numpy.ndarray
        ``dtype``, ``shape``: 0 is background.

    Raises
    ------
    InputValueError
        The runs are not those of a volume with so many rows, or too many for the type.
    """
    _check_rows(runs, shape)
    if runs.count > np.iinfo(dtype).max:
        raise InputValueError(f"dtype must hold {runs.count} components, got {np.dtype(dtype)}")
    labels = np.zeros(shape, dtype=dtype)
    flat = labels.reshape(shape[0] * shape[1], shape[2])
    for_slabs(
        lambda start, stop: _paint(
            runs.rows[start * shape[1] : stop * shape[1] + 1],
            runs.first,
            runs.last,
            runs.labels,
            flat[start * shape[1] : stop * shape[1]],
        ),
        shape[0] if labels.size else 0,
    )
    return labels


def list_component(runs, label, box, n_y):
    """List the voxels of one component, without a volume that would hold them.

    Parameters
    ----------
    runs : Runs
        What `find_runs` gave.
    label : int
        Which component.
    box : tuple of 3 slice
        With start and stop, within the volume: its planes and rows are searched, and positions count from its corner.
    n_y : int
        Rows in a plane of the volume.

    Returns
    -------
    numpy.ndarray
        int32, (n, 3): z, y, x in raster order.

    Raises
    ------
    InputValueError
        The box leaves the planes or rows of the runs.
    """
    z, y, x = box
    if not (0 <= z.start <= z.stop and z.stop * n_y < len(runs.rows) and 0 <= y.start <= y.stop <= n_y):
        raise InputValueError(f"box must lie within {(len(runs.rows) - 1) // n_y} planes of {n_y} rows, got {box}")
    return _list_component(*runs[:4], label, n_y, z.start, z.stop, y.start, y.stop, x.start)


def count_overlaps(first, second):
    """Count the voxels that each pair of components shares, background included.

    Parameters
    ----------
    first, second : Runs
        Runs of two masks of the same shape.

    Returns
    -------
    pairs : numpy.ndarray
        int32, (n, 2): component of the first, component of the second; 0 is background. Each pair that shares a voxel
        stands once, (0, 0) never.
    voxels : numpy.ndarray
        int64, (n,): how many voxels.

    Raises
    ------
    InputValueError
        The runs have different numbers of rows.
    """
    if len(first.rows) != len(second.rows):
        raise InputValueError(
            f"first and second must have the same number of rows, got {len(first.rows)} and {len(second.rows)}"
        )
    return _count_overlaps(*first, *second)


def _find_runs(words, connectivity):
    """List and connect runs; connectivity 4 connects within each plane only."""
    words = np.ascontiguousarray(words)
    n_z, n_y, _ = words.shape
    rows = np.zeros(n_z * n_y + 1, dtype=np.int64)
    for_slabs(lambda start, stop: _count_runs(words, start, stop, rows), n_z)
    np.cumsum(rows, out=rows)
    first, last, parent = (np.empty(rows[-1], dtype=np.int32) for _ in range(3))

    def work(start, stop):
        _fill_runs(words, start, stop, rows, first, last)
        _connect_slab(rows, first, last, parent, n_y, start, stop, connectivity)
        return start

    for start in for_slabs(work, n_z)[1:]:
        if connectivity > 4:
            _connect_planes(rows, first, last, parent, n_y, start, connectivity)
    return Runs(rows, first, last, *_number_roots(parent))


def _check_rows(runs, shape):
    if len(runs.rows) != shape[0] * shape[1] + 1:
        raise InputValueError(f"shape must have {len(runs.rows) - 1} rows, got {tuple(shape)}")


def _list_runs(words):
    """List the runs of a packed mask without connecting them, in this thread."""
    words = np.ascontiguousarray(words)
    rows = np.zeros(words.shape[0] * words.shape[1] + 1, dtype=np.int64)
    _count_runs(words, 0, len(words), rows)
    np.cumsum(rows, out=rows)
    first, last = (np.empty(rows[-1], dtype=np.int32) for _ in range(2))
    _fill_runs(words, 0, len(words), rows, first, last)
    return rows, first, last


@compiled(nogil=True)
def _measure(rows, first, last, labels, n_y, sizes, boxes):
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
def _select(rows, first, last, labels, keep, start, stop, words):
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
def _paint(rows, first, last, labels, out):
    for row in range(rows.size - 1):
        for run in range(rows[row], rows[row + 1]):
            out[row, first[run] : last[run] + 1] = labels[run]


@compiled(nogil=True)
def _list_component(rows, first, last, labels, label, n_y, z_start, z_stop, y_start, y_stop, x_start):
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
def _count_overlaps(
    rows, first, last, labels, count, other_rows, other_first, other_last, other_labels, other_count
):  # fmt: skip
    # Rows are cut where either mask changes; the pieces are then grouped by the first label, and each group is added up
    # in a table over the second: linear in the pieces, with no table of all pairs.
    most = 2 * (first.size + other_first.size)
    piece_label = np.empty(most, dtype=np.int32)
    piece_other = np.empty(most, dtype=np.int32)
    piece_voxels = np.empty(most, dtype=np.int32)
    begins = np.zeros(count + 2, dtype=np.int64)
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
            begins[piece_label[n] + 1] += 1
            n += 1
            x = stop
            if in_i and last[i] + 1 == stop:
                i += 1
            if in_j and other_last[j] + 1 == stop:
                j += 1
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
