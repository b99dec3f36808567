"""Variation of information between the components of two masks."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_same_shape
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.components import count_overlaps, find_runs


class VariationOfInformation(NamedTuple):
    """The two halves of the variation of information, in bits.

    Attributes
    ----------
    split
        H(prediction | label): how much the prediction cuts the label's components apart.
    merge
        H(label | prediction): how much it lumps them together.
    """

    split: float
    merge: float


def variation_of_information(prediction: NDArray[Any], label: NDArray[Any]) -> VariationOfInformation:
    """Compare the 26-connected components of two masks (Meila, 2003) on the union of their foregrounds.

    Background is one more component on either side; voxels that are background in both do not count. Both halves are 0 if
    both masks are empty.

    Parameters
    ----------
    prediction, label
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground and NaN is background.

    Examples
    --------
    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> label = np.ones((1, 1, 9), dtype=bool)
    >>> prediction = label.copy()
    >>> prediction[0, 0, 4] = False  # cuts the label's one component in two
    >>> information = vk.variation_of_information(prediction, label)
    >>> round(information.split, 3), round(information.merge, 3)
    (1.392, 0.0)
    """
    words = pack_mask(prediction), pack_mask(label)
    check_same_shape("prediction", prediction, "label", label)
    return compare_components(*words)


def compare_components(prediction_words: NDArray[np.uint64], label_words: NDArray[np.uint64]) -> VariationOfInformation:
    """Do `variation_of_information` on masks packed by `vesuvius_kit.voxel.bits.pack_mask`."""
    pairs, voxels = count_overlaps(find_runs(prediction_words), find_runs(label_words))
    if not len(voxels):
        return VariationOfInformation(0.0, 0.0)
    share = voxels / voxels.sum()
    in_prediction, in_label = (np.bincount(pairs[:, side], weights=share)[pairs[:, side]] for side in range(2))
    split = float(np.sum(share * np.log2(in_label / share)))
    merge = float(np.sum(share * np.log2(in_prediction / share)))
    return VariationOfInformation(split, merge)
