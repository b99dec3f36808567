"""Wraps put together from fragments: pieces that lie edge to edge are one sheet, pieces that lie face to face are two."""

import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_integer, check_real, check_same_shape
from vesuvius_kit.postprocess.promises import ADDS_ONLY, promise
from vesuvius_kit.postprocess.ridges import differentiate, find_sharpest, smooth_gaussian
from vesuvius_kit.postprocess.sheets import count_values, grow_labels, is_free, rank_levels
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import label_components


@promise(ADDS_ONLY)
def assemble_wraps(
    probability: NDArray[np.floating[Any]],
    mask: NDArray[np.bool_],
    t_low: float = 0.08,
    min_contact: int = 4,
    max_overlap: float = 0.05,
    reach: int = 12,
    sigma: float = 2.5,
) -> NDArray[np.bool_]:
    """Grow the components of a mask until they meet, and join those that continue one another.

    Fragments grow within the voxels of at least ``t_low``, the strongest first, up to a seam between them. Two of them
    overlap where a line along the normal leads from one to the other. They are joined, longest seam first, unless they
    overlap, or unless what they have been joined to so far does: a merger of two wraps is a short seam between fragments
    that lie face to face elsewhere. The seams inside a wrap are filled, those between wraps stay open. The greedy joining, with
    pairs that must not be joined, is that of the Mutex Watershed (Wolf et al., ECCV 2018).

    Parameters
    ----------
    probability
        (Z, Y, X), in [0, 1].
    mask
        Of that shape, thin: the result of a high threshold, so that no fragment holds two wraps.
    min_contact
        Voxels of seam that two fragments must share, at least 1.
    max_overlap
        Share of the smaller one's voxels that may overlap, in [0, 1].
    reach
        Length of the lines, in voxels, at least 3: less than the distance to the wrap after the next.
    sigma
        Standard deviation of the smoothing that gives the normals, in voxels, > 0.
    """
    check_array("probability", probability, kinds="f")
    check_array("mask", mask, kinds="b")
    check_same_shape("probability", probability, "mask", mask)
    t_low = check_real("t_low", t_low, minimum=0, maximum=1)
    min_contact = check_integer("min_contact", min_contact, minimum=1)
    max_overlap = check_real("max_overlap", max_overlap, minimum=0, maximum=1)
    reach = check_integer("reach", reach, minimum=3)
    sigma = check_real("sigma", sigma, above=0)
    if not mask.any():
        return mask.copy()
    labels, count = label_components(mask, 26)
    levels = rank_levels(probability, mask, t_low)
    grown = grow_labels(labels, levels, count_values(levels, 255))
    del levels
    seam, pairs = _list_contacts(labels, grown)
    contacts = _count_pairs(pairs)
    overlaps = _count_pairs(_list_overlaps(labels, smooth_gaussian(labels > 0, sigma), reach))
    sizes = count_values(labels, count)
    group = _join(sizes, contacts, overlaps, min_contact, max_overlap)
    labels = group[labels]
    _fill_seams(labels, seam)
    return labels > 0


def _count_pairs(pairs: NDArray[np.int32]) -> dict[tuple[int, int], int]:
    """How often each pair of labels stands in a list of pairs, the smaller label first."""
    found, times = np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)
    return {tuple(pair): n for pair, n in zip(found.tolist(), times.tolist())}


def _join(
    label_sizes: NDArray[np.int64],
    contacts: Mapping[tuple[int, int], int],
    overlaps: Mapping[tuple[int, int], int],
    min_contact: int,
    max_overlap: float,
) -> NDArray[np.int32]:
    """The group of each label: its smallest label."""
    sizes: list[int] = label_sizes.tolist()
    group = list(range(len(sizes)))
    touching: list[dict[int, int]] = [{} for _ in sizes]
    facing: list[dict[int, int]] = [{} for _ in sizes]
    for table, counts in ((touching, contacts), (facing, overlaps)):
        for (a, b), n in counts.items():
            table[a][b] = table[b][a] = n
    waiting = [(-n, a, b) for (a, b), n in contacts.items() if n >= min_contact]
    heapq.heapify(waiting)
    while waiting:
        n, a, b = heapq.heappop(waiting)
        # An entry is out of date when one of the two was joined to another since.
        if group[a] != a or group[b] != b or touching[a].get(b) != -n:
            continue
        if facing[a].get(b, 0) > max_overlap * min(sizes[a], sizes[b]):
            continue
        group[b] = a
        sizes[a] += sizes[b]
        for table in (touching, facing):
            table[a].pop(b, None)
            table[b].pop(a, None)
            for c, times in table[b].items():
                del table[c][b]
                table[a][c] = table[c][a] = table[a].get(c, 0) + times
            table[b] = {}
        for c, times in touching[a].items():
            if times >= min_contact:
                heapq.heappush(waiting, (-times, min(a, c), max(a, c)))
    for label in range(len(group)):
        group[label] = group[group[label]]  # the smaller label of a pair stays, so groups are known in rising order
    return np.array(group, dtype=np.int32)


