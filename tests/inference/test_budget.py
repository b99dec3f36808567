"""What is left of a time budget, with a clock that the test moves."""

import numpy as np
import pytest

from vesuvius_kit.inference import budget as budget_module
from vesuvius_kit.inference.budget import TimeBudget
from vesuvius_kit.io.volume import write_volume

SHAPES = {"a": (10, 10, 10), "b": (10, 10, 20), "c": (5, 4, 10)}


@pytest.fixture
def clock(monkeypatch):
    """The time; a simple mask takes 2 s for 1000 voxels."""
    now = [100.0]

    def simple_mask(volume):
        now[0] += volume.size / 500

    monkeypatch.setattr(budget_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(budget_module, "simple_mask", simple_mask)
    return now


@pytest.fixture
def paths(tmp_path):
    for name, shape in SHAPES.items():
        write_volume(tmp_path / f"{name}.tif", np.zeros(shape, np.uint8))
    return {name: tmp_path / f"{name}.tif" for name in SHAPES}


def test_without_a_budget_nothing_is_read_and_nothing_ends():
    budget = TimeBudget(["a", "b"])
    budget.calibrate({})
    assert (budget.seconds_left(), budget.seconds_for("a")) == (None, None)
    budget.finish("a", 1.0)
    assert budget.left == ["b"]
    budget.close()
    assert budget.seconds_for("b") == 0.0


def test_making_a_budget_reads_nothing(clock):
    budget = TimeBudget(["a", "b"], 1000.0)
    # A hundredth is kept for the archive.
    assert budget.seconds_left() == 990.0
    assert TimeBudget(["a"], 100_000.0, started=40.0).seconds_left() == 100_000.0 - 60.0 - 60.0


def test_simple_masks_of_what_is_left_are_kept_back(clock, paths):
    budget = TimeBudget(list(SHAPES), 1000.0)
    budget.calibrate(paths)
    # 2.4 s for 1000 voxels, with a margin of a fifth; the trial took 2 s.
    assert budget.seconds_left() == pytest.approx(990 - 2 - 2.4 * 3.2)
    assert budget.seconds_for("b") == pytest.approx(990 - 2 - 2.4 * 3.2 - 2.4 * 2)
    budget.finish("a", 0.0)
    assert budget.left == ["b", "c"]
    assert budget.seconds_left() == pytest.approx(990 - 2 - 2.4 * 2.2)
    budget.finish("c", 0.01)
    assert budget.seconds_for("b") == pytest.approx(990 - 2 - 2.4 * 2 - 1.2 * 0.01 * 2000)
    clock[0] += 2000
    assert budget.seconds_left() < 0
    assert budget.seconds_for("b") == 0.0


def test_when_nothing_waits_nothing_is_read(clock):
    budget = TimeBudget([], 1000.0)
    budget.calibrate({})
    assert budget.seconds_left() == 990.0
