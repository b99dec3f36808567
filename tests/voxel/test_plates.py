"""Smoothing in slabs against SciPy; plates against eigenvalues by LAPACK."""

import numpy as np
import pytest
from scipy import ndimage

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.voxel.plates import measure_plates, smooth_volume


def naive_plates(volume, sigma):
    smooth = ndimage.gaussian_filter(volume.astype(np.float32), sigma, mode="nearest").astype(float)
    padded = np.pad(smooth, 1, mode="edge")

    def at(dz, dy, dx):
        return padded[tuple(slice(1 + d, 1 + d + n) for d, n in zip((dz, dy, dx), volume.shape))]

    hessian = np.empty((*volume.shape, 3, 3))
    unit = np.eye(3, dtype=int)
    for i in range(3):
        hessian[..., i, i] = at(*unit[i]) + at(*-unit[i]) - 2 * smooth
        for j in range(i):
            a, b = unit[i] + unit[j], unit[i] - unit[j]
            hessian[..., i, j] = hessian[..., j, i] = (at(*a) + at(*-a) - at(*b) - at(*-b)) / 4
    values = np.linalg.eigvalsh(hessian)
    values = np.take_along_axis(values, np.argsort(np.abs(values), axis=-1), axis=-1)
    squares = (values**2).sum(axis=-1)
    ratio = values[..., 1] / np.where(values[..., 2] == 0, 1, values[..., 2])
    measure = np.exp(-(ratio**2) / 0.5) * (1 - np.exp(-2 * squares / squares.max()))
    return np.where(values[..., 2] < 0, measure, 0)


@pytest.mark.parametrize("dark", [False, True])
def test_plates_equal_lapack(dark):
    volume = np.random.default_rng(0).normal(size=(14, 15, 16))
    expected = naive_plates(-volume if dark else volume, 1.5)
    found = measure_plates(volume, 1.5, dark)
    assert found.dtype == np.float32
    # Where eigenvalues of both signs are equally large the sign is a matter of the last bit.
    assert (np.abs(found - expected) < 1e-4).mean() > 0.999


@pytest.mark.parametrize("axis", range(3))
def test_a_sheet_outshines_a_line_and_a_blob(axis):
    volume = np.zeros((40, 40, 40))
    volume[8:10] = 1
    volume[20:22, 20:22] = 1
    volume[30:32, 10:12, 10:12] = 1
    plates = np.moveaxis(measure_plates(np.moveaxis(volume, 0, axis), 1.5), axis, 0)
    assert plates[8:10, 20, 20].min() > 0.5
    assert plates[20:22, 20:22, 30].max() < 0.5 * plates[8, 20, 20]
    assert plates[30, 10, 10] < 0.5 * plates[8, 20, 20]
    assert plates[14, 20, 20] == 0
    assert not measure_plates(np.full((5, 5, 5), 3.0), 1).any()


@pytest.mark.parametrize("sigma", [0, 0.7, 3])
def test_smoothing_in_slabs_equals_scipy(sigma):
    volume = np.random.default_rng(0).random((21, 9, 11), dtype=np.float32)
    np.testing.assert_array_equal(smooth_volume(volume, sigma), ndimage.gaussian_filter(volume, sigma, mode="nearest"))
    assert smooth_volume(np.zeros((0, 2, 2)), sigma).shape == (0, 2, 2)


def test_bad_input():
    with pytest.raises(InputValueError, match="sigma must be > 0"):
        measure_plates(np.zeros((2, 2, 2)), 0)
