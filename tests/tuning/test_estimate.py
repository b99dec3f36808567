"""The gain on scrolls that a search did not see: by hand, and what is said against it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.tuning.estimate import estimate_gain, resample


def pairs(*gains, baseline=0.5):
    return [(baseline, baseline + gain) for gain in gains]


def test_the_gain_is_that_of_the_mean_over_volumes():
    found = estimate_gain("public", {"1": pairs(0.1, 0.1, 0.1), "2": pairs(0.02)})
    assert found.gain == pytest.approx(0.08)
    assert found.scrolls["1"].volumes == 3
    assert found.scrolls["2"].tuned == pytest.approx(0.52)


def test_a_gain_that_is_the_same_everywhere_is_certain():
    found = estimate_gain("public", {str(k): pairs(0.03, 0.03) for k in range(4)})
    assert (found.low, found.gain, found.high) == pytest.approx((0.03, 0.03, 0.03))
    assert found.cautions == []


def test_a_gain_within_its_interval_is_said():
    found = estimate_gain("public", {"1": pairs(0.06, -0.02), "2": pairs(-0.04, 0.03), "3": pairs(0.02, 0.01)})
    assert found.low < 0 < found.gain < found.high
    assert "within its own uncertainty" in found.cautions[0]


def test_a_gain_on_one_scroll_is_said():
    found = estimate_gain("public", {"34": pairs(0.2, 0.2), "35": pairs(0.001, 0.0), "36": pairs(0.0, 0.001)})
    assert any("rests on scroll 34: without it, it is +0.0" in caution for caution in found.cautions)


def test_no_gain_is_said():
    found = estimate_gain("public", {"1": pairs(-0.01), "2": pairs(0.0)})
    assert found.gain < 0
    assert any("gains nothing" in caution for caution in found.cautions)


def test_one_scroll_says_nothing_of_others():
    with pytest.raises(InputValueError, match="at least 2"):
        estimate_gain("public", {"1": pairs(0.1)})


@settings(max_examples=10)
@given(st.lists(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=4), min_size=2, max_size=6))
def test_a_higher_level_has_a_wider_interval(gains):
    scrolls = {str(k): pairs(*own) for k, own in enumerate(gains)}
    narrow, wide = (estimate_gain("public", scrolls, level=level) for level in (0.5, 0.95))
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    if len(gains) > 3:
        flat = [gain for own in gains for gain in own]
        assert min(flat) - 1e-9 <= wide.low <= wide.high <= max(flat) + 1e-9


def test_of_two_scrolls_the_interval_is_students():
    """Means of .02 and .04: .03, give or take 6.314 standard errors of .01."""
    found = estimate_gain("public", {"1": pairs(0.01, 0.03), "2": pairs(0.04, 0.04)})
    assert (found.low, found.high) == pytest.approx((0.03 - 0.06314, 0.03 + 0.06314), abs=1e-4)


@pytest.mark.parametrize("n_scrolls", [2, 3, 4, 6])
def test_the_interval_holds_the_true_gain_about_as_often_as_it_says(n_scrolls):
    """Three volumes a scroll, whose gains spread by .04 round .02 from scroll to scroll and by .01 within."""
    rng = np.random.default_rng(n_scrolls)
    inside = 0
    for _ in range(100):
        scrolls = {str(k): pairs(*(rng.normal(0.02, 0.04) + rng.normal(0, 0.01, 3))) for k in range(n_scrolls)}
        found = estimate_gain("public", scrolls, level=0.9)
        inside += found.low <= 0.02 <= found.high
    assert inside >= 82  # of 90; three standard deviations are 9


def test_a_scroll_of_many_volumes_is_no_caution_by_itself():
    assert estimate_gain("public", {"34": pairs(*[0.05] * 10), "35": pairs(0.05, 0.05)}).cautions == []


def test_groups_are_resampled_before_their_values():
    means = resample([np.zeros(5), np.ones(5)], np.random.default_rng(1))
    assert set(np.round(means, 6)) == {0.0, 0.5, 1.0}
    assert np.mean(means == 0.5) == pytest.approx(0.5, abs=0.03)
