"""The competition's score: 0.30 TopoScore + 0.35 surface Dice + 0.35 VOI score."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np

from vesuvius_kit.checks import check_array, check_integer, check_real, check_same_shape, check_spacing
from vesuvius_kit.metrics.surface_dice import surface_dice
from vesuvius_kit.metrics.topology import betti_matching_counts, octants, topology_score
from vesuvius_kit.metrics.voi import variation_of_information
from vesuvius_kit.voxel.compilation import is_compiled
from vesuvius_kit.voxel.tunnels import _sweep

logger = logging.getLogger(__name__)

TOPOLOGY_WEIGHT, SURFACE_WEIGHT, VOI_WEIGHT = 0.30, 0.35, 0.35


class LeaderboardScore(NamedTuple):
    """The competition's score of one volume and its parts.

    Attributes
    ----------
    score : float
        0.30 ``toposcore`` + 0.35 ``surface_dice`` + 0.35 ``voi_score``.
    toposcore : float
        Weighted mean of ``topo_f1`` over the active dimensions.
    topo_f1 : numpy.ndarray
        float64, (3,): F1 of components, tunnels, cavities; NaN where a dimension is inactive.
    topo_counts : numpy.ndarray
        int64, (3, 3): a row for each dimension, columns matched, predicted, labelled, summed over the octants.
    surface_dice : float
        Surface Dice within the tolerance.
    voi_score : float
        ``1 / (1 + voi_alpha (voi_split + voi_merge))``.
    voi_split : float
        H(prediction | label), in bits.
    voi_merge : float
        H(label | prediction), in bits.
    """

    score: float
    toposcore: float
    topo_f1: np.ndarray
    topo_counts: np.ndarray
    surface_dice: float
    voi_score: float
    voi_split: float
    voi_merge: float


def leaderboard_score(
    prediction,
    label,
    *,
    surface_tolerance=2.0,
    voi_alpha=0.3,
    ignore_label=2,
    ignore_mask=None,
    spacing=(1, 1, 1),
):
    """Compute the score of the "Vesuvius Challenge - Surface Detection" for one volume.

    Exact: the counts equal those of the competition's program, the scores differ by rounding only. ``docs/metric.md`` has the
    rules. Uses as many threads as `numba.get_num_threads` says.

    Parameters
    ----------
    prediction : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype and memory order; non-zero is foreground and NaN is background.
    label : numpy.ndarray
        The same shape; 0 background, ``ignore_label`` unlabelled, anything else surface.
    surface_tolerance : float
        Inclusive, >= 0, in the unit of ``spacing``.
    voi_alpha : float
        Weight of the variation of information, >= 0. The competition uses 0.3.
    ignore_label : int or None
        Where the label has this value both volumes become background. None: no such value.
    ignore_mask : numpy.ndarray, optional
        (Z, Y, X): non-zero voxels become background in both volumes. It replaces ``ignore_label``.
    spacing : sequence of 3 floats
        Voxel size along z, y, x; only the surface Dice has a use for it.

    Returns
    -------
    LeaderboardScore
        Two empty volumes, volumes of size 0 among them, score 1.

    Raises
    ------
    InputTypeError, InputValueError
        Not numeric arrays of three dimensions and the same shape, or a setting out of its range.
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
        surface = pool.submit(surface_dice, *masks, tolerance=surface_tolerance, spacing=spacing)
        blocks = [
            pool.submit(betti_matching_counts, masks[0][octant], masks[1][octant]) for octant in octants(label.shape)
        ]
        information = pool.submit(variation_of_information, *masks)
        counts = np.sum([block.result() for block in blocks], axis=0)
        surface, information = surface.result(), information.result()
    toposcore, f1 = topology_score(counts)
    voi_score = 1.0 / (1.0 + voi_alpha * (information.split + information.merge))
    # In this order a perfect volume scores 1 and not a rounding less.
    score = SURFACE_WEIGHT * surface + VOI_WEIGHT * voi_score + TOPOLOGY_WEIGHT * toposcore
    return LeaderboardScore(score, toposcore, f1, counts, surface, voi_score, information.split, information.merge)


def is_compilation_due():
    """Tell whether the next score has to compile its kernels first.

    Returns
    -------
    bool
        False once they are loaded, or lie in numba's cache for this version of Python, or numba is switched off.
    """
    return not is_compiled(_sweep)


def _prepare(prediction, label, ignore_label, ignore_mask):
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
