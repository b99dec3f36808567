"""Where a prediction is wrong: unmatched features of its topology, sheets that merged or split, voxels found and missed."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import check_array, check_integer, check_same_shape
from vesuvius_kit.constants import SURFACE_TOLERANCE, UNLABELLED
from vesuvius_kit.metrics import betti_matching_counts, betti_matching_features
from vesuvius_kit.metrics.topology import octants
from vesuvius_kit.voxel.bits import Words, pack_mask
from vesuvius_kit.voxel.components import count_overlaps, find_runs, label_components, measure_components
from vesuvius_kit.voxel.distance import measure_distance
from vesuvius_kit.voxel.spreading import spread_labels
from vesuvius_kit.voxel.tunnels import pair_tunnels

KINDS = ("component", "tunnel", "cavity")
"""Of features, by dimension."""
FOUND, INVENTED, MISSED = 1, 2, 3
"""What `judge_voxels` says of a voxel; 0 where there is nothing to judge."""
WIDTHS = (1, 2, 3, 5, 8)
"""Voxels by which a mask is grown to find out how wide its tunnels are."""
MOST_LISTED = 200
"""Of each kind, the largest."""
MOST_COUNTED = 100_000
"""Features of an octant that are listed at all; a mask of noise has millions."""

# A sheet counts as met by another from so many voxels and such a share of its own on.
_LEAST_VOXELS, _LEAST_SHARE = 50, 0.05
_REACH = 7  # voxels around a place that show which way its sheet lies
_NEIGHBOURS = [(dz, dy, dx) for dz in (0, 1) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dz, dy, dx) > (0, 0, 0)]


@dataclass(frozen=True)
class Feature:
    """A component, tunnel or cavity of one mask that the other has no match for."""

    side: str
    """``prediction`` or ``label``: which mask has it."""
    kind: str
    """One of `KINDS`."""
    octant: int
    """Of the volume, in z-major order: features are matched in each for itself."""
    size: int
    """Voxels of a component or a cavity. Of a tunnel by how many voxels the mask must grow to close it; 0: it stays open at the
    largest of `WIDTHS`."""
    place: tuple[int, int, int]
    """(z, y, x) of a voxel in it."""
    axis: int
    """Across which axis a slice through the place shows it best."""


@dataclass(frozen=True)
class Seam:
    """Where sheets that ought to be apart touch, or a sheet that ought to be one is parted."""

    kind: str
    """``merged``: a predicted sheet joins two labelled ones; ``split``: a labelled sheet is cut into two predicted ones."""
    sheet: int
    """Number of the predicted sheet that joins, or of the labelled one that is cut."""
    others: tuple[int, int]
    """Numbers of the two sheets of the other mask."""
    size: int
    """Voxels of the border between the two, within the sheet."""
    place: tuple[int, int, int]
    """(z, y, x) of a voxel of that border."""
    axis: int
    """Across which axis a slice through the place shows it best."""


@dataclass(frozen=True)
class Sheets:
    """The connected components (26) of prediction and label, the largest first, and how they overlap."""

    prediction: NDArray[np.int32]
    """(Z, Y, X), numbers of the sheets from 1 on, 0 for background."""
    label: NDArray[np.int32]
    """The same of the label."""
    sizes: tuple[list[int], list[int]]
    """Voxels of each sheet of prediction and label; entry 0 is sheet 1."""
    overlaps: list[tuple[int, int, int]]
    """Sheet of the prediction, sheet of the label, and the voxels that both have, the largest first."""
    seams: list[Seam]
    """Where they merged and split, the largest first."""


@dataclass(frozen=True)
class Unmatched:
    """The features that have no match."""

    features: list[Feature]
    """The largest of each kind, `MOST_LISTED` at most; of tunnels the widest."""
    counts: dict[str, dict[str, int]]
    """How many there are in all, by side and kind."""
    unlisted: list[int]
    """Octants with so many features that none of them is listed."""

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the features as JSON holds them."""
        return [asdict(feature) for feature in self.features]


