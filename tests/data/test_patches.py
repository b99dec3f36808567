import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from vesuvius_kit.checks import InputError, InputNotFoundError, InputTypeError, InputValueError
from vesuvius_kit.data import patches
from vesuvius_kit.data.augment import Augmentation
from vesuvius_kit.data.competition import Chunk
from vesuvius_kit.data.patches import PatchDataset
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.models.normalisation import Normalisation

SHAPE = (20, 24, 28)


def write_chunk(folder, id_, image, label):
    for part, volume in (("image", image), ("label", label)):
        write_volume(folder / f"{id_}-{part}.tif", volume)
    return Chunk(id_, "scroll", folder / f"{id_}-image.tif", folder / f"{id_}-label.tif")


def write_random_chunk(folder, id_, shape=SHAPE, seed=0):
    """A chunk whose label is a function of its image, so that their alignment can be seen in any patch."""
    image = np.random.default_rng([seed, int(id_)]).integers(0, 256, shape, dtype=np.uint8)
    return write_chunk(folder, id_, image, image % 3)


def write_marked_chunk(folder, id_, shape=SHAPE):
    """A chunk whose grey value is its number."""
    return write_chunk(folder, id_, np.full(shape, int(id_), np.uint8), np.zeros(shape, np.uint8))


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    return [write_random_chunk(folder, str(number)) for number in range(5)]


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marked")
    return [write_marked_chunk(folder, str(number)) for number in range(1, 6)]


def make_dataset(chunks, **options):
    return PatchDataset(chunks, **({"patch_size": 8, "samples_per_epoch": 24} | options))


def make_full_dataset(chunks, **options):
    return make_dataset(chunks, normalise=Normalisation(), augmentation=Augmentation("light"), **options)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


def find_volumes(dataset, indices=None):
    indices = range(len(dataset)) if indices is None else indices
    return [int(dataset[index]["image"].max()) for index in indices]


def test_what_an_item_is(chunks):
    dataset = make_dataset(chunks, patch_size=(4, 6, 8))
    assert len(dataset) == 24
    item = dataset[0]
    assert (item["image"].shape, item["image"].dtype) == ((1, 4, 6, 8), torch.float32)
    assert (item["label"].shape, item["label"].dtype) == ((4, 6, 8), torch.uint8)
    for index in (-1, 24):
        with pytest.raises(IndexError, match=r"index must be in \[0, 24\)"):
            dataset[index]


def test_an_item_is_the_same_in_any_order_and_after_a_resume(chunks):
    used = make_full_dataset(chunks, seed=3)
    used.set_epoch(2)
    forward = [used[index] for index in range(24)]
    backward = [used[index] for index in reversed(range(24))][::-1]
    resumed = make_full_dataset(chunks, seed=3, cache_volumes=4)
    resumed.set_epoch(2)
    for index in range(24):
        assert_same(forward[index], backward[index])
    assert_same(resumed[17], forward[17])


def test_an_item_is_the_same_in_another_process(chunks):
    dataset = make_full_dataset(chunks, samples_per_epoch=8)
    alone = [dataset[index] for index in range(8)]
    loader = DataLoader(dataset, batch_size=2, num_workers=2)
    for number, batch in enumerate(loader):
        for row in range(2):
            assert_same({key: batch[key][row] for key in batch}, alone[2 * number + row])


def test_a_new_epoch_reaches_lasting_and_new_processes(chunks):
    dataset = make_dataset(chunks, samples_per_epoch=4)
    loaders = [DataLoader(dataset, num_workers=1, persistent_workers=lasting) for lasting in (True, False)]
    seen = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        expected = [dataset[index] for index in range(4)]
        seen.append(torch.stack([item["image"] for item in expected]))
        for loader in loaders:
            for batch, item in zip(loader, expected, strict=True):
                assert_same({key: batch[key][0] for key in batch}, item)
    assert not torch.equal(*seen)


def test_seed_epoch_and_index_each_change_the_patch(chunks):
    def take(seed, epoch, index):
        dataset = make_dataset(chunks[:1], seed=seed)
        dataset.set_epoch(epoch)
        return dataset[index]["image"].numpy().tobytes()

    assert len({take(0, 0, 0), take(1, 0, 0), take(0, 1, 0), take(0, 0, 1)}) == 4


