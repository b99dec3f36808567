"""The volumes that a search scores on: predictions by networks that did not see them, their labels and their scrolls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_folder, check_integer, check_same_shape
from vesuvius_kit.constants import UNLABELLED
from vesuvius_kit.data.competition import Chunk, Competition
from vesuvius_kit.inference.out_of_fold import INDEX_FILE, read_out_of_fold
from vesuvius_kit.inference.results import SETTINGS_FILE, list_some
from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype
from vesuvius_kit.postprocess.files import list_probabilities, load_probability


@dataclass(frozen=True)
class HeldOutVolume:
    """One labelled volume with its predictions."""

    id: str
    scroll: str
    label_path: Path
    probability_paths: dict[str, Path]
    """By group of networks, at least one."""

    def read_label(self) -> NDArray[Any]:
        """Return the label, (Z, Y, X); one without a labelled voxel would score the same whatever was predicted."""
        label = read_volume(self.label_path)
        if (label == UNLABELLED).all():
            raise InputValueError(f"labels must have labelled voxels, got none in {self.label_path}")
        return label

    def read_probability(self, group: str, label: NDArray[Any]) -> NDArray[np.float32]:
        """Return the prediction of a group, (Z, Y, X) in [0, 1], of the label's shape."""
        path = self.probability_paths[group]
        probability = load_probability(path)
        check_same_shape(str(self.label_path), label, str(path), probability)
        return probability


@dataclass(frozen=True)
class HeldOut:
    """What a search scores on."""

    volumes: dict[str, HeldOutVolume]
    """By id, in order."""
    groups: dict[str, tuple[str, ...]]
    """Digests of the networks of each group, none where a folder of predictions does not say."""

    @property
    def scrolls(self) -> dict[str, list[str]]:
        """Ids by scroll."""
        scrolls: dict[str, list[str]] = {}
        for volume in self.volumes.values():
            scrolls.setdefault(volume.scroll, []).append(volume.id)
        return dict(sorted(scrolls.items()))

    @property
    def weighed(self) -> list[str]:
        """The groups whose weights tell in a score: those that predicted a volume which another predicted too."""
        together = {
            group
            for volume in self.volumes.values()
            if len(volume.probability_paths) > 1
            for group in volume.probability_paths
        }
        return [group for group in self.groups if group in together]


def read_held_out(
    predictions: Sequence[Path | str], data: Path | str, volumes_per_scroll: int | None = None
) -> HeldOut:
    """Pair predictions with labels and scrolls.

    Parameters
    ----------
    predictions
        Folders that `predict_out_of_fold` wrote, or folders of probabilities by any program, each a group of its own.
    data
        Competition folder with ``train.csv`` and ``train_labels``.
    volumes_per_scroll
        Take no more, evenly spread over the scroll's list; None takes all.

    Raises
    ------
    InputError
        No prediction, one without a label, or one of another shape than its label.
    """
    if not predictions:
        raise InputValueError("predictions must be at least one folder, got none")
    chunks = {chunk.id: chunk for chunk in Competition(data).require_train()}
    groups: dict[str, tuple[str, ...]] = {}
    paths: dict[str, dict[str, Path]] = {}
    for folder in predictions:
        for name, digests, files in _read_groups(check_folder("predictions", folder), chunks):
            group = next(each for each in _names_like(name) if each not in groups)
            groups[group] = digests
            for id_, path in files.items():
                paths.setdefault(id_, {})[group] = path
    if unlabelled := [id_ for id_ in paths if id_ not in chunks]:
        raise InputValueError(f"predictions must have labels in {data}, got none for {list_some(unlabelled)}")
    volumes = {
        id_: HeldOutVolume(id_, chunk.scroll_id, chunk.require_label(), paths[id_])
        for id_, chunk in chunks.items()
        if id_ in paths
    }
    if volumes_per_scroll is not None:
        check_integer("volumes_per_scroll", volumes_per_scroll, minimum=1)
        volumes = _thin_out(volumes, volumes_per_scroll)
    for volume in volumes.values():
        _check_shapes(volume)
    return HeldOut(volumes, groups)


def _read_groups(folder: Path, chunks: Mapping[str, Chunk]) -> list[tuple[str, tuple[str, ...], dict[str, Path]]]:
    """Name, digests and files of each group in a folder of predictions."""
    # Without its index a folder of out-of-fold predictions is not complete, which reading it says.
    is_out_of_fold = (folder / INDEX_FILE).is_file() or any(folder.glob(f"*/{SETTINGS_FILE}"))
    if not is_out_of_fold:
        return [(folder.resolve().name, (), list_probabilities(folder))]
    found = read_out_of_fold(folder)
    moved = [id_ for id_, own in found.volumes.items() if id_ in chunks and chunks[id_].scroll_id != own.scroll]
    if moved:
        raise InputValueError(
            f"{folder} must have been predicted with the scrolls of train.csv, got others for {list_some(moved)}"
        )
    return [
        (
            name,
            tuple(digests),
            {id_: found.path(name, id_) for id_, volume in found.volumes.items() if name in volume.networks},
        )
        for name, digests in found.groups.items()
    ]


def _names_like(name: str) -> Sequence[str]:
    return [name, *(f"{name}_{number}" for number in range(2, 1000))]


def _thin_out(volumes: dict[str, HeldOutVolume], most: int) -> dict[str, HeldOutVolume]:
    scrolls = HeldOut(volumes, {}).scrolls
    kept = set()
    for ids in scrolls.values():
        places = np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int)
        kept |= {ids[place] for place in places}
    return {id_: volume for id_, volume in volumes.items() if id_ in kept}


def _check_shapes(volume: HeldOutVolume) -> None:
    """Compare the headers of what NumPy wrote; others are compared when they are read."""
    shape = volume_shape_and_dtype(volume.label_path)[0]
    for path in volume.probability_paths.values():
        if path.suffix == ".npy":
            found = _load_shape(path)
            if found is not None and found != shape:
                raise InputValueError(f"{path} must have the shape of {volume.label_path}, {shape}, got {found}")


def _load_shape(path: Path) -> tuple[int, ...] | None:
    """The shape that a ``.npy`` says it has, without axes of one voxel before; None where it cannot be read."""
    try:
        shape: tuple[int, ...] = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        # Reading it will say what is wrong.
        return None
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    return shape
