"""A candidate's score on a volume. What candidates share, the first steps of a pipeline, is computed once."""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.metrics import leaderboard_score
from vesuvius_kit.postprocess.pipeline import Carried, run_step, start_pipeline
from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.held_out import HeldOutVolume
from vesuvius_kit.tuning.score_log import ScoreLog, VolumeScore


class Evaluator:
    """Scores candidates; volumes, means and the results of steps stay in memory as long as there is room for them."""

    def __init__(self, volumes: Mapping[str, HeldOutVolume], log: ScoreLog, cache_bytes: int) -> None:
        self._volumes = volumes
        self._log = log
        # What is read has a room of its own, which results of steps do not take.
        self._read, self._made = _Cache(cache_bytes // 2), _Cache(cache_bytes // 2)

    def score(self, candidate: Candidate, volume: str) -> VolumeScore:
        """Return the score of a candidate on a volume, from the log where it has it.

        Raises
        ------
        InputValueError
            A step refuses its parameters.
        InputError
            A file that cannot be used.
        """
        if (known := self._log.get(candidate.digest, volume)) is not None:
            return known
        started = time.perf_counter()
        own = self._volumes[volume]
        label: NDArray[Any] = self._read.get(("label", volume), own.read_label)
        carried: Carried = self._made.get(
            ("mean", volume, candidate.weights), lambda: self._mean(own, candidate, label)
        )
        read = time.perf_counter()
        mask = self._repair(candidate, volume, carried)
        repaired = time.perf_counter()
        score = leaderboard_score(mask, label)
        made = VolumeScore.of(score, read - started, repaired - read, time.perf_counter() - repaired)
        self._log.add(candidate.digest, volume, made)
        return made

    def _mean(self, volume: HeldOutVolume, candidate: Candidate, label: NDArray[Any]) -> Carried:
        """The weighted mean of the groups that predicted a volume."""
        shares = {group: share for group, share in candidate.weights if group in volume.probability_paths}
        if not shares:
            # None of those that the candidate asks predicted this volume: all others count alike.
            shares = dict.fromkeys(volume.probability_paths, 1.0)
        total = sum(shares.values())
        mean: NDArray[np.float32] | None = None
        for group, share in shares.items():
            read = partial(volume.read_probability, group, label)
            probability: NDArray[np.float32] = self._read.get(("probability", volume.id, group), read)
            part = probability if len(shares) == 1 else probability * np.float32(share / total)
            mean = part if mean is None else mean + part
        assert mean is not None
        # A sum of shares may round to a little more than one.
        return start_pipeline(mean if len(shares) == 1 else np.minimum(mean, np.float32(1.0)))

    def _repair(self, candidate: Candidate, volume: str, carried: Carried) -> NDArray[np.bool_]:
        steps = candidate.steps
        keys = [("steps", volume, candidate.weights, json.dumps(steps[:number])) for number in range(1, len(steps) + 1)]
        done = max((number for number, key in enumerate(keys, 1) if key in self._made), default=0)
        for number, step in enumerate(steps[max(done - 1, 0) :], max(done, 1)):
            carried = self._made.get(keys[number - 1], partial(run_step, carried, step, number), carried)
        if carried.mask is None:
            raise InputValueError(f"pipeline {candidate.pipeline} must have a step that makes a mask, got none")
        return carried.mask


class _Cache:
    """Arrays by key up to a number of bytes; those that were not asked for longest make room."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[Any, ...], tuple[Any, int]] = OrderedDict()

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._entries

    def get(self, key: tuple[Any, ...], make: Callable[[], Any], before: Carried | None = None) -> Any:
        """Return the entry of a key, made where it is not there; arrays of ``before`` take no room of their own."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key][0]
        made = make()
        arrays = made if isinstance(made, Carried) else (made,)
        size = sum(
            array.nbytes for array in arrays if array is not None and not any(array is old for old in before or ())
        )
        if size <= self._most:
            self._entries[key] = made, size
            self._bytes += size
        while self._bytes > self._most:
            _, (_, dropped) = self._entries.popitem(last=False)
            self._bytes -= dropped
        return made
