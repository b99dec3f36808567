"""What a search may choose: pipelines, the ranges of their parameters, the weights of an ensemble. Read from YAML."""

import inspect
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config.yaml_file import load_yaml
from vesuvius_kit.postprocess.pipeline import STEPS, Carried, Step, list_presets, load_pipeline, make_pipeline
from vesuvius_kit.tuning.candidate import Candidate

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Value = bool | int | float | str
Values = Mapping[str, Value]
"""A trial's choices by name: ``pipeline``, ``{pipeline}.{step}.{parameter}``, ``{pipeline}.{step}`` for whether the step is
taken, ``weights.{group}``."""

PIPELINE = "pipeline"
WEIGHTS = "weights"
# What a parameter of a type may be, and in words.
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true and false"),
    int: ((int,), "whole numbers"),
    float: ((int, float), "numbers"),
}
_DIGITS = 10  # of a value on a grid of steps, so that 0.1 + 0.2 is 0.3


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included."""

    low: float
    high: float
    step: float | None
    """None: any number between."""
    log: bool
    """Whether small numbers are looked at as closely as large ones."""
    is_integer: bool
    above: str | None = None
    """The parameter of the same pipeline, ``step.parameter``, that the number is added to."""

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose: a number that follows another parameter."""
        return self.low == self.high

    def distribution(self) -> "BaseDistribution":
        """Return the range as Optuna has it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.is_integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def draw(self, rng: random.Random) -> Value:
        """Return any of the numbers."""
        if self.log:
            return self.nearest(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self.nearest(rng.uniform(self.low, self.high))

    def nearest(self, value: object) -> Value:
        """Return the number of the range that is nearest to one."""
        number = min(max(_as_number(value), self.low), self.high)
        if self.step is not None:
            number = round(self.low + round((number - self.low) / self.step) * self.step, _DIGITS)
        return round(number) if self.is_integer else number

    def beside(self, value: Value, rng: random.Random) -> Value:
        """Return another number near one: a step or two away, or up to a sixth of the range."""
        number = _as_number(value)
        if self.log:
            reach = math.log(self.high / self.low) / 6
            return self.nearest(number * math.exp(rng.uniform(-reach, reach)))
        reach = 2 * self.step if self.step is not None else (self.high - self.low) / 6
        return self.nearest(number + rng.uniform(-reach, reach))

    def spread(self, count: int) -> list[Value]:
        """Return up to so many numbers that are evenly spread over the range, ends included."""
        shares = [k / (count - 1) for k in range(count)]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            numbers = [math.exp(low + share * (high - low)) for share in shares]
        else:
            numbers = [self.low + share * (self.high - self.low) for share in shares]
        return sorted({self.nearest(number) for number in numbers}, key=_as_number)


@dataclass(frozen=True)
class Choice:
    """Some values."""

    values: tuple[Value, ...]

    def distribution(self) -> "BaseDistribution":
        """Return the choice as Optuna has it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def draw(self, rng: random.Random) -> Value:
        """Return any of the values."""
        return rng.choice(self.values)

    def nearest(self, value: object) -> Value:
        """Return the value itself where it is one of them, else the first."""
        return next((own for own in self.values if own == value and type(own) is type(value)), self.values[0])

    def beside(self, value: Value, rng: random.Random) -> Value:
        """Return any of the values."""
        return rng.choice(self.values)

    def spread(self, count: int) -> list[Value]:
        """Return all values, however many."""
        return list(self.values)


@dataclass(frozen=True)
class Branch:
    """A pipeline and which of its parameters are searched."""

    steps: tuple[Step, ...]
    parameters: Mapping[str, Range | Choice]
    """By ``step.parameter``, or by ``step`` for whether it is taken."""

    def value_of(self, name: str) -> object:
        """Return what the pipeline has by itself; of a step alone, that it is taken."""
        step, dot, parameter = name.partition(".")
        return next(each for each in self.steps if each.name == step).parameters[parameter] if dot else True


