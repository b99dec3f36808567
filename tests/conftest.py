"""Settings for the whole suite."""

import os
import signal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Processes that share the tests share the cores too, and torch reads this when it is loaded. One thread each, and not more: the
# OpenMP threads of a process do not survive the fork by which notebooks start theirs.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
import torch
from helpers.gpu import TEST_DEVICE

# A shared, noisy machine: an example that takes long is no failure. The same examples everywhere, so that what passes here
# passes in continuous integration; HYPOTHESIS_PROFILE=search draws new ones.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

THREADS = torch.get_num_threads()


def pytest_runtest_setup(item):
    """Skip what needs a GPU on a machine without one; let a test begin as in a fresh process, whatever came before it."""
    # numba's first parallel kernel sets another number of threads, and a run that is trained here and resumed in a process of
    # its own would add up in another order.
    torch.set_num_threads(THREADS)
    # Ctrl-C must do what it does at a terminal. A shell hands SIGINT on as ignored to what it starts in the background, and
    # they to all that they start; torch's launcher leaves a handler of its own behind.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if item.get_closest_marker("gpu") and TEST_DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
