"""The competition's score: 0.30 TopoScore + 0.35 surface Dice + 0.35 VOI score."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_integer, check_real, check_same_shape, check_spacing
from vesuvius_kit.constants import SURFACE_TOLERANCE, UNLABELLED, VOI_ALPHA
from vesuvius_kit.metrics.surface_dice import surface_dice
from vesuvius_kit.metrics.topology import betti_matching_counts, octants, topology_score
from vesuvius_kit.metrics.voi import variation_of_information
from vesuvius_kit.voxel.compilation import is_compiled
from vesuvius_kit.voxel.tunnels import sweep

logger = logging.getLogger(__name__)

TOPOLOGY_WEIGHT, SURFACE_WEIGHT, VOI_WEIGHT = 0.30, 0.35, 0.35


class LeaderboardScore(NamedTuple):
    """The competition's score of one volume and its parts.

    Attributes
    ----------
    score
        0.30 ``toposcore`` + 0.35 ``surface_dice`` + 0.35 ``voi_score``.
    toposcore
        Weighted mean of ``topo_f1`` over the active dimensions.
    topo_f1
        (3,): F1 of components, tunnels, cavities; NaN where a dimension is inactive.
    topo_counts
        (3, 3): a row for each dimension, columns matched, predicted, labelled, summed over the octants.
    surface_dice
        Surface Dice within the tolerance.
    voi_score
        ``1 / (1 + voi_alpha (voi_split + voi_merge))``.
    voi_split
        H(prediction | label), in bits.
    voi_merge
        H(label | prediction), in bits.

    Examples
    --------
    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> label = np.zeros((8, 8, 8), dtype=np.uint8)
    >>> label[4] = 1
    >>> score = vk.leaderboard_score(label, label)
    >>> score.score, score.surface_dice, score.voi_merge
    (1.0, 1.0, 0.0)
    >>> score.topo_counts.tolist()  # one sheet: no second component, no tunnel, no cavity
    [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
    """

    score: float
    toposcore: float
    topo_f1: NDArray[np.float64]
    topo_counts: NDArray[np.int64]
    surface_dice: float
    voi_score: float
    voi_split: float
    voi_merge: float


def leaderboard_score(
    prediction: NDArray[Any],
    label: NDArray[Any],
    *,
    surface_tolerance: float = SURFACE_TOLERANCE,
    voi_alpha: float = VOI_ALPHA,
    ignore_label: int | None = UNLABELLED,
    ignore_mask: NDArray[Any] | None = None,
    spacing: Sequence[float] = (1, 1, 1),
) -> LeaderboardScore:
    """Compute the score of the "Vesuvius Challenge - Surface Detection" for one volume.

    Exact: the counts equal those of the competition's program, the scores differ by rounding only. ``docs/metric.md`` has the
    rules. Two empty volumes, volumes of size 0 among them, score 1. Uses as many threads as `numba.get_num_threads` says.

    Parameters
    ----------
    prediction
        (Z, Y, X), any numeric or bool dtype and memory order; non-zero is foreground and NaN is background.
    label
        The same shape; 0 background, ``ignore_label`` unlabelled, anything else surface.
    surface_tolerance
        Inclusive, >= 0, in the unit of ``spacing``.
    voi_alpha
        Weight of the variation of information, >= 0.
    ignore_label
        Where the label has this value both volumes become background. None: no such value.
    ignore_mask
        (Z, Y, X): non-zero voxels become background in both volumes. It replaces ``ignore_label``.
    spacing
        Voxel size along z, y, x; only the surface Dice has a use for it.

    Examples
    --------
    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> label = np.zeros((32, 32, 32), dtype=np.uint8)
    >>> label[:, 8] = label[:, 12] = 1
    >>> label[:, :, 24:] = 2  # unlabelled: whatever is predicted there does not count
    >>> prediction = label == 1
    >>> vk.leaderboard_score(prediction, label).score
    1.0
    >>> prediction[16, 8:12, 5] = True  # a bridge of three voxels makes one sheet of two
    >>> score = vk.leaderboard_score(prediction, label)
    >>> round(score.score, 3), round(score.toposcore, 3), round(score.surface_dice, 3), round(score.voi_score, 3)
    (0.875, 0.857, 1.0, 0.766)
    """
    check_array("prediction", prediction)
    check_array("label", label)
    check_same_shape("prediction", prediction, "label", label)
    surface_tolerance = check_real("surface_tolerance", surface_tolerance, minimum=0)
    voi_alpha = check_real("voi_alpha", voi_alpha, minimum=0)
    spacing = check_spacing("spacing", spacing)
    if is_compilation_due():
        logger.info("compiling the score's kernels, once per machine: about half a minute")
    masks = _prepare(prediction, label, ignore_label, ignore_mask)
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        # The longest job first, so that no thread ends alone with it.
        surface_job = pool.submit(surface_dice, *masks, tolerance=surface_tolerance, spacing=spacing)
        blocks = [
            pool.submit(betti_matching_counts, masks[0][octant], masks[1][octant]) for octant in octants(label.shape)
        ]
        information_job = pool.submit(variation_of_information, *masks)
        counts = np.sum([block.result() for block in blocks], axis=0)
        surface, information = surface_job.result(), information_job.result()
    toposcore, f1 = topology_score(counts)
    voi_score = 1.0 / (1.0 + voi_alpha * (information.split + information.merge))
    # In this order a perfect volume scores 1 and not a rounding less.
    score = SURFACE_WEIGHT * surface + VOI_WEIGHT * voi_score + TOPOLOGY_WEIGHT * toposcore
    return LeaderboardScore(score, toposcore, f1, counts, surface, voi_score, information.split, information.merge)


def is_compilation_due() -> bool:
    """Return whether the next score has to compile its kernels first; never so where numba is switched off."""
    return not is_compiled(sweep)


def _prepare(
    prediction: NDArray[Any], label: NDArray[Any], ignore_label: int | None, ignore_mask: NDArray[Any] | None
) -> list[NDArray[np.bool_]]:
    """Turn prediction and label into bool masks without the ignored voxels."""
    masks = [(volume != 0) & (volume == volume) for volume in (prediction, label)]
    if ignore_mask is not None:
        check_array("ignore_mask", ignore_mask)
        check_same_shape("ignore_mask", ignore_mask, "label", label)
        ignored = ignore_mask != 0
    elif ignore_label is not None:
        ignored = label == check_integer("ignore_label", ignore_label)
    else:
        return masks
    for mask in masks:
        mask &= ~ignored
    return masks
