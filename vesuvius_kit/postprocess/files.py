"""Probabilities in files, masks out: what one process does with one volume."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputError, InputValueError, check_file, name_os_errors, one_line
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.listing import TIFF_ENDINGS, list_volumes, open_archive, volume_id
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.postprocess.pipeline import Step, run_pipeline

_PLAIN_ENDINGS = (".npy", *TIFF_ENDINGS)
_NNUNET_KEY = "probabilities"
_FAINT = 0.01  # the highest probability in a file of integers under which its scale must be another one

_ROUNDING = 1e-4  # what a resampling may have left beyond [0, 1]

logger = logging.getLogger(__name__)


def list_probabilities(folder: Path | str) -> dict[str, Path]:
    """Return the files of probabilities in a folder by id, sorted; none, or two of one id, is an error.

    They are ``{id}.npy``, ``{id}.npz`` and ``{id}.tif``. In what nnU-Net writes under ``--save_probabilities`` the mask
    ``{id}.tif`` beside ``{id}.npz`` does not count, and ``{id}.pkl`` is never opened.
    """
    paths = list_volumes("probabilities", folder, _PLAIN_ENDINGS)
    for id_, archive in list_volumes("probabilities", folder, (".npz",)).items():
        if id_ in paths and not (volume_id(paths[id_].name) and _is_of_nnunet(archive)):
            raise InputValueError(f"probabilities must hold one file for each id, got {paths[id_]} and {archive}")
        paths[id_] = archive
    if not paths:
        raise InputValueError(f"probabilities must hold at least one .npy, .npz or .tif, got none in {folder}")
    return dict(sorted(paths.items()))


def load_probability(path: Path | str) -> NDArray[np.float32]:
    """Read one volume of probabilities, (Z, Y, X) in [0, 1], from a ``.npy``, an ``.npz`` or a TIFF.

    An ``.npz`` holds one array, or nnU-Net's ``probabilities`` (classes, Z, Y, X), of which class 1 of two is the surface, and
    of several the one that ``dataset.json`` beside the file calls so. Integers count from 0 to the largest of their type, as
    255 for uint8; floats and bools are taken as they are. Numbers on another scale are refused: a mask of 0 and 1 or a volume
    of 0 to 255 in a wider type would pass for probabilities near 0.

    Examples
    --------
    >>> import tempfile, numpy as np, vesuvius_kit as vk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/1.npy", np.array([[[0, 51, 255]]], np.uint8))
    ...     probability = vk.load_probability(f"{folder}/1.npy")
    >>> [round(value, 3) for value in probability[0, 0].tolist()]
    [0.0, 0.2, 1.0]
    """
    path = check_file("probability", path)
    values = read_volume(path) if volume_id(path.name) else _load_numpy(path)
    while values.ndim > 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 3 or values.size == 0:
        raise InputValueError(f"{path} must hold one volume (z, y, x) of probabilities, got shape {values.shape}")
    if values.dtype.kind not in "biuf":
        raise InputValueError(f"{path} must hold numbers, got {values.dtype}")
    if values.dtype.kind in "iu":
        return _scale_integers(values, path)
    least, greatest = float(values.min()), float(values.max())
    if not (least >= -_ROUNDING and greatest <= 1.0 + _ROUNDING):
        raise InputValueError(
            f"{path} must hold probabilities in [0, 1] without NaN, got {least:g} to {greatest:g}"
            + (": logits need a sigmoid first" if least < 0.0 else "")
        )
    return values.astype(np.float32).clip(0.0, 1.0)


def _scale_integers(values: NDArray[np.integer[Any]], path: Path) -> NDArray[np.float32]:
    least, greatest, certain = int(values.min()), int(values.max()), np.iinfo(values.dtype).max
    if least < 0:
        raise InputValueError(f"{path} must hold probabilities from 0 to {certain} ({values.dtype}), got {least}")
    if 0 < greatest / certain < _FAINT:
        kind = "as a mask does" if greatest == 1 else "on another scale, it seems"
        raise InputValueError(
            f"{path} must hold probabilities from 0 to {certain} ({values.dtype}), got 0 to {greatest} {kind}: give "
            "floats in [0, 1], which are taken as they are, or whole numbers on the type's scale"
        )
    if 0 < greatest / certain < 0.5:
        logger.warning(
            "%s: the highest probability is %.2f (%d of %d, the largest %s); percentages would have to be stored as floats",
            path, greatest / certain, greatest, certain, values.dtype,
        )  # fmt: skip
    return values.astype(np.float32) / np.float32(certain)


def _load_numpy(path: Path) -> NDArray[Any]:
    """Read .npy or .npz; nothing is unpickled."""
    with name_os_errors(f"read {path}"):
        try:
            # Mapped, so that a length that was damaged is compared with the file's before it is allocated.
            found = np.load(path, allow_pickle=False, mmap_mode="r")
            if isinstance(found, np.lib.npyio.NpzFile):
                with found as archive:
                    return _only_volume(archive, path)
            if found.offset + found.nbytes != path.stat().st_size:
                raise InputValueError(
                    f"probability must be a complete .npy array, got {path}: more bytes than its shape {found.shape} has"
                )
            return np.array(found)
        except (InputError, OSError):
            raise
        except Exception as error:  # of damaged bytes, NumPy and zipfile raise any exception at all
            raise InputValueError(
                f"probability must be a complete {path.suffix} array, got {path}: {one_line(error)}"
            ) from error


def _is_of_nnunet(path: Path) -> bool:
    with open_archive("probability", path) as archive:
        return f"{_NNUNET_KEY}.npy" in archive.namelist()


def _only_volume(archive: np.lib.npyio.NpzFile, path: Path) -> NDArray[Any]:
    if _NNUNET_KEY not in archive.files:
        if len(archive.files) != 1:
            raise InputValueError(
                f"probability must be the only array of {path}, got {', '.join(archive.files) or 'none'}"
            )
        return _read_member(archive, archive.files[0], path)
    classes = _read_member(archive, _NNUNET_KEY, path)
    if classes.ndim != 4:
        raise InputValueError(f"{path} must hold {_NNUNET_KEY} of shape (classes, z, y, x), got {classes.shape}")
    # One class alone is nnU-Net's training on regions, without a channel for the background.
    if len(classes) <= 2:
        return classes[-1]
    return classes[_find_surface(path.with_name("dataset.json"), len(classes), path)]


def _read_member(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> NDArray[Any]:
    """An array of an .npz, read to the last byte of its file, behind which zip keeps the checksum: NumPy stops before."""
    members = archive.zip
    assert members is not None  # it is of a closed archive
    names = members.namelist()
    with members.open(key if key in names else f"{key}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise InputValueError(
                f"probability must be a complete array, got {path}: more bytes than {array.shape} has"
            )
    return array


def _find_surface(dataset: Path, n_classes: int, path: Path) -> int:
    """Return which of several classes is the surface, from nnU-Net's ``dataset.json``."""
    advice = f"{dataset} must call one of its labels 'surface', with its number (or keep that channel alone in a .npy)"
    try:
        described = json.loads(dataset.read_text(encoding="utf-8")) if dataset.is_file() else {}
        labels = {str(name).strip().lower(): number for name, number in described["labels"].items()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputValueError(f"{path} holds {n_classes} classes: {advice}") from error
    number = labels.get("surface")
    if described.get("regions_class_order") or type(number) is not int or not 0 < number < n_classes:
        raise InputValueError(
            f"{path} holds {n_classes} classes: {advice}, got {json.dumps(described['labels'])[:200]}"
        )
    return number


def note_changes(report: Path | str, name: str, changes: Sequence[dict[str, Any]]) -> None:
    """Write what was changed in the volume ``name`` into a report, a JSON file that is made when it is not there.

    What the report holds of other volumes stays. ``changes`` are those of `run_pipeline`.
    """
    report = Path(report)
    try:
        noted = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    except ValueError as error:
        raise InputValueError(f"report must be a JSON file that this command wrote, got {report}: {error}") from error
    with write_atomically(report) as stream:
        json.dump({**noted, name: changes}, stream, indent=1)


@dataclass(frozen=True)
class RepairJob:
    """A file of probabilities to a mask; goes to a process as it is."""

    output: Path
    """Folder of the masks."""
    pipeline: list[Step]
    """What `vesuvius_kit.postprocess.pipeline.load_pipeline` gave."""
    report: bool = False
    """Whether to measure what every step changed."""

    def __call__(self, path: Path | str, seconds: float | None = None) -> list[dict[str, Any]]:
        """Write ``{id}.tif``, uint8 in {0, 1}, and return the list of changes, empty without a report."""
        probability, changes = load_probability(path), list[dict[str, Any]]()
        if self.report:
            mask, changes = run_pipeline(probability, self.pipeline, report=True)
        else:
            mask = run_pipeline(probability, self.pipeline)
        write_volume(self.output / f"{Path(path).stem}.tif", mask.astype(np.uint8))
        return changes
