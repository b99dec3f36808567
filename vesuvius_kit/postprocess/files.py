"""Probabilities in files, masks out: what one process does with one volume."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vesuvius_kit.checks import InputError, InputValueError, check_file, name_os_errors
from vesuvius_kit.io.listing import TIFF_ENDINGS, list_volumes, open_archive, volume_id
from vesuvius_kit.io.volume import read_volume, write_atomically, write_volume
from vesuvius_kit.postprocess.pipeline import run_pipeline

_PLAIN_ENDINGS = (".npy", *TIFF_ENDINGS)
_NNUNET_KEY = "probabilities"
_FAINT = 0.01  # the highest probability in a file of integers under which its scale must be another one

_ROUNDING = 1e-4  # what a resampling may have left beyond [0, 1]

logger = logging.getLogger(__name__)


def list_probabilities(folder: Path | str) -> dict[str, Path]:
    """Return the files of probabilities in a folder by id.

    Parameters
    ----------
    folder : str or Path
        Holds ``{id}.npy``, ``{id}.npz`` or ``{id}.tif``, or is what nnU-Net writes under ``--save_probabilities``: there the
        mask ``{id}.tif`` beside ``{id}.npz`` does not count, and ``{id}.pkl`` is never opened.

    Returns
    -------
    dict of str to pathlib.Path
        Sorted by id.

    Raises
    ------
    InputNotFoundError
        No such folder.
    InputValueError
        No such file in it, or two of one id.
    """
    paths = list_volumes("probabilities", folder, _PLAIN_ENDINGS)
    for id_, archive in list_volumes("probabilities", folder, (".npz",)).items():
        if id_ in paths and not (volume_id(paths[id_].name) and _is_of_nnunet(archive)):
            raise InputValueError(f"probabilities must hold one file for each id, got {paths[id_]} and {archive}")
        paths[id_] = archive
    if not paths:
        raise InputValueError(f"probabilities must hold at least one .npy, .npz or .tif, got none in {folder}")
    return dict(sorted(paths.items()))


def load_probability(path: Path | str) -> np.ndarray:
    """Read one volume of probabilities.

    Parameters
    ----------
    path : str or Path
        ``.npy``; ``.npz`` with one array, or with nnU-Net's ``probabilities`` (classes, Z, Y, X), of which class 1 of two is
        the surface, and of several the one that ``dataset.json`` beside the file calls so; or a TIFF. Integers count from 0
        to the largest of their type, as 255 for uint8; floats and bools are probabilities as they are.

    Returns
    -------
    numpy.ndarray
        float32, (Z, Y, X), in [0, 1].

    Raises
    ------
    InputNotFoundError, InputOSError, InputValueError
        No such file, cut off or corrupt, not one volume, or numbers on another scale: a mask of 0 and 1 or a volume of
        0 to 255 in a wider type would pass for probabilities near 0.
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


def _scale_integers(values, path) -> np.ndarray:
    least, greatest, certain = int(values.min()), int(values.max()), np.iinfo(values.dtype).max
    if least < 0:
        raise InputValueError(f"{path} must hold probabilities from 0 to {certain} ({values.dtype}), got {least}")
    if 0 < greatest / certain < _FAINT:
        kind = "as a mask does" if greatest == 1 else "on another scale, it seems"
        raise InputValueError(
            f"{path} must hold probabilities from 0 to {certain} ({values.dtype}), got 0 to {greatest} {kind}: give floats "
            "in [0, 1], which are taken as they are, or whole numbers on the type's scale"
        )
    if 0 < greatest / certain < 0.5:
        logger.warning(
            "%s: the highest probability is %.2f (%d of %d, the largest %s); percentages would have to be stored as floats",
            path, greatest / certain, greatest, certain, values.dtype,
        )  # fmt: skip
    return values.astype(np.float32) / np.float32(certain)


def _load_numpy(path) -> np.ndarray:
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
        except Exception as error:  # of damaged bytes, NumPy and zipfile raise whatever they stumble over
            raise InputValueError(
                f"probability must be a complete {path.suffix} array, got {path}: {' '.join(str(error).split())}"
            ) from error


def _is_of_nnunet(path) -> bool:
    with open_archive("probability", path) as archive:
        return f"{_NNUNET_KEY}.npy" in archive.namelist()


def _only_volume(archive, path):
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


def _read_member(archive, key, path) -> np.ndarray:
    """An array of an .npz, read to the last byte of its file, behind which zip keeps the checksum: NumPy stops before."""
    names = archive.zip.namelist()
    with archive.zip.open(key if key in names else f"{key}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise InputValueError(
                f"probability must be a complete array, got {path}: more bytes than {array.shape} has"
            )
    return array


def _find_surface(dataset, n_classes, path) -> int:
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


def note_changes(report, name, changes) -> None:
    """Write what was changed in one volume into a report, beside what it holds of others.

    Parameters
    ----------
    report : str or Path
        JSON file; made when it is not there.
    name : str
        Id of the volume.
    changes : list of dict
        See `run_pipeline`.

    Raises
    ------
    InputValueError
        The file holds something else.
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
    """A file of probabilities to a mask; goes to a process as it is.

    Parameters
    ----------
    output : pathlib.Path
        Folder of the masks.
    pipeline : list of Step
        See `vesuvius_kit.postprocess.pipeline.load_pipeline`.
    report : bool
        Whether to measure what every step changed.
    """

    output: Path
    pipeline: list
    report: bool = False

    def __call__(self, path, seconds=None):
        """Write ``{id}.tif``, uint8 in {0, 1}, and return the list of changes, empty without a report."""
        result = run_pipeline(load_probability(path), self.pipeline, report=self.report)
        mask, changes = result if self.report else (result, [])
        write_volume(self.output / f"{Path(path).stem}.tif", mask.astype(np.uint8))
        return changes
