"""Where volume and answer lie must not change the answer."""

import numpy as np
import pytest
import torch

from vesuvius_kit.checks import InputError
from vesuvius_kit.inference import windows
from vesuvius_kit.inference.blending import Greys
from vesuvius_kit.inference.grid import Grid, nnunet_importance
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.inference.stores import DeviceStore, HostStore, SlabStore

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def blend_plainly(volume, greys, grid, answers):
    """Voxel by voxel: the weighted mean of what every window says."""
    total, weights = np.zeros((len(answers[0]), *grid.shape)), np.zeros(grid.shape)
    for place, answer in zip(grid.places, answers):
        z, y, x = grid.corner(place)
        block = (slice(z, z + grid.window[0]), slice(y, y + grid.window[1]), slice(x, x + grid.window[2]))
        if grid.kind == "nnunet":
            weight = nnunet_importance(grid.window).astype(np.float64)
        else:
            offsets = [(np.arange(edge) - (edge - 1) / 2) / (0.125 * edge) for edge in grid.window]
            along = [np.maximum(np.exp(-0.5 * offset**2), 1e-3) for offset in offsets]
            weight = np.multiply.outer(np.multiply.outer(along[0], along[1]), along[2])
        total[(slice(None), *block)] += weight * answer
        weights[block] += weight
    return total / weights


@pytest.mark.parametrize("kind", ["kit", "nnunet"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("store_class", [HostStore, DeviceStore, SlabStore])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_every_store_blends_as_the_plain_twin(kind, channels, store_class, batch_size):
    volume = RNG.integers(0, 256, (23, 17, 30)).astype(np.uint8)
    greys = Greys(5, 240, 100, 50)
    grid = Grid(volume.shape, (8, 6, 12), 0.4, kind)
    answers = RNG.normal(0, 1, (len(grid.places), channels, *grid.window)).astype(np.float32)
    store = store_class(volume, greys, grid, channels, CPU)
    for first in range(0, len(grid.places), batch_size):
        places = grid.places[first : first + batch_size]
        cut = store.cut(places)
        assert cut.dtype == torch.float32
        for place, window in zip(places, cut):
            z, y, x = grid.corner(place)
            part = volume[z : z + 8, y : y + 6, x : x + 12].astype(np.float32)
            np.testing.assert_allclose(window[0].numpy(), (part.clip(5, 240) - 100) / 50, rtol=1e-6)
        assert store.add(places, torch.from_numpy(answers[first : first + batch_size]), False)
    np.testing.assert_allclose(store.finish(), blend_plainly(volume, greys, grid, answers), atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64, 64), (33, 70, 41)])
def test_large_windows_are_shared_out_to_threads(shape):
    """Windows above 2**15 voxels."""
    volume = RNG.random(shape, dtype=np.float32)
    result = predict_volume(lambda image: image, volume, window=(33, 34, 35), overlap=0.5, device="cpu")
    np.testing.assert_allclose(result, 1 / (1 + np.exp(-volume)), atol=1e-6)


class SmallMemory:
    """An allocator that is full from some stores, or some batches, on."""

    def __init__(self, monkeypatch, full):
        def limited(store):
            def make(*arguments):
                self.made.append(store)
                if store in full:
                    raise torch.cuda.OutOfMemoryError("out of memory")
                return store(*arguments)

            return make

        self.made = []
        places = [(limited(store), store.__name__) for store in (DeviceStore, SlabStore, HostStore)]
        monkeypatch.setattr(windows, "_places_to_keep", lambda device: places)


@pytest.mark.parametrize("full", [[], [DeviceStore], [DeviceStore, SlabStore]])
def test_where_memory_runs_out_volume_and_answer_move(monkeypatch, caplog, full):
    volume = RNG.integers(0, 256, (20, 24, 28)).astype(np.uint8)
    settings = {"window": 8, "device": "cpu", "dtype": torch.float32, "normalisation": "volume"}
    expected = predict_volume(lambda image: image, volume, **settings)
    memory = SmallMemory(monkeypatch, full)
    result = predict_volume(lambda image: image, volume, **settings)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert memory.made == [*full, [DeviceStore, SlabStore, HostStore][len(full)]]
    assert caplog.text.count("too small for volume and answer") == len(full)


def test_where_nothing_fits_it_is_one_line(monkeypatch):
    SmallMemory(monkeypatch, [DeviceStore, SlabStore, HostStore])
    with pytest.raises(InputError, match="window must fit the memory of cpu, got 8x8x8"):
        predict_volume(lambda image: image, np.ones((9, 9, 9)), window=8, device="cpu", dtype=torch.float32)


def test_a_batch_that_does_not_fit_shrinks_before_anything_moves(monkeypatch, caplog):
    memory, batches = SmallMemory(monkeypatch, []), []

    def model(image):
        batches.append(len(image))
        if len(image) > 2 or (len(memory.made) == 1 and len(batches) > 4):
            raise torch.cuda.OutOfMemoryError("out of memory")
        return image

    predict_volume(model, np.ones((24, 24, 24)), window=8, batch_size=8, device="cpu", dtype=torch.float32)
    assert batches[:3] == [8, 4, 2]
    assert memory.made == [DeviceStore, SlabStore]
    # What did not fit once is not tried again.
    assert max(batches[3:]) <= 2
