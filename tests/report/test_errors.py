"""Errors put into a mask by hand are found, where they were put."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vesuvius_kit as vk
from vesuvius_kit.checks import InputError
from vesuvius_kit.report.errors import (
    FOUND,
    INVENTED,
    KINDS,
    MISSED,
    choose_axis,
    compare_sheets,
    find_unmatched,
    judge_voxels,
)

ROWS = (8, 18)


@pytest.fixture
def sheets():
    """Two sheets across y, three voxels thick, that stay within the first octant."""
    mask = np.zeros((64, 64, 64), bool)
    for row in ROWS:
        mask[3:29, row : row + 3, 3:29] = True
    return mask


def shows(axis, normal):
    """Whether a slice across an axis cuts sheets of that normal squarely."""
    return axis != normal


def test_equal_masks_have_no_errors(sheets):
    assert find_unmatched(sheets, sheets).features == []
    compared = compare_sheets(sheets, sheets)
    assert compared.seams == []
    assert compared.sizes == ([26 * 3 * 26] * 2, [26 * 3 * 26] * 2)
    assert compared.overlaps == [(1, 1, 2028), (2, 2, 2028)]
    assert set(np.unique(judge_voxels(sheets, sheets.astype(np.uint8)))) == {0, FOUND}


def test_a_bridge_merges_two_sheets(sheets):
    prediction = sheets.copy()
    prediction[15:17, 11:18, 20:22] = True
    (seam,) = compare_sheets(prediction, sheets).seams
    assert (seam.kind, seam.sheet, seam.others) == ("merged", 1, (1, 2))
    z, y, x = seam.place
    assert z in (15, 16)
    assert 12 <= y <= 16
    assert x in (20, 21)
    assert shows(seam.axis, normal=1)
    # To the topology it is a component that the prediction has not.
    (feature,) = find_unmatched(prediction, sheets).features
    assert (feature.side, feature.kind, feature.size) == ("label", "component", 2028)


def test_a_hole_is_a_tunnel_of_its_width(sheets):
    prediction = sheets.copy()
    prediction[10:15, 8:11, 20:25] = False
    unmatched = find_unmatched(prediction, sheets)
    (tunnel,) = unmatched.features
    assert (tunnel.side, tunnel.kind, tunnel.octant) == ("prediction", "tunnel", 0)
    assert tunnel.size == 3  # of five voxels across: two on either side leave the middle open
    assert np.abs(np.array(tunnel.place) - (12, 9, 22)).max() <= 2
    assert shows(tunnel.axis, normal=1)
    assert unmatched.counts["prediction"] == {"component": 0, "tunnel": 1, "cavity": 0}
    assert unmatched.counts["label"]["tunnel"] == 0


def test_two_bridges_make_a_tunnel_too_wide_to_measure(sheets):
    prediction = sheets.copy()
    prediction[5, 11:18, 5] = prediction[25, 11:18, 25] = True
    found = find_unmatched(prediction, sheets).features
    assert {(feature.side, feature.kind) for feature in found} == {("prediction", "tunnel"), ("label", "component")}
    assert len(compare_sheets(prediction, sheets).seams) == 2


def test_a_cavity_is_found_with_its_voxels(sheets):
    prediction = sheets.copy()
    prediction[12, 9, 14:17] = False
    (cavity,) = find_unmatched(prediction, sheets).features
    assert (cavity.side, cavity.kind, cavity.size, cavity.place) == ("prediction", "cavity", 3, (12, 9, 15))


def test_a_missing_sheet_is_a_component_with_a_voxel_of_it(sheets):
    prediction = sheets.copy()
    prediction[:, ROWS[1] :] = False
    (missed,) = find_unmatched(prediction, sheets).features
    assert (missed.side, missed.kind, missed.size) == ("label", "component", 2028)
    assert sheets[missed.place]
    assert missed.place[1] >= ROWS[1]
    judged = judge_voxels(prediction, sheets.astype(np.uint8))
    assert (judged[missed.place], int((judged == MISSED).sum())) == (MISSED, 2028)
    # And the other way round.
    (invented,) = find_unmatched(sheets, prediction).features
    assert (invented.side, invented.place) == ("prediction", missed.place)
    assert judge_voxels(sheets, prediction.astype(np.uint8))[invented.place] == INVENTED


def test_a_cut_splits_a_sheet(sheets):
    prediction = sheets.copy()
    prediction[:, 8:11, 15] = False
    (seam,) = compare_sheets(prediction, sheets).seams
    assert seam.kind == "split"
    assert sheets[seam.place]
    assert abs(seam.place[2] - 15) <= 1
    assert seam.axis == 0  # holds the gap and the sheet's normal
    assert sorted(seam.others) == [2, 3]  # the largest predicted sheet is the whole one


def test_specks_neither_merge_nor_split(sheets):
    prediction = sheets.copy()
    prediction[3, 8, 3:6] = False
    prediction[40:42, 40, 40] = True
    assert compare_sheets(prediction, sheets).seams == []


def test_what_is_unlabelled_is_not_judged(sheets):
    label = sheets.astype(np.uint8)
    label[40:] = 2
    prediction = sheets.copy()
    prediction[50:] = True
    judged = judge_voxels(prediction, label)
    assert not judged[40:].any()
    assert (judged[:40] > 0).sum() == sheets.sum()


def test_voxels_within_the_tolerance_are_found():
    label = np.zeros((12, 12, 12), np.uint8)
    label[:, 5] = 1
    prediction = np.zeros(label.shape, bool)
    prediction[:, 7] = True
    assert (judge_voxels(prediction, label) == np.where(prediction, FOUND, 0)).all()
    assert (judge_voxels(prediction, label, tolerance=1)[:, 7] == INVENTED).all()
    assert (judge_voxels(prediction, label, tolerance=1)[:, 5] == MISSED).all()
    nothing = np.zeros(label.shape, bool)
    assert (judge_voxels(nothing, label) == np.where(label == 1, MISSED, 0)).all()


@pytest.mark.parametrize("normal", [0, 1, 2])
def test_a_slice_cuts_its_sheet_squarely(normal):
    mask = np.zeros((32, 32, 32), bool)
    mask[tuple(slice(14, 17) if axis == normal else slice(None) for axis in range(3))] = True
    assert shows(choose_axis(mask, (15, 15, 15)), normal)
    along = np.eye(3)[(normal + 1) % 3]
    assert choose_axis(mask, (15, 15, 15), along) == 3 - normal - (normal + 1) % 3
    assert choose_axis(np.zeros_like(mask), (15, 15, 15)) == 0


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(2, 9)] * 3), st.floats(0.2, 0.6))
def test_the_counts_are_those_of_the_score(seed, shape, share):
    rng = np.random.default_rng(seed)
    prediction, label = rng.random((2, *shape)) < share
    unmatched = find_unmatched(prediction, label)
    counts = vk.leaderboard_score(prediction, label.astype(np.uint8)).topo_counts
    for k, kind in enumerate(KINDS):
        assert unmatched.counts["prediction"][kind] == counts[k, 1] - counts[k, 0]
        assert unmatched.counts["label"][kind] == counts[k, 2] - counts[k, 0]
    listed = [feature for feature in unmatched.features if feature.kind != "tunnel"]
    masks = {"prediction": prediction, "label": label}
    for feature in listed:
        assert masks[feature.side][feature.place] == (feature.kind == "component")
    # Each has a place of its own.
    keys = [(feature.side, feature.kind, feature.octant, feature.place) for feature in listed]
    assert len(set(keys)) == len(keys)


def test_only_the_largest_are_listed(sheets):
    prediction = sheets.copy()
    for k in range(6):
        prediction[40 : 42 + k, 40, 8 * k] = True
    unmatched = find_unmatched(prediction, sheets, most=2)
    assert unmatched.counts["prediction"]["component"] == 4  # each octant has an eldest, which is no feature
    sizes = [feature.size for feature in unmatched.features if feature.side == "prediction"]
    assert len(sizes) == 2
    assert sizes == sorted(sizes, reverse=True)


def test_masks_of_two_shapes_or_kinds_are_refused(sheets):
    with pytest.raises(InputError, match="same shape"):
        compare_sheets(sheets, sheets[:10])
    with pytest.raises(InputError, match="prediction"):
        find_unmatched(sheets.astype(np.uint8), sheets)
    with pytest.raises(InputError, match="same shape"):
        judge_voxels(sheets, sheets[:3].astype(np.uint8))
