"""Masks packed 64 voxels to a machine word.

One instruction then looks at 64 voxels, and a whole 320^3 mask takes 4 MB. ``n_x`` is always the length of a mask's last axis
in voxels.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_integer, check_real, check_same_shape, check_spacing
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import for_slabs

Words: TypeAlias = NDArray[np.uint64]
"""A packed mask, (Z, Y, words): bit ``b`` of word ``w`` is voxel ``x = 64 w + b``; the bits beyond the last voxel are 0."""

_ONE = np.uint64(1)
_TOP = np.uint64(63)
_PLANES = 8


def pack_mask(mask: NDArray[Any]) -> Words:
    """Pack a mask (Z, Y, X) into words along its last axis: (Z, Y, ceil(X / 64)), C order.

    Any numeric or bool dtype and memory order is taken; non-zero is foreground, NaN is background. A mask without voxels gives
    an array without words.
    """
    check_array("mask", mask)
    n_z, n_y, n_x = mask.shape
    words = np.zeros((n_z, n_y, -(-n_x // 64)), dtype=np.uint64)

    def work(start: int, stop: int) -> None:
        # A few planes at a time, so that a mask of another type or order needs no whole copy.
        for z in range(start, stop, _PLANES):
            planes = mask[z : min(z + _PLANES, stop)]
            if planes.dtype.kind == "f":
                planes = (planes > 0) | (planes < 0)
            elif planes.dtype != bool:
                planes = planes != 0
            octets = np.ascontiguousarray(planes).view(np.uint8)
            octets.flags.writeable = False
            _pack(octets, words[z : z + len(planes)])

    for_slabs(work, n_z if words.size else 0)
    return words


def unpack_mask(words: Words, n_x: int) -> NDArray[np.bool_]:
    """Undo `pack_mask`; ``n_x`` is the length of the last axis in voxels."""
    check_array("words", words, kinds="u")
    n_x = check_integer("n_x", n_x, minimum=0, maximum=64 * words.shape[2])
    words = np.ascontiguousarray(words)
    mask = np.empty((*words.shape[:2], n_x), dtype=bool)
    octets = mask.view(np.uint8)
    for_slabs(lambda start, stop: _unpack(words[start:stop], octets[start:stop]), len(words) if mask.size else 0)
    return mask


def invert(words: Words, n_x: int) -> Words:
    """Swap foreground and background of a packed mask; the bits beyond ``n_x`` voxels stay 0."""
    check_array("words", words, kinds="u")
    return words ^ pack_mask(np.ones((1, 1, n_x), dtype=bool))


def check_parts(union: Words, parts: Sequence[Words]) -> None:
    """Raise unless the union and its parts are packed masks of the same shape."""
    check_array("union", union, kinds="u")
    for part in parts:
        check_array("parts", part, kinds="u")
        check_same_shape("union", union, "parts", part)


def shift_down(words: Words) -> Words:
    """Move every voxel one step towards x = 0, so that bit x of the result tells of voxel x + 1; the last bit becomes 0."""
    check_array("words", words, kinds="u")
    shifted = words >> _ONE
    shifted[:, :, :-1] |= words[:, :, 1:] << _TOP
    return shifted


def count_voxels(words: Words) -> int:
    """Count the foreground voxels of a packed mask, or of any part of one."""
    check_array("words", words, ndim=None, kinds="u")
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def ball_rows(radius: float, spacing: Sequence[float]) -> NDArray[np.int64]:
    """List the rows along x that make up a ball of voxels.

    ``radius`` is inclusive and in the unit of ``spacing``, the voxel size along z, y, x. The table has shape (rows, 3): offset
    along z, offset along y, reach along x on either side.
    """
    radius = check_real("radius", radius, minimum=0)
    step_z, step_y, step_x = check_spacing("spacing", spacing)
    rows = []
    for dz in range(-int(radius / step_z) - 1, int(radius / step_z) + 2):
        for dy in range(-int(radius / step_y) - 1, int(radius / step_y) + 2):
            # The sum and root in this order are what a Euclidean distance transform computes: the same rounding.
            inside = [
                dx
                for dx in range(int(radius / step_x) + 2)
                if math.sqrt((dz * step_z) ** 2 + (dy * step_y) ** 2 + (dx * step_x) ** 2) <= radius
            ]
            if inside:
                rows.append((dz, dy, inside[-1]))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def dilate(words: Words, rows: NDArray[np.int64]) -> Words:
    """Dilate a packed mask by the ball that `ball_rows` lists.

    Bits beyond the last voxel of a row may become 1; whoever reads them masks them.
    """
    check_array("words", words, kinds="u")
    check_array("rows", rows, ndim=2, kinds="i")
    dilated = np.zeros_like(words)
    reached = words.copy()
    reach = 0
    for wanted in np.unique(rows[:, 2]):
        while reach < wanted:
            reached = _spread_one(reached)
            reach += 1
        _gather_rows(reached, rows[rows[:, 2] == wanted], dilated)
    return dilated


@compiled(nogil=True)
def _pack(octets: NDArray[np.uint8], words: Words) -> None:
    n_z, n_y, n_x = octets.shape
    n_whole = n_x // 64
    for z in range(n_z):
        for y in range(n_y):
            row = octets[z, y]
            for k in range(n_whole):
                word = np.uint64(0)
                for b in range(64):  # a fixed length, which the compiler turns into vectors
                    word |= np.uint64(row[64 * k + b] != 0) << np.uint64(b)
                words[z, y, k] = word
            word = np.uint64(0)
            for b in range(n_x - 64 * n_whole):
                word |= np.uint64(row[64 * n_whole + b] != 0) << np.uint64(b)
            if 64 * n_whole < n_x:
                words[z, y, n_whole] = word


@compiled(nogil=True)
def _unpack(words: Words, octets: NDArray[np.uint8]) -> None:
    n_z, n_y, n_x = octets.shape
    n_whole = n_x // 64
    for z in range(n_z):
        for y in range(n_y):
            row = octets[z, y]
            for k in range(n_whole):
                word = words[z, y, k]
                for b in range(64):
                    row[64 * k + b] = (word >> np.uint64(b)) & _ONE
            for b in range(n_x - 64 * n_whole):
                row[64 * n_whole + b] = (words[z, y, n_whole] >> np.uint64(b)) & _ONE


@compiled(nogil=True)
def bit_count(word: np.uint64) -> int:
    """Count the bits set in a word (a form that LLVM knows and turns into one instruction)."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    word = word + (word >> np.uint64(8))
    word = word + (word >> np.uint64(16))
    word = word + (word >> np.uint64(32))
    return np.int64(word & np.uint64(0x7F))  # type: ignore[return-value]  # numba gives an int to Python


