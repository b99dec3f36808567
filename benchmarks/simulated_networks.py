"""What networks of several faults would make of a label: simulated probabilities, the same for the same seed.

    probability = simulate_network(label, "bridged", seed=1)

Every network is far from perfect in every respect: it draws blobs thicker than the label, of soft edges, with gaps, a bridge
here and there and noise of two scales; each sheet has a thickness and a strength of its own, which change along it. What names
a network is the fault that is turned up in it. Made for chunks whose label says 0 and 1 everywhere: sheets that nobody labelled
would be sheets that no network sees.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vesuvius_kit.postprocess.ridges import smooth_gaussian
from vesuvius_kit.voxel.components import label_components
from vesuvius_kit.voxel.distance import measure_distance

_REACH = 12  # voxels from the label beyond which the logit falls no more
_EMPTY = -7.0  # the least logit before noise
_STRIDE = 2  # of the grid on which the voxels between two sheets are given to the nearer one


@dataclass(frozen=True)
class Faults:
    """How a simulated network errs; lengths in voxels, strengths in logits.

    Attributes
    ----------
    excess : float
        How far beyond the label's border the probability is one half.
    slope : float
        Logits per voxel across that border.
    shift : float
        Most that a stretch of a sheet lies off its place along each axis.
    gap_share : float
        Share of the surface in gaps; each size from 1.5 to 16 voxels of radius takes an equal part.
    bridges : float
        Bridges between neighbouring sheets per million voxels.
    fine, coarse : float
        Standard deviation of the noise of 1 and of 5 voxels' extent.
    fade : float
        Strength that faint stretches lose.
    fade_share : float
        Share of the surface in them.
    unevenness : float
        Standard deviation of the strength from sheet to sheet.
    sureness : float
        Factor of all logits.
    bias : float
        Added to all logits in the end.
    """

    excess: float = 0.8
    slope: float = 1.5
    shift: float = 0.25
    gap_share: float = 0.02
    bridges: float = 0.5
    fine: float = 0.5
    coarse: float = 0.6
    fade: float = 2.0
    fade_share: float = 0.1
    unevenness: float = 0.4
    sureness: float = 1.0
    bias: float = 0.0


NETWORKS = {
    "blurred": Faults(excess=1.2, slope=0.8),
    "displaced": Faults(shift=2.0),
    "broken": Faults(gap_share=0.12),
    "bridged": Faults(bridges=6.0, excess=1.2),
    "noisy": Faults(fine=1.6, coarse=1.6),
    "overconfident": Faults(sureness=4.0, coarse=1.0),
    "underconfident": Faults(sureness=0.35, bias=-0.6),
    "faint": Faults(fade=5.0, fade_share=0.35, unevenness=0.8),
}

# Nothing but a blurred label with holes in it: standard deviation of the noise of 1 and of 5 voxels' extent.
PLAIN = {"plain": (0.08, 0.08), "plain, noisy": (0.15, 0.12)}


def simulate_network(label: np.ndarray, network: str | Faults, seed: int = 0) -> np.ndarray:
    """Return the probability that a network of known faults gives for a label.

    Parameters
    ----------
    label : numpy.ndarray
        (Z, Y, X), 1 on the surface; every other value counts as background.
    network : str or Faults
        A key of ``NETWORKS`` or ``PLAIN``, or the faults themselves.
    seed : int
        The same seed gives the same volume.

    Returns
    -------
    numpy.ndarray
        float32 in [0, 1], of the same shape.

    Raises
    ------
    KeyError
        No such network.
    """
    if network in PLAIN:
        return _blur_label(label == 1, *PLAIN[network], np.random.default_rng(seed))
    faults = NETWORKS[network] if isinstance(network, str) else network
    rng = np.random.default_rng(seed)
    surface = label == 1
    sheets, count = label_components(surface, 26)
    if count == 0:
        distance = np.full(label.shape, float(_REACH), np.float32)
        owner, nearest = np.zeros(label.shape, np.int32), None
    else:
        distance = _signed_distance(surface)
        owner, nearest = _share_out(sheets)
    strength = rng.normal(0, faults.unevenness, count + 1).astype(np.float32)[owner]
    excess = faults.excess + rng.normal(0, 0.25, count + 1).astype(np.float32)[owner]
    distance = _displace(distance, faults.shift, rng)
    excess += 0.4 * smooth_noise(label.shape, 12, rng)
    logits = np.maximum(faults.slope * (excess - distance), np.float32(_EMPTY))
    # Inside a sheet the logit rises no further than this; a gap or a faint stretch starts from there.
    np.minimum(logits, 3.5, out=logits)
    stretches = smooth_noise(label.shape, 20, rng)
    fading = _soften(stretches - np.float32(np.quantile(stretches[::4, ::4, ::4], 1 - faults.fade_share)), 0.2)
    logits += strength * (logits > _EMPTY) - faults.fade * fading
    if count:
        _cut_gaps(logits, sheets, owner, faults.gap_share, rng)
        _draw_bridges(logits, owner, nearest, faults.bridges, rng)
    np.maximum(logits, np.float32(_EMPTY), out=logits)
    logits = smooth_gaussian(logits, 0.7)
    logits += faults.fine * smooth_noise(label.shape, 1, rng) + faults.coarse * smooth_noise(label.shape, 5, rng)
    logits = faults.sureness * logits + np.float32(faults.bias)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def _blur_label(surface, fine, coarse, rng):
    surface, places = surface.copy(), np.flatnonzero(surface)
    for radius in (2, 3, 4, 6, 9):
        for at in places[rng.integers(places.size, size=round(places.size / 100_000))] if places.size else ():
            middle = np.unravel_index(at, surface.shape)
            box = _box_round(middle, radius, surface.shape)
            offsets = np.ix_(*(np.arange(side.start, side.stop) - place for side, place in zip(box, middle)))
            surface[box] &= sum(part**2 for part in offsets) > radius**2
    probability = 1.15 * smooth_gaussian(surface, 1.2)
    probability += fine * smooth_noise(surface.shape, 1, rng) + coarse * smooth_noise(surface.shape, 5, rng)
    return np.clip(probability, 0, 1)


def smooth_noise(shape: tuple[int, int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise of standard deviation 1 that is smooth over ``sigma`` voxels, float32 of the given shape."""
    step = max(1, int(sigma / 2))
    coarse = rng.standard_normal([-(-size // step) + 2 for size in shape], dtype=np.float32)
    coarse = smooth_gaussian(coarse, sigma / step)
    coarse /= max(float(coarse.std()), 1e-6)
    for axis, size in enumerate(shape):
        if step == 1:
            coarse = coarse.take(range(size), axis=axis)
            continue
        at = np.arange(size) / step
        low = at.astype(int)
        share = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        coarse = coarse.take(low, axis=axis) * (1 - share) + coarse.take(low + 1, axis=axis) * share
    return coarse


def _soften(values, width):
    """A step at 0 that takes some way to rise."""
    return np.clip(values / width + np.float32(0.5), 0, 1)


def _signed_distance(surface):
    """Distance to the border of the surface, negative inside, float32."""
    outside, inside = measure_distance(~surface, _REACH), measure_distance(surface, _REACH)
    return np.where(surface, 0.5 - inside, outside - 0.5)


def _share_out(sheets):
    """The sheet that each voxel is nearest to, and on the coarse grid where it is nearest."""
    padded = np.pad(sheets, [(0, -size % _STRIDE) for size in sheets.shape])
    coarse = padded.reshape([part for size in padded.shape for part in (size // _STRIDE, _STRIDE)]).max(axis=(1, 3, 5))
    nearest = ndimage.distance_transform_edt(coarse == 0, return_distances=False, return_indices=True)
    owner = coarse[tuple(nearest)]
    for axis, size in enumerate(sheets.shape):
        owner = np.repeat(owner, _STRIDE, axis=axis).take(range(size), axis=axis)
    return owner, nearest


def _displace(distance, shift, rng):
    """Move the volume by a smooth field that is 0 on about half of it."""
    if shift == 0:
        return distance
    at = list(np.indices(distance.shape, dtype=np.float32, sparse=True))
    for axis in range(3):
        field = smooth_noise(distance.shape, 14, rng)
        field = np.sign(field) * np.clip(np.abs(field) - 0.6, 0, 1.2) * (shift / 1.2)
        at[axis] = at[axis] + field
    return ndimage.map_coordinates(distance, at, order=1, mode="nearest")


def _cut_gaps(logits, sheets, owner, share, rng):
    """Lower the logits of balls along the sheets, each only on the sheet of its centre."""
    places = np.flatnonzero(sheets)
    radii = (1.5, 2.5, 4.0, 6.0, 9.0, 12.5, 16.0)
    area = places.size / 3
    for radius in radii:
        for _ in range(round(share * area / len(radii) / (np.pi * radius**2))):
            at = np.array(np.unravel_index(places[rng.integers(places.size)], sheets.shape))
            box = _box_round(at, radius + 3, sheets.shape)
            offsets = [np.arange(side.start, side.stop) - middle for side, middle in zip(box, at)]
            d = np.sqrt(sum(part**2 for part in np.ix_(*(o.astype(np.float32) for o in offsets))))
            # A gap is no disc: its rim wavers.
            d = d + 0.25 * radius * ndimage.zoom(rng.standard_normal((4, 4, 4)), np.array(d.shape) / 4, order=1)
            own = owner[box] == sheets.flat[np.ravel_multi_index(at, sheets.shape)]
            depth = rng.uniform(4, 10) * _soften(radius - d, 2.0)
            logits[box] -= (depth * own).astype(np.float32)


def _draw_bridges(logits, owner, nearest, density, rng):
    """Raise the logits of rods that lead from a sheet to its neighbour."""
    coarse = owner[::_STRIDE, ::_STRIDE, ::_STRIDE]
    seams = []
    for axis in range(3):
        first, second = (np.take(coarse, range(k, coarse.shape[axis] - 1 + k), axis=axis) for k in (0, 1))
        low = np.argwhere(first != second)
        high = low.copy()
        high[:, axis] += 1
        seams.append(np.stack([low, high], axis=1))
    seams = np.concatenate(seams)
    if not len(seams):
        return
    ends = _STRIDE * np.stack([part[tuple(np.moveaxis(seams, -1, 0))] for part in nearest], axis=-1).astype(np.float32)
    length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    near = np.flatnonzero(length < 40)
    # The nearer two sheets are, the likelier they are merged.
    weights = 1 / np.maximum(length[near], 6.0)
    for _ in range(round(density * logits.size / 1e6) if near.size else 0):
        start, stop = ends[near[rng.choice(near.size, p=weights / weights.sum())]]
        radius, height = rng.uniform(1.5, 5.0), rng.uniform(-0.5, 3.0)
        box = _box_round((start + stop) / 2, np.abs(stop - start).max() / 2 + radius + 3, logits.shape)
        at = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1) - start
        way = stop - start
        along = np.clip((at @ way) / max(float(way @ way), 1e-6), 0, 1)
        d = np.linalg.norm(at - along[..., None] * way, axis=-1)
        logits[box] = np.maximum(logits[box], height + np.minimum(1.5 * (radius - d), 0.5)).astype(np.float32)


def _box_round(middle, reach, shape):
    low = np.maximum(np.floor(np.asarray(middle) - reach), 0).astype(int)
    high = np.minimum(np.ceil(np.asarray(middle) + reach) + 1, shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist()))
