"""What a search is worth on scrolls that it did not see, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vesuvius_kit.checks import InputValueError

LEVEL = 0.9
_RESAMPLES = 10_000
_FEWEST_TO_RESAMPLE = 4  # scrolls
# Share of the gain that must be left without any one scroll.
_LEAST_WITHOUT = 1 / 3


@dataclass(frozen=True)
class ScrollGain:
    """One scroll that was left out of the search."""

    volumes: int
    baseline: float
    """Mean score of the baseline."""
    tuned: float
    """Mean score of what the search on the other scrolls found."""


@dataclass(frozen=True)
class Estimate:
    """The gain over the baseline on scrolls that the search did not see."""

    baseline: str
    """The preset compared with."""
    gain: float
    """Of the mean over all volumes."""
    low: float
    high: float
    """Ends of the interval of `level`."""
    level: float
    scrolls: dict[str, ScrollGain]
    cautions: list[str]
    """What speaks against relying on the gain."""


def estimate_gain(
    baseline: str, scrolls: Mapping[str, Sequence[tuple[float, float]]], seed: int = 0, level: float = LEVEL
) -> Estimate:
    """Estimate the gain from scores on left-out scrolls.

    The interval is a bootstrap in two stages, scrolls and then volumes within them (Davison and Hinkley, *Bootstrap Methods and
    their Application*, 1997, 3.8), at percentiles expanded for the small number of scrolls (Hesterberg, "What Teachers Should
    Know about the Bootstrap", 2015). With two or three scrolls, of which nothing can be drawn that lies beyond what was seen,
    it is Student's, of the scrolls' means.

    Parameters
    ----------
    baseline
        What messages call it.
    scrolls
        By scroll, at least two: (baseline's score, tuned score) of each volume.
    """
    if len(scrolls) < 2 or not all(scrolls.values()):
        raise InputValueError(f"scrolls must be at least 2, each with a volume, got {len(scrolls)}")
    gains = {scroll: np.array([tuned - base for base, tuned in pairs]) for scroll, pairs in scrolls.items()}
    gain = float(np.concatenate(list(gains.values())).mean())
    low, high = _find_interval(list(gains.values()), gain, level, seed)
    means = {
        scroll: ScrollGain(
            len(pairs), float(np.mean([base for base, _ in pairs])), float(np.mean([t for _, t in pairs]))
        )
        for scroll, pairs in scrolls.items()
    }
    return Estimate(baseline, gain, low, high, level, means, _find_cautions(gains, gain, low, high, level))


def _find_interval(gains: Sequence[NDArray[np.float64]], gain: float, level: float, seed: int) -> tuple[float, float]:
    count = len(gains)
    width = float(stats.t.ppf((1 + level) / 2, count - 1))
    if count < _FEWEST_TO_RESAMPLE:
        reach = width * float(np.std([own.mean() for own in gains], ddof=1)) / math.sqrt(count)
        return gain - reach, gain + reach
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * width)
    low, high = np.quantile(resample(gains, np.random.default_rng(seed)), (tail, 1 - tail))
    return float(low), float(high)


def resample(groups: Sequence[NDArray[np.float64]], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return means over values drawn with replacement within groups that are drawn with replacement."""
    sums, counts = np.zeros(_RESAMPLES), np.zeros(_RESAMPLES)
    for _ in groups:
        chosen = rng.integers(len(groups), size=_RESAMPLES)
        for number, group in enumerate(groups):
            rows = np.flatnonzero(chosen == number)
            sums[rows] += rng.choice(group, (len(rows), len(group))).sum(axis=1)
            counts[rows] += len(group)
    return sums / counts


def _find_cautions(
    gains: Mapping[str, NDArray[np.float64]], gain: float, low: float, high: float, level: float
) -> list[str]:
    cautions = []
    if gain <= 0:
        cautions.append(f"on scrolls that the search did not see, the tuned pipeline gains nothing ({gain:+.3f})")
    elif low <= 0:
        cautions.append(
            f"the gain of {gain:+.3f} lies within its own uncertainty: from {low:+.3f} to {high:+.3f} ({level:.0%})"
        )
    without = {
        scroll: float(np.concatenate([own for other, own in gains.items() if other != scroll]).mean())
        for scroll in gains
    }
    first = min(without, key=lambda scroll: without[scroll])
    if gain > 0 and without[first] < _LEAST_WITHOUT * gain:
        cautions.append(f"the gain rests on scroll {first}: without it, it is {without[first]:+.3f}")
    return cautions
