"""The mean of probabilities, weighted or not, whatever the order in which they come."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_integer
from vesuvius_kit.voxel.slabs import for_slabs

# Probabilities are summed in whole numbers of this part, as many as float32 tells apart below 1, since a sum of whole numbers
# does not depend on their order. 255 of them fit into 32 bits.
_UNITS = np.float32(2**24)
_MOST = 255
# Of one weight: so all of them times all parts stay below 2**53, where float64 still holds every whole number.
_LARGEST_WEIGHT = 2**20


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Return weights above 0 as whole numbers in the same proportion, to a millionth of the largest; equal ones become 1."""
    largest = max(weights, default=1.0)
    whole = [max(1, round(weight / largest * _LARGEST_WEIGHT)) for weight in weights]
    divisor = math.gcd(*whole) or 1
    return [weight // divisor for weight in whole]


class ProbabilityMean:
    """Takes volumes of probabilities one after the other; a single one comes back as it is."""

    def __init__(self) -> None:
        self.count = 0
        """Volumes taken so far."""
        self._first: NDArray[np.float32] | None = None
        self._total: NDArray[np.uint32 | np.uint64] | None = None
        self._weight = 0

    def add(self, probability: NDArray[np.float32], weight: int = 1) -> None:
        """Take a volume, (Z, Y, X) in [0, 1], that counts ``weight`` times; all must have the same shape."""
        if self.count == _MOST:
            raise InputValueError(f"probabilities must be at most {_MOST}, got one more")
        check_integer("weight", weight, minimum=1, maximum=_LARGEST_WEIGHT)
        if self.count == 0:
            self._first = probability
        else:
            if self._first is not None:
                self._total = np.zeros(self._first.shape, np.uint32)
                self._sum_up(self._first, self._weight, self._weight)
                self._first = None
            self._sum_up(probability, weight, self._weight + weight)
        self.count += 1
        self._weight += weight

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
                mean[z] = total[z] / (self._weight * np.float64(_UNITS))

        for_slabs(divide, len(total))
        return mean

    def _sum_up(self, probability: NDArray[np.float32], weight: int, weight_after: int) -> None:
        if self._total is None or self._total.shape != probability.shape:
            raise InputValueError(f"probabilities must have one shape, got {probability.shape} after others")
        if weight_after > _MOST and self._total.dtype == np.uint32:
            self._total = self._total.astype(np.uint64)
        total = self._total

        def add(start: int, stop: int) -> None:
            # Plane by plane: whatever is made on the way stays in the cache.
            for z in range(start, stop):
                units = np.rint(probability[z] * _UNITS).astype(total.dtype)
                total[z] += units if weight == 1 else units * total.dtype.type(weight)

        for_slabs(add, len(probability))
