"""Prediction on a GPU: the CPU's answer in every type, batch and transform, out of memory, processes that share the GPU."""

import gc
import logging

import numpy as np
import pytest
import torch
from helpers.competitions import make_pair, public_pipeline
from helpers.gpu import TEST_DEVICE, exact_float32, gpu_memory_of, need_a_gpu, need_units_for, small_model
from torch import nn

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import PredictConfig, RunConfig, config_to_dict
from vesuvius_kit.inference.predict import NotFiniteError, predict_ensemble, predict_volume
from vesuvius_kit.inference.submission import predict_folder, validate_submission, write_submission
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.models import list_models
from vesuvius_kit.models.checkpoint import save_checkpoint

pytestmark = pytest.mark.gpu

CPU = {"device": "cpu", "dtype": torch.float32}
GPU = {"device": TEST_DEVICE, "dtype": torch.float32}


@pytest.fixture(autouse=True)
def float32_is_exact():
    with exact_float32():
        yield


class Slope(nn.Module):
    """Logits that grow with the grey value; ``hunger`` MiB are taken for each window meanwhile."""

    def __init__(self, hunger=0):
        super().__init__()
        self.hunger = hunger
        self.most = 0

    def forward(self, image):
        taken = torch.empty(len(image) * self.hunger * 2**20, dtype=torch.uint8, device=image.device)
        self.most = max(self.most, len(image))
        logits = (image - 128) / 40
        del taken
        return logits


def volume_of(shape, seed=0):
    return np.random.default_rng(seed).integers(1, 256, shape).astype(np.uint8)


def expected_of_slope(volume):
    return 1 / (1 + np.exp(-(volume.astype(np.float64) - 128) / 40))


@pytest.mark.parametrize("name", list_models())
def test_a_gpu_gives_what_the_cpu_gives(name):
    model, volume = small_model(name), volume_of((40, 70, 52))
    settings = {"window": 32, "batch_size": 3}
    on_cpu = predict_volume(model, volume, **settings, **CPU)
    on_gpu = predict_volume(model, volume, **settings, **GPU)
    assert on_gpu.dtype == np.float32
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


