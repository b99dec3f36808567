"""A diagnosis as a picture: losses, components, rate and gradient diagnostics above each other, on one axis of epochs."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.constants import MAX_FACTOR
from vesuvius_kit.diagnosis.curves import COMPONENTS, Curve, Line, base_rate, number_of, part_of, scores_of, series
from vesuvius_kit.diagnosis.verdict import Diagnosis
from vesuvius_kit.io.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_Draw = Callable[["Axes", Diagnosis], None]

# Colour-blind safe (Okabe and Ito).
_BLUE, _ORANGE, _GREEN, _RED, _PINK, _SKY, _INK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#333333",
)
_COMPONENT_COLOURS = dict(zip(COMPONENTS, (_PINK, "#7A5195", _SKY, "#8C6D31", _BLUE, _GREEN, _RED), strict=True))
_OTHER_COLOUR = "#999999"


def draw_diagnosis(diagnosis: Diagnosis, path: Path | str) -> None:
    """Draw a diagnosis into a file that is replaced in one move; its ending says the kind of picture, PNG without one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kind = Path(path).suffix.removeprefix(".").lower() or "png"
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise InputValueError(f"figure must end in .png, .svg, .pdf or another kind of picture, got {path}")
    lines = diagnosis.run.lines
    panels: list[_Draw] = [_draw_losses]
    panels += [_draw_components] if _components(lines) else []
    panels += [_draw_scores] if scores_of(lines) else []
    panels += [_draw_rate] if _rates(lines) or _multiples(lines) else []
    panels += [_draw_output] if series(lines, "validation", "output_std") else []
    panels += [_draw_cosines] if _cosines(lines) else []
    caption = _caption(diagnosis)
    heights = [2.6, *[1.8] * (len(panels) - 1)]
    caption_height = 0.19 * (caption.count("\n") + 1) + 0.75
    size = (10.0, sum(heights) + 0.35 * len(panels) + caption_height)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=[caption_height, size[1] - caption_height])[:, 0]
    _write_head(head, diagnosis, caption, caption_height)
    axes = body.subplots(len(panels), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
    for draw, plot in zip(panels, axes, strict=True):
        _style(plot)
        if diagnosis.plateau is not None:
            plot.axvspan(
                diagnosis.plateau.best_epoch + 0.5, diagnosis.plateau.last_epoch + 0.5, color="#F3EFE6", zorder=0
            )
        draw(plot, diagnosis)
        handles, _ = plot.get_legend_handles_labels()
        if handles:
            plot.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False, handlelength=1.4)
    for number, finding in enumerate(diagnosis.findings, start=1):
        wanted, epochs = _POINTED_AT[finding.fault](finding.evidence)
        plot = axes[panels.index(wanted)] if wanted in panels else axes[0]
        _point_at(plot, number, epochs)
    axes[-1].set_xlabel("epoch", fontsize=9)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    first, last = lines[0]["epoch"], lines[-1]["epoch"]
    axes[-1].set_xlim(first - 0.5, last + 0.5)
    with write_atomically(path, "wb") as stream:
        figure.savefig(stream, format=kind, dpi=140)


# Panel and first and last epoch of what each finding tells of.
_POINTED_AT: dict[str, Callable[[Mapping[str, Any]], tuple[_Draw, Sequence[int]]]] = {
    "labels": lambda found: (_draw_output, found["epochs"]),
    "variance_reward": lambda found: (_draw_components, found["epochs"]),
    "conflict": lambda found: (_draw_cosines, found["epochs"]),
    "standstill": lambda found: (_draw_losses, [found["best_epoch"]] * 2),
    "not_finite": lambda found: (_draw_losses, [min([*found["epochs"], *found["skipped_steps"]])] * 2),
    "runaway": lambda found: (_draw_rate, [found["first_epoch"]] * 2),
    "high_rate": lambda found: (_draw_losses, (found["rising_epochs"] or found["epochs"])[:1] * 2),
    "uniform_output": lambda found: (_draw_output, found["epochs"]),
    "low_rate": lambda found: (_draw_losses, found["epochs"]),
    "overfitting": lambda found: (_draw_losses, [found["best_epoch"]] * 2),
    "parting": lambda found: (_draw_losses, [found["best_epoch"]] * 2),
    "zero_batches": lambda found: (_draw_losses, found["epochs"]),
    "chance_level": lambda found: (_draw_losses, found["epochs"]),
    "no_learning": lambda found: (_draw_losses, found["epochs"]),
    "standing_score": lambda found: (_draw_scores, found["epochs"]),
}


def _write_head(head: "SubFigure", diagnosis: Diagnosis, caption: str, height: float) -> None:
    """The verdict, where the log lies, and the findings, over the panels; the height is in inches."""
    colour = _GREEN if diagnosis.healthy else _RED
    head.text(0.02, 1 - 0.16 / height, diagnosis.verdict, fontsize=17, weight="bold", color=colour, va="top")
    head.text(0.98, 1 - 0.2 / height, _short(diagnosis.run.source), fontsize=8, color="#777777", va="top", ha="right")
    head.text(0.02, 1 - 0.58 / height, caption, fontsize=9, color=_INK, va="top", linespacing=1.35)


