"""A volume into its network's frame and back, compared with nnU-Net's preprocessor where it is installed."""

import numpy as np
import pytest

from vesuvius_kit.checks import InputError, InputTypeError, InputValueError
from vesuvius_kit.models import Normalisation, PredictionRules, ResamplingRule
from vesuvius_kit.models.normalisation import Affine, measure_grey_values
from vesuvius_kit.models.preprocess import find_box, prepare

CT = Normalisation("ct", mean=87.5, std=47.7, low=3.0, high=250.5)
SCHEMES = {
    "ZScoreNormalization": Normalisation("zscore"),
    "CTNormalization": CT,
    "RescaleTo01Normalization": Normalisation("rescale_to_0_1"),
    "RGBTo01Normalization": Normalisation("rgb_to_0_1"),
    "NoNormalization": Normalisation("none"),
}
PROPERTIES = {"mean": 87.5, "std": 47.7, "percentile_00_5": 3.0, "percentile_99_5": 250.5}


def grey(shape=(6, 7, 8), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def bordered(shape=(9, 11, 12), dtype=np.uint8):
    """A scan with zeros around it and a hole inside."""
    volume = np.zeros(shape, dtype)
    volume[2:7, 1:10, 3:11] = 1 + grey((5, 9, 8)) // 2
    volume[4, 5, 6] = 0
    volume[2, 1, 3] = 0
    return volume


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.int16])
def test_normalisations_are_nnunets(name, dtype):
    theirs = pytest.importorskip("nnunetv2.preprocessing.normalization.default_normalization_schemes")
    volume = grey(dtype=dtype)
    expected = getattr(theirs, name)(False, PROPERTIES).run(volume.astype(np.float32), np.zeros(volume.shape, np.int8))
    normalised = SCHEMES[name].apply_to_volume(volume)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, expected, atol=2e-6)


@pytest.mark.parametrize("name", SCHEMES)
def test_constant_volumes_are_nnunets(name):
    theirs = pytest.importorskip("nnunetv2.preprocessing.normalization.default_normalization_schemes")
    volume = np.full((3, 4, 5), 7, np.uint8)
    expected = getattr(theirs, name)(False, PROPERTIES).run(volume.astype(np.float32), None)
    np.testing.assert_allclose(SCHEMES[name].apply_to_volume(volume), expected, atol=1e-6)


RULES = {
    "kit": PredictionRules(),
    "crop": PredictionRules(crop=True),
    "turned": PredictionRules(crop=True, transpose=(2, 0, 1), spacing=(1.0, 1.0, 1.0), resampling=ResamplingRule()),
    "coarse": PredictionRules(crop=True, transpose=(1, 2, 0), spacing=(4.0, 1.0, 1.0), resampling=ResamplingRule()),
}


class Plans:
    """As much of nnU-Net's plans and configuration as its preprocessor asks for."""

    def __init__(self, rules, scheme, masked):
        resampling = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
        self.transpose_forward, self.spacing = rules.transpose, rules.spacing or (1.0, 1.0, 1.0)
        self.normalization_schemes, self.use_mask_for_norm = [scheme], [masked]
        self.foreground_intensity_properties_per_channel = {"0": PROPERTIES}

        def resample(order):
            def call(data, shape, spacing, new_spacing):
                return resampling.resample_data_or_seg_to_shape(
                    data, shape, spacing, new_spacing, order=order, force_separate_z=None
                )

            return call

        self.resampling_fn_data, self.resampling_fn_seg = resample(3), resample(1)


