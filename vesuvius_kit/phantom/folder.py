"""A whole competition folder of phantom chunks, in the competition's layout."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from vesuvius_kit.checks import (
    InputTypeError,
    InputValueError,
    check_choice,
    check_integer,
    check_output_file,
    check_size,
    make_folder,
)
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.listing import volume_id
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.phantom.chunk import make_phantom
from vesuvius_kit.phantom.styles import STYLES, list_styles

_EDITION = 2  # raise it when the same seed gives other voxels: ids change with it, so old and new chunks never mix


class _Chunk(NamedTuple):
    id: int
    style: str
    shape: tuple[int, ...]
    seed: int
    files: dict[Path, Literal["image", "label", "surface"]]
    """Path of each volume to the field of the Phantom it holds."""


def write_competition(
    folder: Path | str,
    *,
    train: int = 6,
    test: int = 1,
    shape: int | Sequence[int] = (320, 320, 320),
    test_shape: int | Sequence[int] | None = None,
    seed: int = 0,
    train_styles: Iterable[str] | None = None,
    test_styles: Iterable[str] | None = None,
    deprecated: int = 1,
    truth_folder: Path | str | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Write a small competition of phantom chunks: LZW TIFFs and tables where Kaggle has them.

    ``train_images/{id}.tif``, ``train_labels/{id}.tif``, ``test_images/{id}.tif``, ``train.csv`` and ``test.csv`` with the
    columns ``id, scroll_id``, and ``deprecated_train_images/``, ``deprecated_train_labels/`` whose pairs have rows in
    ``train.csv``, as in the real data. Interrupted and called again with the same arguments it goes on: volumes that are
    there are kept, each file appears whole or not at all, and the tables are written last.

    A folder that holds volumes which this call would not write, another phantom or real data, is refused.

    Parameters
    ----------
    folder
        Where to; made when it is not there. It is returned.
    train, test
        Number of training pairs, not counting the deprecated ones, and of test images.
    shape
        Size of each chunk in voxels, (z, y, x); one integer means a cube.
    test_shape
        Size of the test chunks where it differs.
    seed
        Not negative; the same arguments write the same folder.
    train_styles, test_styles
        Styles that the training (deprecated ones included) and the test chunks take in turn; None means all of
        `list_styles`, in its order.
    deprecated
        Number of deprecated pairs.
    truth_folder
        Where to keep what a competitor does not see of the test chunks: ``test_labels/{id}.tif`` and
        ``test_surfaces/{id}.tif`` (uint8 0 or 1, the full truth). None keeps nothing.
    progress
        Wraps the loop over the chunks, in tqdm's calling form.

    Examples
    --------
    >>> import tempfile
    >>> import vesuvius_kit as vk
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     folder = vk.write_competition(scratch, train=2, test=1, deprecated=0, shape=24, seed=1)
    ...     chunks = vk.Competition(folder).train
    ...     [vk.read_volume(chunk.label_path).shape for chunk in chunks]
    [(24, 24, 24), (24, 24, 24)]
    """
    counts = {"train": train, "deprecated_train": deprecated, "test": test}
    for split, argument in zip(counts, ("train", "deprecated", "test")):
        check_integer(argument, counts[split], minimum=0)
    shape = check_size("shape", shape)
    test_shape = shape if test_shape is None else check_size("test_shape", test_shape)
    check_integer("seed", seed, minimum=0)
    train_styles = _check_styles("train_styles", train_styles)
    test_styles = _check_styles("test_styles", test_styles)
    folder = Path(folder)
    truth_folder = None if truth_folder is None else Path(truth_folder)

    plan: dict[str, list[_Chunk]] = {}
    for number, (split, count) in enumerate(counts.items()):
        styles, size = (test_styles, test_shape) if split == "test" else (train_styles, shape)
        plan[split] = [
            _plan_chunk(folder, truth_folder, split, styles[i % len(styles)], size, [_EDITION, seed, number, i])
            for i in range(count)
        ]
    chunks = [chunk for part in plan.values() for chunk in part]
    _refuse_other_files(folder, truth_folder, chunks)
    for name in ("train_images", "train_labels", "deprecated_train_images", "deprecated_train_labels", "test_images"):
        make_folder(folder / name)
    for place in sorted({path.parent for chunk in chunks for path in chunk.files}):
        make_folder(place)
    check_output_file("train.csv", folder / "train.csv")
    for chunk in progress(chunks, total=len(chunks), desc="phantom chunks"):
        missing = {path: field for path, field in chunk.files.items() if not path.exists()}
        if missing:
            phantom = make_phantom(chunk.shape, chunk.seed, chunk.style)
            for path, field in missing.items():
                write_volume(path, getattr(phantom, field).view(np.uint8))
    _write_table(folder / "train.csv", plan["train"] + plan["deprecated_train"])
    _write_table(folder / "test.csv", plan["test"])
    return folder


def _check_styles(name: str, styles: Iterable[str] | None) -> tuple[str, ...]:
    """Return the styles as a tuple; None means all of them."""
    if styles is None:
        return list_styles()
    if isinstance(styles, str):
        raise InputTypeError(f"{name} must be a sequence of style names, got {styles!r}")
    styles = tuple(check_choice(name, style, STYLES) for style in styles)
    if not styles:
        raise InputValueError(f"{name} must name one style at least, got none")
    return styles


def _plan_chunk(
    folder: Path, truth_folder: Path | None, split: str, style: str, shape: tuple[int, ...], key: Sequence[int]
) -> _Chunk:
    """Decide id, seed and files of one chunk; the id follows from everything that decides its voxels."""
    rng = np.random.default_rng([*key, *shape, STYLES[style].scroll_id])
    # Nine digits and more, so that two chunks of one folder practically never share an id.
    chunk_id, seed = int(rng.integers(10**8, 2**31)), int(rng.integers(2**31))
    files: dict[Path, Literal["image", "label", "surface"]] = {folder / f"{split}_images" / f"{chunk_id}.tif": "image"}
    if split != "test":
        files[folder / f"{split}_labels" / f"{chunk_id}.tif"] = "label"
    elif truth_folder is not None:
        files[truth_folder / "test_labels" / f"{chunk_id}.tif"] = "label"
        files[truth_folder / "test_surfaces" / f"{chunk_id}.tif"] = "surface"
    return _Chunk(chunk_id, style, shape, seed, files)


def _refuse_other_files(folder: Path, truth_folder: Path | None, chunks: Sequence[_Chunk]) -> None:
    """Raise if the folders hold volumes that are not among the planned ones."""
    planned = {path for chunk in chunks for path in chunk.files}
    roots = [folder] + ([truth_folder] if truth_folder is not None else [])
    for path in sorted(found for root in roots for found in root.glob("*/*") if volume_id(found.name)):
        if path not in planned:
            raise InputValueError(f"folder must be empty or hold the same phantom competition, got {path}")


def _write_table(path: Path, chunks: Sequence[_Chunk]) -> None:
    """Write ``id, scroll_id`` rows, ordered by id so that the order tells nothing."""
    with write_atomically(path) as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["id", "scroll_id"])
        table.writerows(sorted((chunk.id, STYLES[chunk.style].scroll_id) for chunk in chunks))
