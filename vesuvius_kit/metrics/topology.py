"""TopoScore: matched Betti features of prediction and label, octant by octant."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_same_shape
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.components import find_runs
from vesuvius_kit.voxel.cubical import count_cavities, euler_characteristic, pair_cavities, pair_components
from vesuvius_kit.voxel.tunnels import pair_tunnels

DIMENSION_WEIGHTS = (0.34, 0.33, 0.33)
"""Weights of components, tunnels and cavities in the TopoScore."""
FEATURE = np.dtype(
    [
        ("side", "U10"),
        ("dimension", np.int8),
        ("octant", np.int8),
        ("birth", np.int32, 3),
        ("death", np.int32, 3),
        ("partner", np.int64),
    ]
)
"""What `betti_matching_features` tells of a feature."""
_PAIRINGS = (pair_components, pair_tunnels, pair_cavities)


def betti_matching_counts(prediction_mask: NDArray[Any], label_mask: NDArray[Any]) -> NDArray[np.int64]:
    """Count the features of two masks and those that match (Stucki et al., arXiv:2407.04683), in one block.

    (3, 3): a row for each dimension (components but one, tunnels, cavities), columns matched, predicted, labelled. Zeros for
    empty masks.

    Parameters
    ----------
    prediction_mask, label_mask
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground and NaN is background.

    Examples
    --------
    A ring has a tunnel; where one voxel is missing it has none.

    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> label = np.zeros((1, 5, 5), dtype=bool)
    >>> label[0, 1:4, 1:4] = True
    >>> label[0, 2, 2] = False
    >>> prediction = label.copy()
    >>> prediction[0, 1, 2] = False
    >>> vk.betti_matching_counts(prediction, label).tolist()
    [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    """
    parts = pack_mask(prediction_mask), pack_mask(label_mask)
    check_same_shape("prediction_mask", prediction_mask, "label_mask", label_mask)
    n_x = label_mask.shape[2]
    union = parts[0] | parts[1]
    counts = np.zeros((3, 3), dtype=np.int64)
    for side, words in enumerate(parts, start=1):
        components = find_runs(words, connectivity=6).count
        cavities = count_cavities(words, n_x)
        tunnels = components + cavities - euler_characteristic(words)
        counts[:, side] = max(components - 1, 0), tunnels, cavities
    for dimension, pair in enumerate(_PAIRINGS):
        counts[dimension, 0] = _count_matches(*pair(union, parts, n_x))
    return counts


def betti_matching_features(
    prediction_mask: NDArray[Any], label_mask: NDArray[Any], *, by_octant: bool = True
) -> NDArray[np.void]:
    """List every feature of two masks, where it is born and dies, and which feature of the other it matches.

    A component is born at its first voxel and dies at the edge over which it meets an elder one while the background fills in;
    a tunnel is born with the edge that closes a way round it and dies at the square that closes it; a cavity is born with the
    square above its last voxel and dies at that voxel.

    The result is structured, one entry a feature, none for empty masks: ``side`` ("prediction" or "label"), ``dimension`` (0
    component, 1 tunnel, 2 cavity), ``octant`` (0 to 7 in z-major order, -1 for the whole volume), ``birth`` and ``death``
    (positions (z, y, x) in the whole volume), ``partner`` (index of the entry that it matches, -1 for none).

    Parameters
    ----------
    prediction_mask, label_mask
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground and NaN is background. Unlabelled voxels are for the
        caller to clear in both.
    by_octant
        Match each octant on its own, as the competition's score does; otherwise the whole volume as one block, as
        `betti_matching_counts` does.

    Examples
    --------
    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> ring = np.zeros((1, 5, 5), dtype=bool)
    >>> ring[0, 1:4, 1:4] = True
    >>> ring[0, 2, 2] = False
    >>> for feature in vk.betti_matching_features(ring, ring, by_octant=False):
    ...     print(feature["side"], int(feature["dimension"]), feature["death"].tolist(), int(feature["partner"]))
    prediction 1 [0, 2, 2] 1
    label 1 [0, 2, 2] 0
    """
    check_array("prediction_mask", prediction_mask)
    check_array("label_mask", label_mask)
    check_same_shape("prediction_mask", prediction_mask, "label_mask", label_mask)
    blocks = octants(label_mask.shape) if by_octant else [(slice(0, None),) * 3]
    tables = [np.empty(0, dtype=FEATURE)]
    n_before = 0
    for number, block in enumerate(blocks):
        table = _list_features(prediction_mask[block], label_mask[block])
        table["octant"] = number if by_octant else -1
        for field in ("birth", "death"):
            table[field] += [axis.start for axis in block]
        table["partner"][table["partner"] >= 0] += n_before
        n_before += len(table)
        tables.append(table)
    return np.concatenate(tables)


def _list_features(prediction_mask: NDArray[Any], label_mask: NDArray[Any]) -> NDArray[np.void]:
    """List the features of one block."""
    parts = pack_mask(prediction_mask), pack_mask(label_mask)
    n_x = label_mask.shape[2]
    tables, matches, n = [], [], 0
    for dimension, pair in enumerate(_PAIRINGS):
        births_at = []
        for side, words, pairs in zip(("prediction", "label"), parts, pair(parts[0] | parts[1], parts, n_x)):
            own = pair(words, (words, words), n_x)[0]
            table = np.zeros(len(own), dtype=FEATURE)
            table["side"], table["dimension"], table["partner"] = side, dimension, -1
            table["birth"], table["death"] = own[:, :3], own[:, 4:7]
            tables.append(table)
            index = {tuple(birth): n + i for i, birth in enumerate(own[:, :4].tolist())}
            births_at.append({tuple(row[4:]): index[tuple(row[:4])] for row in pairs.tolist()})
            n += len(own)
        matches += [(births_at[0][death], births_at[1][death]) for death in births_at[0].keys() & births_at[1].keys()]
    features = np.concatenate(tables)
    for first, second in matches:
        features["partner"][first], features["partner"][second] = second, first
    return features


def _count_matches(prediction_pairs: NDArray[np.int64], label_pairs: NDArray[np.int64]) -> int:
    deaths = np.concatenate([prediction_pairs[:, 4:], label_pairs[:, 4:]])
    return len(deaths) - len(np.unique(deaths, axis=0))


def octants(shape: Sequence[int]) -> list[tuple[slice, slice, slice]]:
    """List the octants of a (Z, Y, X) shape in z-major order: the first half takes the odd voxel, the second may be empty."""
    halves = [(slice(0, -(-size // 2)), slice(-(-size // 2), size)) for size in shape]
    return [(z, y, x) for z in halves[0] for y in halves[1] for x in halves[2]]


def topology_score(counts: NDArray[np.integer]) -> tuple[float, NDArray[np.float64]]:
    """Turn counts of features, as `betti_matching_counts` gives them, into the TopoScore and the F1 values, (3,).

    F1 is ``2 matched / (predicted + labelled)``, or ``0.5 / (predicted + 0.5)`` if nothing is labelled. If nothing is predicted
    either, it is NaN, and the dimension inactive. The TopoScore is the mean over the active dimensions with weights 0.34, 0.33,
    0.33; 1 if there is none.
    """
    check_array("counts", counts, ndim=2, kinds="iu")
    f1 = np.full(3, np.nan)
    for dimension, (matched, predicted, labelled) in enumerate(counts):
        if labelled > 0:
            f1[dimension] = 2.0 * matched / (predicted + labelled)
        elif predicted > 0:
            f1[dimension] = 0.5 / (predicted + 0.5)
    active = ~np.isnan(f1)
    if not active.any():
        return 1.0, f1
    weights = np.array(DIMENSION_WEIGHTS)[active]
    return float(f1[active] @ weights / weights.sum()), f1
