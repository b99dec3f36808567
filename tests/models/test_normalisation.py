"""Grey values to network input, alike for arrays and tensors."""

import numpy as np
import pytest
import torch

from vesuvius_kit.checks import InputError, InputTypeError, InputValueError
from vesuvius_kit.models import Normalisation
from vesuvius_kit.models.normalisation import grey_statistics

VOLUME = np.array([[[0, 50], [100, 250]]], dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_volume_scheme_uses_the_whole_volumes_statistics(dtype):
    volume = VOLUME.astype(dtype)
    result = Normalisation().apply(volume, volume.mean(), volume.std())
    assert result.dtype == np.float32
    assert result.mean() == pytest.approx(0, abs=1e-6)
    assert result.std() == pytest.approx(1, rel=1e-6)
    patch = Normalisation().apply(volume[..., :1], volume.mean(), volume.std())
    np.testing.assert_array_equal(patch, result[..., :1])
    assert volume[0, 1, 1] == 250  # the input is left alone


def test_fixed_scheme_by_hand():
    result = Normalisation("fixed", mean=100.0, std=50.0).apply(VOLUME, 1.0, 2.0)
    np.testing.assert_array_equal(result, np.float32([[[-2, -1], [0, 3]]]))


@pytest.mark.parametrize("normalisation", [Normalisation(), Normalisation("fixed", 90.0, 41.0)])
def test_tensors_give_what_arrays_give(normalisation):
    array = normalisation.apply(VOLUME, VOLUME.mean(), VOLUME.std())
    tensor = normalisation.apply(torch.from_numpy(VOLUME), VOLUME.mean(), VOLUME.std())
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_constant_volume_gives_zeros(make):
    result = Normalisation().apply(make(np.full((2, 3, 4), 7, np.uint8)), 7.0, 0.0)
    assert result.shape == (2, 3, 4)
    assert not np.asarray(result).any()


def test_empty_input_gives_an_empty_result():
    assert Normalisation().apply(np.zeros((0, 3, 3), np.uint8), 0.0, 1.0).shape == (0, 3, 3)


def test_of_takes_what_a_configuration_holds():
    expected = Normalisation("fixed", 1.0, 2.0)
    assert Normalisation.of(expected) is expected
    assert Normalisation.of({"scheme": "fixed", "mean": 1, "std": 2}) == expected
    assert Normalisation.of("volume") == Normalisation()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("minmax", "normalisation scheme must be one of ct, fixed, none, .*, got 'minmax'"),
        ({"sheme": "fixed"}, "got 'sheme'"),
        ({"scheme": "fixed", "std": 0.0}, "normalisation std must be > 0.0"),
        ({"scheme": "fixed", "mean": float("nan")}, "normalisation mean"),
        (3, "normalisation must be a name or a mapping, got int"),
    ],
)
def test_bad_settings_are_refused(value, message):
    with pytest.raises(InputError, match=message):
        Normalisation.of(value)


def test_bad_input_is_refused():
    with pytest.raises(InputTypeError, match="array must be a NumPy array or a tensor, got list"):
        Normalisation().apply([1, 2], 0.0, 1.0)
    with pytest.raises(InputValueError, match="volume_std"):
        Normalisation().apply(VOLUME, 0.0, -1.0)
    with pytest.raises(InputValueError, match="volume_mean"):
        Normalisation().apply(VOLUME, float("nan"), 1.0)


def test_statistics_of_half_precision_are_finite_and_right():
    """D3: NumPy's own deviation of float16 is infinite from 160^3 voxels on, for values of 0 to 1 too."""
    volume = np.random.default_rng(0).random((160, 160, 160), dtype=np.float32).astype(np.float16)
    with np.errstate(over="ignore"):
        assert not np.isfinite(volume.std())
    mean, std = grey_statistics(volume)
    exact = volume.astype(np.float64)
    assert (mean, std) == pytest.approx((exact.mean(), exact.std()), rel=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_statistics_of_integers_are_numpys(dtype):
    volume = VOLUME.astype(dtype)
    assert grey_statistics(volume) == pytest.approx((float(volume.mean()), float(volume.std())), rel=1e-13)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -3.4e38])
def test_statistics_refuse_what_is_no_grey_value(value):
    """B4"""
    volume = VOLUME.astype(np.float32)
    volume[0, 1, 0] = value
    with pytest.raises(InputValueError, match=r"volume must hold finite grey values .* at \(z, y, x\) = \(0, 1, 0\)"):
        grey_statistics(volume)
