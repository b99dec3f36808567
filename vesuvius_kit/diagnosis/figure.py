"""A diagnosis as a picture: the panels of the run above each other, on one axis of epochs, with what the findings point at."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.diagnosis.curves import base_rate, scores_of, series
from vesuvius_kit.diagnosis.finding import Finding
from vesuvius_kit.diagnosis.panels import (
    GREEN,
    INK,
    RED,
    draw_components,
    draw_cosines,
    draw_losses,
    draw_output,
    draw_rate,
    draw_scores,
    find_components,
    find_cosines,
    find_multiples,
    find_rates,
    scale_epochs,
)
from vesuvius_kit.diagnosis.verdict import Diagnosis
from vesuvius_kit.io.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

Panel = Literal["losses", "components", "scores", "rate", "output", "cosines"]
"""Panels of a diagnosis."""
_Draw = Callable[["Axes"], str]


def draw_diagnosis(diagnosis: Diagnosis, path: Path | str) -> None:
    """Draw a diagnosis into a file that is replaced in one move; its ending says the kind of picture, PNG without one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = Path(path).suffix.removeprefix(".").lower() or "png"
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise InputValueError(f"figure must end in .png, .svg, .pdf or another kind of picture, got {path}")
    panels = _choose_panels(diagnosis)
    caption = _caption(diagnosis)
    heights = [2.6, *[1.8] * (len(panels) - 1)]
    caption_height = 0.19 * (caption.count("\n") + 1) + 0.75
    size = (10.0, sum(heights) + 0.35 * len(panels) + caption_height)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=[caption_height, size[1] - caption_height])[:, 0]
    _write_head(head, diagnosis, caption, caption_height)
    axes = body.subplots(len(panels), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
    plots = dict(zip(panels, axes, strict=True))
    for name, plot in plots.items():
        _draw_panel(plot, panels[name], diagnosis)
    for number, finding in enumerate(diagnosis.findings, start=1):
        wanted, epochs = locate_finding(finding)
        _point_at(plots.get(wanted, axes[0]), number, epochs)
    scale_epochs(axes[-1], diagnosis.run.records)
    with write_atomically(path, "wb") as stream:
        figure.savefig(stream, format=kind, dpi=140)


def locate_finding(finding: Finding) -> tuple[Panel, tuple[int, int]]:
    """Return the panel that a finding is best seen in, and the first and the last epoch of what it tells of."""
    panel, (first, last) = _POINTED_AT[finding.fault](finding.evidence)
    return panel, (first, last)


def _choose_panels(diagnosis: Diagnosis) -> dict[Panel, _Draw]:
    """What draws each panel for which the log has something."""
    records, scores = diagnosis.run.records, scores_of(diagnosis.run.records)
    panels: dict[Panel, _Draw] = {"losses": lambda plot: _draw_judged_losses(plot, diagnosis)}
    if find_components(records):
        panels["components"] = lambda plot: draw_components(plot, records)
    if scores:
        panels["scores"] = lambda plot: draw_scores(plot, scores)
    if find_rates(records) or find_multiples(records):
        panels["rate"] = lambda plot: draw_rate(plot, records, base_rate(records, diagnosis.run.config))
    if series(records, "validation", "output_std"):
        panels["output"] = lambda plot: draw_output(plot, records)
    if find_cosines(records):
        panels["cosines"] = lambda plot: draw_cosines(plot, records)
    return panels


# Panel and first and last epoch of what each finding tells of.
_POINTED_AT: dict[str, Callable[[Mapping[str, Any]], tuple[Panel, Sequence[int]]]] = {
    "labels": lambda found: ("output", found["epochs"]),
    "variance_reward": lambda found: ("components", found["epochs"]),
    "conflict": lambda found: ("cosines", found["epochs"]),
    "standstill": lambda found: ("losses", [found["best_epoch"]] * 2),
    "not_finite": lambda found: ("losses", [min([*found["epochs"], *found["skipped_steps"]])] * 2),
    "runaway": lambda found: ("rate", [found["first_epoch"]] * 2),
    "high_rate": lambda found: ("losses", (found["rising_epochs"] or found["epochs"])[:1] * 2),
    "uniform_output": lambda found: ("output", found["epochs"]),
    "low_rate": lambda found: ("losses", found["epochs"]),
    "overfitting": lambda found: ("losses", [found["best_epoch"]] * 2),
    "parting": lambda found: ("losses", [found["best_epoch"]] * 2),
    "zero_batches": lambda found: ("losses", found["epochs"]),
    "chance_level": lambda found: ("losses", found["epochs"]),
    "no_learning": lambda found: ("losses", found["epochs"]),
    "standing_score": lambda found: ("scores", found["epochs"]),
}


def _write_head(head: "SubFigure", diagnosis: Diagnosis, caption: str, height: float) -> None:
    """The verdict, where the log lies, and the findings, over the panels; the height is in inches."""
    colour = GREEN if diagnosis.healthy else RED
    head.text(0.02, 1 - 0.16 / height, diagnosis.verdict, fontsize=17, weight="bold", color=colour, va="top")
    head.text(0.98, 1 - 0.2 / height, _short(diagnosis.run.source), fontsize=8, color="#777777", va="top", ha="right")
    head.text(0.02, 1 - 0.58 / height, caption, fontsize=9, color=INK, va="top", linespacing=1.35)


def _point_at(plot: "Axes", number: int, epochs: Sequence[int]) -> None:
    """The finding's number, at the head of a dotted line at the epoch where it begins or over the span of its epochs."""
    first, last = epochs
    if first == last:
        plot.axvline(first, color=RED, lw=0.9, ls=":", zorder=1)
    else:
        plot.plot(
            [first, last],
            [1, 1],
            color=RED,
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
        bbox={"boxstyle": "circle,pad=0.22", "fc": RED, "ec": "white", "lw": 1.2},
    )


def _caption(diagnosis: Diagnosis) -> str:
    paragraphs = [f"{number}. {finding.text}" for number, finding in enumerate(diagnosis.findings, start=1)]
    if not paragraphs:
        count = len(diagnosis.run.records)
        paragraphs = [f"{count} epoch{'s' * (count > 1)}, nothing wrong."]
    return "\n".join(textwrap.fill(paragraph, 132, subsequent_indent="    ") for paragraph in paragraphs)


def _short(source: str) -> str:
    return source if len(source) <= 70 else "…" + source[-69:]


def _draw_panel(plot: "Axes", draw: _Draw, diagnosis: Diagnosis) -> None:
    """One panel in the style of the page, with the plateau shaded."""
    _style(plot)
    if diagnosis.plateau is not None:
        first, last = diagnosis.plateau.best_epoch + 0.5, diagnosis.plateau.last_epoch + 0.5
        plot.axvspan(first, last, color="#F3EFE6", zorder=0)
    plot.set_title(draw(plot), fontsize=9.5, loc="left", color=INK, weight="bold")
    handles, _ = plot.get_legend_handles_labels()
    if handles:
        plot.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False, handlelength=1.4)


