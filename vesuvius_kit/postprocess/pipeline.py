"""A pipeline is a list of named steps with their parameters, in YAML; presets ship with the kit.

    - hysteresis_threshold: {t_low: 0.35, t_high: 0.85}
    - close_cylinder: {z_radius: 3, xy_radius: 2}
    - fill_cavities

A pipeline carries a probability and, from the first step that makes one, a mask. A step takes what its arguments
``probability`` and ``mask`` name and replaces one of them by what it returns: a mask by bool, a probability by float.
"""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.checks import InputError, InputNotFoundError, InputTypeError, InputValueError, check_array
from vesuvius_kit.config import PostprocessConfig
from vesuvius_kit.config.yaml_file import load_yaml
from vesuvius_kit.postprocess import bridges, heights, pinholes, redraw, ridges, separation, sheets, slits, steps, wraps
from vesuvius_kit.postprocess.promises import ADDS_ONLY, REMOVES_ONLY
from vesuvius_kit.voxel import holes
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.components import find_runs
from vesuvius_kit.voxel.cubical import count_cavities, euler_characteristic

_MAKE_PROBABILITIES = ("trace_ridges", "smooth_octants")

STEPS: dict[str, Callable[..., NDArray[Any]]] = {
    function.__name__: function
    for function in (
        steps.hysteresis_threshold,
        steps.close_cylinder,
        steps.close_ball,
        steps.smooth_octants,
        steps.remove_small_components,
        ridges.trace_ridges,
        pinholes.plug_pinholes,
        heights.patch_heights,
        heights.flatten_sheets,
        sheets.close_sheets,
        sheets.grow_sheets,
        redraw.redraw_sheets,
        separation.separate_sheets,
        bridges.bridge_gaps,
        bridges.cut_bridges,
        wraps.assemble_wraps,
        slits.slit_tunnels,
        holes.fill_cavities,
    )
}
# The steps of `steps` promise what their definition says. A closing joins, and its erosion eats at the volume's faces.
_PROMISES_OF_OTHERS = {"remove_small_components": (REMOVES_ONLY,), "fill_cavities": (ADDS_ONLY,)}


class Step(NamedTuple):
    """One step of a pipeline: a key of ``STEPS`` and its parameters by name."""

    name: str
    parameters: dict[str, Any]


class Carried(NamedTuple):
    """What a pipeline carries from step to step."""

    probability: NDArray[Any]
    """(Z, Y, X), float in [0, 1]."""
    mask: NDArray[np.bool_] | None = None
    """(Z, Y, X), None before the first step that makes one."""


def list_presets() -> list[str]:
    """Return the names of the pipelines that ship with the kit."""
    folder = resources.files("vesuvius_kit.postprocess") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def promises_of(name: str) -> tuple[str, ...]:
    """Return what a step, a key of ``STEPS``, promises; see `promises.py`. Empty when it promises nothing."""
    return getattr(STEPS[name], "promises", _PROMISES_OF_OTHERS.get(name, ()))


def load_pipeline(name_or_path: Path | str) -> list[Step]:
    """Read a pipeline and check the names of its steps and parameters.

    Parameters
    ----------
    name_or_path
        A preset of `list_presets`, or a YAML file: a list of step names, or of mappings from a step's name to its
        parameters.

    Raises
    ------
    InputNotFoundError
        Neither a preset nor a file.
    InputValueError
        Unreadable YAML, an unknown step or parameter, a missing parameter, or no step that makes a mask.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> [step.name for step in vk.load_pipeline("public")]
    ['hysteresis_threshold', 'close_cylinder', 'remove_small_components']
    """
    if str(name_or_path) in list_presets():
        path = Path(str(resources.files("vesuvius_kit.postprocess"))) / "presets" / f"{name_or_path}.yaml"
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise InputNotFoundError(
                f"pipeline must be a YAML file or one of {', '.join(list_presets())}, got {name_or_path}"
            )
    return make_pipeline(load_yaml(path, "pipeline"), str(name_or_path))


