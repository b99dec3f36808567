"""Sheets as height maps: over the axis along which its shadow is largest, a sheet has one height at most places.

A hole in the shadow is a hole in the sheet; the heights around it tell where the missing piece was.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vesuvius_kit.checks import check_array, check_integer, check_real
from vesuvius_kit.postprocess.promises import ADDS_ONLY, JOINS_NOTHING, NO_NEW_TUNNELS, promise
from vesuvius_kit.postprocess.sheets import is_free, list_sheets
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import find_runs, label_components, list_component, measure_components, paint_runs
from vesuvius_kit.voxel.cubical import count_cavities, euler_characteristic
from vesuvius_kit.voxel.slabs import for_each

_TRIES = 3

_Columns = tuple[NDArray[np.int64], NDArray[np.int64]]  # of a height map: rows and columns of a patch


class _Fitted(NamedTuple):
    """A sheet and its height map."""

    label: int
    box: tuple[slice, ...]
    axis: int
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    coverage: float
    beyond: NDArray[np.int64]
    """Voxels of the sheet that lie above or below the map, in the box."""


@promise(ADDS_ONLY, JOINS_NOTHING, NO_NEW_TUNNELS)
def patch_heights(mask: NDArray[np.bool_], min_size: int = 500) -> NDArray[np.bool_]:
    """Fill the holes of each sheet's height map, as long as the sheet does not get more tunnels by it.

    Seen along the axis with the largest shadow, the places of the shadow's holes get the height and the thickness that
    linear interpolation between the nearest places along both axes of the map gives, the nearer weighing more. Neighbouring
    places are drawn so that they share a face. A patch that touches another sheet is dropped. When the patches of
    a sheet together raise its number of tunnels, the largest are tried one by one, and the others dropped. The mask is
    (Z, Y, X); its components with fewer voxels than ``min_size`` are no sheets and are left alone.

    Notes
    -----
    Step of the 1st place's solution, which judged the patches of a sheet together.
    """
    check_array("mask", mask, kinds="b")
    min_size = check_integer("min_size", min_size, minimum=0)
    if not mask.any():
        return mask.copy()
    labels, _ = label_components(mask, 26)
    for label, box in list_sheets(labels):
        view = labels[box]
        own = view == label
        if np.count_nonzero(own) < min_size:
            break
        axis = widest_axis(own)
        lifted, turned = np.moveaxis(view, axis, 0), np.ascontiguousarray(np.moveaxis(own, axis, 0))
        low, high = _find_runs_of_columns(turned)
        shadow = low >= 0
        holes = ndimage.binary_fill_holes(shadow) & ~shadow
        if not holes.any():
            continue
        _interpolate(low, high, holes)
        _connect_heights(low, high, holes, shadow)
        patches, count = ndimage.label(holes, np.ones((3, 3)))
        kept = [at for at in _columns_of(patches, count) if _can_draw(lifted, low, high, *at, label)]
        if not kept:
            continue
        before = count_tunnels(turned)
        for at in kept:
            _draw(turned, low, high, *at, True)
        if count_tunnels(turned) > before:
            for at in kept:
                _draw(turned, low, high, *at, False)
            kept = _draw_one_by_one(turned, low, high, kept, before)
        for at in kept:
            _draw(lifted, low, high, *at, label)
    return labels > 0


def flatten_sheets(
    mask: NDArray[np.bool_],
    thickness: float = 3.0,
    smoothing: float = 1.5,
    min_coverage: float = 0.8,
    min_size: int = 500,
) -> NDArray[np.bool_]:
    """Draw each sheet anew, as the 2nd place did: its smoothed height map, thickened evenly.

    No voxel is drawn that touches another sheet.

    Parameters
    ----------
    mask
        (Z, Y, X).
    thickness
        Across the sheet, in voxels, >= 1.
    smoothing
        Standard deviation of the Gaussian over the map, in voxels, > 0.
    min_coverage
        Share of a sheet's voxels that must lie within one voxel of what is drawn; a sheet with less, one that is folded or
        merged with another, stays as it is.
    min_size
        Components with fewer voxels stay as they are.
    """
    check_array("mask", mask, kinds="b")
    thickness = check_real("thickness", thickness, minimum=1)
    smoothing = check_real("smoothing", smoothing, above=0)
    min_coverage = check_real("min_coverage", min_coverage, minimum=0, maximum=1)
    min_size = check_integer("min_size", min_size, minimum=0)
    if not mask.any():
        return mask.copy()
    runs = find_runs(pack_mask(mask), 26)
    sizes, boxes = measure_components(runs, mask.shape)
    margin = int(np.ceil(thickness)) + 1

    def fit(label: int) -> _Fitted:
        box = tuple(
            slice(max(start - margin, 0), min(stop + margin, size))
            for (start, stop), size in zip(boxes[label].tolist(), mask.shape)
        )
        voxels = list_component(runs, label, box, mask.shape[1])
        shape = tuple(side.stop - side.start for side in box)
        axis, low, high, coverage = fit_heights(voxels, shape, thickness, smoothing)
        h, r, c = voxels[:, _turn(axis)].T
        beyond = voxels[(h < low[r, c]) | (h > high[r, c])]
        return _Fitted(label, box, axis, low, high, coverage, beyond)

    # Drawing a sheet changes no voxel of another one, so all can be fitted before the first is drawn, the largest first.
    order = (np.argsort(-sizes[1:], kind="stable") + 1).tolist()
    fitted = for_each(fit, [label for label in order if sizes[label] >= min_size])
    labels = paint_runs(runs, mask.shape, np.int16 if runs.count <= np.iinfo(np.int16).max else np.int32)
    for label, box, axis, low, high, coverage, beyond in fitted:
        if coverage >= min_coverage:
            _draw_free(np.moveaxis(labels[box], axis, 0), low, high, label)
            labels[box][tuple(beyond.T)] = 0
    return labels > 0


def widest_axis(sheet: NDArray[np.bool_]) -> int:
    """Return the axis along which the shadow of a sheet has the largest area, the first of equals."""
    return int(np.argmax(_measure_shadows(np.ascontiguousarray(sheet))))


def fit_heights(
    voxels: NDArray[np.integer[Any]], shape: tuple[int, ...], thickness: float, smoothing: float
) -> tuple[int, NDArray[np.int32], NDArray[np.int32], float]:
    """Fit a smooth height map to a sheet, seen along the axis along which its shadow is largest.

    ``voxels``, (n, 3) with n > 0, are in a box of that shape as `list_component` gives them; ``thickness`` across the sheet
    and ``smoothing``, the standard deviation of a Gaussian over the map, are in voxels.

    Returns
    -------
    axis
        That of the heights.
    low, high
        The shape of the box without that axis: first and last voxel of each column of what would be drawn, -1 where the sheet
        has none. At a slope a column is longer by the secant.
    coverage
        Share of the sheet's voxels within one voxel of that.
    """
    axis = int(np.argmax(_measure_shadows_of_voxels(voxels, shape)))
    size = shape[axis]
    turn = _turn(axis)
    low, high = _find_runs_of_voxels(voxels, *turn, shape[turn[1]], shape[turn[2]])
    shadow = low >= 0
    weight = ndimage.gaussian_filter(shadow.astype(np.float32), smoothing)
    middle = ndimage.gaussian_filter(np.where(shadow, (low + high) / 2, 0).astype(np.float32), smoothing)
    height = middle / np.maximum(weight, 1e-6)
    # Beyond the shadow's edge the quotient goes on smoothly, so the slope at the edge is that of the sheet.
    along, across = np.gradient(height) if min(height.shape) > 1 else (np.zeros_like(height),) * 2
    half = thickness / 2 * np.sqrt(1 + np.minimum(along**2 + across**2, 8.0))
    # The voxel centres within [height - half, height + half), as many as the thickness says.
    low = np.where(shadow, np.clip(np.ceil(height - half), 0, size - 1), -1).astype(np.int32)
    high = np.where(shadow, np.clip(np.ceil(height + half) - 1, low, size - 1), -1).astype(np.int32)
    return axis, low, high, _share_within(voxels, *turn, low, high)


def count_tunnels(mask: NDArray[np.bool_]) -> int:
    """Return the number of tunnels of a mask in one block, as the score counts them, with the foreground 6-connected."""
    words = pack_mask(mask)
    return find_runs(words, 6).count + count_cavities(words, mask.shape[2]) - int(euler_characteristic(words))


def _columns_of(patches: NDArray[np.integer[Any]], count: int) -> list[_Columns]:
    """The columns of each patch, in raster order."""
    if count < 50:
        return [(rows, columns) for rows, columns in (np.nonzero(patches == k) for k in range(1, count + 1))]
    # Of many patches, by one sort.
    at = np.nonzero(patches)
    order = np.argsort(patches[at], kind="stable")
    ends = np.cumsum(np.bincount(patches[at], minlength=count + 1)[1:])[:-1]
    rows_of_each, columns_of_each = (np.split(axis[order], ends) for axis in at)
    return list(zip(rows_of_each, columns_of_each))


def _draw_one_by_one(
    turned: NDArray[np.bool_],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    columns: Sequence[_Columns],
    before: int,
) -> list[_Columns]:
    """Draw those of the largest patches that raise the number of tunnels neither alone nor together."""
    kept = []
    # Each try counts the tunnels of the whole sheet, so it is for the largest holes only.
    for at in sorted(columns, key=lambda at: -len(at[0]))[:_TRIES]:
        _draw(turned, low, high, *at, True)
        after = count_tunnels(turned)
        if after > before:
            _draw(turned, low, high, *at, False)
        else:
            before = after
            kept.append(at)
    return kept


@compiled(nogil=True)
def _measure_shadows(sheet: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Area of the shadow along each axis."""
    n_z, n_y, n_x = sheet.shape
    along_z, along_y = np.zeros((n_y, n_x), dtype=np.bool_), np.zeros((n_z, n_x), dtype=np.bool_)
    area = np.zeros(3, dtype=np.int64)
    for z in range(n_z):
        for y in range(n_y):
            empty = True
            for x in range(n_x):
                if sheet[z, y, x]:
                    empty = False
                    along_z[y, x] = True
                    along_y[z, x] = True
            area[2] += not empty
    area[0], area[1] = along_z.sum(), along_y.sum()
    return area


