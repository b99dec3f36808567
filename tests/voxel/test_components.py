"""Components over runs against flooding, SciPy and connected-components-3d."""

import cc3d
import numba
import numpy as np
import pytest
from helpers import naive
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.voxel import bits, components

SMALL = st.tuples(*[st.integers(1, 6)] * 3)


@given(SMALL, st.floats(0, 1), st.integers(0, 9999), st.sampled_from([6, 26]))
def test_labels_equal_flooding(shape, density, seed, connectivity):
    mask = np.random.default_rng(seed).random(shape) < density
    labels, count = components.label_components(mask, connectivity)
    expected, expected_count = naive.label_components(mask, connectivity)
    assert count == expected_count
    assert np.array_equal(labels, expected)
    assert labels.dtype == np.int32


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.32, 0.6])
def test_labels_equal_scipy_and_cc3d(connectivity, density):
    mask = np.random.default_rng(3).random((40, 33, 150)) < density
    labels, count = components.label_components(mask, connectivity)
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    expected, expected_count = ndimage.label(mask, structure)
    assert count == expected_count
    assert np.array_equal(labels, expected)
    assert cc3d.connected_components(mask, connectivity=connectivity, return_N=True)[1] == count


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 0, 3), (3, 3, 0)])
def test_no_voxels(shape):
    labels, count = components.label_components(np.zeros(shape, bool))
    assert labels.shape == shape
    assert count == 0


@given(SMALL, st.integers(0, 9999))
def test_overlaps_equal_counting(shape, seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random(shape) < rng.random() for _ in range(2)]
    runs = [components.find_runs(bits.pack_mask(mask)) for mask in masks]
    pairs, voxels = components.count_overlaps(*runs)
    painted = [components.paint_runs(run, shape).ravel().tolist() for run in runs]
    expected = {}
    for pair in zip(*painted):
        if any(pair):
            expected[pair] = expected.get(pair, 0) + 1
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    assert dict(zip(map(tuple, pairs.tolist()), voxels.tolist())) == expected


@given(SMALL, st.floats(0, 1), st.integers(0, 9999), st.integers(1, 4))
def test_eighteen_neighbours_in_any_number_of_slabs(shape, density, seed, n_threads):
    mask = np.random.default_rng(seed).random(shape) < density
    usual = numba.get_num_threads
    numba.get_num_threads = lambda: n_threads
    try:
        labelled = {c: components.label_components(mask, c) for c in (6, 18, 26)}
    finally:
        numba.get_num_threads = usual
    for rank, (labels, count) in zip((1, 2, 3), labelled.values()):
        expected, expected_count = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
        assert count == expected_count
        assert np.array_equal(labels, expected)


@given(SMALL.map(lambda shape: (*shape[:2], 30 * shape[2])), st.integers(0, 9999), st.sampled_from([6, 18, 26]))
def test_sizes_boxes_and_selection_equal_scipy(shape, seed, connectivity):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < rng.random()
    runs = components.find_runs(bits.pack_mask(mask), connectivity)
    labels = components.paint_runs(runs, shape)
    sizes, boxes = components.measure_components(runs, shape)
    assert sizes.tolist() == [0, *np.bincount(labels.ravel(), minlength=runs.count + 1)[1:].tolist()]
    expected = [[[s.start, s.stop] for s in slices] for slices in ndimage.find_objects(labels)]
    assert boxes.tolist() == [[[0, 0]] * 3, *expected]
    keep = rng.random(runs.count + 1) < 0.5
    selected = bits.unpack_mask(components.select_components(runs, keep, shape), shape[2])
    assert np.array_equal(selected, keep[labels] & mask)


def test_bad_input():
    words = bits.pack_mask(np.ones((2, 2, 2)))
    with pytest.raises(InputValueError, match="connectivity must be 6, 18 or 26, got 8"):
        components.find_runs(words, 8)
    runs = components.find_runs(words)
    with pytest.raises(InputValueError, match="same number of rows"):
        components.count_overlaps(runs, components.find_runs(words[:1]))
    with pytest.raises(InputValueError, match="shape must have 4 rows"):
        components.paint_runs(runs, (3, 3, 3))
    with pytest.raises(InputValueError, match="keep must have 2 entries, got 1"):
        components.select_components(runs, np.ones(1, bool), (2, 2, 2))
    with pytest.raises(InputValueError, match="shape must have 4 rows"):
        components.measure_components(runs, (3, 3, 3))


def test_the_voxels_of_a_component_are_those_of_its_label():
    mask = np.random.default_rng(5).random((9, 11, 70)) > 0.8
    runs = components.find_runs(bits.pack_mask(mask), 6)
    labels = components.paint_runs(runs, mask.shape)
    assert np.array_equal(components.paint_runs(runs, mask.shape, np.int16), labels)
    assert runs.count > 127
    with pytest.raises(InputValueError, match=f"dtype must hold {runs.count} components, got int8"):
        components.paint_runs(runs, mask.shape, np.int8)
    for label in range(1, runs.count + 1):
        at = np.argwhere(labels == label)
        box = tuple(slice(max(low - 1, 0), high + 1) for low, high in zip(at.min(0), at.max(0)))
        corner = [side.start for side in box]
        np.testing.assert_array_equal(components.list_component(runs, label, box, 11), at - corner)
    with pytest.raises(InputValueError, match="box must lie within 9 planes of 11 rows"):
        components.list_component(runs, 1, (slice(0, 10), slice(0, 11), slice(0, 70)), 11)
