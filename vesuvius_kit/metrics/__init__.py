"""The competition's score and its parts."""

from vesuvius_kit.metrics.folder import FolderScore, score_folder
from vesuvius_kit.metrics.leaderboard import LeaderboardScore, leaderboard_score
from vesuvius_kit.metrics.surface_dice import surface_dice
from vesuvius_kit.metrics.topology import betti_matching_counts, betti_matching_features
from vesuvius_kit.metrics.voi import VariationOfInformation, variation_of_information

__all__ = [
    "FolderScore",
    "LeaderboardScore",
    "VariationOfInformation",
    "betti_matching_counts",
    "betti_matching_features",
    "leaderboard_score",
    "score_folder",
    "surface_dice",
    "variation_of_information",
]
