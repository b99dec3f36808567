import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from vesuvius_kit.checks import InputError
from vesuvius_kit.postprocess import (
    close_ball,
    close_cylinder,
    fill_cavities,
    hysteresis_threshold,
    remove_small_components,
    ridge_filter,
    simple_mask,
    smooth_octants,
    topo_postprocess,
)

FULLY_CONNECTED = np.ones((3, 3, 3), dtype=bool)
PUBLIC_SETTINGS = [(0.35, 0.85, 3, 2, 100), (0.50, 0.90, 3, 2, 100), (0.25, 0.80, 3, 2, 200), (0.15, 0.50, 3, 1, 150)]


def smooth_probability(shape=(40, 44, 37), seed=0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (0.5 + noise / (4 * max(noise.std(), 1e-9))).clip(0, 1).astype(np.float32)


def public_composition(probability, t_low, t_high, z_radius, xy_radius, dust_min_size):
    """The public function, written from its description with SciPy and scikit-image."""
    from skimage.measure import label

    kind = probability.dtype.type
    strong = probability >= kind(t_high)
    if not strong.any():
        return np.zeros(probability.shape, bool)
    mask = ndimage.binary_propagation(strong, mask=probability >= kind(t_low), structure=FULLY_CONNECTED)
    if z_radius or xy_radius:
        y, x = np.mgrid[-xy_radius : xy_radius + 1, -xy_radius : xy_radius + 1]
        mask = ndimage.binary_closing(mask, np.stack([y**2 + x**2 <= xy_radius**2] * (2 * z_radius + 1)))
    components = label(mask, connectivity=1)
    sizes = np.bincount(components.ravel())
    return mask & (sizes[components] >= dust_min_size)


@pytest.mark.parametrize("setting", PUBLIC_SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_topo_postprocess_equals_the_public_composition(setting, seed):
    probability = smooth_probability(seed=seed)
    result = topo_postprocess(probability, *setting)
    assert result.dtype == bool
    np.testing.assert_array_equal(result, public_composition(probability, *setting))


@pytest.mark.parametrize("setting", PUBLIC_SETTINGS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 9, 64), (13, 1, 65), (30, 31, 63), (20, 70, 3), (9, 21, 129)], ids=str
)
def test_topo_postprocess_of_odd_shapes(shape, setting):
    probability = smooth_probability(shape, seed=5)
    before = probability.copy()
    np.testing.assert_array_equal(topo_postprocess(probability, *setting), public_composition(probability, *setting))
    np.testing.assert_array_equal(probability, before)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4", ">f8", ">f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_float_type_order_and_read_only_input(dtype, order):
    # Values on the thresholds, as each type rounds them: there a comparison in another type goes wrong.
    rng = np.random.default_rng(3)
    levels = np.array([0.1, 0.35, np.nextafter(0.35, 0), 0.85, np.nextafter(0.85, 1), 0.9, 0.2])
    probability = np.asarray(levels[rng.integers(0, 7, (9, 12, 70))].astype(dtype), order=order)
    probability.flags.writeable = False
    setting = (0.35, 0.85, 1, 1, 20)
    np.testing.assert_array_equal(topo_postprocess(probability, *setting), public_composition(probability, *setting))
    part = probability[::-1, ::2, 1::3]
    np.testing.assert_array_equal(topo_postprocess(part, *setting), public_composition(part, *setting))


@given(arrays(np.float32, (5, 6, 4), elements=st.floats(0, 1, width=32)), st.floats(0, 1), st.floats(0, 1))
def test_hysteresis_equals_propagation(probability, one, other):
    low, high = sorted((one, other))
    expected = ndimage.binary_propagation(
        probability >= np.float32(high), mask=probability >= np.float32(low), structure=FULLY_CONNECTED
    )
    np.testing.assert_array_equal(hysteresis_threshold(probability, low, high), expected)


def test_thresholds_are_rounded_to_the_type():
    probability = np.full((2, 2, 2), np.float32(0.35))
    assert hysteresis_threshold(probability, 0.35, 0.35).all()