def judge_voxels(
    prediction: NDArray[np.bool_], label: NDArray[np.integer[Any]], tolerance: float = SURFACE_TOLERANCE
) -> NDArray[np.uint8]:
    """Say of every voxel whether it was found, invented or missed.

    Parameters
    ----------
    prediction
        (Z, Y, X).
    label
        The same shape, {0, 1, 2}; what is unlabelled is not judged.
    tolerance
        Voxels within which a predicted and a labelled voxel count as the same.

    Returns
    -------
    numpy.ndarray
        uint8: `FOUND` for predicted voxels near the labelled surface, `INVENTED` for the others, `MISSED` for voxels of the
        label's surface without a predicted one nearby, 0 elsewhere.
    """
    check_same_shape("prediction", prediction, "label", label)
    judged = label != UNLABELLED
    mask, surface = prediction & judged, (label != 0) & judged
    judgement = np.zeros(mask.shape, np.uint8)
    judgement[surface & ~_near(mask, tolerance)] = MISSED
    judgement[mask] = np.where(_near(surface, tolerance)[mask], FOUND, INVENTED)
    return judgement


def _near(mask: NDArray[np.bool_], tolerance: float) -> NDArray[np.bool_]:
    # A volume without foreground is nowhere near; its distances would all be the cap's.
    return measure_distance(~mask, tolerance + 1) <= tolerance if mask.any() else np.zeros_like(mask)


def find_unmatched(prediction: NDArray[np.bool_], label: NDArray[np.bool_], *, most: int = MOST_LISTED) -> Unmatched:
    """List the features of two masks that have no match, octant by octant, as the score counts them.

    A component's place is a voxel near its middle, a cavity's likewise. A tunnel's is where the mask closes it when it grows.

    Parameters
    ----------
    prediction, label
        (Z, Y, X); unlabelled voxels are for the caller to clear in both.
    most
        How many of each side and kind are listed.
    """
    check_array("prediction", prediction, kinds="b")
    check_array("label", label, kinds="b")
    check_same_shape("prediction", prediction, "label", label)
    check_integer("most", most, minimum=0)
    masks = {"prediction": prediction, "label": label}
    counts = {side: dict.fromkeys(KINDS, 0) for side in masks}
    found: dict[tuple[str, str], list[Feature]] = {(side, kind): [] for kind in KINDS for side in masks}
    unlisted = []
    for number, block in enumerate(octants(label.shape)):
        in_block = betti_matching_counts(prediction[block], label[block])
        for column, side in enumerate(masks, start=1):
            for k, kind in enumerate(KINDS):
                counts[side][kind] += int(in_block[k, column] - in_block[k, 0])
        if in_block[:, 1:].sum() > MOST_COUNTED:
            unlisted.append(number)
            continue
        table = betti_matching_features(prediction[block], label[block], by_octant=False)
        corner = [axis.start for axis in block]
        for side, mask in masks.items():
            for k, kind in enumerate(KINDS):
                of_kind = table[(table["side"] == side) & (table["dimension"] == k)]
                alone = of_kind["partner"] < 0
                if alone.any():
                    places = _LOCATORS[k](mask[block], of_kind["birth"], of_kind["death"], alone)
                    found[side, kind] += [
                        Feature(side, kind, number, size, _shift(place, corner), 0) for size, place in places
                    ]
    listed = []
    for features in found.values():
        features.sort(key=lambda feature: (-_rank(feature), feature.place))
        listed += features[:most]
    return Unmatched([_turn(feature, masks[feature.side]) for feature in listed], counts, unlisted)


def _rank(feature: Feature) -> float:
    return WIDTHS[-1] + 1 if feature.kind == "tunnel" and feature.size == 0 else feature.size


def _shift(place: Sequence[int], corner: Sequence[int]) -> tuple[int, int, int]:
    z, y, x = (int(a) + int(b) for a, b in zip(place, corner))
    return z, y, x


def _turn(feature: Feature, mask: NDArray[np.bool_]) -> Feature:
    return Feature(**{**asdict(feature), "axis": choose_axis(mask, feature.place)})


_Located = list[tuple[int, tuple[int, int, int]]]
_Locate = Callable[[NDArray[np.bool_], NDArray[Any], NDArray[Any], NDArray[np.bool_]], _Located]


def _locate_components(
    mask: NDArray[np.bool_], births: NDArray[Any], _deaths: NDArray[Any], alone: NDArray[np.bool_]
) -> _Located:
    labels, count = label_components(mask, connectivity=6)
    return _measure_places(labels, count, labels[tuple(births[alone].T)])


