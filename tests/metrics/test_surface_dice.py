"""Surface Dice against the package surface-distance."""

import numpy as np
import pytest
import surface_distance
from helpers import naive
from helpers.golden import load_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.metrics import surface_dice as dice_of
from vesuvius_kit.metrics.surface_dice import surface_areas

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


def with_package(prediction, label, tolerance, spacing):
    distances = surface_distance.compute_surface_distances(label, prediction, spacing)
    return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 2.0, 3.25)])
def test_areas_equal_the_package(spacing):
    # The package counts the corners from the other end.
    codes = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
    assert surface_areas(spacing) == pytest.approx(create_table_neighbour_code_to_surface_area(spacing)[codes])


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 1, 1), (0.7, 1.3, 2.1)])
@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2.0, 6.0])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5])
def test_equals_the_package_on_noise(spacing, tolerance, density):
    rng = np.random.default_rng(5)
    for shape in ((9, 20, 70), (1, 12, 130)):
        masks = [rng.random(shape) < density for _ in range(2)]
        found = dice_of(*masks, tolerance=tolerance, spacing=spacing)
        assert found == pytest.approx(with_package(*masks, tolerance, spacing), rel=0, abs=1e-12)


def test_equals_the_package_on_sheets():
    for _, prediction, label in load_cases("golden_medium"):
        masks = (prediction != 0) & (label != 2), label == 1
        assert dice_of(*masks) == pytest.approx(with_package(*masks, 2.0, (1, 1, 1)), rel=0, abs=1e-12)


@settings(max_examples=60)
@given(
    st.tuples(*[st.integers(1, 4)] * 3),
    st.integers(0, 9999),
    st.floats(0, 3),
    st.tuples(*[st.floats(0.5, 2)] * 3),
)
def test_equals_the_naive_twin(shape, seed, tolerance, spacing):
    rng = np.random.default_rng(seed)
    masks = [rng.random(shape) < rng.random() for _ in range(2)]
    expected = naive.surface_dice(*masks, tolerance, spacing, surface_areas(spacing))
    assert dice_of(*masks, tolerance=tolerance, spacing=spacing) == pytest.approx(expected, abs=1e-12)


def test_two_planes():
    masks = np.zeros((2, 9, 9, 9), bool)
    masks[0, 2], masks[1, 5] = True, True
    # The facing sides lie 2 apart, the others 3 from the nearest.
    assert dice_of(*masks, tolerance=1.9) == 0
    assert dice_of(*masks, tolerance=2) == 0.5
    assert dice_of(*masks, tolerance=2.9) == 0.5
    assert dice_of(*masks, tolerance=3) == 1
    assert dice_of(masks[0], masks[0], tolerance=0) == 1


def test_empty():
    nothing, something = np.zeros((3, 3, 3)), np.ones((3, 3, 3))
    assert dice_of(nothing, nothing) == 1
    assert dice_of(nothing, something) == 0
    assert dice_of(something, nothing) == 0
    assert dice_of(np.zeros((0, 3, 3)), np.zeros((0, 3, 3))) == 1


def test_bad_input():
    mask = np.zeros((2, 2, 2))
    with pytest.raises(InputValueError, match="tolerance must be >= 0"):
        dice_of(mask, mask, tolerance=-0.1)
    with pytest.raises(InputValueError, match="same shape"):
        dice_of(mask, mask[:1])
    with pytest.raises(InputValueError, match="spacing"):
        dice_of(mask, mask, spacing=(1, 1, -1))
