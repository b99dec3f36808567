"""Predictions that show how good an ensemble is where it was not trained: of each volume by networks that never saw its scroll.

The folder holds, of each group of networks that belong together, the mean over those that may predict a volume, and an index:

    OUT/out_of_fold.json
    OUT/<group>/{id}.npy    float16 (z, y, x)
    OUT/<group>/settings.json

A group is one entry of the given checkpoints: a run with its folds, a results folder of nnU-Net.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import (
    InputNotFoundError,
    InputTypeError,
    InputValueError,
    check_file,
    describe_error,
    name_os_errors,
)
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.data.competition import Chunk, Competition
from vesuvius_kit.inference.ensemble import Ensemble
from vesuvius_kit.inference.folders import predict_missing
from vesuvius_kit.inference.jobs import VolumeJob
from vesuvius_kit.inference.results import list_some, open_results
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.folder_lock import lock_folder
from vesuvius_kit.models.weights import find_weights, inspect_weights, read_trained_on, split_folds

logger = logging.getLogger(__name__)

INDEX_FILE = "out_of_fold.json"
_FORMAT = 1
# Folders whose name says nothing of the run they are part of.
_PART_OF_A_RUN = re.compile(r"best|last|fold_(\d+|all)")


@dataclass(frozen=True)
class Volume:
    """Who predicted a volume."""

    scroll: str
    """The scroll it was cut from."""
    networks: dict[str, list[str]]
    """Digests of the networks that predicted it, by group; a group that saw its scroll is missing."""


@dataclass(frozen=True)
class OutOfFold:
    """What a folder of out-of-fold predictions holds."""

    folder: Path
    groups: dict[str, list[str]]
    """By the name of each group that predicted anything, the digests of the weights that it stands for in an ensemble: keys of
    `PredictConfig.weights`. The folds of a results folder of nnU-Net share one, though each predicts on its own here."""
    volumes: dict[str, Volume]
    """By id, those that at least one group predicted."""
    predict: dict[str, Any]
    """Window, overlap and test-time augmentation that were asked for."""

    def path(self, group: str, id_: str) -> Path:
        """Return the file of a group's probabilities of a volume, which the group must have predicted."""
        if id_ not in self.volumes or group not in self.volumes[id_].networks:
            raise InputValueError(
                f"{self.folder} must hold the volume's prediction by the group, got {id_} and {group}"
            )
        return self.folder / group / f"{id_}.npy"


@dataclass(frozen=True)
class _Group:
    """Networks that belong together, and what they may predict."""

    name: str
    digests: list[str]
    """In an ensemble; see `OutOfFold.groups`."""
    ensemble: Ensemble
    seen: dict[str, list[str]]
    """The scrolls that each network was trained on, by its digest."""
    numbers: dict[str, tuple[int, ...]]
    """The networks that did not see the scroll of a volume, by its id; volumes without any are missing."""

    def digests_for(self, id_: str) -> list[str]:
        return [self.ensemble.digests[number] for number in self.numbers[id_]]


