"""Thresholds, repair and ensemble tuned together for the true score, on predictions for volumes that no network saw."""

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vesuvius_kit import __version__
from vesuvius_kit.checks import InputValueError, check_integer, make_folder, name_os_errors
from vesuvius_kit.config import changed_settings
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.constants import TUNED_FILE, TUNING_TRIALS
from vesuvius_kit.inference.hardware import count_cores
from vesuvius_kit.inference.results import read_digests
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.postprocess.pipeline import load_pipeline, try_pipeline
from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.crew import Crew
from vesuvius_kit.tuning.estimate import estimate_gain
from vesuvius_kit.tuning.findings import SLICE_VOLUMES, find_best_by_part, list_slices, rank_parameters
from vesuvius_kit.tuning.held_out import HeldOut, read_held_out
from vesuvius_kit.tuning.result import (
    FIGURES_FILE,
    PIPELINE_FILE,
    Tuning,
    names_networks,
    write_figures,
    write_settings,
)
from vesuvius_kit.tuning.search import JOURNAL, SCORES, Scoring, Search, complete_trials, count_finished
from vesuvius_kit.tuning.space import PIPELINE, Space, load_space

logger = logging.getLogger(__name__)

BASELINES = ("public", "sheet_repair")
"""What a tuned pipeline is compared with."""
SETTINGS_FILE = "settings.json"


