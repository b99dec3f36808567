"""Small competition folders for the tests of the main line: bright sheets in noise, so that a tiny network can learn them."""

import csv

import numpy as np

from vesuvius_kit.config import PostprocessConfig
from vesuvius_kit.io.volume import write_volume

TINY = {
    "model.name": "unet3d",
    "model.options": {"initial_filters": 4, "depth": 1},
    "n_folds": 2,
    "patches.size": [16, 16, 16],
    "patches.per_volume": 2,
    "predict.window": [16, 16, 16],
    "postprocess.pipeline": "public",
    "postprocess.steps": {
        "hysteresis_threshold": {"t_low": 0.3, "t_high": 0.5},
        "remove_small_components": {"min_size": 10},
    },
    "train.num_epochs": 3,
    "train.steps_per_epoch": 4,
    "train.batch_size": 2,
    "train.validation_patches": 2,
    "train.score_every_epochs": 2,
    "train.num_workers": 0,
    "train.precision": "fp32",
    "lr.warmup_epochs": 0,
}


def public_pipeline(t_low, t_high, z_radius, xy_radius, min_size):
    """The pipeline ``public`` with settings of its own."""
    return PostprocessConfig(
        "public",
        {
            "hysteresis_threshold": {"t_low": t_low, "t_high": t_high},
            "close_cylinder": {"z_radius": z_radius, "xy_radius": xy_radius},
            "remove_small_components": {"min_size": min_size},
        },
    )


def make_pair(shape, seed):
    """One sheet across the volume: image, label with an unlabelled border."""
    rng = np.random.default_rng(seed)
    image = rng.normal(60, 8, shape)
    label = np.zeros(shape, np.uint8)
    at = int(rng.integers(shape[1] // 3, 2 * shape[1] // 3))
    image[:, at : at + 2] += 80
    label[:, at : at + 2] = 1
    label[:2] = label[-2:] = 2
    return image.clip(0, 255).astype(np.uint8), label


def write_small_competition(folder, train_shapes=((24, 24, 24),) * 4, test_shapes=((24, 24, 24), (10, 30, 17))):
    """Two scrolls, the chunks in turn; labels only for training."""
    for name in ("train_images", "train_labels", "test_images"):
        (folder / name).mkdir(parents=True)
    for part, shapes in (("train", train_shapes), ("test", test_shapes)):
        rows = []
        for number, shape in enumerate(shapes):
            chunk_id = (100 if part == "train" else 900) + number
            image, label = make_pair(shape, chunk_id)
            write_volume(folder / f"{part}_images" / f"{chunk_id}.tif", image)
            if part == "train":
                write_volume(folder / "train_labels" / f"{chunk_id}.tif", label)
            rows.append([chunk_id, 1 + number % 2])
        with open(folder / f"{part}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([["id", "scroll_id"], *rows])
    return folder
