"""A run's record as panels over its epochs: losses, components, scores, rate, output, gradients.

Every ``draw_`` function draws one panel into matplotlib axes and returns its title, which the page sets in its own style. They
take the records of a run, of the kit's own or read from a log of another kind.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from vesuvius_kit.constants import COMPONENTS, MAX_FACTOR
from vesuvius_kit.diagnosis.curves import Curve, Part, entries_of, number_of, part_of, series
from vesuvius_kit.io.record import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour-blind safe (Okabe and Ito), and two more for the components.
BLUE, ORANGE, GREEN, RED, PINK, SKY = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
VIOLET, BROWN = ("#7A5195", "#8C6D31")
INK = "#333333"
PALE = "#D0D0D0"
"""Of curves behind those that the legend names."""
_COMPONENT_COLOURS = dict(zip(COMPONENTS, (PINK, VIOLET, SKY, BROWN, BLUE, GREEN, RED), strict=True))
_MOST_MARKED = 80  # points that can be told apart


def scale_epochs(plot: "Axes", records: Sequence[EpochRecord]) -> None:
    """Let the axis of epochs span those of the records, with whole numbers on it."""
    from matplotlib.ticker import MaxNLocator

    plot.set_xlabel("epoch", fontsize=9)
    plot.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plot.set_xlim(records[0].epoch - 0.5, records[-1].epoch + 0.5)


def draw_losses(plot: "Axes", records: Sequence[EpochRecord]) -> str:
    """Draw the training and the validation loss; a cross at the foot marks an epoch whose loss is no number."""
    values = []
    parts: tuple[tuple[Part, str, str], ...] = (("train", "training", BLUE), ("validation", "validation", ORANGE))
    for part, name, colour in parts:
        points = series(records, part, "loss")
        values += [value for _, value in points]
        if points:
            _draw_line(plot, points, color=colour, label=name)
    _scale(plot, values)
    broken = [record.epoch for record in records if _is_broken(record)]
    if broken:
        heights = [0.03] * len(broken)
        style: dict[str, Any] = {"color": RED, "ms": 6, "mew": 1.6, "label": "no number"}
        plot.plot(broken, heights, "x", transform=plot.get_xaxis_transform(), **style)
    return "Loss"


def _is_broken(record: EpochRecord) -> bool:
    parts = (record.train, record.validation)
    return any("loss" in part and not math.isfinite(number_of(part["loss"])) for part in parts)


def find_components(records: Sequence[EpochRecord], part: Part | None = None) -> dict[str, Curve]:
    """Return the components of the loss by name; of each epoch the part in which they are best read, or the one given."""
    names = {name for record in records for name in entries_of(record, part or part_of(record)) if name in COMPONENTS}
    return {name: points for name in sorted(names) if (points := series(records, part or part_of(records[-1]), name))}


def draw_components(plot: "Axes", records: Sequence[EpochRecord], part: Part | None = None) -> str:
    """Draw the components that `find_components` returns."""
    curves = find_components(records, part)
    for name, points in curves.items():
        _draw_line(plot, points, color=_COMPONENT_COLOURS[name], label=name.replace("_", " "))
    _scale(plot, [value for points in curves.values() for _, value in points])
    if plot.get_yscale() == "linear":
        plot.set_ylim(bottom=0)
    return "Components of the loss, before their weights"


def draw_scores(plot: "Axes", curves: Mapping[str, Curve]) -> str:
    """Draw the scores of somebody else's log by their names; those after the sixth stay behind, without a name."""
    colours = (GREEN, SKY, PINK, INK, BLUE, ORANGE)
    for number, (name, points) in enumerate(curves.items()):
        shown = number < len(colours)
        style = {"color": colours[number], "label": name[:24]} if shown else {"color": PALE, "zorder": 1}
        _draw_line(plot, points, **style)
    return "Scores, as the log calls them"


def draw_competition_scores(plot: "Axes", records: Sequence[EpochRecord]) -> None:
    """Draw into the panel of the losses the competition's score, and its surface Dice, of the epochs that were scored."""
    for name, colour in (("score", GREEN), ("surface_dice", PINK)):
        scores = [(record.epoch, number_of((record.score or {}).get(name))) for record in records]
        points = [(epoch, score) for epoch, score in scores if math.isfinite(score)]
        if points:
            label = f"validation {name.replace('_', ' ')}"
            plot.plot(*zip(*points, strict=True), "s", ms=5, color=colour, label=label)


def find_rates(records: Sequence[EpochRecord]) -> Curve:
    """Return the learning rate by epoch."""
    rates = [(record.epoch, number_of(record.rate)) for record in records]
    return [(epoch, rate) for epoch, rate in rates if rate > 0 and math.isfinite(rate)]


