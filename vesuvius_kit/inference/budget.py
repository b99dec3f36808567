"""How long the network may work, so that what must be done is done when a time budget ends: rates are measured."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype
from vesuvius_kit.postprocess import simple_mask


class TimeBudget:
    """The volumes that have no result yet, and for how long the network may still work on them.

    Time is kept for the archive and, once it is calibrated, for a simple mask of each volume that is left.

    Parameters
    ----------
    waiting
        Ids of the volumes without a result.
    seconds
        The budget; None for no limit.
    started
        The reading of `time.monotonic` from which the budget counts; now by default.
    """

    def __init__(self, waiting: Sequence[str], seconds: float | None = None, started: float | None = None) -> None:
        self.left = list(waiting)
        """Ids of the volumes that have no result yet, in their order."""
        self._end: float | None = None
        if seconds is not None:
            # A hundredth of the budget, a minute at most, for the archive and for what was not foreseen.
            self._end = (time.monotonic() if started is None else started) + seconds - min(60.0, 0.01 * seconds)
        self._is_closed = False
        # Voxels by id, and seconds a voxel: of a simple mask, and of the way from a probability to a file.
        self._voxels = dict.fromkeys(waiting, 0)
        self._simple_rate = self._mask_rate = 0.0

    def calibrate(self, paths: Mapping[str, Path]) -> None:
        """Read the sizes of the volumes that are left, and the first of them to measure how long a simple mask takes.

        Without a budget nothing is read.
        """
        if self._end is None or not self.left:
            return
        self._voxels = {name: math.prod(volume_shape_and_dtype(paths[name])[0]) for name in self.left}
        first = read_volume(paths[self.left[0]])
        before = time.monotonic()
        simple_mask(first)
        self._simple_rate = self._mask_rate = 1.2 * (time.monotonic() - before) / first.size

    def seconds_left(self) -> float | None:
        """Return after how many seconds all work with the network must have ended, below 0 when it is late; None for never."""
        if self._end is None:
            return None
        return self._end - self._simple_rate * sum(self._voxels[name] for name in self.left) - time.monotonic()

    def seconds_for(self, name: str) -> float | None:
        """Return for how long the network may work on one of the volumes that are left; None without a budget."""
        if self._is_closed:
            return 0.0
        seconds = self.seconds_left()
        return None if seconds is None else max(0.0, seconds - self._mask_rate * self._voxels[name])

    def finish(self, name: str, rate: float) -> None:
        """Take a volume as done, and learn how many seconds a voxel took from its probability to its file."""
        self.left.remove(name)
        self._mask_rate = max(self._mask_rate, 1.2 * rate)

    def close(self) -> None:
        """Start no other volume."""
        self._is_closed = True


class EpochBudget:
    """Whether another epoch would end within a budget, by the longest one so far.

    Parameters
    ----------
    seconds
        The budget, counted from now; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._longest = 0.0

    def note_epoch(self, seconds: float) -> None:
        """Learn how long an epoch took, its checkpoint included."""
        self._longest = max(self._longest, seconds)

    def has_time(self) -> bool:
        """Return whether another epoch would end in time; the first is always tried while the budget lasts."""
        # A tenth more than any so far: an epoch that scores whole volumes may follow one that did not.
        return self._end is None or time.monotonic() + 1.1 * self._longest < self._end
