import copy

import pytest
import torch
from torch import nn

from vesuvius_kit.models import create_model, list_models
from vesuvius_kit.models.small_maps import CarefulConv3d, mind_small_maps


def gradients(layer, image, weights_of_loss, dtype):
    """The gradients of a layer's parameters, after memory that held NaN has been given back."""
    layer.zero_grad()
    for power in range(8, 23, 2):
        torch.full((2**power,), float("nan"))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = layer(image)
    (output.float() * weights_of_loss).sum().backward()
    return [parameter.grad.clone() for parameter in layer.parameters()]


@pytest.mark.parametrize("edges", [(2, 2, 2), (2, 4, 8), (1, 2, 2), (2, 1, 3), (4, 4, 1), (3, 3, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_over_few_voxels_are_those_of_float32(edges, stride):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv3d(32, 64, 3, stride=stride, padding=1))
    mind_small_maps(layer)
    image = torch.randn(2, 32, *edges)
    weights_of_loss = torch.randn_like(layer(image))
    wanted = gradients(layer, image, weights_of_loss, torch.float32)
    for _ in range(10):
        for found, right in zip(gradients(layer, image, weights_of_loss, torch.bfloat16), wanted, strict=True):
            assert (found - right).norm() < 0.03 * right.norm()


def test_larger_maps_stay_in_the_half_type():
    layer = nn.Conv3d(2, 2, 3, padding=1)
    mind_small_maps(layer)
    for edges, dtype in (((4, 4, 4), torch.bfloat16), ((3, 3, 3), torch.bfloat16), ((4, 2, 4), torch.float32)):
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(1, 2, *edges)).dtype == dtype


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_in_words_is_understood(padding):
    layer = nn.Conv3d(2, 2, 1, padding=padding)
    mind_small_maps(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 2, 2, 2, 2)).dtype == torch.float32


def test_weights_and_names_stay():
    plain = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.ConvTranspose3d(2, 1, 3))
    careful = copy.deepcopy(plain)
    mind_small_maps(careful)
    assert type(careful[0]) is CarefulConv3d
    assert repr(careful) == repr(plain)
    assert list(careful.state_dict()) == list(plain.state_dict())
    image = torch.randn(1, 1, 5, 5, 5)
    torch.testing.assert_close(careful(image), plain(image), rtol=0, atol=0)


@pytest.mark.parametrize("name", list_models())
def test_every_model_of_the_kit_minds_them(name):
    convolutions = [module for module in create_model(name).modules() if isinstance(module, nn.Conv3d)]
    assert convolutions
    assert all(isinstance(module, CarefulConv3d) for module in convolutions)
