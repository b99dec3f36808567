"""The page's figures as PNG, for notebooks: curves, scores, and the largest errors, each in a slice round its place."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.constants import UNLABELLED
from vesuvius_kit.report.errors import Feature, Seam
from vesuvius_kit.report.pages import AXES_SHOWN, PLANES, draw_overlay, save_figure, write_training_figure
from vesuvius_kit.report.scores import COLUMNS, ScoredVolume
from vesuvius_kit.report.viewer import PackedVolume

if TYPE_CHECKING:
    from vesuvius_kit.report.explain import Explanation

TRAINING, SCORES, ERRORS = "training.png", "scores.png", "errors.png"
"""Names of the figures."""
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9")
_REACH = 40  # voxels shown on either side of an error
_SHOWN = 8  # errors


def write_figures(folder: Path, explanation: "Explanation") -> list[Path]:
    """Write `TRAINING`, `SCORES` and `ERRORS`, as far as there is something to show, and return their paths."""
    written = []
    if explanation.training:
        written.append(write_training_figure(folder / TRAINING, explanation.parts.folds))
    if explanation.scored:
        written.append(write_scores_figure(folder / SCORES, explanation.scored, explanation.baseline))
    if any(volume.sheets is not None for volume in explanation.shown):
        written.append(write_errors_figure(folder / ERRORS, explanation.shown))
    return written


def write_scores_figure(path: Path | str, scored: Sequence[ScoredVolume], baseline: str = "") -> Path:
    """Write the score of each volume with its parts as bars; what it is compared with is a line across."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.2 + 0.62 * len(scored)), layout="constrained")
    axes = figure.subplots()
    for row, volume in enumerate(scored):
        for number, (name, colour) in enumerate(zip(COLUMNS, _COLOURS, strict=True)):
            at = row + 0.19 * (number - 1.5)
            axes.barh(at, volume.score[name], 0.17, color=colour, label=name.replace("_", " ") if row == 0 else None)
            if volume.baseline is not None:
                label = baseline if row == number == 0 else None
                axes.plot([volume.baseline[name]] * 2, [at - 0.09, at + 0.09], color="black", lw=1.6, label=label)
    names = [f"{volume.id}\nscroll {volume.scroll}" if volume.scroll else volume.id for volume in scored]
    axes.set_yticks(range(len(scored)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return save_figure(path, figure)


def write_errors_figure(path: Path | str, volumes: Sequence[PackedVolume]) -> Path:
    """Write the largest errors of the first labelled volume that has some: slices round their places."""
    from matplotlib.figure import Figure

    labelled = [volume for volume in volumes if volume.sheets is not None]
    volume = next((volume for volume in labelled if choose_errors(volume)), labelled[0])
    errors = choose_errors(volume)
    n_columns = max(1, min(4, len(errors)))
    n_rows = max(1, -(-len(errors) // n_columns))
    figure = Figure(figsize=(3.4 * n_columns, 3.7 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes in panels[len(errors) :]:
        axes.axis("off")
    source = volume.source
    label = np.zeros(source.prediction.shape, np.uint8) if source.label is None else source.label
    image = label if source.image is None else source.image
    for axes, error in zip(panels, errors):
        box, centre = _cut(error, label.shape)
        cut: list[NDArray[np.generic]] = [volume_[box] for volume_ in (image, source.prediction, label)]
        judged = cut[2] != UNLABELLED
        draw_overlay(axes, cut[0], (cut[1] != 0) & judged, (cut[2] != 0) & judged, cut[2])
        axes.plot(centre[1], centre[0], "o", ms=26, mfc="none", mec="white", mew=1.5)
        rows, columns = AXES_SHOWN[error.axis]
        axes.set_ylabel(rows)
        axes.set_xlabel(columns)
        axes.set_title(f"{_describe(error)}\n{PLANES[error.axis]} = {error.place[error.axis]}", fontsize=9)
    told = "the largest errors; green found, orange not there, blue missed" if errors else "no errors"
    figure.suptitle(f"volume {source.id}: {told}", fontsize=10)
    return save_figure(path, figure)


def choose_errors(volume: PackedVolume) -> list[Feature | Seam]:
    """Return the errors that a figure shows: the largest of each kind in turn."""
    if volume.unmatched is None or volume.sheets is None:
        return []
    queues: dict[str, list[Feature | Seam]] = {}
    errors: list[Feature | Seam] = [*volume.sheets.seams, *volume.unmatched.features]
    for error in errors:
        queues.setdefault(f"{error.kind} {getattr(error, 'side', '')}", []).append(error)
    chosen: list[Feature | Seam] = []
    for rank in range(_SHOWN):
        chosen.extend(queue[rank] for queue in queues.values() if rank < len(queue))
    return chosen[:_SHOWN]


def _cut(error: Feature | Seam, shape: Sequence[int]) -> tuple[tuple[slice | int, ...], tuple[int, int]]:
    """The slice round an error, and where in it the error is (row, column)."""
    box: list[slice | int] = [slice(max(at - _REACH, 0), min(at + _REACH + 1, n)) for at, n in zip(error.place, shape)]
    centre = [at - max(at - _REACH, 0) for axis, at in enumerate(error.place) if axis != error.axis]
    box[error.axis] = error.place[error.axis]
    return tuple(box), (centre[0], centre[1])


def _describe(error: Feature | Seam) -> str:
    if isinstance(error, Seam):
        first, second = error.others
        if error.kind == "merged":
            return f"predicted {error.sheet} joins labelled {first} and {second}"
        return f"labelled {error.sheet} cut into predicted {first} and {second}"
    verb = "too many" if error.side == "prediction" else "missed"
    return f"{error.kind} {verb}, size {error.size or 'over 8'}"
