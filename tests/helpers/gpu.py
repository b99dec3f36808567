"""What the tests marked gpu share. They run on a GPU; ``VESUVIUS_KIT_TEST_DEVICE=cpu`` tries them where there is none."""

import os
from contextlib import contextmanager

import pytest
import torch

TEST_DEVICE = os.environ.get("VESUVIUS_KIT_TEST_DEVICE", "cuda")
SMALL = {
    "unet3d": {"initial_filters": 4, "depth": 2},
    "resenc_unet": {"channels": [4, 8, 8], "blocks": [1, 2, 1]},
    "timm_unet": {"encoder": "resnet10t", "decoder_channels": [8, 8, 8, 4, 4]},
    "nnunet": {"channels": [4, 8, 8], "blocks": [1, 2, 1]},
}


def small_model(name):
    """A small network with fixed weights, on the CPU."""
    # Not loaded for the suite's settings, which read the device's name from here.
    from vesuvius_kit.models import create_model

    torch.manual_seed(0)
    return create_model(name, **SMALL.get(name, {}))


def need_units_for(dtype, name="unet3d"):
    """Skip where a GPU would only emulate a type; a CPU, which emulates float16 too, stands in with one small network."""
    if TEST_DEVICE == "cpu" and dtype != torch.float32 and name != "unet3d":
        pytest.skip("a CPU stands in with one network")
    if dtype == torch.bfloat16 and TEST_DEVICE == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no units for bfloat16")


def need_a_gpu(why="what is tested is its memory"):
    """Skip what a CPU cannot stand in for."""
    if TEST_DEVICE != "cuda":
        pytest.skip(f"needs a CUDA device: {why}")


@contextmanager
def exact_float32():
    """Switch off TF32, in which a GPU multiplies float32 with 10 bits of mantissa unless it is told otherwise."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


@contextmanager
def gpu_memory_of(mebibytes):
    """Let this process have so much more of the GPU's memory than its tensors hold now: real refusals by torch's allocator."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    limit = torch.cuda.memory_reserved() + mebibytes * 2**20
    torch.cuda.set_per_process_memory_fraction(limit / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
