"""Capped distances against SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.voxel.distance import measure_distance


def expected_distance(mask, cap, spacing):
    if mask.all():  # SciPy invents a background voxel
        return np.full(mask.shape, cap)
    return np.minimum(ndimage.distance_transform_edt(mask, sampling=spacing), cap)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 70)),
    st.sampled_from([0, 0.3, 0.9, 0.99, 1]),
    st.sampled_from([0.5, 1, 2.5, 6, 1000]),
    st.sampled_from([(1, 1, 1), (2, 1, 3), (1.3, 0.7, 2.1)]),
    st.integers(0, 999),
)
def test_distances_equal_scipy(shape, density, cap, spacing, seed):
    mask = np.random.default_rng(seed).random(shape) < density
    found = measure_distance(mask, cap, spacing)
    assert found.dtype == np.float32
    expected = expected_distance(mask, cap, spacing).astype(np.float32)
    # Exact for whole spacings; elsewhere the last bits of float32.
    np.testing.assert_allclose(found, expected, rtol=5e-7 if spacing[0] == 1.3 else 0)


def test_a_sheet_by_hand():
    mask = np.ones((9, 9, 9), bool)
    mask[4] = False
    assert measure_distance(mask, 3)[:, 0, 0].tolist() == [3, 3, 2, 1, 0, 1, 2, 3, 3]
    assert measure_distance(mask, 3, (0.5, 1, 1))[:, 0, 0].tolist() == [2, 1.5, 1, 0.5, 0, 0.5, 1, 1.5, 2]


def test_any_type_and_order_and_no_voxels():
    mask = np.random.default_rng(0).random((5, 6, 70)) < 0.9
    expected = measure_distance(mask, 4)
    for array in (np.asfortranarray(mask), mask.astype(">f4"), (mask * 200).astype(np.uint8)):
        array.flags.writeable = False
        np.testing.assert_array_equal(measure_distance(array, 4), expected)
    assert measure_distance(np.zeros((0, 3, 3), bool), 2).shape == (0, 3, 3)


def test_bad_input():
    with pytest.raises(InputValueError, match="cap must be > 0"):
        measure_distance(np.ones((2, 2, 2)), 0)
    with pytest.raises(InputValueError, match=r"spacing\[1\] must be > 0"):
        measure_distance(np.ones((2, 2, 2)), 1, (1, 0, 1))
    with pytest.raises(InputTypeError, match="mask must be a NumPy array"):
        measure_distance([[[1]]], 1)
