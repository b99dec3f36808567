"""What comes out of a search: what submission takes, the figures for a report, the text for a person."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from vesuvius_kit.constants import TUNED_FILE
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.estimate import Estimate
from vesuvius_kit.tuning.findings import find_flat, short_name
from vesuvius_kit.tuning.held_out import HeldOut
from vesuvius_kit.tuning.score_log import PARTS

PIPELINE_FILE, FIGURES_FILE = "pipeline.yaml", "tuning.json"


@dataclass(frozen=True)
class Tuning:
    """What a search found, and what it is worth."""

    folder: Path
    """Holds ``pipeline.yaml``, ``tuned.yaml`` and ``tuning.json``."""
    pipeline: str
    """Name of the pipeline whose steps were tuned."""
    score: float
    """Mean score of the tuned pipeline on the volumes of the search."""
    settings: dict[str, Any]
    """The parameters that were searched, as they were chosen."""
    baselines: dict[str, float]
    """Mean score of each preset it is compared with."""
    is_preset: bool
    """Whether ``pipeline.yaml`` is the better preset as it is, since what the search finds gains nothing on unknown scrolls."""
    estimate: Estimate | None
    """The gain on scrolls that the search did not see; None when it was not asked for, or with a single scroll."""
    cautions: list[str]
    """What speaks against relying on the gain."""
    importance: dict[str, float]
    """Share of each parameter in what tells good trials from others."""
    slices: dict[str, list[tuple[Any, float]]]
    """Mean score by value of each parameter, all others at the optimum."""
    best_by_part: list[dict[str, Any]]
    """The best trial by the score and by each of its parts."""
    trials: dict[str, int]
    """How many were scored on every volume (``complete``) and given up before (``pruned``)."""
    seconds: dict[str, float]
    """Wall time of this call, and what reading, repair and score took in all processes."""

    def to_text(self) -> str:
        """Return what the command prints."""
        lines = ["mean score on the volumes of the search"]
        lines += [f"  {name:<16}{score:.3f}" for name, score in self.baselines.items()]
        lines += [f"  {'tuned':<16}{self.score:.3f}   ({self.pipeline}, its parameters below)", ""]
        if self.estimate is not None:
            own = self.estimate
            lines.append(
                f"on scrolls that the search did not see, over {own.baseline}: {own.gain:+.3f}"
                f" ({own.low:+.3f} to {own.high:+.3f}, {own.level:.0%})"
            )
            lines += [
                f"  {scroll:<16}{gain.baseline:.3f} to {gain.tuned:.3f}   ({gain.volumes} volumes)"
                for scroll, gain in own.scrolls.items()
            ]
            lines.append("")
        lines += [f"caution: {caution}" for caution in self.cautions] + [""] * bool(self.cautions)
        width = max((len(short_name(name, self.pipeline)) for name in self.settings), default=0) + 2
        lines.append(f"  {'parameter':<{width}}{'value':>10}  {'flat from':>10}{'to':>10}{'share':>8}{'costs':>8}")
        for name, value in self.settings.items():
            if name not in self.slices:
                continue
            least, greatest = find_flat(self.slices[name], value)
            # What the worst value costs, on the volumes of the slice.
            scores = dict(self.slices[name])
            cost = scores[value] - min(scores.values())
            share = f"{self.importance[name]:.0%}" if name in self.importance else "-"
            lines.append(
                f"  {short_name(name, self.pipeline):<{width}}{_show(value):>10}  {_show(least):>10}{_show(greatest):>10}"
                f"{share:>8}{cost:>8.3f}"
            )
        lines += ["", "  best by         score    topo    dice     voi"]
        for row in self.best_by_part:
            lines.append(f"  {row['part']:<14}" + "".join(f"{row[part]:>7.3f} " for part in PARTS))
        spent = self.seconds
        lines += [
            "",
            f"{self.trials['complete']} trials complete, {self.trials['pruned']} given up or refused by a step; "
            f"{spent['wall']:.0f} s, and in all processes since the search began: reading {spent['read']:.0f} s, "
            f"repair {spent['repair']:.0f} s, score {spent['score']:.0f} s",
            f"vesuvius-kit submit --tuned {self.folder} takes {self.folder / PIPELINE_FILE}",
        ]
        return "\n".join(lines)


def write_settings(folder: Path, taken: Candidate, what: str, held_out: HeldOut) -> None:
    """Write ``pipeline.yaml`` and ``tuned.yaml``, which submission takes; ``what`` says in the first line what they are."""
    steps = [
        f"- {name}: {yaml.safe_dump(own, default_flow_style=True, width=1000).strip()}" for name, own in taken.steps
    ]
    with write_atomically(folder / PIPELINE_FILE) as stream:
        stream.write(f"# {taken.pipeline}, {what}.\n" + "\n".join(steps) + "\n")
    weights = _weights_of_networks(taken, held_out)
    with write_atomically(folder / TUNED_FILE) as stream:
        if weights:
            # Quoted: of a digest such as 12e4 YAML would make a number.
            entries = "".join(f'    "{digest}": {weight}\n' for digest, weight in weights.items())
            stream.write(f"predict:\n  weights:\n{entries}")
        stream.write(f"postprocess:\n  pipeline: {PIPELINE_FILE}\n")


def write_figures(
    tuning: Tuning, best: Candidate, volumes: dict[str, dict[str, Any]], history: list[tuple[int, float]]
) -> None:
    """Write ``tuning.json``: scores by volume, and by trial, beside what `Tuning` holds."""
    figures = {
        "format": 1,
        "metric": PARTS[0],
        "tuned": {"score": tuning.score, "settings": best.settings()},
        "is_preset": tuning.is_preset,
        "baselines": tuning.baselines,
        "estimate": None if tuning.estimate is None else asdict(tuning.estimate),
        "cautions": tuning.cautions,
        "volumes": volumes,
        "optimum": tuning.settings,
        "importance": tuning.importance,
        "slices": tuning.slices,
        "best_by_part": tuning.best_by_part,
        "trials": tuning.trials,
        "history": sorted(history),
        "seconds": tuning.seconds,
    }
    with write_atomically(tuning.folder / FIGURES_FILE) as stream:
        json.dump(figures, stream, indent=1)


def names_networks(held_out: HeldOut) -> bool:
    """Return whether there are several groups, and all of them say which networks they are of."""
    return len(held_out.groups) > 1 and all(held_out.groups.values())


def _weights_of_networks(best: Candidate, held_out: HeldOut) -> dict[str, float]:
    """The weight of each network by its digest, where folders of several groups say which networks they are of."""
    if not names_networks(held_out):
        return {}
    shares = dict(best.weights)
    return {
        digest: round(shares.get(group, 0.0) / len(digests), 6)
        for group, digests in held_out.groups.items()
        for digest in digests
    }


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
