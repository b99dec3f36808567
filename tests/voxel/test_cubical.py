"""Pairs of births and deaths against the plain reading of the rules, in all three dimensions."""

import numpy as np
import pytest
from helpers import naive
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.voxel import bits, cubical, tunnels

PAIRINGS = {
    "components": (cubical.pair_components, naive.pair_components),
    "tunnels": (tunnels.pair_tunnels, naive.pair_tunnels),
    "cavities": (cubical.pair_cavities, naive.pair_cavities),
}


def make_pair(shape, density, change, seed):
    """Two masks: unrelated ones for change 1, else one and its noisy copy."""
    rng = np.random.default_rng(seed)
    first = rng.random(shape) < density
    second = rng.random(shape) < density if change == 1 else first ^ (rng.random(shape) < change)
    return first, second


def as_dict(pairs):
    return {tuple(row[:4]): tuple(row[4:]) for row in pairs.tolist()}


PAIRS = st.builds(
    make_pair,
    st.tuples(*[st.integers(1, 5)] * 3),
    st.sampled_from([0.2, 0.4, 0.6, 0.8, 0.9, 0.97]),
    st.sampled_from([0, 0.05, 0.2, 1]),
    st.integers(0, 2**31),
)


@pytest.mark.parametrize("dimension", PAIRINGS)
@settings(max_examples=150, deadline=None)
@given(PAIRS)
def test_pairs_equal_the_naive_twin(dimension, masks):
    fast, slow = PAIRINGS[dimension]
    union = masks[0] | masks[1]
    n_x = union.shape[2]
    words = [bits.pack_mask(mask) for mask in masks]
    of_union = set(slow(union, union).values())
    for part, pairs in zip(masks, fast(words[0] | words[1], words, n_x)):
        # The rules also record cubes of cavities that the union fills; they match nothing.
        expected = {birth: death for birth, death in slow(union, part).items() if death in of_union}
        assert as_dict(pairs) == expected
    own = fast(words[0], (words[0], words[0]), n_x)
    assert as_dict(own[0]) == as_dict(own[1]) == slow(masks[0], masks[0])


@settings(max_examples=200, deadline=None)
@given(PAIRS)
@example((np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)))
def test_euler_characteristic(masks):
    for mask in masks:
        words = bits.pack_mask(mask)
        assert cubical.euler_characteristic(words) == naive.euler_characteristic(mask)
        assert cubical.count_cavities(words, mask.shape[2]) == len(naive.pair_cavities(mask, mask))


def test_a_tunnel_by_hand():
    ring = np.ones((1, 3, 3), bool)
    ring[0, 1, 1] = False
    words = bits.pack_mask(ring)
    (pairs, same) = tunnels.pair_tunnels(words, (words, words), 3)
    # Closed by the last edge in raster order, (0, 2, 1) along x; filled by the last square, (0, 1, 1) in the plane.
    assert pairs.tolist() == same.tolist() == [[0, 2, 1, 2, 0, 1, 1, 0]]
    assert cubical.euler_characteristic(words) == 0


def test_a_cavity_by_hand():
    shell = np.ones((3, 3, 3), bool)
    shell[1, 1, 1] = False
    words = bits.pack_mask(shell)
    assert cubical.pair_cavities(words, (words, words), 3)[0].tolist() == [[2, 1, 1, 0, 1, 1, 1, 0]]
    assert cubical.euler_characteristic(words) == 2


@pytest.mark.parametrize("dimension", PAIRINGS)
@pytest.mark.parametrize("shape", [(0, 2, 2), (2, 0, 2), (2, 2, 0), (3, 4, 5)])
def test_empty(dimension, shape):
    words = bits.pack_mask(np.zeros(shape, bool))
    for pairs in PAIRINGS[dimension][0](words, (words, words), shape[2]):
        assert pairs.shape == (0, 8)


@pytest.mark.parametrize("dimension", PAIRINGS)
def test_bad_input(dimension):
    words = bits.pack_mask(np.ones((2, 2, 2)))
    with pytest.raises(InputTypeError, match="union must have a dtype of kind u"):
        PAIRINGS[dimension][0](np.ones((2, 2, 1)), (words, words), 2)
    with pytest.raises(InputValueError, match="same shape"):
        PAIRINGS[dimension][0](words, (words, words[:1]), 2)