def test_image_and_label_stay_aligned(chunks):
    dataset = make_dataset(chunks, augmentation=Augmentation("symmetries"), samples_per_epoch=40)
    for index in range(40):
        item = dataset[index]
        torch.testing.assert_close(item["image"][0].to(torch.uint8) % 3, item["label"])


def test_augmentation_seeds_differ_between_samples(chunks):
    seeds = []

    def record(image, label, seed):
        seeds.append(seed)
        return image, label

    dataset = make_dataset(chunks, augmentation=record)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        find_volumes(dataset)
    assert len(set(seeds)) == 48


def test_every_volume_is_visited_equally_often(marked):
    dataset = make_dataset(marked, samples_per_epoch=40, patches_per_volume=4, cache_volumes=2)
    assert Counter(find_volumes(dataset)) == dict.fromkeys(range(1, 6), 8)
    dataset = make_dataset(marked, samples_per_epoch=3, patches_per_volume=1, cache_volumes=1)
    seen = Counter()
    for epoch in range(5):
        dataset.set_epoch(epoch)
        seen.update(find_volumes(dataset))
    assert seen == dict.fromkeys(range(1, 6), 3), "the shuffled order runs on over the epochs"


def test_a_batch_holds_different_volumes(marked):
    dataset = make_dataset(marked[:4], samples_per_epoch=64, patches_per_volume=4, cache_volumes=4)
    volumes = find_volumes(dataset)
    for first in range(0, 64, 4):
        assert len(set(volumes[first : first + 4])) == 4
    dataset.set_epoch(1)
    assert find_volumes(dataset) != volumes


def count_decoded(monkeypatch, make_indices, dataset_count, chunks, **options):
    """Return how many files are decoded when data sets in separate processes share an epoch's indices."""
    reads = []
    read = patches.read_volume
    with monkeypatch.context() as context:
        context.setattr(patches, "read_volume", lambda path, dtype: reads.append(path) or read(path, dtype))
        for worker in range(dataset_count):
            dataset = make_dataset(chunks, **options)
            for index in make_indices(worker):
                dataset[index]
            assert len(dataset._open) <= options["cache_volumes"]
    return len(reads)


def test_each_volume_is_decoded_about_once_an_epoch(monkeypatch, marked):
    options = {"samples_per_epoch": 80, "patches_per_volume": 16, "cache_volumes": 2}
    alone = count_decoded(monkeypatch, lambda worker: range(80), 1, marked, **options)
    assert alone <= 2 * 6, "five volumes, one of them in two lanes at most"
    shared = count_decoded(monkeypatch, lambda worker: range(worker, 80, 2), 2, marked, **options)
    assert shared <= alone + 2, "two processes with batches of one do not decode each other's volumes"


def test_few_volumes_are_decoded_once_and_kept(monkeypatch, marked):
    options = {"samples_per_epoch": 60, "patches_per_volume": 2, "cache_volumes": 4}
    assert count_decoded(monkeypatch, lambda worker: range(60), 1, marked[:3], **options) == 2 * 3


def test_an_open_volume_is_not_copied_into_another_process(chunks):
    dataset = make_dataset(chunks)
    before = dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert dataset._open
    assert not copy._open
    assert_same(copy[0], before)


def write_single_voxel_chunk(folder, voxel, shape=(40, 40, 40)):
    label = np.zeros(shape, np.uint8)
    label[voxel] = 1
    return write_chunk(folder, "1", np.zeros(shape, np.uint8), label)