@compiled(nogil=True)
def lowest_bit(word: np.uint64) -> int:
    """Return the index of the lowest bit set in a word that is not 0."""
    return bit_count((word & (~word + np.uint64(1))) - np.uint64(1))


@compiled(nogil=True)
def _spread_one(words: Words) -> Words:
    n_z, n_y, n_w = words.shape
    out = np.empty_like(words)
    for z in range(n_z):
        for y in range(n_y):
            for k in range(n_w):
                word = words[z, y, k]
                spread = word | (word << np.uint64(1)) | (word >> np.uint64(1))
                if k > 0:
                    spread |= words[z, y, k - 1] >> np.uint64(63)
                if k + 1 < n_w:
                    spread |= words[z, y, k + 1] << np.uint64(63)
                out[z, y, k] = spread
    return out


@compiled(nogil=True)
def _gather_rows(words: Words, rows: NDArray[np.int64], out: Words) -> None:
    n_z, n_y, n_w = words.shape
    for z in range(n_z):
        for y in range(n_y):
            for i in range(rows.shape[0]):
                source_z = z + rows[i, 0]
                source_y = y + rows[i, 1]
                if 0 <= source_z < n_z and 0 <= source_y < n_y:
                    for k in range(n_w):
                        out[z, y, k] |= words[source_z, source_y, k]
