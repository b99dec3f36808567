"""The archive a competition accepts: which masks it must hold, how it is packed, and whether it is valid."""

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from vesuvius_kit.checks import InputValueError, check_file, check_folder
from vesuvius_kit.volume import read_volume, volume_shape_and_dtype, write_atomically

# A fixed date, the earliest of the format: the archive of the same masks is the same to the byte.
_DATE = (1980, 1, 1, 0, 0, 0)


def list_images(folder) -> dict[str, Path]:
    """Return the TIFF volumes of a folder by id, after checking every header.

    Parameters
    ----------
    folder : str or Path
        Holds ``{id}.tif``.

    Returns
    -------
    dict of str to pathlib.Path
        Sorted by id.

    Raises
    ------
    InputNotFoundError
        No such folder.
    InputValueError
        No TIFF in it, or one that is not a readable 3-D volume.
    """
    folder = check_folder("images", folder)
    paths = {path.stem: path for path in sorted(folder.glob("*.tif"))}
    if not paths:
        raise InputValueError(f"images must hold at least one .tif, got the empty folder {folder}")
    for path in paths.values():
        volume_shape_and_dtype(path)
    return paths


def pack_submission(zip_path, masks) -> None:
    """Pack mask files into an archive, whole or not at all; the same masks give the same bytes.

    Parameters
    ----------
    zip_path : str or Path
        The archive; replaced in one move.
    masks : iterable of (str, pathlib.Path)
        Name in the archive without ``.tif``, and the file; a generator may make each file as late as it is asked for.

    Raises
    ------
    InputNotFoundError
        The folder of the archive does not exist.
    """
    with write_atomically(zip_path, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, path in masks:
            entry = zipfile.ZipInfo(f"{name}.tif", _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())


def validate_submission(zip_path, images_folder) -> int:
    """Check that an archive is what the competition accepts and return the number of its masks.

    One ``{id}.tif`` for each test image and nothing else, uint8 with values 0 and 1 only, of exactly the image's shape.

    Parameters
    ----------
    zip_path : str or Path
        The archive.
    images_folder : str or Path
        Folder of the test images ``{id}.tif``.

    Returns
    -------
    int
        Number of masks.

    Raises
    ------
    InputNotFoundError
        No such archive or folder.
    InputValueError
        The archive is not acceptable; the message names each problem.
    """
    zip_path = check_file("submission", zip_path)
    expected = list_images(images_folder)
    problems = []
    try:
        with zipfile.ZipFile(zip_path) as archive:
            names = archive.namelist()
            wanted = {f"{name}.tif" for name in expected}
            problems += [f"{name} is missing" for name in sorted(wanted - set(names))]
            problems += [f"{name} has no test image" for name in sorted(set(names) - wanted)]
            problems += [f"{name} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
            for name in sorted(wanted & set(names)):
                problems += _check_mask(name, archive.read(name), expected[Path(name).stem])
    except zipfile.BadZipFile as error:
        raise InputValueError(f"submission must be a zip archive, got {zip_path}: {error}") from error
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise InputValueError(f"submission {zip_path} must be valid, got: {shown}")
    return len(expected)


def _check_mask(name, content, image_path):
    """The problems of one mask in the archive, as a list of lines."""
    shape, _ = volume_shape_and_dtype(image_path)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "mask.tif"
        path.write_bytes(content)
        try:
            mask = read_volume(path)
        except InputValueError:
            return [f"{name} is not a readable TIFF volume"]
    problems = []
    if mask.dtype != np.uint8:
        problems.append(f"{name} must be uint8, is {mask.dtype}")
    if mask.shape != shape:
        problems.append(f"{name} must have the image's shape {shape}, has {mask.shape}")
    if mask.size and not (mask.min() >= 0 and mask.max() <= 1):
        problems.append(f"{name} must hold 0 and 1 only, holds {mask.min()} to {mask.max()}")
    return problems
