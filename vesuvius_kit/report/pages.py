"""Pages about one run: loss and rate curves, slices with prediction and truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputNotFoundError, InputValueError, check_array, check_same_shape
from vesuvius_kit.constants import SURFACE, UNLABELLED
from vesuvius_kit.diagnosis.curves import base_rate
from vesuvius_kit.diagnosis.panels import (
    draw_competition_scores,
    draw_components,
    draw_losses,
    draw_rate,
    scale_epochs,
)
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.record import LOG_NAME, EpochRecord, read_records
from vesuvius_kit.io.run_folder import list_folds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLANES = ("z", "y", "x")
"""Names of the three directions, by axis."""
AXES_SHOWN = (("y", "x"), ("z", "x"), ("z", "y"))
"""Rows and columns of a slice across each axis."""

# Colour-blind safe (Okabe and Ito).
ONLY_PREDICTED = (0.90, 0.60, 0.00)
"""What is only in the prediction."""
ONLY_TRUE = (0.00, 0.60, 0.95)
"""What is only in the truth."""
BOTH = (0.25, 0.85, 0.45)
"""What is in both."""
_Key = Sequence[tuple[tuple[float, float, float], str]]
_JUDGED: _Key = ((BOTH, "found"), (ONLY_PREDICTED, "predicted, not there"), (ONLY_TRUE, "missed"))


def draw_overlay(
    axes: "Axes",
    image: NDArray[Any],
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    label: NDArray[Any] | None = None,
    tolerance: int = 2,
) -> None:
    """Draw one slice with what a prediction found, missed and invented; all arrays are (rows, columns).

    Parameters
    ----------
    axes
        Where it is drawn.
    image
        Grey values.
    mask
        The prediction.
    truth
        What it should be.
    label
        {0, 1, 2}; where it is 2 the slice is darkened.
    tolerance
        Pixels within which a predicted and a true line count as the same.
    """
    from scipy.ndimage import binary_dilation

    near = np.hypot(*np.mgrid[-tolerance : tolerance + 1, -tolerance : tolerance + 1]) <= tolerance
    low, high = np.percentile(image, (1, 99.5))
    grey = np.clip((image.astype(np.float32) - low) / max(high - low, 1), 0, 1)
    if label is not None:
        grey = np.where(label == UNLABELLED, 0.45 * grey, grey)
    colours = np.repeat(grey[..., None], 3, axis=2)
    found = mask & binary_dilation(truth, near)
    colours[truth & ~binary_dilation(mask, near)] = ONLY_TRUE
    colours[mask & ~found] = ONLY_PREDICTED
    colours[found] = BOTH
    axes.imshow(colours, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def draw_curves(loss_axes: "Axes", rate_axes: "Axes", log: Sequence[EpochRecord]) -> None:
    """Draw loss and score into one panel, the learning rate with its interventions into the other; the log is not empty."""
    draw_losses(loss_axes, log)
    draw_competition_scores(loss_axes, log)
    if loss_axes.get_yscale() == "linear":
        low, high = loss_axes.get_ylim()
        loss_axes.set_ylim(min(0.0, low), max(1.0, high))
    loss_axes.set_title("loss and validation score")
    draw_rate(rate_axes, log, base_rate(log))
    rate_axes.set_title("learning rate")
    for axes, least in ((loss_axes, 1), (rate_axes, 2)):
        scale_epochs(axes, log)
        _add_legend(axes, least)


def write_overview_page(
    path: Path | str,
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    label: NDArray[Any],
    log: Sequence[EpochRecord],
    title: str,
    lines: Sequence[str],
) -> None:
    """Write a page: slices in three directions with prediction and truth, the curves, and lines of figures.

    All arrays are (Z, Y, X).

    Parameters
    ----------
    path
        A PNG file, replaced in one move.
    image
        Grey values.
    mask
        The prediction.
    truth
        The full truth.
    label
        {0, 1, 2}.
    log
        The run's epochs, as `read_records` returns them.
    title
        Of the page.
    lines
        Printed beside the curves in a fixed-width face.
    """
    from matplotlib.figure import Figure

    for name, array in (("image", image), ("mask", mask), ("truth", truth), ("label", label)):
        check_array(name, array)
        check_same_shape("image", image, name, array)
    # Figure itself, not pyplot: no window system and no global state are needed.
    figure = Figure(figsize=(15, 14.5), layout="constrained")
    grid = figure.subplots(3, 3, height_ratios=[1, 1, 0.62])
    for axis, (plain, painted) in enumerate(grid[:2].T):
        middle = image.shape[axis] // 2
        pieces = [array.take(middle, axis=axis) for array in (image, mask, truth, label)]
        plain.imshow(pieces[0], cmap="gray", interpolation="nearest")
        plain.contour(pieces[3] == SURFACE, levels=[0.5], colors=["#56B4E9"], linewidths=0.6)
        plain.set_title(f"{PLANES[axis]} = {middle}: image, labelled surface")
        draw_overlay(painted, *pieces)
        painted.set_title("prediction against the full truth")
        for axes in (plain, painted):
            _name_directions(axes, axis)
    _add_key(grid[1, 0], _JUDGED, fontsize=7)
    draw_curves(grid[2, 0], grid[2, 1], log)
    grid[2, 2].axis("off")
    grid[2, 2].text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=8, transform=grid[2, 2].transAxes)
    figure.suptitle(title)
    save_figure(path, figure)


def write_training_page(path: Path | str, run_folder: Path | str) -> Path:
    """Write the curves of every fold of a run, with the components of its loss and its score.

    Parameters
    ----------
    path
        A PNG file, replaced in one move. It is returned.
    run_folder
        What `vesuvius_kit.train` returned: it holds ``fold_K/log.jsonl``, each with an epoch at least.
    """
    folds = {fold.name: fold for fold in list_folds(run_folder) if (fold / LOG_NAME).is_file()}
    if not folds:
        raise InputNotFoundError(f"run folder must hold fold_*/{LOG_NAME}, got {run_folder}")
    return write_training_figure(path, folds)


def write_training_figure(path: Path | str, folds: Mapping[str, Path]) -> Path:
    """Write the curves of folds, each a folder with a log of one epoch at least, under the names given."""
    from matplotlib.figure import Figure

    logs = {name: read_records(folder, strict=True) for name, folder in folds.items()}
    for name, log in logs.items():
        if not log:
            raise InputValueError(f"log must hold at least one epoch, got none in {folds[name]}")
    figure = Figure(figsize=(14, 3.8 * len(logs)), layout="constrained")
    rows = figure.subplots(len(logs), 3, squeeze=False)
    for (loss_axes, part_axes, rate_axes), (fold, log) in zip(rows, logs.items()):
        draw_curves(loss_axes, rate_axes, log)
        loss_axes.set_title(f"{fold}: loss and validation score")
        draw_components(part_axes, log, "train")
        part_axes.set_title("components of the training loss")
        scale_epochs(part_axes, log)
        _add_legend(part_axes)
        for axes in (loss_axes, part_axes, rate_axes):
            axes.grid(alpha=0.25)
    return save_figure(path, figure)


def write_prediction_page(
    path: Path | str, image: NDArray[np.uint8], mask: NDArray[Any], title: str, label: NDArray[Any] | None = None
) -> Path:
    """Write slices of one chunk in three directions: the image, and the predicted surface over it.

    All arrays are (Z, Y, X).

    Parameters
    ----------
    path
        A PNG file, replaced in one move. It is returned.
    image
        Grey values.
    mask
        Bool or {0, 1}: the predicted surface.
    title
        Of the page.
    label
        {0, 1, 2}. With it the colours tell what was found, missed and invented; where it is 2 (unlabelled) the slice is
        darkened and no prediction is drawn.
    """
    from matplotlib.figure import Figure

    arrays = {"image": image, "mask": mask} | ({} if label is None else {"label": label})
    for name, array in arrays.items():
        check_array(name, array)
        check_same_shape("image", image, name, array)
    mask = mask > 0
    # Without a label nothing can be missed or invented: what is predicted counts as found.
    truth, judged = (mask, mask) if label is None else (label == SURFACE, mask & (label != UNLABELLED))
    labels = () if label is None else (label,)
    figure = Figure(figsize=(13, 9), layout="constrained")
    grid = figure.subplots(2, 3)
    for axis, (plain, painted) in enumerate(grid.T):
        # Without a label the middle: a network that knows nothing predicts most in the padding.
        place = image.shape[axis] // 2 if label is None else choose_place(truth, axis)
        draw_slice(plain, image, axis, place, f"{PLANES[axis]} = {place}")
        pieces = [array.take(place, axis=axis) for array in (image, judged, truth, *labels)]
        draw_overlay(painted, *pieces)
    unjudged: _Key = ((BOTH, "predicted"),)
    short: _Key = ((BOTH, "found"), (ONLY_PREDICTED, "not there"), (ONLY_TRUE, "missed"))
    _add_key(grid[1, 0], unjudged if label is None else short, fontsize=8)
    figure.suptitle(title)
    return save_figure(path, figure)


def choose_place(mask: NDArray[np.bool_], axis: int) -> int:
    """Return where to cut a volume across an axis so that there is much to see of a mask (Z, Y, X).

    It is the place nearest to the middle that shows at least three quarters of what the best place shows; the middle for an
    empty mask.
    """
    middle = mask.shape[axis] // 2
    counts = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    good = np.flatnonzero(counts >= 0.75 * counts.max())
    return int(good[np.abs(good - middle).argmin()])


def draw_slice(axes: "Axes", image: NDArray[Any], axis: int, place: int, title: str) -> None:
    """Draw one slice of a volume (Z, Y, X) in grey, at the index ``place`` across an axis."""
    piece = image.take(place, axis=axis)
    low, high = np.percentile(piece, (1, 99.5))
    axes.imshow(piece, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="nearest")
    _name_directions(axes, axis)
    axes.set_title(title)


def save_figure(path: Path | str, figure: "Figure") -> Path:
    """Write a figure as PNG, in one move, and return its path."""
    with write_atomically(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=80)
    return Path(path)


def _name_directions(axes: "Axes", axis: int) -> None:
    """The directions of a slice across an axis in place of ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylabel(AXES_SHOWN[axis][0])
    axes.set_xlabel(AXES_SHOWN[axis][1])


def _add_legend(axes: "Axes", least: int = 1) -> None:
    """A legend, where there are so many curves at least."""
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) >= least:
        axes.legend(fontsize=7)


def _add_key(axes: "Axes", key: _Key, fontsize: int) -> None:
    """What the colours of an overlay mean."""
    for colour, text in key:
        axes.plot([], [], "s", color=colour, label=text)
    axes.legend(loc="lower left", fontsize=fontsize)