def make_pipeline(content: Any, name: str = "pipeline") -> list[Step]:
    """Turn a list of steps, as YAML holds it, into a checked pipeline; ``name`` is what messages call it.

    Raises
    ------
    InputValueError
        An unknown step or parameter, a missing parameter, or no step that makes a mask.
    """
    if not isinstance(content, list) or not content:
        raise InputValueError(f"pipeline {name} must be a list of steps, got {type(content).__name__}")
    pipeline = [_make_step(entry, f"step {number} of pipeline {name}") for number, entry in enumerate(content, 1)]
    has_mask = False
    for number, step in enumerate(pipeline, 1):
        takes = inspect.signature(STEPS[step.name]).parameters
        if "mask" in takes and not has_mask:
            raise InputValueError(
                f"step {number} of pipeline {name} must come after one that makes a mask, got {step.name}"
            )
        has_mask = has_mask or step.name not in _MAKE_PROBABILITIES
    if not has_mask:
        raise InputValueError(
            f"pipeline {name} must have a step that makes a mask, got {pipeline[-1].name} as the last"
        )
    return pipeline


@overload
def run_pipeline(
    probability: NDArray[Any], pipeline: Sequence[Step], *, report: Literal[False] = False
) -> NDArray[np.bool_]: ...
@overload
def run_pipeline(
    probability: NDArray[Any], pipeline: Sequence[Step], *, report: Literal[True]
) -> tuple[NDArray[np.bool_], list[dict[str, Any]]]: ...
def run_pipeline(
    probability: NDArray[Any], pipeline: Sequence[Step], *, report: bool = False
) -> NDArray[np.bool_] | tuple[NDArray[np.bool_], list[dict[str, Any]]]:
    """Turn a probability into a mask, step by step.

    Parameters
    ----------
    probability
        (Z, Y, X), float in [0, 1]; float16 is read as float32. Not modified.
    report
        Also measure what every step changed; it costs about 0.3 s a step for 320^3.

    Returns
    -------
    mask
        Of the same shape.
    changes
        Only with ``report``, for each step: ``step``, ``parameters``, ``seconds``, ``added``, ``removed`` (voxels) and, after
        it, ``voxels``, ``components`` (26-connected), ``tunnels`` and ``cavities`` (of the whole volume as one block;
        foreground 6-connected). Before the first mask there is nothing to count.

    Raises
    ------
    InputTypeError, InputValueError
        NaN, values outside [0, 1], or what a step refuses, with its number and name.

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> probability = np.zeros((16, 16, 16), np.float32)
    >>> probability[:, 7:10] = 0.9
    >>> mask, changes = vk.run_pipeline(probability, vk.load_pipeline("public"), report=True)
    >>> int(mask.sum()), changes[-1]["components"]
    (360, 1)
    """
    carried = start_pipeline(probability)
    changes: list[dict[str, Any]] = []
    for number, step in enumerate(pipeline, 1):
        started = time.perf_counter()
        after = run_step(carried, step, number)
        seconds = time.perf_counter() - started
        if report:
            changes.append(_describe(step, carried, after, seconds))
        carried = after
    if carried.mask is None:
        raise InputValueError("pipeline must have a step that makes a mask, got none")
    return (carried.mask, changes) if report else carried.mask


def start_pipeline(probability: NDArray[Any]) -> Carried:
    """Return what a pipeline carries before its first step; see `run_pipeline` for what is refused."""
    check_array("probability", probability, kinds="f")
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise InputValueError(
            f"probability must lie in [0, 1] without NaN, got [{probability.min()}, {probability.max()}]"
        )
    return Carried(probability.astype(np.float32) if probability.dtype == np.float16 else probability)


def run_step(carried: Carried, step: Step, number: int) -> Carried:
    """Return what a pipeline carries after one of its steps; ``number`` is the step's, from 1, in messages.

    Arrays that the step does not make are those of ``carried``, and none is modified.
    """
    function = STEPS[step.name]
    takes = inspect.signature(function).parameters
    given = {name: array for name, array in carried._asdict().items() if name in takes}
    try:
        made = function(**given, **step.parameters)
    except InputError as error:
        kind = InputTypeError if isinstance(error, TypeError) else InputValueError
        raise kind(f"step {number} ({step.name}): {error}") from error
    return carried._replace(**{"mask" if made.dtype == bool else "probability": made})


def try_pipeline(pipeline: Sequence[Step]) -> None:
    """Run a pipeline over a sheet in a small volume, so that a parameter that a step refuses is found before hours of work."""
    probability = np.zeros((24, 24, 24), np.float32)
    probability[:, 10:13] = 1.0
    run_pipeline(probability, pipeline)


