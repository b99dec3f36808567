"""Bridges: those along a sheet that are missing, and those between wraps that should not be there."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_integer, check_real
from vesuvius_kit.postprocess.promises import ADDS_ONLY, JOINS_NOTHING, REMOVES_ONLY, promise
from vesuvius_kit.postprocess.ridges import differentiate, find_sharpest, for_smooth_planes, smooth_gaussian
from vesuvius_kit.postprocess.sheets import is_free
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import find_runs, paint_runs
from vesuvius_kit.voxel.morphology import box_rows, dilate_words

_TURNS = 2 * np.pi * np.arange(16) / 16
_DIRECTIONS = np.stack([np.cos(_TURNS), np.sin(_TURNS)], axis=1)


@promise(REMOVES_ONLY)
def cut_bridges(
    mask: NDArray[np.bool_], radius: int = 6, min_share: float = 0.35, sigma: float = 3.0
) -> NDArray[np.bool_]:
    """Remove the voxels that have no sheet around them: thin bridges between wraps, spurs and crumbs.

    The normal at a voxel is that of the smoothed mask, so near a bridge it is the normal of the wraps. A voxel stays when
    enough of the disc across that normal, one voxel up or down allowed, is mask. What lies beyond the faces counts neither
    way. It is an opening by discs that follow the sheet, in the spirit of path openings (Talbot and Appleton, IVC 25, 2007).

    Parameters
    ----------
    mask
        (Z, Y, X).
    radius
        Of the disc, in voxels, at least 1.
    min_share
        Share of the disc, in [0, 1]. At a straight edge of a sheet it is 0.5.
    sigma
        Standard deviation of the smoothing, in voxels, > 0.
    """
    check_array("mask", mask, kinds="b")
    radius = check_integer("radius", radius, minimum=1)
    min_share = check_real("min_share", min_share, minimum=0, maximum=1)
    sigma = check_real("sigma", sigma, above=0)
    if not mask.any():
        return mask.copy()
    smooth = smooth_gaussian(mask, sigma)
    return _keep_supported(np.ascontiguousarray(mask), smooth, _disc_offsets(radius), min_share)


@promise(ADDS_ONLY, JOINS_NOTHING)
def bridge_gaps(
    mask: NDArray[np.bool_], length: int = 8, sigma: float = 2.5, min_cosine: float = 0.8
) -> NDArray[np.bool_]:
    """Draw straight bridges over the gaps of a sheet, along its tangent plane.

    From every voxel at the edge of a sheet rays run along its tangent plane; one that meets the same sheet again, of much the
    same normal, is filled. The rays are two voxels thick across the sheet. A voxel that touches another sheet, or a bridge of
    another, is not drawn.

    Parameters
    ----------
    mask
        (Z, Y, X).
    length
        Longest bridge, in voxels, at least 2.
    sigma
        Standard deviation of the smoothing that gives the normals, in voxels, > 0.
    min_cosine
        Of the angle between the normals at both ends, in [0, 1].

    Notes
    -----
    The straight case of tensor voting: Medioni, Lee, Tang, "A Computational Framework for Segmentation and Grouping", 2000.
    """
    check_array("mask", mask, kinds="b")
    length = check_integer("length", length, minimum=2)
    sigma = check_real("sigma", sigma, above=0)
    min_cosine = check_real("min_cosine", min_cosine, minimum=0, maximum=1)
    result = np.array(mask, order="C")
    if not mask.any():
        return result
    words = pack_mask(mask)
    near = dilate_words(words, box_rows(1), mask.shape[2])
    runs = find_runs(words, 26)
    labels = paint_runs(runs, mask.shape, np.min_scalar_type(runs.count))
    found: dict[int, tuple[NDArray[np.int64], NDArray[Any]]] = {}

    def work(smooth: NDArray[np.float32], offset: int, start: int, stop: int) -> None:
        found[start] = _find_bridges(labels, near, smooth, offset, start, stop, length, min_cosine)

    for_smooth_planes(result, sigma, work, margin=length + 2)
    # In the order of the planes, whichever thread found them: where two sheets want one voxel the first has it.
    for start in sorted(found):
        _draw_bridges(labels, *found[start], result)
    return result


def _disc_offsets(radius: int) -> NDArray[np.float64]:
    """Integer points of a disc but its middle, (n, 2)."""
    first, second = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    inside = (first**2 + second**2 <= radius**2) & ((first != 0) | (second != 0))
    return np.stack([first[inside], second[inside]], axis=1).astype(np.float64)


@compiled(nogil=True)
def _tangents(normal: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]) -> None:
    """Write two unit vectors across a normal."""
    k = 0
    for axis in range(1, 3):
        if abs(normal[axis]) < abs(normal[k]):
            k = axis
    for axis in range(3):
        first[axis] = -normal[k] * normal[axis]
    first[k] += 1.0
    length = math.sqrt(first[0] ** 2 + first[1] ** 2 + first[2] ** 2)
    for axis in range(3):
        first[axis] /= length
    second[0] = normal[1] * first[2] - normal[2] * first[1]
    second[1] = normal[2] * first[0] - normal[0] * first[2]
    second[2] = normal[0] * first[1] - normal[1] * first[0]


@compiled(nogil=True)
def _keep_supported(
    mask: NDArray[np.bool_], smooth: NDArray[np.float32], disc: NDArray[np.float64], min_share: float
) -> NDArray[np.bool_]:
    """The voxels that have enough of the disc in the mask."""
    n_z, n_y, n_x = mask.shape
    result = np.zeros(mask.shape, dtype=np.bool_)
    gradient, hessian, normal = np.empty(3), np.empty(6), np.empty(3)
    first, second = np.empty(3), np.empty(3)
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                if not mask[z, y, x]:
                    continue
                differentiate(smooth, z, y, x, gradient, hessian)
                find_sharpest(hessian, normal)
                _tangents(normal, first, second)
                hits, tries = 0, 0
                for k in range(disc.shape[0]):
                    a = z + disc[k, 0] * first[0] + disc[k, 1] * second[0]
                    b = y + disc[k, 0] * first[1] + disc[k, 1] * second[1]
                    c = x + disc[k, 0] * first[2] + disc[k, 1] * second[2]
                    if a < -0.5 or b < -0.5 or c < -0.5 or a >= n_z - 0.5 or b >= n_y - 0.5 or c >= n_x - 0.5:
                        continue
                    tries += 1
                    if _find_near(mask, a, b, c, normal) < 9:
                        hits += 1
                result[z, y, x] = hits >= min_share * tries
    return result


@compiled(nogil=True)
def _nearest(place: float) -> int:
    """The voxel that a place of at least -1.5 lies in."""
    return int(place + 1.5) - 1


@compiled(nogil=True)
def _find_near(mask: NDArray[Any], a: float, b: float, c: float, normal: NDArray[np.float64]) -> int:
    """The step along the normal, 0, 1 or -1, at which a point meets the mask; 9 if it does not."""
    n_z, n_y, n_x = mask.shape
    for step in (0, 1, -1):
        z, y, x = _nearest(a + step * normal[0]), _nearest(b + step * normal[1]), _nearest(c + step * normal[2])
        if 0 <= z < n_z and 0 <= y < n_y and 0 <= x < n_x and mask[z, y, x]:
            return step
    return 9


@compiled(nogil=True)
def _find_bridges(
    labels: NDArray[Any],
    near: NDArray[np.uint64],
    smooth: NDArray[np.float32],
    offset: int,
    start: int,
    stop: int,
    length: int,
    min_cosine: float,
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The voxels of the bridges that begin in the planes from ``start`` to ``stop``, and the sheets they belong to."""
    n_z, n_y, n_x = labels.shape
    gradient, hessian, normal, other = np.empty(3), np.empty(6), np.empty(3), np.empty(3)
    first, second, ray = np.empty(3), np.empty(3), np.empty(3)
    voxels, owners = np.empty(1024, dtype=np.int64), np.empty(1024, dtype=labels.dtype)
    n = 0
    for z in range(start, stop):
        for y in range(n_y):
            # Every second voxel, as on a chessboard: the rays lie close enough.
            for x in range((z + y) % 2, n_x, 2):
                own = labels[z, y, x]
                if own == 0 or _is_inside(labels, z, y, x):
                    continue
                differentiate(smooth, z - offset, y, x, gradient, hessian)
                find_sharpest(hessian, normal)
                _tangents(normal, first, second)
                if not _is_at_rim(labels, z, y, x, first, second, normal):
                    continue
                for k in range(_DIRECTIONS.shape[0]):
                    for axis in range(3):
                        ray[axis] = _DIRECTIONS[k, 0] * first[axis] + _DIRECTIONS[k, 1] * second[axis]
                    s, step = _look_along(labels, near, z, y, x, ray, normal, length)
                    if s == 0:
                        continue
                    p = _nearest(z + s * ray[0] + step * normal[0])
                    q = _nearest(y + s * ray[1] + step * normal[1])
                    r = _nearest(x + s * ray[2] + step * normal[2])
                    if labels[p, q, r] != own:
                        continue
                    differentiate(smooth, p - offset, q, r, gradient, hessian)
                    find_sharpest(hessian, other)
                    if abs(normal[0] * other[0] + normal[1] * other[1] + normal[2] * other[2]) < min_cosine:
                        continue
                    if n + 3 * s > voxels.size:
                        voxels, owners = (
                            np.append(voxels, np.empty_like(voxels)),
                            np.append(owners, np.empty_like(owners)),
                        )
                    for t in range(1, s):
                        lift = step * t / s
                        for thick in (0.0, 0.5, -0.5):
                            p = _nearest(z + t * ray[0] + (lift + thick) * normal[0])
                            q = _nearest(y + t * ray[1] + (lift + thick) * normal[1])
                            r = _nearest(x + t * ray[2] + (lift + thick) * normal[2])
                            if 0 <= p < n_z and 0 <= q < n_y and 0 <= r < n_x and labels[p, q, r] == 0:
                                voxels[n], owners[n] = (p * n_y + q) * n_x + r, own
                                n += 1
    return voxels[:n], owners[:n]


