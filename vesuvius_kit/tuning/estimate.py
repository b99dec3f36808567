"""What a search is worth on scrolls that it did not see, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vesuvius_kit.checks import InputValueError

LEVEL = 0.9
_RESAMPLES = 10_000
# Share of the gain that one scroll of several may have before it is said.
_MOST_OF_ONE = 2 / 3


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
    Know about the Bootstrap", 2015).

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
    drawn = resample(list(gains.values()), np.random.default_rng(seed))
    count = len(gains)
    # Of so few scrolls the plain percentiles are too narrow: as wide as Student's interval of as many values would be.
    widened = np.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1)
    tail = NormalDist().cdf(-float(widened))
    low, high = (float(value) for value in np.quantile(drawn, (tail, 1 - tail)))
    means = {
        scroll: ScrollGain(
            len(pairs), float(np.mean([base for base, _ in pairs])), float(np.mean([t for _, t in pairs]))
        )
        for scroll, pairs in scrolls.items()
    }
    return Estimate(baseline, gain, low, high, level, means, _find_cautions(gains, gain, low, high, level))


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
    total = sum(float(own.sum()) for own in gains.values())
    first = max(gains, key=lambda scroll: float(gains[scroll].sum()))
    rest = np.concatenate([own for scroll, own in gains.items() if scroll != first])
    if gain > 0 and float(gains[first].sum()) > _MOST_OF_ONE * total and gain > 1e-9:
        cautions.append(f"the gain rests on scroll {first}: without it, it is {float(rest.mean()):+.3f}")
    return cautions
