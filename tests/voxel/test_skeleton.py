"""The curve skeleton against scikit-image; the medial surface by what it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import morphology

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.voxel.euler import betti_numbers
from vesuvius_kit.voxel.skeleton import skeletonize, thin_to_surface


def make_mask(shape, density, smooth, seed):
    noise = np.random.default_rng(seed).random(shape)
    return (ndimage.gaussian_filter(noise, 1.5) > np.median(noise) if smooth else noise < density) & (density > 0)


MASKS = st.builds(
    make_mask,
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40)),
    st.sampled_from([0, 0.1, 0.5, 0.8, 1.1]),
    st.booleans(),
    st.integers(0, 9999),
)


@settings(max_examples=60)
@given(MASKS)
def test_skeleton_equals_scikit_image(mask):
    before = mask.copy()
    found = skeletonize(mask)
    np.testing.assert_array_equal(found, morphology.skeletonize(mask, method="lee") > 0)
    np.testing.assert_array_equal(mask, before)
    assert found.dtype == bool


@settings(max_examples=60)
@given(MASKS)
def test_the_surface_lies_within_and_keeps_the_topology(mask):
    surface = thin_to_surface(mask)
    assert not (surface & ~mask).any()
    assert betti_numbers(surface) == betti_numbers(mask)


@pytest.mark.parametrize("thickness", range(1, 7))
@pytest.mark.parametrize("axis", range(3))
def test_a_slab_becomes_one_plane_in_its_middle(thickness, axis):
    mask = np.zeros((24, 24, 24), bool)
    mask[8 : 8 + thickness, 2:22, 2:22] = True
    surface = np.moveaxis(thin_to_surface(np.moveaxis(mask, 0, axis)), axis, 0)
    (plane,) = np.unique(np.nonzero(surface)[0])
    assert abs(plane - (8 + (thickness - 1) / 2)) <= 0.5
    rim = thickness // 2 + 1
    assert surface[plane, 2 + rim : 22 - rim, 2 + rim : 22 - rim].all()


def test_a_shell_stays_shut_and_becomes_thin():
    z, y, x = np.indices((30, 30, 30)) - 14.5
    mask = np.abs(np.sqrt(z**2 + y**2 + x**2) - 9) < 2
    surface = thin_to_surface(mask)
    assert betti_numbers(surface) == (1, 0, 1)
    assert not ndimage.binary_erosion(surface, np.ones((2, 2, 2))).any()
    assert surface.sum() < 0.3 * mask.sum()


def test_nothing_any_order_and_bad_input():
    assert skeletonize(np.zeros((0, 3, 3))).shape == (0, 3, 3)
    assert thin_to_surface(np.zeros((3, 0, 3))).shape == (3, 0, 3)
    mask = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(12, 13, 14)), 2) > 0
    for thin in (skeletonize, thin_to_surface):
        array = np.asfortranarray(mask.astype(">f4"))
        array.flags.writeable = False
        np.testing.assert_array_equal(thin(array), thin(mask))
        with pytest.raises(InputValueError, match="mask must have 3 dimensions"):
            thin(mask[0])
