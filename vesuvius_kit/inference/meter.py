"""What a run measures while it works: seconds a window of each network, seconds a voxel of everything else."""

from typing import Literal

Stage = Literal["decode", "repair", "simple", "closing"]
"""A volume from file to array, a probability to a written mask, a volume to a mask without a network, a mask into the archive
with its check."""

# What was measured earlier counts for so much less with every measurement that follows.
_DECAY = 0.5


class _Rate:
    """Seconds a unit, the newest measurements counting most."""

    def __init__(self) -> None:
        self.seconds = self.units = 0.0

    def note(self, units: float, seconds: float) -> None:
        self.seconds = _DECAY * self.seconds + seconds
        self.units = _DECAY * self.units + units

    @property
    def value(self) -> float | None:
        return self.seconds / self.units if self.units > 0 else None


class Meter:
    """Rates of work as they were measured so far; what was not measured yet is guessed from what was, or free."""

    def __init__(self) -> None:
        self._windows: dict[int, _Rate] = {}
        self._voxels: dict[Stage, _Rate] = {}

    def note_network(self, number: int, n_windows: float, seconds: float) -> None:
        """Learn how long a network, by its number, took for so many windows, each view of a window counted."""
        if n_windows > 0:
            self._windows.setdefault(number, _Rate()).note(n_windows, seconds)

    def note_stage(self, stage: Stage, n_voxels: int, seconds: float) -> None:
        """Learn how long a stage took for a volume of so many voxels."""
        if n_voxels > 0:
            self._voxels.setdefault(stage, _Rate()).note(n_voxels, seconds)

    def seconds_a_window(self, number: int) -> float:
        """Return the seconds of one view of one window; of a network that was never timed, those of the slowest that was."""
        known = [rate.value for rate in self._windows.values() if rate.value is not None]
        own = self._windows[number].value if number in self._windows else None
        return own if own is not None else max(known, default=0.0)

    def seconds_a_voxel(self, stage: Stage) -> float:
        """Return the seconds a voxel of a stage; 0 while nobody knows."""
        rate = self._voxels[stage].value if stage in self._voxels else None
        return 0.0 if rate is None else rate
