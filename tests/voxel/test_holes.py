"""Cavities, slice holes, Euler and Betti numbers against SciPy, scikit-image and hand counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.voxel.components import label_components
from vesuvius_kit.voxel.euler import betti_numbers, euler_number, euler_of_components
from vesuvius_kit.voxel.holes import fill_cavities, fill_slice_holes

RANK = {6: 1, 18: 2, 26: 3}
MASKS = st.builds(
    lambda shape, density, seed: np.random.default_rng(seed).random(shape) < density,
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70)),
    st.sampled_from([0, 0.1, 0.5, 0.8, 0.95, 1]),
    st.integers(0, 999),
)


@settings(max_examples=60)
@given(MASKS, st.sampled_from([6, 18, 26]), st.integers(0, 2))
def test_filling_equals_scipy(mask, connectivity, axis):
    structure = ndimage.generate_binary_structure(3, RANK[connectivity])
    before = mask.copy()
    np.testing.assert_array_equal(fill_cavities(mask, connectivity), ndimage.binary_fill_holes(mask, structure))
    slices = [ndimage.binary_fill_holes(part) for part in np.moveaxis(mask, axis, 0)]
    np.testing.assert_array_equal(fill_slice_holes(mask, axis), np.moveaxis(np.stack(slices), 0, axis))
    np.testing.assert_array_equal(mask, before)


@settings(max_examples=40)
@given(MASKS, st.sampled_from([6, 26]))
def test_euler_numbers_equal_scikit_image(mask, connectivity):
    assert euler_number(mask, connectivity) == measure.euler_number(mask, RANK[connectivity])
    labels, count = label_components(mask, connectivity)
    found = euler_of_components(labels, connectivity)
    assert found.shape == (count + 1,)
    assert found.sum() == euler_number(mask, connectivity)
    for label in range(1, min(count, 5) + 1):
        assert found[label] == measure.euler_number(labels == label, RANK[connectivity])


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([6, 26]), st.sampled_from([np.uint8, np.int64, ">i2"]))
def test_labels_that_touch_are_looked_at_alone(seed, connectivity, dtype):
    labels = np.asfortranarray(np.random.default_rng(seed).integers(0, 4, (5, 6, 7)).astype(dtype))
    labels.flags.writeable = False
    found = euler_of_components(labels, connectivity)
    assert found[1:].tolist() == [
        measure.euler_number(labels == label, RANK[connectivity]) for label in range(1, len(found))
    ]


def test_a_ring_a_shell_and_two_corners_by_hand():
    volume = np.zeros((12, 5, 5), bool)
    volume[0, 0:3, 0:3] = True
    volume[0, 1, 1] = False  # a ring: one tunnel
    volume[4:7, 0:3, 0:3] = True
    volume[5, 1, 1] = False  # a shell: one cavity
    volume[9, 0, 0] = volume[10, 1, 1] = True  # one component by 26, two by 6
    assert betti_numbers(volume, 26) == (3, 1, 1)
    assert betti_numbers(volume, 6) == (4, 1, 1)
    assert euler_number(volume) == 3
    labels, _ = label_components(volume)
    assert euler_of_components(labels).tolist() == [0, 0, 2, 1]
    assert fill_cavities(volume).sum() == volume.sum() + 1
    assert fill_slice_holes(volume)[0, 1, 1]


def test_nothing_and_everything():
    for shape in ((0, 2, 2), (2, 0, 2), (2, 2, 0)):
        assert betti_numbers(np.zeros(shape)) == (0, 0, 0)
        assert fill_cavities(np.zeros(shape)).shape == shape
        assert euler_of_components(np.zeros(shape, np.uint8)).tolist() == [0]
    assert betti_numbers(np.zeros((3, 4, 5))) == (0, 0, 0)
    assert betti_numbers(np.ones((3, 4, 64))) == (1, 0, 0)


def test_bad_input():
    mask = np.zeros((2, 2, 2), bool)
    with pytest.raises(InputValueError, match="connectivity must be 6, 18 or 26, got 4"):
        fill_cavities(mask, 4)
    with pytest.raises(InputValueError, match="connectivity must be 6 or 26, got 18"):
        euler_number(mask, 18)
    with pytest.raises(InputValueError, match="labels must be >= 0, got -1"):
        euler_of_components(np.full((2, 2, 2), -1))
    with pytest.raises(InputTypeError, match="labels must have a dtype"):
        euler_of_components(np.zeros((2, 2, 2), np.float32))
    with pytest.raises(InputValueError, match="axis must be"):
        fill_slice_holes(mask, 3)
