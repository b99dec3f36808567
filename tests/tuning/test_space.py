"""The search space: what it reads, what it refuses, what its choices mean."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesuvius_kit.checks import InputError
from vesuvius_kit.postprocess.pipeline import load_pipeline, make_pipeline, try_pipeline
from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.space import Choice, Range, load_space

GROUPS = ("a", "b")


def write_space(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("pipeline", load_space().branches)
def test_every_pipeline_begins_as_its_preset(pipeline):
    space = load_space()
    candidate = space.candidate(space.defaults(pipeline, GROUPS), GROUPS)
    preset = Candidate.of(pipeline, load_pipeline(pipeline), dict.fromkeys(GROUPS, 1.0))
    assert candidate.digest == preset.digest, (candidate.steps, preset.steps)


@given(st.integers(0, 10_000))
def test_whatever_is_drawn_is_a_pipeline_that_runs(seed):
    space = load_space()
    candidate = space.candidate(space.draw(random.Random(seed), GROUPS), GROUPS)
    make_pipeline(candidate.to_yaml())
    try_pipeline(candidate.steps)
    assert sum(share for _, share in candidate.weights) == pytest.approx(1, abs=1e-5)


def test_above_counts_from_the_other_parameter(tmp_path):
    space = load_space(
        write_space(
            tmp_path,
            "pipelines: {raw: {hysteresis_threshold.t_low: {low: 0.1, high: 0.5, step: 0.1},"
            " hysteresis_threshold.t_high: {low: 0.0, high: 0.2, step: 0.1, above: hysteresis_threshold.t_low}}}",
        )
    )
    values = {"pipeline": "raw", "raw.hysteresis_threshold.t_low": 0.3, "raw.hysteresis_threshold.t_high": 0.2}
    (step,) = space.candidate(values, ["a"]).steps
    assert step.parameters == {"t_low": 0.3, "t_high": 0.5}
    assert space.defaults("raw", ["a"])["raw.hysteresis_threshold.t_high"] == 0.0


def test_what_optuna_counts_in_steps_is_named_without_the_dirt_of_binary_fractions(tmp_path):
    space = load_space(
        write_space(
            tmp_path,
            "pipelines: {raw: {hysteresis_threshold.t_low: {low: 0.1, high: 0.5, step: 0.1}}}",
        )
    )
    name = "raw.hysteresis_threshold"
    values = {"pipeline": "raw", f"{name}.t_low": 0.1 + 2 * 0.1}
    assert space.on_grid(values, ["a"]) == {"pipeline": "raw", f"{name}.t_low": 0.3} != values


def test_a_parameter_may_follow_another_without_being_searched():
    space = load_space()
    name = "sheet_repair.hysteresis_threshold"
    assert f"{name}.t_high" not in space.parameters("sheet_repair", ["a"])
    values = {**space.defaults("sheet_repair", ["a"]), f"{name}.t_low": 0.62}
    step = next(step for step in space.candidate(values, ["a"]).steps if step.name == "hysteresis_threshold")
    assert step.parameters == {"t_low": 0.62, "t_high": 0.62}


def test_a_step_can_be_left_out(tmp_path):
    space = load_space(write_space(tmp_path, "pipelines: {public: {close_cylinder: [true, false]}}"))
    values = {**space.defaults("public", ["a"]), "public.close_cylinder": False}
    assert [step.name for step in space.candidate(values, ["a"]).steps] == [
        "hysteresis_threshold",
        "remove_small_components",
    ]


def test_a_pipeline_may_lie_beside_the_space(tmp_path):
    (tmp_path / "mine.yaml").write_text("- hysteresis_threshold: {t_low: 0.2, t_high: 0.4}\n")
    space = load_space(write_space(tmp_path, "pipelines: {mine.yaml: {hysteresis_threshold.t_low: [0.1, 0.2]}}"))
    (step,) = space.candidate(space.defaults("mine.yaml", ["a"]), ["a"]).steps
    assert step.parameters == {"t_low": 0.2, "t_high": 0.4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must have pipelines"),
        ("pipelines: {}", "must have pipelines"),
        ("pipelines: {nonesuch: }", "must be a YAML file or one of"),
        ("pipelines: {raw: }\nweight: {low: 0, high: 1}", "got weight"),
        ("pipelines: {raw: [1]}", "ranges by step.parameter"),
        ("pipelines: {raw: {hysteresis_threshold.t_lo: [0.1]}}", "must have a parameter among t_low, t_high, got"),
        ("pipelines: {raw: {hysteresis_threshold.probability: [0.1]}}", "must have a parameter among t_low, t_high, got"),
        ("pipelines: {raw: {close_ball.radius: {low: 1, high: 2}}}", "must name a step that the pipeline has once"),
        ("pipelines: {raw: {hysteresis_threshold: [true, false]}}", "raw without hysteresis_threshold must be a list of steps"),
        ("pipelines: {public: {close_cylinder.z_radius: [0.5, true]}}", "whole numbers, got 0.5"),
        ("pipelines: {public: {close_cylinder: [true, false], close_cylinder.z_radius: {low: 0, high: 2, above:"
         " close_cylinder}}}", "above a range"),
        ("pipelines: {public: {close_cylinder: [true]}}", "must be [true, false]"),
        ("pipelines: {public: {close_cylinder.z_radius: {low: 0.5, high: 2}}}", "must have whole numbers"),
        ("pipelines: {raw: {hysteresis_threshold.t_low: {low: 0.5, high: 0.2}}}", "low < high"),
        ("pipelines: {raw: {hysteresis_threshold.t_low: {low: 0, high: 1, log: true}}}", "low above 0"),
        ("pipelines: {raw: {hysteresis_threshold.t_low: {low: 0, high: 1, step: 0.3}}}", "whole steps"),
        ("pipelines: {raw: {hysteresis_threshold.t_low: {low: 0}}}", "low and high"),
        ("pipelines: {raw: {hysteresis_threshold.t_low: {low: a, high: b}}}", "must have numbers"),
        ("pipelines: {raw: {hysteresis_threshold.t_low: []}}", "different values"),
        ("pipelines: {raw: {hysteresis_threshold.t_low: [0.1, 0.1]}}", "different values"),
        ("pipelines: {raw: {hysteresis_threshold.t_high: {low: 0, high: 1, above: hysteresis_threshold.t_low}}}", "stands"),
        ("pipelines: {public: {remove_small_components.connectivity: [6, 7]}}", "must choose among 6, 18, 26"),
        ("pipelines: {sheet_repair: {trace_ridges.axial: {low: 0, high: 1}}}", "must have a list of choices"),
        ("pipelines: {raw: }\nweights: [1, 2]", "must be a range"),
        ("pipelines: {raw: }\nweights: {low: -1, high: 1}", "at least 0"),
        ("pipelines: {raw: }\npipelines: {raw: }", "given once"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        load_space(write_space(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(st.integers(0, 1000))
def test_what_is_varied_differs_in_one_or_two_parameters_and_runs(seed):
    space, rng = load_space(), random.Random(seed)
    values = space.draw(rng, GROUPS)
    varied = space.vary(values, rng, GROUPS)
    assert set(varied) == set(values)
    assert sum(varied[name] != values[name] for name in values) <= 2
    assert varied["pipeline"] == values["pipeline"]
    try_pipeline(space.candidate(varied, GROUPS).steps)


@given(st.floats(-1e6, 1e6), st.integers(0, 5))
def test_the_nearest_number_lies_in_the_range(value, seed):
    ranges = [
        Range(0.1, 0.7, 0.1, False, False),
        Range(1, 9, 2, False, True),
        Range(1, 1000, None, True, True),
        Range(0.001, 1.0, None, True, False),
    ]
    for own in ranges:
        for number in (own.nearest(value), own.draw(random.Random(seed)), *own.spread(4)):
            assert own.low <= number <= own.high
            assert own.nearest(number) == number
            assert isinstance(number, int) == own.is_integer


def test_the_nearest_choice_keeps_its_type():
    assert Choice((1, True)).nearest(True) is True
    assert Choice((0.1, 0.2)).nearest(5) == 0.1


def test_weights_that_are_all_zero_count_as_equal():
    zero, equal = (Candidate.of("raw", load_pipeline("raw"), dict.fromkeys(GROUPS, weight)) for weight in (0.0, 3.0))
    assert zero == equal
    assert dict(zero.weights) == {"a": 0.5, "b": 0.5}
    assert Candidate.of("raw", load_pipeline("raw"), {"a": 0.0, "b": 2.0}).weights == (("b", 1.0),)
