"""Resampling against nnU-Net's own functions, where it is installed, and by hand."""

import numpy as np
import pytest

from vesuvius_kit.models.resampling import find_coarse_axis, resample_channels, resampled_shape
from vesuvius_kit.models.rules import Interpolation

SHAPES = [((7, 12, 9), (11, 8, 9)), ((6, 10, 10), (12, 20, 20)), ((20, 9, 14), (7, 9, 5)), ((1, 5, 5), (2, 5, 9))]
SPACINGS = [
    ((1.0, 1.0, 1.0), (0.5, 1.5, 1.0)),
    ((4.0, 1.0, 1.0), (2.0, 1.0, 1.0)),
    ((1.0, 4.0, 1.0), (1.0, 1.0, 1.0)),
    ((1.0, 1.0, 1.0), (1.0, 1.0, 7.0)),
    ((4.0, 4.0, 1.0), (1.0, 1.0, 1.0)),
    ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("shape", "new_shape"), SHAPES)
@pytest.mark.parametrize(("spacing", "new_spacing"), SPACINGS)
@pytest.mark.parametrize(
    "interpolation", [Interpolation(3), Interpolation(1), Interpolation(0), Interpolation(3, 1)], ids=str
)
def test_resampling_is_nnunets(shape, new_shape, spacing, new_spacing, interpolation):
    theirs = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    data = noise((2, *shape))
    expected = theirs.resample_data_or_seg_to_shape(
        data.copy(),
        new_shape,
        spacing,
        new_spacing,
        order=interpolation.order,
        order_z=interpolation.order_z,
        force_separate_z=interpolation.separate_z,
    )
    resampled = resample_channels(data, new_shape, spacing, new_spacing, interpolation)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled, expected, atol=5e-6)


@pytest.mark.parametrize("separate_z", [True, False])
@pytest.mark.parametrize(("spacing", "new_spacing"), SPACINGS)
def test_a_forced_axis_is_nnunets(spacing, new_spacing, separate_z):
    theirs = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    data = noise((1, 6, 7, 8))
    expected = theirs.resample_data_or_seg_to_shape(
        data.copy(), (9, 5, 11), spacing, new_spacing, order=3, order_z=0, force_separate_z=separate_z
    )
    resampled = resample_channels(data, (9, 5, 11), spacing, new_spacing, Interpolation(3, 0, separate_z))
    np.testing.assert_allclose(resampled, expected, atol=5e-6)


@pytest.mark.parametrize(("spacing", "new_spacing"), SPACINGS)
def test_linear_resampling_is_torchs_variant_too(spacing, new_spacing):
    theirs = pytest.importorskip("nnunetv2.preprocessing.resampling.resample_torch")
    data = noise((2, 6, 7, 8))
    expected = theirs.resample_torch_fornnunet(data.copy(), (13, 5, 11), spacing, new_spacing, num_threads=1)
    resampled = resample_channels(data, (13, 5, 11), spacing, new_spacing, Interpolation(1))
    np.testing.assert_allclose(resampled, expected, atol=5e-6)


@pytest.mark.parametrize(("spacing", "new_spacing"), SPACINGS)
@pytest.mark.parametrize("shape", [(7, 12, 9), (320, 111, 5), (1, 3, 2)])
def test_shapes_are_nnunets(shape, spacing, new_spacing):
    theirs = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    expected = np.maximum(theirs.compute_new_shape(shape, spacing, new_spacing), 1)
    assert resampled_shape(shape, spacing, new_spacing) == tuple(expected)


def test_equal_shapes_are_the_array_itself():
    data = noise((1, 4, 5, 6))
    assert resample_channels(data, (4, 5, 6), (1, 1, 1), (1, 1, 1.0001), Interpolation(3)) is data


def test_constants_stay_and_lines_stay_lines():
    data = np.full((1, 5, 6, 7), 3.0, np.float32)
    data[0] += np.arange(7)
    resampled = resample_channels(data, (9, 6, 21), (1, 1, 1), (1, 1, 1), Interpolation(1))
    # Voxels are intervals: between their centres a line stays one, at three samples a voxel.
    np.testing.assert_allclose(resampled[0, 4, 3, 1:-1], 3 + np.arange(0, 6.1, 1 / 3), atol=1e-5)


def test_splines_stay_between_the_extremes():
    step = np.zeros((1, 8, 8, 8), np.float32)
    step[:, :, :, 4:] = 1
    resampled = resample_channels(step, (8, 8, 24), (1, 1, 1), (1, 1, 1), Interpolation(3))
    assert resampled.min() == 0
    assert resampled.max() == 1


def test_the_coarse_axis():
    automatic = Interpolation(3)
    assert find_coarse_axis((3.0, 1, 1), (1, 1, 1), automatic) is None
    assert find_coarse_axis((3.1, 1, 1), (1, 1, 1), automatic) == 0
    assert find_coarse_axis((1, 1, 1), (1, 5, 1), automatic) == 1
    assert find_coarse_axis((4, 4, 1), (1, 1, 1), automatic) is None
    assert find_coarse_axis((1, 1, 2), (1, 1, 1), Interpolation(3, 0, True)) == 2
    assert find_coarse_axis((1, 1, 1), (9, 1, 1), Interpolation(3, 0, True)) is None
    assert find_coarse_axis((9, 1, 1), (1, 1, 1), Interpolation(3, 0, False)) is None
