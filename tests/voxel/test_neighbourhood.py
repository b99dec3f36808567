"""Neighbourhoods against SciPy's labels, and against the topology of the volumes they stand for."""

import numpy as np
from scipy import ndimage

from vesuvius_kit.voxel.euler import betti_numbers
from vesuvius_kit.voxel.neighbourhood import is_connected, is_isthmus, is_simple, read_neighbourhood

FACES_AND_EDGES = np.abs(np.indices((3, 3, 3)) - 1).sum(0) <= 2


def draw_neighbourhoods(count):
    """Codes of all densities, with the volumes they stand for."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        volume = rng.random((3, 3, 3)) < rng.random()
        yield read_neighbourhood(np.pad(volume, 1).ravel(), 62, (25, 5, 1)), volume


def count_sides(volume):
    """26-connected parts of the other foreground, and 6-connected parts of the background that touch the centre."""
    others = volume.copy()
    others[1, 1, 1] = False
    background = ~volume & FACES_AND_EDGES
    background[1, 1, 1] = False
    labels, _ = ndimage.label(background)
    faces = labels[ndimage.generate_binary_structure(3, 1)]
    return ndimage.label(others, np.ones((3, 3, 3)))[1], len(set(faces.tolist()) - {0})


def test_the_code_has_a_bit_for_each_voxel_in_raster_order():
    for code, volume in draw_neighbourhoods(200):
        assert code == sum(1 << int(bit) for bit in np.flatnonzero(volume))


def test_topological_numbers_equal_those_of_scipys_labels():
    seen = set()
    for code, volume in draw_neighbourhoods(4000):
        parts, gaps = count_sides(volume)
        assert is_connected(code) == (parts < 2)
        assert is_simple(code) == (parts == gaps == 1)
        # Fewer than two background neighbours part nothing, whatever they join.
        n_faces = np.count_nonzero(~volume[ndimage.generate_binary_structure(3, 1)]) - (not volume[1, 1, 1])
        assert is_isthmus(code) == (n_faces > 1 and (gaps > 1 or parts > 1))
        seen.add((parts == 1, gaps == 1))
    assert len(seen) == 4


def test_a_simple_point_comes_and_goes_without_a_trace_in_either_connectivity():
    with_and_without = ((1, 1, 1), True), ((1, 1, 1), False)
    changes = {26: set(), 6: set()}
    for code, volume in draw_neighbourhoods(1000):
        for connectivity, asked in ((26, code), (6, ~code)):
            numbers = set()
            for at, value in with_and_without:
                volume[at] = value
                # A rim of background, so that nothing is decided outside of what the code sees.
                numbers.add(tuple(betti_numbers(np.pad(volume, 1), connectivity)))
            if is_simple(asked):
                assert len(numbers) == 1, (connectivity, volume)
            changes[connectivity].add((bool(is_simple(asked)), len(numbers)))
    assert all((False, 2) in found and (True, 1) in found for found in changes.values())
