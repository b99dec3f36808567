"""A small run with errors that were put into it, for the page that explains it."""

import json

import numpy as np

from vesuvius_kit.io.record import EpochRecord, append_record
from vesuvius_kit.io.volume import write_volume

SHAPE = (64, 60, 56)
HOLE = (12, 9, 22)
"""Where the hole is in the upper sheet of volume 7: its middle."""
BRIDGE = (20, 14, 6)
CAVITY = (45, 41, 40)
UNLABELLED_FROM = 58
"""Along z."""


def make_volume():
    """Image, probability, label and prediction of volume 7, all (Z, Y, X)."""
    label = np.zeros(SHAPE, np.uint8)
    for row in (8, 18, 40):
        label[3:29, row : row + 3, 3:50] = 1
    label[36:56, 40:43, 3:50] = 1
    prediction = label > 0
    prediction[HOLE[0] - 2 : HOLE[0] + 3, 8:11, HOLE[2] - 2 : HOLE[2] + 3] = False
    prediction[BRIDGE[0] - 1 : BRIDGE[0] + 1, 11:18, BRIDGE[2] - 1 : BRIDGE[2] + 1] = True
    prediction[CAVITY] = False
    prediction[3:29, 40:43] = False  # a sheet that is missed
    prediction[50:62, 50:53, 10:20] = True  # one that is not there, and that goes on where nothing is labelled
    label[UNLABELLED_FROM:] = 2
    rng = np.random.default_rng(0)
    image = (60 + 100 * (label == 1) + rng.normal(0, 8, SHAPE)).clip(0, 255).astype(np.uint8)
    probability = np.where(prediction, 0.9, 0.1).astype(np.float32)
    return image, probability, label, prediction


def write_log(fold, epochs=30):
    """A log with a raise of the rate and a rollback."""
    fold.mkdir(parents=True)
    for epoch in range(epochs):
        loss = 0.8 * 0.9**epoch
        append_record(
            fold / "log.jsonl",
            EpochRecord(
                epoch,
                rate=0.001 * (2 if epoch > 5 else 1),
                train={"loss": loss, "dice": loss / 2, "cross_entropy": loss / 3},
                validation={"loss": loss + 0.05 + 0.03 * max(0, epoch - 10)},
                score={"score": 0.4 + epoch / 100, "toposcore": 0.3, "surface_dice": 0.6, "voi_score": 0.5}
                if epoch % 4 == 3
                else None,
                interventions=[{"epoch": 5, "multiple": 2.0}] if epoch == 5 else [],
                events=[{"kind": "rollback", "reason": "the score fell", "to_epoch": 6}] if epoch == 9 else [],
                seconds=3.0,
            ),
        )


def write_run(folder, *, log=True, images=True, labels=True, probabilities=True, masks=True):
    """A run's folder with volume 7, which has all parts, and 8, which has a mask alone."""
    image, probability, label, prediction = make_volume()
    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted, array in (
        ("images", images, image),
        ("labels", labels, label),
        ("masks", masks, prediction.astype(np.uint8)),
    ):
        if wanted:
            (folder / name).mkdir()
            write_volume(folder / name / "7.tif", array)
    if masks:
        write_volume(folder / "masks" / "8.tif", prediction[:40].astype(np.uint8))
    if probabilities:
        (folder / "probabilities").mkdir()
        np.save(folder / "probabilities" / "7.npy", probability.astype(np.float16))
    if log:
        write_log(folder / "fold_0")
    return folder


def write_tuning(folder):
    """What `tune` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    part = {"toposcore": 0.5, "surface_dice": 0.8, "voi_score": 0.7}
    content = {
        "format": 1,
        "metric": "score",
        "tuned": {"score": 0.71, "settings": {"pipeline": "sheet_repair", "t_low": 0.31, "weights.a": 0.7}},
        "baselines": {"public": 0.61, "sheet_repair": 0.66},
        "estimate": {
            "baseline": "sheet_repair",
            "gain": 0.04,
            "low": -0.01,
            "high": 0.07,
            "level": 0.9,
            "scrolls": {"34117": {"volumes": 1, "baseline": 0.66, "tuned": 0.7}},
        },
        "cautions": ["the gain rests on one scroll"],
        "volumes": {"9": {"scroll": "34117", "baseline": {"score": 0.66, **part}, "tuned": {"score": 0.7, **part}}},
        "importance": {"t_low": 0.8, "pipeline": 0.2},
        "slices": {"t_low": [[0.2, 0.6], [0.3, 0.71], [0.4, 0.65]], "pipeline": [["public", 0.6], ["raw", 0.5]]},
        "best_by_part": [{"part": "score", "value": 0.71, "score": 0.71, **part, "settings": {"t_low": 0.31}}],
        "trials": {"complete": 2, "pruned": 1},
        "history": [[0, 0.5], [1, 0.71]],
        "seconds": {"read": 1.0, "wall": 90.0},
    }
    (folder / "tuning.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
