"""Loss components that ignore unlabelled voxels exactly, and their weighted sum."""

from vesuvius_kit.constants import COMPONENTS
from vesuvius_kit.losses import functional
from vesuvius_kit.losses.modules import WeightedLoss

__all__ = ["COMPONENTS", "WeightedLoss", "functional"]