def _style(plot: "Axes") -> None:
    plot.spines[["top", "right"]].set_visible(False)
    plot.spines[["left", "bottom"]].set_color("#AAAAAA")
    plot.tick_params(which="both", labelsize=8, colors="#555555", length=3)
    plot.tick_params(which="minor", labelsize=6.5, length=2)
    plot.grid(axis="y", color="#E6E6E6", lw=0.6)
    plot.set_axisbelow(True)


def _draw_judged_losses(plot: "Axes", diagnosis: Diagnosis) -> str:
    """The losses with the best of them and the plateau named."""
    records, best = diagnosis.run.records, diagnosis.best_epoch
    title = draw_losses(plot, records)
    if best is not None and diagnosis.best_loss is not None:
        plot.plot([best], [diagnosis.best_loss], "o", ms=9, mfc="none", mec=INK, mew=1.3)
        plot.annotate(
            f"best {diagnosis.best_loss:.4f}, epoch {best}",
            (best, diagnosis.best_loss),
            xytext=(0, -17),
            textcoords="offset points",
            ha="left" if best < (records[0].epoch + records[-1].epoch) / 2 else "right",
            fontsize=8,
            color=INK,
        )
        plot.margins(y=0.18)
    if diagnosis.plateau is not None:
        middle = (diagnosis.plateau.best_epoch + diagnosis.plateau.last_epoch) / 2
        text = f"no better than epoch {diagnosis.plateau.best_epoch}"
        style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8, "color": "#8A7B55"}
        plot.text(middle, 0.97, text, transform=plot.get_xaxis_transform(), **style)
    return title
