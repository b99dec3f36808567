"""Configurations as files and dicts: the YAML that ships with the kit, and what a run writes beside its checkpoints."""

import dataclasses
import json
from importlib import resources
from pathlib import Path

import yaml

from vesuvius_kit.checks import InputNotFoundError
from vesuvius_kit.config.settings import RunConfig


def list_configs() -> list[str]:
    """Return the names of the configurations that ship inside the package.

    Returns
    -------
    list of str
    """
    folder = resources.files("vesuvius_kit.config")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find_config(name_or_path) -> Path:
    """Return the YAML file meant by a path or by the name of a configuration that ships with the kit.

    Parameters
    ----------
    name_or_path : str or Path
        An existing file, or a name of `list_configs` with or without ``.yaml``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputNotFoundError
        Neither a file nor a known name.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    name = str(name_or_path).removesuffix(".yaml")
    if name in list_configs():
        return Path(str(resources.files("vesuvius_kit.config") / f"{name}.yaml"))
    raise InputNotFoundError(
        f"configuration must be a YAML file or one of {', '.join(list_configs())}, got {name_or_path}"
    )


def config_to_dict(config) -> dict:
    """Return a configuration as plain dicts, lists and scalars, as JSON and YAML hold them.

    Parameters
    ----------
    config : RunConfig or one of its sections
        What is converted.

    Returns
    -------
    dict
    """
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_to_yaml(config: RunConfig) -> str:
    """Return the whole configuration as YAML that `load_config` reads back to an equal object.

    Parameters
    ----------
    config : RunConfig
        What is written.

    Returns
    -------
    str
    """
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def changed_settings(before: dict, after: dict, prefix: str = "") -> list[str]:
    """Return the dotted keys whose values differ between two configurations, each with both values.

    Parameters
    ----------
    before, after : dict
        As `config_to_dict` gives them.
    prefix : str
        Dotted key of the level the dicts belong to.

    Returns
    -------
    list of str
        For example ``["train.learning_rate: 0.001 -> 0.0001"]``; empty when equal.
    """
    changes = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += changed_settings(old, new, f"{prefix}{key}.")
        elif old != new:
            changes.append(f"{prefix}{key}: {old} -> {new}")
    return changes