def _locate_cavities(
    mask: NDArray[np.bool_], _births: NDArray[Any], deaths: NDArray[Any], alone: NDArray[np.bool_]
) -> _Located:
    labels, count = label_components(~mask, connectivity=26)
    return _measure_places(labels, count, labels[tuple(deaths[alone].T)])


def _measure_places(labels: NDArray[np.int32], count: int, wanted: NDArray[np.int32]) -> _Located:
    """Size of each wanted component, and its voxel nearest to its middle."""
    is_wanted = np.zeros(count + 1, bool)
    is_wanted[wanted] = True
    voxels = np.argwhere(is_wanted[labels])
    numbers = labels[tuple(voxels.T)]
    order = np.argsort(numbers, kind="stable")
    voxels, numbers = voxels[order], numbers[order]
    starts = np.searchsorted(numbers, wanted)
    stops = np.searchsorted(numbers, wanted, side="right")
    return [(int(stop - start), _middle(voxels[start:stop])) for start, stop in zip(starts, stops)]


def _middle(voxels: NDArray[Any]) -> tuple[int, int, int]:
    """The voxel nearest to the middle of some, (n, 3)."""
    nearest = int(np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1)))
    z, y, x = (int(place) for place in voxels[nearest])
    return z, y, x


def _locate_tunnels(
    mask: NDArray[np.bool_],
    _births: NDArray[Any],
    deaths: NDArray[Any],
    alone: NDArray[np.bool_],
) -> _Located:
    """How far the mask must grow to close each tunnel, and where the last of it was open."""
    near = measure_distance(~mask, WIDTHS[-1] + 1)
    words, n_x = pack_mask(mask), mask.shape[2]
    own = pair_tunnels(words, (words, words), n_x)[0]
    keys = [tuple(row) for row in own[:, :4].tolist()]
    wanted = dict(zip([key for key, is_alone in zip(keys, alone) if is_alone], deaths[alone].tolist()))
    sizes = dict.fromkeys(wanted, 0)
    places = dict(wanted)
    for width in WIDTHS:
        still_open = _follow(words, pack_mask(near <= width), n_x)
        for key in [key for key in wanted if sizes[key] == 0]:
            if key in still_open:
                places[key] = still_open[key]
            else:
                sizes[key] = width
        if all(sizes.values()):
            break
    return [(sizes[key], _shift(places[key], (0, 0, 0))) for key in wanted]


def _follow(words: Words, grown: Words, n_x: int) -> dict[tuple[int, ...], list[int]]:
    """Where the tunnels of a mask that are open in a larger one are closed there, by their births."""
    pairs = pair_tunnels(grown, (words, grown), n_x)[0].tolist()
    return {tuple(row[:4]): row[4:7] for row in pairs}


_LOCATORS: tuple[_Locate, ...] = (_locate_components, _locate_tunnels, _locate_cavities)
"""What finds size and place of each feature that is alone, by dimension."""


def choose_axis(mask: NDArray[np.bool_], place: Sequence[int], along: NDArray[np.float64] | None = None) -> int:
    """Return across which axis a slice through a place cuts the sheet there most squarely; 0 where no sheet is near.

    A slice that cuts a sheet squarely shows its gaps and bridges; one that runs along it shows a blot. ``along`` is a
    direction (z, y, x) that the slice should hold as well.
    """
    voxels = np.argwhere(mask[_box_around(place)])
    if len(voxels) < 4:
        return 0
    spread = np.cov(voxels.T)
    _, directions = np.linalg.eigh(spread)
    # The normal of the sheet is the direction of the least spread; the slice should hold it.
    slant = np.abs(directions[:, 0])
    if along is not None:
        slant = slant + 2 * np.abs(along)
    return int(np.argmin(np.round(slant, 1)))


def _box_around(place: Sequence[int]) -> tuple[slice, slice, slice]:
    z, y, x = (slice(max(at - _REACH, 0), at + _REACH + 1) for at in place)
    return z, y, x


