"""Predictions of nnU-Net's folders, compared with nnU-Net's own predictor on networks that nnU-Net trained.

Its predictor adds up in half precision, which loses digits, most of them where few windows meet and their weights are small. It
is therefore compared twice: with its accumulators made float32, everywhere and to 1e-4; and as it is, to 2e-3 where the sum of
its weights is above 0.01.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.nnunet_folders import architecture, dataset, old_plans, plans
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.models.nnunet import load_nnunet
from vesuvius_kit.models.weights import convert_weights, load_weights
from vesuvius_kit.phantom import make_phantom

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

FLAT = {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
THREE = {"background": 0, "recto": 1, "verso": 2, "ignore": 3}
REGIONS = {"background": 0, "sheet": [1, 2], "recto": [2]}
ZSCORE = {"normalization_schemes": ["ZScoreNormalization"]}
RESIDUAL = partial(architecture, "ResidualEncoderUNet")


def turned(content, forward, backward):
    return content | {"transpose_forward": forward, "transpose_backward": backward}


# Plans, dataset, spacing of the images, folds.
TRAININGS = {
    "plain": (plans(**ZSCORE), dataset(), (1, 1, 1), [0]),
    "residual": (plans(RESIDUAL()), dataset(), (1, 1, 1), [0, 1]),
    "flat": (
        turned(plans(architecture(**FLAT), patch_size=[8, 16, 20]), [1, 2, 0], [2, 0, 1]),
        dataset({"background": 0, "surface": 1}), (1, 1, 1), [0],
    ),
    "flat_residual": (
        plans(RESIDUAL(**FLAT), patch_size=[8, 20, 16], spacing=[4.0, 1.0, 1.0], use_mask_for_norm=[True], **ZSCORE),
        dataset(THREE), (4, 1, 1), [0, 1],
    ),
    "old": (old_plans(**ZSCORE), dataset(), (1, 1, 1), [0]),
    "old_residual": (old_plans("ResidualEncoderUNet"), dataset(THREE), (1, 1, 1), [1]),
    "regions": (plans(**ZSCORE), dataset(REGIONS, regions_class_order=[1, 2]), (1, 1, 1), [0, 1]),
}  # fmt: skip


def bordered(shape, seed):
    """A phantom with black planes around it, so that there is something to crop."""
    image = make_phantom(shape, seed=seed).image.copy()
    image[:2], image[:, -3:], image[..., :1] = 0, 0, 0
    return image


VOLUMES = {
    "larger, not divisible": bordered((37, 30, 41), 11),
    "smaller than the patch": bordered((10, 12, 24), 12),
    "of the patch": make_phantom((16, 16, 16), seed=13).image,
}


@pytest.fixture(autouse=True)
def one_thread():
    """Networks so small are faster on one, by far where other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Results folders by the names of `TRAININGS`, trained by nnU-Net."""
    pytest.importorskip("nnunetv2")
    folder = tmp_path_factory.mktemp("nnunet")
    jobs = [
        {"name": name, "plans": content, "dataset": labels, "spacing": spacing, "folds": folds, "steps": 4}
        for name, (content, labels, spacing, folds) in TRAININGS.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    repository = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.nnunet_training", str(folder / "jobs.json"), str(folder)],
        cwd=repository, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return {name: (folder / name).resolve() for name in TRAININGS}


class InFloat32:
    """torch, in which ``half`` is float32."""

    half = torch.float32

    def __getattr__(self, name):
        return getattr(torch, name)


class Reference:
    """nnU-Net's predictor for a folder."""

    def __init__(self, folder, folds, spacing, monkeypatch):
        from nnunetv2.inference import predict_from_raw_data as module

        self._module, self._spacing, self._monkeypatch = module, list(spacing), monkeypatch
        self.predictor = module.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        self.predictor.initialize_from_trained_model_folder(str(folder), folds, "checkpoint_final.pth")

    def predict(self, volume, *, mirror, in_float32):
        """Labels and the probabilities of every channel."""
        self.predictor.use_mirroring = mirror
        with self._monkeypatch.context() as patch:
            if in_float32:
                patch.setattr(self._module, "torch", InFloat32())
            return self.predictor.predict_single_npy_array(
                volume[None].astype(np.float32), {"spacing": self._spacing}, save_or_return_probabilities=True
            )

    def has_large_weights(self, volume):
        """Where the sum of the windows' weights is above 0.01, in the volume's axes."""
        from acvl_utils.cropping_and_padding.padding import pad_nd_image

        predictor = self.predictor
        forward, backward = (
            [axis + 1 for axis in axes]
            for axes in (predictor.plans_manager.transpose_forward, predictor.plans_manager.transpose_backward)
        )
        there = np.argwhere(volume.transpose([axis - 1 for axis in forward]) != 0)
        box = tuple(slice(low, high + 1) for low, high in zip(there.min(axis=0), there.max(axis=0)))
        sums = torch.zeros((1, *(part.stop - part.start for part in box)))
        patch_size = predictor.configuration_manager.patch_size
        padded, back = pad_nd_image(sums, patch_size, "constant", {"value": 0}, True, None)
        weights = self._module.compute_gaussian(
            tuple(patch_size), sigma_scale=1 / 8, value_scaling_factor=10, device=torch.device("cpu")
        )
        for part in predictor._internal_get_sliding_window_slicers(padded.shape[1:]):
            padded[part] += weights
        whole = np.ones([volume.shape[axis - 1] for axis in forward], bool)
        whole[box] = padded[back][0].numpy() > 0.01
        return whole.transpose([axis - 1 for axis in backward])


