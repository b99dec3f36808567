"""A pipeline is a list of named steps with their parameters, in YAML; presets ship with the kit.

    - hysteresis_threshold: {t_low: 0.35, t_high: 0.85}
    - close_cylinder: {z_radius: 3, xy_radius: 2}
    - fill_cavities

A pipeline carries a probability and, from the first step that makes one, a mask. A step takes what its arguments
``probability`` and ``mask`` name and replaces one of them by what it returns: a mask by bool, a probability by float.
"""

import inspect
import time
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vesuvius_kit.checks import InputError, InputNotFoundError, InputTypeError, InputValueError, check_array
from vesuvius_kit.config.yaml_file import load_yaml
from vesuvius_kit.postprocess import bridges, heights, pinholes, redraw, ridges, separation, sheets, slits, steps, wraps
from vesuvius_kit.postprocess.promises import ADDS_ONLY, REMOVES_ONLY
from vesuvius_kit.voxel import holes
from vesuvius_kit.voxel.bits import pack_mask
from vesuvius_kit.voxel.components import find_runs
from vesuvius_kit.voxel.cubical import count_cavities, euler_characteristic

_CARRIED = ("probability", "mask")
_MAKE_PROBABILITIES = ("trace_ridges", "smooth_octants")

STEPS = {
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
    """One step of a pipeline.

    Attributes
    ----------
    name : str
        A key of ``STEPS``.
    parameters : dict
        Its parameters by name.
    """

    name: str
    parameters: dict


def list_presets() -> list[str]:
    """Return the names of the pipelines that ship with the kit.

    Returns
    -------
    list of str
    """
    folder = resources.files("vesuvius_kit.postprocess") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def promises_of(name) -> tuple[str, ...]:
    """Return what a step promises, see `vesuvius_kit.postprocess.promises`.

    Parameters
    ----------
    name : str
        A key of ``STEPS``.

    Returns
    -------
    tuple of str
        Empty when it promises nothing.
    """
    return getattr(STEPS[name], "promises", _PROMISES_OF_OTHERS.get(name, ()))


def load_pipeline(name_or_path) -> list[Step]:
    """Read a pipeline and check the names of its steps and parameters.

    Parameters
    ----------
    name_or_path : str or Path
        A preset of `list_presets`, or a YAML file: a list of step names, or of mappings from a step's name to its
        parameters.

    Returns
    -------
    list of Step

    Raises
    ------
    InputNotFoundError
        Neither a preset nor a file.
    InputValueError
        Unreadable YAML, an unknown step or parameter, a missing parameter, or no step that makes a mask.
    """
    if str(name_or_path) in list_presets():
        path = resources.files("vesuvius_kit.postprocess") / "presets" / f"{name_or_path}.yaml"
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise InputNotFoundError(
                f"pipeline must be a YAML file or one of {', '.join(list_presets())}, got {name_or_path}"
            )
    return make_pipeline(load_yaml(str(path), "pipeline"), name_or_path)


def make_pipeline(content, name="pipeline") -> list[Step]:
    """Turn a list of steps, as YAML holds it, into a checked pipeline.

    Parameters
    ----------
    content : list
        Step names, or mappings of one step's name to its parameters.
    name : str
        How messages call the pipeline.

    Returns
    -------
    list of Step

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


def run_pipeline(probability, pipeline, *, report=False):
    """Turn a probability into a mask, step by step.

    Parameters
    ----------
    probability : numpy.ndarray
        (Z, Y, X), float in [0, 1]; float16 is read as float32. Not modified.
    pipeline : list of Step
        What `load_pipeline` gave.
    report : bool
        Also measure what every step changed; it costs about 0.3 s a step for 320^3.

    Returns
    -------
    mask : numpy.ndarray
        bool of the same shape.
    changes : list of dict
        Only when ``report``: for each step ``step``, ``parameters``, ``seconds``, ``added``, ``removed`` (voxels) and,
        after it, ``voxels``, ``components`` (26-connected), ``tunnels`` and ``cavities`` (of the whole volume as one block;
        foreground 6-connected). Before the first mask there is nothing to count.

    Raises
    ------
    InputTypeError, InputValueError
        What the steps raise, with the number and name of the step: NaN, values or parameters out of range.
    """
    check_array("probability", probability, kinds="f")
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise InputValueError(
            f"probability must lie in [0, 1] without NaN, got [{probability.min()}, {probability.max()}]"
        )
    carried = {"probability": probability.astype(np.float32) if probability.dtype == np.float16 else probability}
    changes = []
    for number, step in enumerate(pipeline, 1):
        function = STEPS[step.name]
        takes = inspect.signature(function).parameters
        given = {name: carried[name] for name in _CARRIED if name in takes}
        before = time.perf_counter()
        try:
            made = function(**given, **step.parameters)
        except InputError as error:
            kind = InputTypeError if isinstance(error, TypeError) else InputValueError
            raise kind(f"step {number} ({step.name}): {error}") from error
        seconds = time.perf_counter() - before
        if report:
            changes.append(_describe(step, carried.get("mask"), made, seconds))
        carried["mask" if made.dtype == bool else "probability"] = made
    return (carried["mask"], changes) if report else carried["mask"]


def try_pipeline(pipeline) -> None:
    """Run a pipeline over a sheet in a small volume, so that a parameter that a step refuses is found before hours of work.

    Parameters
    ----------
    pipeline : list of Step
        What `load_pipeline` gave.

    Raises
    ------
    InputTypeError, InputValueError
        What the steps raise, with the number and name of the step.
    """
    probability = np.zeros((24, 24, 24), np.float32)
    probability[:, 10:13] = 1.0
    run_pipeline(probability, pipeline)


def choose_pipeline(
    pipeline="sheet_repair", t_low=0.35, t_high=0.85, z_radius=3, xy_radius=2, dust_min_size=100
) -> list[Step]:
    """Return the steps of a preset or a file; ``public`` has settings of its own.

    Parameters
    ----------
    pipeline : str or Path
        See `load_pipeline`.
    t_low, t_high : float
        Of the pipeline ``public`` alone, see `topo_postprocess`; any other pipeline holds its own parameters, and these must
        be left out.
    z_radius, xy_radius, dust_min_size : int
        Likewise.

    Returns
    -------
    list of Step

    Raises
    ------
    InputError
        An unknown pipeline, or a setting of ``public`` beside another one.
    """
    if str(pipeline) != "public":
        given = {"t_low": t_low, "t_high": t_high, "z_radius": z_radius, "xy_radius": xy_radius}
        given["dust_min_size"] = dust_min_size
        defaults = inspect.signature(choose_pipeline).parameters
        unused = [f"{name}={value}" for name, value in given.items() if value != defaults[name].default]
        if unused:
            raise InputValueError(
                f"settings of the pipeline public must be left out beside the pipeline {pipeline}, got {', '.join(unused)}"
            )
        return load_pipeline(pipeline)
    return [
        Step("hysteresis_threshold", {"t_low": t_low, "t_high": t_high}),
        Step("close_cylinder", {"z_radius": z_radius, "xy_radius": xy_radius}),
        Step("remove_small_components", {"min_size": dust_min_size}),
    ]


def make_mask(
    probability, pipeline="sheet_repair", t_low=0.35, t_high=0.85, z_radius=3, xy_radius=2, dust_min_size=100
) -> np.ndarray:
    """Turn a probability into a mask by a preset or a file; see `choose_pipeline`.

    Parameters
    ----------
    probability : numpy.ndarray
        (Z, Y, X), float in [0, 1].
    pipeline : str or Path
        See `load_pipeline`.
    t_low, t_high : float
        Of the pipeline ``public`` alone.
    z_radius, xy_radius, dust_min_size : int
        Likewise.

    Returns
    -------
    numpy.ndarray
        bool of the same shape.

    Raises
    ------
    InputError
        An unknown pipeline, or what the steps raise.
    """
    steps_taken = choose_pipeline(pipeline, t_low, t_high, z_radius, xy_radius, dust_min_size)
    return run_pipeline(probability, steps_taken)


def _make_step(entry, where) -> Step:
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
    known = {key: value for key, value in inspect.signature(STEPS[name]).parameters.items() if key not in _CARRIED}
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
    return Step(name, parameters)


def _describe(step, before, after, seconds):
    """One entry of the report."""
    entry = {"step": step.name, "parameters": step.parameters, "seconds": round(seconds, 4)}
    if after.dtype != bool:
        return entry
    before = np.zeros_like(after) if before is None else before
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
