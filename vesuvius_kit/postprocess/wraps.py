"""Wraps put together from fragments: pieces that lie edge to edge are one sheet, pieces that lie face to face are two."""

import heapq

import numpy as np

from vesuvius_kit.checks import check_array, check_integer, check_real, check_same_shape
from vesuvius_kit.postprocess.promises import ADDS_ONLY, promise
from vesuvius_kit.postprocess.ridges import _differentiate, _sharpest, smooth_gaussian
from vesuvius_kit.postprocess.sheets import _count_values, _grow_labels, _is_free, rank_levels
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import label_components


@promise(ADDS_ONLY)
def assemble_wraps(probability, mask, t_low=0.08, min_contact=4, max_overlap=0.05, reach=12, sigma=2.5) -> np.ndarray:
    """Grow the components of a mask until they meet, and join those that continue one another.

    Fragments grow within the voxels of at least ``t_low``, the strongest first, up to a seam between them. Two of them
    overlap where a line along the normal leads from one to the other. They are joined, longest seam first, unless they
    overlap, or unless what they have been joined to so far does: a merger of two wraps is a short seam between fragments
    that lie face to face elsewhere. The seams inside a wrap are filled, those between wraps stay open.

    Parameters
    ----------
    probability : numpy.ndarray
        (Z, Y, X), float in [0, 1].
    mask : numpy.ndarray
        (Z, Y, X) bool, thin: the result of a high threshold, so that no fragment holds two wraps.
    t_low : float
        In [0, 1].
    min_contact : int
        Voxels of seam that two fragments must share, at least 1.
    max_overlap : float
        Share of the smaller one's voxels that may overlap, in [0, 1].
    reach : int
        Length of the lines, in voxels, at least 3: less than the distance to the wrap after the next.
    sigma : float
        Standard deviation of the smoothing that gives the normals, in voxels, > 0.

    Returns
    -------
    numpy.ndarray
        bool of the same shape.

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind, dimension or shapes that differ, a parameter out of range.

    Notes
    -----
    Greedy joining of fragments with pairs that must not be joined: Wolf et al., "The Mutex Watershed", ECCV 2018.
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
    grown = _grow_labels(labels, levels, _count_values(levels, 255))
    del levels
    seam, pairs = _list_contacts(labels, grown)
    contacts = _count_pairs(pairs)
    overlaps = _count_pairs(_list_overlaps(labels, smooth_gaussian(labels > 0, sigma), reach))
    sizes = _count_values(labels, count)
    group = _join(sizes, contacts, overlaps, min_contact, max_overlap)
    labels = group[labels]
    _fill_seams(labels, seam)
    return labels > 0


def _count_pairs(pairs):
    """How often each pair of labels stands in a list of pairs, as a dict with the smaller label first."""
    found, times = np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)
    return {tuple(pair): n for pair, n in zip(found.tolist(), times.tolist())}


def _join(sizes, contacts, overlaps, min_contact, max_overlap):
    """The group of each label, int32: its smallest label."""
    sizes = sizes.tolist()
    group = list(range(len(sizes)))
    touching, facing = ([{} for _ in sizes] for _ in range(2))
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
def _list_contacts(labels, looked_at):
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
def _list_overlaps(labels, smooth, reach):
    """For every voxel and either side, the pair of its label and the next one along the normal."""
    n_z, n_y, n_x = labels.shape
    total = 0
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
                _differentiate(smooth, z, y, x, gradient, hessian)
                _sharpest(hessian, normal)
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
def _fill_seams(labels, seam):
    """Set the seam voxels all of whose neighbours belong to one group."""
    n_z, n_y, n_x = labels.shape
    for at in seam:
        z, y, x = at // (n_y * n_x), at // n_x % n_y, at % n_x
        own = 0
        for a in range(max(z - 1, 0), min(z + 2, n_z)):
            for b in range(max(y - 1, 0), min(y + 2, n_y)):
                for c in range(max(x - 1, 0), min(x + 2, n_x)):
                    own = max(own, labels[a, b, c])
        if _is_free(labels, z, y, x, own):
            labels[z, y, x] = own
