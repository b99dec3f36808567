"""Pages about one run: loss and rate curves, slices with prediction and truth."""

import json
from pathlib import Path

import numpy as np

from vesuvius_kit.checks import InputNotFoundError, InputValueError, check_array, check_file, check_same_shape
from vesuvius_kit.constants import SURFACE, UNLABELLED
from vesuvius_kit.io.run_folder import list_folds
from vesuvius_kit.io.volume import write_atomically

PLANES = ("z", "y", "x")
AXES_SHOWN = (("y", "x"), ("z", "x"), ("z", "y"))

# Colour-blind safe (Okabe and Ito): what is only in the prediction, only in the truth, in both.
ONLY_PREDICTED = (0.90, 0.60, 0.00)
ONLY_TRUE = (0.00, 0.60, 0.95)
BOTH = (0.25, 0.85, 0.45)


def read_log(path) -> list[dict]:
    """Return the epochs of a training log.

    Parameters
    ----------
    path : str or Path
        A ``log.jsonl``, or the fold's folder that holds one.

    Returns
    -------
    list of dict
        One entry for each epoch, as `vesuvius_kit.training` writes them.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    InputValueError
        A line is not JSON; the message gives its number.
    """
    path = Path(path)
    path = check_file("log", path / "log.jsonl" if path.is_dir() else path)
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputValueError(f"log must hold one JSON object a line, got {path} line {number}: {error}") from error
    return entries


