"""Mean and standard deviation of a volume, summed plane by plane over all cores."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_array
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import for_slabs

# Squares of these add up exactly in 64 bits, however large a plane is.
_WHOLE = ("uint8", "uint16")


def mean_and_deviation(volume: NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation of a volume (Z, Y, X), not empty, in float64 whatever its type.

    They do not depend on the number of threads. No other volume is made.
    """
    check_array("volume", volume)
    if volume.size == 0:
        raise InputValueError(f"volume must not be empty, got shape {volume.shape}")
    planes = len(volume)
    if volume.dtype.name in _WHOLE:
        sums = np.zeros((planes, 2), np.int64)

        def add_whole(start: int, stop: int) -> None:
            for z in range(start, stop):
                _add_whole(np.ascontiguousarray(volume[z]).reshape(-1), sums[z])

        for_slabs(add_whole, planes)
        total, squares = (sum(map(int, column)) for column in sums.T)
        return total / volume.size, math.sqrt(volume.size * squares - total * total) / volume.size

    parts = np.zeros(planes)

    def add_values(start: int, stop: int, offset: float, power: int) -> None:
        for z in range(start, stop):
            plane = np.ascontiguousarray(volume[z]).reshape(-1)
            parts[z] = _add_powers(plane if plane.dtype == np.float32 else plane.astype(np.float64), offset, power)

    for_slabs(lambda start, stop: add_values(start, stop, 0.0, 1), planes)
    mean = math.fsum(parts) / volume.size
    for_slabs(lambda start, stop: add_values(start, stop, mean, 2), planes)
    return mean, math.sqrt(math.fsum(parts) / volume.size)


@compiled(nogil=True)
def _add_whole(values: NDArray[Any], sums: NDArray[np.int64]) -> None:
    total, squares = np.int64(0), np.int64(0)
    for value in values:
        total += np.int64(value)
        squares += np.int64(value) * np.int64(value)
    sums[0], sums[1] = total, squares


@compiled(nogil=True, fastmath={"reassoc", "contract"})
def _add_powers(values: NDArray[Any], offset: float, power: int) -> float:
    total = 0.0
    for value in values:
        rest = np.float64(value) - offset
        total += rest if power == 1 else rest * rest
    return total
