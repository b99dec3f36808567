"""The reference scores that lie in tests/files."""

import json
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "files"


def load_cases(name):
    """Yield (case, prediction, label) of a golden file."""
    volumes = np.load(DATA / f"{name}.npz")
    for case in json.loads((DATA / f"{name}.json").read_text()):
        shape, n = tuple(case["shape"]), int(np.prod(case["shape"]))
        prediction = np.unpackbits(volumes[case["name"] + "__pred"])[:n].reshape(shape)
        surface, unlabelled = np.unpackbits(volumes[case["name"] + "__label"])[: 2 * n].reshape((2, *shape))
        yield case, prediction, np.where(unlabelled == 1, 2, surface).astype(np.uint8)
