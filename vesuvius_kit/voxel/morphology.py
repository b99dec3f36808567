"""Dilation, erosion, opening and closing of masks, 64 voxels at a time.

Masks are (Z, Y, X), of any numeric or bool dtype and memory order; non-zero is foreground. A structuring element is a table of
rows along x, each symmetric about its middle: (rows, 3), offset along z, offset along y, reach along x on either side.
`box_rows`, `cylinder_rows`, `disc_rows` and `vesuvius_kit.voxel.bits.ball_rows` list one.

Dilating is then a union of planes of words moved by whole rows, of a mask that was widened along x once for each width
that occurs. Eroding a mask is dilating its complement (Serra, Image Analysis and Mathematical Morphology, 1982).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, check_array, check_integer, check_size
from vesuvius_kit.voxel.bits import Words, ball_rows, pack_mask, unpack_mask
from vesuvius_kit.voxel.compilation import compiled
from vesuvius_kit.voxel.slabs import map_slabs

_ALL = ~np.uint64(0)


def box_rows(radii: int | Sequence[int]) -> NDArray[np.int64]:
    """List the rows of a box of ``2 * radius + 1`` voxels along an axis, ``radii`` for all axes or along z, y, x."""
    reach_z, reach_y, reach_x = check_size("radii", radii, minimum=0)
    z, y = np.mgrid[-reach_z : reach_z + 1, -reach_y : reach_y + 1]
    return np.stack([z.ravel(), y.ravel(), np.full(z.size, reach_x)], axis=1).astype(np.int64)


def cylinder_rows(z_radius: int, xy_radius: float) -> NDArray[np.int64]:
    """List the rows of a cylinder along z: ``2 * z_radius + 1`` discs, ``dy**2 + dx**2 <= xy_radius**2``."""
    z_radius = check_integer("z_radius", z_radius, minimum=0)
    disc = disc_rows(xy_radius)
    rows = np.tile(disc, (2 * z_radius + 1, 1))
    rows[:, 0] = np.repeat(np.arange(-z_radius, z_radius + 1), len(disc))
    return rows


def disc_rows(radius: float, axis: int = 0) -> NDArray[np.int64]:
    """List the rows of a flat disc across an axis (0, 1 or 2); the radius, in voxels, is inclusive."""
    axis = check_integer("axis", axis, minimum=0, maximum=2)
    rows = ball_rows(radius, (1, 1, 1))
    if axis == 2:
        return np.stack([rows[:, 0], rows[:, 1], np.zeros(len(rows), np.int64)], axis=1)
    return rows[rows[:, axis] == 0]


def dilate_mask(mask: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Dilate a mask.

    Examples
    --------
    >>> import numpy as np
    >>> from vesuvius_kit.voxel.morphology import box_rows, dilate_mask, erode_mask
    >>> mask = np.array([[[0, 0, 0, 1, 0]]])
    >>> dilated = dilate_mask(mask, box_rows(1))
    >>> dilated.astype(int).tolist()
    [[[0, 0, 1, 1, 1]]]
    >>> erode_mask(dilated, box_rows(1), border_value=1).astype(int).tolist()
    [[[0, 0, 0, 1, 1]]]
    """
    return unpack_mask(dilate_words(pack_mask(mask), rows, mask.shape[2]), mask.shape[2])


def erode_mask(mask: NDArray[Any], rows: NDArray[np.int64], border_value: int = 0) -> NDArray[np.bool_]:
    """Erode a mask; beyond the faces lies background (0) or foreground (1), as ``border_value`` says."""
    return unpack_mask(erode_words(pack_mask(mask), rows, mask.shape[2], border_value), mask.shape[2])


