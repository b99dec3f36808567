"""Configurations as files and dicts: the YAML that ships with the kit, and what a run writes beside its checkpoints."""

import dataclasses
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.config.settings import RunConfig

REMOVED_SETTINGS = {
    "lr.handler": "the rate is always bounded; the handlers of the plateau case are in benchmarks/plateau",
    "loss.unlabelled_as_surface": "label 2 is never surface; the study of that mistake is in benchmarks/plateau",
}
"""Why a name is no setting any more."""


def refuse_removed(settings: Mapping[str, Any], what: str) -> None:
    """Raise if stored settings, nested as `config_to_dict` gives them, hold one of `REMOVED_SETTINGS`."""
    for name, reason in REMOVED_SETTINGS.items():
        section, _, key = name.partition(".")
        if key in settings.get(section, {}):
            raise InputValueError(f"{what} must not hold {name}: {reason}; got {settings[section][key]}")


def list_configs() -> list[str]:
    """Return the names of the configurations that ship with the kit."""
    folder = resources.files("vesuvius_kit.config")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find_config(name_or_path: Path | str) -> Path:
    """Return the YAML file meant by a path, or by a name of `list_configs` with or without ``.yaml``.

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


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a `RunConfig`, or one of its sections, as plain dicts, lists and scalars, as JSON and YAML hold them.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> vk.config_to_dict(vk.RunConfig())["patches"]["size"]
    [128, 128, 128]
    """
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def config_to_yaml(config: RunConfig) -> str:
    """Return the whole configuration as YAML that `load_config` reads back to an equal object."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return what differs between two configurations, as ``train.learning_rate: 0.001 -> 0.0001``; empty when equal.

    Parameters
    ----------
    before, after
        As `config_to_dict` gives them.
    prefix
        Dotted key of the level they belong to, with a dot at its end.
    """
    changes = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += changed_settings(old, new, f"{prefix}{key}.")
        elif old != new:
            changes.append(f"{prefix}{key}: {old} -> {new}")
    return changes
