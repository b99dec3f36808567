"""Propagation of seeds against SciPy."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.voxel import bits
from vesuvius_kit.voxel.propagation import propagate_words


def propagate(seeds, mask):
    return bits.unpack_mask(propagate_words(bits.pack_mask(seeds), bits.pack_mask(mask)), mask.shape[2])


@settings(max_examples=200)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 200)),
    st.sampled_from([0.03, 0.06, 0.1, 0.2, 0.5, 1]),
    st.sampled_from([0.001, 0.02]),
    st.integers(1, 4),
    st.integers(0, 9999),
)
def test_propagation_equals_scipy(shape, density, share, n_threads, seed):
    rng = np.random.default_rng(seed)
    mask, seeds = rng.random(shape) < density, rng.random(shape) < share
    usual = numba.get_num_threads
    numba.get_num_threads = lambda: n_threads
    try:
        found = propagate(seeds, mask)
    finally:
        numba.get_num_threads = usual
    expected = ndimage.binary_propagation(seeds & mask, np.ones((3, 3, 3)), mask=mask)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(3))
def test_sheets_with_gaps_equal_scipy(seed):
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((40, 45, 130))
    mask = (np.abs((z + 3 * np.sin(x / 9) + y / 4) % 9 - 4) < 0.8) & (rng.random(z.shape) < 0.7)
    seeds = mask & (rng.random(z.shape) < 0.0005)
    expected = ndimage.binary_propagation(seeds, np.ones((3, 3, 3)), mask=mask)
    np.testing.assert_array_equal(propagate(seeds, mask), expected)


@pytest.mark.parametrize(
    "step", [(1, 1, 1), (1, -1, 1), (0, 1, -1), (1, 0, -1), (1, 1, 0), (1, -1, -1), (1, 1, -1), (0, 1, 1)]
)
def test_a_diagonal_is_followed_through_every_boundary(step):
    mask = np.zeros((130, 130, 130), bool)
    along = np.arange(65)
    start = [65 if s == 0 else 33 if s > 0 else 97 for s in step]
    mask[tuple(first + s * along for first, s in zip(start, step))] = True
    seeds = np.zeros_like(mask)
    seeds[tuple(first + s * 64 for first, s in zip(start, step))] = True
    np.testing.assert_array_equal(propagate(seeds, mask), mask)
    assert not propagate(~mask, mask).any()


def test_no_voxels_and_bad_input():
    for shape in ((0, 3, 3), (3, 0, 3), (3, 3, 0)):
        assert propagate(np.zeros(shape), np.zeros(shape)).shape == shape
    words = bits.pack_mask(np.ones((2, 2, 2)))
    with pytest.raises(InputValueError, match="seeds and words must have the same shape"):
        propagate_words(words, words[:1])
    with pytest.raises(InputTypeError, match="words must have a dtype"):
        propagate_words(words, words.astype(float))
