import numpy as np
import pytest
import torch

from vesuvius_kit.inference.grid import Grid
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.inference.scan import EMPTY_EDGE, drop_empty, find_no_scan

CPU = {"device": "cpu", "dtype": torch.float32}


def find_no_scan_plainly(volume):
    """Every cube of zeros, one after the other."""
    no_scan = np.zeros(volume.shape, bool)
    depth, height, width = (length - EMPTY_EDGE + 1 for length in volume.shape)
    for z in range(max(depth, 0)):
        for y in range(max(height, 0)):
            for x in range(max(width, 0)):
                cube = (slice(z, z + EMPTY_EDGE), slice(y, y + EMPTY_EDGE), slice(x, x + EMPTY_EDGE))
                if not volume[cube].any():
                    no_scan[cube] = True
    return no_scan


@pytest.mark.parametrize("seed", range(12))
def test_it_is_every_cube_of_zeros(seed):
    rng = np.random.default_rng(seed)
    volume = rng.integers(1, 256, rng.integers(5, 30, 3)).astype(np.uint8)
    for _ in range(rng.integers(1, 6)):
        corner = rng.integers(-5, 25, 3).clip(0)
        edges = rng.integers(5, 20, 3)
        volume[tuple(slice(first, first + edge) for first, edge in zip(corner, edges))] = 0
    expected = find_no_scan_plainly(volume)
    found = find_no_scan(volume)
    np.testing.assert_array_equal(np.zeros(volume.shape, bool) if found is None else found, expected)


def test_dark_air_is_scan():
    volume = np.random.default_rng(0).integers(0, 3, (40, 40, 40)).astype(np.uint8)
    assert find_no_scan(volume) is None


def test_windows_without_scan_are_not_predicted_and_hold_no_surface():
    volume = np.full((48, 32, 32), 100, np.uint8)
    volume[:21] = 0
    seen = []

    def model(image):
        seen.extend(image.amax((1, 2, 3, 4)).tolist())
        return torch.ones_like(image)

    result = predict_volume(model, volume, window=16, **CPU)
    assert (result[:21] == 0).all()
    np.testing.assert_allclose(result[21:], 1 / (1 + np.exp(-1)), atol=1e-6)
    assert min(seen) == 100
    grid = Grid(volume.shape, (16, 16, 16), 0.5)
    assert len(seen) == len(drop_empty(grid.places, grid, volume == 0)) == 4 * 9
    everywhere = predict_volume(model, volume, window=16, skip_empty=False, **CPU)
    np.testing.assert_allclose(everywhere, 1 / (1 + np.exp(-1)), atol=1e-6)


def test_a_volume_without_any_scan_needs_no_network():
    def model(image):
        raise AssertionError("asked")

    assert not predict_volume(model, np.zeros((20, 20, 20), np.uint8), window=16, **CPU).any()