@pytest.fixture
def reference(trained, monkeypatch):
    def make(name, folds=None):
        return Reference(trained[name], folds or tuple(TRAININGS[name][3]), TRAININGS[name][2], monkeypatch)

    return make


def surface_of(name, probabilities):
    """The probability of the surface, from nnU-Net's of every channel."""
    if name == "regions":
        return probabilities.max(axis=0)
    labels = TRAININGS[name][1]["labels"]
    return probabilities[1] if len(labels) - ("ignore" in labels) == 2 or "recto" in labels else 1 - probabilities[0]


def ours(model, volume, mirror, **settings):
    return predict_volume(
        model,
        volume,
        tta="auto" if mirror else "none",
        device="cpu",
        dtype=torch.float32,
        skip_empty=False,
        **settings,
    )


def agree_but_for_ties(mask, expected, probability):
    """Whether two masks differ only where the probability is a half, to rounding."""
    return (np.abs(probability - 0.5) < 1e-4)[mask != expected].all()


@pytest.mark.parametrize("mirror", [True, False], ids=["mirrored", "as it lies"])
@pytest.mark.parametrize("which", VOLUMES)
@pytest.mark.parametrize("name", TRAININGS)
def test_predictions_are_nnunets(trained, reference, name, which, mirror):
    volume = VOLUMES[which]
    theirs = reference(name)
    model = load_nnunet(trained[name])
    probability = ours(model, volume, mirror)
    labels, probabilities = theirs.predict(volume, mirror=mirror, in_float32=True)
    expected = surface_of(name, probabilities)
    assert np.ptp(expected) > 0.05, "the network must answer different things"
    difference = np.abs(probability - expected)
    assert difference.max() < 1e-4
    if len(probabilities) == 2 and name != "regions":
        assert agree_but_for_ties(probability > 0.5, labels == 1, probability)
    _, halves = theirs.predict(volume, mirror=mirror, in_float32=False)
    difference = np.abs(probability - surface_of(name, halves))[theirs.has_large_weights(volume)]
    assert difference.max() < 2e-3


@pytest.mark.parametrize("name", ["residual", "flat_residual"])
def test_a_single_fold_is_nnunets(trained, reference, name):
    volume = VOLUMES["larger, not divisible"]
    _, probabilities = reference(name, folds=(1,)).predict(volume, mirror=False, in_float32=True)
    expected = surface_of(name, probabilities)
    for model in (load_nnunet(trained[name], folds=[1]), load_nnunet(trained[name] / "fold_1")):
        assert np.abs(ours(model, volume, mirror=False) - expected).max() < 1e-4


@pytest.mark.parametrize("name", ["residual", "flat", "flat_residual"])
@pytest.mark.parametrize("spacing", [(0.7, 1.0, 1.3), (2.0, 1.0, 1.0), (5.0, 1.0, 1.0)])
def test_another_voxel_size_is_nnunets(trained, reference, name, spacing, monkeypatch):
    volume = VOLUMES["larger, not divisible"]
    theirs = Reference(trained[name], tuple(TRAININGS[name][3]), spacing, monkeypatch)
    _, probabilities = theirs.predict(volume, mirror=False, in_float32=True)
    probability = ours(load_nnunet(trained[name]), volume, mirror=False, spacing=spacing)
    assert np.abs(probability - surface_of(name, probabilities)).max() < 1e-4


@pytest.mark.parametrize("name", TRAININGS)
def test_a_converted_folder_predicts_the_same(trained, name, tmp_path):
    volume = VOLUMES["larger, not divisible"]
    converted = load_weights(convert_weights(trained[name], tmp_path))
    np.testing.assert_array_equal(
        ours(converted, volume, mirror=True), ours(load_nnunet(trained[name]), volume, mirror=True)
    )


def test_windows_are_nnunets_at_another_step(trained, reference):
    volume = VOLUMES["larger, not divisible"]
    theirs = reference("residual")
    theirs.predictor.tile_step_size = 0.25
    _, probabilities = theirs.predict(volume, mirror=False, in_float32=True)
    probability = ours(load_nnunet(trained["residual"]), volume, mirror=False, overlap=0.75)
    assert np.abs(probability - surface_of("residual", probabilities)).max() < 1e-4
