"""What the competition and the field fix: label values, and the bound of the learning rate."""

BACKGROUND = 0
"""Label of a voxel that is annotated and not surface."""
SURFACE = 1
"""Label of a voxel of the papyrus surface."""
UNLABELLED = 2
"""Label of a voxel that is not annotated: neither surface nor background, and ignored by losses and score."""

MAX_FACTOR = 5.0
"""The learning rate never passes this many times its base."""