@compiled(nogil=True)
def _list_contacts(
    labels: NDArray[np.int32], looked_at: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The seam, as flat positions, and the pairs of labels that meet at each of its voxels."""
    n_z, n_y, n_x = labels.shape
    n_seam, n_pairs = 0, 0
    for at in looked_at:
        n_seam += labels[at // (n_y * n_x), at // n_x % n_y, at % n_x] == 0
    seam = np.empty(n_seam, dtype=np.int64)
    pairs = np.empty((3 * n_seam, 2), dtype=np.int32)
    near = np.empty(3, dtype=np.int32)
    n_seam = 0
    for at in looked_at:
        z, y, x = at // (n_y * n_x), at // n_x % n_y, at % n_x
        if labels[z, y, x] != 0:
            continue
        seam[n_seam] = at
        n_seam += 1
        n = 0
        for a in range(max(z - 1, 0), min(z + 2, n_z)):
            for b in range(max(y - 1, 0), min(y + 2, n_y)):
                for c in range(max(x - 1, 0), min(x + 2, n_x)):
                    label = labels[a, b, c]
                    if label == 0 or n == 3:
                        continue
                    known = False
                    for k in range(n):
                        known |= near[k] == label
                    if not known:
                        near[n] = label
                        n += 1
        for j in range(n):
            for k in range(j):
                pairs[n_pairs, 0], pairs[n_pairs, 1] = near[j], near[k]
                n_pairs += 1
    return seam, pairs[:n_pairs]


@compiled(nogil=True)
def _list_overlaps(labels: NDArray[np.int32], smooth: NDArray[np.float32], reach: int) -> NDArray[np.int32]:
    """For every voxel and either side, the pair of its label and the next one along the normal."""
    n_z, n_y, n_x = labels.shape
    total: int | np.integer[Any] = 0
    for label in labels.ravel():
        total += label > 0
    pairs = np.empty((2 * total, 2), dtype=np.int32)
    gradient, hessian, normal = np.empty(3), np.empty(6), np.empty(3)
    n = 0
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                own = labels[z, y, x]
                if own == 0:
                    continue
                differentiate(smooth, z, y, x, gradient, hessian)
                find_sharpest(hessian, normal)
                for side in (-1, 1):
                    for s in range(3, reach + 1):
                        a = round(z + side * s * normal[0])
                        b = round(y + side * s * normal[1])
                        c = round(x + side * s * normal[2])
                        if a < 0 or b < 0 or c < 0 or a >= n_z or b >= n_y or c >= n_x:
                            break
                        other = labels[a, b, c]
                        if other != 0:
                            if other != own:
                                pairs[n, 0], pairs[n, 1] = own, other
                                n += 1
                                break
                            if s > 4:
                                break
    return pairs[:n]


@compiled(nogil=True)
def _fill_seams(labels: NDArray[np.int32], seam: NDArray[np.int64]) -> None:
    """Set the seam voxels all of whose neighbours belong to one group."""
    n_z, n_y, n_x = labels.shape
    for at in seam:
        z, y, x = at // (n_y * n_x), at // n_x % n_y, at % n_x
        own = 0
        for a in range(max(z - 1, 0), min(z + 2, n_z)):
            for b in range(max(y - 1, 0), min(y + 2, n_y)):
                for c in range(max(x - 1, 0), min(x + 2, n_x)):
                    own = max(own, labels[a, b, c])
        if is_free(labels, z, y, x, own):
            labels[z, y, x] = own
