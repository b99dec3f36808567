"""Thresholds, repair and ensemble tuned together for the true score, on predictions for volumes that no network saw."""

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vesuvius_kit import __version__
from vesuvius_kit.checks import InputValueError, check_integer, make_folder, name_os_errors
from vesuvius_kit.config import changed_settings
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.constants import TUNED_FILE, TUNING_TRIALS
from vesuvius_kit.inference.hardware import count_cores, count_free_bytes
from vesuvius_kit.inference.results import read_digests
from vesuvius_kit.inference.workers import run_in_processes
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.postprocess.pipeline import load_pipeline, try_pipeline
from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.estimate import Estimate, estimate_gain
from vesuvius_kit.tuning.findings import (
    SLICE_VOLUMES,
    find_best_by_part,
    find_flat,
    list_slices,
    rank_parameters,
    short_name,
)
from vesuvius_kit.tuning.held_out import HeldOut, read_held_out
from vesuvius_kit.tuning.score_log import PARTS, ScoreLog, VolumeScore
from vesuvius_kit.tuning.search import (
    BATCH,
    JOURNAL,
    SCORES,
    Batch,
    Scoring,
    Search,
    SearchJob,
    complete_trials,
    count_finished,
    open_journal,
    open_study,
)
from vesuvius_kit.tuning.space import PIPELINE, Space, load_space

logger = logging.getLogger(__name__)

