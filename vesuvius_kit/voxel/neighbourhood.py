"""What a voxel is to its neighbours: whether it holds them together, whether it may change without changing the topology.

The 3x3x3 neighbourhood of a voxel is an integer of 27 bits, bit ``9 (dz + 1) + 3 (dy + 1) + dx + 1``, centre 13, so that
flooding a neighbourhood is a handful of shifts. The foreground is 26-connected and the background 6-connected; for the
opposite pair, ask with the complement of the code: a centre that may be added there is one that may be deleted here.

Simple points by their topological numbers: Bertrand and Malandain, Pattern Recognition Letters 15, 1994.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.voxel.compilation import compiled

# Columns x = 0 and x = 2, rows y = 0 and y = 2 of the 27 bits.
_X0, _X2 = 0o111111111, 0o444444444
_Y0, _Y2 = 0o007007007, 0o700700700
_ALL = (1 << 27) - 1
CENTRE = 1 << 13
"""The bit of the voxel itself."""
FACES = 1 << 4 | 1 << 10 | 1 << 12 | 1 << 14 | 1 << 16 | 1 << 22
"""The bits of the voxels that share a face with it."""
_CORNERS = 0o505 | 0o505 << 18
_N18 = _ALL & ~_CORNERS & ~CENTRE
_OTHERS = _ALL & ~CENTRE


@compiled(nogil=True)
def read_neighbourhood(flat: NDArray[Any], at: int, steps: tuple[int, int, int]) -> int:
    """Return the code of the neighbourhood of the voxel ``flat[at]``, which must not lie on the volume's rim.

    ``flat`` is the raveled volume, bool or of an integer type; non-zero is foreground. ``steps`` are the distances in it of
    neighbours along z, y, x; the last is 1.
    """
    code = 0
    bit = 0
    for z in (-steps[0], 0, steps[0]):
        for y in (-steps[1], 0, steps[1]):
            for x in (-1, 0, 1):
                code |= np.int64(flat[at + z + y + x] != 0) << bit  # type: ignore[assignment]  # numba gives an int to Python
                bit += 1
    return code


@compiled(nogil=True)
def _flood(code: int, within: int) -> int:
    """Grow a set of neighbours through those of ``within`` that are 26-connected to it."""
    before = 0
    while code != before:
        before = code
        code |= ((code & ~_X2) << 1) | ((code & ~_X0) >> 1)
        code |= ((code & ~_Y2) << 3) | ((code & ~_Y0) >> 3)
        code = (code | (code << 9) | (code >> 9)) & within
    return code


@compiled(nogil=True)
def _flood_faces(code: int, within: int) -> int:
    """Grow a set of neighbours through those of ``within`` that are 6-connected to it."""
    before = 0
    while code != before:
        before = code
        beside = ((code & ~_X2) << 1) | ((code & ~_X0) >> 1) | ((code & ~_Y2) << 3) | ((code & ~_Y0) >> 3)
        code |= (beside | (code << 9) | (code >> 9)) & within
    return code


@compiled(nogil=True)
def is_connected(code: int) -> bool:
    """Tell whether the neighbours are one 26-connected component, or none."""
    others = code & _OTHERS
    return _flood(others & -others, others) == others


@compiled(nogil=True)
def is_simple(code: int) -> bool:
    """Tell whether deleting the centre, or adding it, changes no component, tunnel or cavity: one component on either side."""
    others = code & _OTHERS
    background = ~code & _N18
    faces = background & FACES
    if others == 0 or faces == 0 or not is_connected(code):
        return False
    return faces & ~_flood_faces(faces & -faces, background) == 0


@compiled(nogil=True)
def is_isthmus(code: int) -> bool:
    """Tell whether the centre parts the background around it, or connects components of the foreground."""
    background = ~code & _N18
    faces = background & FACES
    if faces & (faces - 1) == 0:  # fewer than two background neighbours: neither
        return False
    return faces & ~_flood_faces(faces & -faces, background) != 0 or not is_connected(code)