def predict_out_of_fold(
    data: Path | str,
    checkpoints: Iterable[Path | str],
    output: Path | str,
    predict: PredictConfig,
    *,
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Predict every training volume by the networks that did not see its scroll, and return the folder.

    A network saw a scroll when any of the volumes that it was ever trained on is of that scroll by ``train.csv``. What is done
    is kept, whatever ends the call; the index is written when everything is there.

    Parameters
    ----------
    data
        Competition folder; its training pairs are predicted.
    checkpoints
        Each entry, of what `find_weights` takes, is a group, named after its folder. Folds of nnU-Net predict one by one.
    output
        Folder, made if missing. Predictions that are there already are kept when they were made under the same settings, and
        refused else.
    predict
        Without ``weights``, which is what such predictions are for.
    workers, fresh
        As in `predict_folder`.

    Raises
    ------
    InputError
        It cannot be known what a network was trained on, or every network saw every scroll; and as in `predict_folder`.

    Examples
    --------
    >>> import tempfile, vesuvius_kit as vk
    >>> from vesuvius_kit.config import PredictConfig
    >>> predict = PredictConfig(window=(16, 16, 16), device="cpu", precision="fp32")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = vk.write_competition(f"{folder}/data", train=2, test=0, shape=16)
    ...     first, second = vk.Competition(data).train
    ...     model = vk.create_model("unet3d", initial_filters=2, depth=1)
    ...     run = vk.save_checkpoint(f"{folder}/run/fold_0/best", model, {"trained_on": [first.id]}).parents[2]
    ...     found = vk.read_out_of_fold(vk.predict_out_of_fold(data, [run], f"{folder}/out", predict))
    >>> list(found.volumes) == [second.id], list(found.groups)
    (True, ['run'])
    """
    if predict.weights:
        raise InputValueError(
            "predict.weights must be left out for out-of-fold predictions, which are made to find them"
        )
    competition, entries = Competition(data), [Path(entry) for entry in checkpoints]
    chunks = competition.require_train()
    groups = [
        _make_group(name, entry, predict, competition, chunks) for name, entry in zip(_name_groups(entries), entries)
    ]
    _refuse_shared(groups)
    if not any(group.numbers for group in groups):
        raise InputValueError(
            f"checkpoints must hold a network that did not see every scroll of {data}, got only such that did: "
            f"{', '.join(map(str, entries)) or 'none at all'}"
        )
    # Nothing is known of the others here.
    groups, output = [group for group in groups if group.numbers], Path(output)
    with lock_folder(output):
        index = output / INDEX_FILE
        if fresh:
            with name_os_errors(f"remove {index}"):
                index.unlink(missing_ok=True)
        images = {chunk.id: chunk.image_path for chunk in chunks}
        jobs = []
        # All are opened before the first is predicted: what is refused is refused at once.
        for group in groups:
            # Volumes of the same networks follow one another, so that each network is loaded once.
            paths = {id_: images[id_] for id_ in sorted(group.numbers, key=lambda id_: (group.numbers[id_], id_))}
            settings = {"predict": group.ensemble.settings, "seen": group.seen}
            folder = open_results(output / group.name, settings, fresh, ".npy", paths)
            jobs.append(VolumeJob(paths, group.ensemble, folder, networks=group.numbers))
        for job in jobs:
            predict_missing(job, workers, progress)
        with write_atomically(index) as stream:
            json.dump(_describe(groups, chunks, predict), stream, indent=1)
    return output


def read_out_of_fold(folder: Path | str) -> OutOfFold:
    """Read the index of a folder that `predict_out_of_fold` completed, and check that the files are there.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> found = vk.read_out_of_fold("out_of_fold")  # doctest: +SKIP
    >>> probability = vk.load_probability(found.path("run_a", "1407735"))  # doctest: +SKIP
    """
    folder = Path(folder)
    path = folder / INDEX_FILE
    if not path.is_file():
        raise InputNotFoundError(
            f"out-of-fold predictions must be complete, got {folder} without {INDEX_FILE}: give predict --out-of-fold (again)"
        )
    try:
        with name_os_errors(f"read {path}"):
            content = json.loads(path.read_bytes())
        found = _parse(content, folder)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputValueError(
            f"{path} must be as predict --out-of-fold wrote it, got: {describe_error(error)}"
        ) from error
    for id_, volume in found.volumes.items():
        for group in volume.networks:
            check_file("out-of-fold prediction", found.path(group, id_))
    return found


def _parse(content: Any, folder: Path) -> OutOfFold:
    if content["format"] != _FORMAT:
        raise InputValueError(f"format must be {_FORMAT}, got {content['format']!r}")
    groups = {entry["name"]: _texts("weights", entry["weights"]) for entry in content["groups"]}
    volumes = {}
    for id_, entry in content["volumes"].items():
        networks = {group: _texts("networks", digests) for group, digests in entry["networks"].items()}
        if strangers := networks.keys() - groups.keys():
            raise InputValueError(
                f"volume {id_} must be predicted by groups that are listed, got {list_some(strangers)}"
            )
        (scroll,) = _texts("scroll", [entry["scroll"]])
        volumes[id_] = Volume(scroll, networks)
    for name in (*groups, *volumes):
        # They become parts of a path.
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InputValueError(f"names must be those of files, got {name!r}")
    return OutOfFold(folder, groups, volumes, dict(content["predict"]))


def _texts(name: str, values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputTypeError(f"{name} must be texts, got {values!r}")
    return values


def _make_group(
    name: str, entry: Path, predict: PredictConfig, competition: Competition, chunks: Sequence[Chunk]
) -> _Group:
    whole = find_weights([entry])
    networks = [(path, part) for path in whole for part in split_folds(path)]
    trained_on = [read_trained_on(part) for _, part in networks]
    ensemble = Ensemble([part for _, part in networks], predict)
    seen = {
        digest: sorted(_scrolls_of(ids, competition, path))
        for digest, ids, path in zip(ensemble.digests, trained_on, ensemble.paths)
    }
    digests = []
    for path in whole:
        parts = [digest for (of, _), digest in zip(networks, ensemble.digests) if of == path]
        digests.append(parts[0] if len(parts) == 1 else inspect_weights(path).digest)
    numbers = {
        chunk.id: tuple(number for number, digest in enumerate(ensemble.digests) if chunk.scroll_id not in seen[digest])
        for chunk in chunks
    }
    if left_out := [id_ for id_, own in numbers.items() if not own]:
        logger.warning(
            "%s: every network saw the scroll of %d of %d volumes, which are left out: %s",
            name, len(left_out), len(chunks), list_some(left_out),
        )  # fmt: skip
    numbers = {id_: own for id_, own in numbers.items() if own}
    for asked in sorted(set(map(len, numbers.values()))):
        n_volumes = sum(len(own) == asked for own in numbers.values())
        logger.info("%s: %d volumes are predicted by %d of %d networks", name, n_volumes, asked, len(networks))
    return _Group(name, digests, ensemble, seen, numbers)


def _scrolls_of(ids: Iterable[str], competition: Competition, path: Path) -> set[str]:
    """The scrolls that a network saw, by the ids of the volumes that it was trained on."""
    ids = sorted(ids)
    if strangers := [id_ for id_ in ids if id_ not in competition.scrolls]:
        table = competition.folder / "train.csv"
        if len(strangers) == len(ids):
            raise InputValueError(
                f"volumes that {path} was trained on must be rows of {table}, which tells their scrolls, got {list_some(ids)}"
            )
        logger.warning(
            "%s was trained on %d volumes without a row in %s, whose scrolls nobody knows: %s",
            path, len(strangers), table, list_some(strangers),
        )  # fmt: skip
    return {competition.scrolls[id_] for id_ in ids if id_ in competition.scrolls}


def _name_groups(entries: Sequence[Path]) -> list[str]:
    """Names of folders for the groups: those of their own folders, made unique."""
    names: list[str] = []
    for entry in entries:
        place = Path(os.path.abspath(entry))
        place = place.parent if place.is_file() else place
        parts = [place.name]
        while _PART_OF_A_RUN.fullmatch(parts[0]) and place.parent.name:
            place = place.parent
            parts.insert(0, place.name)
        own = name = "_".join(parts) or "root"
        number = 1
        while name in names:
            number += 1
            name = f"{own}_{number}"
        names.append(name)
    return names


def _refuse_shared(groups: Sequence[_Group]) -> None:
    """The same network in two groups would count twice in their ensemble."""
    owner: dict[str, Path] = {}
    for group in groups:
        for digest, path in zip(group.ensemble.digests, group.ensemble.paths):
            if digest in owner:
                raise InputValueError(
                    f"checkpoints must hold different weights, got the same in {owner[digest]} and {path}"
                )
            owner[digest] = path


def _describe(groups: Sequence[_Group], chunks: Sequence[Chunk], predict: PredictConfig) -> Mapping[str, Any]:
    """The index, as JSON holds it."""
    volumes = {
        chunk.id: {
            "scroll": chunk.scroll_id,
            "networks": {group.name: group.digests_for(chunk.id) for group in groups if chunk.id in group.numbers},
        }
        for chunk in chunks
    }
    return {
        "format": _FORMAT,
        "predict": {"window": list(predict.window), "overlap": predict.overlap, "tta": predict.tta},
        "groups": [
            {"name": group.name, "weights": group.digests, "predict": group.ensemble.settings} for group in groups
        ],
        "volumes": {id_: entry for id_, entry in volumes.items() if entry["networks"]},
    }
