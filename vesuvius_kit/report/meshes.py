"""Sheets as meshes of few triangles, for the page's view in three dimensions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CELLS = (3, 4, 6, 8, 12, 16, 24)
"""Voxels; vertices within a cube of such an edge become one. The first that makes few enough triangles is taken."""
MOST_TRIANGLES = 60_000
"""Of all sheets of a volume."""
MOST_SHEETS = 16
"""That are drawn one by one; the smaller ones are one mesh."""
STEPS_A_VOXEL = 16
"""In which positions count."""
_LEAST_VOXELS = 100  # of a sheet that is drawn
_ROUNDS = 3  # of smoothing


@dataclass(frozen=True)
class Mesh:
    """One mesh in the bytes that `make_meshes` returns."""

    sheet: int
    """Its number; 0 for all smaller ones together."""
    n_vertices: int
    """Three uint16 each: x, y, z in sixteenths of a voxel."""
    n_triangles: int
    """Three uint32 each: numbers of vertices."""


def make_meshes(sheets: NDArray[np.int32]) -> tuple[list[Mesh], bytes, int]:
    """Turn numbered sheets, (Z, Y, X) with 0 for background, the largest first, into meshes.

    The bytes are, little-endian, all vertices, filled up to a multiple of four bytes, then all triangles. The number is of
    the sheets that are too small to be drawn.
    """
    sizes = np.bincount(sheets.ravel())
    sizes[0] = 0
    drawn = np.flatnonzero(sizes >= min(_LEAST_VOXELS, sizes.max()))
    surfaces = [
        (int(number), *_march(sheets, drawn[drawn > MOST_SHEETS] if number == 0 else np.array([number])))
        for number in [*drawn[drawn <= MOST_SHEETS], *([0] if (drawn > MOST_SHEETS).any() else [])]
    ]
    for cell in CELLS:
        meshes = [(number, *_cluster(vertices, triangles, cell)) for number, vertices, triangles in surfaces]
        if sum(len(triangles) for *_, triangles in meshes) <= MOST_TRIANGLES:
            break
    vertices = b"".join(
        np.round(vertices[:, ::-1] * STEPS_A_VOXEL).astype("<u2").tobytes() for _, vertices, _ in meshes
    )
    triangles = b"".join(triangles.astype("<u4").tobytes() for *_, triangles in meshes)
    pieces = [Mesh(number, len(vertices), len(triangles)) for number, vertices, triangles in meshes]
    return pieces, vertices + b"\0" * (-len(vertices) % 4) + triangles, int(np.count_nonzero(sizes)) - len(drawn)


_Surface = tuple[NDArray[np.float32], NDArray[np.int64]]


def _march(sheets: NDArray[np.int32], numbers: NDArray[np.int64]) -> _Surface:
    """The surface round some sheets, at half the resolution: vertices (n, 3), z, y, x in voxels, and triangles (m, 3)."""
    from skimage import measure

    mask = np.isin(sheets, numbers) if len(numbers) > 1 else sheets == numbers[0]
    # The largest of eight, so that a thin sheet stays whole; twice the margin closes it at the faces of the volume.
    padded = np.pad(mask, [(2, 2 + n % 2) for n in mask.shape])
    halved = padded[0::2, 0::2, 0::2].copy()
    for z, y, x in np.ndindex(2, 2, 2):
        halved |= padded[z::2, y::2, x::2]
    vertices, triangles, _, _ = measure.marching_cubes(halved.astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    limits = np.array(mask.shape, np.float32) - 1
    return np.clip(2 * vertices - 1.5, 0, limits).astype(np.float32), triangles.astype(np.int64)


def _cluster(vertices: NDArray[np.float32], triangles: NDArray[np.int64], cell: int) -> _Surface:
    """Take all vertices in a cell for their mean; triangles that collapse, or lie on another, are dropped."""
    cells = np.floor(vertices / cell).astype(np.int64)
    keys = (cells[:, 0] * 2**20 + cells[:, 1]) * 2**20 + cells[:, 2]
    _, member, counts = np.unique(keys, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(member, weights=vertices[:, axis]) / counts for axis in range(3)], axis=1)
    corners = member[triangles]
    corners = corners[
        (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]) & (corners[:, 0] != corners[:, 2])
    ]
    _, first = np.unique(np.sort(corners, axis=1), axis=0, return_index=True)
    kept = corners[np.sort(first)]
    return _smooth(means, kept).astype(np.float32), kept


def _smooth(vertices: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.float64]:
    """Move every vertex half-way to the mean of its neighbours, a few times: what is left of the steps of voxels and cells."""
    edges = np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2))])
    counts = np.bincount(edges[:, 0], minlength=len(vertices))
    for _ in range(_ROUNDS):
        sums = [np.bincount(edges[:, 0], vertices[edges[:, 1], axis], len(vertices)) for axis in range(3)]
        means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
        vertices = np.where(counts[:, None] > 0, (vertices + means) / 2, vertices)
    return vertices
