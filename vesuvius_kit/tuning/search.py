"""The search: trials proposed by Optuna, scored volume by volume, given up when they look worse than the best.

A study is one search. Its trials lie in a journal, a file that any number of processes and machines add to; a trial that a
killed process had under way counts for nothing. Proposals: tree-structured Parzen estimators (Bergstra et al., "Algorithms for
Hyper-Parameter Optimization", NeurIPS 2011), of several dimensions at once; two of five lie beside the best so far. A trial is
given up when a signed-rank test (Wilcoxon 1945) over the volumes so far, four at least, finds it worse than the best at p < 0.1
and their mean agrees. Volumes on which pipelines differ most come first.
"""

import logging
import random
import secrets
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vesuvius_kit.checks import InputValueError, RunFailedError, one_line
from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.evaluation import Evaluator
from vesuvius_kit.tuning.held_out import HeldOut
from vesuvius_kit.tuning.score_log import PARTS, ScoreLog, VolumeScore
from vesuvius_kit.tuning.space import Space, Values

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

logger = logging.getLogger(__name__)

JOURNAL = "journal.log"
SCORES = "scores"
BATCH = 5
"""Trials of one task of a process."""
# A trial is worse than the best when chance alone would make it look so less often than this.
_P_WORSE = 0.1
_FIRST_SETTINGS = 12  # drawn at random, the same in every study, so that their scores are computed once
_PARTS, _CANDIDATE, _REPEAT = "parts", "candidate", "repeat"  # what is noted of a trial
_NEAR = 0.4  # share of proposals beside the best setting so far, which is where it can be made a little better
_FIXED = "fixed_params"  # Optuna's name for what was queued
_DRAWS = 50  # at random, after which a space counts as searched through


class Search(NamedTuple):
    """One search."""

    name: str
    volumes: tuple[str, ...]
    """Ids in the order in which a trial is scored on them."""
    trials: int
    """After which it is over."""


class Batch(NamedTuple):
    """A task of a process: some trials of a search."""

    search: Search
    number: int

    def __str__(self) -> str:
        return f"trials of {self.search.name}"


class Scoring(NamedTuple):
    """A task of a process: the score of a candidate on a volume."""

    candidate: Candidate
    volume: str

    def __str__(self) -> str:
        return f"{self.candidate.pipeline} on volume {self.volume}"


@dataclass
class SearchJob:
    """What a process does with its tasks; what it has read and computed stays with it."""

    folder: Path
    held_out: HeldOut
    space: Space
    cache_bytes: int
    seed: int
    worker: int = 0
    """Number of the process."""

    def __post_init__(self) -> None:
        self._evaluator: Evaluator | None = None
        self._storage: BaseStorage | None = None
        self._studies: dict[str, Study] = {}
        self._random = random.Random(f"{self.seed} {self.worker}")

    def __call__(self, task: Batch | Scoring, order: object = None) -> int:
        """Do a task; return the number of trials that were done for it."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self.held_out.volumes, ScoreLog(self.folder / SCORES), self.cache_bytes)
        if isinstance(task, Scoring):
            self._evaluator.score(task.candidate, task.volume)
            return 0
        return self._run_trials(task.search, self._evaluator)

    def _run_trials(self, search: Search, evaluator: Evaluator) -> int:
        if self._storage is None:
            self._storage = open_journal(self.folder)
        if search.name not in self._studies:
            self._studies[search.name] = _load_study(self._storage, search.name, [self.seed, self.worker])
        study = self._studies[search.name]
        for done in range(BATCH):
            if count_finished(study) >= search.trials:
                return done
            self._run_trial(study, search, evaluator)
        return BATCH

    def _run_trial(self, study: "Study", search: Search, evaluator: Evaluator) -> None:
        from optuna.trial import TrialState

        trial, candidate = self._propose(study)
        scores: list[VolumeScore] = []
        for step, volume in enumerate(search.volumes):
            try:
                scores.append(evaluator.score(candidate, volume))
            except InputValueError as error:
                logger.warning("trial %d of %s is left out: %s", trial.number, search.name, one_line(error))
                study.tell(trial, state=TrialState.FAIL)
                return
            trial.report(scores[-1].score, step)
            if step + 1 < len(search.volumes) and trial.should_prune():
                behind = _fall_behind(study.best_trial, scores)
                # The test counts ranks: what it finds worse may be better in the mean.
                if behind < 0:
                    study.tell(trial, _value_of(study.best_trial) + behind)
                    return
        trial.set_user_attr(
            _PARTS, {part: float(np.mean([getattr(score, part) for score in scores])) for part in PARTS}
        )
        study.tell(trial, float(np.mean([score.score for score in scores])))

    def _propose(self, study: "Study") -> "tuple[Trial, Candidate]":
        """A trial that was not tried before; once more what was, when chance finds nothing else."""
        from optuna.trial import TrialState

        groups, weighed = list(self.held_out.groups), self.held_out.weighed
        # What a killed process had under way was not tried.
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        tried = {other.user_attrs.get(_CANDIDATE) for other in finished}
        best = next(iter(valued_trials(study)[:1]), None) if len(tried) > _FIRST_SETTINGS else None
        if best is not None and self._random.random() < _NEAR and not _waiting(study):
            varied = self.space.vary(best.params, self._random, weighed)
            if self.space.candidate(varied, groups).digest not in tried:
                study.enqueue_trial(dict(varied))
        while True:
            with quietly():
                trial = study.ask()
                candidate = self.space.candidate(self.space.suggest(trial, weighed), groups)
            is_queued = _FIXED in study.get_trials(deepcopy=False)[trial.number].system_attrs
            other = self._draw_untried(tried) if candidate.digest in tried and not is_queued else None
            if candidate.digest not in tried or (other is None and not is_queued):
                trial.set_user_attr(_CANDIDATE, candidate.digest)
                return trial, candidate
            trial.set_user_attr(_REPEAT, True)
            study.tell(trial, state=TrialState.FAIL)
            if other is not None:
                # Optuna would propose the best setting of a small pipeline for ever; chance looks elsewhere.
                study.enqueue_trial(dict(other))

    def _draw_untried(self, tried: Collection[str | None]) -> Values | None:
        groups = list(self.held_out.groups)
        drawn = (self.space.draw(self._random, self.held_out.weighed) for _ in range(_DRAWS))
        return next((values for values in drawn if self.space.candidate(values, groups).digest not in tried), None)


def _waiting(study: "Study") -> bool:
    """Whether a trial lies ready that nobody has taken."""
    from optuna.trial import TrialState

    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def open_journal(folder: Path) -> "BaseStorage":
    """Open the file that holds the trials of all searches in a folder."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # Resolved: the backend's lock is a link to this very path, which a relative one would lead astray, and a lock that a kill
    # left would never be taken for what it is.
    path = (folder / JOURNAL).resolve()
    try:
        with quietly():
            return JournalStorage(JournalFileBackend(str(path)))
    except ValueError as error:
        raise InputValueError(f"{path} must be a search's journal (or give --fresh), got {one_line(error)}") from error


