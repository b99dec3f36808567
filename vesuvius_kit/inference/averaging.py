"""The mean of probabilities, whatever the order in which they come."""

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.voxel.slabs import for_slabs

# Probabilities are summed in whole numbers of this part, as many as float32 tells apart below 1, since a sum of whole numbers
# does not depend on their order. 255 of them fit into 32 bits.
_UNITS = np.float32(2**24)
_MOST = 255


class ProbabilityMean:
    """Takes volumes of probabilities one after the other; a single one comes back as it is."""

    def __init__(self) -> None:
        self.count = 0
        """Volumes taken so far."""
        self._first: NDArray[np.float32] | None = None
        self._total: NDArray[np.uint32] | None = None

    def add(self, probability: NDArray[np.float32]) -> None:
        """Take a volume, (Z, Y, X) in [0, 1]; all must have the same shape."""
        if self.count == _MOST:
            raise InputValueError(f"probabilities must be at most {_MOST}, got one more")
        if self._first is None and self._total is None:
            self._first = probability
        else:
            if self._total is None and self._first is not None:
                self._total = np.zeros(self._first.shape, np.uint32)
                self._sum_up(self._first)
                self._first = None
            self._sum_up(probability)
        self.count += 1

    def mean(self) -> NDArray[np.float32]:
        """Return the mean of what was taken, float32; at least one volume must have been."""
        if self._first is not None:
            return self._first
        if self._total is None:
            raise InputValueError("probabilities must be at least one, got none")
        total = self._total
        mean = np.empty(total.shape, np.float32)

        def divide(start: int, stop: int) -> None:
            for z in range(start, stop):
                mean[z] = total[z] / (self.count * np.float64(_UNITS))

        for_slabs(divide, len(total))
        return mean

    def _sum_up(self, probability: NDArray[np.float32]) -> None:
        total = self._total
        if total is None or total.shape != probability.shape:
            raise InputValueError(f"probabilities must have one shape, got {probability.shape} after others")

        def add(start: int, stop: int) -> None:
            # Plane by plane: whatever is made on the way stays in the cache.
            for z in range(start, stop):
                total[z] += np.rint(probability[z] * _UNITS).astype(np.uint32)

        for_slabs(add, len(probability))