def tune(
    predictions: Path | str | Sequence[Path | str],
    data: Path | str,
    output: Path | str = "tuning",
    *,
    space: Path | str | None = None,
    trials: int = TUNING_TRIALS,
    volumes_per_scroll: int | None = None,
    estimate: bool = True,
    processes: int | None = None,
    seed: int = 0,
    fresh: bool = False,
    progress: Progress = no_progress,
) -> Tuning:
    """Search pipelines, their parameters and the weights of an ensemble for the best mean score.

    Called again with the same output, it goes on where it was; called at the same time by several processes or machines that
    share the folder, these search together.

    Parameters
    ----------
    predictions
        Folders of `predict_out_of_fold`, or of probabilities by any program (``{id}.npy``, ``.npz``, ``.tif``), each of which
        is then one network. What predicted a volume must not have been trained on its scroll.
    data
        Competition folder, for labels and scrolls.
    output
        Folder, made if missing. It will hold ``pipeline.yaml`` and ``tuned.yaml``, which submission takes, and ``tuning.json``.
    space
        YAML file as ``default_space.yaml``, which is the default.
    trials
        Of each search.
    volumes_per_scroll
        Score on no more than so many, evenly spread; by default on all.
    estimate
        Search once more for each scroll without it, and measure on it: what the gain is on unknown scrolls. It takes as many
        searches as there are scrolls.
    processes
        By default one for each core.
    seed
        Of proposals and bootstrap.
    fresh
        Begin again instead of going on.

    Raises
    ------
    InputError
        Predictions without labels or of other shapes, an unreadable space, or a folder of another search.
    RunFailedError
        No trial could be scored.

    Examples
    --------
    >>> import tempfile, numpy as np, vesuvius_kit as vk
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = vk.write_competition(f"{folder}/data", train=2, test=0, deprecated=0, shape=24)
    ...     Path(folder, "probabilities").mkdir()
    ...     for chunk in vk.Competition(data).train:
    ...         label = vk.read_volume(chunk.label_path)
    ...         np.save(f"{folder}/probabilities/{chunk.id}.npy", (label == 1).astype(np.float16))
    ...     tuning = vk.tune(f"{folder}/probabilities", data, f"{folder}/tuning", trials=4, estimate=False, processes=1)
    ...     sorted(path.name for path in tuning.folder.glob("*.yaml"))
    ['pipeline.yaml', 'tuned.yaml']
    """
    started = time.monotonic()
    trials = check_integer("trials", trials, minimum=1)
    check_integer("seed", seed, minimum=0)
    processes = count_cores() if processes is None else check_integer("processes", processes, minimum=1)
    folders = [predictions] if isinstance(predictions, (str, Path)) else list(predictions)
    chosen_space = load_space(space)
    held_out = read_held_out(folders, data, volumes_per_scroll)
    groups = list(held_out.groups)
    folder = _open_folder(output, held_out, chosen_space, seed, fresh)
    crew = Crew(folder, held_out, chosen_space, seed, processes, progress)

    baselines = {name: Candidate.of(name, load_pipeline(name), dict.fromkeys(groups, 1.0)) for name in BASELINES}
    crew.score([Scoring(own, id_) for id_ in held_out.volumes for own in baselines.values()], "baselines")
    # Where pipelines differ most, a poor trial shows first.
    spread = {
        id_: float(np.std([crew.scores(candidate, [id_])[0].score for candidate in baselines.values()]))
        for id_ in held_out.volumes
    }
    order = sorted(held_out.volumes, key=lambda id_: -spread[id_])
    logger.info("%d volumes of %d scrolls, %d groups of networks", len(order), len(held_out.scrolls), len(groups))
    if len(groups) > max(1, len(held_out.weighed)):
        alone = [group for group in groups if group not in held_out.weighed]
        logger.info("weights of %s are not searched: no other group predicted the same volumes", ", ".join(alone))
    whole = Search("all", tuple(order), trials)
    left_out: dict[str, Search] = {}
    if estimate and len(held_out.scrolls) > 1:
        for scroll, ids in held_out.scrolls.items():
            left_out[scroll] = Search(f"without {scroll}", tuple(id_ for id_ in order if id_ not in ids), trials)
    crew.search([whole])
    study = crew.studies[whole.name]
    best = crew.best(whole)
    if left_out:
        # What follows takes longer than what was: whoever cannot wait has something by now.
        write_settings(folder, best, "tuned, its gain on unknown scrolls not yet known", held_out)
        crew.search(list(left_out.values()))

    ranked = complete_trials(study)
    optimum = chosen_space.on_grid(ranked[0].params, held_out.weighed)
    best = crew.best(whole)
    slices = {
        name: [(value, candidate) for value, candidate in points if _can_run(candidate)]
        for name, points in list_slices(chosen_space, optimum, groups, held_out.weighed).items()
    }
    left_out_best = {scroll: crew.best(search) for scroll, search in left_out.items()}
    # Some volumes are enough to see how flat the optimum is; nothing is given up here.
    sliced = order[:: max(1, math.ceil(len(order) / SLICE_VOLUMES))]
    tasks = [Scoring(candidate, id_) for points in slices.values() for _, candidate in points for id_ in sliced]
    tasks += [Scoring(best, id_) for id_ in order]
    tasks += [Scoring(own, id_) for scroll, own in left_out_best.items() for id_ in held_out.scrolls[scroll]]
    crew.score(tasks, "round the optimum")

    means = {name: crew.mean(candidate, order) for name, candidate in baselines.items()}
    reference = max(means, key=lambda name: means[name])
    found, cautions = None, list[str]()
    if left_out:
        pairs = {
            scroll: crew.compare(baselines[reference], own, held_out.scrolls[scroll])
            for scroll, own in left_out_best.items()
        }
        found = estimate_gain(reference, pairs, seed)
        cautions += found.cautions
    elif estimate:
        cautions.append("all volumes are of one scroll: nobody knows what the gain is on others")
    is_preset = found is not None and found.gain <= 0
    cautions += _caution_about_files(reference if is_preset else None, best, held_out)
    taken, what = (baselines[reference], "as it is") if is_preset else (best, "tuned")
    write_settings(folder, taken, f"{what}: {crew.mean(taken, order):.3f} on {len(order)} volumes", held_out)
    pipeline = str(optimum[PIPELINE])
    tuning = Tuning(
        folder=folder,
        pipeline=pipeline,
        score=crew.mean(best, order),
        settings=dict(optimum),
        baselines=means,
        is_preset=is_preset,
        estimate=found,
        cautions=cautions,
        importance=rank_parameters(study, chosen_space, pipeline, held_out.weighed),
        slices={
            name: [(value, crew.mean(candidate, sliced)) for value, candidate in points]
            for name, points in slices.items()
        },
        best_by_part=find_best_by_part(study, lambda values: chosen_space.candidate(values, groups).settings()),
        trials={"complete": len(ranked), "pruned": count_finished(study) - len(ranked)},
        seconds=crew.count_seconds(started),
    )
    volumes = {
        id_: {
            "scroll": volume.scroll,
            "baseline": crew.scores(baselines[reference], [id_])[0].parts(),
            "tuned": crew.scores(best, [id_])[0].parts(),
        }
        for id_, volume in held_out.volumes.items()
    }
    write_figures(tuning, best, volumes, [(trial.number, trial.value or 0.0) for trial in ranked])
    return tuning


