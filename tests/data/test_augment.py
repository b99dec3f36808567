import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.data import augment
from vesuvius_kit.data.augment import LEVELS, N_SYMMETRIES, Augmentation, apply_symmetry

GREY_VALUE_TRANSFORMS = ("_BrightnessContrast", "_Gamma", "_GaussianNoise", "_GaussianBlur", "_LowResolution")


def make_patch(shape=(8, 12, 12), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 3, shape, dtype=np.uint8)


def find_symmetries(before, after):
    return {i for i in range(N_SYMMETRIES) if np.array_equal(apply_symmetry(before, i), after)}


def test_sixteen_distinct_symmetries_form_a_group():
    cube = np.arange(4**3).reshape(4, 4, 4)
    images = {apply_symmetry(cube, index).tobytes() for index in range(N_SYMMETRIES)}
    assert len(images) == 16
    assert apply_symmetry(cube, 0).tobytes() == cube.tobytes()
    for first in range(N_SYMMETRIES):
        followed = {apply_symmetry(apply_symmetry(cube, first), second).tobytes() for second in range(N_SYMMETRIES)}
        assert followed == images, "closed under composition, and each element has its inverse"


@pytest.mark.parametrize("index", range(N_SYMMETRIES))
def test_z_stays_an_axis(index):
    """Upright lines stay upright; lines along y or x stay level."""
    z, y, x = np.indices((4, 4, 4))
    height = apply_symmetry(z, index)
    assert np.ptp(height, axis=(1, 2)).max() == 0, "a slice holds one height"
    assert set(np.diff(height[:, 0, 0]).tolist()) in ({1}, {-1})
    upright = apply_symmetry(y * 4 + x, index)
    assert np.ptp(upright, axis=0).max() == 0, "a column comes from one column"


def test_symmetries_by_hand():
    box = np.arange(6).reshape(1, 2, 3)
    assert apply_symmetry(box, 2).tolist() == [[[3, 4, 5], [0, 1, 2]]]
    assert apply_symmetry(box, 4).tolist() == [[[2, 1, 0], [5, 4, 3]]]
    assert apply_symmetry(box, 8).tolist() == [[[0, 3], [1, 4], [2, 5]]]
    assert apply_symmetry(np.arange(2).reshape(2, 1, 1), 1).ravel().tolist() == [1, 0]
    assert apply_symmetry(np.empty((0, 2, 3)), 8).shape == (0, 3, 2)
    with pytest.raises(InputValueError, match="index must be >= 0 and <= 15, got 16"):
        apply_symmetry(box, 16)


def test_level_none_changes_nothing():
    image, label = make_patch()
    for seed in range(5):
        new_image, new_label = Augmentation("none")(image, label, seed)
        np.testing.assert_array_equal(new_image, image)
        np.testing.assert_array_equal(new_label, label)


def test_level_symmetries_reaches_all_sixteen_and_moves_both_alike():
    image, label = make_patch()
    augmentation, reached = Augmentation("symmetries"), set()
    for seed in range(120):
        new_image, new_label = augmentation(image, label, seed)
        (index,) = find_symmetries(image, new_image)
        assert find_symmetries(label, new_label) == {index}
        reached.add(index)
    assert reached == set(range(16))


def test_patches_that_are_not_square_keep_their_shape():
    image, label = make_patch((5, 6, 9))
    augmentation, reached = Augmentation("symmetries"), set()
    for seed in range(60):
        new_image, _ = augmentation(image, label, seed)
        assert new_image.shape == image.shape
        reached |= find_symmetries(image, new_image)
    assert reached == set(range(8))


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 12)] * 3), seed=st.integers(0, 2**63 - 1), level=st.sampled_from(LEVELS))
def test_shape_dtype_and_labels_are_kept(shape, seed, level):
    image, label = make_patch(shape)
    before = image.copy(), label.copy()
    new_image, new_label = Augmentation(level)(image, label, seed)
    assert (new_image.shape, new_image.dtype) == (shape, np.uint8)
    assert (new_label.shape, new_label.dtype) == (shape, np.uint8)
    assert min(new_image.strides + new_label.strides) > 0
    assert new_image.flags.c_contiguous
    assert new_label.flags.c_contiguous
    assert find_symmetries(label, new_label), "grey-value changes leave the label alone"
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_the_seed_alone_decides():
    image, label = make_patch()
    used, fresh = Augmentation("light"), Augmentation("light")
    for seed in reversed(range(40)):
        used(image, label, seed)
    results = []
    for seed in range(40):
        first, second = used(image, label, seed), fresh(image, label, seed)
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
        results.append(first[0].tobytes())
    assert len(set(results)) > 25


