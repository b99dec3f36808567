"""Which masks a submission must hold: one for each test image, and one for each row of ``test.csv``, readable or not."""

import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vesuvius_kit.checks import InputError, InputValueError, one_line
from vesuvius_kit.data.folder import read_table
from vesuvius_kit.io.listing import list_volumes
from vesuvius_kit.io.volume import volume_shape_and_dtype

logger = logging.getLogger(__name__)

_IMAGES, _TABLE = "test_images", "test.csv"


@dataclass(frozen=True)
class Catalogue:
    """The masks that a submission must hold."""

    paths: dict[str, Path]
    """The images whose headers can be read, by id, sorted."""
    shapes: dict[str, tuple[int, int, int]]
    """Of every mask, by id, sorted. Where the image does not tell, the commonest shape of the others."""
    faults: dict[str, str] = field(default_factory=dict)
    """Why an image cannot be used, by id, in a line."""
    unlisted: list[str] = field(default_factory=list)
    """Ids of images without a row in ``test.csv``; none where there is no table."""

    @property
    def n_voxels(self) -> int:
        """Of all masks."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def list_masks(images: Path | str) -> Catalogue:
    """Return which masks the images of a folder ask for, and the rows of ``test.csv`` beside a folder ``test_images``.

    An image that is no readable volume is no error here: its mask counts all the same.

    Raises
    ------
    InputValueError
        Not a single image can be read; two files have one id.
    """
    paths: dict[str, Path] = {}
    shapes: dict[str, tuple[int, int, int]] = {}
    faults: dict[str, str] = {}
    files = list_volumes("images", images)
    if not files:
        raise InputValueError(f"images must hold at least one .tif or .tiff, got none in {images}")
    for id_, path in files.items():
        try:
            depth, height, width = volume_shape_and_dtype(path)[0]
        except InputError as error:
            faults[id_] = one_line(error)
            continue
        paths[id_], shapes[id_] = path, (depth, height, width)
    if not paths:
        id_, reason = next(iter(faults.items()))
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise InputValueError(f"images must hold at least one volume that can be read, got {id_}: {reason}{more}")
    rows = _read_ids(Path(images))
    for id_ in rows:
        if id_ not in files:
            faults[id_] = f"{Path(images).parent / _TABLE} names it, and there is no such file in {images}"
    commonest = Counter(shapes.values()).most_common(1)[0][0]
    shapes |= dict.fromkeys(faults, commonest)
    unlisted = [id_ for id_ in files if id_ not in rows] if rows else []
    return Catalogue(paths, dict(sorted(shapes.items())), faults, unlisted)


def _read_ids(images: Path) -> list[str]:
    """The ids of the competition's table beside a folder of images."""
    table = images.absolute().parent / _TABLE
    if images.absolute().name != _IMAGES or not table.is_file():
        return []
    try:
        return list(dict.fromkeys(id_ for id_, _ in read_table(table, needs_scroll=False)))
    except InputError as error:
        logger.warning("%s is left aside: %s", table, one_line(error))
        return []