def compare_sheets(prediction: NDArray[np.bool_], label: NDArray[np.bool_], *, most: int = MOST_LISTED) -> Sheets:
    """Number the sheets of two masks, and find where they merged and split.

    Two sheets count as merged by one of the other mask when it shares 50 voxels and a twentieth of their own with each. The
    place is on the border where it is, through the joining sheet, equally far to both.

    Parameters
    ----------
    prediction, label
        (Z, Y, X); unlabelled voxels are for the caller to clear in both.
    most
        How many seams of each kind are listed.
    """
    check_array("prediction", prediction, kinds="b")
    check_array("label", label, kinds="b")
    check_same_shape("prediction", prediction, "label", label)
    numbered, sizes, orders = [], [], []
    all_runs = [find_runs(pack_mask(mask), 26) for mask in (prediction, label)]
    for mask, runs in zip((prediction, label), all_runs):
        voxels, _ = measure_components(runs, mask.shape)
        order = np.argsort(-voxels[1:], kind="stable") + 1
        rank = np.zeros(runs.count + 1, np.int32)
        rank[order] = np.arange(1, runs.count + 1)
        numbered.append(rank[label_components(mask, 26)[0]])
        sizes.append([int(n) for n in voxels[order]])
        orders.append(rank)
    pairs, voxels = count_overlaps(*all_runs)
    overlaps = sorted(
        (
            (int(orders[0][a]), int(orders[1][b]), int(n))
            for (a, b), n in zip(pairs.tolist(), voxels.tolist())
            if a > 0 and b > 0
        ),
        key=lambda row: -row[2],
    )
    seams = []
    for kind, own, other in (("merged", 0, 1), ("split", 1, 0)):
        met: dict[int, list[int]] = {}
        for row in overlaps:
            if row[2] >= max(_LEAST_VOXELS, _LEAST_SHARE * sizes[other][row[other] - 1]):
                met.setdefault(row[own], []).append(row[other])
        found: list[Seam] = []
        for sheet, others in met.items():
            if len(others) > 1:
                found += _find_seams(kind, sheet, others, numbered[own], numbered[other])
        found.sort(key=lambda seam: (-seam.size, seam.place))
        seams += found[:most]
    return Sheets(numbered[0], numbered[1], (sizes[0], sizes[1]), overlaps, seams)


def _find_seams(
    kind: str, sheet: int, others: Sequence[int], own: NDArray[np.int32], other: NDArray[np.int32]
) -> list[Seam]:
    """The borders within one sheet between the parts that are nearest to each of several others."""
    mask = own == sheet
    box = tuple(
        slice(int(places[0]), int(places[-1]) + 1)
        for axis in range(3)
        for places in [np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))]
    )
    mask = mask[box]
    corner = [axis.start for axis in box]
    nearest = spread_labels(np.where(np.isin(other[box], others), other[box], 0), mask)
    border: dict[tuple[int, int], list[NDArray[Any]]] = {}
    for step in _NEIGHBOURS:
        here, there = _overlap(mask.shape, step)
        first, second = nearest[here], nearest[there]
        touching = (first != second) & (first > 0) & (second > 0)
        if touching.any():
            places = np.argwhere(touching) + [axis.start for axis in here]
            low = np.minimum(first[touching], second[touching])
            high = np.maximum(first[touching], second[touching])
            for pair in {(int(a), int(b)) for a, b in zip(low, high)}:
                chosen = places[(low == pair[0]) & (high == pair[1])]
                border.setdefault(pair, []).append(chosen)
    seams = []
    for pair, pieces in sorted(border.items()):
        drawn = np.zeros(mask.shape, bool)
        drawn[tuple(np.concatenate(pieces).T)] = True
        labels, count = label_components(drawn, 26)
        for size, place in _measure_places(labels, count, np.arange(1, count + 1, dtype=np.int32)):
            near = nearest[_box_around(place)]
            along = np.argwhere(near == pair[1]).mean(axis=0) - np.argwhere(near == pair[0]).mean(axis=0)
            axis = choose_axis(mask, place, along / max(float(np.linalg.norm(along)), 1e-9))
            seams.append(Seam(kind, sheet, pair, size, _shift(place, corner), axis))
    return seams


def _overlap(
    shape: Sequence[int], step: Sequence[int]
) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]:
    """The parts of a volume that lie on each other when it is moved by a step."""
    z, y, x = (slice(max(-d, 0), n - max(d, 0)) for n, d in zip(shape, step))
    other_z, other_y, other_x = (slice(max(d, 0), n - max(-d, 0)) for n, d in zip(shape, step))
    return (z, y, x), (other_z, other_y, other_x)
