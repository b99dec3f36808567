"""Packed morphology against SciPy."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.voxel import bits, morphology
from vesuvius_kit.voxel.slabs import for_each, for_slabs

ELEMENTS = {
    "point": morphology.box_rows(0),
    "box": morphology.box_rows((1, 0, 2)),
    "long box": morphology.box_rows((0, 3, 70)),
    "cylinder": morphology.cylinder_rows(3, 2),
    "column": morphology.cylinder_rows(4, 0),
    "disc across z": morphology.disc_rows(2.5),
    "disc across y": morphology.disc_rows(3, axis=1),
    "disc across x": morphology.disc_rows(3, axis=2),
    "ball": bits.ball_rows(3, (1, 1, 1)),
    "ellipsoid": bits.ball_rows(4, (2, 1, 0.5)),
}
SHAPES = [(1, 1, 1), (3, 2, 63), (2, 3, 64), (4, 3, 65), (9, 11, 70), (17, 8, 130), (70, 5, 5), (6, 70, 7)]


def paint_element(rows):
    """Turn a table of rows into the array that SciPy takes."""
    reach = np.abs(rows).max(axis=0)
    element = np.zeros(2 * reach + 1, dtype=bool)
    for dz, dy, along_x in rows:
        element[dz + reach[0], dy + reach[1], reach[2] - along_x : reach[2] + along_x + 1] = True
    return element


def make_masks(shape):
    """Noise of several densities, a wavy sheet, nothing, everything."""
    rng = np.random.default_rng(sum(shape))
    z, y, x = np.indices(shape)
    yield from (rng.random(shape) < density for density in (0.02, 0.3, 0.9))
    yield np.abs(z - shape[0] / 2 - np.sin(x / 5) - np.cos(y / 7)) < 1.2
    yield np.zeros(shape, bool)
    yield np.ones(shape, bool)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_operations_equal_scipy(shape, element):
    rows = ELEMENTS[element]
    structure = paint_element(rows)
    for mask in make_masks(shape):
        before = mask.copy()
        for found, expected in (
            (morphology.dilate_mask(mask, rows), ndimage.binary_dilation(mask, structure)),
            (morphology.erode_mask(mask, rows), ndimage.binary_erosion(mask, structure)),
            (morphology.erode_mask(mask, rows, 1), ndimage.binary_erosion(mask, structure, border_value=1)),
            (morphology.open_mask(mask, rows), ndimage.binary_opening(mask, structure)),
            (morphology.close_mask(mask, rows), ndimage.binary_closing(mask, structure)),
        ):
            assert found.dtype == bool
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(mask, before)


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 8), st.integers(1, 140)),
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 80)),
    st.integers(1, 5),
    st.integers(0, 999),
)
def test_the_number_of_threads_changes_nothing(shape, radii, n_threads, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.4
    rows = morphology.box_rows(radii)
    expected = morphology.close_mask(mask, rows)
    usual = numba.get_num_threads
    numba.get_num_threads = lambda: n_threads
    try:
        np.testing.assert_array_equal(morphology.close_mask(mask, rows), expected)
    finally:
        numba.get_num_threads = usual
    np.testing.assert_array_equal(expected, ndimage.binary_closing(mask, paint_element(rows)))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, ">i4", np.float16, np.float32, ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_type_and_order(dtype, order):
    mask = np.random.default_rng(1).random((6, 7, 70)) < 0.3
    array = np.asarray(mask * 3, dtype=dtype, order=order)
    array.flags.writeable = False
    rows = morphology.cylinder_rows(2, 1)
    np.testing.assert_array_equal(morphology.close_mask(array, rows), morphology.close_mask(mask, rows))
    np.testing.assert_array_equal(
        morphology.close_mask(array[::-1, :, ::-2], rows), morphology.close_mask(mask[::-1, :, ::-2], rows)
    )


def test_a_mask_without_voxels():
    for shape in ((0, 3, 3), (3, 0, 3), (3, 3, 0)):
        for operation in (morphology.close_mask, morphology.open_mask, morphology.dilate_mask, morphology.erode_mask):
            assert operation(np.zeros(shape, bool), morphology.box_rows(1)).shape == shape


def test_elements_by_hand():
    assert (2 * morphology.cylinder_rows(1, 2)[:, 2] + 1).sum() == 3 * 13
    assert (2 * morphology.box_rows((1, 2, 3))[:, 2] + 1).sum() == 3 * 5 * 7
    for axis in range(3):
        assert paint_element(morphology.disc_rows(2, axis)).shape == tuple(1 if a == axis else 5 for a in range(3))
        assert paint_element(morphology.disc_rows(2, axis)).sum() == 13


def test_slabs_cover_every_plane_once_and_pass_faults_on():
    for n_z in (0, 1, 2, 7):
        assert [z for slab in for_slabs(lambda start, stop: range(start, stop), n_z) for z in slab] == list(range(n_z))
    with pytest.raises(ZeroDivisionError):
        for_slabs(lambda start, stop: 1 // (stop - stop), 3)


def test_every_item_is_worked_on_once_and_faults_are_passed_on():
    for items in ([], [3], [5, 1, 4, 1]):
        assert for_each(lambda item: item**2, items) == [item**2 for item in items]
    with pytest.raises(ZeroDivisionError):
        for_each(lambda item: 1 // item, [1, 2, 0])


def test_bad_input():
    mask, rows = np.zeros((2, 2, 2), bool), morphology.box_rows(1)
    with pytest.raises(InputValueError, match="words must have 2 words along x for n_x = 65, got 1"):
        morphology.dilate_words(bits.pack_mask(mask), rows, 65)
    with pytest.raises(InputValueError, match="rows must be a table"):
        morphology.dilate_mask(mask, rows[:, :2])
    with pytest.raises(InputTypeError, match="rows must have a dtype"):
        morphology.dilate_mask(mask, rows.astype(float))
    with pytest.raises(InputValueError, match="border_value must be"):
        morphology.erode_mask(mask, rows, 2)
    with pytest.raises(InputValueError, match="axis must be"):
        morphology.disc_rows(1, 3)
    with pytest.raises(InputValueError, match="radius must be >= 0"):
        morphology.cylinder_rows(1, -1)
    with pytest.raises(InputValueError, match="mask must have 3 dimensions"):
        morphology.close_mask(mask[0], rows)
