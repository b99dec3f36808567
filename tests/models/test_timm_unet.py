"""Encoders of timm-3d: families that differ in reductions and windows, and weights from a local file."""

import pytest
import torch
from safetensors.torch import save_file

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.models import create_model

QUICK = ["resnet18", "convnextv2_atto", "efficientnet_b0"]
LONG = [
    *QUICK,
    "resnet50",
    "seresnext26t_32x4d",
    "efficientnetv2_s",
    "convnext_tiny",
    "densenet121",
    "vgg11_bn",
    "mobilenetv2_050",
    "maxvit_nano_rw_256",
    "maxxvit_rmlp_nano_rw_256",
]


def build(name):
    model = create_model("timm_unet", encoder=name, **({"window_size": 2} if name.startswith("max") else {}))
    divisor = model.size_divisor
    assert divisor == (64 if name.startswith("max") else 32)
    return model, torch.randn(1, 1, divisor, divisor, 2 * divisor)


@pytest.mark.parametrize("name", QUICK)
def test_encoders_are_decoded_to_full_resolution(name):
    model, image = build(name)
    with torch.inference_mode():
        assert model.eval()(image).shape == image.shape


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_more_encoders_train(name):
    model, image = build(name)
    logits = model(image)
    assert logits.shape == image.shape
    logits.square().mean().backward()
    # Some families start with zeros at the end of each residual branch, so the gradient behind them is zero at first.
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_full_resolution_is_seen_when_the_encoder_starts_at_a_quarter():
    torch.manual_seed(0)
    model = create_model("timm_unet", encoder="convnext_atto").eval()
    image = torch.randn(1, 1, 32, 32, 32)
    changed = image.clone()
    changed[..., 16, 16, 16] += 5
    with torch.inference_mode():
        difference = (model(changed) - model(image)).abs()[0, 0]
    # A single voxel moves its own neighbourhood most: without the image in the last level it would blur over 4^3.
    assert difference[15:18, 15:18, 15:18].mean() > 5 * difference.mean()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_encoder_weights_come_from_a_local_file(tmp_path, suffix):
    import timm_3d

    torch.manual_seed(1)
    weights = timm_3d.create_model("resnet10t", in_chans=3).state_dict()
    path = tmp_path / f"resnet10t{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    model = create_model("timm_unet", encoder="resnet10t", encoder_weights=path)
    state = model.encoder.state_dict()
    assert torch.equal(state["layer2.0.conv1.weight"], weights["layer2.0.conv1.weight"])
    # Three equal colour channels are one channel with the summed weights.
    torch.testing.assert_close(state["conv1.0.weight"], weights["conv1.0.weight"].sum(1, keepdim=True))
    # A checkpoint of this model must not need the file again.
    assert model.record.options["encoder_weights"] is None
    assert model.record.options["encoder"] == "resnet10t"


def test_flattened_names_are_matched(tmp_path):
    import timm_3d

    weights = timm_3d.create_model("convnext_atto", in_chans=1).state_dict()
    save_file(weights, tmp_path / "convnext.safetensors")
    model = create_model("timm_unet", encoder="convnext_atto", encoder_weights=tmp_path / "convnext.safetensors")
    loaded = model.encoder.state_dict()["stages_1.blocks.0.conv_dw.weight"]
    assert torch.equal(loaded, weights["stages.1.blocks.0.conv_dw.weight"])


def test_bad_weight_files_are_refused(tmp_path):
    with pytest.raises(InputNotFoundError, match="encoder_weights must be an existing file"):
        create_model("timm_unet", encoder_weights=tmp_path / "missing.pth")
    for suffix in (".safetensors", ".pth"):
        (tmp_path / f"broken{suffix}").write_bytes(b"not a weight file at all")
        with pytest.raises(InputValueError, match="encoder_weights must be a file of plain tensors"):
            create_model("timm_unet", encoder_weights=tmp_path / f"broken{suffix}")
    torch.save({"model": print}, tmp_path / "code.pth")
    with pytest.raises(InputValueError, match="encoder_weights must be a file of plain tensors"):
        create_model("timm_unet", encoder_weights=tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputValueError, match="encoder_weights must be a file of plain tensors"):
        create_model("timm_unet", encoder_weights=tmp_path / "list.pth")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputValueError, match=r"encoder_weights must hold conv1\.weight"):
        create_model("timm_unet", encoder_weights=tmp_path / "other.safetensors")
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "flat.safetensors")
    with pytest.raises(InputValueError, match=r"must have shape \(64, 1, 7, 7, 7\) for conv1\.weight"):
        create_model("timm_unet", encoder_weights=tmp_path / "flat.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet81"}, "encoder must be a model of timm-3d, for example .*resnet18.*, got 'resnet81'"),
        ({"encoder": "swin_tiny_patch4_window7_224"}, "encoder must be a model of timm-3d"),
        ({"encoder": "resnetaa34d"}, "encoder must give features, got 'resnetaa34d'"),
        ({"encoder": "coatnet_nano_rw_224"}, "encoder must take more than one input size, got 'coatnet_nano_rw_224'"),
        ({"encoder": "resnet18", "window_size": 4}, "window_size must be left out for encoder resnet18"),
        ({"encoder": "resnet18", "window_size": 0}, "window_size must be >= 1"),
        ({"decoder_channels": [8, 8]}, "decoder_channels must have 5 values for encoder resnet18, got 2"),
        ({"decoder_channels": [8, 8, 8, 8, 0]}, r"decoder_channels\[4\] must be >= 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputValueError, match=message):
        create_model("timm_unet", **options)