@pytest.mark.parametrize("name", ["crop", "turned", "coarse"])
@pytest.mark.parametrize(
    ("scheme", "masked"), [*((scheme, False) for scheme in SCHEMES), ("ZScoreNormalization", True)]
)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.7, 2.0)])
def test_preparing_is_nnunets(name, scheme, masked, spacing):
    preprocessor = pytest.importorskip("nnunetv2.preprocessing.preprocessors.default_preprocessor")
    rules, volume = RULES[name], bordered()
    plans = Plans(rules, scheme, masked)
    if rules.resampling is None and spacing != (1.0, 1.0, 1.0):
        spacing = (1.0, 1.0, 1.0)
    properties = {"spacing": spacing}
    expected, _, properties = preprocessor.DefaultPreprocessor().run_case_npy(
        volume[None], None, properties, plans, plans, {}
    )
    normalisation = Normalisation("zscore", masked=True) if masked else SCHEMES[scheme]
    image, restore = prepare(volume, rules, normalisation, spacing)
    assert [[part.start, part.stop] for part in restore.box] == properties["bbox_used_for_cropping"]
    assert image.flags.c_contiguous
    np.testing.assert_allclose(image, expected[0], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_what_is_prepared_finds_its_way_back(name):
    rules, volume = RULES[name], bordered(dtype=np.float32)
    image, restore = prepare(volume, rules, None)
    assert not restore.is_resampled
    placed = restore.place(restore.resample(image[None])[0])
    np.testing.assert_array_equal(placed, volume)
    assert np.shares_memory(placed, image) == restore.is_whole == (name == "kit")
    np.testing.assert_array_equal(restore.cut(volume), image)


def test_a_resampled_answer_gets_the_voxels_of_the_volume():
    rules = RULES["coarse"]
    volume = np.ones((8, 9, 10), np.uint8)
    image, restore = prepare(volume, rules, None, spacing=(1.0, 2.0, 1.0))
    assert restore.is_resampled
    assert image.shape == (4, 10, 8)
    answer = restore.resample(np.full((2, *image.shape), 0.25, np.float32))
    assert answer.shape == (2, 9, 10, 8)
    assert restore.place(answer[0]).shape == volume.shape
    np.testing.assert_allclose(restore.place(answer[1]), 0.25, atol=1e-6)


def test_around_the_box_is_no_surface():
    volume = bordered()
    image, restore = prepare(volume, RULES["turned"], CT)
    placed = restore.place(np.ones_like(image))
    assert placed.shape == volume.shape
    assert placed.sum() == image.size
    assert placed[2:7, 1:10, 3:11].all()


def test_a_volume_of_zeros_is_its_own_box():
    assert find_box(np.zeros((3, 4, 5))) == (slice(0, 3), slice(0, 4), slice(0, 5))
    image, restore = prepare(np.zeros((3, 4, 5), np.uint8), RULES["turned"], Normalisation("zscore", masked=True))
    assert not image.any()
    assert restore.place(image).shape == (3, 4, 5)


def test_one_voxel_is_a_box():
    volume = np.zeros((5, 6, 7), np.uint16)
    volume[1, 5, 0] = 9
    assert find_box(volume) == (slice(1, 2), slice(5, 6), slice(0, 1))


def test_the_input_is_left_alone():
    volume = bordered(dtype=np.float32)
    before = volume.copy()
    for normalisation in (*SCHEMES.values(), Normalisation("zscore", masked=True), None):
        image, _ = prepare(volume, RULES["crop"], normalisation)
        image[...] = -1
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32, np.float64])
def test_statistics_are_numpys(dtype):
    volume = grey((13, 5, 4), dtype)
    exact = volume.astype(np.float64)
    statistics = measure_grey_values(volume)
    assert statistics == pytest.approx((exact.mean(), exact.std(), exact.min(), exact.max()), rel=1e-12)
    mask = volume > 100
    assert measure_grey_values(volume, mask).mean == pytest.approx(exact[mask].mean(), rel=1e-12)
    assert measure_grey_values(volume, np.zeros_like(mask)) == (0, 0, 0, 0)


def test_statistics_lose_nothing_to_a_large_mean():
    volume = 1e9 + grey((5, 6, 7), np.float64)
    assert measure_grey_values(volume).std == pytest.approx(volume.std(), rel=1e-9)


def test_small_spacing_noise_does_not_resample():
    image, restore = prepare(grey(), RULES["turned"], CT, spacing=(1.0, 1.0, 1.00001))
    assert not restore.is_resampled
    assert image.shape == (8, 6, 7)


def test_affine_by_hand():
    values = np.array([[[0, 10, 20, 30]]], np.uint8)
    np.testing.assert_array_equal(Affine(5.0, 2.0, 10.0, 20.0).apply(values), np.float32([[[2.5, 2.5, 7.5, 7.5]]]))
    np.testing.assert_array_equal(Affine().apply(values), values)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"scheme": "ct", "low": 2, "high": 1}, InputValueError, "low must be <= high, got 2.0 and 1.0"),
        ({"scheme": "fixed", "low": 2}, InputValueError, "low and high must go with scheme ct, got fixed"),
        ({"scheme": "volume", "masked": True}, InputValueError, "masked must go with scheme zscore, got volume"),
        ({"scheme": "zscore", "masked": 1}, InputTypeError, "masked must be a bool, got int"),
    ],
)
def test_settings_without_effect_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        Normalisation.of(value)


def test_what_cannot_be_normalised_is_refused():
    with pytest.raises(
        InputValueError, match="must have grey values from 0 to 255 for scheme rgb_to_0_1, got 0 to 300"
    ):
        Normalisation("rgb_to_0_1").apply_to_volume(np.array([[[0, 300]]]))
    with pytest.raises(InputTypeError, match="mask must be given"):
        Normalisation("zscore", masked=True).apply_to_volume(grey())
    with pytest.raises(InputError, match="volume must not be empty"):
        prepare(np.zeros((0, 3, 3)), PredictionRules(), None)
    with pytest.raises(InputValueError, match="finite grey values"):
        prepare(np.full((2, 2, 2), np.nan, np.float32), PredictionRules(), Normalisation())
    for normalisation in (Normalisation("rescale_to_0_1"), Normalisation("zscore", masked=True)):
        with pytest.raises(InputValueError, match="must not need the whole volume"):
            normalisation.apply(grey(), 0.0, 1.0)


@pytest.mark.parametrize(
    "normalisation", [Normalisation(), CT, Normalisation("none"), Normalisation("rgb_to_0_1")], ids=str
)
def test_part_and_whole_are_normalised_alike(normalisation):
    volume = grey()
    whole = normalisation.apply_to_volume(volume)
    part = normalisation.apply(volume[1:3], volume.mean(), volume.std())
    np.testing.assert_array_equal(part, whole[1:3])


@pytest.mark.parametrize(
    "normalisation", [*SCHEMES.values(), Normalisation("zscore", masked=True), Normalisation()], ids=str
)
def test_normalisations_pass_through_a_dict(normalisation):
    assert Normalisation.of(normalisation.to_dict()) == normalisation
