"""Whether a network takes its patches is known before the first step (B6)."""

import pytest
import torch
from torch import nn

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.models import check_takes, create_model, list_models

SMALL = {
    "unet3d": {"initial_filters": 2, "depth": 2},
    "resenc_unet": {"channels": [2, 4, 4], "blocks": [1, 1, 1]},
    "timm_unet": {"encoder": "resnet10t", "decoder_channels": [4, 4, 4, 4, 4]},
    "nnunet": {"channels": [2, 4, 4], "blocks": [1, 1, 1], "strides": [1, 2, 2]},
}


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("name", list_models())
def test_the_trial_says_of_every_model_what_a_step_would(name, batch_size):
    """B6, with the smallest patch: its `size_divisor`."""
    model = create_model(name, **SMALL[name])
    before = state_of(model)
    size = (model.size_divisor,) * 3
    try:
        check_takes(model, batch_size, size, training=True, name="patches.size")
        taken = True
    except InputValueError as error:
        taken = False
        message = str(error)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.training
    try:
        model(torch.zeros(batch_size, 1, *size)).sum().backward()
        works = True
    except (RuntimeError, ValueError):
        works = False
    assert taken == works
    if not taken:
        assert message.startswith(f"patches.size must suit model {name}, got {list(size)} in batches of 1: ")
    # Prediction has the statistics and needs none of the batch.
    check_takes(model, 1, size, training=False, name="predict.window")


def test_one_patch_for_a_batch_norm_is_refused_before_the_run_has_a_folder(tmp_path):
    from helpers.competitions import TINY, write_small_competition

    from vesuvius_kit.config import load_config
    from vesuvius_kit.training.loop import train

    data = write_small_competition(tmp_path / "data")
    settings = {**TINY, "data": str(data), "output": str(tmp_path / "run"), "model.name": "timm_unet",
                "model.options": SMALL["timm_unet"], "patches.size": [32, 32, 32], "train.batch_size": 1,
                "predict.window": [0, 0, 0]}  # fmt: skip
    with pytest.raises(
        InputValueError,
        match=r"patches\.size must suit model timm_unet, got \[32, 32, 32\] in batches of 1: Expected more than 1 value",
    ):
        train(load_config(None, settings))
    assert not (tmp_path / "run").exists()


class Foreign(nn.Module):
    """A network that looks at numbers, which a trial by shapes alone cannot follow."""

    def __init__(self, channels=1):
        super().__init__()
        self.conv = nn.Conv3d(1, channels, 1)
        self.norm = nn.BatchNorm3d(channels, momentum=None)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x if float(x.mean()) < 1e9 else -x


def test_networks_that_need_numbers_are_tried_with_numbers_and_left_as_they_were():
    model = Foreign()
    before = state_of(model)
    check_takes(model, 2, (4, 4, 4), training=True, name="patches")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(InputValueError, match="more than 1 value per channel"):
        check_takes(model, 1, (1, 1, 1), training=True, name="patches")
    with pytest.raises(
        InputValueError, match=r"Foreign must return logits of shape \(2, 1, 4, 4, 4\) for patches, got"
    ):
        check_takes(Foreign(channels=2), 2, (4, 4, 4), training=False, name="patches")
    with pytest.raises(InputValueError, match="image edges must be multiples of 4"):
        check_takes(create_model("unet3d", **SMALL["unet3d"]), 1, (4, 4, 6), training=False, name="predict.window")
