"""What holds for any network: nothing but the network decides, whatever the windows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from vesuvius_kit.config import PredictConfig
from vesuvius_kit.inference.grid import window_starts
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.inference.tta import VIEWS
from vesuvius_kit.models import create_model
from vesuvius_kit.models.rules import OutputRule, PredictionRules

CPU = {"device": "cpu", "dtype": torch.float32}
EDGES = st.tuples(*[st.integers(1, 40)] * 3)
WINDOWS = st.tuples(*[st.integers(2, 24)] * 3)


def identity(image):
    return image


def logistic(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


@settings(max_examples=60)
@given(
    shape=EDGES,
    window=WINDOWS,
    overlap=st.floats(0, 0.8),
    batch_size=st.integers(1, 9),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int16, np.float16, np.float32, np.float64]),
    grid=st.sampled_from(["kit", "nnunet"]),
    average=st.sampled_from(["probabilities", "logits"]),
)
def test_an_identity_gives_its_input_back(shape, window, overlap, batch_size, dtype, grid, average):
    volume = np.random.default_rng(0).integers(0, 12, shape).astype(dtype)
    rules = PredictionRules(grid=grid, average=average)
    result = predict_volume(
        identity, volume, window=window, overlap=overlap, batch_size=batch_size, rules=rules, skip_empty=False, **CPU
    )
    # The sum and that of the weights, by which nnU-Net divides, are each rounded as often as windows meet.
    np.testing.assert_allclose(result, logistic(volume), rtol=0, atol=1e-6 if grid == "kit" else 3e-6)


@pytest.mark.parametrize("tta", VIEWS)
def test_so_it_does_in_every_view(tta):
    volume = np.random.default_rng(0).normal(0, 2, (21, 17, 30)).astype(np.float32)
    result = predict_volume(identity, volume, window=12, tta=tta, batch_size=3, **CPU)
    np.testing.assert_allclose(result, logistic(volume), rtol=0, atol=1e-6)


@settings(max_examples=25)
@given(shape=EDGES, corner=EDGES, edges=EDGES, grid=st.sampled_from(["kit", "nnunet"]))
def test_a_crop_has_the_values_of_the_whole(shape, corner, edges, grid):
    """Of a network that sees one voxel, without a normalisation."""
    volume = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    first = [min(at, length - 1) for at, length in zip(corner, shape)]
    crop = tuple(slice(at, at + edge) for at, edge in zip(first, edges))
    settings_ = {"window": (8, 10, 12), "rules": PredictionRules(grid=grid), **CPU}
    whole, part = (predict_volume(lambda image: 2 * image - 1, array, **settings_) for array in (volume, volume[crop]))
    np.testing.assert_allclose(part, whole[crop], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shape", "window"), [((96, 80, 64), (32, 32, 32)), ((40, 48, 56), (16, 24, 28))])
def test_it_is_monais_where_the_grids_agree(shape, window):
    """Its grid is ours where steps are whole; of its Gaussian it cuts the tails elsewhere, so it is given our weights."""
    torch.manual_seed(0)
    model = create_model("unet3d", initial_filters=4, depth=1).eval()
    volume = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    ours = predict_volume(model, volume, window=window, overlap=0.5, normalisation={"scheme": "fixed"}, **CPU)
    offsets = [(np.arange(edge) - (edge - 1) / 2) / (0.125 * edge) for edge in window]
    along = [np.maximum(np.exp(-0.5 * offset**2), 1e-3) for offset in offsets]
    weights = np.multiply.outer(np.multiply.outer(along[0], along[1]), along[2]).astype(np.float32)
    with torch.inference_mode():
        theirs = sliding_window_inference(
            torch.from_numpy(volume)[None, None],
            window,
            PredictConfig.batch_size,
            lambda image: model(image).sigmoid(),
            overlap=0.5,
            roi_weight_map=torch.from_numpy(weights),
        )[0, 0].numpy()
    for length, edge in zip(shape, window):
        assert window_starts(length, edge, 0.5) == list(range(0, length - edge + 1, edge // 2))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_name", ["unet3d", "resenc_unet"])
def test_real_networks_agree_over_batch_sizes(model_name):
    torch.manual_seed(0)
    options = {"initial_filters": 4, "depth": 2} if model_name == "unet3d" else {"channels": (4, 8), "blocks": (1, 1)}
    model = create_model(model_name, **options)
    volume = np.random.default_rng(0).integers(0, 256, (40, 44, 33)).astype(np.uint8)
    alone = predict_volume(model, volume, window=16, batch_size=1, **CPU)
    for batch_size in (2, 5, 64):
        several = predict_volume(model, volume, window=16, batch_size=batch_size, **CPU)
        np.testing.assert_allclose(several, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize(
    "output",
    [
        OutputRule("softmax", 2, (1,)),
        OutputRule("softmax", 2, (0,)),
        OutputRule("softmax", 4, (1, 3)),
        OutputRule("regions", 3, (0, 2)),
    ],
)
def test_channels_become_the_surface_by_the_rule(output, average):
    def model(image):
        return torch.cat([image * (channel - 1.3) for channel in range(output.n_channels)], 1)

    volume = np.random.default_rng(0).normal(0, 2, (14, 15, 16)).astype(np.float32)
    logits = np.stack([volume.astype(np.float64) * (channel - 1.3) for channel in range(output.n_channels)])
    if output.kind == "softmax":
        powers = np.exp(logits)
        expected = powers[list(output.surface)].sum(0) / powers.sum(0)
    else:
        expected = logistic(logits[list(output.surface)]).max(0)
    rules = PredictionRules(output=output, average=average, window=(8, 8, 8))
    np.testing.assert_allclose(predict_volume(model, volume, rules=rules, **CPU), expected, rtol=0, atol=2e-6)