def test_surface_patches_lie_about_a_surface_voxel(tmp_path):
    chunk = write_single_voxel_chunk(tmp_path, (20, 20, 20))
    dataset = make_dataset([chunk], patch_size=(8, 12, 16), samples_per_epoch=150, surface_fraction=1.0)
    places = np.array([np.argwhere(dataset[index]["label"].numpy() == 1) for index in range(150)])[:, 0]
    for axis, edge in enumerate((8, 12, 16)):
        offsets = places[:, axis] - edge // 2
        assert np.abs(offsets).max() == edge // 4, "the whole range of the jitter, and no more"
        assert len(set(offsets.tolist())) == 2 * (edge // 4) + 1


def test_surface_patches_at_the_border_are_moved_inside(tmp_path):
    chunk = write_single_voxel_chunk(tmp_path, (0, 39, 20))
    dataset = make_dataset([chunk], patch_size=16, surface_fraction=1.0)
    for index in range(24):
        z, y, _ = np.argwhere(dataset[index]["label"].numpy() == 1)[0]
        assert (z, y) == (0, 15)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_share_of_surface_patches(tmp_path, fraction):
    chunk = write_single_voxel_chunk(tmp_path, (20, 20, 20))
    dataset = make_dataset([chunk], patch_size=4, samples_per_epoch=400, surface_fraction=fraction)
    share = sum(bool((dataset[index]["label"] == 1).any()) for index in range(400)) / 400
    # A patch anywhere holds the voxel with a chance of (4 / 37)^3, about 0.001.
    assert share == pytest.approx(fraction, abs=0.0 if fraction == 1.0 else 0.08)


def test_other_patches_reach_every_corner(tmp_path):
    volume = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    chunk = write_chunk(tmp_path, "1", volume, np.zeros_like(volume))
    dataset = make_dataset([chunk], patch_size=1, samples_per_epoch=300)
    assert set(find_volumes(dataset)) == set(range(27))


def test_unlabelled_places_are_avoided(tmp_path):
    label = np.full((32, 32, 32), 2, np.uint8)
    label[:, :, :16] = 0
    chunk = write_chunk(tmp_path, "1", np.zeros_like(label), label)

    def find_unlabelled(limit):
        dataset = make_dataset([chunk], samples_per_epoch=200, max_unlabelled_fraction=limit)
        return [(dataset[index]["label"] == 2).float().mean().item() for index in range(200)]

    assert np.mean(np.array(find_unlabelled(1.0)) == 1.0) == pytest.approx(9 / 25, abs=0.12)
    # Each draw fails with a chance of 10/25; ten in a row, about one in ten thousand.
    assert max(find_unlabelled(0.9)) <= 0.9
    assert np.mean(np.array(find_unlabelled(0.0)) == 0.0) > 0.9


def test_the_best_of_the_draws_is_kept(tmp_path):
    label = np.full((8, 8, 64), 2, np.uint8)
    label[0, 0, ::2] = 0
    label[0, 0, 40:44] = 0
    chunk = write_chunk(tmp_path, "1", np.zeros_like(label), label)

    def take(limit):
        dataset = make_dataset([chunk], patch_size=4, samples_per_epoch=100, max_unlabelled_fraction=limit)
        return np.mean([(dataset[index]["label"] == 2).float().mean().item() for index in range(100)])

    assert take(0.0) < take(1.0)


def test_a_volume_of_nothing_but_twos_still_gives_patches(tmp_path):
    label = np.full(SHAPE, 2, np.uint8)
    dataset = make_dataset([write_chunk(tmp_path, "1", np.ones_like(label), label)])
    assert (dataset[0]["label"] == 2).all()


def test_small_volumes_are_padded_at_the_end(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (5, 20, 9), dtype=np.uint8)
    label = rng.integers(0, 2, image.shape, dtype=np.uint8)
    dataset = make_dataset([write_chunk(tmp_path, "1", image, label)], patch_size=12, max_unlabelled_fraction=0.0)
    for index in range(10):
        item = dataset[index]
        assert (item["label"][:5, :, :9] < 2).all()
        assert (item["label"][5:] == 2).all()
        assert (item["label"][:, :, 9:] == 2).all()
        assert (item["image"][0, 5:] == 0).all()
        assert (item["image"][0, :, :, 9:] == 0).all()
        starts = [y for y in range(9) if np.array_equal(item["image"][0, :5, :, :9], image[:, y : y + 12])]
        assert len(starts) == 1
        np.testing.assert_array_equal(item["label"][:5, :, :9], label[:, starts[0] : starts[0] + 12])


def test_normalisation_gets_the_statistics_of_the_whole_volume(tmp_path):
    image = np.random.default_rng(1).integers(1, 256, (5, 20, 9), dtype=np.uint8)
    dataset = make_dataset([write_chunk(tmp_path, "1", image, image % 2)], patch_size=12, normalise=Normalisation())
    item = dataset[0]["image"]
    raw = make_dataset([dataset.chunks[0]], patch_size=12)[0]["image"]
    torch.testing.assert_close(item, (raw - float(image.mean())) / float(image.std()))
    assert item[0, 0, 0, 11] == pytest.approx(-image.mean() / image.std()), "padding is black before normalisation"


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    patch_size=st.tuples(*[st.integers(1, 12)] * 3),
    fraction=st.floats(0, 1),
    limit=st.floats(0, 1),
)
def test_any_volume_and_patch_size(tmp_path_factory, shape, patch_size, fraction, limit):
    chunk = write_random_chunk(tmp_path_factory.mktemp("any"), "1", shape)
    dataset = make_full_dataset(
        [chunk], patch_size=patch_size, surface_fraction=fraction, max_unlabelled_fraction=limit
    )
    for index in range(4):
        item = dataset[index]
        assert item["image"].shape == (1, *patch_size)
        assert item["label"].shape == patch_size
        assert set(item["label"].unique().tolist()) <= {0, 1, 2}
        assert torch.isfinite(item["image"]).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patch_size": 0}, InputValueError, r"patch_size\[0\] must be >= 1, got 0"),
        ({"patch_size": (8, 8)}, InputValueError, "patch_size must have 3 values, got 2"),
        ({"samples_per_epoch": 0}, InputValueError, "samples_per_epoch must be >= 1, got 0"),
        ({"patches_per_volume": 0}, InputValueError, "patches_per_volume must be >= 1, got 0"),
        ({"cache_volumes": 0}, InputValueError, "cache_volumes must be >= 1, got 0"),
        ({"surface_fraction": 1.5}, InputValueError, "surface_fraction must be >= 0 and <= 1, got 1.5"),
        ({"max_unlabelled_fraction": -0.1}, InputValueError, "max_unlabelled_fraction must be >= 0 and <= 1, got -0.1"),
        ({"seed": -1}, InputValueError, "seed must be >= 0, got -1"),
        ({"normalise": "volume"}, InputTypeError, "normalise must have a method apply, got str"),
        ({"augmentation": "light"}, InputTypeError, "augmentation must be callable, got str"),
    ],
)
def test_bad_arguments(chunks, options, error, message):
    with pytest.raises(error, match=message):
        make_dataset(chunks, **options)


