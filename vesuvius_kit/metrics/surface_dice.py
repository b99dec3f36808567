"""Surface Dice within a tolerance."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_real, check_same_shape, check_spacing
from vesuvius_kit.constants import SURFACE_TOLERANCE
from vesuvius_kit.voxel.bits import ball_rows, dilate, lowest_bit, pack_mask, shift_down
from vesuvius_kit.voxel.compilation import compiled

_NONE, _ONE = np.uint64(0), np.uint64(1)

# A surface element sits between 2x2x2 voxels. Up to the 48 symmetries of the cube and the swap of inside and outside there
# are 14 neighbourhoods. Below, for 13 of them (the 14th has no surface), the corners inside, and the facets of the
# marching-cubes surface as areas projected along (z, y, x), for voxels of size 1. How an ambiguous neighbourhood is
# spanned is a convention: this is that of DeepMind's surface_distance, whose numbers this module reproduces.
_CORNER, _TRIANGLE, _SLANT, _FLAT = (0.125,) * 3, (0.25,) * 3, (0.25, 0.25, 0.0), (0.5, 0.0, 0.0)
_FACETS = {
    ((0, 0, 0),): (_CORNER,),
    ((0, 0, 0), (0, 0, 1)): (_SLANT,) * 2,
    ((0, 0, 1), (0, 1, 0)): (_CORNER,) * 2,
    ((0, 0, 0), (1, 1, 1)): (_CORNER,) * 2,
    ((1, 0, 1), (1, 1, 0), (1, 1, 1)): (_FLAT, _TRIANGLE, _CORNER),
    ((0, 0, 1), (0, 1, 0), (1, 0, 0)): (_CORNER,) * 3,
    ((0, 1, 1), (1, 0, 0), (1, 1, 1)): ((0.0, 0.25, 0.25),) * 2 + (_CORNER,),
    ((1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)): (_FLAT,) * 2,
    ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)): (_CORNER, _TRIANGLE) * 2,
    ((0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1)): (_CORNER, (0.375,) * 3, (0.0, 0.25, 0.25), (0.25, 0.0, 0.25)),
    ((0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)): (_FLAT, _TRIANGLE, _CORNER, _CORNER),
    ((0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)): (_SLANT,) * 4,
    ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)): (_CORNER,) * 4,
}


def surface_dice(
    prediction: NDArray[Any],
    label: NDArray[Any],
    *,
    tolerance: float = SURFACE_TOLERANCE,
    spacing: Sequence[float] = (1, 1, 1),
) -> float:
    """Compute the share of both surfaces that lies within a tolerance of the other (Nikolov et al., arXiv:1809.04430).

    The value equals ``compute_surface_dice_at_tolerance`` of the package surface-distance: 0 to 1; 1 if both masks are empty,
    0 if one is.

    Parameters
    ----------
    prediction, label
        (Z, Y, X), any numeric or bool dtype; non-zero is foreground and NaN is background.
    tolerance
        Inclusive, >= 0, in the unit of ``spacing``.
    spacing
        Voxel size along z, y, x.

    Examples
    --------
    >>> import numpy as np
    >>> import vesuvius_kit as vk
    >>> label = np.zeros((16, 16, 16), dtype=bool)
    >>> label[:, 4] = True
    >>> prediction = np.roll(label, 3, axis=1)  # the same sheet, three voxels off
    >>> [round(vk.surface_dice(prediction, label, tolerance=tolerance), 3) for tolerance in (1, 2, 3)]
    [0.0, 0.5, 1.0]
    """
    # Only "within the tolerance" is asked of a distance, so each surface is dilated by a ball, 64 voxels at a time, and no
    # distance is computed.
    tolerance = check_real("tolerance", tolerance, minimum=0)
    spacing = check_spacing("spacing", spacing)
    check_array("prediction", prediction)
    check_array("label", label)
    check_same_shape("prediction", prediction, "label", label)
    padded = [pack_mask(np.pad(mask, 1)) for mask in (prediction, label)]
    rows = ball_rows(tolerance, spacing)
    areas = surface_areas(spacing)
    borders = [_find_borders(words) for words in padded]
    total = near = 0.0
    for side in range(2):
        counts = _count_codes(padded[side], borders[side], dilate(borders[1 - side], rows))
        total += float(counts.sum(axis=0) @ areas)
        near += float(counts[1] @ areas)
    if total == 0:
        return 1.0
    return near / total


def surface_areas(spacing: Sequence[float] = (1, 1, 1)) -> NDArray[np.float64]:
    """Tabulate the area of the surface element in each neighbourhood of 2x2x2 voxels.

    (256,), in the squared unit of ``spacing``, the voxel size along z, y, x. Bit ``4 z + 2 y + x`` of the index says that
    corner (z, y, x) is inside.
    """
    step_z, step_y, step_x = check_spacing("spacing", spacing)
    scale = np.array([step_y * step_x, step_z * step_x, step_z * step_y])
    areas = np.zeros(256)
    for corners, facets in _FACETS.items():
        for axes in itertools.permutations(range(3)):
            area = np.linalg.norm(np.array(facets)[:, axes] * scale, axis=1).sum()
            for flips in itertools.product((0, 1), repeat=3):
                code = 0
                for corner in corners:
                    z, y, x = (corner[axis] ^ flip for axis, flip in zip(axes, flips, strict=True))
                    code |= 1 << (4 * z + 2 * y + x)
                areas[code] = areas[255 - code] = area
    return areas


def _find_borders(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mark the 2x2x2 neighbourhoods that are neither all inside nor all outside."""
    any_inside, all_inside = words | shift_down(words), words & shift_down(words)
    any_inside, all_inside = any_inside[:-1] | any_inside[1:], all_inside[:-1] & all_inside[1:]
    any_inside, all_inside = any_inside[:, :-1] | any_inside[:, 1:], all_inside[:, :-1] & all_inside[:, 1:]
    return any_inside & ~all_inside


@compiled(nogil=True)
def _count_codes(words: NDArray[np.uint64], borders: NDArray[np.uint64], near: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Count the neighbourhoods on a border by code: row 1 those that are near the other border, row 0 the others."""
    counts = np.zeros((2, 256), dtype=np.int64)
    n_z, n_y, n_w = borders.shape
    for z in range(n_z):
        for y in range(n_y):
            for k in range(n_w):
                todo = borders[z, y, k]
                while todo != _NONE:
                    bit = lowest_bit(todo)
                    shift = np.uint64(bit)
                    close = (near[z, y, k] >> shift) & _ONE
                    todo &= todo - _ONE
                    code = np.int64(0)
                    for corner in range(4):
                        row_z, row_y = z + corner // 2, y + corner % 2
                        pair = (words[row_z, row_y, k] >> shift) & np.uint64(3)
                        if bit == 63 and k + 1 < n_w:
                            pair |= (words[row_z, row_y, k + 1] & _ONE) << _ONE
                        code |= np.int64(pair) << (2 * corner)
                    counts[np.int64(close), code] += 1
    return counts