def _caution_about_files(preset: str | None, best: Candidate, held_out: HeldOut) -> list[str]:
    """What submission will do otherwise than the figures of the search say."""
    if preset is not None:
        return [f"{PIPELINE_FILE} is {preset} as it is; --skip-estimate writes what the search found all the same"]
    if len(best.weights) > 1 and not names_networks(held_out):
        shares = ", ".join(f"{group} {share:.2f}" for group, share in best.weights)
        return [f"the score needs the weights {shares}, which {TUNED_FILE} cannot name: no folder says which networks"]
    return []


def _open_folder(output: Path | str, held_out: HeldOut, space: Space, seed: int, fresh: bool) -> Path:
    """Make the folder of a search, or open one and check that it is the same search."""
    folder = make_folder(output)
    noted = folder / SETTINGS_FILE
    sources = {f"label {id_}": volume.label_path for id_, volume in held_out.volumes.items()}
    for id_, volume in held_out.volumes.items():
        sources |= {f"{group} {id_}": path for group, path in volume.probability_paths.items()}
    settings = {
        "kit": __version__,
        "seed": seed,
        "space": space.to_dict(),
        "scrolls": {volume.id: volume.scroll for volume in held_out.volumes.values()},
        "files": read_digests(sources),
    }
    if not noted.exists() and (foreign := [path.name for path in _results_in(folder) if path.exists()]):
        raise InputValueError(
            f"output must be a folder of this command, got {folder} with a {foreign[0]} of somebody else's"
        )
    if fresh:
        for path in (*(folder / SCORES).glob("*.jsonl"), *folder.glob(f"{JOURNAL}*"), *_results_in(folder), noted):
            with name_os_errors(f"remove {path}"):
                path.unlink(missing_ok=True)
    elif noted.exists():
        try:
            before = json.loads(noted.read_text(encoding="utf-8"))
            changes = changed_settings(before, json.loads(json.dumps(settings)))
        except (ValueError, AttributeError, TypeError) as error:
            raise InputValueError(f"{noted} must be what this command wrote (or give --fresh), got {error}") from error
        if changes:
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise InputValueError(
                f"predictions, labels, scrolls, space and seed must be those of the search in {folder} (or give --fresh, or "
                f"another --output), got {'; '.join(changes[:3])}{more}"
            )
    with write_atomically(noted) as stream:
        json.dump(settings, stream, indent=1)
    return folder


def _results_in(folder: Path) -> list[Path]:
    return [folder / name for name in (PIPELINE_FILE, TUNED_FILE, FIGURES_FILE)]


def _can_run(candidate: Candidate) -> bool:
    """Whether the steps take their parameters; a range may reach beyond what a step takes."""
    try:
        try_pipeline(candidate.steps)
    except InputValueError as error:
        logger.info("%s is left out round the optimum: %s", candidate.pipeline, error)
        return False
    return True
