"""From configuration files and the words of a command line to typed settings; a message names the place a value came from."""

import dataclasses
import json
import logging
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.config.files import REMOVED_SETTINGS, find_config, refuse_removed
from vesuvius_kit.config.settings import RunConfig, UnusedSettingError
from vesuvius_kit.config.yaml_file import (
    YamlDocument,
    convert_value,
    flatten,
    parse_document,
    read_document,
    suggest,
)

logger = logging.getLogger(__name__)


def load_config(name_or_path: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a YAML file, with single settings replaced.

    Parameters
    ----------
    name_or_path
        A YAML file, or a name of `list_configs`; None for the defaults.
    overrides
        Values by dotted key; a text is read as on the command line.

    Raises
    ------
    InputNotFoundError
        No such configuration.
    InputValueError
        An unknown key, a value of the wrong kind, out of range or without effect; with file and line.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> config = vk.load_config("config_v6_fix_plateau", {"train.num_epochs": 40, "predict.window": 96})
    >>> config.train.num_epochs, config.predict.window, config.lr.schedule
    (40, (96, 96, 96), 'plateau')
    """
    parser = SettingsParser({"": RunConfig}, reads_files=True)
    if name_or_path is not None:
        parser.read_file(name_or_path)
    for key, value in (overrides or {}).items():
        parser.read_option(key, value if isinstance(value, str) else json.dumps(value, default=str))
    config: RunConfig = parser.build()[""]
    return config


class Source(NamedTuple):
    """Where a setting was given: how a message begins, and the rank, which is higher for a later source."""

    place: str
    rank: int


_COMMAND_LINE = Source("", 1_000_000)


class SettingsParser:
    """Collects settings from files, words and checkpoints; a later source wins, and each value remembers its place.

    Parameters
    ----------
    sections
        Dataclasses by the prefix of their settings: ``{"": RunConfig}``, ``{"predict": PredictConfig}``.
    options
        Types of single options that belong to no section, by name.
    reads_files
        Whether ``--config FILE`` is read here.
    """

    def __init__(
        self,
        sections: Mapping[str, type],
        options: Mapping[str, Any] | None = None,
        *,
        reads_files: bool = False,
    ):
        self.values: dict[str, Any] = {}
        self.sources: dict[str, Source] = {}
        self._sections = dict(sections)
        self._options = dict(options or {})
        self._reads_files = reads_files
        self._types: dict[str, Any] = {}
        for prefix, kind in self._sections.items():
            self._types |= _list_settings(kind, f"{prefix}." if prefix else "")

    def read_stored(self, settings: Mapping[str, Any]) -> None:
        """Take settings that a checkpoint holds, nested as `config_to_dict` gives them; what is read later wins."""
        refuse_removed(settings, "checkpoint")
        for key, value in _flatten_stored(settings, self._types):
            if key not in self._types:
                raise InputValueError(
                    f"settings of a checkpoint must be known here (or give --config){suggest(key, self._types)}"
                )
            document = YamlDocument("", list(value) if isinstance(value, tuple) else value)
            self._set(key, convert_value(self._types[key], document, (), key), Source("", 0))

    def read_words(self, words: Iterable[str]) -> list[str]:
        """Read the settings and options among the words of a command line; return the other words."""
        left, others = [str(word) for word in words], []
        while left:
            word = left.pop(0)
            key, has_value, text = word.removeprefix("--").partition("=")
            if not word.startswith("--") or not self._is_mine(key):
                others.append(word)
                continue
            if not has_value and (not left or left[0].startswith("--")):
                raise InputValueError(f"--{key} must be followed by its value, got nothing")
            self.read_option(key, text if has_value else left.pop(0))
        return others

    def read_option(self, key: str, text: str) -> None:
        """Read one option: a setting, a whole section, an entry of a mapping, an option of its own, or ``config``."""
        if key == "config" and self._reads_files:
            self.read_file(text)
        elif (name := key.replace("-", "_")) in self._options:
            self._set(name, _read_word(self._options[name], text, f"--{key}"), _COMMAND_LINE)
        elif key in self._types:
            self._set(key, _read_word(self._types[key], text, key), _COMMAND_LINE)
        elif "." not in key:
            document = read_document(text, key) if Path(text).is_file() else parse_document(text, f"--{key}")
            section = {name.removeprefix(f"{key}."): t for name, t in self._types.items() if name.startswith(f"{key}.")}
            self._read_document(document, section, f"{key}.")
        else:
            self._read_entry(key, text)

    def read_file(self, name_or_path: Path | str) -> None:
        """Read a configuration file, or one that ships with the kit, by its name."""
        self._read_document(read_document(find_config(name_or_path), "configuration"), self._types, "")

    def build(self) -> dict[str, Any]:
        """Return the sections as dataclasses by their prefix, every range checked.

        A setting that has no effect beside the others is refused, unless a later source took its effect away: another
        schedule on the command line drops what a configuration file says of the first.

        Raises
        ------
        InputValueError
            A value out of range, or without effect.
        """
        while True:
            try:
                return {prefix: self._build(kind, prefix) for prefix, kind in self._sections.items()}
            except UnusedSettingError as error:
                last = max((self.sources[key].rank for key in error.because if key in self.sources), default=-1)
                source = self.sources.get(error.key, _COMMAND_LINE)
                if source.rank >= last:
                    raise InputValueError(f"{source.place}{error}") from error
                logger.info("not used, because of %s: %s%s", ", ".join(error.because), source.place, error)
                self._set(error.key, error.unused, source._replace(rank=last))
            except InputError as error:
                # The place of the first setting in the message that has one.
                named = re.findall(r"[a-z_0-9]+(?:\.[a-z_0-9]+)*", str(error))
                place = next((self.sources[key].place for key in named if key in self.sources), "")
                if not place:
                    raise
                raise type(error)(f"{place}{error}") from error

    def _build(self, kind: type, prefix: str) -> Any:
        values = {}
        for name, annotation in typing.get_type_hints(kind).items():
            key = f"{prefix}.{name}" if prefix else name
            if dataclasses.is_dataclass(annotation):
                values[name] = self._build(typing.cast(type, annotation), key)
            elif key in self.values:
                values[name] = self.values[key]
        return kind(**values)

    def _is_mine(self, key: str) -> bool:
        if key == "config":
            return self._reads_files or "config" in self._options
        sections = {name.split(".")[0] for name in self._types if "." in name}
        return key.replace("-", "_") in self._options or key in self._types or key.split(".")[0] in sections

    def _read_document(self, document: YamlDocument, known: Mapping[str, Any], prefix: str) -> None:
        rank = 1 + max((source.rank for source in self.sources.values() if source != _COMMAND_LINE), default=0)
        removed = {name.removeprefix(prefix): why for name, why in REMOVED_SETTINGS.items() if name.startswith(prefix)}
        for name, path in flatten(document, known, removed).items():
            place, key = document.place(path), f"{prefix}{name}"
            value = convert_value(known[name], document, path, key)
            if place and self.sources.get(key) == _COMMAND_LINE and self.values[key] != value:
                logger.warning("%s%s replaces --%s %s, which stands before it", place, value, key, self.values[key])
            self._set(key, value, Source(place, rank) if place else _COMMAND_LINE)

    def _read_entry(self, key: str, text: str) -> None:
        """An entry of a mapping, at any depth: ``model.options.depth``, ``postprocess.steps.slit_tunnels.min_size``."""
        parts = key.split(".")
        mapping = next(
            (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in self._types), ""
        )
        if typing.get_origin(self._types.get(mapping)) is not dict:
            raise InputValueError(
                f"option must be the name of a setting{suggest(f'--{key}', [f'--{name}' for name in self._types])}"
            )
        document = parse_document(json.dumps(self.values.get(mapping, {})), "")
        entries = document.value
        *groups, last = parts[mapping.count(".") + 1 :]
        for group in groups:
            entries = entries.setdefault(group, {})
        entries[last] = _read_word(Any, text, key)
        self._set(mapping, convert_value(self._types[mapping], document, (), mapping), _COMMAND_LINE)

    def _set(self, key: str, value: Any, source: Source) -> None:
        if key == "postprocess.pipeline":
            self._drop_steps(value, source)
        self.values[key], self.sources[key] = value, source

    def _drop_steps(self, pipeline: str, source: Source) -> None:
        """Parameters of steps belong to the pipeline beside them: another one, given later, takes them away."""
        steps = "postprocess.steps"
        before = self.values.get("postprocess.pipeline", self._default("postprocess.pipeline"))
        if pipeline != before and self.values.get(steps) and self.sources[steps].rank < source.rank:
            logger.info(
                "not used, because of postprocess.pipeline %s: %s%s", pipeline, self.sources[steps].place, steps
            )
            del self.values[steps], self.sources[steps]

    def _default(self, key: str) -> Any:
        prefix, _, name = key.rpartition(".")
        kind = self._sections.get(prefix) or typing.get_type_hints(self._sections[""])[prefix]
        return getattr(kind, name)


def _list_settings(settings: type, prefix: str) -> dict[str, Any]:
    """Type of every single setting by its dotted name."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(settings).items():
        if dataclasses.is_dataclass(kind):
            found |= _list_settings(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = kind
    return found


def _flatten_stored(
    settings: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known:
            yield from _flatten_stored(value, known, f"{key}.")
        else:
            yield key, value


def _read_word(kind: Any, text: str, name: str) -> Any:
    """The value of a setting on the command line, where a text needs no quotes."""
    parts, origin = typing.get_args(kind), typing.get_origin(kind)
    if Path in (kind, *parts):
        return Path(text)
    if kind is str or origin is Literal or (origin in (typing.Union, types.UnionType) and str in parts):
        document = YamlDocument("", None if type(None) in parts and text in ("null", "~") else text)
    else:
        document = dataclasses.replace(parse_document(text, name if name.startswith("--") else f"--{name}"), name="")
    return convert_value(kind, document, (), name)
