"""nnU-Net's folders in the commands that predict, alone and beside the kit's own networks."""

import json

import numpy as np
import pytest
import torch

import vesuvius_kit as vk
from tests.helpers.nnunet_folders import architecture, dataset, plans, write_nnunet_folder
from vesuvius_kit.checks import InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.config import PredictConfig, RunConfig
from vesuvius_kit.models.weights import convert_weights

# Without mirroring, which has its own tests.
CPU = PredictConfig(device="cpu", precision="fp32", tta="none")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("competition")
    vk.write_competition(folder, train=2, test=2, shape=(18, 20, 30))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of nnU-Net, one of another window whose axes are turned, and a run of the kit."""
    folder = tmp_path_factory.mktemp("weights")
    turned = plans(architecture("ResidualEncoderUNet"), patch_size=[8, 16, 24]) | {
        "transpose_forward": [2, 0, 1],
        "transpose_backward": [1, 2, 0],
    }
    torch.manual_seed(3)
    model = vk.create_model("unet3d", initial_filters=2, depth=1)
    config = vk.config_to_dict(RunConfig())
    config["patches"]["size"] = [16, 16, 16]
    vk.save_checkpoint(folder / "run" / "fold_0" / "best", model, {"config": config})
    return [
        write_nnunet_folder(folder / "plain", folds=(0, 1)),
        write_nnunet_folder(
            folder / "turned", turned, dataset({"background": 0, "recto": 1, "verso": 2}), seed=7, name="best"
        ),
        folder / "run",
    ]


def predicted_alone(path, volume):
    model = vk.load_model(path / "fold_0" / "best") if path.name == "run" else vk.load_nnunet(path)
    window = {"window": 16} if path.name == "run" else {}
    return vk.predict_volume(model, volume, device="cpu", dtype=torch.float32, tta="none", **window)


def test_each_network_predicts_by_its_own_rules(data, weights, tmp_path):
    files = vk.predict_folder(data / "test_images", weights, tmp_path, CPU)
    assert len(files) == 2
    for path in files:
        volume = vk.read_volume(data / "test_images" / f"{path.stem}.tif")
        expected = np.mean([predicted_alone(own, volume) for own in weights], axis=0)
        assert np.abs(np.load(path).astype(np.float32) - expected).max() < 1e-3
    again = vk.predict_folder(data / "test_images", weights[::-1], tmp_path / "again", CPU)
    for first, second in zip(files, again, strict=True):
        np.testing.assert_array_equal(np.load(first), np.load(second))


def test_the_command_line_takes_folders_and_their_folds(data, weights, tmp_path):
    words = ["--device", "cpu", "--precision", "fp32", "--tta", "none"]
    words = [word.replace("--", "--predict.") if word.startswith("--") else word for word in words]
    images, plain = str(data / "test_images"), str(weights[0])
    assert main(["predict", "--images", images, "--checkpoints", plain, "--output", str(tmp_path / "a"), *words]) == 0
    both = [str(weights[0] / "fold_0"), str(weights[0] / "fold_1" / "checkpoint_final.pth")]
    assert main(["predict", "--images", images, "--checkpoints", *both, "--output", str(tmp_path / "b"), *words]) == 0
    for path in sorted((tmp_path / "a").glob("*.npy")):
        # Logits are averaged in one, probabilities in the other.
        together, apart = (np.load(own / path.name).astype(np.float32) for own in (tmp_path / "a", tmp_path / "b"))
        assert together.any()
        assert not np.array_equal(together, apart)
        assert np.corrcoef(together.ravel(), apart.ravel())[0, 1] > 0.9


def test_submit_takes_a_folder(data, weights, tmp_path):
    words = ["submit", "--images", str(data / "test_images"), "--checkpoints", str(weights[1]), str(weights[2])]
    words += ["--output", str(tmp_path / "submission.zip"), "--predict.device", "cpu", "--predict.tta", "none"]
    assert main(words) == 0
    assert vk.validate_submission(tmp_path / "submission.zip", data / "test_images") == 2
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("run.json")]
    assert records, "what was done to each volume must be recorded"


def test_a_folder_and_what_was_made_of_it_are_the_same_network(data, weights, tmp_path):
    converted = convert_weights(weights[0], tmp_path / "kit")
    with pytest.raises(InputValueError, match="checkpoints must hold different weights"):
        vk.predict_folder(data / "test_images", [weights[0], converted], tmp_path / "out", CPU)
    alone = vk.predict_folder(data / "test_images", [converted], tmp_path / "a", CPU)
    original = vk.predict_folder(data / "test_images", [weights[0]], tmp_path / "b", CPU)
    for first, second in zip(alone, original, strict=True):
        np.testing.assert_array_equal(np.load(first), np.load(second))
