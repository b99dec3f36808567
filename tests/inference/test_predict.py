import time

import numpy as np
import pytest
import torch
from torch import nn

from vesuvius_kit.checks import InputError
from vesuvius_kit.inference.predict import (
    NotFiniteError,
    OutOfTimeError,
    predict_ensemble,
    predict_volume,
)
from vesuvius_kit.inference.tta import VIEWS
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
    """Answers with the difference along x, so a transform that is not turned back shows."""

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


@pytest.mark.parametrize("tta", VIEWS)
def test_tta_is_turned_back(tta):
    result = predict_volume(Pointwise(), volume_of((40, 36, 44)), window=32, tta=tta, **CPU)
    plain = predict_volume(Pointwise(), volume_of((40, 36, 44)), window=32, **CPU)
    np.testing.assert_allclose(result, plain, atol=2e-6)


def test_tta_averages_probabilities():
    volume = volume_of((16, 16, 16))
    result = predict_volume(Gradient(), volume, window=16, tta="mirror", **CPU)
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


def test_windows_come_in_pairs_unless_told_otherwise():
    """A single window costs a CPU several times as much: torch leaves small convolutions of one to its slow kernel."""
    batches = []

    def model(image):
        batches.append(len(image))
        return image

    predict_volume(model, volume_of((16, 16, 40)), window=16, overlap=0.0, **CPU)
    assert batches == [2, 1]


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
    # As `predict_volume` of one model does.
    with pytest.raises(InputError, match="window must be given"):
        predict_ensemble(models, volume, **CPU)


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
        (np.zeros((4, 4, 4)), {"tta": "all"}, "tta must be one of"),
        (np.zeros((4, 4, 4)), {"tta": "seven", "window": (16, 16, 32)}, "square"),
        (np.zeros((4, 4, 4)), {"batch_size": 0}, "batch_size must be"),
        (np.zeros((4, 4, 4)), {"device": "toaster"}, "device must be"),
        (np.zeros((4, 4, 4)), {"device": "cuda:77"}, "device must exist"),
    ],
)
def test_bad_input_is_named(volume, settings, message):
    with pytest.raises(InputError, match=message):
        predict_volume(Pointwise(), volume, **{"window": 32, **settings})


def test_half_precision_volumes_are_predicted_as_others_are():
    """D3: "volume_std must be >= 0.0, got inf"."""
    volume = volume_of((24, 24, 24)).astype(np.float16)
    model = Pointwise()
    model.record = ModelRecord("pointwise", {}, Normalisation("volume"))
    expected = predict_volume(model, volume.astype(np.float32), window=16, **CPU)
    np.testing.assert_allclose(predict_volume(model, volume, window=16, **CPU), expected, atol=1e-6)


def test_a_volume_with_nan_is_refused_in_its_own_words():
    """B4: "volume_mean must be finite" named a mean that nobody gave."""
    volume = volume_of((16, 16, 16)).astype(np.float32)
    volume[1, 2, 3] = np.nan
    with pytest.raises(
        InputError, match=r"volume must hold finite grey values .* got nan at \(z, y, x\) = \(1, 2, 3\)"
    ):
        predict_volume(Pointwise(), volume, window=16, **CPU)


# A16, D5: any module or callable of the right shape is a model, and one of another is refused by what it returns.


