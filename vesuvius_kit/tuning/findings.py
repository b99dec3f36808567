"""What a search says of the space: what each parameter is worth, how flat the optimum is, what is best for each part."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.score_log import PARTS
from vesuvius_kit.tuning.search import complete_trials, parts_of, quietly, valued_trials
from vesuvius_kit.tuning.space import PIPELINE, WEIGHTS, Range, Space, Values

if TYPE_CHECKING:
    from optuna.study import Study

FEWEST_TRIALS = 20
SLICE_VOLUMES = 24
"""Volumes, at most, on which the values of a parameter are compared."""
SLICE_POINTS = 5
"""Values of a parameter that are looked at across its range, beside the optimum and its neighbours."""
FLAT = 0.005
"""A loss of score that counts as none."""


def rank_parameters(study: "Study", space: Space, pipeline: str, groups: Sequence[str]) -> dict[str, float]:
    """Return the share of each parameter of a pipeline in what tells good trials from others, greatest first.

    PED-ANOVA (Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces", IJCAI
    2023), over the trials of that pipeline, given up or not. Empty where there are fewer than `FEWEST_TRIALS`.
    """
    import optuna

    kinds = {name: parameter.distribution() for name, parameter in space.parameters(pipeline, groups).items()}
    trials = [trial for trial in valued_trials(study) if trial.params[PIPELINE] == pipeline]
    kinds = {name: kind for name, kind in kinds.items() if len({trial.params[name] for trial in trials}) > 1}
    if len(trials) < FEWEST_TRIALS or len({trial.value for trial in trials}) < 2 or not kinds:
        return {}
    with quietly():
        alone = optuna.create_study(direction="maximize")
        alone.add_trials([
            optuna.create_trial(
                params={name: trial.params[name] for name in kinds}, distributions=kinds, value=trial.value
            )
            for trial in trials
        ])  # fmt: skip
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(alone, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def list_slices(
    space: Space, values: Values, groups: Sequence[str], weighed: Sequence[str]
) -> dict[str, list[tuple[Any, Candidate]]]:
    """Return, for each parameter of the best setting, candidates that differ in it alone, by its value in rising order.

    ``weighed`` are those of the ``groups`` whose weights were searched.
    """
    slices = {}
    for name, parameter in space.parameters(str(values[PIPELINE]), weighed).items():
        own = values[name]
        points = {own, *parameter.spread(SLICE_POINTS)}
        if isinstance(parameter, Range):
            step = parameter.step if parameter.step is not None else (parameter.high - parameter.low) / 20
            assert not isinstance(own, str)
            points |= {parameter.nearest(own - step), parameter.nearest(own + step)} if not parameter.log else set()
        ordered = sorted(points) if isinstance(parameter, Range) else parameter.spread(SLICE_POINTS)
        slices[name] = [(value, space.candidate({**values, name: value}, groups)) for value in ordered]
    return slices


def find_flat(slice_: Sequence[tuple[Any, float]], optimum: Any) -> tuple[Any, Any]:
    """Return the least and the greatest value around the optimum, neighbour by neighbour, that cost no score."""
    place = next(k for k, (value, _) in enumerate(slice_) if value == optimum and type(value) is type(optimum))
    least = greatest = place
    while least > 0 and slice_[least - 1][1] >= slice_[place][1] - FLAT:
        least -= 1
    while greatest + 1 < len(slice_) and slice_[greatest + 1][1] >= slice_[place][1] - FLAT:
        greatest += 1
    return slice_[least][0], slice_[greatest][0]


def find_best_by_part(study: "Study", settings_of: Callable[[Values], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the best trial by the score and by each of its parts."""
    trials = complete_trials(study)
    rows = []
    for part in PARTS:
        best = max(trials, key=lambda trial: (parts_of(trial)[part], parts_of(trial)["score"]))
        parts = parts_of(best)
        rows.append({"part": part, "value": parts[part], **parts, "settings": dict(settings_of(best.params))})
    return rows


def short_name(name: str, pipeline: str) -> str:
    """Return a parameter's name without its pipeline's."""
    return name if name.startswith(f"{WEIGHTS}.") else name.removeprefix(f"{pipeline}.")