@dataclass(frozen=True)
class Space:
    """What may be chosen; see ``default_space.yaml``."""

    branches: Mapping[str, Branch]
    """By the pipeline's name."""
    weights: Range
    """Of each folder of predictions, where there are several."""

    def parameters(self, pipeline: str, groups: Sequence[str]) -> dict[str, Range | Choice]:
        """Return what is searched under one pipeline, by the names of `Values`."""
        own = self.branches[pipeline].parameters
        return {
            **{
                f"{pipeline}.{name}": parameter
                for name, parameter in own.items()
                if not (isinstance(parameter, Range) and parameter.is_fixed)
            },
            **({f"{WEIGHTS}.{group}": self.weights for group in groups} if len(groups) > 1 else {}),
        }

    def suggest(self, trial: "Trial", groups: Sequence[str]) -> Values:
        """Return the choices of an Optuna trial."""
        from optuna.distributions import FloatDistribution, IntDistribution

        values: dict[str, Value] = {PIPELINE: trial.suggest_categorical(PIPELINE, list(self.branches))}
        for name, parameter in self.parameters(str(values[PIPELINE]), groups).items():
            kind = parameter.distribution()
            if isinstance(kind, IntDistribution):
                values[name] = trial.suggest_int(name, kind.low, kind.high, step=kind.step, log=kind.log)
            elif isinstance(kind, FloatDistribution):
                values[name] = trial.suggest_float(name, kind.low, kind.high, step=kind.step, log=kind.log)
            else:
                assert isinstance(parameter, Choice)
                chosen = trial.suggest_categorical(name, parameter.values)
                assert chosen is not None
                values[name] = chosen
        return values

    def on_grid(self, values: Values, groups: Sequence[str]) -> Values:
        """Return a trial's choices without the dirt of binary fractions: 0.7, which Optuna has as 0.7000000000000001."""
        known = self.parameters(str(values[PIPELINE]), groups)
        return {name: known[name].nearest(value) if name in known else value for name, value in values.items()}

    def draw(self, rng: random.Random, groups: Sequence[str]) -> Values:
        """Return choices at random."""
        pipeline = rng.choice(list(self.branches))
        drawn = {name: parameter.draw(rng) for name, parameter in self.parameters(pipeline, groups).items()}
        return {PIPELINE: pipeline, **drawn}

    def vary(self, values: Values, rng: random.Random, groups: Sequence[str]) -> Values:
        """Return choices that differ from some in one or two parameters, and not by much."""
        parameters = self.parameters(str(values[PIPELINE]), groups)
        names = rng.sample(sorted(parameters), min(len(parameters), rng.choice((1, 1, 2))))
        return {**values, **{name: parameters[name].beside(values[name], rng) for name in names}}

    def defaults(self, pipeline: str, groups: Sequence[str]) -> Values:
        """Return what a pipeline has by itself, as near as the space comes to it, with equal weights."""
        branch, values = self.branches[pipeline], dict[str, Value]({PIPELINE: pipeline})
        for name, parameter in self.parameters(pipeline, groups).items():
            if name.startswith(f"{WEIGHTS}."):
                values[name] = parameter.nearest(self.weights.high)
                continue
            own = name.removeprefix(f"{pipeline}.")
            value = branch.value_of(own)
            if isinstance(parameter, Range) and parameter.above is not None:
                value = _as_number(value) - _as_number(values[f"{pipeline}.{parameter.above}"])
            values[name] = parameter.nearest(value)
        return values

    def candidate(self, values: Values, groups: Sequence[str]) -> Candidate:
        """Return the pipeline and the weights that some choices mean."""
        pipeline = str(values[PIPELINE])
        branch = self.branches[pipeline]
        given: dict[str, dict[str, Value]] = {step.name: {} for step in branch.steps}
        dropped: set[str] = set()
        for name, parameter in branch.parameters.items():
            step, dot, key = name.partition(".")
            if isinstance(parameter, Range) and parameter.is_fixed:
                value: Value = parameter.low
            else:
                value = values[f"{pipeline}.{name}"]
            if not dot:
                if not value:
                    dropped.add(step)
                continue
            if isinstance(parameter, Range):
                if parameter.above is not None:
                    value = _as_number(value) + _as_number(values[f"{pipeline}.{parameter.above}"])
                if not parameter.is_integer:
                    value = round(float(value), _DIGITS)
            given[step][key] = value
        kept = [step for step in branch.steps if step.name not in dropped]
        steps = [Step(step.name, {**step.parameters, **given[step.name]}) for step in kept]
        weights = {group: _as_number(values.get(f"{WEIGHTS}.{group}", 1.0)) for group in groups}
        return Candidate.of(pipeline, steps, weights)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON holds it, to tell it from others."""
        return {
            "pipelines": {
                name: {
                    "steps": [[step.name, step.parameters] for step in branch.steps],
                    "parameters": {key: vars(parameter) for key, parameter in branch.parameters.items()},
                }
                for name, branch in self.branches.items()
            },
            "weights": vars(self.weights),
        }


def load_space(path: Path | str | None = None) -> Space:
    """Read a space, by default the kit's own.

    Raises
    ------
    InputError
        Unreadable YAML, an unknown pipeline, step or parameter, a range that is none; the message names the place.
    """
    if path is None:
        path = Path(str(resources.files("vesuvius_kit.tuning"))) / "default_space.yaml"
    path = Path(path)
    content = load_yaml(path, "space")
    if not isinstance(content, dict) or not isinstance(content.get("pipelines"), dict) or not content["pipelines"]:
        raise InputValueError(
            f"space {path} must have pipelines with the ranges of their parameters, got {content!r:.80}"
        )
    if unknown := sorted(set(map(str, content)) - {"pipelines", WEIGHTS}):
        raise InputValueError(f"space {path} must have the keys pipelines and {WEIGHTS}, got {', '.join(unknown)}")
    branches = {
        str(name): _read_branch(str(name), ranges, path, f"space {path}: {name}")
        for name, ranges in content["pipelines"].items()
    }
    weights = _read_parameter(content.get(WEIGHTS, {"low": 0.0, "high": 1.0}), float, f"space {path}: {WEIGHTS}")
    if not isinstance(weights, Range) or weights.low < 0 or weights.high <= 0 or weights.above is not None:
        raise InputValueError(
            f"space {path}: {WEIGHTS} must be a range of numbers of at least 0, got {content[WEIGHTS]}"
        )
    return Space(branches, weights)


def _read_branch(name: str, ranges: Any, space: Path, where: str) -> Branch:
    beside = space.parent / name
    steps = load_pipeline(beside if name not in list_presets() and beside.is_file() else name)
    names = [step.name for step in steps]
    if ranges is None:
        ranges = {}
    if not isinstance(ranges, dict):
        raise InputValueError(f"{where} must have ranges by step.parameter, got {ranges!r}")
    parameters: dict[str, Range | Choice] = {}
    for key, entry in ranges.items():
        step, dot, parameter = str(key).partition(".")
        if names.count(step) != 1:
            raise InputValueError(
                f"{where} must name a step that the pipeline has once, among {', '.join(names)}, or step.parameter, got {key}"
            )
        if not dot:
            if entry != [True, False]:
                raise InputValueError(f"{where}: whether {key} is taken must be [true, false], got {entry!r}")
            make_pipeline(
                [{each.name: each.parameters} for each in steps if each.name != step], f"{name} without {step}"
            )
            parameters[step] = Choice((True, False))
            continue
        known = inspect.signature(STEPS[step]).parameters
        if parameter not in known or parameter in Carried._fields:
            own = [each for each in known if each not in Carried._fields]
            raise InputValueError(f"{where}: {step} must have a parameter among {', '.join(own) or 'none'}, got {key}")
        read = _read_parameter(entry, known[parameter].annotation, f"{where}: {key}")
        if isinstance(read, Range) and read.above is not None and not isinstance(parameters.get(read.above), Range):
            raise InputValueError(f"{where}: {key} must be above a range that stands before it, got {read.above}")
        parameters[key] = read
    return Branch(tuple(steps), parameters)


def _read_parameter(entry: Any, kind: Any, where: str) -> Range | Choice:
    if isinstance(entry, list):
        allowed = get_args(kind) if get_origin(kind) is Literal else None
        kinds, said = _KINDS.get(kind, ((bool, int, float, str), "numbers, words, true and false"))
        for value in entry:
            if type(value) not in kinds or (allowed is not None and value not in allowed):
                among = said if allowed is None else ", ".join(map(repr, allowed))
                raise InputValueError(f"{where} must choose among {among}, got {value!r}")
        if not entry or len({json.dumps(value) for value in entry}) < len(entry):
            raise InputValueError(f"{where} must be a list of different values, got {entry}")
        return Choice(tuple(entry))
    if kind not in (int, float):
        raise InputValueError(f"{where} is no number and must have a list of choices, got {entry!r}")
    if not isinstance(entry, dict) or not {"low", "high"} <= set(entry) <= {"low", "high", "step", "log", "above"}:
        raise InputValueError(
            f"{where} must be a list of choices or have low and high, and perhaps step, log and above, got {entry!r}"
        )
    low, high, step = entry["low"], entry["high"], entry.get("step")
    log, above = entry.get("log", False), entry.get("above")
    numbers = [low, high] + ([] if step is None else [step])
    kinds, said = _KINDS[kind]
    if any(type(number) not in kinds or not math.isfinite(number) for number in numbers):
        raise InputValueError(f"{where} must have {said}, got {entry!r}")
    if not isinstance(log, bool) or not (above is None or isinstance(above, str)):
        raise InputValueError(f"{where} must have true or false as log, and step.parameter as above, got {entry!r}")
    follows = low == high and above is not None and step is None
    fits = step is None or 0 < step <= high - low
    if not ((low < high and fits) or follows) or (log and (low <= 0 or step is not None)):
        raise InputValueError(
            f"{where} must have low < high, a step that fits between, and for log a low above 0 and no step, got {entry!r}"
        )
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-6:
        raise InputValueError(f"{where} must reach high from low in whole steps, got {entry!r}")
    if kind is int and not log:
        step = step or 1
    return Range(low, high, step, log, kind is int, above)


def _as_number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise InputValueError(f"value must be a number, got {value!r}")
    return value