def test_no_voxels():
    for shape in ((0, 3, 3), (3, 0, 3), (3, 3, 0)):
        probability = np.zeros(shape, np.float32)
        assert topo_postprocess(probability).shape == shape
        assert smooth_octants(probability, 1).shape == ridge_filter(probability).shape == shape
        assert close_ball(probability, 2).shape == fill_cavities(probability).shape == shape


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_and_a_full_volume_pass_through(value):
    probability = np.full((12, 13, 14), value, np.float32)
    assert topo_postprocess(probability, 0.3, 0.6, 0, 0, 10).all() == bool(value)
    assert simple_mask(np.full((12, 13, 14), 7, np.uint8)).sum() == 0


def test_a_closing_of_radius_zero_is_a_copy():
    mask = smooth_probability() > 0.6
    result = close_cylinder(mask, 0, 0)
    np.testing.assert_array_equal(result, mask)
    assert result is not mask


def test_the_cylinder_bridges_along_z_as_far_as_its_height():
    mask = np.zeros((20, 9, 9), dtype=bool)
    mask[4:8, 2:7, 2:7] = mask[11:15, 2:7, 2:7] = True
    assert close_cylinder(mask, 2, 0)[9, 4, 4]
    assert not close_cylinder(mask, 1, 0)[9, 4, 4]


def test_dust_is_measured_in_six_connected_voxels():
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[0, 0, :3] = mask[1, 1, 3] = mask[4, 4, 4] = True
    kept = remove_small_components(mask, 3)
    assert kept.sum() == 3
    assert kept[0, 0, :3].all()


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("min_size", [0, 1, 4, 30])
def test_dust_equals_counting(connectivity, min_size):
    mask = np.random.default_rng(connectivity).random((9, 17, 66)) < 0.12
    labels, _ = ndimage.label(mask, ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity]))
    expected = mask & (np.bincount(labels.ravel())[labels] >= min_size)
    np.testing.assert_array_equal(remove_small_components(mask, min_size, connectivity), expected)


@pytest.mark.parametrize("radius", [0, 1, 2.5, 3, 7])
def test_a_ball_closes_as_scipy(radius):
    mask = smooth_probability((21, 22, 67)) > 0.6
    reach = int(radius)
    z, y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    expected = ndimage.binary_closing(mask, z**2 + y**2 + x**2 <= radius**2)
    np.testing.assert_array_equal(close_ball(mask, radius), expected)


def test_cavities_are_filled_as_scipy_fills_them():
    mask = smooth_probability((21, 22, 67)) > 0.35
    np.testing.assert_array_equal(fill_cavities(mask), ndimage.binary_fill_holes(mask))
    assert fill_cavities(mask).sum() > mask.sum()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_octants_are_smoothed_alone(dtype):
    probability = smooth_probability((21, 22, 37)).astype(dtype)
    smoothed = smooth_octants(probability, 1.5)
    assert smoothed.dtype == np.dtype(dtype).newbyteorder("=")
    octant = np.s_[11:, :11, 19:]
    expected = ndimage.gaussian_filter(probability[octant].astype(np.float32), 1.5, mode="nearest")
    np.testing.assert_allclose(smoothed[octant], expected, atol=1e-3 if dtype is np.float16 else 1e-6)
    np.testing.assert_array_equal(smooth_octants(probability, 0), probability)
    assert not np.shares_memory(smooth_octants(probability, 0), probability)
    for value in (0, 1):
        assert (smooth_octants(np.full((9, 9, 9), value, np.float32), 2) == value).all()


def test_the_ridge_filter_finds_a_faint_sheet_in_noise():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(40, 40, 40)).astype(np.float32)
    volume[:, 18:21] += 1.5
    ridges = ridge_filter(volume, 2)
    assert ridges[8:-8, 19, 8:-8].mean() > 3 * ridges[8:-8, :12, 8:-8].mean()
    np.testing.assert_allclose(ridge_filter(-volume, 2, dark=True), ridges, atol=1e-6)