def _point_at(plot: "Axes", number: int, epochs: Sequence[int]) -> None:
    """The finding's number, at the head of a dotted line at the epoch where it begins or over the span of its epochs."""
    first, last = epochs
    if first == last:
        plot.axvline(first, color=_RED, lw=0.9, ls=":", zorder=1)
    else:
        plot.plot(
            [first, last],
            [1, 1],
            color=_RED,
            lw=2.2,
            solid_capstyle="butt",
            clip_on=False,
            transform=plot.get_xaxis_transform(),
        )
    plot.annotate(
        str(number),
        ((first + last) / 2, 1.0),
        xycoords=plot.get_xaxis_transform(),
        ha="center",
        va="center",
        fontsize=8,
        weight="bold",
        color="white",
        annotation_clip=False,
        zorder=6,
        bbox={"boxstyle": "circle,pad=0.22", "fc": _RED, "ec": "white", "lw": 1.2},
    )


def _caption(diagnosis: Diagnosis) -> str:
    paragraphs = [f"{number}. {finding.text}" for number, finding in enumerate(diagnosis.findings, start=1)]
    if not paragraphs:
        paragraphs = [f"{len(diagnosis.run.lines)} epochs, nothing wrong."]
    return "\n".join(textwrap.fill(paragraph, 132, subsequent_indent="    ") for paragraph in paragraphs)


def _short(source: str) -> str:
    return source if len(source) <= 70 else "…" + source[-69:]


def _style(plot: "Axes") -> None:
    plot.spines[["top", "right"]].set_visible(False)
    plot.spines[["left", "bottom"]].set_color("#AAAAAA")
    plot.tick_params(which="both", labelsize=8, colors="#555555", length=3)
    plot.tick_params(which="minor", labelsize=6.5, length=2)
    plot.grid(axis="y", color="#E6E6E6", lw=0.6)
    plot.set_axisbelow(True)


def _title(plot: "Axes", text: str) -> None:
    plot.set_title(text, fontsize=9.5, loc="left", color=_INK, weight="bold")


def _line(plot: "Axes", points: Curve, **style: Any) -> None:
    """A curve with its points where they are few enough to be told apart."""
    marker: dict[str, Any] = {"marker": "o", "ms": 2.6} if len(points) <= 80 else {}
    plot.plot(*zip(*points, strict=True), lw=1.4, **marker, **style)


def _draw_losses(plot: "Axes", diagnosis: Diagnosis) -> None:
    lines = diagnosis.run.lines
    curves = {
        "training": (series(lines, "train", "loss"), _BLUE),
        "validation": (series(lines, "validation", "loss"), _ORANGE),
    }
    values = [value for points, _ in curves.values() for _, value in points]
    for name, (points, colour) in curves.items():
        if points:
            _line(plot, points, color=colour, label=name)
    _scale(plot, values)
    broken = [line["epoch"] for line in lines if _is_broken(line)]
    if broken:
        plot.plot(
            broken,
            [0.03] * len(broken),
            "x",
            color=_RED,
            ms=6,
            mew=1.6,
            transform=plot.get_xaxis_transform(),
            label="no number",
        )
    if diagnosis.best_epoch is not None and diagnosis.best_loss is not None:
        plot.plot([diagnosis.best_epoch], [diagnosis.best_loss], "o", ms=9, mfc="none", mec=_INK, mew=1.3)
        plot.annotate(
            f"best {diagnosis.best_loss:.4f}, epoch {diagnosis.best_epoch}",
            (diagnosis.best_epoch, diagnosis.best_loss),
            xytext=(0, -17),
            textcoords="offset points",
            ha="left" if diagnosis.best_epoch < (lines[0]["epoch"] + lines[-1]["epoch"]) / 2 else "right",
            fontsize=8,
            color=_INK,
        )
        plot.margins(y=0.18)
    if diagnosis.plateau is not None:
        middle = (diagnosis.plateau.best_epoch + diagnosis.plateau.last_epoch) / 2
        text = f"no better than epoch {diagnosis.plateau.best_epoch}"
        plot.text(
            middle, 0.97, text, transform=plot.get_xaxis_transform(), ha="center", va="top", fontsize=8, color="#8A7B55"
        )
    _title(plot, "Loss")


def _scale(plot: "Axes", values: Sequence[float]) -> None:
    """A logarithmic scale where a linear one would hide what is small."""
    if values and min(values) > 0 and max(values) > 20 * median(values):
        plot.set_yscale("log")


def _is_broken(line: Line) -> bool:
    parts = (line.get("train") or {}, line.get("validation") or {})
    return any("loss" in part and not math.isfinite(number_of(part["loss"])) for part in parts)


def _components(lines: Sequence[Line]) -> dict[str, Curve]:
    names = {name for line in lines for name in (line.get(part_of(line)) or {}) if name in COMPONENTS}
    return {name: points for name in sorted(names) if (points := series(lines, part_of(lines[-1]), name))}