def choose_pipeline(
    pipeline: Path | str = PostprocessConfig.pipeline, steps: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Step]:
    """Return the steps of a preset or a file, some of their parameters replaced.

    Parameters
    ----------
    pipeline
        See `load_pipeline`.
    steps
        Parameters by step, such as ``{"hysteresis_threshold": {"t_low": 0.3}}``; all others stay the pipeline's.

    Raises
    ------
    InputError
        An unknown pipeline, a step that it does not have or has twice, a parameter that the step does not take.
    """
    chosen = load_pipeline(pipeline)
    names = [step.name for step in chosen]
    for name, parameters in (steps or {}).items():
        if names.count(name) != 1:
            raise InputValueError(
                f"steps must name a step that pipeline {pipeline} has once, among {', '.join(names)}, got {name}"
            )
        if not isinstance(parameters, Mapping):
            raise InputValueError(f"steps must have parameters by name for {name}, got {parameters!r}")
        place = names.index(name)
        merged = {**chosen[place].parameters, **parameters}
        chosen[place] = _make_step({name: merged}, f"step {place + 1} of pipeline {pipeline}")
    return chosen


def make_mask(
    probability: NDArray[Any],
    pipeline: Path | str = PostprocessConfig.pipeline,
    steps: Mapping[str, Mapping[str, Any]] | None = None,
) -> NDArray[np.bool_]:
    """Turn a probability into a mask by a preset or a file, some of its parameters replaced; see `choose_pipeline`.

    Parameters
    ----------
    probability
        (Z, Y, X), float in [0, 1].

    Examples
    --------
    >>> import numpy as np, vesuvius_kit as vk
    >>> probability = np.zeros((16, 16, 16), np.float32)
    >>> probability[:, 7:10] = 0.4
    >>> bool(vk.make_mask(probability, "raw").any())
    False
    >>> int(vk.make_mask(probability, "raw", {"hysteresis_threshold": {"t_low": 0.3, "t_high": 0.3}}).sum())
    768
    """
    return run_pipeline(probability, choose_pipeline(pipeline, steps))


def _make_step(entry: Any, where: str) -> Step:
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise InputValueError(f"{where} must be a step's name or a mapping of one name to parameters, got {entry!r}")
    ((name, parameters),) = entry.items()
    if name not in STEPS:
        raise InputValueError(f"{where} must be one of {', '.join(sorted(STEPS))}, got {name!r}")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict):
        raise InputValueError(f"{where} ({name}) must have parameters by name, got {parameters!r}")
    known = {
        key: value for key, value in inspect.signature(STEPS[name]).parameters.items() if key not in Carried._fields
    }
    for key in parameters:
        if key not in known:
            raise InputValueError(
                f"{where} ({name}) must have parameters among {', '.join(known) or 'none'}, got {key!r}"
            )
    missing = [
        key for key, value in known.items() if value.default is inspect.Parameter.empty and key not in parameters
    ]
    if missing:
        raise InputValueError(
            f"{where} ({name}) must be given {', '.join(missing)}, got {', '.join(parameters) or 'none'}"
        )
    # With the defaults, so that what is noted beside a result is complete.
    defaults = {key: _as_yaml(value.default) for key, value in known.items() if key not in missing}
    return Step(name, {key: parameters.get(key, default) for key, default in {**parameters, **defaults}.items()})


def _as_yaml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _describe(step: Step, carried: Carried, made: Carried, seconds: float) -> dict[str, Any]:
    """One entry of the report."""
    entry = {"step": step.name, "parameters": step.parameters, "seconds": round(seconds, 4)}
    after = made.mask
    if after is None or after is carried.mask:
        return entry
    before = np.zeros_like(after) if carried.mask is None else carried.mask
    words = pack_mask(after)
    pieces, cavities = find_runs(words, 6).count, count_cavities(words, after.shape[2])
    return {
        **entry,
        "added": int(np.count_nonzero(after & ~before)),
        "removed": int(np.count_nonzero(before & ~after)),
        "voxels": int(np.count_nonzero(after)),
        "components": find_runs(words, 26).count,
        "tunnels": pieces + cavities - int(euler_characteristic(words)),
        "cavities": cavities,
    }
