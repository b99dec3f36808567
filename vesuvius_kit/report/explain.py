"""A run explained on one page: where its score came from, which sheets merged, which tunnels appeared, how it was trained."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

import vesuvius_kit
from vesuvius_kit.checks import InputValueError, check_output_file, make_folder
from vesuvius_kit.config import changed_settings
from vesuvius_kit.config.yaml_file import load_yaml
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.postprocess.pipeline import Step, choose_pipeline, load_pipeline, make_pipeline
from vesuvius_kit.report.html import SPACE_LIBRARY, pack_library, render_page
from vesuvius_kit.report.parts import Parts, Places, find_parts
from vesuvius_kit.report.scores import (
    COLUMNS,
    SOURCES,
    Predictions,
    ScoredVolume,
    average,
    average_scores,
    group_scores,
    read_beside,
    score_volumes,
)
from vesuvius_kit.report.submission import describe_submission
from vesuvius_kit.report.training import read_training
from vesuvius_kit.report.tuning import describe_tuning, list_volumes
from vesuvius_kit.report.viewer import PackedVolume, ViewedVolume, choose_shown, pack_volume

BASELINE = "public"
"""The pipeline that a run is compared with where it has probabilities."""
MAX_BYTES = 24_500_000
"""Of the page, but for its tables."""
MOST_SHOWN = 3
"""Volumes in the slice viewer, unless some are named."""
MAX_VOXELS = 2 * 320**3
"""Of the volumes in the slice viewer, but for the first."""
_ROOM = 1_500_000  # bytes for lists of errors, style and scripts


@dataclass(frozen=True)
class Explanation:
    """What a page tells of a run."""

    parts: Parts
    """What there is of it."""
    training: dict[str, dict[str, Any]]
    """By fold; see `read_training`."""
    scored: list[ScoredVolume]
    """The volumes with a label."""
    baseline: str
    """What they are compared with; empty for nothing."""
    shown: list[PackedVolume]
    """The volumes in the slice viewer."""
    repairs: dict[str, list[dict[str, Any]]]
    """What each step of the repair changed, by volume."""
    submission: dict[str, Any]
    """See `describe_submission`; empty for none."""
    tuning: dict[str, Any]
    """See `describe_tuning`; empty for none."""
    settings: dict[str, str]
    """Resolved settings as YAML, by where they were found."""
    missing: list[str]
    """What is not on the page, and what it would need, a line each."""


def write_report(
    path: Path | str,
    run: Path | str,
    other: Path | str | None = None,
    *,
    places: Places | None = None,
    volumes: Sequence[str] = (),
    pipeline: Path | str | None = None,
    figures: Path | str | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Write one HTML page that explains a run; it needs no network and opens from a file.

    Whatever the kit wrote is a run: a training's folder, a submission's, a demo's, a tuning's. What it does not hold is left
    out, with a line that says what would be needed.

    Parameters
    ----------
    path
        The page, replaced in one move. It is returned.
    run
        Folder of the run.
    other
        Folder of a run to compare it with.
    places
        Where parts lie that are not in the run's folder. Of the other run only data, images and labels count.
    volumes
        Ids of those to show slice by slice; by default the worst by score, three at most, as they fit.
    pipeline
        A preset or a YAML file that makes masks of the run's probabilities, in place of the masks that lie there; by default
        only where there are none, by the run's own pipeline.
    figures
        Folder for the page's figures as PNG; made if missing.
    progress
        Wraps what takes time.

    Raises
    ------
    InputError
        Nothing to report on, a log or volume that cannot be read, shapes that do not agree, a volume that is not there.

    Examples
    --------
    >>> import tempfile, numpy as np, vesuvius_kit as vk
    >>> from pathlib import Path
    >>> label = np.zeros((24, 24, 24), np.uint8)
    >>> label[:, 8] = label[:, 16] = 1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("masks", "labels"):
    ...         Path(folder, name).mkdir()
    ...         vk.write_volume(f"{folder}/{name}/7.tif", label)
    ...     page = vk.write_report(f"{folder}/report.html", folder)
    ...     "1.000" in page.read_text(encoding="utf-8")
    True
    """
    path = check_output_file("output", path)
    places = places or Places()
    first = find_parts(run, places)
    second = None
    if other is not None:
        shared = replace(places, masks=None, probabilities=None, tuning=None)
        second = find_parts(other, shared)
        # Chunks are the same chunks, wherever their labels lie.
        second = replace(second, images=first.images | second.images, labels=first.labels | second.labels)
        first = replace(first, labels=second.labels | first.labels, images=second.images | first.images)
    _check_volumes(first, volumes, must_be_labelled=places.labels is not None)
    explanation, compared = _explain(first, second, volumes, pipeline, progress)
    page, data, blobs = _lay_out(explanation, compared, second)
    text = render_page(page, data, blobs)
    with write_atomically(path) as stream:
        stream.write(text)
    if figures is not None:
        from vesuvius_kit.report.figures import write_figures

        write_figures(make_folder(figures), explanation)
    return path


