"""The Euler number of a mask, of each component of a labelled volume, and the Betti numbers.

The closed cubes of a 26-connected mask form a complex of vertices, edges, faces and cubes; its Euler number, their
alternating count, is components - tunnels + cavities (Kong and Rosenfeld, CVGIP 1989, section 4). For 6-connected masks the
voxels themselves are the vertices.
"""

import itertools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_array, check_integer
from vesuvius_kit.voxel.bits import Words, count_voxels, invert, pack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.components import find_runs, measure_components
from vesuvius_kit.voxel.cubical import euler_characteristic
from vesuvius_kit.voxel.slabs import for_slabs


def euler_number(mask: NDArray[Any], connectivity: Literal[6, 26] = 26) -> int:
    """Compute the Euler number of a mask (Z, Y, X): components - tunnels + cavities; 0 without foreground.

    The background of a 26-connected foreground is 6-connected, that of a 6-connected one 26-connected.
    """
    _check_dual(connectivity)
    if connectivity == 6:
        return euler_characteristic(pack_mask(mask))
    n_z, n_y, n_x = check_array("mask", mask).shape
    words = pack_mask(mask)
    # A cell belongs to the complex if any of the voxels around it does: each axis that a cell does not span joins two.
    cells = np.zeros((n_z + 1, n_y + 1, n_x // 64 + 1), dtype=np.uint64)
    cells[:n_z, :n_y, : words.shape[2]] = words
    total = 0
    for across in itertools.product((False, True), repeat=3):
        joined = cells
        for axis in itertools.compress(range(3), across):
            joined = joined | _shift_up(joined, axis)
        total -= (-1) ** sum(across) * count_voxels(joined)
    return total


def euler_of_components(labels: NDArray[Any], connectivity: Literal[6, 26] = 26) -> NDArray[np.int64]:
    """Compute the Euler number of each label of a volume (Z, Y, X), as if it were alone, in one pass.

    Labels are integers >= 0 and 0 is background. Of the result, (largest label + 1,), entry 0 is 0, as is that of a label that
    does not occur.
    """
    check_array("labels", labels, kinds="biu")
    _check_dual(connectivity)
    if not labels.size:
        return np.zeros(1, dtype=np.int64)
    if labels.min() < 0:
        raise InputValueError(f"labels must be >= 0, got {labels.min()}")
    n_labels = int(labels.max()) + 1
    labels = np.ascontiguousarray(labels, dtype=np.int32 if n_labels < 2**31 else np.int64)[:]
    labels.flags.writeable = False
    table = _cell_table(connectivity)

    def work(start: int, stop: int) -> NDArray[np.int64]:
        euler = np.zeros(n_labels, dtype=np.int64)
        # The cells of a last plane stand beyond the last voxels.
        _add_cells(labels, table, start, stop + (stop == len(labels)), euler)
        return euler

    euler = np.sum(for_slabs(work, len(labels)), axis=0)
    euler[0] = 0
    return euler


def betti_numbers(mask: NDArray[Any], connectivity: Literal[6, 26] = 26) -> tuple[int, int, int]:
    """Count the components, tunnels and cavities of a mask (Z, Y, X); the connectivity is that of `euler_number`."""
    euler = euler_number(mask, connectivity)
    words = pack_mask(mask)
    components = find_runs(words, connectivity).count
    background = find_runs(invert(words, mask.shape[2]), 6 if connectivity == 26 else 26)
    _, boxes = measure_components(background, mask.shape)
    enclosed = (boxes[1:, :, 0] > 0).all(axis=1) & (boxes[1:, :, 1] < mask.shape).all(axis=1)
    cavities = int(enclosed.sum())
    return components, components + cavities - euler, cavities


def _check_dual(connectivity: int) -> None:
    if check_integer("connectivity", connectivity) not in (6, 26):
        raise InputValueError(f"connectivity must be 6 or 26, got {connectivity}")


def _shift_up(words: Words, axis: int) -> Words:
    """Move every voxel one step away from 0 along an axis; the last plane is empty and nothing is lost."""
    shifted = np.zeros_like(words)
    if axis == 2:
        shifted[:] = words << np.uint64(1)
        shifted[:, :, 1:] |= words[:, :, :-1] >> np.uint64(63)
    else:
        np.moveaxis(shifted, axis, 0)[1:] = np.moveaxis(words, axis, 0)[:-1]
    return shifted


def _cell_table(connectivity: int) -> NDArray[np.int64]:
    """Tabulate, for each pattern of 2x2x2 voxels, the signed count of the cells that the block stands for.

    Bit ``4 dz + 2 dy + dx`` is the voxel at that offset. Of the cells of a complex, the block stands for the vertex in its
    middle and the cells that go on from there towards its last voxel.
    """
    table = np.zeros(256, dtype=np.int64)
    for spanned in itertools.product((0, 1), repeat=3):
        members = 0
        for offset in itertools.product((0, 1), repeat=3):
            # Closed cubes: a cell has all voxels around it, which is one along the axes that it spans.
            # Voxels as vertices: a cell has the voxels that it spans, the last of the block and those before it.
            free = [1 - span for span in spanned] if connectivity == 26 else spanned
            if all(step == 1 or may for step, may in zip(offset, free)):
                members |= 1 << (4 * offset[0] + 2 * offset[1] + offset[2])
        for pattern in range(256):
            found = pattern & members
            table[pattern] += (-1) ** sum(spanned) * (bool(found) if connectivity == 26 else found == members)
    return table


@compiled(nogil=True)
def _add_cells(labels: NDArray[Any], table: NDArray[np.int64], start: int, stop: int, euler: NDArray[np.int64]) -> None:
    n_z, n_y, n_x = labels.shape
    block = np.zeros(8, dtype=labels.dtype)
    for z in range(start, stop):
        for y in range(n_y + 1):
            block[:] = 0
            for x in range(n_x + 1):
                total = labels.dtype.type(0)
                for i in range(4):
                    block[2 * i] = block[2 * i + 1]
                    at_z, at_y = z - 1 + i // 2, y - 1 + i % 2
                    if 0 <= at_z < n_z and 0 <= at_y < n_y and x < n_x:
                        block[2 * i + 1] = labels[at_z, at_y, x]
                    else:
                        block[2 * i + 1] = 0
                    total |= block[2 * i] | block[2 * i + 1]
                if total == 0:
                    continue
                for i in range(8):
                    label = block[i]
                    if label == 0:
                        continue
                    pattern, seen = 0, False
                    for j in range(8):
                        if block[j] == label:
                            seen |= j < i
                            pattern |= 1 << j
                    if not seen:
                        euler[label] += table[pattern]
