"""What there is of a run: its logs, masks, labels and so on, each found by what the folder holds."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import (
    InputNotFoundError,
    InputValueError,
    check_file,
    check_folder,
    make_scratch_folder,
    name_os_errors,
    one_line,
)
from vesuvius_kit.data.competition import Competition
from vesuvius_kit.inference.out_of_fold import INDEX_FILE as OUT_OF_FOLD_FILE
from vesuvius_kit.inference.out_of_fold import read_out_of_fold
from vesuvius_kit.inference.results import SETTINGS_FILE
from vesuvius_kit.inference.run_record import RECORD_FILE
from vesuvius_kit.io.listing import copy_member, list_members, list_volumes, open_archive
from vesuvius_kit.io.record import LOG_NAME
from vesuvius_kit.io.run_folder import list_folds
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.postprocess.files import list_probabilities, load_probability

ARCHIVE = "submission.zip"
TUNING_FILE = "tuning.json"
SUMMARY_FILE = "summary.json"
# No mask of a chunk has more bytes, whatever an archive says.
_MOST_BYTES = 2**31


@dataclass(frozen=True)
class Places:
    """Where parts of a run lie that are not in its folder."""

    data: Path | str | None = None
    """The competition's folder: images, labels, and which chunk is of which scroll."""
    images: Path | str | None = None
    """Folder of ``{id}.tif``."""
    labels: Path | str | None = None
    """Folder of ``{id}.tif`` with 0, 1 and 2."""
    masks: Path | str | None = None
    """Folder of ``{id}.tif``, or a zip archive of them."""
    probabilities: Path | str | None = None
    """Folder of ``{id}.npy``, ``.npz`` or ``.tif``, or what ``predict --out-of-fold`` wrote."""
    tuning: Path | str | None = None
    """What ``tune`` wrote."""


@dataclass(frozen=True)
class MaskFile:
    """A mask in a folder, or in an archive."""

    path: Path
    member: str | None = None
    """Its name in the archive ``path``."""

    def read(self) -> NDArray[np.bool_]:
        """Return the mask, (Z, Y, X)."""
        if self.member is None:
            return read_volume(self.path) > 0
        with make_scratch_folder() as scratch, open_archive("masks", self.path) as archive:
            target = scratch / "mask.tif"
            try:
                copy_member(archive, archive.getinfo(self.member), target, _MOST_BYTES)
            except InputValueError as error:
                raise InputValueError(
                    f"masks must be readable, got {self.member} in {self.path}: it {error}"
                ) from error
            return read_volume(target) > 0


@dataclass(frozen=True)
class Parts:
    """What was found of a run; whatever is empty was not."""

    folder: Path
    """Of the run."""
    folds: dict[str, Path] = field(default_factory=dict)
    """Folders with a log, by what the page calls them."""
    images: dict[str, Path] = field(default_factory=dict)
    """By id, as all below."""
    labels: dict[str, Path] = field(default_factory=dict)
    """Label volumes."""
    masks: dict[str, MaskFile] = field(default_factory=dict)
    """Predictions."""
    probabilities: dict[str, list[tuple[Path, float]]] = field(default_factory=dict)
    """Files and their weights: the mean counts."""
    scrolls: dict[str, str] = field(default_factory=dict)
    """Which scroll a chunk is of."""
    record: dict[str, Any] = field(default_factory=dict)
    """``run.json`` of a submission."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What lies as ``settings.json`` beside masks or probabilities."""
    tuning: dict[str, Any] = field(default_factory=dict)
    """``tuning.json``."""
    tuned_pipeline: Path | None = None
    """The pipeline that was tuned."""
    summary: dict[str, Any] = field(default_factory=dict)
    """``summary.json`` of a demo."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of a demo's stages."""

    @property
    def predicted(self) -> list[str]:
        """Ids of the volumes with a mask or a probability, sorted."""
        return sorted(self.masks.keys() | self.probabilities.keys())

    def is_empty(self) -> bool:
        """Whether there is nothing to report on."""
        return not (self.folds or self.masks or self.probabilities or self.record or self.tuning or self.summary)

    def read_probability(self, id_: str) -> NDArray[np.float32]:
        """Return the mean probability of a volume, (Z, Y, X)."""
        members = self.probabilities[id_]
        if len(members) == 1:
            return load_probability(members[0][0])
        total: NDArray[np.float32] | None = None
        for path, weight in members:
            other = load_probability(path) * np.float32(weight / sum(weight for _, weight in members))
            if total is not None and other.shape != total.shape:
                raise InputValueError(
                    f"probabilities of one volume must have one shape, got {total.shape} in {members[0][0]} and "
                    f"{other.shape} in {path}"
                )
            total = other if total is None else total + other
        assert total is not None
        return total.clip(0, 1)