def open_mask(mask: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Erode a mask, then dilate it; beyond the faces lies background."""
    return unpack_mask(open_words(pack_mask(mask), rows, mask.shape[2]), mask.shape[2])


def close_mask(mask: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Dilate a mask, then erode it; beyond the faces lies background, so the erosion eats at them."""
    return unpack_mask(close_words(pack_mask(mask), rows, mask.shape[2]), mask.shape[2])


def dilate_words(words: Words, rows: NDArray[np.int64], n_x: int) -> Words:
    """Dilate a packed mask of ``n_x`` voxels along x."""
    reach_z = _check(words, rows, n_x)
    return map_slabs(lambda part, _: _dilate(part, rows, n_x), words, reach_z)


def erode_words(words: Words, rows: NDArray[np.int64], n_x: int, border_value: int = 0) -> Words:
    """Erode a packed mask; beyond the faces lies background (0) or foreground (1), as ``border_value`` says."""
    reach_z = _check(words, rows, n_x)
    border_value = check_integer("border_value", border_value, minimum=0, maximum=1)
    return map_slabs(lambda part, faces: _erode(part, rows, n_x, faces, border_value), words, reach_z)


def open_words(words: Words, rows: NDArray[np.int64], n_x: int) -> Words:
    """Erode a packed mask, then dilate it; beyond the faces lies background."""
    reach_z = _check(words, rows, n_x)
    return map_slabs(lambda part, faces: _dilate(_erode(part, rows, n_x, faces), rows, n_x), words, 2 * reach_z)


def close_words(words: Words, rows: NDArray[np.int64], n_x: int) -> Words:
    """Dilate a packed mask, then erode it; beyond the faces lies background, so the erosion eats at them."""
    reach_z = _check(words, rows, n_x)
    return map_slabs(lambda part, faces: _erode(_dilate(part, rows, n_x), rows, n_x, faces), words, 2 * reach_z)


def _check(words: Words, rows: NDArray[np.int64], n_x: int) -> int:
    """Check the arguments that all have in common; return the reach along z."""
    check_array("words", words, kinds="u")
    check_array("rows", rows, ndim=2, kinds="i")
    n_x = check_integer("n_x", n_x, minimum=0)
    if words.shape[2] != -(-n_x // 64):
        raise InputValueError(f"words must have {-(-n_x // 64)} words along x for n_x = {n_x}, got {words.shape[2]}")
    if not len(rows) or rows.shape[1] != 3 or rows[:, 2].min() < 0:
        raise InputValueError(f"rows must be a table of (dz, dy, reach >= 0), got shape {rows.shape}")
    return int(np.abs(rows[:, 0]).max())


def _dilate(words: Words, rows: NDArray[np.int64], n_x: int) -> Words:
    n_z, _, n_w = words.shape
    if not words.size:
        return words.copy()
    rows, z_radius = _split_rows(rows)
    reached = np.ascontiguousarray(words)
    dilated = np.zeros_like(reached)
    reach = 0
    for wanted in np.unique(rows[:, 2]).tolist():
        while reach < wanted:
            # Twice and one more at most: then no voxel is lost that left the volume between two steps.
            step = min(wanted - reach, reach + 1)
            reached = _spread_x(reached, step)
            reach += step
        _unite_planes(reached.reshape(n_z, -1), rows[rows[:, 2] == wanted, :2] * (1, n_w), dilated.reshape(n_z, -1))
    if z_radius:
        planes = np.arange(-z_radius, z_radius + 1)
        flat = np.zeros_like(dilated)
        _unite_planes(dilated.reshape(n_z, -1), np.stack([planes, 0 * planes], axis=1), flat.reshape(n_z, -1))
        dilated = flat
    dilated[:, :, -1] &= _last_word(n_x)
    return dilated


def _erode(words: Words, rows: NDArray[np.int64], n_x: int, faces: tuple[bool, bool], border_value: int = 0) -> Words:
    """Erode; ``faces`` says whether the first and the last plane lie at a face of the volume."""
    if not words.size:
        return words.copy()
    background = ~words
    background[:, :, -1] &= _last_word(n_x)
    eroded = _dilate(background, rows, n_x)
    np.invert(eroded, out=eroded)
    eroded[:, :, -1] &= _last_word(n_x)
    if border_value == 0:
        # The element reaches beyond a face exactly where its farthest voxel along that axis does.
        reach_z, reach_y = (int(np.abs(rows[:, axis]).max()) for axis in (0, 1))
        reach_x = int(rows[:, 2].max())
        inside = np.arange(64 * words.shape[2])
        inside = (inside >= reach_x) & (inside < n_x - reach_x)
        eroded &= pack_mask(inside[None, None])
        for axis, reach, at_first, at_last in ((0, reach_z, *faces), (1, reach_y, True, True)):
            planes = np.moveaxis(eroded, axis, 0)
            if reach and at_first:
                planes[:reach] = 0
            if reach and at_last:
                planes[-reach:] = 0
    return eroded


def _last_word(n_x: int) -> np.uint64:
    """Return the word that has the bits of the last voxels of a row."""
    return _ALL >> np.uint64(-n_x % 64)


def _split_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Take an element apart into one of its planes and a radius along z, if it is such a product; else the radius is 0."""
    z_radius = int(np.abs(rows[:, 0]).max())
    planes = [rows[rows[:, 0] == z, 1:] for z in range(-z_radius, z_radius + 1)]
    if all(np.array_equal(plane, planes[z_radius]) for plane in planes):
        return rows[rows[:, 0] == 0], z_radius
    return rows, 0


@compiled(nogil=True)
def _spread_x(words: Words, step: int) -> Words:
    """Unite a mask with itself moved by ``step`` voxels both ways along x."""
    n_z, n_y, n_w = words.shape
    out = words.copy()
    far = step // 64
    bits = np.uint64(step % 64)
    rest = np.uint64(64) - bits
    for z in range(n_z):
        for y in range(n_y):
            row = words[z, y]
            to = out[z, y]
            for k in range(far, n_w):
                to[k] |= row[k - far] << bits
                to[k - far] |= row[k] >> bits
            if bits != 0:
                for k in range(far + 1, n_w):
                    to[k] |= row[k - far - 1] >> rest
                    to[k - far - 1] |= row[k] << rest
    return out


@compiled(nogil=True)
def _unite_planes(words: Words, offsets: NDArray[np.int64], out: Words) -> None:
    """Unite with ``out`` a mask moved by each offset: planes, and words within a plane."""
    n_z, n = words.shape
    for z in range(n_z):
        to = out[z]
        for i in range(offsets.shape[0]):
            source = z + offsets[i, 0]
            if 0 <= source < n_z:
                plane = words[source]
                shift = offsets[i, 1]
                for at in range(max(0, -shift), min(n, n - shift)):
                    to[at] |= plane[at + shift]
