"""The archive a competition accepts: which masks it must hold, how it is packed, and whether it is valid."""

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vesuvius_kit.checks import InputValueError, check_file, make_scratch_folder, name_os_errors
from vesuvius_kit.inference.catalogue import list_masks
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.listing import copy_member, list_members, list_volumes, open_archive
from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype

# A fixed date, the earliest of the format: the archive of the same masks is the same to the byte.
_DATE = (1980, 1, 1, 0, 0, 0)
# Of a mask's file: 8 bytes a voxel, which is far more than any coding of 0 and 1, and room for page directories.
_MASK_BYTES_PER_VOXEL, _MASK_BYTES = 8, 2**20


def list_images(folder: Path | str) -> dict[str, Path]:
    """Return the TIFF volumes of a folder by id, sorted, after checking every header.

    They are ``{id}.tif`` or ``{id}.tiff``. None at all, two of one id, or one that is no 3-D volume is an error.

    Examples
    --------
    >>> import tempfile, numpy as np, vesuvius_kit as vk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vk.write_volume(f"{folder}/7.tif", np.zeros((4, 5, 6), np.uint8))
    ...     {id_: path.name for id_, path in vk.list_images(folder).items()}
    {'7': '7.tif'}
    """
    paths = list_volumes("images", folder)
    if not paths:
        raise InputValueError(f"images must hold at least one .tif or .tiff, got none in {folder}")
    for path in paths.values():
        volume_shape_and_dtype(path)
    return paths


def pack_submission(zip_path: Path | str, masks: Iterable[tuple[str, Path]]) -> None:
    """Pack mask files into an archive, whole or not at all; the same masks give the same bytes.

    Parameters
    ----------
    zip_path
        Replaced in one move.
    masks
        Name in the archive without ``.tif``, and the file; a generator may make each file as late as it is asked for.

    Examples
    --------
    >>> import tempfile, numpy as np, vesuvius_kit as vk
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mask = Path(folder, "mask.tif")
    ...     vk.write_volume(mask, np.zeros((4, 5, 6), np.uint8))
    ...     vk.pack_submission(f"{folder}/submission.zip", [("7", mask)])
    ...     mask.rename(Path(folder, "7.tif")).name, vk.validate_submission(f"{folder}/submission.zip", folder)
    ('7.tif', 1)
    """
    with write_atomically(zip_path, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, path in masks:
            with name_os_errors(f"read {path}"):
                content = path.read_bytes()
            archive.writestr(make_entry(name), content)


def make_entry(name: str, compression: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    """Return the entry of a mask, by its name without ``.tif``; ``compression`` is one of zipfile's."""
    entry = zipfile.ZipInfo(f"{name}.tif", _DATE)
    entry.compress_type = compression
    entry.external_attr = 0o644 << 16
    return entry


def validate_submission(zip_path: Path | str, images_folder: Path | str) -> int:
    """Check that an archive is what the competition accepts and return the number of its masks.

    One ``{id}.tif`` for each test image and nothing else, uint8 with values 0 and 1 only, of exactly the image's shape. What
    macOS adds to an archive (``__MACOSX``, hidden files) does not count. An image that cannot be read, and a row of
    ``test.csv`` beside a folder ``test_images``, need a mask too, of whatever shape.

    Raises
    ------
    InputValueError
        The archive is not acceptable; the message names each problem.

    Examples
    --------
    >>> import tempfile, zipfile, numpy as np, vesuvius_kit as vk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vk.write_volume(f"{folder}/7.tif", np.zeros((4, 5, 6), np.uint8))
    ...     with zipfile.ZipFile(f"{folder}/submission.zip", "w") as archive:
    ...         archive.write(f"{folder}/7.tif", "7.tif")
    ...     vk.validate_submission(f"{folder}/submission.zip", folder)
    1
    """
    zip_path = check_file("submission", zip_path)
    expected = list_masks(images_folder)
    problems: list[str] = []
    found: dict[str, zipfile.ZipInfo] = {}
    with open_archive("submission", zip_path) as archive:
        for id_, place, member in list_members(archive):
            name = f"{id_}.tif"
            if id_ not in expected.shapes:
                problems.append(f"{place} has no test image")
            elif str(place) != name:
                problems.append(f"{place} must be called {name} and lie in no folder")
            elif id_ in found:
                problems.append(f"{name} is there twice")
            else:
                found[id_] = member
        problems += [f"{id_}.tif is missing" for id_ in expected.shapes if id_ not in found]
        for id_, member in sorted(found.items()):
            problems += _check_mask(f"{id_}.tif", archive, member, expected.shapes[id_], id_ in expected.paths)
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise InputValueError(f"submission {zip_path} must be valid, got: {shown}")
    return len(expected.shapes)


def _check_mask(
    name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, shape: tuple[int, ...], is_known: bool
) -> list[str]:
    """The problems of one mask in the archive, as a list of lines; its shape counts where the image's is known."""
    with make_scratch_folder() as scratch:
        path = scratch / "mask.tif"
        try:
            copy_member(archive, member, path, _MASK_BYTES_PER_VOXEL * math.prod(shape) + _MASK_BYTES)
            found_shape, dtype = volume_shape_and_dtype(path)
            # Decoded only then: a header can claim any size.
            mask = read_volume(path) if found_shape == shape else None
        except InputValueError as error:
            return [f"{name} is not a readable TIFF volume: {str(error).replace(str(path), 'it')}"]
    problems = []
    if dtype != np.uint8:
        problems.append(f"{name} must be uint8, is {dtype}")
    if found_shape != shape and is_known:
        problems.append(f"{name} must have the image's shape {shape}, has {found_shape}")
    elif mask is not None and not (mask.min() >= 0 and mask.max() <= 1):
        problems.append(f"{name} must hold 0 and 1 only, holds {mask.min()} to {mask.max()}")
    return problems