def draw_overlay(axes, image, mask, truth, label=None, tolerance=2) -> None:
    """Draw one slice with what a prediction found, missed and invented.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where it is drawn.
    image : numpy.ndarray
        (rows, columns), grey values.
    mask, truth : numpy.ndarray
        (rows, columns), bool.
    label : numpy.ndarray, optional
        (rows, columns), {0, 1, 2}; where it is 2 the slice is darkened.
    tolerance : int
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


def draw_curves(loss_axes, rate_axes, log) -> None:
    """Draw loss, score and learning rate over the epochs of a run.

    Parameters
    ----------
    loss_axes, rate_axes : matplotlib.axes.Axes
        Where they are drawn.
    log : list of dict
        As `read_log` returns it.
    """
    epochs = [entry["epoch"] for entry in log]
    for part, colour in (("train", "#0072B2"), ("validation", "#D55E00")):
        values = [np.nan if entry[part]["loss"] is None else entry[part]["loss"] for entry in log]
        loss_axes.plot(epochs, values, "o-", ms=3, color=colour, label=f"{part} loss")
    scored = [entry for entry in log if entry["score"]]
    for name, colour in (("score", "#009E73"), ("surface_dice", "#CC79A7")):
        values = [entry["score"][name] for entry in scored]
        loss_axes.plot(
            [entry["epoch"] for entry in scored], values, "s", ms=5, color=colour, label=f"validation {name}"
        )
    loss_axes.set_ylim(0, max(1.0, *loss_axes.get_ylim()))
    loss_axes.set_xlabel("epoch")
    loss_axes.set_title("loss and validation score")
    loss_axes.legend(fontsize=7)
    rate_axes.plot(epochs, [entry["rate"] for entry in log], "o-", ms=3, color="#000000")
    for entry in log:
        for _ in entry["interventions"]:
            rate_axes.axvline(entry["epoch"] + 1, color="#D55E00", lw=1)
    rate_axes.set_yscale("log")
    rate_axes.set_xlabel("epoch")
    rate_axes.set_title("learning rate")


def write_report(path, image, mask, truth, label, log, title, lines) -> None:
    """Write a page: slices in three directions with prediction and truth, the curves, and lines of figures.

    Parameters
    ----------
    path : str or Path
        A PNG file, replaced in one move.
    image : numpy.ndarray
        (Z, Y, X), uint8.
    mask, truth : numpy.ndarray
        (Z, Y, X), bool: the prediction and the full truth.
    label : numpy.ndarray
        (Z, Y, X), {0, 1, 2}.
    log : list of dict
        As `read_log` returns it.
    title : str
        Of the page.
    lines : list of str
        Printed beside the curves in a fixed-width face.

    Raises
    ------
    InputTypeError, InputValueError
        Arrays of the wrong kind, dimension or shape.
    """
    from matplotlib.figure import Figure

    for name, array in (("image", image), ("mask", mask), ("truth", truth), ("label", label)):
        check_array(name, array)
        check_same_shape("image", image, name, array)
    # Figure itself, not pyplot: no window system and no global state are needed.
    figure = Figure(figsize=(15, 14.5), layout="constrained")
    grid = figure.subplots(3, 3, height_ratios=[1, 1, 0.62])
    for axis in range(3):
        middle = image.shape[axis] // 2
        pieces = [array.take(middle, axis=axis) for array in (image, mask, truth, label)]
        plain = grid[0, axis]
        plain.imshow(pieces[0], cmap="gray", interpolation="nearest")
        plain.contour(pieces[3] == SURFACE, levels=[0.5], colors=["#56B4E9"], linewidths=0.6)
        plain.set_title(f"{PLANES[axis]} = {middle}: image, labelled surface")
        draw_overlay(grid[1, axis], *pieces)
        grid[1, axis].set_title("prediction against the full truth")
        for axes in grid[:2, axis]:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_ylabel(AXES_SHOWN[axis][0])
            axes.set_xlabel(AXES_SHOWN[axis][1])
    draw_curves(grid[2, 0], grid[2, 1], log)
    grid[2, 2].axis("off")
    grid[2, 2].text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=8, transform=grid[2, 2].transAxes)
    handles = [(BOTH, "found"), (ONLY_PREDICTED, "predicted, not there"), (ONLY_TRUE, "missed")]
    for colour, text in handles:
        grid[1, 0].plot([], [], "s", color=colour, label=text)
    grid[1, 0].legend(loc="lower left", fontsize=7)
    figure.suptitle(title)
    save_figure(path, figure)


def write_training_page(path, run_folder) -> Path:
    """Write the curves of every fold of a run, with the parts of its loss and its score.

    Parameters
    ----------
    path : str or Path
        A PNG file, replaced in one move.
    run_folder : str or Path
        What `vesuvius_kit.training.train` returned: it holds ``fold_K/log.jsonl``.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    InputNotFoundError
        No fold in that folder has a log.
    InputValueError
        A log is not readable, or holds no epoch.
    """
    from matplotlib.figure import Figure

    logs = {fold.name: read_log(fold) for fold in list_folds(run_folder) if (fold / "log.jsonl").is_file()}
    if not logs:
        raise InputNotFoundError(f"run folder must hold fold_*/log.jsonl, got {run_folder}")
    for fold, log in logs.items():
        if not log:
            raise InputValueError(f"log must hold at least one epoch, got none in {run_folder}/{fold}")
    figure = Figure(figsize=(14, 3.8 * len(logs)), layout="constrained")
    rows = figure.subplots(len(logs), 3, squeeze=False)
    for (loss_axes, part_axes, rate_axes), (fold, log) in zip(rows, logs.items()):
        draw_curves(loss_axes, rate_axes, log)
        loss_axes.set_title(f"{fold}: loss and validation score")
        _draw_parts(part_axes, log)
        for axes in (loss_axes, part_axes, rate_axes):
            axes.grid(alpha=0.25)
    return save_figure(path, figure)


def write_prediction_page(path, image, mask, title, label=None) -> Path:
    """Write slices of one chunk in three directions: the image, and the predicted surface over it.

    Parameters
    ----------
    path : str or Path
        A PNG file, replaced in one move.
    image : numpy.ndarray
        (Z, Y, X), uint8.
    mask : numpy.ndarray
        (Z, Y, X), bool or {0, 1}: the predicted surface.
    title : str
        Of the page.
    label : numpy.ndarray, optional
        (Z, Y, X), {0, 1, 2}. With it the colours tell what was found, missed and invented; where it is 2 nobody looked, the
        slice is darkened and no prediction is drawn.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    InputTypeError, InputValueError
        Arrays of the wrong kind, dimension or shape.
    """
    from matplotlib.figure import Figure

    arrays = {"image": image, "mask": mask} | ({} if label is None else {"label": label})
    for name, array in arrays.items():
        check_array(name, array)
        check_same_shape("image", image, name, array)
    mask = mask > 0
    # Without a label nothing can be missed or invented: what is predicted counts as found.
    truth, judged = (mask, mask) if label is None else (label == SURFACE, mask & (label != UNLABELLED))
    figure = Figure(figsize=(13, 9), layout="constrained")
    grid = figure.subplots(2, 3)
    for axis, (plain, painted) in enumerate(grid.T):
        # Without a label the middle: a network that knows nothing predicts most in the padding.
        place = image.shape[axis] // 2 if label is None else choose_place(truth, axis)
        draw_slice(plain, image, axis, place, f"{PLANES[axis]} = {place}")
        draw_overlay(
            painted,
            *(array.take(place, axis=axis) for array in (image, judged, truth)),
            label=None if label is None else label.take(place, axis=axis),
        )
    names = (
        [(BOTH, "predicted")]
        if label is None
        else [(BOTH, "found"), (ONLY_PREDICTED, "not there"), (ONLY_TRUE, "missed")]
    )
    for colour, text in names:
        grid[1, 0].plot([], [], "s", color=colour, label=text)
    grid[1, 0].legend(loc="lower left", fontsize=8)
    figure.suptitle(title)
    return save_figure(path, figure)


def choose_place(mask, axis) -> int:
    """Return where to cut a volume across an axis so that there is much to see.

    Parameters
    ----------
    mask : numpy.ndarray
        (Z, Y, X), bool: what should be seen.
    axis : int
        0, 1 or 2.

    Returns
    -------
    int
        The place nearest to the middle that shows at least three quarters of what the best place shows; the middle for an
        empty mask.
    """
    middle = mask.shape[axis] // 2
    counts = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    good = np.flatnonzero(counts >= 0.75 * counts.max())
    return int(good[np.abs(good - middle).argmin()])


def draw_slice(axes, image, axis, place, title) -> None:
    """Draw one slice of a volume across an axis, in grey.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where it is drawn.
    image : numpy.ndarray
        (Z, Y, X), grey values.
    axis : int
        0, 1 or 2: the direction that is looked along.
    place : int
        Index along that axis.
    title : str
        Above the slice.
    """
    piece = image.take(place, axis=axis)
    low, high = np.percentile(piece, (1, 99.5))
    axes.imshow(piece, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylabel(AXES_SHOWN[axis][0])
    axes.set_xlabel(AXES_SHOWN[axis][1])
    axes.set_title(title)


def save_figure(path, figure) -> Path:
    """Write a figure as PNG, in one move.

    Parameters
    ----------
    path : str or Path
        The file.
    figure : matplotlib.figure.Figure
        What is written.

    Returns
    -------
    pathlib.Path
        ``path``.
    """
    with write_atomically(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=80)
    return Path(path)


def _draw_parts(axes, log):
    """The components of the training loss over the epochs; the total is drawn elsewhere."""
    other = {"loss", "gradient_norm", "skipped_steps"}
    for name in sorted({name for entry in log for name in entry["train"]} - other):
        values = [entry["train"].get(name) for entry in log]
        axes.plot(
            [entry["epoch"] for entry in log],
            [np.nan if value is None else value for value in values],
            "o-",
            ms=3,
            label=name,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_title("parts of the training loss")
    axes.legend(fontsize=7)
