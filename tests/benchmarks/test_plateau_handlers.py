"""The handlers of the plateau case do what the case did."""

import json
import math
import sys
from pathlib import Path

import pytest

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.training.learning_rate import BoundedLR

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "plateau"))
from handlers import LegacyHandler

BASE = 1e-3


def run(controller, metrics, allow_raise=True):
    """The rates of the epochs, the one before the first step included."""
    return [controller.rate] + [controller.step(metric, allow_raise) for metric in metrics]


def flat(n_epochs):
    return [0.6] * n_epochs


def plateau_case():
    """The run of the plateau case: best 0.5721 at epoch 5, then between 0.57 and 0.62."""
    learning = [0.66, 0.63, 0.61, 0.59, 0.58, 0.5721, 0.5812, 0.5923]
    return learning + [0.595 + 0.02 * math.sin(1.7 * epoch) for epoch in range(8, 60)]


def run_legacy(handler, metrics, gradient_norm=0.05, **options):
    rates = [handler.rate]
    for metric in metrics:
        handler.see_gradient(gradient_norm)
        rates.append(handler.step(metric, **options))
    return rates


def test_the_legacy_handler_sets_the_rates_of_the_case():
    handler = LegacyHandler(BASE, schedule="constant")
    run_legacy(handler, flat(1 + 19 * 3))
    multiples = [entry["multiple"] for entry in handler.interventions]
    assert multiples[:4] == pytest.approx([25.0, 28.75, 32.5, 36.25])
    assert multiples[14:] == pytest.approx([77.5, 81.25, 85.0, 88.75, 92.5])
    assert handler.rate == pytest.approx(92.5 * BASE)


def test_the_legacy_handler_runs_away_on_the_plateau_case():
    handler = LegacyHandler(1e-4, schedule="constant", warmup_epochs=5, n_epochs=300)
    rates = run_legacy(handler, plateau_case())
    assert len(handler.interventions) == 18
    assert handler.interventions[0]["epoch"] == 8
    assert max(rates) > 80e-4


def test_the_repaired_handler_compounds():
    handler = LegacyHandler(BASE, schedule="constant", compounding=True)
    rates = run_legacy(handler, flat(30))
    assert rates[-1] == pytest.approx(15.625 * BASE)  # the case's 15.6
    assert [entry["scale"] for entry in handler.interventions] == pytest.approx([2.5] * 3)
    run_legacy(handler, [0.5] * 30)
    assert handler.rate == pytest.approx(15.625**2 * BASE)


@pytest.mark.parametrize("norm", [0.1, 3.0, math.nan])
def test_the_legacy_handler_needs_a_small_gradient(norm):
    handler = LegacyHandler(BASE, schedule="constant")
    assert run_legacy(handler, flat(30), norm) == [BASE] * 31
    assert run(handler, flat(10)) == [BASE] * 11  # none seen
    run_legacy(handler, flat(1))
    assert len(handler.interventions) == 1


def test_the_legacy_handler_follows_the_schedule_until_its_first_intervention():
    metrics = [1 - 0.01 * epoch for epoch in range(30)]
    settings = {"schedule": "cosine", "n_epochs": 30, "warmup_epochs": 3}
    assert run_legacy(LegacyHandler(BASE, **settings), metrics) == run(BoundedLR(BASE, **settings), metrics)


def test_the_legacy_handler_asks_nobody_and_does_not_go_back():
    handler = LegacyHandler(BASE, schedule="constant")
    then = handler.state_dict()
    run_legacy(handler, flat(4), allow_raise=False)
    assert handler.rate == pytest.approx(25 * BASE)
    handler.rollback(then)
    assert handler.rate == pytest.approx(25 * BASE)


def test_the_legacy_handler_warns(caplog):
    LegacyHandler(BASE)
    assert "For the study alone" in caplog.text


@pytest.mark.parametrize("compounding", [False, True])
def test_a_legacy_handler_resumes_exactly(compounding):
    settings = {"compounding": compounding, "schedule": "cosine", "n_epochs": 80, "mode": "max"}
    whole, resumed = (LegacyHandler(BASE, **settings) for _ in range(2))
    for epoch in range(60):
        text = json.dumps(resumed.state_dict(), allow_nan=False)
        resumed = LegacyHandler(BASE, **settings)
        resumed.load_state_dict(json.loads(text))
        for controller in (whole, resumed):
            controller.see_gradient(0.05 if epoch % 7 else 0.5)
            controller.step(0.3 + (epoch == 20) * 0.1)
        assert whole.rate == resumed.rate
        assert whole.interventions == resumed.interventions
    assert resumed.state_dict() == whole.state_dict()
    assert whole.interventions


def test_states_of_other_controllers_are_refused():
    with pytest.raises(InputValueError, match="keys of state_dict"):
        LegacyHandler(BASE).load_state_dict(BoundedLR(BASE).state_dict())
    with pytest.raises(InputValueError, match="keys of state_dict"):
        BoundedLR(BASE).rollback(LegacyHandler(BASE).state_dict())
