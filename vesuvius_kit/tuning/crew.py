"""The processes of a search on this machine, and the scores that all processes everywhere have added to."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesuvius_kit.console import Progress
from vesuvius_kit.inference.hardware import count_cores, count_free_bytes
from vesuvius_kit.inference.workers import run_in_processes
from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.held_out import HeldOut
from vesuvius_kit.tuning.score_log import ScoreLog, VolumeScore
from vesuvius_kit.tuning.search import (
    BATCH,
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
from vesuvius_kit.tuning.space import Space

if TYPE_CHECKING:
    from optuna.study import Study

_FEW = 25  # scores
_CACHE_SHARE = 0.25  # of the free memory, for what trials share


class Crew:
    """Does the tasks of a search, in processes or in this one, and knows the scores."""

    def __init__(
        self, folder: Path, held_out: HeldOut, space: Space, seed: int, processes: int, progress: Progress
    ) -> None:
        self.studies: dict[str, Study] = {}
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