def test_transforms_act_independently_of_each_other(monkeypatch):
    """albumentations gives all transforms of a Compose one seed: then they would act all together or not at all."""
    acted = []
    for name in GREY_VALUE_TRANSFORMS:
        kind = getattr(augment, name)

        def spy(self, volume, _name=name, **_params):
            acted[-1].add(_name)
            return volume

        monkeypatch.setattr(kind, "apply_to_volume", spy)
    image, label = make_patch((2, 2, 2))
    augmentation = Augmentation("light")
    for seed in range(400):
        acted.append(set())
        augmentation(image, label, seed)
    counts = {name: sum(name in names for names in acted) / 400 for name in GREY_VALUE_TRANSFORMS}
    expected = {"_BrightnessContrast": 0.3, "_Gamma": 0.2, "_GaussianNoise": 0.15, "_GaussianBlur": 0.15}
    for name, share in expected.items():
        assert counts[name] == pytest.approx(share, abs=0.07)
    both = sum({"_BrightnessContrast", "_Gamma"} <= names for names in acted) / 400
    assert both == pytest.approx(0.06, abs=0.04)
    assert sum(not names for names in acted) / 400 == pytest.approx(0.344, abs=0.08)


def change(name, volume, **params):
    return getattr(augment, name)(p=1.0).apply_to_volume(volume, **params)


def test_brightness_and_contrast_by_hand():
    volume = np.array([[[0, 100, 200, 100]]], np.uint8)  # mean 100
    assert change("_BrightnessContrast", volume, contrast=1.25, brightness=10.0).tolist() == [[[0, 110, 235, 110]]]
    assert change("_BrightnessContrast", volume, contrast=1.0, brightness=100.0).tolist() == [[[0, 200, 255, 200]]]


def test_gamma_by_hand():
    volume = np.array([[[0, 64, 255]]], np.uint8)
    assert change("_Gamma", volume, gamma=2.0).tolist() == [[[0, 16, 255]]]
    assert change("_Gamma", volume, gamma=1.0).tolist() == [[[0, 64, 255]]]


def test_noise_is_clipped_and_spares_black():
    volume = np.array([[[0, 10, 250]]], np.uint8)
    noise = np.array([[[5, -20.4, 20]]], np.float32)
    assert change("_GaussianNoise", volume, noise=noise).tolist() == [[[0, 0, 255]]]
    grey = np.full((20, 30, 30), 128, np.uint8)
    transform = augment._GaussianNoise(p=1.0)
    transform.set_random_seed(1)
    drawn = transform.get_params_dependent_on_data({}, {"volume": grey})["noise"]
    assert 2.0 < drawn.std() < 12.0
    assert abs(drawn.mean()) < 0.3


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["_GaussianBlur", "_LowResolution"])
def test_blur_and_low_resolution_act_alike_along_every_axis(name, axis):
    spike = np.zeros((9, 9, 9), np.uint8)
    spike[4, 4, 4] = 255
    params = {"sigma": 0.8} if name == "_GaussianBlur" else {"scale": 0.5}
    result = change(name, spike, **params).astype(int)
    assert result[4, 4, 4] < 255
    profile = np.moveaxis(result, axis, 0)[:, 4, 4]
    assert profile[3] > 0
    np.testing.assert_allclose(profile, result[:, 4, 4], atol=2)
    flat = np.full((5, 6, 7), 77, np.uint8)
    np.testing.assert_array_equal(change(name, flat, **params), flat)


def test_blur_equals_the_gaussian_of_scipy():
    from scipy.ndimage import gaussian_filter

    image, _ = make_patch((9, 10, 11))
    reference = gaussian_filter(image.astype(float), 0.7, mode="nearest", radius=3)
    assert np.abs(change("_GaussianBlur", image, sigma=0.7) - reference).max() <= 1.5


def test_bad_arguments():
    image, label = make_patch()
    augmentation = Augmentation()
    with pytest.raises(InputValueError, match="augmentation level must be one of light, none, symmetries, got 'heavy'"):
        Augmentation("heavy")
    with pytest.raises(InputTypeError, match="image must be uint8, got float32"):
        augmentation(image.astype(np.float32), label, 0)
    with pytest.raises(InputValueError, match="image and label must have the same shape"):
        augmentation(image, label[1:], 0)
    with pytest.raises(InputValueError, match="seed must be >= 0, got -1"):
        augmentation(image, label, -1)


def test_import_asks_no_registry_for_updates():
    code = (
        "import os; os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None); import vesuvius_kit.data.augment; "
        "print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert result.stdout.strip() == "1"
