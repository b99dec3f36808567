"""The kernels against plain NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesuvius_kit.inference.blending import Greys, add_weighted_window, add_window, cut_window

RNG = np.random.default_rng(0)


def logistic(logits):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("greys", [Greys(), Greys(10, 200, 87.5, 47.7), Greys(shift=3, scale=0.1)])
def test_a_window_is_cut_and_its_greys_are_turned(dtype, greys):
    volume = RNG.integers(0, 256, (9, 10, 11)).astype(dtype)
    out = np.empty((4, 5, 6), np.float32)
    cut_window(volume, (2, 3, 4), greys, out)
    part = volume[2:6, 3:8, 4:10].astype(np.float32)
    expected = (np.clip(part, np.float32(greys.low), np.float32(greys.high)) - np.float32(greys.shift)) / np.float32(
        greys.scale
    )
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("is_logits", [False, True])
def test_an_answer_is_weighted_and_added(is_logits):
    answer = RNG.normal(0, 5, (3, 4, 67)).astype(np.float32)
    profiles = tuple(RNG.random(edge).astype(np.float32) for edge in answer.shape)
    weights = np.multiply.outer(np.multiply.outer(profiles[0], profiles[1]), profiles[2])
    before = RNG.random((6, 7, 80)).astype(np.float32)
    expected = before.astype(np.float64)
    expected[1:4, 2:6, 5:72] += weights * (logistic(answer) if is_logits else answer)
    for add, how in ((add_window, profiles), (add_weighted_window, weights)):
        total = before.copy()
        assert add(total, (1, 2, 5), answer, how, is_logits)
        np.testing.assert_allclose(total, expected, atol=1e-6)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_logistic_function_is_right_for_every_number(logit):
    answer = np.full((1, 1, 40), logit, np.float32)
    total = np.zeros_like(answer)
    ones = tuple(np.ones(edge, np.float32) for edge in answer.shape)
    assert add_window(total, (0, 0, 0), answer, ones, True)
    np.testing.assert_allclose(total, logistic(answer), rtol=0, atol=2e-7)
    assert total.min() >= 0
    assert total.max() <= 1
    # Whether a value is done with its neighbours or alone must not matter.
    assert len(np.unique(total)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_logits", [False, True])
def test_what_is_not_finite_is_told(bad, is_logits):
    for place in ((0, 0, 0), (2, 3, 66)):
        answer = np.zeros((3, 4, 67), np.float32)
        answer[place] = bad
        ones = tuple(np.ones(edge, np.float32) for edge in answer.shape)
        assert not add_window(np.zeros_like(answer), (0, 0, 0), answer, ones, is_logits)
        assert not add_weighted_window(np.zeros_like(answer), (0, 0, 0), answer, np.ones_like(answer), is_logits)