@compiled(nogil=True)
def _find_runs_of_columns(sheet: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First and last voxel of the longest run of each column along axis 0, the first of equals; -1 for an empty column."""
    n_h, n_r, n_c = sheet.shape
    low, high = np.full((n_r, n_c), -1, dtype=np.int32), np.full((n_r, n_c), -1, dtype=np.int32)
    length = np.zeros((n_r, n_c), dtype=np.int32)
    for h in range(n_h):
        for r in range(n_r):
            for c in range(n_c):
                if not sheet[h, r, c]:
                    length[r, c] = 0
                    continue
                length[r, c] += 1
                if low[r, c] < 0 or length[r, c] > high[r, c] - low[r, c] + 1:
                    low[r, c], high[r, c] = h - length[r, c] + 1, h
    return low, high


@compiled(nogil=True)
def _interpolate(low: NDArray[np.int32], high: NDArray[np.int32], holes: NDArray[np.bool_]) -> None:
    """Write the interpolated run into each hole; a hole is bounded, so it has neighbours along both axes."""
    n_r, n_c = holes.shape
    for r in range(n_r):
        for c in range(n_c):
            if not holes[r, c]:
                continue
            bottom, top, weight = 0.0, 0.0, 0.0
            for axis in range(2):
                for step in (-1, 1):
                    a, b, distance = r, c, 0
                    while holes[a, b]:
                        distance += 1
                        if axis == 0:
                            a += step
                        else:
                            b += step
                    bottom += low[a, b] / distance
                    top += high[a, b] / distance
                    weight += 1 / distance
            low[r, c], high[r, c] = round(bottom / weight), round(top / weight)


@compiled(nogil=True)
def _connect_heights(
    low: NDArray[np.int32], high: NDArray[np.int32], holes: NDArray[np.bool_], shadow: NDArray[np.bool_]
) -> None:
    """Lengthen the runs in holes until neighbouring columns share a face: two holes meet half way."""
    n_r, n_c = holes.shape
    old_low, old_high = low.copy(), high.copy()
    for r in range(n_r):
        for c in range(n_c):
            if not holes[r, c]:
                continue
            for a, b in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if a < 0 or b < 0 or a >= n_r or b >= n_c or not (holes[a, b] or shadow[a, b]):
                    continue
                if old_low[a, b] > old_high[r, c]:
                    meet = old_low[a, b] if shadow[a, b] else (old_low[a, b] + old_high[r, c]) // 2
                    high[r, c] = max(high[r, c], meet)
                elif old_high[a, b] < old_low[r, c]:
                    meet = old_high[a, b] if shadow[a, b] else (old_high[a, b] + old_low[r, c]) // 2
                    low[r, c] = min(low[r, c], meet)


@compiled(nogil=True)
def _can_draw(
    labels: NDArray[np.int32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    own: int,
) -> bool:
    """Whether no voxel of the runs touches another sheet."""
    for k in range(rows.size):
        for h in range(low[rows[k], columns[k]], high[rows[k], columns[k]] + 1):
            if not is_free(labels, h, rows[k], columns[k], own):
                return False
    return True


@compiled(nogil=True)
def _draw(
    volume: NDArray[Any],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    value: int,
) -> None:
    """Write a value into the runs of some columns."""
    for k in range(rows.size):
        for h in range(low[rows[k], columns[k]], high[rows[k], columns[k]] + 1):
            volume[h, rows[k], columns[k]] = value


def _turn(axis: int) -> tuple[int, int, int]:
    """The axis of the heights, and those of the map's rows and columns."""
    rows, columns = (other for other in range(3) if other != axis)
    return axis, rows, columns


@compiled(nogil=True)
def _measure_shadows_of_voxels(voxels: NDArray[np.integer[Any]], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """As `_measure_shadows`."""
    along_z = np.zeros((shape[1], shape[2]), dtype=np.bool_)
    along_y = np.zeros((shape[0], shape[2]), dtype=np.bool_)
    along_x = np.zeros((shape[0], shape[1]), dtype=np.bool_)
    for k in range(len(voxels)):
        z, y, x = voxels[k]
        along_z[y, x] = along_y[z, x] = along_x[z, y] = True
    return np.array([along_z.sum(), along_y.sum(), along_x.sum()])


@compiled(nogil=True)
def _find_runs_of_voxels(
    voxels: NDArray[np.integer[Any]], to_h: int, to_r: int, to_c: int, n_r: int, n_c: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """As `_find_runs_of_columns`: in raster order the heights of a column rise, whichever axis they are along."""
    low, high = np.full((n_r, n_c), -1, dtype=np.int32), np.full((n_r, n_c), -1, dtype=np.int32)
    begin, last = np.zeros((n_r, n_c), dtype=np.int32), np.full((n_r, n_c), -2, dtype=np.int32)
    for k in range(len(voxels)):
        h, r, c = voxels[k, to_h], voxels[k, to_r], voxels[k, to_c]
        if last[r, c] != h - 1:
            begin[r, c] = h
        last[r, c] = h
        if low[r, c] < 0 or h - begin[r, c] > high[r, c] - low[r, c]:
            low[r, c], high[r, c] = begin[r, c], h
    return low, high


@compiled(nogil=True)
def _share_within(
    voxels: NDArray[np.integer[Any]],
    to_h: int,
    to_r: int,
    to_c: int,
    low: NDArray[np.int32],
    high: NDArray[np.int32],
) -> float:
    """Share of the voxels within one voxel of the runs."""
    inside = 0
    for k in range(len(voxels)):
        h, r, c = voxels[k, to_h], voxels[k, to_r], voxels[k, to_c]
        inside += low[r, c] - 1 <= h <= high[r, c] + 1
    return inside / max(len(voxels), 1)


@compiled(nogil=True)
def _draw_free(labels: NDArray[Any], low: NDArray[np.int32], high: NDArray[np.int32], own: int) -> None:
    """Draw a height map, without a voxel that touches another sheet."""
    n_r, n_c = low.shape
    for r in range(n_r):
        for c in range(n_c):
            if low[r, c] < 0:
                continue
            for h in range(low[r, c], high[r, c] + 1):
                if labels[h, r, c] == 0 and is_free(labels, h, r, c, own):
                    labels[h, r, c] = own
