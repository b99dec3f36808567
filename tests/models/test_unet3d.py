import torch

from vesuvius_kit.models import create_model


def test_half_resolution_doubles_the_divisor_and_answers_at_full_resolution():
    torch.manual_seed(0)
    model = create_model("unet3d", initial_filters=4, depth=2, half_resolution=True).eval()
    assert model.size_divisor == 8
    image = torch.randn(2, 1, 16, 24, 8)
    with torch.inference_mode():
        logits = model(image)
    assert logits.shape == image.shape
    # Each of the eight voxels of a cell has a logit of its own.
    assert (logits[..., 0::2] - logits[..., 1::2]).abs().mean() > 1e-3


def test_half_resolution_works_on_an_eighth_of_the_voxels():
    seen = []
    for half in (False, True):
        model = create_model("unet3d", initial_filters=4, depth=1, half_resolution=half).eval()
        model.encoder[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0, 0].numel()))
        model(torch.zeros(1, 1, 8, 8, 8))
    assert seen == [512, 64]


def test_gradients_reach_every_parameter_at_half_resolution():
    torch.manual_seed(0)
    model = create_model("unet3d", initial_filters=2, depth=1, half_resolution=True)
    model(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []
