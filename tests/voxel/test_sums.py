import math
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vesuvius_kit.checks import InputError
from vesuvius_kit.voxel.sums import mean_and_deviation

TYPES = ["uint8", "uint16", "int16", "int64", "float16", "float32", "float64", "bool"]


@given(
    arrays.arrays(
        np.uint16, arrays.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(0, 2**16 - 1)
    )
)
def test_whole_numbers_are_summed_exactly(volume):
    values = [Fraction(int(value)) for value in volume.flat]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    found = mean_and_deviation(volume)
    assert found[0] == float(mean)
    assert found[1] == pytest.approx(math.sqrt(variance), rel=1e-15)


@pytest.mark.parametrize("dtype", TYPES)
def test_it_is_numpys_in_double_precision(dtype):
    volume = (np.random.default_rng(0).random((7, 40, 33)) * 250).astype(dtype)
    exact = volume.astype(np.float64)
    for array in (volume, np.asfortranarray(volume), volume[::2, ::-1, 1:]):
        exact = array.astype(np.float64)
        assert mean_and_deviation(array) == pytest.approx((exact.mean(), exact.std()), rel=1e-12)


def test_the_number_of_threads_does_not_matter():
    volume = np.random.default_rng(0).normal(100, 5, (30, 31, 32)).astype(np.float32)
    before = numba.get_num_threads()
    several = mean_and_deviation(volume)
    numba.set_num_threads(1)
    try:
        assert mean_and_deviation(volume) == several
    finally:
        numba.set_num_threads(before)


def test_a_constant_far_from_zero_has_no_deviation():
    for dtype in ("uint16", "float32"):
        assert mean_and_deviation(np.full((5, 6, 7), 40000, dtype)) == (40000, 0)


def test_nothing_has_no_mean():
    with pytest.raises(InputError, match="must not be empty"):
        mean_and_deviation(np.zeros((0, 3, 3)))