@compiled(nogil=True)
def _is_inside(labels: NDArray[Any], z: int, y: int, x: int) -> bool:
    """Whether all six face neighbours are foreground."""
    n_z, n_y, n_x = labels.shape
    if not (0 < z < n_z - 1 and 0 < y < n_y - 1 and 0 < x < n_x - 1):
        return False
    return (
        labels[z - 1, y, x] != 0 and labels[z + 1, y, x] != 0 and labels[z, y - 1, x] != 0
        and labels[z, y + 1, x] != 0 and labels[z, y, x - 1] != 0 and labels[z, y, x + 1] != 0
    )  # fmt: skip


@compiled(nogil=True)
def _is_at_rim(
    labels: NDArray[Any],
    z: int,
    y: int,
    x: int,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    normal: NDArray[np.float64],
) -> bool:
    """Whether the mask is missing two steps away in one of four directions; even a small hole is a quarter turn wide there."""
    for k in range(4):
        u, v = 2 * (k == 0) - 2 * (k == 1), 2 * (k == 2) - 2 * (k == 3)
        a, b, c = z + u * first[0] + v * second[0], y + u * first[1] + v * second[1], x + u * first[2] + v * second[2]
        if _find_near(labels, a, b, c, normal) == 9:
            return True
    return False


@compiled(nogil=True)
def _look_along(
    labels: NDArray[Any],
    near: NDArray[np.uint64],
    z: int,
    y: int,
    x: int,
    ray: NDArray[np.float64],
    normal: NDArray[np.float64],
    length: int,
) -> tuple[int, int]:
    """The number of steps to where a ray meets the mask again beyond a gap, 0 if it does not, and the step aside there."""
    n_z, n_y, n_x = labels.shape
    for s in range(2, length + 2):
        a, b, c = z + s * ray[0], y + s * ray[1], x + s * ray[2]
        if a < 0 or b < 0 or c < 0 or a > n_z - 1 or b > n_y - 1 or c > n_x - 1:
            return 0, 0
        # A step along the normal is one voxel at most: where none is near there is nothing to find.
        r = _nearest(c)
        if not near[_nearest(a), _nearest(b), r >> 6] >> np.uint64(r & 63) & np.uint64(1):
            continue
        step = _find_near(labels, a, b, c, normal)
        if step != 9:
            return (s if s > 2 else 0), step
    return 0, 0


@compiled(nogil=True)
def _draw_bridges(
    labels: NDArray[Any], voxels: NDArray[np.int64], owners: NDArray[Any], result: NDArray[np.bool_]
) -> None:
    """Set the voxels that touch no other sheet, in their order; ``labels`` is changed too."""
    _, n_y, n_x = labels.shape
    for k in range(voxels.size):
        z, y, x = voxels[k] // (n_y * n_x), voxels[k] // n_x % n_y, voxels[k] % n_x
        if labels[z, y, x] == 0 and is_free(labels, z, y, x, owners[k]):
            labels[z, y, x] = owners[k]
            result[z, y, x] = True
