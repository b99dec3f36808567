"""Packed masks against arrays of bool."""

import numpy as np
import pytest
from helpers import naive
from hypothesis import given
from hypothesis import strategies as st

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.voxel import bits


def random_mask(shape, seed, density=0.5):
    return np.random.default_rng(seed).random(shape) < density


@given(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 200)), st.integers(0, 99))
def test_packing_round_trip(shape, seed):
    mask = random_mask(shape, seed)
    words = bits.pack_mask(mask)
    assert words.dtype == np.uint64
    assert words.shape == (*shape[:2], -(-shape[2] // 64))
    assert np.array_equal(bits.unpack_mask(words, shape[2]), mask)
    assert bits.count_voxels(words) == mask.sum()
    assert np.array_equal(bits.unpack_mask(bits.invert(words, shape[2]), shape[2]), ~mask)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_packing_any_dtype_and_order(dtype, order):
    mask = random_mask((3, 5, 70), 1)
    array = np.asarray(mask * 3, dtype=dtype, order=order)
    assert np.array_equal(bits.pack_mask(array), bits.pack_mask(mask))
    assert np.array_equal(bits.pack_mask(array[::-1, :, ::-2]), bits.pack_mask(mask[::-1, :, ::-2]))


def test_nan_is_background_and_infinity_is_not():
    row = np.array([[[0.0, np.nan, -0.5, np.inf, -0.0]]])
    assert bits.unpack_mask(bits.pack_mask(row), 5).tolist() == [[[False, False, True, True, False]]]


def test_shift_down_crosses_words():
    mask = random_mask((2, 2, 130), 2)
    shifted = bits.unpack_mask(bits.shift_down(bits.pack_mask(mask)), 130)
    assert np.array_equal(shifted[:, :, :-1], mask[:, :, 1:])
    assert not shifted[:, :, -1].any()


def test_ball_of_radius_two_has_33_voxels():
    rows = bits.ball_rows(2.0, (1, 1, 1))
    assert (2 * rows[:, 2] + 1).sum() == 33
    assert len(bits.ball_rows(0, (1, 1, 1))) == 1


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 90)),
    st.floats(0, 4),
    st.tuples(*[st.floats(0.4, 3)] * 3),
    st.integers(0, 99),
)
def test_dilation_equals_distances(shape, radius, spacing, seed):
    mask = random_mask(shape, seed, 0.02)
    dilated = bits.dilate(bits.pack_mask(mask), bits.ball_rows(radius, spacing))
    assert np.array_equal(bits.unpack_mask(dilated, shape[2]), naive.dilate(mask, radius, spacing))


def test_bit_helpers():
    for bit in (0, 1, 31, 32, 62, 63):
        word = np.uint64(1) << np.uint64(bit)
        assert bits.lowest_bit(word) == bit
        assert bits.lowest_bit(word | np.uint64(1 << 63)) == bit
    assert bits.bit_count(np.uint64(0)) == 0
    assert bits.bit_count(~np.uint64(0)) == 64


def test_bad_input():
    with pytest.raises(InputTypeError, match="mask must be a NumPy array, got list"):
        bits.pack_mask([[[1]]])
    with pytest.raises(InputValueError, match="mask must have 3 dimensions"):
        bits.pack_mask(np.zeros((2, 2)))
    with pytest.raises(InputTypeError, match="words must have a dtype"):
        bits.shift_down(np.zeros((1, 1, 1)))
    with pytest.raises(InputValueError, match="radius must be >= 0"):
        bits.ball_rows(-1, (1, 1, 1))
    with pytest.raises(InputValueError, match="spacing"):
        bits.ball_rows(1, (1, 0, 1))
