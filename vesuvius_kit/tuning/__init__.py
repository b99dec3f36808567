"""The search for thresholds, repair and ensemble weights on held-out scrolls, for the true score."""

from vesuvius_kit.tuning.estimate import Estimate, ScrollGain
from vesuvius_kit.tuning.result import Tuning
from vesuvius_kit.tuning.tune import tune

__all__ = ["Estimate", "ScrollGain", "Tuning", "tune"]
