"""Variation of information between the components of two masks."""

from typing import NamedTuple

import numpy as np

from vesuvius_kit.checks import check_same_shape
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.components import count_overlaps, find_runs


class VariationOfInformation(NamedTuple):
    """The two halves of the variation of information, in bits.

    Attributes
    ----------
    split : float
        H(prediction | label): how much the prediction cuts the label's components apart.
    merge : float
        H(label | prediction): how much it lumps them together.
    """

    split: float
    merge: float


def variation_of_information(prediction, label):
    """Compare the 26-connected components of two masks (Meila, 2003) on the union of their foregrounds.

    Background is one more component on either side; voxels that are background in both do not count.

    Parameters
    ----------
    prediction, label : numpy.ndarray
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground and NaN is background.

    Returns
    -------
    VariationOfInformation
        ``split`` and ``merge`` in bits; both 0 if both masks are empty.

    Raises
    ------
    InputTypeError, InputValueError
        Not numeric arrays of three dimensions and the same shape.
    """
    words = pack_mask(prediction), pack_mask(label)
    check_same_shape("prediction", prediction, "label", label)
    return compare_components(*words)


def compare_components(prediction_words, label_words):
    """Do `variation_of_information` on packed masks.

    Parameters
    ----------
    prediction_words, label_words : numpy.ndarray
        uint64, (Z, Y, words), as `vesuvius_kit.voxel.bits.pack_mask` gives them.

    Returns
    -------
    VariationOfInformation

    Raises
    ------
    InputTypeError, InputValueError
        Not unsigned arrays of three dimensions and the same number of rows.
    """
    pairs, voxels = count_overlaps(find_runs(prediction_words), find_runs(label_words))
    if not len(voxels):
        return VariationOfInformation(0.0, 0.0)
    share = voxels / voxels.sum()
    in_prediction, in_label = (np.bincount(pairs[:, side], weights=share)[pairs[:, side]] for side in range(2))
    split = float(np.sum(share * np.log2(in_label / share)))
    merge = float(np.sum(share * np.log2(in_prediction / share)))
    return VariationOfInformation(split, merge)