def _check_volumes(parts: Parts, volumes: Sequence[str], *, must_be_labelled: bool) -> None:
    for id_ in volumes:
        if id_ not in parts.predicted:
            there = ", ".join(parts.predicted[:10]) or "none"
            raise InputValueError(f"volumes must have a mask or a probability, among {there}, got {id_}")
    asked = list(volumes) or ([] if parts.labels.keys() & set(parts.predicted) else parts.predicted[:1])
    for id_ in asked if must_be_labelled else ():
        if id_ not in parts.labels:
            raise InputValueError(f"volume {id_} must have a label, got none among {len(parts.labels)} labels")


def _explain(
    parts: Parts, other: Parts | None, volumes: Sequence[str], pipeline: Path | str | None, progress: Progress
) -> tuple[Explanation, dict[str, dict[str, Any]]]:
    """Gather all that the page tells, and the curves of the other run."""
    training = read_training(parts.folds)
    compared = read_training(other.folds) if other is not None else {}
    steps = load_pipeline(pipeline) if pipeline is not None else _choose_steps(parts)
    predictions = Predictions(parts, steps, remake=pipeline is not None)
    baseline, make_baseline = _choose_baseline(parts, other, steps)
    labelled = [id_ for id_ in parts.predicted if id_ in parts.labels]
    # One by one, so that the progress is that of the work.
    scored = [
        volume
        for id_ in progress(labelled, total=len(labelled), desc="score")
        for volume in score_volumes(parts, predictions, [id_], make_baseline)
    ]
    if not scored and parts.tuning:
        scored = list_volumes(parts.tuning)
        baseline = str((parts.tuning.get("estimate") or {}).get("baseline", "baseline"))
    elif all(volume.baseline is None for volume in scored):
        baseline = ""
    shown = _choose_volumes(parts, predictions, scored, volumes)
    room = MAX_BYTES - _ROOM - (len(pack_library()) if shown else 0)
    n_voxels = sum(int(np.prod(predictions.read(id_).shape)) for id_ in shown)
    packed, repairs = [], {}
    for id_ in progress(shown, total=len(shown), desc="slices"):
        mask = predictions.read(id_)
        probability = parts.read_probability(id_) if id_ in parts.probabilities else None
        if probability is not None and probability.shape != mask.shape:
            raise InputValueError(
                f"prediction and probability of volume {id_} must have the same shape, got {mask.shape} and "
                f"{probability.shape}"
            )
        viewed = ViewedVolume(
            id_,
            mask,
            read_beside("image", parts.images, id_, mask.shape),
            probability,
            read_beside("label", parts.labels, id_, mask.shape),
            parts.scrolls.get(id_, ""),
        )
        packed.append(pack_volume(viewed, room * mask.size // n_voxels))
        if probability is not None:
            repairs[id_] = predictions.changes(id_)
    explanation = Explanation(
        parts,
        training,
        scored,
        baseline,
        packed,
        repairs,
        describe_submission(parts.record) if parts.record else {},
        describe_tuning(parts.tuning) if parts.tuning else {},
        _collect_settings(parts),
        _list_missing(parts, scored, packed, baseline),
    )
    return explanation, compared


def _choose_steps(parts: Parts) -> list[Step]:
    """The run's own pipeline: that of its masks, the tuned one, the training's, or the default."""
    noted = (parts.settings.get("postprocess") or {}).get("pipeline")
    if noted:
        return make_pipeline(noted, "settings.json")
    if parts.tuned_pipeline is not None and parts.tuned_pipeline.is_file():
        return load_pipeline(parts.tuned_pipeline)
    for config in _read_configs(parts).values():
        section = config.get("postprocess")
        if isinstance(section, dict) and "pipeline" in section:
            return choose_pipeline(section["pipeline"], section.get("steps"))
    return choose_pipeline()


def _choose_baseline(
    parts: Parts, other: Parts | None, steps: Sequence[Step]
) -> tuple[str, Callable[[str], NDArray[np.bool_] | None]]:
    """What the run is compared with, and what gives its mask of a volume."""
    if other is not None:
        predictions = Predictions(other, _choose_steps(other))
        return other.folder.name, lambda id_: predictions.make(id_) if id_ in other.predicted else None
    plain = load_pipeline(BASELINE)
    if not parts.probabilities or list(steps) == plain:
        return "", lambda _: None
    simple = Predictions(replace(parts, masks={}), plain)
    return BASELINE, lambda id_: simple.make(id_) if id_ in parts.probabilities else None


def _choose_volumes(
    parts: Parts, predictions: Predictions, scored: Sequence[ScoredVolume], volumes: Sequence[str]
) -> list[str]:
    if volumes:
        return list(dict.fromkeys(volumes))
    worst_first = sorted(scored, key=lambda volume: volume.score["score"])
    by_source = [[volume.id for volume in worst_first if volume.source == source] for source in SOURCES]
    # The worst of each source in turn.
    mixed = [id_ for row in zip_longest(*by_source) for id_ in row if id_ is not None]
    order = [id_ for id_ in mixed if id_ in parts.predicted] or parts.predicted
    # Masks are read here one after the other; only those at the front are looked at.
    shapes = [(id_, predictions.read(id_).shape) for id_ in order[:MOST_SHOWN]]
    return list(choose_shown(shapes, MOST_SHOWN, MAX_VOXELS))


def _read_configs(parts: Parts) -> dict[str, dict[str, Any]]:
    """Resolved settings of the folds, by the file's place in the run's folder."""
    found = {}
    for folder in parts.folds.values():
        for place in (folder / "last" / "config.yaml", folder / "best" / "config.yaml"):
            if place.is_file():
                config = load_yaml(place)
                if not isinstance(config, dict):
                    raise InputValueError(f"{place} must hold settings by section, got {type(config).__name__}")
                found[_name(place, parts.folder)] = config
                break
    return found


def _collect_settings(parts: Parts) -> dict[str, str]:
    found = {name: _to_yaml(config) for name, config in _read_configs(parts).items()}
    # Folds differ in their number alone.
    distinct = {text: name for name, text in reversed(found.items())}
    settings = {name: text for text, name in reversed(distinct.items())}
    if parts.settings:
        kept = {name: value for name, value in parts.settings.items() if name != "sources"}
        settings["settings.json, beside the results"] = _to_yaml(kept)
    if parts.tuned_pipeline is not None and parts.tuned_pipeline.is_file():
        settings["pipeline.yaml, tuned"] = parts.tuned_pipeline.read_text(encoding="utf-8")
    return settings


def _to_yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _list_missing(
    parts: Parts, scored: Sequence[ScoredVolume], packed: Sequence[PackedVolume], baseline: str
) -> list[str]:
    """What the page leaves out, and what it would need, a line each."""
    lines = []
    if not parts.folds:
        lines.append("Training curves: a run's folder, with fold_0/log.jsonl and so on.")
    if not parts.predicted:
        lines.append(
            "Scores, slices, sheets: masks (--masks) or probabilities (--probabilities), with --data or --labels."
        )
    elif not any(id_ in parts.labels for id_ in parts.predicted):
        lines.append("Scores and errors: labels of the predicted volumes (--labels or --data).")
    else:
        without = [id_ for id_ in parts.predicted if id_ not in parts.labels]
        if without:
            shown = ", ".join(without[:5]) + (" ..." if len(without) > 5 else "")
            lines.append(f"Scores of volumes without a label: {shown}.")
    if packed and not any("image" in volume.blobs for volume in packed):
        lines.append("The image behind the slices: --images or --data.")
    if packed and not parts.probabilities:
        lines.append(
            "Probability, what each repair step changed, and the baseline: probabilities (vesuvius-kit predict, then "
            "--probabilities)."
        )
    for volume in packed:
        for name in volume.left_out:
            lines.append(
                f"The layer {name} of volume {volume.facts['id']}: it is too large for the page; show fewer volumes."
            )
    if scored and not baseline and parts.probabilities:
        lines.append(f"A baseline: this run is the pipeline {BASELINE} itself; name another run after it.")
    if not parts.record:
        lines.append("Timing and plan: run.json, which submit leaves beside its masks.")
    if not parts.tuning:
        lines.append("Tuning: tuning.json, which vesuvius-kit tune writes (--tuning).")
    return lines


def _lay_out(
    explanation: Explanation, compared: Mapping[str, Any], other: Parts | None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """What the template shows, what the scripts read, and the packed layers."""
    parts, scored = explanation.parts, explanation.scored
    blobs = {
        f"blob-{number}-{layer}": text
        for number, volume in enumerate(explanation.shown)
        for layer, text in volume.blobs.items()
    }
    if explanation.shown:
        blobs[SPACE_LIBRARY] = pack_library()
    names = [_title(parts), _title(other) if other is not None else ""]
    page = {
        "title": names[0],
        "places": [str(each.folder) for each in (parts, other) if each is not None],
        "made": f"vesuvius-kit {vesuvius_kit.__version__}, {time.strftime('%Y-%m-%d %H:%M')}",
        "other": names[1],
        "cards": _make_cards(explanation),
        "missing": explanation.missing,
        "training": explanation.training,
        "compared": compared,
        "columns": COLUMNS,
        "groups": group_scores(scored),
        "scroll_rows": average_scores(scored) if len({row.source for row in scored}) == 1 else [],
        "baseline": explanation.baseline,
        "volumes": [volume.facts for volume in explanation.shown],
        "repairs": explanation.repairs,
        "submission": explanation.submission,
        "tuning": explanation.tuning,
        "summary": _list_summary(parts.summary),
        "stages": parts.stages,
        "settings": explanation.settings,
        "differences": _list_differences(parts, other),
    }
    data = {
        "names": names,
        "training": explanation.training,
        "compared": dict(compared),
        "volumes": [volume.facts for volume in explanation.shown],
        "tuning": {key: explanation.tuning[key] for key in ("slices", "history", "optimum")}
        if explanation.tuning
        else {},
    }
    return page, data, blobs


def _title(parts: Parts) -> str:
    return parts.folder.resolve().name or str(parts.folder)


def _make_cards(explanation: Explanation) -> list[dict[str, str]]:
    """The headline figures: what it is, the figure, and what to know about it."""
    cards = []
    # The run's masks where there are some; what was made of probabilities is told below them.
    source = next((source for source in SOURCES for row in explanation.scored if row.source == source), "")
    rows = [row for row in explanation.scored if row.source == source]
    if rows:
        mean, n = average("mean", "", rows), len(rows)
        note = f"mean of {n} volume{'s' * (n > 1)}"
        if mean.baseline is not None:
            difference = mean.score["score"] - mean.baseline["score"]
            note += f", {difference:+.3f} against {explanation.baseline}"
        cards.append({"name": "Score", "value": f"{mean.score['score']:.3f}", "note": f"{note}: {_tell_parts(mean)}"})
        if n > 1:
            worst = min(rows, key=lambda row: row.score["score"])
            note = f"{worst.id}: {_tell_parts(worst)}"
            cards.append({"name": "Worst volume", "value": f"{worst.score['score']:.3f}", "note": note})
    folds = explanation.training
    best = [(fold["best_score"], name, fold["best_score_epoch"]) for name, fold in folds.items() if fold["best_score"]]
    if best:
        score, name, epoch = max(best)
        cards.append({"name": "Best validation score", "value": f"{score:.3f}", "note": f"{name}, epoch {epoch}"})
    if folds:
        verdicts = sorted({fold["verdict"] for fold in folds.values()})
        epochs = sum(fold["epochs"] for fold in folds.values())
        note = f"{epochs} epochs" + (f" in {len(folds)} folds" if len(folds) > 1 else "")
        cards.append({"name": "Training", "value": ", ".join(verdicts), "note": note})
    if explanation.tuning:
        estimate = explanation.tuning["estimate"]
        if estimate["gain"] is not None:
            interval = f"{estimate['low']:+.3f} to {estimate['high']:+.3f} at {100 * (estimate['level'] or 0):.0f} %"
            note = f"over {estimate['baseline']} on scrolls not searched, {interval}"
            cards.append({"name": "Tuning", "value": f"{estimate['gain']:+.3f}", "note": note})
    for volume in explanation.shown[:1]:
        if volume.unmatched is not None and volume.sheets is not None:
            merged = sum(seam.kind == "merged" for seam in volume.sheets.seams)
            split = sum(seam.kind == "split" for seam in volume.sheets.seams)
            tunnels = volume.unmatched.counts["prediction"]["tunnel"]
            note = f"in volume {volume.facts['id']}; places where sheets merged: {merged}, split: {split}"
            cards.append({"name": "Tunnels too many", "value": str(tunnels), "note": note})
    return cards


def _tell_parts(row: ScoredVolume) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {row.score[name]:.3f}" for name in COLUMNS[1:])


def _list_summary(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The methods that a demo compares."""
    rows = summary.get("rows", [])
    wanted = ("method", "scroll", "id", *COLUMNS)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= {*wanted} for row in rows):
        raise InputValueError(f"summary.json must hold rows with {', '.join(wanted)}, got others")
    return [{name: row[name] for name in wanted} for row in rows]


def _list_differences(parts: Parts, other: Parts | None) -> list[str]:
    """The settings in which two runs differ."""
    if other is None:
        return []
    pairs = [next(iter(_read_configs(each).values()), None) for each in (other, parts)]
    return changed_settings(pairs[0], pairs[1]) if pairs[0] is not None and pairs[1] is not None else []
