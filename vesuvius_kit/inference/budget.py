"""Whether another epoch would end within a time budget."""

import time


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
