"""Variation of information against scikit-image on the labels of connected-components-3d."""

import cc3d
import numpy as np
import pytest
from helpers import naive
from helpers.golden import load_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.metrics import variation_of_information


def with_scikit_image(prediction, label):
    either = (prediction != 0) | (label != 0)
    labels = [cc3d.connected_components(mask != 0, connectivity=26)[either] for mask in (prediction, label)]
    # scikit-image gives H(second | first), H(first | second).
    merge, split = metrics.variation_of_information(*labels)
    return split, merge


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("shape", [(20, 30, 40), (1, 50, 70), (33, 2, 129)])
def test_equals_scikit_image_on_noise(density, shape):
    rng = np.random.default_rng(4)
    masks = [rng.random(shape) < density for _ in range(2)]
    assert variation_of_information(*masks) == pytest.approx(with_scikit_image(*masks), abs=1e-9)


def test_equals_scikit_image_on_sheets():
    for _, prediction, label in load_cases("golden_medium"):
        masks = (prediction != 0) & (label != 2), label == 1
        assert variation_of_information(*masks) == pytest.approx(with_scikit_image(*masks), abs=1e-9)


@settings(max_examples=100)
@given(st.tuples(*[st.integers(1, 6)] * 3), st.integers(0, 9999))
def test_equals_the_naive_twin(shape, seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random(shape) < rng.random() for _ in range(2)]
    expected = naive.variation_of_information(*masks) if (masks[0] | masks[1]).any() else (0, 0)
    found = variation_of_information(*masks)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found == pytest.approx(variation_of_information(*masks[::-1])[::-1], abs=1e-12)


def test_a_cut_is_a_split_and_a_bridge_a_merge():
    whole = np.ones((1, 1, 9), bool)
    cut = whole.copy()
    cut[0, 0, 4] = False
    found = variation_of_information(cut, whole)
    assert found.merge == 0
    assert found.split == pytest.approx(2 * 4 / 9 * np.log2(9 / 4) + np.log2(9) / 9)
    assert variation_of_information(whole, cut) == pytest.approx((0, found.split))


def test_bad_input():
    with pytest.raises(InputValueError, match="same shape"):
        variation_of_information(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))
