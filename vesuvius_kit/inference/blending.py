"""The two ends of a forward pass on the CPU, each one sweep over a window: what goes in is cut, what comes out is blended in.

A window is read from the volume as it is stored and normalised on the way; a network's answer becomes a probability, is
weighted and added on the way. Nothing else of a window's size is written. What takes the time is waiting for memory, so
both ask for rows before they need them. One thread does it all: torch's own go on spinning after a forward pass and would
have to share their cores.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.models.normalisation import Affine
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.prefetch import prefetch

# 2**x for |x| <= 1/2 as a polynomial through Chebyshev's nodes, lowest power first; its error is about that of float32.
_EXP2 = np.polynomial.chebyshev.Chebyshev.interpolate(np.exp2, 5, [-0.5, 0.5]).convert(kind=np.polynomial.Polynomial)
_C0, _C1, _C2, _C3, _C4, _C5 = (np.float32(value) for value in _EXP2.coef)
_LOG2E = np.float32(1 / np.log(2))
# Beyond 2**126 float32 ends, and a probability so far from .5 has no digits to lose.
_LARGEST = np.float32(126)
# Added to a small number it leaves a whole one, in the last bits.
_ROUNDING = np.float32(1.5 * 2**23)
_ONE = np.float32(1)
# Without its sign, a float32 as whole number; from that of infinity on it is no number. Compilers that may reorder sums do not
# know that 0 times infinity is not 0, so floats are not asked.
_MAGNITUDE, _INFINITY = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
# Rows of a window that are asked for ahead; 2 to 10 were equally good.
_AHEAD = 4


class Greys(NamedTuple):
    """How grey values are turned on the way: ``(min(max(value, low), high) - shift) / scale``, in float32."""

    low: float = -np.inf
    high: float = np.inf
    shift: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, affine: Affine) -> "Greys":
        """Return what an `Affine` says, an end that is open as infinity."""
        low = -np.inf if affine.low is None else affine.low
        high = np.inf if affine.high is None else affine.high
        return cls(low, high, affine.shift, affine.scale)


def cut_window(volume: NDArray[Any], corner: tuple[int, int, int], greys: Greys, out: NDArray[np.float32]) -> None:
    """Write a part of a volume (Z, Y, X), contiguous, into ``out`` (z, y, x), contiguous, from the voxel ``corner`` on."""
    low, high, shift, scale = (np.float32(value) for value in greys)
    _cut(volume, *corner, low, high, shift, scale, out)


def add_window(
    total: NDArray[np.float32],
    corner: tuple[int, int, int],
    answer: NDArray[np.float32],
    profiles: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    is_logits: bool,
) -> bool:
    """Add an answer (z, y, x), times the product of a profile an axis, to a volume (Z, Y, X) from ``corner`` on.

    ``is_logits`` says that it is to become a probability by the logistic function first, to 2e-7. Returns whether every value
    was finite.
    """
    return bool(_add_product(total, *corner, answer, *profiles, is_logits))


def add_weighted_window(
    total: NDArray[np.float32],
    corner: tuple[int, int, int],
    answer: NDArray[np.float32],
    weights: NDArray[np.float32],
    is_logits: bool,
) -> bool:
    """As `add_window`, with a weight for every voxel of the window, (z, y, x)."""
    return bool(_add_map(total, *corner, answer, weights, is_logits))


@compiled(nogil=True, error_model="numpy")
def _cut(
    volume: NDArray[Any], z: int, y: int, x: int, low: Any, high: Any, shift: Any, scale: Any, out: NDArray[np.float32]
) -> None:
    depth, height, width = out.shape
    for k in range(depth):
        for j in range(height):
            later, deeper = (j + _AHEAD) % height, k + (j + _AHEAD) // height
            if deeper < depth:
                prefetch(volume[z + deeper, y + later, x : x + width])
                prefetch(out[deeper, later])
            source = volume[z + k, y + j, x : x + width]
            row = out[k, j]
            for i in range(width):
                row[i] = (min(max(np.float32(source[i]), low), high) - shift) / scale


# Sums must stay in their order here: adding a large number is what rounds.
@compiled(nogil=True, error_model="numpy", fastmath={"contract", "nnan", "ninf", "nsz"})
def _logistic(value: Any) -> Any:
    """1 / (1 + exp(-value)), without a branch or a call, so that it is done for many values at once."""
    power = min(max(-value * _LOG2E, -_LARGEST), _LARGEST)
    shifted = np.float32(power + _ROUNDING)
    rest = power - (shifted - _ROUNDING)
    part = _C0 + rest * (_C1 + rest * (_C2 + rest * (_C3 + rest * (_C4 + rest * _C5))))
    # The bits of a power of two are its exponent, and the last bits of a number that was rounded are the whole number.
    return _ONE / (_ONE + part * np.int32((np.float32(shifted).view(np.int32) + 127) << 23).view(np.float32))


@compiled(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _add_product(
    total: NDArray[np.float32],
    z: int,
    y: int,
    x: int,
    answer: NDArray[np.float32],
    along_z: NDArray[np.float32],
    along_y: NDArray[np.float32],
    along_x: NDArray[np.float32],
    is_logits: bool,
) -> bool:
    depth, height, width = answer.shape
    largest = np.int32(0)
    for k in range(depth):
        for j in range(height):
            later, deeper = (j + _AHEAD) % height, k + (j + _AHEAD) // height
            if deeper < depth:
                prefetch(total[z + deeper, y + later, x : x + width])
                prefetch(answer[deeper, later])
            weight = along_z[k] * along_y[j]
            row = total[z + k, y + j, x : x + width]
            values, bits = answer[k, j], answer[k, j].view(np.int32)
            if is_logits:
                for i in range(width):
                    largest = max(largest, np.int32(bits[i] & _MAGNITUDE))
                    row[i] += weight * along_x[i] * _logistic(values[i])
            else:
                for i in range(width):
                    largest = max(largest, np.int32(bits[i] & _MAGNITUDE))
                    row[i] += weight * along_x[i] * values[i]
    return bool(largest < _INFINITY)


@compiled(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _add_map(
    total: NDArray[np.float32],
    z: int,
    y: int,
    x: int,
    answer: NDArray[np.float32],
    weights: NDArray[np.float32],
    is_logits: bool,
) -> bool:
    depth, height, width = answer.shape
    largest = np.int32(0)
    for k in range(depth):
        for j in range(height):
            later, deeper = (j + _AHEAD) % height, k + (j + _AHEAD) // height
            if deeper < depth:
                prefetch(total[z + deeper, y + later, x : x + width])
                prefetch(answer[deeper, later])
                prefetch(weights[deeper, later])
            row = total[z + k, y + j, x : x + width]
            values, bits, weight = answer[k, j], answer[k, j].view(np.int32), weights[k, j]
            if is_logits:
                for i in range(width):
                    largest = max(largest, np.int32(bits[i] & _MAGNITUDE))
                    row[i] += weight[i] * _logistic(values[i])
            else:
                for i in range(width):
                    largest = max(largest, np.int32(bits[i] & _MAGNITUDE))
                    row[i] += weight[i] * values[i]
    return bool(largest < _INFINITY)
