"""What the training data look like, scroll by scroll: label shares, thickness of the labelled lines, grey values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_array, check_integer
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.constants import BACKGROUND, SURFACE, UNLABELLED
from vesuvius_kit.data.competition import Chunk
from vesuvius_kit.io.volume import read_volume
from vesuvius_kit.report.pages import PLANES, choose_place, draw_slice, save_figure

LABEL_NAMES = {BACKGROUND: "background", SURFACE: "surface", UNLABELLED: "unlabelled"}
LABEL_COLOURS = {BACKGROUND: "#56B4E9", SURFACE: "#E69F00", UNLABELLED: "#BBBBBB"}
SCROLL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

THICKEST = 12
"""Voxels; whatever is thicker shares the last bin."""
_EDGE = 128  # of the cube in a chunk's middle whose thickness is measured: enough for a histogram


@dataclass(frozen=True)
class ScrollSurvey:
    """What some chunks of one scroll look like."""

    scroll_id: str
    chunks: list[Chunk]
    """The chunks that were read."""
    label_counts: NDArray[np.int64]
    """(3,), voxels of label 0, 1 and 2."""
    grey_counts: NDArray[np.int64]
    """(3, 256), voxels of each grey value, by label."""
    thickness_counts: NDArray[np.int64]
    """(13,), surface voxels by the thickness of their line in voxels; the last entry counts 12 and more."""

    @property
    def label_shares(self) -> NDArray[np.float64]:
        """(3,) shares of label 0, 1 and 2."""
        return self.label_counts / self.label_counts.sum()


def measure_thickness(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the thickness at each true voxel of thin sheets: the shortest of the three axis-parallel runs through it.

    One entry for each true voxel, in C order. A sheet that lies obliquely to all axes comes out a little thicker than it is.
    """
    check_array("mask", mask, kinds="b")
    shortest = np.full(mask.shape, np.iinfo(np.int32).max, np.int32)
    for axis, edge in enumerate(mask.shape):
        place = np.arange(edge, dtype=np.int32).reshape([-1 if other == axis else 1 for other in range(3)])
        before = np.maximum.accumulate(np.where(mask, np.int32(-1), place), axis=axis)
        after = np.where(mask, np.int32(edge), place)
        after = np.flip(np.minimum.accumulate(np.flip(after, axis), axis=axis), axis)
        np.minimum(shortest, after - before - 1, out=shortest)
    return shortest[mask]


