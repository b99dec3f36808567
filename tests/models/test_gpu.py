"""Networks on a GPU: the CPU's logits in every type and memory layout, checkpoints that travel between the two."""

import pytest
import torch
from helpers.gpu import TEST_DEVICE, exact_float32, need_units_for, small_model

from vesuvius_kit.models import list_models
from vesuvius_kit.models.checkpoint import load_model, save_checkpoint

pytestmark = pytest.mark.gpu
every_model = pytest.mark.parametrize("name", list_models())


@pytest.fixture(autouse=True)
def float32_is_exact():
    with exact_float32():
        yield


def image_of(model, batch=2):
    edge = max(16, model.size_divisor)
    return torch.randn((batch, 1, edge, edge, 2 * edge), generator=torch.Generator().manual_seed(1))


def logits_of(model, image):
    with torch.inference_mode():
        return model.eval()(image).cpu()


@every_model
def test_logits_are_those_of_the_cpu(name):
    model = small_model(name)
    image = image_of(model)
    expected = logits_of(model, image)
    torch.testing.assert_close(logits_of(model.to(TEST_DEVICE), image.to(TEST_DEVICE)), expected, atol=1e-3, rtol=1e-3)


@every_model
def test_the_layout_in_memory_does_not_change_the_logits(name):
    model = small_model(name).to(TEST_DEVICE)
    image = image_of(model).to(TEST_DEVICE)
    expected = logits_of(model, image)
    model.to(memory_format=torch.channels_last_3d)
    last = logits_of(model, image.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, expected, atol=1e-3, rtol=1e-3)


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(name, dtype):
    need_units_for(dtype, name)
    model = small_model(name).to(TEST_DEVICE)
    image = image_of(model).to(TEST_DEVICE)
    expected = logits_of(model, image)
    with torch.autocast(TEST_DEVICE, dtype=dtype):
        half = logits_of(model, image)
    spread = float(expected.std())
    assert torch.isfinite(half).all()
    assert float((half.float() - expected).abs().mean()) < 0.05 * spread


@every_model
def test_gradients_are_those_of_the_cpu(name):
    found = {}
    for device in ("cpu", TEST_DEVICE):
        # Batch statistics over few voxels would make small differences large.
        model = small_model(name).eval().to(device)
        model(image_of(model).to(device)).square().mean().backward()
        found[device] = {key: value.grad.cpu() for key, value in model.named_parameters() if value.grad is not None}
    assert found["cpu"].keys() == found[TEST_DEVICE].keys()
    for key, gradient in found["cpu"].items():
        torch.testing.assert_close(
            found[TEST_DEVICE][key], gradient, atol=2e-3 * float(gradient.abs().max() + 1e-3), rtol=1e-2
        )


@every_model
def test_a_checkpoint_written_from_a_gpu_is_read_on_the_cpu(name, tmp_path):
    model = small_model(name).to(TEST_DEVICE)
    loaded = load_model(save_checkpoint(tmp_path / "best", model, {}))
    for (key, value), (_, other) in zip(model.state_dict().items(), loaded.state_dict().items()):
        assert other.device.type == "cpu"
        assert torch.equal(value.cpu(), other), key
