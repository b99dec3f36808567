"""How long the network may work, so that what must be done is done when a time budget ends: rates are measured."""

import time

import numpy as np

from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype
from vesuvius_kit.postprocess import simple_mask


class TimeBudget:
    """What is left of a budget for volumes that wait, after what must be kept for simple masks, repair and the archive.

    Parameters
    ----------
    paths : dict of str to pathlib.Path
        Volumes by id.
    waiting : sequence of str
        Ids of those that have no result yet; the first is read to measure how long a simple mask takes.
    started : float
        The reading of `time.monotonic` from which the budget counts.
    seconds : float or None
        The budget; None for no limit.
    """

    def __init__(self, paths, waiting, started, seconds):
        self._end = None
        self._is_closed = False
        if seconds is None or not waiting:
            return
        # A hundredth of the budget, a minute at most, for the archive and for what was not foreseen.
        self._end = started + seconds - min(60.0, 0.01 * seconds)
        self._voxels = {name: int(np.prod(volume_shape_and_dtype(paths[name])[0])) for name in waiting}
        first = read_volume(paths[waiting[0]])
        before = time.monotonic()
        simple_mask(first)
        self._simple_rate = 1.2 * (time.monotonic() - before) / first.size
        self._mask_rate = self._simple_rate

    def seconds_left(self, left) -> float | None:
        """Return after how many seconds all work with the network must have ended.

        Parameters
        ----------
        left : sequence of str
            Ids that have no result yet, and may need a simple mask.

        Returns
        -------
        float or None
            None without a budget; below 0 when the time is over.
        """
        if self._end is None:
            return None
        simple = self._simple_rate * sum(self._voxels[name] for name in left)
        return self._end - simple - time.monotonic()

    def seconds_for(self, name, left) -> float | None:
        """Return for how long the network may work on a volume.

        Parameters
        ----------
        name : str
            Id of the volume, one of ``left``.
        left : sequence of str
            As in `seconds_left`.

        Returns
        -------
        float or None
            None without a budget; 0 when the time is over.
        """
        if self._is_closed:
            return 0.0
        seconds = self.seconds_left(left)
        return None if seconds is None else max(0.0, seconds - self._mask_rate * self._voxels[name])

    def note_mask_rate(self, rate: float) -> None:
        """Learn how long the way from a probability to a file takes, so that the next volume leaves room for it.

        Parameters
        ----------
        rate : float
            Seconds a voxel.
        """
        if self._end is not None:
            self._mask_rate = max(self._mask_rate, 1.2 * rate)

    def close(self) -> None:
        """Start no other volume."""
        self._is_closed = True


class EpochBudget:
    """Whether another epoch would end within a budget, by the longest one so far.

    Parameters
    ----------
    seconds : float or None
        The budget, counted from now; None for no limit.
    """

    def __init__(self, seconds):
        self._end = None if seconds is None else time.monotonic() + seconds
        self._longest = 0.0

    def note_epoch(self, seconds: float) -> None:
        """Learn how long an epoch took.

        Parameters
        ----------
        seconds : float
            Its checkpoint included.
        """
        self._longest = max(self._longest, seconds)

    def has_time(self) -> bool:
        """Return whether another epoch would end in time; the first is always tried while the budget lasts.

        Returns
        -------
        bool
        """
        # A tenth more than any so far: an epoch that scores whole volumes may follow one that did not.
        return self._end is None or time.monotonic() + 1.1 * self._longest < self._end
