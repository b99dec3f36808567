"""A volume as the page holds it: grey values as pictures slice by slice, everything else as packed numbers of sheets."""

import base64
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.constants import UNLABELLED
from vesuvius_kit.report.errors import Sheets, Unmatched, compare_sheets, find_unmatched, judge_voxels
from vesuvius_kit.report.meshes import make_meshes

OTHERS, NOT_JUDGED = 254, 255
"""In place of a sheet's number: one of the small ones beyond the 253 largest, and what the label leaves open."""
QUALITIES = (75, 60, 45, 30, 15, 5)
"""Of WebP, the best first; the first that fits is taken."""
_SAMPLED = 16  # slices that tell how large all of them will be
_IMAGE_SHARE = 0.6  # of the bytes for pictures that the image gets, the probability the rest


@dataclass(frozen=True)
class ViewedVolume:
    """One volume of a run, as it is read."""

    id: str
    """Its name."""
    prediction: NDArray[np.bool_]
    """(Z, Y, X), as are all others."""
    image: NDArray[Any] | None = None
    """Grey values."""
    probability: NDArray[np.float32] | None = None
    """In [0, 1]."""
    label: NDArray[Any] | None = None
    """{0, 1, 2}."""
    scroll: str = ""
    """The scroll it was cut from."""


@dataclass(frozen=True)
class PackedVolume:
    """One volume as the page holds it."""

    facts: dict[str, Any]
    """What goes into the page's JSON."""
    source: ViewedVolume = field(repr=False)
    """What was packed."""
    blobs: dict[str, str] = field(repr=False)
    """Base64 by layer; of pictures a line each slice."""
    unmatched: Unmatched | None = None
    """Features of the topology without a match; None without a label."""
    sheets: Sheets | None = None
    """The connected components; None without a label."""
    left_out: tuple[str, ...] = ()
    """Layers that were too large."""

    @property
    def n_bytes(self) -> int:
        """What it takes in the page."""
        return sum(map(len, self.blobs.values()))


def pack_volume(volume: ViewedVolume, max_bytes: int) -> PackedVolume:
    """Pack a volume into at most so many bytes of base64, pictures as good as fits; those that do not fit are left out."""
    label = volume.label
    shape = volume.prediction.shape
    facts: dict[str, Any] = {"id": volume.id, "scroll": volume.scroll, "shape": list(shape)}
    blobs: dict[str, str] = {}
    unmatched, sheets = None, None
    if label is None:
        empty = np.zeros(shape, bool)
        alone = compare_sheets(volume.prediction, empty)
        blobs["prediction"] = _deflate(_number(alone.prediction))
        facts["sheets"] = {"prediction": alone.sizes[0][:OTHERS]}
        prediction_sheets: NDArray[np.int32] = alone.prediction
        label_sheets = None
    else:
        judged = label != UNLABELLED
        mask, surface = volume.prediction & judged, (label != 0) & judged
        unmatched, sheets = find_unmatched(mask, surface), compare_sheets(mask, surface)
        prediction_sheets, label_sheets = sheets.prediction, sheets.label
        blobs["prediction"] = _deflate(_number(sheets.prediction, volume.prediction & ~judged))
        blobs["label"] = _deflate(_number(sheets.label, ~judged))
        blobs["errors"] = _deflate(judge_voxels(volume.prediction, label))
        facts["features"] = unmatched.to_rows()
        facts["counts"] = unmatched.counts
        facts["unlisted"] = unmatched.unlisted
        facts["seams"] = [vars(seam) for seam in sheets.seams]
        facts["overlaps"] = [row for row in sheets.overlaps if max(row[:2]) < OTHERS]
        facts["sheets"] = {"prediction": sheets.sizes[0][:OTHERS], "label": sheets.sizes[1][:OTHERS]}
        facts["n_sheets"] = [len(sizes) for sizes in sheets.sizes]
    facts["meshes"], facts["undrawn"] = {}, {}
    for side, numbers in (("prediction", prediction_sheets), ("label", label_sheets)):
        if numbers is not None and numbers.any():
            pieces, content, facts["undrawn"][side] = make_meshes(numbers)
            facts["meshes"][side] = [vars(piece) for piece in pieces]
            blobs[f"mesh-{side}"] = _deflate_bytes(content)
    pictures = {}
    if volume.image is not None:
        pictures["image"] = _to_grey(volume.image)
    if volume.probability is not None:
        pictures["probability"] = np.round(255 * volume.probability).astype(np.uint8)
    room = max_bytes - sum(map(len, blobs.values()))
    facts["quality"] = {}
    for name, grey in pictures.items():
        is_first = name == "image" and len(pictures) > 1
        quality = _choose_quality(grey, _IMAGE_SHARE * room) if is_first else None
        # Rather an image without its probability than neither.
        quality = _choose_quality(grey, room) if quality is None else quality
        if quality is not None:
            blobs[name] = "\n".join(_encode(plane, quality) for plane in grey)
            room -= len(blobs[name])
            facts["quality"][name] = quality
    facts["start"] = _choose_start(volume.prediction, label)
    facts["layers"] = [name for name in ("image", "probability", "prediction", "label", "errors") if name in blobs]
    left_out = tuple(name for name in pictures if name not in blobs)
    return PackedVolume(facts, volume, blobs, unmatched, sheets, left_out)


def _choose_start(prediction: NDArray[np.bool_], label: NDArray[Any] | None) -> list[int]:
    """Where the page opens the volume: the middle, or the slice nearest to it with much to see."""
    shape = prediction.shape
    shown = prediction if label is None else (label != 0) & (label != UNLABELLED)
    counts = shown.sum(axis=(1, 2))
    good = np.flatnonzero(counts >= 0.75 * counts.max())
    return [int(good[np.abs(good - shape[0] // 2).argmin()]), shape[1] // 2, shape[2] // 2]


def _to_grey(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of any type in 8 bits, dark and bright ends cut off."""
    low, high = np.percentile(image[:: max(1, len(image) // 32)], (0.5, 99.8))
    scale = 255 / max(float(high - low), 1e-9)
    return np.clip((image.astype(np.float32) - np.float32(low)) * np.float32(scale), 0, 255).astype(np.uint8)


def _number(sheets: NDArray[np.int32], not_judged: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    numbers = np.minimum(sheets, OTHERS).astype(np.uint8)
    if not_judged is not None:
        numbers[not_judged] = NOT_JUDGED
    return numbers


def _choose_quality(grey: NDArray[np.uint8], max_bytes: float) -> int | None:
    sample = grey[:: max(1, len(grey) // _SAMPLED)]
    for quality in QUALITIES:
        # A twentieth more than the sample says, since the rest may be richer.
        if sum(len(_encode(plane, quality)) for plane in sample) * len(grey) / len(sample) * 1.05 <= max_bytes:
            return quality
    return None


def _encode(plane: NDArray[np.uint8], quality: int) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plane)).save(stream, "webp", quality=quality, method=2)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _deflate(numbers: NDArray[np.uint8]) -> str:
    return _deflate_bytes(np.ascontiguousarray(numbers).tobytes())


def _deflate_bytes(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 7)).decode("ascii")


def choose_shown(shapes: Sequence[tuple[str, Sequence[int]]], most: int, max_voxels: int) -> Iterator[str]:
    """Yield the ids that the page shows of those given with their shapes, the most wanted first: always the first one."""
    voxels = 0
    for number, (id_, shape) in enumerate(shapes):
        voxels += int(np.prod(shape))
        if number and (number >= most or voxels > max_voxels):
            return
        yield id_
