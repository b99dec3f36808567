"""Which plan the next volume gets, with a clock that the test moves: nothing sleeps and nothing is predicted."""

import heapq
import math
import random
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from vesuvius_kit.inference.ladder import RIDGE, Rung, make_ladder
from vesuvius_kit.inference.schedule import Order, Schedule
from vesuvius_kit.inference.stages import Stop

VIEWS = {"none": 1, "mirror4": 4, "mirror": 8, "seven": 7}


def count_views(number, tta):
    return VIEWS[tta]


def count_windows(shape, number, overlap):
    step = max(1, int(32 * (1 - overlap) + 1e-6))
    return math.prod(1 + max(0, -(-(length - 32) // step)) for length in shape)


class Run:
    """A run on paper: volumes that take what they take, told to the schedule as `make_results` tells it."""

    def __init__(self, n, *, tta="mirror", n_models=1, rate=0.01, processes=1, jitter=0.0, seed=0, shape=(96, 96, 96)):
        self.now, self.rng = 0.0, random.Random(seed)
        self.names = [f"v{number}" for number in range(n)]
        self.shapes = dict.fromkeys(self.names, shape)
        self.ladder = make_ladder(n_models, tta, 0.5, count_views)
        self.rates = [rate * (1 + 0.3 * number) for number in range(n_models)]
        self.processes, self.jitter = processes, jitter
        self.voxels = math.prod(shape)
        # Seconds a voxel.
        self.decode, self.repair, self.simple, self.closing = 1e-8, 1e-7, 1e-7, 1e-9
        self.plans, self.late, self.ridges, self.unreached = [], 0, 0, 0

    def network_seconds(self, rung, varied=True):
        return {
            number: count_windows(self.shapes[self.names[0]], number, rung.overlap)
            * VIEWS[tta]
            * self.rates[number]
            * (self.rng.uniform(1 - self.jitter, 1 + self.jitter) if varied else 1)
            for number, tta in rung.members
        }

    def whole_seconds(self):
        return len(self.names) * sum(self.network_seconds(self.ladder[0], varied=False).values()) / self.processes

    def play(self, budget, *, trial_error=1.0, slow_from=None, slower=1.0):
        """Play the run through; from one volume on, the networks may be slower."""
        self.schedule = schedule = Schedule(
            self.ladder, self.shapes, self.names, count_windows, count_views,
            seconds=budget, started=0.0, n_processes=self.processes, clock=lambda: self.now,
        )  # fmt: skip
        self.now = 0.01 * budget if budget else 0.0
        schedule.note_trial(
            {number: trial_error * rate for number, rate in enumerate(self.rates)},
            {"simple": self.simple, "repair": self.repair},
        )
        events = [(self.now, number, number, None) for number in range(self.processes)]
        repaired, waiting, count = [0.0] * self.processes, list(self.names), self.processes
        while events:
            moment, _, process, what = heapq.heappop(events)
            self.now = max(self.now, moment)
            if what is not None:
                kind, name, order, seconds, repair, was_late = what
                if kind == "done":
                    schedule.note_stage(name, "decode", self.decode * self.voxels)
                    schedule.note_stage(name, "closing", self.closing * self.voxels)
                    if order.rung.is_ridge or was_late:
                        schedule.note_stage(name, "simple", repair)
                        schedule.stand_in(name)
                    else:
                        schedule.note_stage(name, "repair", repair)
                        schedule.finish(name)
                    continue
                schedule.note_network(name, process, seconds, order.rung)
            if not waiting:
                continue
            order = schedule.order_for(waiting[0], process)
            if order is Stop.STOP:
                continue
            name = waiting.pop(0)
            if slow_from is not None and len(self.plans) == slow_from:
                self.rates = [slower * rate for rate in self.rates]
            seconds = self.network_seconds(order.rung)
            took = sum(seconds.values())
            self.plans.append(order.number)
            was_late = order.seconds is not None and took > order.seconds
            if was_late:
                took, seconds = order.seconds, {}
                self.late += 1
            self.ridges += order.rung.is_ridge
            repair = (self.simple if order.rung.is_ridge or was_late else self.repair) * self.voxels
            free = max(self.now + took, repaired[process])
            repaired[process] = free + repair
            count += 2
            heapq.heappush(events, (free, count, process, ("free", name, order, seconds, repair, was_late)))
            heapq.heappush(
                events, (repaired[process], count + 1, process, ("done", name, order, seconds, repair, was_late))
            )
        for name in waiting:
            if schedule.has_time_for_ridge(name):
                self.now += self.simple * self.voxels
            else:
                self.unreached += 1
        self.now += self.closing * self.voxels * len(self.names)
        return self.now


def test_without_a_budget_every_volume_gets_the_whole_plan_and_nothing_ends():
    run = Run(5, n_models=2)
    run.play(None)
    assert run.plans == [0] * 5
    assert run.schedule.left == []
    assert run.schedule.seconds_left() == math.inf
    order = Schedule(run.ladder, run.shapes, ["v0"], count_windows, count_views).order_for("v0")
    assert order == Order(run.ladder[0], 0, None, True)


def test_a_budget_that_suffices_changes_nothing():
    run = Run(10, n_models=2)
    run.play(1.5 * run.whole_seconds())
    assert run.plans == [0] * 10


@settings(max_examples=60)
@given(
    n=st.sampled_from([10, 20, 60]),
    n_models=st.integers(1, 3),
    tta=st.sampled_from(["none", "mirror", "seven"]),
    processes=st.sampled_from([1, 2]),
    jitter=st.sampled_from([0.0, 0.05, 0.15]),
    share=st.floats(0.02, 1.4),
    trial_error=st.sampled_from([0.7, 1.0, 1.3]),
    seed=st.integers(0, 1000),
)
def test_a_budget_is_never_exceeded(n, n_models, tta, processes, jitter, share, trial_error, seed):
    run = Run(n, tta=tta, n_models=n_models, processes=processes, jitter=jitter, seed=seed)
    budget = share * run.whole_seconds()
    assert run.play(budget, trial_error=trial_error) <= budget
    # The end of the time inside a volume is the exception, once in a process.
    assert run.late <= max(processes, 0.1 * n)


@settings(max_examples=60)
@given(
    n=st.sampled_from([20, 60, 120]),
    n_models=st.integers(1, 3),
    tta=st.sampled_from(["none", "mirror", "seven"]),
    processes=st.sampled_from([1, 2]),
    jitter=st.sampled_from([0.0, 0.05]),
    share=st.floats(0.15, 0.95),
    seed=st.integers(0, 1000),
)
def test_at_least_nine_tenths_of_a_budget_are_used_when_something_must_be_shed(
    n, n_models, tta, processes, jitter, share, seed
):
    run = Run(n, tta=tta, n_models=n_models, processes=processes, jitter=jitter, seed=seed)
    budget = share * run.whole_seconds()
    used = run.play(budget)
    # A volume cannot be predicted in part: what is left over is less than the step to the plan above, for one volume a process.
    costs = [sum(run.network_seconds(rung, varied=False).values()) for rung in run.ladder]
    best = min(run.plans)
    above = costs[best - 1] if best else costs[best]
    step = max(a - b for a, b in pairwise(costs) if a <= max(above, 1.3 * costs[best]))
    assert used >= min(0.9 * budget, 0.97 * budget - 1.3 * step)
    assert used <= budget


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
def test_ten_volumes_of_two_networks_use_nine_tenths(processes, share):
    run = Run(10, n_models=3, processes=processes, jitter=0.03)
    budget = share * run.whole_seconds()
    assert 0.88 * budget < run.play(budget) <= budget


def test_plans_go_down_when_the_networks_turn_out_slower_and_up_when_faster():
    slower, faster = Run(20, n_models=2), Run(20, n_models=2)
    budget = 0.6 * slower.whole_seconds()
    assert slower.play(budget, slow_from=5, slower=2.0) <= budget
    assert max(slower.plans[8:]) > max(slower.plans[:5])
    assert faster.play(budget, slow_from=5, slower=0.5) <= budget
    assert max(faster.plans[8:]) < max(faster.plans[:5])


def test_when_nothing_else_fits_some_volumes_get_the_ridge_filter():
    run = Run(20, tta="none")
    least = sum(run.network_seconds(run.ladder[-2]).values())
    budget = 0.5 * 20 * (least + run.repair * run.voxels)
    assert run.play(budget) <= budget
    assert 0 < run.ridges < 20
    assert run.late == run.unreached == 0


def test_a_budget_that_is_over_orders_nothing():
    schedule = Schedule([Rung(((0, "none"),), 0.5), RIDGE], {"a": (9, 9, 9)}, ["a"], count_windows, count_views,
                        seconds=1e-3, started=0.0, clock=lambda: 5.0)  # fmt: skip
    assert schedule.order_for("a") is Stop.STOP
    assert not schedule.has_time_for_ridge("a")


def test_the_cheapest_masks_of_what_is_left_are_kept_back():
    now = [40.0]
    shapes = {"a": (10, 10, 10), "b": (10, 10, 20), "c": (5, 4, 10)}
    schedule = Schedule([Rung(((0, "none"),), 0.5), RIDGE], shapes, list(shapes), count_windows, count_views,
                        seconds=1000.0, started=0.0, clock=lambda: now[0])  # fmt: skip
    # A hundredth is kept for what nobody foresaw, a minute at most.
    assert schedule.seconds_left() == pytest.approx(950)
    schedule.note_trial({0: 30.0}, {"simple": 2e-3, "closing": 1e-3})
    closing = 1.2e-3 * 3200
    assert schedule.seconds_left() == pytest.approx(950 - closing - 2e-3 * 3200)
    order = schedule.order_for("a")
    assert order.seconds == pytest.approx(950 - closing - 2e-3 * 2200)
    schedule.note_network("a", 0, {0: 28.0}, order.rung)
    schedule.note_stage("a", "repair", 3.0)
    schedule.finish("a")
    assert schedule.left == ["b", "c"]
    schedule.stand_in("c")
    assert schedule.seconds_left() == pytest.approx(950 - closing - 2e-3 * 2000)
    assert schedule.order_for("b").seconds == pytest.approx(950 - closing - 3e-3 * 2000)
    now[0] += 2000
    assert schedule.seconds_left() < 0


def test_what_a_killed_process_held_waits_again_and_its_share_of_the_work_is_the_others():
    run = Run(4, processes=2)
    schedule = Schedule(run.ladder, run.shapes, run.names, count_windows, count_views, seconds=1000.0, started=0.0,
                        n_processes=2, clock=lambda: 0.0)  # fmt: skip
    schedule.note_trial({0: 0.1}, {})
    schedule.order_for("v0", 0), schedule.order_for("v1", 1)
    both = schedule.seconds_for_all(run.ladder[0])
    schedule.lose_process(1)
    assert schedule.seconds_for_all(run.ladder[0]) == pytest.approx(2 * both)
    # When the last one is lost, a new process takes its place.
    schedule.lose_process(0)
    assert schedule.seconds_for_all(run.ladder[0]) == pytest.approx(2 * both)
    schedule.gain_process(1)
    assert schedule.seconds_for_all(run.ladder[0]) == pytest.approx(both)


def test_a_network_that_is_dropped_is_in_no_plan_but_the_last_one_stays():
    run = Run(3, n_models=2)
    schedule = Schedule(run.ladder, run.shapes, run.names, count_windows, count_views, seconds=1e6)
    schedule.note_trial({0: 0.1, 1: 0.1}, {})
    schedule.drop_network(0, "NaN")
    order = schedule.order_for("v0")
    assert [number for number, _ in order.rung.members] == [1]
    assert not order.is_whole
    schedule.drop_network(1, "NaN too")
    assert schedule.dropped == {0: "NaN"}


def test_the_table_shows_what_each_plan_takes_and_which_comes_first():
    run = Run(10, n_models=2)
    run.now = 0.0
    schedule = Schedule(run.ladder, run.shapes, run.names, count_windows, count_views, seconds=250.0, started=0.0,
                        clock=lambda: 0.0)  # fmt: skip
    schedule.note_trial({0: 0.01, 1: 0.01}, {"simple": 1e-7})
    lines = schedule.to_text().splitlines()
    assert len(lines) == 2 + len(run.ladder)
    assert " ".join(lines[1].split()) == "0 2 20000 200.0 fits 2 networks, tta mirror, overlap 0.5 <- first"
    assert "10 volumes, 1 process(es), 248 s left for them" in lines[-1]
    assert lines[-2].split()[1:4] == ["0", "0", "0.9"]


def test_a_plan_that_costs_no_more_is_the_one_that_comes_first():
    """In a volume of the window's size every overlap has one window."""
    run = Run(10, tta="none", n_models=2, shape=(32, 32, 32), rate=1.0)
    run.play(0.5 * run.whole_seconds())
    assert {run.ladder[number].overlap for number in run.plans if number < len(run.ladder) - 1} == {0.5}
