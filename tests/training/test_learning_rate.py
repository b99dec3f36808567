"""The bounded learning rate: schedules against torch, raises by hand, bounds and resumes over arbitrary metrics."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputError, InputTypeError, InputValueError
from vesuvius_kit.constants import MAX_FACTOR
from vesuvius_kit.training.learning_rate import RAISE_SCALES, SCHEDULES, BoundedLR

BASE = 1e-3


def run(controller, metrics, allow_raise=True):
    """The rates of the epochs, the one before the first step included."""
    return [controller.rate] + [controller.step(metric, allow_raise) for metric in metrics]


def flat(n_epochs):
    return [0.6] * n_epochs


def torch_rates(make_scheduler, metrics, base=BASE):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make_scheduler(optimizer)
    rates = [base]
    for metric in metrics:
        optimizer.step()
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(metric)
        else:
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


# --- base schedules -------------------------------------------------------------------------------------------------


def test_constant_with_warmup_by_hand():
    rates = run(BoundedLR(BASE, schedule="constant", warmup_epochs=3), [0.5, 0.4, 0.3, 0.2])
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


def test_cosine_is_torchs():
    ours = run(BoundedLR(BASE, schedule="cosine", n_epochs=20, eta_min=1e-5), flat(19), allow_raise=False)
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 1e-5), flat(19))
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_polynomial_is_torchs():
    ours = run(BoundedLR(BASE, schedule="polynomial", n_epochs=20), flat(19), allow_raise=False)
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 20, 0.9), flat(19))
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("t_0", "t_mult"), [(10, 2), (7, 1), (3, 3), (1, 1)])
def test_warm_restarts_are_torchs(t_0, t_mult):
    controller = BoundedLR(BASE, schedule="warm_restarts", n_epochs=300, t_0=t_0, t_mult=t_mult, eta_min=1e-6)
    make = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    theirs = torch_rates(lambda o: make(o, T_0=t_0, T_mult=t_mult, eta_min=1e-6), flat(90))
    assert run(controller, flat(90), allow_raise=False) == pytest.approx(theirs, rel=1e-9)


@given(
    metrics=st.lists(st.floats(0.01, 1.0) | st.just(math.nan), min_size=1, max_size=60),
    patience=st.integers(0, 6),
    mode=st.sampled_from(["min", "max"]),
)
def test_reduce_on_plateau_is_torchs(metrics, patience, mode):
    settings = {"mode": mode, "patience": patience, "factor": 0.5, "threshold": 0.001, "eps": 0.0}
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, **settings), metrics)
    ours = BoundedLR(BASE, schedule="plateau", mode=mode, plateau_patience=patience, floor=0.0)
    assert run(ours, metrics) == pytest.approx(theirs, rel=1e-9)


def test_reduce_on_plateau_by_hand():
    rates = run(BoundedLR(BASE, warmup_epochs=2, n_epochs=50), [9, 9, *flat(13)])
    # Warm-up 0 and 1; epoch 2 is the best; six epochs without improvement end with 8, six more with 14.
    assert rates[2:9] == [BASE] * 7
    assert rates[9:15] == [BASE / 2] * 6
    assert rates[15] == BASE / 4


def test_schedules_stay_at_their_end():
    for schedule, last in (("cosine", 1e-5), ("polynomial", 1e-7)):
        controller = BoundedLR(BASE, schedule=schedule, n_epochs=10, warmup_epochs=2, eta_min=1e-5, floor=1e-7)
        assert run(controller, flat(30), allow_raise=False)[-10:] == pytest.approx([last] * 10)


def test_schedule_is_spread_over_what_warmup_leaves():
    rates = run(BoundedLR(BASE, schedule="polynomial", n_epochs=12, warmup_epochs=2, power=1.0), flat(11))
    assert rates[2:] == pytest.approx([BASE * (1 - t / 10) for t in range(10)])


# --- raises ---------------------------------------------------------------------------------------------------------


def test_three_raises_of_one_plateau_and_no_fourth():
    controller = BoundedLR(BASE, schedule="constant")
    rates = run(controller, flat(60))
    assert [entry["epoch"] for entry in controller.interventions] == [15, 20, 25]
    assert [entry["scale"] for entry in controller.interventions] == pytest.approx([2.0, 1.5, 1.2])
    assert rates[:16] == [BASE] * 16
    assert rates[16:21] == pytest.approx([2e-3] * 5)
    assert rates[21:26] == pytest.approx([3e-3] * 5)
    assert rates[26:31] == pytest.approx([3.6e-3] * 5)
    assert rates[31:] == [BASE] * 30  # they brought nothing and are taken back


def test_an_improvement_ends_the_raise():
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, flat(18))
    assert controller.rate == pytest.approx(2e-3)
    assert controller.step(0.599) == pytest.approx(2e-3)  # less than min_delta
    assert controller.step(0.598) == BASE  # min_delta in all


def test_growth_from_plateau_to_plateau():
    controller = BoundedLR(BASE, schedule="constant", n_epochs=300)
    metric = 0.9
    for _ in range(6):
        metric -= 0.05
        run(controller, [metric] * 30)
    scales = [[e["scale"] for e in controller.interventions if e["epoch"] // 30 == k] for k in range(6)]
    assert scales[0] == pytest.approx([2.0, 1.5, 1.2])
    assert scales[1] == pytest.approx([2.2, 1.65, 1.32])
    assert scales[2] == pytest.approx([2.4, 1.8, 5 / 2.4 / 1.8])  # the cap cuts the third
    assert scales[3] == pytest.approx([2.6])  # the next would reach the cap, which brought nothing before
    assert scales[4] == scales[5] == []  # nor did 2.6
    # 3.6 was being tried when the first plateau ended, in the last epoch of its cool-down.
    assert controller.failed == pytest.approx([2, 3, 2.2, 3.63, 4.7916, 2.4, 4.32, 5, 2.6])
    assert max(entry["rate_after"] for entry in controller.interventions) == pytest.approx(5 * BASE)


def test_intervention_says_what_and_why():
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, flat(16))
    (entry,) = controller.interventions
    assert entry["rate_before"] == BASE
    assert entry["rate_after"] == controller.rate == 2 * BASE
    assert "15 epochs without an improvement by 0.002" in entry["reason"]
    entry["epoch"] = 99
    assert controller.interventions[0]["epoch"] == 15


def test_raise_multiplies_the_schedule():
    plain = run(BoundedLR(BASE, schedule="cosine", n_epochs=40), flat(30), allow_raise=False)
    raised = run(BoundedLR(BASE, schedule="cosine", n_epochs=40), flat(30))
    assert [a / b for a, b in zip(raised, plain, strict=True)][14:23] == pytest.approx([1, 1, *[2] * 5, 3, 3])


def test_patience_counts_from_the_best():
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, [1 - 0.01 * epoch for epoch in range(18)])  # epoch 17 is the best
    run(controller, [0.83] * 4)
    assert controller.interventions == []
    controller.step(0.83)
    assert [entry["epoch"] for entry in controller.interventions] == [22]


def test_cooldown_delays_the_next_plateau():
    controller = BoundedLR(BASE, schedule="constant", patience=2, cooldown=9)
    run(controller, [*flat(16), *[0.5] * 12])  # raise at 15, improvement at 16, stale from 18 on
    assert [entry["epoch"] for entry in controller.interventions] == [15, 24]


def test_raise_not_allowed_is_made_when_it_is():
    controller = BoundedLR(BASE, schedule="constant")
    assert run(controller, flat(30), allow_raise=False) == [BASE] * 31
    assert controller.step(0.6) == 2 * BASE


def test_reducing_schedule_is_not_raised_unless_asked():
    controller = BoundedLR(BASE, schedule="plateau")
    run(controller, flat(60))
    assert controller.interventions == []
    controller = BoundedLR(BASE, schedule="plateau", raises_on_plateau_schedule=True)
    run(controller, flat(60))
    assert len(controller.interventions) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_metrics_that_are_not_finite_never_raise(bad, mode):
    controller = BoundedLR(BASE, schedule="constant", mode=mode)
    assert run(controller, [bad] * 60) == [BASE] * 61
    assert run(controller, flat(5)) == [BASE] * 6  # the first finite one is the best, four stale
    controller.step(bad)
    assert controller.interventions == []
    controller.step(0.6)
    assert len(controller.interventions) == 1


def test_mode_max():
    controller = BoundedLR(BASE, schedule="constant", mode="max")
    run(controller, [0.01 * epoch for epoch in range(40)])
    assert controller.interventions == []
    run(controller, [0.0] * 5)
    assert len(controller.interventions) == 1


def test_no_raise_within_a_long_warmup():
    controller = BoundedLR(BASE, schedule="constant", warmup_epochs=30)
    run(controller, flat(40))
    assert controller.interventions[0]["epoch"] == 30


def test_cap_of_one_means_no_raises():
    controller = BoundedLR(BASE, schedule="constant", max_factor=1.0)
    assert run(controller, flat(60)) == [BASE] * 61
    assert controller.interventions == []


def test_raise_that_reached_a_low_cap_is_taken_back():
    controller = BoundedLR(BASE, schedule="constant", max_factor=1.5)
    rates = run(controller, flat(60))
    assert rates[16:] == pytest.approx([1.5 * BASE] * 5 + [BASE] * 40)
    assert controller.interventions[0]["scale"] == pytest.approx(1.5)


# --- what failed is not tried again ---------------------------------------------------------------------------------


def test_a_raise_has_failed_when_its_cooldown_brought_nothing():
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, flat(16))
    run(controller, flat(4))
    assert controller.failed == []
    controller.step(0.6)  # the fifth epoch with the raised rate
    assert controller.failed == [2.0]


@pytest.mark.parametrize(("epochs_with_the_raise", "failed"), [(4, []), (5, [2.0])])
def test_an_improvement_counts_only_within_the_cooldown(epochs_with_the_raise, failed):
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, flat(16 + epochs_with_the_raise))
    controller.step(0.5)
    assert controller.failed == failed
    assert controller.rate == BASE


def test_epochs_without_a_finite_metric_use_the_cooldown_up():
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, [*flat(16), *[math.nan] * 5])
    assert controller.failed == [2.0]


def test_a_raise_that_helped_may_be_tried_again():
    controller = BoundedLR(BASE, schedule="constant", n_epochs=300)
    metric = 0.9
    for _ in range(6):  # every plateau is left by its first raise
        while controller.rate == BASE and controller.epoch < 300:
            controller.step(metric)
        metric -= 0.05
        controller.step(metric)
    assert controller.failed == []
    assert [entry["multiple"] for entry in controller.interventions][:5] == pytest.approx([2.0, 2.2, 2.4, 2.6, 2.6])


def test_where_the_next_raise_is_refused_the_failed_one_is_taken_back():
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, flat(16))
    rates = run(controller, flat(10), allow_raise=False)
    assert rates == [2e-3] * 5 + [BASE] * 6
    assert controller.step(0.6) == pytest.approx(
        1.5e-3
    )  # the plateau's second raise, allowed again, from the schedule's rate


# --- roll-back ------------------------------------------------------------------------------------------------------


def test_a_rollback_takes_the_raise_back_and_remembers_that_it_failed():
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, flat(10))
    then = controller.state_dict()
    run(controller, flat(8))
    assert controller.rate == 2e-3
    controller.rollback(then)
    assert controller.rate == BASE
    assert controller.epoch == 18  # the run's epochs go on
    assert controller.failed == [2.0]
    assert len(controller.interventions) == 1
    run(controller, flat(40))
    assert [entry["multiple"] for entry in controller.interventions] == pytest.approx([2.0, 1.5, 1.8])


def test_a_rollback_never_raises_the_rate():
    controller = BoundedLR(BASE)  # reduces on a plateau
    high = controller.state_dict()
    run(controller, flat(20))
    assert controller.rate == BASE / 8
    controller.rollback(high)
    assert controller.rate == BASE / 8


def test_a_rollback_counts_no_fourth_raise_into_the_plateau():
    controller = BoundedLR(BASE, schedule="constant")
    then = controller.state_dict()
    for _ in range(100):
        controller.step(0.6)
        controller.rollback(then)
    assert len(controller.interventions) == 3


def test_a_rollback_does_not_move_the_cap():
    controller = BoundedLR(BASE, schedule="constant")
    controller.rollback(BoundedLR(1.0, schedule="constant").state_dict())
    assert controller.base_lr == controller.rate == BASE


def test_after_forgetting_the_best_any_metric_is_an_improvement():
    controller = BoundedLR(BASE, schedule="constant")
    run(controller, flat(17))
    controller.forget_best()
    assert controller.rate == BASE
    assert controller.failed == []
    run(controller, [0.9] * 5)  # worse numbers of another loss: the best and four stale epochs
    assert len(controller.interventions) == 1
    controller.step(0.9)
    assert len(controller.interventions) == 2


def test_a_foreign_state_is_refused():
    for call in (BoundedLR(BASE).load_state_dict, BoundedLR(BASE).rollback):
        with pytest.raises(InputValueError, match="keys of state_dict"):
            call({"best": 1})


def test_a_controller_resumes_exactly():
    whole, resumed = (BoundedLR(BASE, schedule="cosine", n_epochs=80, mode="max") for _ in range(2))
    for epoch in range(60):
        text = json.dumps(resumed.state_dict(), allow_nan=False)
        resumed = BoundedLR(BASE, schedule="cosine", n_epochs=80, mode="max")
        resumed.load_state_dict(json.loads(text))
        for controller in (whole, resumed):
            controller.step(0.3 + (epoch == 20) * 0.1)
        assert whole.rate == resumed.rate
        assert whole.interventions == resumed.interventions
    assert resumed.state_dict() == whole.state_dict()
    assert whole.interventions


def test_who_may_forbid_a_raise_is_asked_only_when_one_is_due():
    asked = []

    def forbid():
        asked.append(controller.epoch)
        return False

    controller = BoundedLR(BASE, schedule="constant", patience=3, raise_start_epoch=0)
    rates = [controller.step(0.5, forbid) for _ in range(6)]
    assert rates == [BASE] * 6
    assert asked == [3, 4, 5]
    assert controller.step(0.5, lambda: True) == 2 * BASE


# --- the plateau case -----------------------------------------------------------------------------------------------


def plateau_case():
    """The run of the plateau case: best 0.5721 at epoch 5, then between 0.57 and 0.62."""
    learning = [0.66, 0.63, 0.61, 0.59, 0.58, 0.5721, 0.5812, 0.5923]
    return learning + [0.595 + 0.02 * math.sin(1.7 * epoch) for epoch in range(8, 60)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_plateau_case_never_passes_five_times_the_base(schedule):
    controller = BoundedLR(1e-4, schedule=schedule, n_epochs=60, warmup_epochs=5, raises_on_plateau_schedule=True)
    rates = run(controller, plateau_case())
    assert max(rates) <= 5e-4
    assert len(controller.interventions) == 3  # the old handler made nineteen
    assert controller.interventions[0]["epoch"] >= 15


# --- invariants -----------------------------------------------------------------------------------------------------

metric_values = st.floats(0, 1) | st.sampled_from([0.5, 0.5, 0.5, 0.499, math.nan, math.inf, -math.inf, -1e308, 1e308])
# Long flat stretches, since raises need them.
metric_sequences = st.lists(st.tuples(metric_values, st.integers(1, 25), st.booleans()), min_size=1, max_size=12).map(
    lambda runs: [(metric, allow) for metric, length, allow in runs for _ in range(length)]
)
any_settings = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(SCHEDULES),
        "n_epochs": st.integers(10, 120),
        "warmup_epochs": st.integers(0, 9),
        "mode": st.sampled_from(["min", "max"]),
        "patience": st.integers(1, 7),
        "cooldown": st.integers(1, 7),
        "t_0": st.integers(1, 12),
        "t_mult": st.integers(1, 3),
        "raises_on_plateau_schedule": st.booleans(),
        "floor": st.sampled_from([0.0, 1e-7, 1e-4]),
    }
)


# What may stand at an epoch's end: metrics near and far from each other, and none. A byte is one event of up to four epochs,
# which draws quickly: ten thousand sequences are asked for.
METRICS = (0.5, 0.5, 0.6, 0.499, 0.45, 0.4, 0.3, 1.0, 0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 0.5)
SEQUENCES_EACH = 10_000 // len(SCHEDULES)


def events_of(data):
    """(metric, number of epochs, whether raises are allowed, whether the run is rolled back after them) of each byte."""
    for byte in data:
        yield METRICS[byte & 15], (1, 3, 6, 9)[byte >> 4 & 3], byte >> 6 & 1 == 0, byte >> 7 == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=SEQUENCES_EACH, deadline=None)
@given(data=st.binary(min_size=1, max_size=12), variant=st.integers(0, 2**11 - 1))
def test_bounds_hold_and_every_resume_is_exact(schedule, data, variant):
    options = {
        "schedule": schedule,
        "n_epochs": 60,
        "warmup_epochs": (0, 3, 20)[variant % 3],
        "mode": ("min", "max")[variant >> 2 & 1],
        "patience": 1 + (variant >> 3 & 3) * 2,
        "cooldown": 1 + (variant >> 5 & 3) * 2,
        "max_factor": (5.0, 5.0, 2.0, 1.0)[variant >> 7 & 3],
        "floor": (0.0, 1e-4)[variant >> 9 & 1],
        "raises_on_plateau_schedule": bool(variant >> 10),
    }
    # The state is carried to and fro between two controllers, each left as it stood a step before.
    whole, resumed, other = (BoundedLR(BASE, **options) for _ in range(3))
    earlier = whole.state_dict()
    raises_in_plateau, tried = 0, []
    for metric, epochs, allow, roll_back in events_of(data):
        for _ in range(epochs):
            state = json.loads(json.dumps(resumed.state_dict(), allow_nan=False))
            other.load_state_dict(state)
            resumed, other = other, resumed
            rate = whole.step(metric, allow)
            assert resumed.step(metric, allow) == rate == whole.rate == resumed.rate
            assert options["floor"] <= rate <= options["max_factor"] * BASE <= MAX_FACTOR * BASE
            if whole.best != state["best"]:
                raises_in_plateau = 0
            interventions = whole.interventions
            if len(interventions) > len(tried):
                entry = interventions[-1]
                assert entry["epoch"] == state["epoch"] >= 15
                assert allow
                assert math.isfinite(metric)
                assert entry["scale"] > 1
                assert entry["multiple"] not in state["failed"]
                assert not tried or entry["epoch"] - tried[-1]["epoch"] >= options["cooldown"]
                raises_in_plateau += 1
                assert raises_in_plateau <= len(RAISE_SCALES)
                tried.append(entry)
        if roll_back:
            whole.rollback(earlier)
            resumed.rollback(earlier)
            assert options["floor"] <= whole.rate <= rate
            assert whole.interventions == tried
        elif raises_in_plateau == 0:
            earlier = whole.state_dict()
    assert resumed.state_dict() == whole.state_dict()


@settings(max_examples=100, deadline=None)
@given(
    sequence=metric_sequences,
    options=any_settings,
    bases=st.lists(st.sampled_from([1e-3, 5e-3, 1e-1, 2e-4]), min_size=1, max_size=12),
)
def test_no_resume_moves_the_cap(sequence, options, bases):
    controller = BoundedLR(BASE, **options)
    share = max(1, len(sequence) // len(bases))
    for base in bases:
        state = controller.state_dict()
        controller = BoundedLR(base, **options)
        controller.load_state_dict(state)
        assert controller.base_lr == BASE
        for metric, allow in sequence[:share]:
            assert options["floor"] <= controller.step(metric, allow) <= MAX_FACTOR * BASE


def test_state_is_a_copy():
    controller = BoundedLR(BASE, schedule="constant")
    state = controller.state_dict()
    run(controller, flat(16))
    assert state["epoch"] == 0
    assert state["interventions"] == []


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_lr": 0.0}, "base_lr must be > 0"),
        ({"base_lr": "fast"}, "base_lr must be a number"),
        ({"schedule": "cosin"}, "schedule must be one of constant, cosine, plateau, .*, got 'cosin'"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"warmup_epochs": 100}, "warmup_epochs"),
        ({"mode": "best"}, "mode must be one of max, min"),
        ({"max_factor": 25.0}, "max_factor must be >= 1.0 and <= 5.0, got 25.0"),
        ({"max_factor": 0.5}, "max_factor"),
        ({"floor": 1.0}, "floor must be >= 0.0 and <= 0.001"),
        ({"schedule": "cosine", "eta_min": 1.0}, "eta_min"),
        ({"plateau_factor": 1.0}, "plateau_factor"),
        ({"patience": 0}, "patience"),
        ({"min_delta": math.nan}, "min_delta"),
        ({"cooldown": 0}, "cooldown"),
        ({"t_0": 0}, "t_0"),
        ({"power": 0.0}, "power"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        BoundedLR(**{"base_lr": BASE, **options})


def test_gradients_are_no_argument():
    with pytest.raises(TypeError):
        BoundedLR(BASE).step(0.5, gradient_norm=0.05)


@pytest.mark.parametrize("metric", ["0.5", None, True])
def test_metric_must_be_a_number(metric):
    with pytest.raises(InputTypeError, match="metric must be a number"):
        BoundedLR(BASE).step(metric)


def test_foreign_states_are_refused():
    controller = BoundedLR(BASE)
    with pytest.raises(InputTypeError, match="must be a mapping"):
        controller.load_state_dict([])
    with pytest.raises(InputValueError, match="differs in epoch"):
        controller.load_state_dict({k: v for k, v in controller.state_dict().items() if k != "epoch"})
    with pytest.raises(InputValueError, match="differs in momentum"):
        controller.load_state_dict({**controller.state_dict(), "momentum": 1})
    with pytest.raises(InputValueError, match="multiplier"):
        controller.load_state_dict({**controller.state_dict(), "multiplier": 92.5})
