"""Tests of `vesuvius_kit.inference.averaging`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.inference.averaging import ProbabilityMean


def mean_of(volumes):
    mean = ProbabilityMean()
    for volume in volumes:
        mean.add(volume)
    return mean.mean()


@given(count=st.integers(2, 9), seed=st.integers(0, 1000))
def test_mean_is_that_of_numpy_and_does_not_depend_on_the_order(count, seed):
    rng = np.random.default_rng(seed)
    volumes = rng.random((count, 3, 4, 5), np.float32)
    found = mean_of(volumes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, volumes.mean(axis=0, dtype=np.float64), atol=2**-24)
    np.testing.assert_array_equal(mean_of(volumes[rng.permutation(count)]), found)


def test_single_volume_comes_back_as_it_is():
    volume = np.full((2, 2, 2), 0.1, np.float32)
    assert mean_of([volume]) is volume


def test_as_many_ones_as_fit_are_one():
    ones = np.ones((1, 1, 1), np.float32)
    mean = ProbabilityMean()
    for _ in range(255):
        mean.add(ones)
    assert mean.count == 255
    assert mean.mean() == 1.0
    with pytest.raises(InputValueError, match="at most 255"):
        mean.add(ones)


@pytest.mark.parametrize(
    ("volumes", "message"),
    [([], "at least one, got none"), ([np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 3), np.float32)], "one shape")],
)
def test_no_volume_and_another_shape_are_refused(volumes, message):
    with pytest.raises(InputValueError, match=message):
        mean_of(volumes)
