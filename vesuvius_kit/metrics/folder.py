"""The competition's score of a folder of predictions, or of a submission archive."""

import csv
import json
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numba
import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import (
    InputError,
    InputNotFoundError,
    InputValueError,
    check_folder,
    check_integer,
    check_real,
    check_spacing,
)
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.constants import SURFACE_TOLERANCE, UNLABELLED, VOI_ALPHA
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.listing import copy_member, list_members, list_volumes, open_archive
from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype
from vesuvius_kit.metrics.leaderboard import LeaderboardScore, is_compilation_due, leaderboard_score

PROBLEMS = ("missing", "extra", "corrupt", "wrong shape", "no mask")
"""Kinds of files that cannot be scored."""
COLUMNS = (
    *("id", "score", "toposcore", "surface_dice", "voi_score", "voi_split", "voi_merge"),
    *(f"{column}_{dimension}" for dimension in range(3) for column in ("f1", "matched", "predicted", "labelled")),
)
"""Columns of the table of scores."""
# Of a prediction's file: 16 bytes a voxel, as of float64 that LZW has made larger, and room for page directories.
_BYTES_PER_VOXEL, _BYTES = 16, 2**20

_Pair = tuple[Path, Path]  # a prediction and its label
_Score = Callable[[NDArray[Any], NDArray[Any]], LeaderboardScore]


class _Problem(NamedTuple):
    kind: str
    """One of `PROBLEMS`."""
    message: str
    """The file, and what is wrong with it if the kind does not say."""