def find_parts(run: Path | str, places: Places) -> Parts:
    """Look for the parts of a run in its folder, and where the options say.

    Raises
    ------
    InputNotFoundError
        A folder that is not there, or one that holds nothing to report on.
    InputError
        A file that cannot be read, two files of one id.
    """
    folder = check_folder("run", run)
    record_folder = _find_record(folder)
    tuning = _find_tuning(folder, places.tuning)
    masks = _find_masks(folder, record_folder, places.masks)
    probability_folder = _find_probabilities(folder, places.probabilities)
    images, labels, scrolls = _find_data(folder, places)
    tuned = _read_json(tuning) if tuning else {}
    probabilities, predicted_scrolls = _list_probabilities(probability_folder, _group_weights(tuned))
    parts = Parts(
        folder,
        folds=_find_folds(folder),
        images=images,
        labels=labels,
        masks=masks,
        probabilities=probabilities,
        scrolls=predicted_scrolls | scrolls,
        record=_read_json(record_folder / RECORD_FILE) if record_folder else {},
        settings=_read_first(SETTINGS_FILE, record_folder, _folder_of(masks), probability_folder),
        tuning=tuned,
        tuned_pipeline=tuning.with_name("pipeline.yaml") if tuning else None,
        summary=_read_json(folder / SUMMARY_FILE),
        stages=_read_json(folder / "seconds.json"),
    )
    if parts.is_empty():
        raise InputNotFoundError(
            f"run must hold a training log (fold_*/{LOG_NAME}), masks or {ARCHIVE}, probabilities, {RECORD_FILE} or "
            f"{TUNING_FILE}, got none in {folder}"
        )
    return parts


def _find_folds(folder: Path) -> dict[str, Path]:
    if (folder / LOG_NAME).is_file():
        return {folder.name: folder}
    for place in (folder, folder / "checkpoints"):
        folds = {fold.name: fold for fold in list_folds(place) if (fold / LOG_NAME).is_file()}
        if folds:
            return folds
    return {}


def _find_record(folder: Path) -> Path | None:
    """The folder that holds ``run.json``: the run's, or that of its masks."""
    places = [folder, *sorted(path for path in folder.glob("*_masks") if path.is_dir())]
    return next((place for place in places if (place / RECORD_FILE).is_file()), None)


def _find_tuning(folder: Path, given: Path | str | None) -> Path | None:
    if given is not None:
        given = Path(given)
        return check_file("tuning", given / TUNING_FILE if given.is_dir() else given)
    places = (folder / TUNING_FILE, folder / "tuning" / TUNING_FILE)
    return next((place for place in places if place.is_file()), None)


def _find_masks(folder: Path, record_folder: Path | None, given: Path | str | None) -> dict[str, MaskFile]:
    if given is not None:
        found = _list_masks(Path(given))
        if not found:
            raise InputValueError(f"masks must hold at least one .tif, got none in {given}")
        return found
    for place in (record_folder, folder / "masks", folder / ARCHIVE, folder):
        if place is not None and place.exists() and (found := _list_masks(place)):
            return found
    return {}


def _list_masks(place: Path) -> dict[str, MaskFile]:
    if place.is_dir():
        return {id_: MaskFile(path) for id_, path in list_volumes("masks", place).items()}
    with open_archive("masks", place) as archive:
        return _list_archive(archive, place)