class Bare(nn.Module):
    """A user's own network: no record, no divisor."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image):
        return self.dropout(self.convolution(image))


def test_a_module_without_record_is_fed_the_grey_values_as_they_are():
    model = Bare()
    model.convolution.eval()
    volume = volume_of((20, 24, 28)).astype(np.float32) / 255
    result = predict_volume(model, volume, window=(13, 24, 17), **CPU)
    assert (model.training, model.convolution.training, model.dropout.training) == (True, False, True)
    model.eval()
    with torch.inference_mode():
        expected = model(torch.from_numpy(volume)[None, None])[0, 0].sigmoid().numpy()
    # Where a window ends, a convolution sees zeros: compare what only the middle of windows decides.
    np.testing.assert_allclose(predict_volume(model, volume, window=volume.shape, **CPU), expected, atol=1e-6)
    assert np.abs(result - expected).max() < 0.5


def test_a_normalisation_may_be_given_and_comes_before_the_record():
    volume = volume_of((12, 12, 12))
    seen = []

    def model(image):
        seen.append(image)
        return image

    predict_volume(model, volume, window=12, **CPU)
    predict_volume(model, volume, window=12, normalisation="volume", **CPU)
    assert seen[0].dtype == torch.float32
    np.testing.assert_array_equal(seen[0][0, 0].numpy(), volume)
    np.testing.assert_allclose(seen[1].mean(), 0, atol=1e-4)
    own = predict_volume(Pointwise(), volume, window=12, **CPU)
    other = predict_volume(Pointwise(), volume, window=12, normalisation={"scheme": "fixed", "mean": 0.0}, **CPU)
    assert not np.allclose(own, other)
    assert np.allclose(predict_volume(nn.DataParallel(Pointwise()), volume, window=12, **CPU), own)


@pytest.mark.parametrize(
    "model",
    [
        lambda image: image * 0.01,
        lambda image: (image * 0.01).double(),
        lambda image: (image * 0.01).bfloat16(),
        lambda image: (image * 0.01).contiguous(memory_format=torch.channels_last_3d),
        lambda image: (image.flip(2) * 0.01).flip(2),
    ],
)
def test_a_callable_is_a_model(model):
    volume = volume_of((9, 30, 17))
    result = predict_volume(model, volume, window=(5, 16, 16), tta="mirror", **CPU)
    np.testing.assert_allclose(result, 1 / (1 + np.exp(-0.01 * volume)), atol=3e-3)


@pytest.mark.parametrize(
    ("model", "returned"),
    [
        (lambda image: torch.cat([image, image], 1), r"tensor of shape \(1, 2, 16, 16, 16\) and type float32"),
        (lambda image: image.mean((1, 2, 3, 4)), r"tensor of shape \(1,\)"),
        (lambda image: image[:, 0], r"tensor of shape \(1, 16, 16, 16\)"),
        (lambda image: image[..., ::2], r"tensor of shape \(1, 1, 16, 16, 8\)"),
        (lambda image: [image, image], r"a list of 2, the first of them a tensor of shape \(1, 1, 16, 16, 16\)"),
        (lambda image: (), r"a tuple of 0"),
        (lambda image: {"out": image}, r"a dict with the keys out"),
        (lambda image: image > 0, r"type bool"),
        (lambda image: image.long(), r"type int64"),
        (lambda image: image.numpy(), r"a NumPy array of shape \(1, 1, 16, 16, 16\)"),
        (lambda image: None, r"an object of type NoneType"),
    ],
)
def test_a_model_that_returns_something_else_is_refused_by_it(model, returned):
    with pytest.raises(
        InputError, match=rf"must return one tensor of logits of the input's shape .*, got .*{returned}"
    ):
        predict_volume(model, volume_of((16, 16, 16)), window=16, **CPU)


def test_what_is_no_model_is_refused():
    with pytest.raises(InputError, match="model must be a torch module or a callable, got str"):
        predict_volume("best", volume_of((4, 4, 4)), window=4)


# A8: a network that answers NaN.


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["everywhere", "last window"])
def test_an_answer_that_is_not_finite_is_found(bad, where):
    def model(image):
        logits = torch.zeros_like(image)
        if where == "everywhere" or image[0, 0, -1, -1, -1] == 255:
            logits[0, 0, 1, 2, 3] = bad
        return logits

    volume = np.zeros((20, 20, 20), np.uint8)
    volume[-1, -1, -1] = 255
    with pytest.raises(NotFiniteError, match=r"^fold 3 must return finite logits, got NaN or infinity in float32"):
        predict_volume(model, volume, window=8, name="fold 3", **CPU)


def test_large_logits_are_finite():
    result = predict_volume(lambda image: image * 1e36, volume_of((8, 8, 8)) + 1.0, window=8, **CPU)
    assert (result == 1).all()


def test_what_overflows_in_half_precision_is_predicted_in_single(caplog):
    calls = []

    def model(image):
        half = torch.is_autocast_enabled("cpu")
        calls.append(half)
        return torch.full_like(image, float("inf") if half else 2.0)

    volume = volume_of((8, 8, 8))
    result = predict_volume(model, volume, window=8, device="cpu", dtype=torch.float16, name="volume 7")
    assert calls == [True, False]
    np.testing.assert_allclose(result, 1 / (1 + np.exp(-2.0)), rtol=1e-6)
    assert "volume 7 must return finite logits" in caplog.text
    assert "once more, in float32" in caplog.text
    with pytest.raises(NotFiniteError, match="in float32 as well as in float16"):
        predict_volume(lambda image: image * float("nan"), volume, window=8, device="cpu", dtype=torch.float16)


def test_a_volume_that_is_not_finite_is_not_the_models_fault():
    volume = volume_of((8, 8, 8)).astype(np.float32)
    volume[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="volume must hold finite grey values"):
        predict_volume(lambda image: image, volume, window=8, **CPU)


class SmallMemory:
    """A callable network whose memory ends at batches of more than ``most``."""

    def __init__(self, most):
        self.most, self.batches = most, []

    def __call__(self, image):
        self.batches.append(len(image))
        if len(image) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return (image - image.roll(1, dims=-1)) / 50.0


@pytest.mark.parametrize(("batch_size", "warnings"), [(2, []), (3, [2]), (8, [4, 2]), (7, [4, 2])])
def test_where_memory_runs_out_the_batch_shrinks(caplog, batch_size, warnings):
    volume = volume_of((20, 24, 28))
    expected = predict_volume(SmallMemory(9), volume, window=8, batch_size=1, **CPU)
    model = SmallMemory(2)
    result = predict_volume(model, volume, window=8, batch_size=batch_size, **CPU)
    np.testing.assert_array_equal(result, expected)
    said = [record.args[-1] for record in caplog.records if "too small for so many windows" in record.message]
    assert said == warnings
    # What did not fit once is not tried again.
    assert sum(size > 2 for size in model.batches) == len(warnings)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_memory_for_not_even_one_window_is_one_line(batch_size):
    with pytest.raises(InputError, match="window must fit the memory of cpu, got 8x8x8"):
        predict_volume(SmallMemory(0), volume_of((12, 12, 12)), window=8, batch_size=batch_size, **CPU)


# A6: networks of several windows.


def test_each_model_of_an_ensemble_has_its_window_and_the_order_does_not_matter():
    torch.manual_seed(0)
    models = [create_model("unet3d", initial_filters=2, depth=1) for _ in range(3)]
    windows = [8, (4, 8, 16), 16]
    volume = volume_of((8, 17, 16))
    single = [predict_volume(model, volume, window=window, **CPU) for model, window in zip(models, windows)]
    expected = predict_ensemble(models, volume, windows=windows, **CPU)
    np.testing.assert_allclose(expected, np.mean(single, axis=0, dtype=np.float64), rtol=0, atol=1e-7)
    for order in ((1, 0, 2), (2, 1, 0)):
        turned = [[things[index] for index in order] for things in (models, windows)]
        np.testing.assert_array_equal(predict_ensemble(turned[0], volume, windows=turned[1], **CPU), expected)
    with pytest.raises(InputError, match="must be 3"):
        predict_ensemble(models, volume, windows=windows[:2], **CPU)