class FolderScore(NamedTuple):
    """Scores of the volumes of a folder.

    Attributes
    ----------
    scores
        By volume id, sorted.
    problems
        What could not be scored, by kind (one of `PROBLEMS`). Kinds without a case are left out.
    """

    scores: dict[str, LeaderboardScore]
    problems: dict[str, list[str]]

    def rows(self) -> list[dict[str, Any]]:
        """Make a table with the columns `COLUMNS`, the id a string and the rest numbers: a row for each volume and the mean.

        In the last row, with the id "mean", every column is the mean over the volumes, ``f1_k`` over those where dimension k is
        active; NaN if there is none.
        """
        table = [_to_row(name, score) for name, score in self.scores.items()]
        mean: dict[str, Any] = {"id": "mean"}
        for column in COLUMNS[1:]:
            values = [row[column] for row in table if not math.isnan(row[column])]
            mean[column] = sum(values) / len(values) if values else math.nan
        return [*table, mean]

    def to_csv(self, path: Path | str) -> None:
        """Write the table of `rows` as CSV, NaN as an empty field; the file appears whole or not at all."""
        rows = self.rows()
        with write_atomically(path) as stream:
            writer = csv.DictWriter(stream, fieldnames=COLUMNS, lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({column: "" if value != value else value for column, value in row.items()})

    def to_json(self, path: Path | str) -> None:
        """Write volumes, mean and problems as JSON, NaN as null; the file appears whole or not at all."""
        *volumes, mean = (
            {column: None if value != value else value for column, value in row.items()} for row in self.rows()
        )
        with write_atomically(path) as stream:
            json.dump({"volumes": volumes, "mean": mean, "problems": self.problems}, stream, indent=2)
            stream.write("\n")


def score_folder(
    predictions: Path | str,
    labels: Path | str,
    *,
    surface_tolerance: float = SURFACE_TOLERANCE,
    voi_alpha: float = VOI_ALPHA,
    ignore_label: int | None = UNLABELLED,
    spacing: Sequence[float] = (1, 1, 1),
    processes: int = 1,
    skip_invalid: bool = False,
    progress: Progress = no_progress,
) -> FolderScore:
    """Score every volume of a folder or of a submission archive against its label.

    Parameters
    ----------
    predictions
        A folder of ``{id}.tif`` or ``{id}.tiff``, or a zip archive of them (folders inside it do not matter). Each is a mask:
        0, and 1 or the largest value of its type (or 255) for the surface.
    labels
        A folder of ``{id}.tif`` or ``{id}.tiff``: the volumes that are to be scored.
    surface_tolerance, voi_alpha, ignore_label, spacing
        As for `leaderboard_score`.
    processes
        How many volumes are scored at once, >= 1; they share the threads. One volume of 320^3 takes some 0.6 GB. More
        than one process pays for many volumes only, since each takes seconds to start, and needs a script with the usual
        ``if __name__ == "__main__"``.
    skip_invalid
        Score what can be scored; otherwise a missing, extra, corrupt or wrongly shaped file, or one that is no mask, is an
        error whose one line names them all.
    progress
        Wraps the loop over the volumes, in tqdm's calling form.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> label = np.zeros((16, 16, 16), dtype=np.uint8)
    >>> label[:, 8] = 1
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     predictions, labels = Path(scratch, "predictions"), Path(scratch, "labels")
    ...     for folder in (predictions, labels):
    ...         folder.mkdir()
    ...         vk.write_volume(folder / "7.tif", label)
    ...     result = vk.score_folder(predictions, labels)
    >>> {name: score.score for name, score in result.scores.items()}
    {'7': 1.0}
    """
    processes = check_integer("processes", processes, minimum=1)
    labels = check_folder("labels", labels)
    score = partial(
        leaderboard_score,
        surface_tolerance=check_real("surface_tolerance", surface_tolerance, minimum=0),
        voi_alpha=check_real("voi_alpha", voi_alpha, minimum=0),
        ignore_label=ignore_label,
        spacing=check_spacing("spacing", spacing),
    )
    with tempfile.TemporaryDirectory() as scratch:
        problems: dict[str, list[str]] = {kind: [] for kind in PROBLEMS}
        label_paths = list_volumes("labels", labels)
        if not label_paths:
            raise InputValueError(f"labels must hold TIFF volumes, got none in {labels}")
        pairs = _find_pairs(Path(predictions), Path(scratch), label_paths, problems)
        if any(problems.values()) and not skip_invalid:
            # There will be no score: look into the others only so that the message names every bad file.
            for pair in progress(pairs, total=len(pairs), desc="checking"):
                _note_problem(problems, _read_pair(pair))
            _refuse(problems)
        if is_compilation_due():
            for _ in progress([None], total=1, desc="compiling the score, once per machine"):
                leaderboard_score(np.ones((4, 4, 4)), np.ones((4, 4, 4)))
        scores = {}
        with closing(_score_pairs(pairs, score, processes)) as outcomes:
            for outcome, (_, path) in zip(progress(outcomes, total=len(pairs), desc="scoring"), pairs):
                if isinstance(outcome, LeaderboardScore):
                    scores[path.stem] = outcome
                else:
                    _note_problem(problems, outcome)
    if any(problems.values()) and not skip_invalid:
        _refuse(problems)
    return FolderScore(scores, {kind: sorted(names) for kind, names in problems.items() if names})


def _find_pairs(
    predictions: Path, scratch: Path, label_paths: Mapping[str, Path], problems: dict[str, list[str]]
) -> list[_Pair]:
    """Pair predictions with labels, as far as their headers belong together, and note what cannot be scored."""
    folder, corrupt = _open_predictions(predictions, scratch, label_paths, problems)
    paths = list_volumes("predictions", folder)
    problems["missing"] += [path.name for id_, path in label_paths.items() if id_ not in paths and id_ not in corrupt]
    problems["extra"] += [path.name for id_, path in paths.items() if id_ not in label_paths]
    pairs = [(paths[id_], path) for id_, path in label_paths.items() if id_ in paths]
    return [pair for pair in pairs if not _note_problem(problems, _check_headers(pair))]


def _open_predictions(
    predictions: Path, scratch: Path, label_paths: Mapping[str, Path], problems: dict[str, list[str]]
) -> tuple[Path, set[str]]:
    """Return the folder of the predictions and the ids that are corrupt; an archive is unpacked into ``scratch``."""
    if predictions.is_dir():
        return predictions, set()
    if not predictions.is_file():
        raise InputNotFoundError(f"predictions must be an existing folder or zip archive, got {predictions}")
    corrupt: set[str] = set()
    seen: set[str] = set()
    with open_archive("predictions", predictions) as archive:
        for id_, place, member in list_members(archive):
            if id_ is None:
                continue
            if id_ in seen or id_ not in label_paths:
                problems["extra"].append(f"{place} (a second one of that id)" if id_ in seen else str(place))
                continue
            seen.add(id_)
            target = scratch / place.name
            try:
                copy_member(archive, member, target, _count_bytes(label_paths[id_]))
            except InputValueError as error:
                target.unlink()
                corrupt.add(id_)
                problems["corrupt"].append(f"{place.name} ({error})")
    return scratch, corrupt


def _count_bytes(label_path: Path) -> int:
    """Return the most bytes that a prediction for a label may have."""
    try:
        n_voxels = math.prod(volume_shape_and_dtype(label_path)[0])
    except InputError:
        n_voxels = 0  # the label will be named as corrupt
    return _BYTES_PER_VOXEL * n_voxels + _BYTES


def _check_headers(pair: _Pair) -> _Problem | None:
    """Return what is wrong with a pair, as far as its headers tell."""
    shapes = []
    for side, path in zip(("", "label "), pair):
        try:
            shapes.append(volume_shape_and_dtype(path)[0])
        except InputError:
            return _Problem("corrupt", side + path.name)
    if shapes[0] != shapes[1]:
        return _Problem("wrong shape", f"{pair[0].name} {shapes[0]} for a label {shapes[1]}")
    return None


def _read_pair(pair: _Pair) -> tuple[NDArray[Any], NDArray[Any]] | _Problem:
    """Read prediction and label."""
    volumes = []
    for side, path in zip(("", "label "), pair):
        try:
            volumes.append(read_volume(path))
        except InputError:
            return _Problem("corrupt", side + path.name)
    prediction, label = volumes
    surface = prediction.max()
    ones = {1, 255, np.iinfo(prediction.dtype).max if prediction.dtype.kind in "iu" else 1}
    if surface not in {0, *ones} or not ((prediction == 0) | (prediction == surface)).all():
        values = f"{pair[0].name} holds {prediction.min():g} to {surface:g}"
        return _Problem("no mask", values if prediction.dtype.kind == "f" else f"{values} ({prediction.dtype})")
    return prediction, label


def _score_pair(pair: _Pair, score: _Score) -> LeaderboardScore | _Problem:
    volumes = _read_pair(pair)
    return volumes if isinstance(volumes, _Problem) else score(*volumes)


def _score_pairs(
    pairs: Sequence[_Pair], score: _Score, processes: int
) -> Generator[LeaderboardScore | _Problem, None, None]:
    """Yield what came of each pair, in order, from so many processes or from this one.

    A volume's threads wait for its longest part, and for its files: a second process fills the gap, a tenth of the time on two
    cores (measured at 200^3).
    """
    work = partial(_score_pair, score=score)
    processes = min(processes, len(pairs))
    if processes < 2:
        yield from map(work, pairs)
        return
    threads = max(1, numba.get_num_threads() // processes)
    # Not forked: a copy of a process with running threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=numba.set_num_threads, initargs=(threads,)) as pool:
        yield from pool.map(work, pairs)


def _note_problem(problems: dict[str, list[str]], outcome: object) -> bool:
    """Note what came of a pair if it is a problem, and return whether it is."""
    if isinstance(outcome, _Problem):
        problems[outcome.kind].append(outcome.message)
    return isinstance(outcome, _Problem)


def _refuse(problems: Mapping[str, Sequence[str]]) -> NoReturn:
    named = "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names)
    raise InputValueError(f"predictions and labels must be pairs of readable volumes of one shape, got {named}")


def _to_row(name: str, score: LeaderboardScore) -> dict[str, Any]:
    values: list[Any] = [name, score.score, score.toposcore, score.surface_dice]
    values += [score.voi_score, score.voi_split, score.voi_merge]
    for f1, counts in zip(score.topo_f1, score.topo_counts):
        values += [float(f1), *map(int, counts)]
    return dict(zip(COLUMNS, values, strict=True))
