from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.inference.grid import blend_profiles, window_starts


@given(st.integers(1, 60), st.integers(0, 200), st.floats(0, 0.95))
def test_windows_cover_the_axis_and_overlap_enough(window, more, overlap):
    length = window + more
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - window
    steps = np.diff(starts)
    assert (steps >= 1).all()
    # A share that is not a whole number of voxels by less than a millionth of one counts as whole.
    assert (steps <= max(1, np.floor(window * (1 - overlap) + 1e-6))).all()


@given(st.integers(1, 400), st.integers(1, 1000).flatmap(lambda q: st.tuples(st.integers(0, q - 1), st.just(q))))
def test_the_step_is_that_of_the_exact_fraction(window, share):
    """D7: 80 * (1 - .8) is 16, whatever binary fractions make of it."""
    step = max(1, floor(window * (1 - Fraction(*share))))
    starts = window_starts(window + 5 * step, window, share[0] / share[1])
    assert starts == [index * step for index in range(6)]


@pytest.mark.parametrize(
    ("window", "overlap", "step"), [(80, 0.8, 16), (80, 0.9, 8), (160, 0.9, 16), (10, 0.1 + 0.2, 7)]
)
def test_steps_of_usual_overlaps(window, overlap, step):
    assert window_starts(window + step, window, overlap) == [0, step]


@given(st.integers(1, 60), st.integers(0, 200), st.floats(0, 0.9))
def test_blend_weights_sum_to_one_at_every_voxel(window, more, overlap):
    length = window + more
    starts = window_starts(length, window, overlap)
    profiles = blend_profiles(length, window, starts)
    total = np.zeros(length)
    for start, profile in zip(starts, profiles):
        total[start : start + window] += profile
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert (profiles > 0).all()


def test_starts_by_hand():
    assert window_starts(320, 128, 0.5) == [0, 64, 128, 192]
    assert window_starts(128, 128, 0.5) == [0]
    assert window_starts(100, 60, 0.0) == [0, 40]


def test_a_window_weighs_most_in_its_middle():
    profile = blend_profiles(64, 64, [0])[0]
    np.testing.assert_allclose(profile, 1.0)
    left, right = blend_profiles(96, 64, [0, 32])
    assert left[40] > right[8]
    np.testing.assert_allclose(left[::-1], right)


@pytest.mark.parametrize(("length", "window", "overlap"), [(5, 6, 0.5), (5, 0, 0.5), (5, 5, 1.0), (5, 5, -0.1)])
def test_impossible_windows_are_refused(length, window, overlap):
    with pytest.raises(InputValueError):
        window_starts(length, window, overlap)


def test_uncovered_voxels_are_refused():
    with pytest.raises(InputValueError, match="uncovered voxels"):
        blend_profiles(30, 10, [0, 20])