def _list_archive(archive: zipfile.ZipFile, place: Path) -> dict[str, MaskFile]:
    found: dict[str, MaskFile] = {}
    for id_, path, member in list_members(archive):
        if id_ is not None and id_ in found:
            raise InputValueError(f"masks must hold one file for each id, got a second {path} in {place}")
        if id_ is not None:
            found[id_] = MaskFile(place, member.filename)
    return dict(sorted(found.items()))


def _folder_of(masks: Mapping[str, MaskFile]) -> Path | None:
    first = next(iter(masks.values()), None)
    return first.path.parent if first else None


def _find_probabilities(folder: Path, given: Path | str | None) -> Path | None:
    if given is not None:
        return check_folder("probabilities", given)
    for place in (folder / "probabilities", folder / "out_of_fold", folder):
        if place.is_dir() and ((place / OUT_OF_FOLD_FILE).is_file() or _holds_arrays(place)):
            return place
    return None


def _holds_arrays(folder: Path) -> bool:
    return any(any(folder.glob(f"*{ending}")) for ending in (".npy", ".npz"))


_Members = dict[str, list[tuple[Path, float]]]


def _list_probabilities(folder: Path | None, weights: Mapping[str, float]) -> tuple[_Members, dict[str, str]]:
    """Files of probabilities with their weights, and scrolls, by id."""
    if folder is None:
        return {}, {}
    if not (folder / OUT_OF_FOLD_FILE).is_file():
        return {id_: [(path, 1.0)] for id_, path in list_probabilities(folder).items()}, {}
    found = read_out_of_fold(folder)
    members: _Members = {}
    for id_, volume in sorted(found.volumes.items()):
        given = [(found.path(group, id_), weights.get(group, 1.0)) for group in volume.networks]
        # A group without weight is not asked, unless there is no other.
        members[id_] = [row for row in given if row[1] > 0] or [(path, 1.0) for path, _ in given]
    return members, {id_: volume.scroll for id_, volume in found.volumes.items()}


def _group_weights(tuning: Mapping[str, Any]) -> dict[str, float]:
    """The weights of groups that were tuned, by name; empty where there are none."""
    # Where the search gained nothing the preset was written, with equal weights.
    tuned = None if tuning.get("is_preset") else tuning.get("tuned")
    settings = tuned.get("settings") if isinstance(tuned, dict) else None
    named = {str(name): value for name, value in settings.items()} if isinstance(settings, dict) else {}
    return {
        name.removeprefix("weights."): float(value)
        for name, value in named.items()
        if name.startswith("weights.") and isinstance(value, (int, float))
    }


def _find_data(folder: Path, places: Places) -> tuple[dict[str, Path], dict[str, Path], dict[str, str]]:
    """Images, labels and scrolls by id; what an option names comes before what lies in the data's folder."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    scrolls: dict[str, str] = {}
    data = Path(places.data) if places.data is not None else folder / "data"
    if places.data is not None or data.is_dir():
        competition = Competition(data)
        train = competition.train if (data / "train.csv").is_file() else []
        images = {chunk.id: chunk.image_path for chunk in (*train, *competition.test)}
        labels = {chunk.id: chunk.label_path for chunk in train if chunk.label_path is not None}
        scrolls = {chunk.id: chunk.scroll_id for chunk in (*train, *competition.test) if chunk.scroll_id}
    # What `write_competition` keeps of a phantom's test chunks.
    for place in (folder / "truth" / "test_labels", folder / "labels"):
        if place.is_dir():
            labels |= list_volumes("labels", place)
    if (folder / "images").is_dir():
        images |= list_volumes("images", folder / "images")
    if places.images is not None:
        images = list_volumes("images", places.images)
    if places.labels is not None:
        labels = list_volumes("labels", places.labels)
        if not labels:
            raise InputValueError(f"labels must hold at least one .tif, got none in {places.labels}")
    return images, labels, scrolls


def _read_first(name: str, *folders: Path | None) -> dict[str, Any]:
    for folder in folders:
        if folder is not None and (folder / name).is_file():
            return _read_json(folder / name)
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty where there is none."""
    if not path.is_file():
        return {}
    with name_os_errors(f"read {path}"):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputValueError(f"{path} must hold JSON, got {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
