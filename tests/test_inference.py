import time

import numpy as np
import pytest
import torch
from torch import nn

from vesuvius_kit.checks import InputError
from vesuvius_kit.inference import (
    VIEWS,
    OutOfTimeError,
    choose_device,
    choose_dtype,
    predict_ensemble,
    predict_volume,
)
from vesuvius_kit.models import ModelRecord, create_model
from vesuvius_kit.models.normalisation import Normalisation

CPU = {"device": "cpu", "dtype": torch.float32}


class Pointwise(nn.Module):
    """A network without context: what windows do must not change its answer."""

    size_divisor = 4
    record = ModelRecord("pointwise", {}, Normalisation("fixed", mean=100.0, std=50.0))

    def forward(self, image):
        assert all(edge % self.size_divisor == 0 for edge in image.shape[2:])
        return 3.0 * image


class Gradient(Pointwise):
    """Answers with the difference along x, so a view that is not turned back shows."""

    def forward(self, image):
        return image - image.roll(1, dims=-1)


def volume_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", [(96, 96, 96), (64, 80, 96), (61, 130, 97), (5, 7, 3), (1, 1, 1), (40, 16, 300)])
@pytest.mark.parametrize("window", [32, (16, 32, 48)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_windows_leave_a_pointwise_network_unchanged(shape, window, overlap):
    volume = volume_of(shape)
    expected = 1 / (1 + np.exp(-3 * (volume - 100.0) / 50.0))
    result = predict_volume(Pointwise(), volume, window=window, overlap=overlap, batch_size=3, **CPU)
    assert result.dtype == np.float32
    assert result.shape == shape
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize("views", VIEWS)
def test_views_are_turned_back(views):
    result = predict_volume(Pointwise(), volume_of((40, 36, 44)), window=32, views=views, **CPU)
    plain = predict_volume(Pointwise(), volume_of((40, 36, 44)), window=32, **CPU)
    np.testing.assert_allclose(result, plain, atol=2e-6)


@pytest.mark.parametrize(("views", "count"), [("none", 1), ("mirror", 8), ("seven", 7)])
def test_views_are_distinct(views, count):
    cube = torch.arange(4**3, dtype=torch.float32).reshape(1, 1, 4, 4, 4)
    turned = {tuple(turn(cube).flatten().tolist()) for turn, _ in VIEWS[views]}
    assert len(turned) == count
    for turn, turn_back in VIEWS[views]:
        assert torch.equal(turn_back(turn(cube)), cube)


def test_views_average_probabilities():
    volume = volume_of((16, 16, 16))
    result = predict_volume(Gradient(), volume, window=16, views="mirror", **CPU)
    flipped = predict_volume(Gradient(), volume[..., ::-1], window=16, **CPU)[..., ::-1]
    plain = predict_volume(Gradient(), volume, window=16, **CPU)
    np.testing.assert_allclose(result, (plain + flipped) / 2, atol=1e-5)


def test_batch_size_and_memory_order_do_not_matter():
    model = create_model("unet3d", initial_filters=4, depth=2)
    volume = volume_of((40, 44, 48))
    results = [
        predict_volume(model, array, window=32, batch_size=batch_size, **CPU)
        for array, batch_size in [
            (volume, 1),
            (volume, 5),
            (np.asfortranarray(volume), 2),
            (volume.astype(np.float64), 2),
        ]
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-4)


def test_normalisation_is_that_of_the_record():
    model = create_model("unet3d", initial_filters=4, depth=2, normalisation="volume")
    volume = volume_of((32, 32, 32))
    brighter = volume * 0.5 + 60.0
    first, second = (predict_volume(model, array, window=32, **CPU) for array in (volume, brighter))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_the_input_is_not_modified_and_the_window_may_exceed_it():
    volume = volume_of((10, 12, 14))
    copy = volume.copy()
    predict_volume(Pointwise(), volume, window=32, **CPU)
    np.testing.assert_array_equal(volume, copy)


def test_an_ensemble_is_the_mean():
    models = [create_model("unet3d", initial_filters=4, depth=2) for _ in range(2)]
    volume = volume_of((32, 32, 32))
    single = [predict_volume(model, volume, window=16, **CPU) for model in models]
    np.testing.assert_allclose(predict_ensemble(models, volume, window=16, **CPU), np.mean(single, axis=0), atol=1e-6)
    with pytest.raises(InputError, match="at least one model"):
        predict_ensemble([], volume, window=16)


def test_bfloat16_stays_close():
    model = create_model("unet3d", initial_filters=4, depth=2)
    volume = volume_of((32, 32, 32))
    exact = predict_volume(model, volume, window=32, **CPU)
    fast = predict_volume(model, volume, window=32, device="cpu", dtype=torch.bfloat16)
    assert np.abs(exact - fast).mean() < 0.02


def test_a_deadline_stops_between_windows():
    with pytest.raises(OutOfTimeError):
        predict_volume(Pointwise(), volume_of((32, 32, 32)), window=16, deadline=time.monotonic() - 1, **CPU)


@pytest.mark.parametrize(
    ("volume", "settings", "message"),
    [
        (np.zeros((4, 4)), {}, "volume must have 3 dimensions"),
        (np.zeros((0, 4, 4)), {}, "volume must not be empty"),
        (np.zeros((4, 4, 4), complex), {}, "volume must have a dtype"),
        (np.zeros((4, 4, 4)), {"window": 30}, "window must be multiples of 4"),
        (np.zeros((4, 4, 4)), {"window": (32, 32)}, "window must have 3 values"),
        (np.zeros((4, 4, 4)), {"overlap": 1.0}, "overlap must be"),
        (np.zeros((4, 4, 4)), {"views": "all"}, "views must be one of"),
        (np.zeros((4, 4, 4)), {"views": "seven", "window": (16, 16, 32)}, "square"),
        (np.zeros((4, 4, 4)), {"batch_size": 0}, "batch_size must be"),
        (np.zeros((4, 4, 4)), {"device": "toaster"}, "device must be"),
        (np.zeros((4, 4, 4)), {"device": "cuda:77"}, "device must exist"),
    ],
)
def test_bad_input_is_named(volume, settings, message):
    with pytest.raises(InputError, match=message):
        predict_volume(Pointwise(), volume, **{"window": 32, **settings})


def test_precision_by_name():
    cpu = choose_device("cpu")
    assert choose_dtype("auto", cpu) == torch.bfloat16
    assert choose_dtype("fp32", cpu) == torch.float32
    with pytest.raises(InputError, match="precision must be one of"):
        choose_dtype("fp64", cpu)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_processor_gives():
    model = create_model("unet3d", initial_filters=8, depth=2)
    volume = volume_of((61, 130, 97))
    on_cpu = predict_volume(model, volume, window=64, **CPU)
    on_gpu = predict_volume(model, volume, window=64, device="cuda", dtype=torch.float32)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=2e-3)
