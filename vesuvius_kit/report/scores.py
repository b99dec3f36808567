"""A run's masks and their score, volume by volume and scroll by scroll, against a baseline."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.constants import SCORE_PARTS
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.metrics import LeaderboardScore, leaderboard_score
from vesuvius_kit.postprocess.pipeline import Step, run_pipeline
from vesuvius_kit.report.parts import Parts

COLUMNS = SCORE_PARTS
"""The score and its parts."""
SOURCES = {
    "masks": "By volume",
    "probabilities": "By volume, masks made of the probabilities",
    "tuning": "Volumes that were tuned on",
}
"""Where masks come from, and the heading of their scores."""


@dataclass(frozen=True)
class ScoredVolume:
    """A volume's score and that of its baseline, each by `COLUMNS`."""

    id: str
    """Of the volume."""
    scroll: str
    """The scroll it is of; empty where nobody knows."""
    score: dict[str, float]
    """Of the run."""
    baseline: dict[str, float] | None = None
    """Of what it is compared with."""
    counts: list[list[int]] | None = None
    """(3, 3): of components, tunnels, cavities those matched, predicted, labelled."""
    shape: tuple[int, ...] = ()
    """(z, y, x)."""
    source: str = ""
    """Where its mask comes from, one of `SOURCES`."""


class Predictions:
    """The masks of a run, (Z, Y, X): those that lie there, or what a pipeline makes of the probabilities.

    Each that is read is made once, and kept packed: a run may have hundreds.

    Parameters
    ----------
    parts
        What there is of the run.
    pipeline
        What makes masks of probabilities.
    remake
        Make them anew where there are both.
    """

    def __init__(self, parts: Parts, pipeline: Sequence[Step], *, remake: bool = False) -> None:
        self._parts, self._pipeline, self._remake = parts, pipeline, remake
        self._kept: dict[str, tuple[bytes, tuple[int, ...]]] = {}
        self._changes: dict[str, list[dict[str, Any]]] = {}

    def read(self, id_: str) -> NDArray[np.bool_]:
        """Return the mask of a volume."""
        if id_ not in self._kept:
            mask = self.make(id_)
            self._kept[id_] = zlib.compress(np.packbits(mask).tobytes(), 1), mask.shape
        content, shape = self._kept[id_]
        bits = np.frombuffer(zlib.decompress(content), np.uint8)
        return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)

    def source(self, id_: str) -> str:
        """Return where the mask of a volume comes from, one of `SOURCES`."""
        is_made = id_ in self._parts.probabilities and (self._remake or id_ not in self._parts.masks)
        return "probabilities" if is_made else "masks"

    def changes(self, id_: str) -> list[dict[str, Any]]:
        """Return what each step of the pipeline changed in a volume with a probability, as `run_pipeline` reports it."""
        if id_ not in self._changes:
            _, self._changes[id_] = run_pipeline(self._parts.read_probability(id_), self._pipeline, report=True)
        return self._changes[id_]

    def make(self, id_: str) -> NDArray[np.bool_]:
        """Return the mask of a volume without keeping it."""
        if self.source(id_) == "masks":
            return self._parts.masks[id_].read()
        mask, self._changes[id_] = run_pipeline(self._parts.read_probability(id_), self._pipeline, report=True)
        return mask


def read_beside(name: str, paths: Mapping[str, Path], id_: str, shape: Sequence[int]) -> NDArray[Any] | None:
    """Return the image or label of a volume, None where there is none; its shape must be that of the prediction."""
    if id_ not in paths:
        return None
    volume = read_volume(paths[id_])
    if volume.shape != tuple(shape):
        raise InputValueError(
            f"prediction and {name} of volume {id_} must have the same shape, got {tuple(shape)} and {volume.shape}"
        )
    return volume


def score_volumes(
    parts: Parts,
    predictions: Predictions,
    ids: Iterable[str],
    make_baseline: Callable[[str], NDArray[np.bool_] | None],
) -> list[ScoredVolume]:
    """Score the volumes that have a label, in the order given.

    ``make_baseline`` gives the mask that a volume's is compared with, or None.
    """
    scored = []
    for id_ in ids:
        prediction = predictions.read(id_)
        label = read_beside("label", parts.labels, id_, prediction.shape)
        if label is None:
            continue
        baseline = make_baseline(id_)
        if baseline is not None and baseline.shape != label.shape:
            raise InputValueError(
                f"baseline and label of volume {id_} must have the same shape, got {baseline.shape} and {label.shape}"
            )
        result = leaderboard_score(prediction, label)
        scored.append(
            ScoredVolume(
                id_,
                parts.scrolls.get(id_, ""),
                _to_row(result),
                None if baseline is None else _to_row(leaderboard_score(baseline, label)),
                result.topo_counts.tolist(),
                prediction.shape,
                predictions.source(id_),
            )
        )
    return scored


def _to_row(result: LeaderboardScore) -> dict[str, float]:
    return {name: float(getattr(result, name)) for name in COLUMNS}


def average_scores(scored: Sequence[ScoredVolume]) -> list[ScoredVolume]:
    """Return a row for each scroll, its volumes' mean, sorted; nothing where no scroll is known."""
    scrolls: dict[str, list[ScoredVolume]] = {}
    for volume in scored:
        scrolls.setdefault(volume.scroll, []).append(volume)
    if set(scrolls) <= {""}:
        return []
    return [
        average(f"{len(volumes)} volume{'s' * (len(volumes) > 1)}", scroll or "unknown", volumes)
        for scroll, volumes in sorted(scrolls.items())
    ]


def group_scores(scored: Sequence[ScoredVolume]) -> list[tuple[str, list[ScoredVolume]]]:
    """Return heading and rows of each source, with the mean as the last row where there are several volumes."""
    groups = []
    for source, heading in SOURCES.items():
        rows = [volume for volume in scored if volume.source == source]
        if rows:
            groups.append((heading, [*rows, average("mean", "", rows)] if len(rows) > 1 else rows))
    return groups


def average(id_: str, scroll: str, volumes: Sequence[ScoredVolume]) -> ScoredVolume:
    """Return the mean of some volumes' scores under a name of its own; that of the baseline over those that have one."""
    baselines = [volume.baseline for volume in volumes if volume.baseline is not None]
    return ScoredVolume(
        id_,
        scroll,
        {name: fmean(volume.score[name] for volume in volumes) for name in COLUMNS},
        {name: fmean(row[name] for row in baselines) for name in COLUMNS} if len(baselines) == len(volumes) else None,
    )