def open_study(storage: "BaseStorage", search: Search, space: Space, groups: Sequence[str], seed: int) -> "Study":
    """Make a search, or open it, and see to it that it begins with every pipeline as it is and some settings at random."""
    import optuna
    from optuna.trial import TrialState

    with quietly():
        study = optuna.create_study(storage=storage, study_name=search.name, direction="maximize", load_if_exists=True)
    rng = random.Random(seed)
    first: list[Values] = [space.defaults(pipeline, groups) for pipeline in space.branches]
    first += [space.draw(rng, groups) for _ in range(_FIRST_SETTINGS)]
    # What a killed process had under way counts as not begun.
    counted = (TrialState.WAITING, TrialState.COMPLETE, TrialState.FAIL)
    known = [trial.system_attrs.get(_FIXED, trial.params) for trial in study.get_trials(deepcopy=False, states=counted)]
    for values in first[: search.trials]:
        if dict(values) not in known:
            study.enqueue_trial(dict(values))
    return study


def count_finished(study: "Study") -> int:
    """Return the trials of a search that came to an end, each setting once."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=states)
    return sum(_REPEAT not in trial.user_attrs for trial in trials)


def valued_trials(study: "Study") -> "list[FrozenTrial]":
    """Return the trials whose mean score is known, or guessed since they were given up, best first."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: (-_value_of(trial), trial.number))


def complete_trials(study: "Study") -> "list[FrozenTrial]":
    """Return the trials that were scored on every volume, best first."""
    trials = [trial for trial in valued_trials(study) if _PARTS in trial.user_attrs]
    if not trials:
        raise RunFailedError(f"search {study.study_name} has no trial that could be scored on every volume")
    return trials


def parts_of(trial: "FrozenTrial") -> Mapping[str, float]:
    """Return the means of the score and its parts of a complete trial."""
    parts: Mapping[str, float] = trial.user_attrs[_PARTS]
    return parts


def _fall_behind(best: "FrozenTrial", scores: Sequence[VolumeScore]) -> float:
    """What a trial has less than the best on the same volumes, in the mean; negative.

    With it the mean over all volumes is guessed of a trial that is given up. Optuna would rank it by its last volume, which
    says little: volumes differ more than pipelines.
    """
    return float(np.mean([score.score - best.intermediate_values[step] for step, score in enumerate(scores)]))


def _value_of(trial: "FrozenTrial") -> float:
    assert trial.value is not None  # it is complete
    return trial.value


def _load_study(storage: "BaseStorage", name: str, seeds: Sequence[int]) -> "Study":
    import optuna
    from optuna.trial import TrialState

    with quietly():
        study = optuna.load_study(study_name=name, storage=storage)
        begun = any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
        # Who comes later must not propose once more what was proposed first.
        token: list[Any] = [*seeds, zlib.crc32(name.encode()), secrets.randbits(32) if begun else 0]
        study.sampler = optuna.samplers.TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=int(np.random.SeedSequence(token).generate_state(1)[0]),
        )
        study.pruner = optuna.pruners.WilcoxonPruner(p_threshold=_P_WORSE)
    return study


@contextmanager
def quietly() -> Iterator[None]:
    """Keep back what Optuna says of its newer parts, and of a study that was made."""
    import optuna

    talk = logging.getLogger("optuna")
    level = talk.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        talk.setLevel(logging.WARNING)
        try:
            yield
        finally:
            talk.setLevel(level)