def test_kernels_mean_the_same_without_the_compiler():
    """The kernels as plain Python, on volumes small enough for that."""
    code = """
import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize as peer
from vesuvius_kit.postprocess import close_ball, fill_cavities, ridge_filter, topo_postprocess
from vesuvius_kit.voxel import distance, euler, skeleton
rng = np.random.default_rng(0)
probability = ndimage.gaussian_filter(rng.random((6, 7, 66)), 1).astype(np.float32)
probability = (probability - probability.min()) / np.ptp(probability)
weak = probability >= np.float32(0.4)
mask = ndimage.binary_propagation(probability >= np.float32(0.6), np.ones((3, 3, 3)), mask=weak)
y, x = np.mgrid[-1:2, -1:2]
mask = ndimage.binary_closing(mask, np.stack([y**2 + x**2 <= 1] * 3))
labels, _ = ndimage.label(mask)
expected = mask & (np.bincount(labels.ravel())[labels] >= 30)
assert np.array_equal(topo_postprocess(probability, 0.4, 0.6, 1, 1, 30), expected)
assert np.array_equal(fill_cavities(weak), ndimage.binary_fill_holes(weak))
assert np.array_equal(skeleton.skeletonize(weak), peer(weak, method="lee") > 0)
assert euler.betti_numbers(skeleton.thin_to_surface(weak)) == euler.betti_numbers(weak)
assert euler.euler_of_components(labels, 6).sum() == euler.euler_number(mask, 6)
assert np.array_equal(distance.measure_distance(weak, 99), ndimage.distance_transform_edt(weak).astype(np.float32))
assert ridge_filter(probability[:, :, :9]).max() > 0
assert close_ball(weak, 1).sum() > 0
print("same")
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "same", done.stderr


def test_the_simple_mask_finds_a_bright_sheet():
    volume = np.full((40, 40, 40), 60, np.uint8)
    volume[:, 18:23] = 120
    mask = simple_mask(volume, share=0.1)
    assert mask[20, 20, 20]
    assert not mask[20, 5, 20]
    assert mask.mean() < 0.15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hysteresis_threshold(np.full((2, 2, 2), np.nan, np.float32), 0.1, 0.2), "without NaN"),
        (
            lambda: hysteresis_threshold(np.full((2, 2, 2), 1.5, np.float32), 0.1, 0.2),
            r"probability must lie in \[0, 1\]",
        ),
        (lambda: hysteresis_threshold(np.zeros((2, 2, 2), np.float32), 0.3, 0.2), "t_high must be >= 0.3"),
        (lambda: hysteresis_threshold(np.zeros((2, 2, 2), np.uint8), 0.1, 0.2), "probability must have a dtype"),
        (lambda: hysteresis_threshold(np.zeros((2, 2), np.float32), 0.1, 0.2), "probability must have 3 dimensions"),
        (lambda: close_cylinder(np.zeros((2, 2, 2), bool), -1, 0), "z_radius must be >= 0"),
        (lambda: remove_small_components(np.zeros((2, 2, 2), bool), -1), "min_size must be >= 0"),
        (lambda: remove_small_components(np.zeros((2, 2, 2), bool), 1, 4), "connectivity must be 6, 18 or 26, got 4"),
        (lambda: close_ball(np.zeros((2, 2, 2), bool), -1), "radius must be >= 0"),
        (lambda: close_cylinder(np.zeros((2, 2), bool), 1, 1), "mask must have 3 dimensions"),
        (lambda: topo_postprocess(np.zeros((2, 2, 2), np.float32), z_radius=1.5), "z_radius must be an integer"),
        (lambda: topo_postprocess(np.zeros((2, 2, 2), np.float32), dust_min_size=-1), "dust_min_size must be >= 0"),
        (lambda: topo_postprocess(np.full((2, 2, 2), -0.1, np.float16)), r"probability must lie in \[0, 1\]"),
        (lambda: topo_postprocess(np.full((2, 2, 65), np.nan, np.longdouble)), "without NaN"),
        (lambda: topo_postprocess(np.zeros((2, 2, 2), np.float32), 0.5, 1.5), "t_high must be"),
        (lambda: smooth_octants(np.zeros((2, 2, 2), np.float32), -1), "sigma must be >= 0"),
        (lambda: smooth_octants(np.full((2, 2, 2), 2, np.float32), 1), r"probability must lie in \[0, 1\]"),
        (lambda: ridge_filter(np.full((2, 2, 2), np.inf)), "volume must be finite"),
        (lambda: ridge_filter(np.zeros((2, 2, 2)), 0), "sigma must be > 0"),
        (lambda: simple_mask(np.zeros((2, 2, 2)), share=0), "share must be > 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
