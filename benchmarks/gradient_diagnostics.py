"""What the gradient diagnostics in the log cost: their time beside that of the training steps between them.

    python benchmarks/gradient_diagnostics.py [CONFIG ...] [--repeats N]

The network, the loss and the patches are those of the configuration; grey values and labels are random, which changes no
time. Both run on the GPU if there is one. A share under 3 % is what the default interval is chosen for.
"""

import argparse
import statistics
import time

import torch

from vesuvius_kit.config import load_config
from vesuvius_kit.models import create_model
from vesuvius_kit.training.from_config import make_loss
from vesuvius_kit.training.gradient_diagnostics import N_PATCHES, gather_gradient_diagnostics
from vesuvius_kit.training.processes import dtype_of, release_accelerator, start_accelerator


def measure(name, repeats):
    config = load_config(name)
    accelerator, _ = start_accelerator("auto", "auto")
    device = accelerator.device
    network = create_model(config.model.name, normalisation=config.model.normalisation, **config.model.options)
    optimizer = torch.optim.AdamW(network.parameters())
    model, optimizer = accelerator.prepare(network, optimizer)
    loss = make_loss(config, 0)
    size = tuple(config.patches.size)
    images = torch.randn(config.train.batch_size, 1, *size, device=device)
    labels = torch.randint(0, 3, (config.train.batch_size, *size), device=device)
    probe = [(torch.randn(1, *size, device=device), torch.randint(0, 3, size, device=device)) for _ in range(N_PATCHES)]
    scale = accelerator.scaler.get_scale() if accelerator.scaler is not None else 1.0

    def step():
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss(model(images), labels)[0])
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def diagnose():
        gather_gradient_diagnostics(
            network, probe, {part: loss.alone(part) for part in loss.weights}, loss.weights, scale
        )

    model.train()
    of_step, of_diagnostics = time_of(step, repeats, device), time_of(diagnose, repeats, device)
    every, steps = config.train.gradient_diagnostics_every_epochs, config.train.steps_per_epoch
    print(
        f"{name} on {device.type} ({str(dtype_of(accelerator)).removeprefix('torch.')}): step {of_step:.3f} s, "
        f"diagnostics {of_diagnostics:.3f} s with {len(loss.weights)} components; every {every} epochs of {steps} "
        f"steps {of_diagnostics / (every * steps * of_step):.2%}, every epoch {of_diagnostics / (steps * of_step):.2%} "
        "of the training steps"
    )
    release_accelerator()


def time_of(call, repeats, device):
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=["cpu_demo"])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    for config_name in given.configs:
        measure(config_name, given.repeats)
