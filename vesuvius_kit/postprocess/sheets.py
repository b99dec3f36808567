"""Repairs that treat each sheet, a 26-connected component, on its own and leave its neighbours alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vesuvius_kit.checks import check_array, check_integer, check_real, check_same_shape
from vesuvius_kit.postprocess.promises import ADDS_ONLY, JOINS_NOTHING, promise
from vesuvius_kit.voxel.bits import ball_rows, pack_mask, unpack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import find_runs, label_components, measure_components, select_components
from vesuvius_kit.voxel.morphology import box_rows, close_words, dilate_words


@promise(ADDS_ONLY, JOINS_NOTHING)
def close_sheets(mask: NDArray[np.bool_], radius: int = 3) -> NDArray[np.bool_]:
    """Close each sheet by a ball, as the 1st place did, without a voxel that touches another sheet.

    The mask is (Z, Y, X), the ``radius`` in voxels; 0 changes nothing. Where two sheets want the same gap, the larger one
    closes first. The volume's faces do not eat at the sheets.
    """
    check_array("mask", mask, kinds="b")
    radius = check_integer("radius", radius, minimum=0)
    if radius == 0 or not mask.any():
        return mask.copy()
    # Room on every side, so that the closing of a sheet that leaves the volume is that of a sheet without an end there.
    padded = np.pad(mask, radius)
    words = pack_mask(padded)
    runs = find_runs(words, 26)
    sizes, boxes = measure_components(runs, padded.shape)
    ball, touch = ball_rows(radius, (1, 1, 1)), box_rows((1, 1, 1))
    n_x = padded.shape[2]
    for label in np.argsort(-sizes[1:], kind="stable") + 1:
        keep = np.zeros(runs.count + 1, dtype=bool)
        keep[label] = True
        box = tuple(slice(max(low - radius, 0), high + radius) for low, high in boxes[label, :2])
        original = np.ascontiguousarray(select_components(runs, keep, padded.shape)[box])
        others = np.ascontiguousarray(words[box]) & ~original
        closed = close_words(original, ball, n_x)
        words[box] |= closed & ~dilate_words(others, touch, n_x)
    inner = (slice(radius, -radius),) * 3
    return np.ascontiguousarray(unpack_mask(words, n_x)[inner])


@promise(ADDS_ONLY, JOINS_NOTHING)
def grow_sheets(probability: NDArray[np.floating[Any]], mask: NDArray[np.bool_], t_low: float) -> NDArray[np.bool_]:
    """Grow every sheet within the voxels of at least ``t_low``, the strongest first, without a voxel that touches two sheets.

    A high threshold tells wraps apart, a low one finds all of each: this has both. Where two sheets meet, a seam one voxel wide
    stays open between them. What no sheet is connected to stays out. Both arrays are (Z, Y, X), ``t_low`` is in [0, 1].

    Notes
    -----
    Seeded region growing with watershed lines: Adams and Bischof, IEEE PAMI 16, 1994; Meyer, Signal Processing 38, 1994.
    """
    check_array("probability", probability, kinds="f")
    check_array("mask", mask, kinds="b")
    check_same_shape("probability", probability, "mask", mask)
    t_low = check_real("t_low", t_low, minimum=0, maximum=1)
    if not mask.any():
        return mask.copy()
    labels, _ = label_components(mask, 26)
    levels = rank_levels(probability, mask, t_low)
    grow_labels(labels, levels, count_values(levels, 255))
    return labels > 0


def rank_levels(probability: NDArray[np.floating[Any]], mask: NDArray[np.bool_], t_low: float) -> NDArray[np.uint8]:
    """Sort the voxels that a mask may grow into: from 1 at ``t_low`` to 255 at the highest probability, and 0 elsewhere."""
    levels = np.zeros(mask.shape, dtype=np.uint8)
    allowed = (probability >= probability.dtype.type(t_low)) & ~mask
    # Levels spread over what is there: the strength of a ridge rarely comes near 1.
    top = max(float(probability.max()), t_low + 1e-6)
    levels[allowed] = 1 + (probability[allowed] - t_low) * (254 / (top - t_low))
    return levels


def list_sheets(labels: NDArray[np.int32], margin: int = 1) -> list[tuple[int, tuple[slice, ...]]]:
    """List the components of a labelled volume and their boxes, the largest first.

    The boxes are ``margin`` voxels wider on each side, within the volume.
    """
    sizes = count_values(labels, int(labels.max(initial=0)))
    boxes = ndimage.find_objects(labels)
    order = [label for label in np.argsort(-sizes[1:], kind="stable") + 1 if boxes[label - 1] is not None]
    return [
        (
            int(label),
            tuple(slice(max(axis.start - margin, 0), axis.stop + margin) for axis in boxes[label - 1]),
        )
        for label in order
    ]


@compiled(nogil=True)
def count_values(volume: NDArray[np.integer[Any]], highest: int) -> NDArray[np.int64]:
    """Return how often each value from 0 to ``highest`` occurs; numpy.bincount would copy the volume to 64 bits first."""
    counts = np.zeros(highest + 1, dtype=np.int64)
    for z in range(volume.shape[0]):
        for y in range(volume.shape[1]):
            for x in range(volume.shape[2]):
                counts[volume[z, y, x]] += 1
    return counts


@compiled(nogil=True)
def is_free(labels: NDArray[np.integer[Any]], z: int, y: int, x: int, own: int) -> bool:
    """Return whether a voxel is background, or of the sheet ``own``, and touches no other sheet."""
    for a in range(max(z - 1, 0), min(z + 2, labels.shape[0])):
        for b in range(max(y - 1, 0), min(y + 2, labels.shape[1])):
            for c in range(max(x - 1, 0), min(x + 2, labels.shape[2])):
                if labels[a, b, c] != 0 and labels[a, b, c] != own:
                    return False
    return True


@compiled(nogil=True)
def grow_labels(labels: NDArray[np.int32], levels: NDArray[np.uint8], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flood the voxels of level > 0, highest level first, and return the flat positions of those that were looked at.

    ``counts`` holds the number of voxels of each level. ``levels`` is set to 0 where it was looked at.
    """
    n_z, n_y, n_x = labels.shape
    # Every voxel waits once at most, in the part of the queue that belongs to its level.
    first = np.zeros(257, dtype=np.int64)
    for level in range(1, 256):
        first[level + 1] = first[level] + counts[level]
    start, last = first.copy(), first.copy()
    queue = np.empty(first[256], dtype=np.int64)
    top = 0
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                if labels[z, y, x] > 0:
                    top = max(top, _queue_neighbours(levels, z, y, x, queue, last))
    while top > 0:
        if first[top] == last[top]:
            top -= 1
            continue
        at = queue[first[top]]
        first[top] += 1
        z, y, x = at // (n_y * n_x), at // n_x % n_y, at % n_x
        own = 0
        for a in range(max(z - 1, 0), min(z + 2, n_z)):
            for b in range(max(y - 1, 0), min(y + 2, n_y)):
                for c in range(max(x - 1, 0), min(x + 2, n_x)):
                    own = max(own, labels[a, b, c])
        if is_free(labels, z, y, x, own):
            labels[z, y, x] = own
            top = max(top, _queue_neighbours(levels, z, y, x, queue, last))
    n = 0
    for level in range(1, 256):
        begin = start[level]
        for k in range(begin, last[level]):
            queue[n] = queue[k]
            n += 1
    return queue[:n]


@compiled(nogil=True)
def _queue_neighbours(
    levels: NDArray[np.uint8], z: int, y: int, x: int, queue: NDArray[np.int64], last: NDArray[np.int64]
) -> int:
    """Queue the neighbours of level > 0 that do not wait yet, and return their highest level."""
    n_z, n_y, n_x = levels.shape
    top = 0
    for a in range(max(z - 1, 0), min(z + 2, n_z)):
        for b in range(max(y - 1, 0), min(y + 2, n_y)):
            for c in range(max(x - 1, 0), min(x + 2, n_x)):
                level = levels[a, b, c]
                if level > 0:
                    levels[a, b, c] = 0
                    queue[last[level]] = (a * n_y + b) * n_x + c
                    last[level] += 1
                    top = max(top, level)
    return top
