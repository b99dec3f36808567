"""Counts and features of the induced matching."""

import numpy as np
import pytest
from helpers import naive
from helpers.golden import load_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.metrics import betti_matching_counts, betti_matching_features
from vesuvius_kit.metrics.topology import octants, topology_score


def make_pair(shape, density, change, seed):
    rng = np.random.default_rng(seed)
    first = rng.random(shape) < density
    second = rng.random(shape) < density if change == 1 else first ^ (rng.random(shape) < change)
    return first, second


def pairs_up_to(size):
    return st.builds(
        make_pair,
        st.tuples(*[st.integers(1, size)] * 3),
        st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.85, 0.95]),
        st.sampled_from([0.03, 0.1, 0.3, 1]),
        st.integers(0, 2**31),
    )


@settings(max_examples=150)
@given(pairs_up_to(6))
def test_counts_equal_the_naive_twin(masks):
    assert betti_matching_counts(*masks).tolist() == naive.count_matches(*masks).tolist()


@pytest.mark.long
@settings(max_examples=4000)
@given(pairs_up_to(7))
def test_counts_equal_the_naive_twin_thousands_of_times(masks):
    assert betti_matching_counts(*masks).tolist() == naive.count_matches(*masks).tolist()


@settings(max_examples=100)
@given(pairs_up_to(5))
def test_features_equal_the_naive_twin(masks):
    table = betti_matching_features(*masks, by_octant=False)
    assert (table["octant"] == -1).all()
    for dimension, (of_prediction, of_label, matches) in enumerate(naive.match_features(*masks)):
        rows = table[table["dimension"] == dimension]
        for side, bars in (("prediction", of_prediction), ("label", of_label)):
            own = rows[rows["side"] == side]
            found = zip(map(tuple, own["birth"].tolist()), map(tuple, own["death"].tolist()))
            assert sorted(found) == sorted((birth[:3], death[:3]) for birth, death in bars.items())
        matched = rows[(rows["side"] == "prediction") & (rows["partner"] >= 0)]
        partners = table[matched["partner"]]
        assert (partners["side"] == "label").all()
        found = zip(map(tuple, matched["birth"].tolist()), map(tuple, partners["birth"].tolist()))
        assert sorted(found) == sorted((first[:3], second[:3]) for first, second in matches.items())


def test_features_add_up_to_the_score_and_know_their_partners():
    for case, prediction, label in load_cases("golden_medium"):
        prediction, label = (prediction != 0) & (label != 2), label == 1
        table = betti_matching_features(prediction, label)
        for dimension, counts in enumerate(case["counts"]):
            rows = table[table["dimension"] == dimension]
            for side, n in (("prediction", counts[1]), ("label", counts[2])):
                assert (rows["side"] == side).sum() == n
                assert (rows[rows["side"] == side]["partner"] >= 0).sum() == counts[0]
        matched = np.flatnonzero(table["partner"] >= 0)
        assert (table["partner"][table["partner"][matched]] == matched).all()
        assert (table["octant"][table["partner"][matched]] == table["octant"][matched]).all()
        for number, block in enumerate(octants(label.shape)):
            births = table[table["octant"] == number]["birth"]
            for axis, part in enumerate(block):
                assert ((part.start <= births[:, axis]) & (births[:, axis] < part.stop)).all()


def test_octant_counts_equal_the_competition():
    for case, prediction, label in load_cases("golden_small"):
        prediction, label = (prediction != 0) & (label != 2), label == 1
        counts = [betti_matching_counts(prediction[block], label[block]).tolist() for block in octants(label.shape)]
        assert counts == case["octant_counts"]


def test_a_tunnel_that_one_mask_fills():
    ring = np.ones((3, 5, 5), bool)
    ring[:, 2, 2] = False
    assert betti_matching_counts(ring, ring).tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert betti_matching_counts(ring, np.ones_like(ring)).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 3, 0), (1, 1, 1), (1, 2, 3)])
@pytest.mark.parametrize("value", [0, 1])
def test_nothing_to_match(shape, value):
    mask = np.full(shape, value)
    assert not betti_matching_counts(mask, mask).any()
    assert len(betti_matching_features(mask, mask)) == 0


def test_octants_cover_the_volume_once():
    covered = np.zeros((5, 4, 1), int)
    for block in octants(covered.shape):
        covered[block] += 1
    assert (covered == 1).all()
    assert octants((5, 4, 1))[0] == (slice(0, 3), slice(0, 2), slice(0, 1))


@pytest.mark.parametrize(
    ("counts", "score", "f1"),
    [
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], 1.0, [np.nan] * 3),
        ([[2, 3, 5], [0, 0, 0], [0, 0, 0]], 0.5, [0.5, np.nan, np.nan]),
        ([[0, 2, 0], [0, 0, 0], [1, 1, 1]], (0.34 * 0.2 + 0.33) / 0.67, [0.2, np.nan, 1.0]),
    ],
)
def test_topology_score_by_hand(counts, score, f1):
    found, found_f1 = topology_score(np.array(counts))
    assert found == pytest.approx(score)
    assert found_f1 == pytest.approx(np.array(f1), nan_ok=True)


def test_bad_input():
    with pytest.raises(InputValueError, match="prediction_mask and label_mask must have the same shape"):
        betti_matching_counts(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))
    with pytest.raises(InputTypeError, match="label_mask must be a NumPy array"):
        betti_matching_features(np.zeros((2, 2, 2)), "label")
