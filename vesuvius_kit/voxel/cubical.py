"""Cells of masks: the Euler characteristic, and the components and cavities of two masks inside their union.

The complex of a mask has its voxels as vertices, face-adjacent pairs as edges, 2x2 voxels as squares and 2x2x2 voxels
as cubes. `pair_components`, `pair_cavities` and `vesuvius_kit.voxel.tunnels.pair_tunnels` have one form: they follow
the features of each part in the union, while all that is not in the union fills in cell by cell in raster order (position
(z, y, x), then type). A feature is born with one cell and dies with another; features of the two parts match if they
die with the same cell (the induced matching of Betti features, Stucki et al., arXiv:2407.04683). ``docs/metric.md``
shows that raster order makes the filling so regular that little of it need be done.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array
from vesuvius_kit.voxel.bits import Words, check_parts, count_voxels, invert, shift_down
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import find_runs
from vesuvius_kit.voxel.runs import list_runs, paint_rows

_FAR = 1 << 62  # behind every voxel


def euler_characteristic(words: Words) -> int:
    """Compute vertices - edges + squares - cubes of a packed mask; 0 for one without foreground."""
    check_array("words", words, kinds="u")
    total = 0
    edges_x: Words = words & shift_down(words)
    for sign, cells in ((1, words), (-1, edges_x)):
        along_y = cells[:, :-1] & cells[:, 1:]
        total += sign * (count_voxels(cells) - count_voxels(along_y))
        total -= sign * (count_voxels(cells[:-1] & cells[1:]) - count_voxels(along_y[:-1] & along_y[1:]))
    return total


def pair_components(union: Words, parts: Sequence[Words], n_x: int) -> list[NDArray[np.int64]]:
    """Pair the components of two masks with the edges that connect them in their union.

    ``parts`` are packed masks within the union, ``n_x`` voxels long along x.

    Returns
    -------
    list
        For each part (pairs, 8): position of the first voxel of a component and 0, then position and type (0, 1, 2: along z,
        y, x) of the edge that connects it to an elder one. The eldest component, and those that the union itself connects,
        have no pair.
    """
    check_parts(union, parts)
    n_z, n_y, _ = union.shape
    runs = find_runs(union, connectivity=6)
    if not runs.count:
        return [np.empty((0, 8), dtype=np.int64) for _ in parts]
    ground = np.zeros((min(n_z, 2), n_y, n_x), dtype=np.int32)
    rows = ground.shape[0] * n_y
    paint_rows(runs.rows[: rows + 1], runs.first, runs.last, runs.labels, ground.reshape(rows, n_x))
    firsts = _first_voxels(*runs, runs.rows, runs.first, n_x)
    pairs = []
    for part in parts:
        part_rows, part_first, _ = list_runs(part)
        births, deaths = _fill_around(ground, firsts, _first_voxels(*runs, part_rows, part_first, n_x))
        cells = np.unravel_index(births, (n_z, n_y, n_x, 1)) + np.unravel_index(deaths, (n_z, n_y, n_x, 3))
        pairs.append(np.stack(cells, axis=1))
    return pairs


def pair_cavities(union: Words, parts: Sequence[Words], n_x: int) -> list[NDArray[np.int64]]:
    """Pair the cavities of two masks with the cubes that fill them last in their union.

    A cavity is a 26-connected component of background that reaches no face of the volume. ``parts`` are packed masks within
    the union, ``n_x`` voxels long along x.

    Returns
    -------
    list
        For each part (pairs, 8): position of the square across z that closes a cavity and 0, then position of the cube that
        fills what the union leaves of it and 0. A cavity that the union fills has no pair.
    """
    check_parts(union, parts)
    shape = (*union.shape[:2], n_x)
    background = find_runs(invert(union, n_x), connectivity=26)
    deaths = _last_voxels(*background, *shape)
    deaths = deaths[deaths >= 0]
    pairs = []
    for part in parts:
        if not len(deaths):
            pairs.append(np.empty((0, 8), dtype=np.int64))
            continue
        around = find_runs(invert(part, n_x), connectivity=26)
        last_voxels = _last_voxels(*around, *shape)
        # The union's cavities that lie in the same cavity of the part fill up together; the last of them tells when.
        owners = _components_at(*around, deaths, n_x)
        last_deaths = np.full(around.count + 1, -1, dtype=np.int64)
        np.maximum.at(last_deaths, owners, deaths)
        found = np.flatnonzero((last_voxels >= 0) & (last_deaths >= 0))
        z, y, x = np.unravel_index(last_voxels[found], shape)
        zeros = np.zeros_like(found)
        cells = (z + 1, y, x, zeros, *np.unravel_index(last_deaths[found], shape), zeros)
        pairs.append(np.stack(cells, axis=1))
    return pairs


def count_cavities(words: Words, n_x: int) -> int:
    """Count the cavities of a packed mask, 26-connected components of background that reach no face."""
    around = find_runs(invert(words, n_x), connectivity=26)
    n_z, n_y, _ = words.shape
    return int((_last_voxels(*around, n_z, n_y, n_x) >= 0).sum())


@compiled(nogil=True)
def _first_voxels(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    labels: NDArray[np.int32],
    count: int,
    part_rows: NDArray[np.int64],
    part_first: NDArray[np.int32],
    n_x: int,
) -> NDArray[np.int64]:
    """Return for each component the number of the first voxel of a part in it; entry 0 is not used."""
    found = np.full(count + 1, _FAR, dtype=np.int64)
    for row in range(rows.size - 1):
        run = rows[row]
        for part_run in range(part_rows[row], part_rows[row + 1]):
            while last[run] < part_first[part_run]:
                run += 1
            found[labels[run]] = min(found[labels[run]], row * n_x + part_first[part_run])
    return found


@compiled(nogil=True)
def _fill_around(
    ground: NDArray[np.int32], firsts: NDArray[np.int64], part_firsts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Connect the components of a union while its background fills in; return births and deaths of a part's components.

    ground: components in planes 0 and 1. Once plane 0 is done both planes are one tree; from then on each component joins
    it through the edge below its first voxel.
    """
    n_planes, n_y, n_x = ground.shape
    n_components = firsts.size - 1
    parent = np.arange(n_components + 1 + ground.size)
    eldest = np.full(parent.size, _FAR)
    eldest[: firsts.size] = part_firsts
    births = np.empty(n_components, dtype=np.int64)
    deaths = np.empty(n_components, dtype=np.int64)
    n = 0
    for y in range(n_y):
        for x in range(n_x):
            for kind in range(3):
                other_z, other_y, other_x = (
                    (1 if kind == 0 else 0),
                    (y + 1 if kind == 1 else y),
                    (x + 1 if kind == 2 else x),
                )
                if other_z >= n_planes or other_y >= n_y or other_x >= n_x:
                    continue
                a, b = ground[0, y, x], ground[other_z, other_y, other_x]
                if a == 0:
                    a = n_components + 1 + y * n_x + x
                if b == 0:
                    b = n_components + 1 + (other_z * n_y + other_y) * n_x + other_x
                while parent[a] != a:
                    parent[a] = parent[parent[a]]
                    a = parent[a]
                while parent[b] != b:
                    parent[b] = parent[parent[b]]
                    b = parent[b]
                if a != b:
                    if eldest[a] < _FAR and eldest[b] < _FAR:
                        births[n], deaths[n] = max(eldest[a], eldest[b]), (y * n_x + x) * 3 + kind
                        n += 1
                    parent[max(a, b)] = min(a, b)
                    eldest[min(a, b)] = min(eldest[a], eldest[b])
    a = n_components + 1 if ground[0, 0, 0] == 0 else ground[0, 0, 0]
    while parent[a] != a:
        a = parent[a]
    everything = eldest[a]
    for component in range(1, n_components + 1):
        if firsts[component] >= 2 * n_y * n_x and part_firsts[component] < _FAR:
            if everything < _FAR:
                births[n], deaths[n] = max(everything, part_firsts[component]), (firsts[component] - n_y * n_x) * 3
                n += 1
            everything = min(everything, part_firsts[component])
    return births[:n], deaths[:n]


