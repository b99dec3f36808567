"""The competition's score of a folder of predictions, or of a submission archive."""

import csv
import json
import math
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from vesuvius_kit.checks import (
    InputError,
    InputNotFoundError,
    InputValueError,
    check_folder,
    check_integer,
    check_real,
    check_spacing,
)
from vesuvius_kit.console import no_progress
from vesuvius_kit.io.listing import copy_member, list_members, list_volumes, open_archive
from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype, write_atomically
from vesuvius_kit.metrics.leaderboard import LeaderboardScore, is_compilation_due, leaderboard_score

PROBLEMS = ("missing", "extra", "corrupt", "wrong shape", "no mask")
COLUMNS = (
    *("id", "score", "toposcore", "surface_dice", "voi_score", "voi_split", "voi_merge"),
    *(f"{column}_{dimension}" for dimension in range(3) for column in ("f1", "matched", "predicted", "labelled")),
)
# Of a prediction's file: 16 bytes a voxel, as of float64 that LZW has made larger, and room for page directories.
_BYTES_PER_VOXEL, _BYTES = 16, 2**20


class FolderScore(NamedTuple):
    """Scores of the volumes of a folder.

    Attributes
    ----------
    scores : dict of str to LeaderboardScore
        By volume id, sorted.
    problems : dict of str to list of str
        What could not be scored, by kind (one of `PROBLEMS`). Kinds without a case are left out.
    """

    scores: dict[str, LeaderboardScore]
    problems: dict[str, list[str]]

    def rows(self):
        """Make a table: one row a volume and a last row with the mean.

        Returns
        -------
        list of dict
            The columns are `COLUMNS`. In the last row, with the id "mean", every column is the mean over the volumes,
            ``f1_k`` over those where dimension k is active; NaN if there is none.
        """
        table = [_to_row(name, score) for name, score in self.scores.items()]
        mean = {"id": "mean"}
        for column in COLUMNS[1:]:
            values = [row[column] for row in table if not math.isnan(row[column])]
            mean[column] = sum(values) / len(values) if values else math.nan
        return [*table, mean]

    def to_csv(self, path):
        """Write the table of `rows` as CSV, NaN as an empty field.

        Parameters
        ----------
        path : str or Path
            Where to; the folder must exist. The file appears whole or not at all.

        Raises
        ------
        InputNotFoundError
            The folder does not exist.
        """
        rows = self.rows()
        with write_atomically(path) as stream:
            writer = csv.DictWriter(stream, fieldnames=COLUMNS, lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({column: "" if value != value else value for column, value in row.items()})

    def to_json(self, path):
        """Write volumes, mean and problems as JSON, NaN as null.

        Parameters
        ----------
        path : str or Path
            Where to; the folder must exist. The file appears whole or not at all.

        Raises
        ------
        InputNotFoundError
            The folder does not exist.
        """
        *volumes, mean = (
            {column: None if value != value else value for column, value in row.items()} for row in self.rows()
        )
        with write_atomically(path) as stream:
            json.dump({"volumes": volumes, "mean": mean, "problems": self.problems}, stream, indent=2)
            stream.write("\n")


def score_folder(
    predictions,
    labels,
    *,
    surface_tolerance=2.0,
    voi_alpha=0.3,
    ignore_label=2,
    spacing=(1, 1, 1),
    processes=1,
    skip_invalid=False,
    progress=no_progress,
):
    """Score every volume of a folder or of a submission archive against its label.

    Parameters
    ----------
    predictions : str or Path
        A folder of ``{id}.tif`` or ``{id}.tiff``, or a zip archive of them (folders inside it do not matter). Each is a mask:
        0, and 1 or the largest value of its type (or 255) for the surface.
    labels : str or Path
        A folder of ``{id}.tif`` or ``{id}.tiff``: the volumes that are to be scored.
    surface_tolerance, voi_alpha, ignore_label, spacing
        As for `vesuvius_kit.metrics.leaderboard_score`.
    processes : int
        How many volumes are scored at once, >= 1; they share the threads. One volume of 320^3 takes some 0.6 GB. More
        than one process needs a script with the usual ``if __name__ == "__main__"``.
    skip_invalid : bool
        Score what can be scored; otherwise a missing, extra, corrupt or wrongly shaped file, or one that is no mask, is an
        error.
    progress : callable
        Called as ``progress(iterable, total=..., desc=...)``.

    Returns
    -------
    FolderScore

    Raises
    ------
    InputNotFoundError
        No such folder or file.
    InputValueError
        Not a zip archive; no label; two files of one id; files that cannot be scored, each of them named in one line.
    """
    processes = check_integer("processes", processes, minimum=1)
    labels = check_folder("labels", labels)
    settings = {
        "surface_tolerance": check_real("surface_tolerance", surface_tolerance, minimum=0),
        "voi_alpha": check_real("voi_alpha", voi_alpha, minimum=0),
        "ignore_label": ignore_label,
        "spacing": check_spacing("spacing", spacing),
    }
    with tempfile.TemporaryDirectory() as scratch:
        problems = {kind: [] for kind in PROBLEMS}
        label_paths = list_volumes("labels", labels)
        if not label_paths:
            raise InputValueError(f"labels must hold TIFF volumes, got none in {labels}")
        folder, corrupt = _open_predictions(predictions, scratch, label_paths, problems)
        prediction_paths = list_volumes("predictions", folder)
        problems["missing"] += [
            path.name for name, path in label_paths.items() if name not in prediction_paths and name not in corrupt
        ]
        problems["extra"] += [path.name for name, path in prediction_paths.items() if name not in label_paths]
        pairs = [(prediction_paths[name], path) for name, path in label_paths.items() if name in prediction_paths]
        pairs = [pair for pair in pairs if _keep_problem(problems, *_check_headers(*pair))]
        if any(problems.values()) and not skip_invalid:
            # There will be no score: look into the others only so that the message names every bad file.
            for pair in progress(pairs, total=len(pairs), desc="checking"):
                _keep_problem(problems, *_read_pair(*pair)[1:])
            _refuse(problems)
        if is_compilation_due():
            for _ in progress([None], total=1, desc="compiling the score, once per machine"):
                leaderboard_score(np.ones((4, 4, 4)), np.ones((4, 4, 4)))
        scores = {}
        with _open_pool(min(processes, max(len(pairs), 1))) as run:
            outcomes = run(partial(_score_pair, settings=settings), pairs)
            for (_, path), (score, kind, message) in zip(pairs, progress(outcomes, total=len(pairs), desc="scoring")):
                if _keep_problem(problems, kind, message):
                    scores[path.stem] = score
    if any(problems.values()) and not skip_invalid:
        _refuse(problems)
    return FolderScore(scores, {kind: sorted(names) for kind, names in problems.items() if names})


def _open_predictions(predictions, scratch, label_paths, problems):
    """Return the folder of the predictions and the ids that are corrupt; an archive is unpacked into ``scratch``."""
    predictions = Path(predictions)
    if predictions.is_dir():
        return predictions, set()
    if not predictions.is_file():
        raise InputNotFoundError(f"predictions must be an existing folder or zip archive, got {predictions}")
    corrupt, seen = set(), set()
    with open_archive("predictions", predictions) as archive:
        for id_, place, member in list_members(archive):
            if id_ is None:
                continue
            if id_ in seen or id_ not in label_paths:
                problems["extra"].append(f"{place} (a second one of that id)" if id_ in seen else str(place))
                continue
            seen.add(id_)
            target = Path(scratch) / place.name
            try:
                copy_member(archive, member, target, _count_bytes(label_paths[id_]))
            except InputValueError as error:
                target.unlink()
                corrupt.add(id_)
                problems["corrupt"].append(f"{place.name} ({error})")
    return Path(scratch), corrupt


def _count_bytes(label_path):
    """The most bytes that a prediction for a label may have."""
    try:
        shape, _ = volume_shape_and_dtype(label_path)
    except InputError:
        shape = (0,)  # the label will be named as corrupt
    return _BYTES_PER_VOXEL * math.prod(shape) + _BYTES


def _check_headers(prediction_path, label_path):
    """Return what is wrong with a pair, as far as its headers tell: (kind, message), both None if nothing is."""
    shapes = []
    for side, path in (("", prediction_path), ("label ", label_path)):
        try:
            shapes.append(volume_shape_and_dtype(path)[0])
        except InputError:
            return "corrupt", side + path.name
    if shapes[0] != shapes[1]:
        return "wrong shape", f"{prediction_path.name} {shapes[0]} for a label {shapes[1]}"
    return None, None


def _read_pair(prediction_path, label_path):
    """Read both volumes; return (volumes, kind, message)."""
    volumes = []
    for side, path in (("", prediction_path), ("label ", label_path)):
        try:
            volumes.append(read_volume(path))
        except InputError:
            return None, "corrupt", side + path.name
    prediction = volumes[0]
    surface = prediction.max()
    ones = {1, 255, np.iinfo(prediction.dtype).max if prediction.dtype.kind in "iu" else 1}
    if surface not in {0, *ones} or not ((prediction == 0) | (prediction == surface)).all():
        values = f"{prediction_path.name} holds {prediction.min():g} to {surface:g}"
        return None, "no mask", values if prediction.dtype.kind == "f" else f"{values} ({prediction.dtype})"
    return volumes, None, None


def _score_pair(pair, settings):
    volumes, kind, message = _read_pair(*pair)
    return (None, kind, message) if kind else (leaderboard_score(*volumes, **settings), None, None)


def _keep_problem(problems, kind, message):
    """Note a problem; True if there is none."""
    if kind:
        problems[kind].append(message)
    return not kind


def _refuse(problems):
    named = "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names)
    raise InputValueError(f"predictions and labels must be pairs of readable volumes of one shape, got {named}")


@contextmanager
def _open_pool(processes):
    """Yield a lazy map that keeps the order, over so many processes or in this one."""
    if processes == 1:
        yield map
        return
    threads = max(1, numba.get_num_threads() // processes)
    # Not forked: a copy of a process with running threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=numba.set_num_threads, initargs=(threads,)) as pool:
        yield pool.map


def _to_row(name, score):
    values = [name, score.score, score.toposcore, score.surface_dice]
    values += [score.voi_score, score.voi_split, score.voi_merge]
    for f1, counts in zip(score.topo_f1, score.topo_counts):
        values += [float(f1), *map(int, counts)]
    return dict(zip(COLUMNS, values, strict=True))