BASELINES = ("public", "sheet_repair")
"""What a tuned pipeline is compared with."""
PIPELINE_FILE, FIGURES_FILE, SETTINGS_FILE = "pipeline.yaml", "tuning.json", "settings.json"
_FEW = 25  # scores
_CACHE_SHARE = 0.25  # of the free memory, for what trials share


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
        lines.append(f"  {'parameter':<{width}}{'value':>10}  {'flat from':>10}{'to':>10}{'share':>8}{'worst':>8}")
        for name, value in self.settings.items():
            if name not in self.slices:
                continue
            least, greatest = find_flat(self.slices[name], value)
            worst = min(score for _, score in self.slices[name])
            share = f"{self.importance[name]:.0%}" if name in self.importance else "-"
            lines.append(
                f"  {short_name(name, self.pipeline):<{width}}{_show(value):>10}  {_show(least):>10}{_show(greatest):>10}"
                f"{share:>8}{worst:>8.3f}"
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
    run = _Run(folder, held_out, chosen_space, seed, processes, progress)

    baselines = {name: Candidate.of(name, load_pipeline(name), dict.fromkeys(groups, 1.0)) for name in BASELINES}
    run.score([Scoring(own, id_) for id_ in held_out.volumes for own in baselines.values()], "baselines")
    # Where pipelines differ most, a poor trial shows first.
    spread = {
        id_: float(np.std([run.scores(candidate, [id_])[0].score for candidate in baselines.values()]))
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
    run.search([whole, *left_out.values()])

    study = run.studies[whole.name]
    ranked = complete_trials(study)
    best = chosen_space.candidate(ranked[0].params, groups)
    slices = {
        name: [(value, candidate) for value, candidate in points if _can_run(candidate)]
        for name, points in list_slices(chosen_space, ranked[0].params, groups, held_out.weighed).items()
    }
    left_out_best = {scroll: run.best(search) for scroll, search in left_out.items()}
    # Some volumes are enough to see how flat the optimum is; nothing is given up here.
    sliced = order[:: max(1, math.ceil(len(order) / SLICE_VOLUMES))]
    tasks = [Scoring(candidate, id_) for points in slices.values() for _, candidate in points for id_ in sliced]
    tasks += [Scoring(best, id_) for id_ in order]
    tasks += [Scoring(own, id_) for scroll, own in left_out_best.items() for id_ in held_out.scrolls[scroll]]
    run.score(tasks, "round the optimum")
    means = {name: run.mean(candidate, order) for name, candidate in baselines.items()}
    reference = max(means, key=lambda name: means[name])
    found, cautions = None, list[str]()
    if left_out:
        pairs = {
            scroll: run.compare(baselines[reference], own, held_out.scrolls[scroll])
            for scroll, own in left_out_best.items()
        }
        found = estimate_gain(reference, pairs, seed)
        cautions = list(found.cautions)
    elif estimate:
        cautions = ["all volumes are of one scroll: nobody knows what the gain is on others"]
    if is_preset := found is not None and found.gain <= 0:
        cautions.append(
            f"{PIPELINE_FILE} is {reference} as it is; --skip-estimate writes what the search found all the same"
        )
    if len(best.weights) > 1 and not _names_networks(held_out) and not is_preset:
        shares = ", ".join(f"{group} {share:.2f}" for group, share in best.weights)
        cautions.append(
            f"the score needs the weights {shares}, which {TUNED_FILE} cannot name: no folder says which networks"
        )
    pipeline = str(ranked[0].params[PIPELINE])
    tuning = Tuning(
        folder,
        pipeline,
        run.mean(best, order),
        dict(ranked[0].params),
        means,
        is_preset,
        found,
        cautions,
        rank_parameters(study, chosen_space, pipeline, held_out.weighed),
        {
            name: [(value, run.mean(candidate, sliced)) for value, candidate in points]
            for name, points in slices.items()
        },
        find_best_by_part(study, lambda values: chosen_space.candidate(values, groups).settings()),
        {"complete": len(ranked), "pruned": count_finished(study) - len(ranked)},
        run.count_seconds(started),
    )
    _write(tuning, best, baselines[reference], held_out, run, [[trial.number, trial.value] for trial in ranked])
    return tuning


class _Run:
    """A search with its processes and its scores."""

    def __init__(
        self, folder: Path, held_out: HeldOut, space: Space, seed: int, processes: int, progress: Progress
    ) -> None:
        self.studies: dict[str, Any] = {}
        self._log = ScoreLog(folder / SCORES)
        self._progress = progress
        self._folder, self._space, self._seed = folder, space, seed
        self._groups, self._weighed = list(held_out.groups), held_out.weighed
        room = int(count_free_bytes() * _CACHE_SHARE / processes)
        self._jobs = [SearchJob(folder, held_out, space, room, seed, worker) for worker in range(processes)]
        self._own = SearchJob(folder, held_out, space, room, seed)
        self._threads = max(1, count_cores() // processes)

    def score(self, tasks: Iterable[Scoring], what: str) -> None:
        """See to it that some scores are in the log."""
        missing = {task: None for task in tasks if self._log.get(task.candidate.digest, task.volume) is None}
        self._do(list(missing), what)

    def search(self, searches: Sequence[Search]) -> None:
        """Run some searches to their ends, one after the other."""
        storage = open_journal(self._folder)
        tasks: list[Batch] = []
        for search in searches:
            study = open_study(storage, search, self._space, self._weighed, self._seed)
            self.studies[search.name] = study
            missing = max(0, search.trials - count_finished(study))
            tasks += [Batch(search, number) for number in range(math.ceil(missing / BATCH))]
        self._do(tasks, f"search, {BATCH} trials each")

    def best(self, search: Search) -> Candidate:
        """Return the candidate of a search's best trial."""
        return self._space.candidate(complete_trials(self.studies[search.name])[0].params, self._groups)

    def scores(self, candidate: Candidate, volumes: Sequence[str]) -> list[VolumeScore]:
        """Return scores that are in the log."""
        found = [self._log.get(candidate.digest, volume) for volume in volumes]
        assert all(score is not None for score in found)
        return [score for score in found if score is not None]

    def mean(self, candidate: Candidate, volumes: Sequence[str]) -> float:
        """Return a mean of scores that are in the log."""
        return float(np.mean([score.score for score in self.scores(candidate, volumes)]))

    def compare(self, baseline: Candidate, tuned: Candidate, volumes: Sequence[str]) -> list[tuple[float, float]]:
        """Return pairs of scores that are in the log, for each volume."""
        both = zip(self.scores(baseline, volumes), self.scores(tuned, volumes), strict=True)
        return [(base.score, own.score) for base, own in both]

    def count_seconds(self, started: float) -> dict[str, float]:
        """Return what this call took, and the three parts of every score in the log."""
        scores = self._log.all().values()
        return {
            "wall": round(time.monotonic() - started, 1),
            **{
                part: round(sum(getattr(s, f"seconds_{part}") for s in scores), 1)
                for part in ("read", "repair", "score")
            },
        }

    def _do(self, tasks: Sequence[Batch | Scoring], what: str) -> None:
        if not tasks:
            return
        for _ in self._progress(self._results(tasks), total=len(tasks), desc=what):
            pass

    def _results(self, tasks: Sequence[Batch | Scoring]) -> Iterator[Any]:
        # To start processes takes seconds, for which a few scores are not worth it: a score has threads of its own.
        few = len(tasks) < _FEW and isinstance(tasks[0], Scoring)
        if few or len(self._jobs) == 1:
            yield from map(self._own, tasks)
            return
        with closing(run_in_processes(self._jobs, tasks, threads=self._threads)) as results:
            yield from results


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


def _write(
    tuning: Tuning, best: Candidate, baseline: Candidate, held_out: HeldOut, run: _Run, history: list[list[Any]]
) -> None:
    """Write what submission takes, and the figures."""
    taken = baseline if tuning.is_preset else best
    what = "as it is" if tuning.is_preset else "tuned"
    score = run.mean(taken, list(held_out.volumes))
    head = f"# {taken.pipeline}, {what}: {score:.3f} on {len(held_out.volumes)} volumes.\n"
    steps = [
        f"- {name}: {yaml.safe_dump(own, default_flow_style=True, width=1000).strip()}" for name, own in taken.steps
    ]
    with write_atomically(tuning.folder / PIPELINE_FILE) as stream:
        stream.write(head + "\n".join(steps) + "\n")
    weights = _weights_of_networks(taken, held_out)
    with write_atomically(tuning.folder / TUNED_FILE) as stream:
        if weights:
            # Quoted: of a digest such as 12e4 YAML would make a number.
            entries = "".join(f'    "{digest}": {weight}\n' for digest, weight in weights.items())
            stream.write(f"predict:\n  weights:\n{entries}")
        stream.write(f"postprocess:\n  pipeline: {PIPELINE_FILE}\n")
    figures = {
        "format": 1,
        "metric": PARTS[0],
        "tuned": {"score": tuning.score, "settings": best.settings()},
        "is_preset": tuning.is_preset,
        "baselines": tuning.baselines,
        "estimate": None if tuning.estimate is None else asdict(tuning.estimate),
        "cautions": tuning.cautions,
        "volumes": {
            id_: {
                "scroll": volume.scroll,
                "baseline": run.scores(baseline, [id_])[0].parts(),
                "tuned": run.scores(best, [id_])[0].parts(),
            }
            for id_, volume in held_out.volumes.items()
        },
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


def _weights_of_networks(best: Candidate, held_out: HeldOut) -> dict[str, float]:
    """The weight of each network by its digest, where folders of several groups say which networks they are of."""
    if not _names_networks(held_out):
        return {}
    shares = dict(best.weights)
    return {
        digest: round(shares.get(group, 0.0) / len(digests), 6)
        for group, digests in held_out.groups.items()
        for digest in digests
    }


def _names_networks(held_out: HeldOut) -> bool:
    """Whether there are several groups, and all of them say which networks they are of."""
    return len(held_out.groups) > 1 and all(held_out.groups.values())


def _can_run(candidate: Candidate) -> bool:
    """Whether the steps take their parameters; a range may reach beyond what a step takes."""
    try:
        try_pipeline(candidate.steps)
    except InputValueError as error:
        logger.info("%s is left out round the optimum: %s", candidate.pipeline, error)
        return False
    return True


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