@pytest.mark.parametrize("shape", [(33, 48, 61), (7, 90, 20), (1, 1, 1), (64, 64, 64)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_leave_a_pointwise_network_unchanged(shape, overlap):
    volume = volume_of(shape)
    predicted = predict_volume(Slope(), volume, window=(16, 32, 24), overlap=overlap, batch_size=4, **GPU)
    np.testing.assert_allclose(predicted, expected_of_slope(volume), atol=2e-6)


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_the_batch_does_not_change_the_answer(batch_size):
    model, volume = small_model("unet3d"), volume_of((48, 48, 64))
    one = predict_volume(model, volume, window=32, batch_size=1, **GPU)
    np.testing.assert_allclose(predict_volume(model, volume, window=32, batch_size=batch_size, **GPU), one, atol=1e-4)


@pytest.mark.parametrize("tta", ["none", "mirror4", "mirror", "seven", "cubic"])
def test_views_are_those_of_the_cpu(tta):
    if tta == "cubic":
        need_a_gpu("48 views of each window")
    model, volume = small_model("unet3d"), volume_of((32, 40, 48))
    on_cpu, on_gpu = (predict_volume(model, volume, window=32, tta=tta, **settings) for settings in (CPU, GPU))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", list_models())
def test_half_precision_is_close_to_float32(name, dtype):
    need_units_for(dtype, name)
    model, volume = small_model(name), volume_of((40, 40, 40))
    exact = predict_volume(model, volume, window=32, **GPU)
    half = predict_volume(model, volume, window=32, device=TEST_DEVICE, dtype=dtype)
    assert half.dtype == np.float32
    digits = 2**-8 if dtype == torch.bfloat16 else 2**-11
    assert np.abs(half - exact).mean() < 4 * digits
    assert np.abs(half - exact).max() < 64 * digits


def test_the_type_of_a_gpu_is_chosen_by_itself():
    volume = volume_of((32, 32, 32))
    exact = predict_volume(Slope(), volume, window=16, **GPU)
    np.testing.assert_allclose(predict_volume(Slope(), volume, window=16, device=TEST_DEVICE), exact, atol=2e-2)


def test_what_overflows_in_float16_is_predicted_in_float32(caplog):
    class Steep(nn.Module):
        """Sums that float16 cannot hold, and a small answer."""

        def __init__(self):
            super().__init__()
            self.sums = nn.Conv3d(1, 1, 1, bias=False)
            self.sums.weight.data.fill_(1e4)

        def forward(self, image):
            return self.sums(image) * 1e-6 - 1.25

    volume = volume_of((24, 24, 24))
    with caplog.at_level(logging.WARNING):
        half = predict_volume(Steep(), volume, window=16, device=TEST_DEVICE, dtype=torch.float16)
    np.testing.assert_allclose(half, predict_volume(Steep(), volume, window=16, **GPU), atol=1e-6)
    assert "float32" in caplog.text


def test_an_answer_with_nan_has_no_result():
    class Spoilt(nn.Module):
        def forward(self, image):
            return image * torch.nan

    with pytest.raises(NotFiniteError):
        predict_volume(Spoilt(), volume_of((24, 24, 24)), window=16, **GPU)


def test_an_ensemble_is_that_of_the_cpu():
    models = [small_model("unet3d"), small_model("resenc_unet")]
    volume, windows = volume_of((40, 36, 50)), [32, 16]
    on_cpu, on_gpu = (predict_ensemble(models, volume, windows=windows, **settings) for settings in (CPU, GPU))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


def test_too_large_a_batch_shrinks_and_says_so(caplog):
    need_a_gpu()
    volume = volume_of((64, 64, 64))
    hungry = Slope(hunger=64)
    with caplog.at_level(logging.WARNING), gpu_memory_of(400):
        predicted = predict_volume(hungry, volume, window=32, batch_size=16, **GPU)
    np.testing.assert_allclose(predicted, expected_of_slope(volume), atol=2e-6)
    assert 1 <= hungry.most < 16
    assert "memory" in caplog.text


def test_the_batch_that_fits_does_not_shrink(caplog):
    need_a_gpu()
    hungry = Slope(hunger=16)
    with caplog.at_level(logging.WARNING):
        predict_volume(hungry, volume_of((64, 64, 64)), window=32, batch_size=8, **GPU)
    assert hungry.most == 8
    assert not caplog.records


def test_a_volume_that_does_not_fit_is_accumulated_elsewhere(caplog):
    need_a_gpu()
    # Image and probability are 64 MiB each in float32; the windows take next to nothing.
    volume = volume_of((256, 256, 256))
    with caplog.at_level(logging.WARNING), gpu_memory_of(64):
        predicted = predict_volume(Slope(), volume, window=32, overlap=0.25, batch_size=2, **GPU)
    np.testing.assert_allclose(predicted, expected_of_slope(volume), atol=2e-6)
    assert "memory" in caplog.text


def test_a_window_that_does_not_fit_at_all_is_refused():
    need_a_gpu()
    with gpu_memory_of(200), pytest.raises(InputValueError, match="window"):
        predict_volume(Slope(hunger=1024), volume_of((32, 32, 32)), window=32, **GPU)


def test_prediction_leaves_no_memory_behind():
    need_a_gpu()
    model, volume = small_model("unet3d"), volume_of((64, 64, 64))
    held = []
    for _ in range(3):
        predict_volume(model, volume, window=32, batch_size=4, **GPU)
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[0] == held[1] == held[2]


@pytest.fixture
def work(tmp_path):
    """Four images and a run."""
    (tmp_path / "images").mkdir()
    for number, shape in enumerate([(24, 24, 24), (20, 30, 17), (18, 20, 33), (40, 33, 25)], start=1):
        write_volume(tmp_path / "images" / f"{number}.tif", make_pair(shape, number)[0])
    model = small_model("unet3d")
    save_checkpoint(tmp_path / "run" / "fold_0" / "best", model, {"config": config_to_dict(RunConfig())})
    return tmp_path


def test_two_processes_on_one_gpu_predict_what_one_predicts(work):
    predict = PredictConfig(window=(16, 16, 16), precision="fp32", device=TEST_DEVICE)
    one = predict_folder(work / "images", [work / "run"], work / "one", predict, workers=1)
    two = predict_folder(work / "images", [work / "run"], work / "two", predict, workers=2)
    assert [path.name for path in one] == [path.name for path in two]
    for path, other in zip(one, two):
        # Files hold float16, and a process of its own has TF32.
        np.testing.assert_allclose(np.load(path), np.load(other), atol=5e-3)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_submission_is_whole(work, workers):
    predict = PredictConfig(window=(16, 16, 16), batch_size=2, device=TEST_DEVICE)
    summary = write_submission(
        work / "submission.zip",
        work / "images",
        [work / "run"],
        predict,
        public_pipeline(0.3, 0.5, 1, 1, 2),
        workers=workers,
    )
    assert summary.predicted == ["1", "2", "3", "4"]
    assert validate_submission(work / "submission.zip", work / "images") == 4