def survey_scrolls(
    chunks: Sequence[Chunk], volumes_per_scroll: int = 3, progress: Progress = no_progress
) -> list[ScrollSurvey]:
    """Read some labelled chunks of every scroll and count what is in them; ordered by scroll.

    Of each scroll at most ``volumes_per_scroll`` are read, spread evenly over its list. Images and labels must be uint8.
    """
    check_integer("volumes_per_scroll", volumes_per_scroll, minimum=1)
    by_scroll: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        by_scroll.setdefault(chunk.scroll_id, []).append(chunk)
    if not by_scroll:
        raise InputValueError("chunks must hold at least one, got none")
    surveys = []
    for scroll_id, members in sorted(by_scroll.items()):
        count = min(volumes_per_scroll, len(members))
        taken = [members[index * len(members) // count] for index in range(count)]
        surveys.append(ScrollSurvey(scroll_id, taken, *(np.zeros(n, np.int64) for n in (3, (3, 256), THICKEST + 1))))
    work = [(survey, chunk) for survey in surveys for chunk in survey.chunks]
    for survey, chunk in progress(work, total=len(work), desc="survey"):
        image, label = read_volume(chunk.image_path, "uint8"), read_volume(chunk.require_label(), "uint8")
        if image.shape != label.shape:
            raise InputValueError(f"label must have its image's shape, got {chunk.label_path} with {label.shape}")
        for value in LABEL_NAMES:
            grey = np.bincount(image[label == value], minlength=256)
            survey.grey_counts[value] += grey
            survey.label_counts[value] += grey.sum()
        middle = tuple(slice(max(edge // 2 - _EDGE // 2, 0), edge // 2 + _EDGE // 2) for edge in label.shape)
        thickness = measure_thickness(label[middle] == SURFACE).clip(max=THICKEST)
        survey.thickness_counts[:] += np.bincount(thickness, minlength=THICKEST + 1)
    return surveys


def survey_to_text(surveys: Sequence[ScrollSurvey]) -> str:
    """Return the survey as a table, one line a scroll.

    Volumes read, label shares, mean thickness of the labelled lines in voxels, and the median grey value of background and
    surface.
    """
    lines = [
        f"{'scroll':>10} {'volumes':>8} {'background':>11} {'surface':>8} {'unlabelled':>11} {'thickness':>10} "
        f"{'grey background':>16} {'grey surface':>13}"
    ]
    for survey in surveys:
        shares = survey.label_shares
        lines.append(
            f"{survey.scroll_id:>10} {len(survey.chunks):>8} {shares[0]:>11.1%} {shares[1]:>8.1%} {shares[2]:>11.1%} "
            f"{_mean(survey.thickness_counts):>10.2f} {_median(survey.grey_counts[BACKGROUND]):>16} "
            f"{_median(survey.grey_counts[SURFACE]):>13}"
        )
    return "\n".join(lines)


def write_survey_page(path: Path | str, surveys: Sequence[ScrollSurvey]) -> Path:
    """Write a PNG: label shares of each scroll, thickness of the labelled lines, grey values of papyrus and gaps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    share_axes, thickness_axes, grey_axes = figure.subplots(1, 3)
    names = [survey.scroll_id for survey in surveys]
    left = np.zeros(len(surveys))
    for value, name in LABEL_NAMES.items():
        shares = np.array([survey.label_shares[value] for survey in surveys])
        share_axes.barh(names, shares, left=left, color=LABEL_COLOURS[value], label=name, height=0.7)
        for row, share in enumerate(shares):
            share_axes.text(left[row] + share / 2, row, f"{share:.0%}", ha="center", va="center", fontsize=8)
        left += shares
    share_axes.set_xlim(0, 1)
    share_axes.invert_yaxis()
    share_axes.set_title("share of the label's values, by scroll")
    share_axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False)
    thick = np.arange(THICKEST + 1)
    for number, survey in enumerate(surveys):
        colour = SCROLL_COLOURS[number % len(SCROLL_COLOURS)]
        if survey.thickness_counts.any():
            shares = survey.thickness_counts / survey.thickness_counts.sum()
            thickness_axes.plot(thick[1:], shares[1:], "o-", ms=4, color=colour, label=survey.scroll_id)
        # The two ends, padding and clipped grains, would press everything else against the axis.
        grey = survey.grey_counts.sum(axis=0)
        outside = grey[[0, 255]].sum() / grey.sum()
        grey_axes.plot(
            np.arange(1, 255), grey[1:255] / grey.sum(), color=colour, label=f"{survey.scroll_id} ({outside:.0%})"
        )
        if survey.label_counts[SURFACE]:
            at = _median(survey.grey_counts[SURFACE])
            grey_axes.plot(at, grey[at] / grey.sum(), "o", color=colour, mec="black", ms=7)
    thickness_axes.set_xlabel(f"voxels ({THICKEST}: or more)")
    thickness_axes.set_title("thickness of the labelled lines (share of their voxels)")
    grey_axes.set_xlabel("grey value")
    grey_axes.set_title("grey values of each scroll; dot: median of its surface")
    for axes, title in ((thickness_axes, "scroll"), (grey_axes, "scroll (share of grey 0 and 255)")):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        if axes.has_data():
            axes.legend(fontsize=8, title=title, title_fontsize=8)
    return save_figure(path, figure)


def write_slices_page(path: Path | str, chunks: Sequence[Chunk]) -> Path:
    """Write a PNG: a row of slices in three directions for each chunk, the label painted over the lower half of each slice."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    if not chunks:
        raise InputValueError("chunks must hold at least one, got none")
    figure = Figure(figsize=(13, 4.4 * len(chunks) + 0.4), layout="constrained")
    for row, chunk in zip(figure.subplots(len(chunks), 3, squeeze=False), chunks):
        image, label = read_volume(chunk.image_path), read_volume(chunk.require_label())
        for axis, axes in enumerate(row):
            place = choose_place(label == SURFACE, axis)
            draw_slice(
                axes, image, axis, place, f"scroll {chunk.scroll_id}, chunk {chunk.id}, {PLANES[axis]} = {place}"
            )
            piece = label.take(place, axis=axis)
            paint = np.zeros((*piece.shape, 4), np.float32)
            for value, opacity in ((BACKGROUND, 0.12), (SURFACE, 0.9), (UNLABELLED, 0.45)):
                colour = "#000000" if value == UNLABELLED else LABEL_COLOURS[value]
                paint[piece == value] = (*to_rgb(colour), opacity)
            paint[: piece.shape[0] // 2] = 0  # the upper half stays bare, so that the papyrus itself can be seen
            axes.imshow(paint, interpolation="nearest")
    axes = figure.axes[0]
    for colour, name in ((LABEL_COLOURS[SURFACE], "surface"), ("#333333", "unlabelled")):
        axes.plot([], [], "s", color=colour, label=name)
    axes.legend(fontsize=8, loc="lower left")
    return save_figure(path, figure)


def _mean(counts: NDArray[np.int64]) -> float:
    return float(counts @ np.arange(len(counts)) / counts.sum()) if counts.any() else float("nan")


def _median(counts: NDArray[np.int64]) -> int:
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
