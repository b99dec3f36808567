"""Tests of `vesuvius_kit.inference.averaging`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.inference.averaging import ProbabilityMean, whole_weights


def mean_of(volumes, weights=None):
    mean = ProbabilityMean()
    for number, volume in enumerate(volumes):
        mean.add(volume, *([] if weights is None else [weights[number]]))
    return mean.mean()


@given(count=st.integers(2, 9), seed=st.integers(0, 1000))
def test_mean_is_that_of_numpy_and_does_not_depend_on_the_order(count, seed):
    rng = np.random.default_rng(seed)
    volumes = rng.random((count, 3, 4, 5), np.float32)
    found = mean_of(volumes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, volumes.mean(axis=0, dtype=np.float64), atol=2**-24)
    np.testing.assert_array_equal(mean_of(volumes[rng.permutation(count)]), found)


WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9)


@given(weights=WEIGHTS, seed=st.integers(0, 1000))
def test_weighted_mean_is_that_of_numpy_and_does_not_depend_on_the_order(weights, seed):
    rng = np.random.default_rng(seed)
    volumes, whole = rng.random((len(weights), 3, 4, 5), np.float32), whole_weights(weights)
    found = mean_of(volumes, whole)
    assert found.dtype == np.float32
    expected = np.average(volumes.astype(np.float64), axis=0, weights=whole)
    np.testing.assert_allclose(found, expected, atol=2**-23)
    order = rng.permutation(len(weights))
    np.testing.assert_array_equal(mean_of(volumes[order], [whole[number] for number in order]), found)


@given(count=st.integers(2, 9), weight=st.integers(1, 2**20), seed=st.integers(0, 1000))
def test_equal_weights_give_the_plain_mean_to_the_bit(count, weight, seed):
    volumes = np.random.default_rng(seed).random((count, 3, 4, 5), np.float32)
    np.testing.assert_array_equal(mean_of(volumes, [weight] * count), mean_of(volumes))


@given(weights=WEIGHTS)
def test_whole_weights_keep_the_proportion(weights):
    whole = whole_weights(weights)
    assert min(whole) >= 1
    np.testing.assert_allclose(
        np.array(whole) / sum(whole), np.array(weights) / sum(weights), atol=len(weights) * 2**-20
    )


def test_equal_weights_are_1_and_proportions_are_kept_whatever_their_scale():
    assert whole_weights([0.2] * 5) == [1] * 5
    assert whole_weights([0.5, 1, 2]) == whole_weights([5, 10, 20]) == [1, 2, 4]
    assert whole_weights([]) == []


def test_the_heaviest_weights_do_not_overflow():
    ones = np.ones((1, 1, 1), np.float32)
    assert mean_of([ones] * 255, [2**20] * 255) == 1.0


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
