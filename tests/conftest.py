"""Settings for the whole suite."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Processes that share the tests share the cores too: torch reads this when it is loaded.
os.environ.setdefault(
    "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
)

import hypothesis
import pytest

# A shared, noisy machine: an example that takes long is no failure.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_runtest_setup(item):
    """Skip what needs a GPU on a machine without one."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