def find_multiples(records: Sequence[EpochRecord]) -> Curve:
    """Return what each intervention multiplied the base rate by, for logs that hold no rate."""
    found = [
        (record.epoch, number_of(entry.get("multiple", entry.get("scale"))))
        for record in records
        for entry in record.interventions
    ]
    return [(epoch, multiple) for epoch, multiple in found if multiple > 0 and math.isfinite(multiple)]


def draw_rate(plot: "Axes", records: Sequence[EpochRecord], base: float | None) -> str:
    """Draw the learning rate with the interventions and its cap, `MAX_FACTOR` times the base rate; or their multiples alone.

    An intervention stands at the epoch that decided it, as high as the rate of the next. The cap is drawn where there was an
    intervention or the rate passed it.
    """
    rates, multiples = find_rates(records), find_multiples(records)
    at = dict(rates)
    plot.set_yscale("log")
    if rates:
        marks = [(epoch, at.get(epoch + 1, at[epoch]), multiple) for epoch, multiple in multiples if epoch in at]
        plot.step(*zip(*rates, strict=True), where="mid", color=INK, lw=1.4, label="rate", **_mark(rates, most=1))
        title, cap = "Learning rate", None if base is None else MAX_FACTOR * base
    else:
        marks = [(epoch, multiple, multiple) for epoch, multiple in multiples]
        title, cap = "Learning rate, in multiples of its base, as the interventions tell", MAX_FACTOR
    if marks:
        epochs, heights, _ = zip(*marks, strict=True)
        plot.plot(epochs, heights, "^", color=RED, ms=5, label="intervention")
    if not rates:
        plot.set_ylim(1, 1.6 * max([MAX_FACTOR, *(multiple for _, multiple in multiples)]))
    if cap is not None and (multiples or max((rate for _, rate in rates), default=0.0) > cap):
        plot.axhline(cap, color=RED, lw=1, ls="--", label=f"{MAX_FACTOR:g} x base")
    if marks:
        epoch, height, multiple = max(marks, key=lambda mark: mark[2])
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 8, "color": RED}
        plot.annotate(f"{multiple:.4g} x", (epoch, height), xytext=(-6, 5), **style)
        plot.margins(y=0.2)
    return title


def draw_output(plot: "Axes", records: Sequence[EpochRecord]) -> str:
    """Draw mean and spread of the network's output beside the labels' share of surface."""
    for name, label, colour in (
        ("output_std", "output, spread", GREEN),
        ("output_mean", "output, mean", SKY),
        ("surface_share", "labels, share of surface", INK),
    ):
        points = series(records, "validation", name)
        if points:
            dashes = ":" if name == "surface_share" else "-"
            plot.plot(*zip(*points, strict=True), color=colour, lw=1.4, ls=dashes, label=label, **_mark(points, most=1))
    plot.set_ylim(bottom=0)
    return "Output over the labelled voxels"


def find_cosines(records: Sequence[EpochRecord]) -> dict[str, Curve]:
    """Return the cosine of the gradients of each pair of components, by the pair."""
    found: dict[str, Curve] = {}
    for record in records:
        cosines = (record.gradient_diagnostics or {}).get("cosines")
        for pair, value in cosines.items() if isinstance(cosines, dict) else ():
            if math.isfinite(number_of(value)):
                found.setdefault(pair, []).append((record.epoch, number_of(value)))
    return found


def draw_cosines(plot: "Axes", records: Sequence[EpochRecord]) -> str:
    """Draw what `find_cosines` returns; the four pairs that oppose each other most are named, the others stay behind."""
    pairs = sorted(find_cosines(records).items(), key=lambda item: min(value for _, value in item[1]))
    colours = (RED, BLUE, ORANGE, GREEN)
    for number, (pair, points) in enumerate(pairs):
        shown = number < len(colours)
        label = pair.replace(",", " / ").replace("_", " ")
        style: dict[str, Any] = {"color": colours[number], "label": label} if shown else {"color": PALE}
        plot.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, zorder=3 - (not shown), **style)
    plot.axhline(0, color="#888888", lw=0.8)
    plot.set_ylim(-1.05, 1.05)
    return "Cosine of the components' gradients: below 0 they take from each other"


def _draw_line(plot: "Axes", points: Curve, **style: Any) -> None:
    """A curve with its points where they are few enough to be told apart."""
    plot.plot(*zip(*points, strict=True), lw=1.4, **_mark(points, _MOST_MARKED), **style)


def _mark(points: Curve, most: int) -> dict[str, Any]:
    """The style of a curve whose points are marked where there are so many at most; a single one has no line to show."""
    return {"marker": "o", "ms": 2.6} if len(points) <= most else {}


def _scale(plot: "Axes", values: Sequence[float]) -> None:
    """A logarithmic scale where a linear one would hide what is small."""
    if values and min(values) > 0 and max(values) > 20 * median(values):
        plot.set_yscale("log")
