"""Touching sheets come apart at a higher threshold."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import (
    InputTypeError,
    InputValueError,
    check_array,
    check_integer,
    check_real,
    check_same_shape,
)
from vesuvius_kit.postprocess.heights import fit_heights
from vesuvius_kit.postprocess.promises import REMOVES_ONLY, promise
from vesuvius_kit.voxel.bits import pack_mask, unpack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import Runs, find_runs, list_component, measure_components, select_components
from vesuvius_kit.voxel.slabs import for_each

_PLANES = 32  # compared at a time


@promise(REMOVES_ONLY)
def separate_sheets(
    probability: NDArray[np.floating[Any]],
    mask: NDArray[np.bool_],
    thresholds: Sequence[float] = (0.5, 0.6, 0.7),
    window: int = 32,
    max_tunnel_share: float = 0.1,
    min_coverage: float = 0.8,
    min_size: int = 500,
) -> NDArray[np.bool_]:
    """Retry every component that looks like several sheets at a higher threshold, where it may fall apart.

    A component is one sheet when few windows that it fills hold a tunnel (an Euler characteristic, components - tunnels +
    cavities, below 1) and a height map covers it. One that is not keeps only its voxels of at least the next threshold, and
    each piece is judged again. A piece that the last threshold does not make a sheet is kept as it is then, unless it is
    small. It is a step of the 2nd place's solution.

    Parameters
    ----------
    probability, mask
        (Z, Y, X); the probability in [0, 1].
    thresholds
        In [0, 1], rising.
    window
        Edge of the windows, in voxels, at least 4.
    max_tunnel_share
        Largest share of filled windows with a tunnel that one sheet may have, in [0, 1].
    min_coverage
        Smallest share of its voxels within the slab round a height map that one sheet must have, in [0, 1].
    min_size
        Pieces with fewer voxels are removed once their component came apart.
    """
    check_array("probability", probability, kinds="f")
    check_array("mask", mask, kinds="b")
    check_same_shape("probability", probability, "mask", mask)
    thresholds = _check_thresholds(thresholds)
    window = check_integer("window", window, minimum=4)
    max_tunnel_share = check_real("max_tunnel_share", max_tunnel_share, minimum=0, maximum=1)
    min_coverage = check_real("min_coverage", min_coverage, minimum=0, maximum=1)
    min_size = check_integer("min_size", min_size, minimum=0)
    n_y, n_x = mask.shape[1:]
    kept, waiting = np.zeros_like(pack_mask(mask)), pack_mask(mask)
    # Pieces do not touch, so that the stronger voxels of all of them can be labelled at once.
    for level, threshold in enumerate(thresholds):
        runs = find_runs(waiting, 26)
        sizes, boxes = measure_components(runs, mask.shape)
        large = sizes >= min_size
        keep = large.copy() if level > 0 else np.ones_like(large)

        def judge(label: int, runs: Runs = runs, boxes: NDArray[np.int64] = boxes) -> bool:
            box = tuple(slice(*ends) for ends in boxes[label].tolist())
            shape = tuple(side.stop - side.start for side in box)
            return is_one_sheet(list_component(runs, label, box, n_y), shape, window, max_tunnel_share, min_coverage)

        judged = [label for label in np.argsort(-sizes, kind="stable").tolist() if label > 0 and large[label]]
        keep[judged] = for_each(judge, judged)
        kept |= select_components(runs, keep, mask.shape)
        waiting = select_components(runs, large & ~keep, mask.shape)
        for z in range(0, len(waiting), _PLANES):
            part = slice(z, z + _PLANES)
            waiting[part] &= pack_mask(probability[part] >= probability.dtype.type(threshold))
    runs = find_runs(waiting, 26)
    sizes, _ = measure_components(runs, mask.shape)
    return unpack_mask(kept | select_components(runs, sizes >= min_size, mask.shape), n_x)


def is_one_sheet(
    voxels: NDArray[np.integer[Any]],
    shape: tuple[int, ...],
    window: int,
    max_tunnel_share: float,
    min_coverage: float,
) -> bool:
    """Tell whether a component looks like one sheet, see `separate_sheets`.

    ``voxels``, (n, 3) with n > 0, are in a box of that shape as `list_component` gives them.
    """
    euler, filled = _euler_of_windows(voxels, shape, window)
    # Crumbs at a window's edge tell nothing: a window counts when a sheet could cross half of it.
    crossed = filled >= window * window // 2
    if crossed.any() and np.mean(euler[crossed] < 1) > max_tunnel_share:
        return False
    return fit_heights(voxels, shape, 3.0, 1.5)[3] >= min_coverage


def _check_thresholds(thresholds: Sequence[float]) -> list[float]:
    if isinstance(thresholds, str) or not hasattr(thresholds, "__iter__"):
        raise InputTypeError(f"thresholds must be a sequence of numbers, got {thresholds!r}")
    checked = [check_real(f"thresholds[{k}]", value, minimum=0, maximum=1) for k, value in enumerate(thresholds)]
    if not checked or any(after <= before for before, after in pairwise(checked)):
        raise InputValueError(f"thresholds must rise, got {list(thresholds)}")
    return checked


@compiled(nogil=True)
def _euler_of_windows(
    voxels: NDArray[np.integer[Any]], shape: tuple[int, ...], window: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Euler characteristic (6-connected foreground) and number of voxels of each window; windows share nothing."""
    n_z, n_y, n_x = shape
    counts = ((n_z - 1) // window + 1, (n_y - 1) // window + 1, (n_x - 1) // window + 1)
    euler, filled = np.zeros(counts, dtype=np.int64), np.zeros(counts, dtype=np.int64)
    # One layer of windows at a time, with a plane, row and column of background after it.
    layer = np.zeros((min(window, n_z) + 1, n_y + 1, n_x + 1), dtype=np.bool_)
    begin = 0
    while begin < len(voxels):
        k = voxels[begin, 0] // window
        end = begin
        while end < len(voxels) and voxels[end, 0] // window == k:
            layer[voxels[end, 0] - k * window, voxels[end, 1], voxels[end, 2]] = True
            end += 1
        for v in range(begin, end):
            z, y, x = voxels[v, 0] - k * window, voxels[v, 1], voxels[v, 2]
            a = layer[z + 1, y, x]
            b = (y + 1) % window != 0 and layer[z, y + 1, x]
            c = (x + 1) % window != 0 and layer[z, y, x + 1]
            ab = a and b and layer[z + 1, y + 1, x]
            ac = a and c and layer[z + 1, y, x + 1]
            bc = b and c and layer[z, y + 1, x + 1]
            abc = ab and ac and bc and layer[z + 1, y + 1, x + 1]
            at = k, y // window, x // window
            euler[at] += 1 - (int(a) + int(b) + int(c)) + (int(ab) + int(ac) + int(bc)) - int(abc)
            filled[at] += 1
        for v in range(begin, end):
            layer[voxels[v, 0] - k * window, voxels[v, 1], voxels[v, 2]] = False
        begin = end
    return euler, filled