def _draw_components(plot: "Axes", diagnosis: Diagnosis) -> None:
    for name, points in _components(diagnosis.run.lines).items():
        _line(plot, points, color=_COMPONENT_COLOURS[name], label=name.replace("_", " "))
    values = [value for points in _components(diagnosis.run.lines).values() for _, value in points]
    _scale(plot, values)
    if plot.get_yscale() == "linear":
        plot.set_ylim(bottom=0)
    _title(plot, "Components of the loss, before their weights")


def _draw_scores(plot: "Axes", diagnosis: Diagnosis) -> None:
    colours = (_GREEN, _SKY, _PINK, _INK, _BLUE, _ORANGE)
    for number, (name, points) in enumerate(scores_of(diagnosis.run.lines).items()):
        shown = number < len(colours)
        style: dict[str, Any] = (
            {"color": colours[number], "label": name[:24]} if shown else {"color": "#D0D0D0", "zorder": 1}
        )
        _line(plot, points, **style)
    _title(plot, "Scores, as the log calls them")


def _rates(lines: Sequence[Line]) -> Curve:
    rates = [(line["epoch"], number_of(line.get("rate"))) for line in lines]
    return [(epoch, rate) for epoch, rate in rates if rate > 0 and math.isfinite(rate)]


def _multiples(lines: Sequence[Line]) -> Curve:
    """Interventions and what they multiplied the rate by, for logs that hold no rate."""
    found = [
        (line["epoch"], number_of(entry.get("multiple", entry.get("scale"))))
        for line in lines
        for entry in line.get("interventions") or ()
    ]
    return [(epoch, multiple) for epoch, multiple in found if multiple > 0 and math.isfinite(multiple)]


def _draw_rate(plot: "Axes", diagnosis: Diagnosis) -> None:
    lines = diagnosis.run.lines
    rates, multiples = _rates(lines), _multiples(lines)
    base = base_rate(lines, diagnosis.run.config)
    plot.set_yscale("log")
    if rates:
        plot.step(*zip(*rates, strict=True), where="mid", color=_INK, lw=1.4, label="rate")
        if multiples:
            at = dict(rates)
            points = [(epoch, at.get(epoch + 1, at.get(epoch))) for epoch, _ in multiples if epoch in at]
            plot.plot(*zip(*points, strict=True), "^", color=_RED, ms=5, label="intervention")
        cap = None if base is None else MAX_FACTOR * base
        _title(plot, "Learning rate")
    else:
        plot.plot(*zip(*multiples, strict=True), "^", color=_RED, ms=5, label="intervention")
        cap = MAX_FACTOR
        plot.set_ylim(1, 1.6 * max([cap, *(multiple for _, multiple in multiples)]))
        _title(plot, "Learning rate, in multiples of its base, as the interventions tell")
    if cap is not None and (multiples or max(rate for _, rate in rates) > cap):
        plot.axhline(cap, color=_RED, lw=1, ls="--", label=f"{MAX_FACTOR:g} x base")
    if multiples:
        epoch, multiple = max(multiples, key=lambda pair: pair[1])
        height = dict(rates).get(epoch + 1, dict(rates).get(epoch)) if rates else multiple
        plot.annotate(
            f"{multiple:.4g} x",
            (epoch, height),
            xytext=(-6, 5),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=_RED,
        )
        plot.margins(y=0.2)


def _draw_output(plot: "Axes", diagnosis: Diagnosis) -> None:
    lines = diagnosis.run.lines
    for name, label, colour in (
        ("output_std", "output, spread", _GREEN),
        ("output_mean", "output, mean", _SKY),
        ("surface_share", "labels, share of surface", _INK),
    ):
        points = series(lines, "validation", name)
        if points:
            style: dict[str, Any] = {"ls": ":"} if name == "surface_share" else {}
            plot.plot(*zip(*points, strict=True), color=colour, lw=1.4, label=label, **style)
    plot.set_ylim(bottom=0)
    _title(plot, "Output over the labelled voxels")


def _cosines(lines: Sequence[Line]) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    for line in lines:
        cosines = (line.get("gradient_diagnostics") or {}).get("cosines")
        for pair, value in cosines.items() if isinstance(cosines, dict) else ():
            if math.isfinite(number_of(value)):
                found.setdefault(pair, []).append((line["epoch"], number_of(value)))
    return found


def _draw_cosines(plot: "Axes", diagnosis: Diagnosis) -> None:
    # The pairs that oppose each other most are told apart, the others are drawn behind them.
    pairs = sorted(_cosines(diagnosis.run.lines).items(), key=lambda item: min(value for _, value in item[1]))
    colours = (_RED, _BLUE, _ORANGE, _GREEN)
    for number, (pair, points) in enumerate(pairs):
        shown = number < len(colours)
        style: dict[str, Any] = (
            {"color": colours[number], "label": pair.replace(",", " / ").replace("_", " ")}
            if shown
            else {"color": "#D0D0D0"}
        )
        plot.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, zorder=3 - (not shown), **style)
    plot.axhline(0, color="#888888", lw=0.8)
    plot.set_ylim(-1.05, 1.05)
    _title(plot, "Cosine of the components' gradients: below 0 they take from each other")
