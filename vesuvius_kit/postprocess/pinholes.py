"""Pinholes: places where a sheet hangs together by edges or corners only, and the background slips through."""

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array
from vesuvius_kit.postprocess.promises import ADDS_ONLY, JOINS_NOTHING, promise
from vesuvius_kit.postprocess.sheets import is_free
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import label_components


@promise(ADDS_ONLY, JOINS_NOTHING)
def plug_pinholes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add voxels until every sheet is watertight, as the 1st place did: no background slips through an edge or a corner.

    It does where two opposite voxels of four, or of eight, are alone mask or alone background. The fewest voxels that mend
    it, of `plug_table`, are added where they touch no other sheet, over and over, since a plug may open another block. A
    pinhole that only a voxel touching another sheet could plug stays. Where no other sheet is near, the result is a
    well-composed image (Latecki, GMIP 59, 1997). The mask is (Z, Y, X).
    """
    check_array("mask", mask, kinds="b")
    if min(mask.shape) < 2 or not mask.any():
        return mask.copy()
    labels, _ = label_components(mask, 26)
    active = np.ones(len(labels), dtype=bool)
    while active.any():
        active = _plug(labels, plug_table(), active)
    return labels > 0


@lru_cache
def plug_table() -> NDArray[np.uint8]:
    """Return, for each of the 256 patterns of 2x2x2 voxels, the ways to make it watertight with fewest voxels.

    (256, n): voxels to add as bits, each row filled up with 0; bit ``4 z + 2 y + x``. A watertight pattern has zeros only.
    """
    rows: list[list[int]] = []
    for pattern in range(256):
        ways: list[int] = []
        if not _is_watertight(pattern):
            added = [more for more in range(256) if not more & pattern and _is_watertight(pattern | more)]
            least = min(more.bit_count() for more in added)
            ways = [more for more in added if more.bit_count() == least]
        rows.append(ways)
    table = np.zeros((256, max(map(len, rows))), dtype=np.uint8)
    for pattern, ways in enumerate(rows):
        table[pattern, : len(ways)] = ways
    return table


def _is_watertight(pattern: int) -> bool:
    """Whether neither a face of the block nor the block itself has two opposite voxels that differ from the others."""
    bits = [pattern >> k & 1 for k in range(8)]
    for first, second in itertools.combinations((1, 2, 4), 2):
        for base in (k for k in range(8) if not k & (first | second)):
            a, b, c, d = bits[base], bits[base | first], bits[base | second], bits[base | first | second]
            if a == d and b == c and a != b:
                return False
    return not any(bits[k] == bits[7 - k] and bits.count(bits[k]) == 2 for k in range(4))


@compiled(nogil=True)
def _plug(labels: NDArray[np.int32], table: NDArray[np.uint8], active: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Sweep over the blocks that begin in active planes; return the planes whose blocks may have changed by it."""
    n_z, n_y, n_x = labels.shape
    changed = np.zeros(n_z, dtype=np.bool_)
    for z in range(n_z - 1):
        if not active[z]:
            continue
        for y in range(n_y - 1):
            code = 0
            for x in range(n_x):
                # The block's voxels of x - 1 move to bit 0 of their pairs, those of x come in at bit 1.
                code = (code >> 1) & 0x55
                if labels[z, y, x] > 0:
                    code |= 2
                if labels[z, y + 1, x] > 0:
                    code |= 8
                if labels[z + 1, y, x] > 0:
                    code |= 32
                if labels[z + 1, y + 1, x] > 0:
                    code |= 128
                if x == 0 or table[code, 0] == 0:
                    continue
                own = 0
                for k in range(8):
                    own = max(own, labels[z + (k >> 2), y + (k >> 1 & 1), x - 1 + (k & 1)])
                for way in table[code]:
                    if way == 0:
                        break
                    free = True
                    for k in range(8):
                        if way >> k & 1 and not is_free(labels, z + (k >> 2), y + (k >> 1 & 1), x - 1 + (k & 1), own):
                            free = False
                            break
                    if free:
                        for k in range(8):
                            if way >> k & 1:
                                labels[z + (k >> 2), y + (k >> 1 & 1), x - 1 + (k & 1)] = own
                                changed[max(z + (k >> 2) - 1, 0) : z + (k >> 2) + 1] = True
                        code |= way
                        break
    return changed
