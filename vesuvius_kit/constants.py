"""What the competition fixes, and what many modules share: label values, loss components, the bound of the learning rate."""

BACKGROUND = 0
"""Label of a voxel that is annotated and not surface."""
SURFACE = 1
"""Label of a voxel of the papyrus surface."""
UNLABELLED = 2
"""Label of a voxel that is not annotated: neither surface nor background, and ignored by losses and score."""

CHUNK_SHAPE = (320, 320, 320)
"""Voxels of a chunk of the competition, (z, y, x)."""

SCORE_PARTS = ("score", "toposcore", "surface_dice", "voi_score")
"""The competition's score and its parts, as `LeaderboardScore` calls them."""
SURFACE_TOLERANCE = 2.0
"""Distance within which the score's surface Dice counts a surface as found, in voxels, inclusive."""
VOI_ALPHA = 0.3
"""Weight of the variation of information in the score's VOI part, per bit."""

MAX_FACTOR = 5.0
"""The learning rate never passes this many times its base."""

COMPONENTS = ("boundary", "cldice", "connectivity", "cross_entropy", "dice", "focal", "variance")
"""Names of the components of a loss, as `WeightedLoss`, the settings and the log use them."""

TUNED_FILE = "tuned.yaml"
"""What a search leaves for submission: settings that lie above those of the weights."""
TUNING_TRIALS = 200
"""Settings that a search tries, by default."""