def test_bad_chunks_and_epochs(chunks):
    with pytest.raises(InputValueError, match="chunks must not be empty"):
        make_dataset([])
    with pytest.raises(InputValueError, match="chunks must have labels, t1 has none"):
        make_dataset([Chunk("t1", "", chunks[0].image_path)])
    with pytest.raises(InputValueError, match="epoch must be >= 0, got -1"):
        make_dataset(chunks).set_epoch(-1)


@pytest.mark.parametrize(
    ("part", "volume", "message"),
    [
        ("label", np.full(SHAPE, 7, np.uint8), r"1-label\.tif must hold labels 0, 1 and 2, got 7 as well"),
        ("label", np.zeros((20, 24, 29), np.uint8), r"1-label\.tif must have its image's shape \(20, 24, 28\), got"),
        ("label", np.zeros(SHAPE, np.float32), r"1-label\.tif must hold uint8 pixels, got float32"),
        ("image", np.zeros(SHAPE, np.float32), r"1-image\.tif must hold uint8 pixels, got float32"),
    ],
)
def test_files_that_cannot_be_trained_on(tmp_path, part, volume, message):
    chunk = write_marked_chunk(tmp_path, "1")
    write_volume(tmp_path / f"1-{part}.tif", volume)
    with pytest.raises(InputValueError, match=message):
        make_dataset([chunk])[0]


def test_truncated_and_missing_files(tmp_path):
    chunk = write_random_chunk(tmp_path, "1")
    chunk.image_path.write_bytes(chunk.image_path.read_bytes()[:2000])
    dataset = make_dataset([chunk])
    for _ in range(2):
        with pytest.raises(InputValueError, match=r"1-image\.tif is not a whole TIFF"):
            dataset[0]
    with pytest.raises(InputError, match=r"1-image\.tif is not a whole TIFF"):
        next(iter(DataLoader(dataset, num_workers=1)))
    chunk.image_path.unlink()
    with pytest.raises(InputNotFoundError, match=r"1-image\.tif"):
        dataset[0]
