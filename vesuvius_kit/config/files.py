"""Configurations as files and dicts: the YAML that ships with the kit, and what a run writes beside its checkpoints."""

import dataclasses
import json
import re
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
        stored = settings.get(section)
        if isinstance(stored, Mapping) and key in stored:
            raise InputValueError(f"{what} must not hold {name}: {reason}; got {stored[key]}")


def list_configs() -> list[str]:
    """Return the names of the configurations that ship with the kit."""
    folder = resources.files("vesuvius_kit.config")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def is_file(name_or_path: Path | str) -> bool:
    """Return whether this names a file; a text that is too long for a name does not."""
    try:
        return Path(name_or_path).is_file()
    except (OSError, ValueError):
        return False


def is_path(name: str) -> bool:
    """Return whether a text names a file, there or not, and not a preset, whose name is a bare word."""
    return bool(name) and (Path(name).suffix != "" or Path(name).name != name)


def find_config(name_or_path: Path | str) -> Path:
    """Return the YAML file meant by a path, or by a name of `list_configs` with or without ``.yaml``.

    Raises
    ------
    InputNotFoundError
        Neither a file nor a known name.
    """
    if is_file(name_or_path):
        return Path(name_or_path)
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
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def config_to_yaml(config: RunConfig) -> str:
    """Return the whole configuration as YAML that `load_config` reads back to an equal object."""
    return settings_to_yaml(config_to_dict(config))


def settings_to_yaml(settings: Mapping[str, Any]) -> str:
    """Return nested settings as YAML that every reader reads alike."""
    return yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that our reader, or another one, might take for something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = re.fullmatch(r"[A-Za-z_][\w ./-]*", text) and text == text.strip()
    words = ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf")
    style = None if plain and text.lower() not in words else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


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