@compiled(nogil=True)
def _last_voxels(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    labels: NDArray[np.int32],
    count: int,
    n_z: int,
    n_y: int,
    n_x: int,
) -> NDArray[np.int64]:
    """Return for each component the number of its last voxel, or -1 if it reaches a face; entry 0 is -1."""
    found = np.zeros(count + 1, dtype=np.int64)
    found[0] = -1
    for row in range(rows.size - 1):
        z, y = row // n_y, row % n_y
        on_face = z == 0 or z == n_z - 1 or y == 0 or y == n_y - 1
        for run in range(rows[row], rows[row + 1]):
            if on_face or first[run] == 0 or last[run] == n_x - 1:
                found[labels[run]] = -1
            elif found[labels[run]] >= 0:
                found[labels[run]] = row * n_x + last[run]
    return found


@compiled(nogil=True)
def _components_at(
    rows: NDArray[np.int64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    labels: NDArray[np.int32],
    count: int,
    voxels: NDArray[np.int64],
    n_x: int,
) -> NDArray[np.int64]:
    """Return the component that each of the voxels, all of them foreground, lies in."""
    found = np.empty(voxels.size, dtype=np.int64)
    for i in range(voxels.size):
        run = rows[voxels[i] // n_x]
        while last[run] < voxels[i] % n_x:
            run += 1
        found[i] = labels[run]
    return found
