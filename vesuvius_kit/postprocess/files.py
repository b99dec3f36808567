"""Probabilities in files, masks out: what one process does with one volume."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vesuvius_kit.checks import InputValueError, check_folder
from vesuvius_kit.postprocess.pipeline import run_pipeline
from vesuvius_kit.volume import read_volume, write_atomically, write_volume

SUFFIXES = (".npy", ".npz", ".tif", ".tiff")


def list_probabilities(folder) -> dict[str, Path]:
    """Return the files of probabilities in a folder by id.

    Parameters
    ----------
    folder : str or Path
        Holds ``{id}.npy``, ``{id}.npz`` or ``{id}.tif``.

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
    folder = check_folder("probabilities", folder)
    paths = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        if path.stem in paths:
            raise InputValueError(f"probabilities must hold one file for each id, got {paths[path.stem]} and {path}")
        paths[path.stem] = path
    if not paths:
        raise InputValueError(f"probabilities must hold at least one .npy, .npz or .tif, got none in {folder}")
    return paths


def load_probability(path) -> np.ndarray:
    """Read one volume of probabilities.

    Parameters
    ----------
    path : str or Path
        ``.npy``; ``.npz`` with one array, or with nnU-Net's ``probabilities`` (classes, Z, Y, X), of which class 1 is the
        surface; or a TIFF. Integers count from 0 to the largest of their type, as 255 for uint8.

    Returns
    -------
    numpy.ndarray
        float32, (Z, Y, X).

    Raises
    ------
    InputNotFoundError, InputValueError
        No such file, cut off or corrupt, or not one volume.
    """
    path = Path(path)
    if path.suffix in (".tif", ".tiff"):
        probability = read_volume(path)
    else:
        try:
            probability = np.load(path, allow_pickle=False)
            if isinstance(probability, np.lib.npyio.NpzFile):
                with probability as archive:
                    probability = _only_volume(archive, path)
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            if isinstance(error, InputValueError):
                raise
            raise InputValueError(f"probability must be a complete {path.suffix} array, got {path}: {error}") from error
    if probability.dtype.kind in "iu":
        return probability.astype(np.float32) / np.float32(np.iinfo(probability.dtype).max)
    return probability.astype(np.float32)


def _only_volume(archive, path):
    if "probabilities" in archive.files and len(archive["probabilities"].shape) == 4:
        return archive["probabilities"][1]
    if len(archive.files) != 1:
        raise InputValueError(f"probability must be the only array of {path}, got {', '.join(archive.files) or 'none'}")
    return archive[archive.files[0]]


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
