"""From configuration files and the words of a command line to typed settings; a message names the place a value came from."""

import dataclasses
import json
import logging
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.config.files import REMOVED_SETTINGS, find_config, is_file, is_path, refuse_removed
from vesuvius_kit.config.settings import RunConfig, UnusedSettingError
from vesuvius_kit.config.values import convert_value, flatten, suggest
from vesuvius_kit.config.yaml_file import YamlDocument, parse_document, read_document

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
        parser.read_option(key, str(value) if isinstance(value, (str, Path)) else json.dumps(_plain(value)))
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
        self._defaults: dict[str, Any] = {}
        self._dependents: dict[str, list[str]] = {}
        self._paths: set[str] = set()
        for prefix, kind in self._sections.items():
            self._list_settings(kind, f"{prefix}." if prefix else "")

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
        """Read a command line; return the words that belong to no option.

        Raises
        ------
        InputValueError
            An unknown or abbreviated option, one without its value, a value of the wrong kind.
        """
        left, others = [str(word) for word in words], []
        while left:
            word = left.pop(0)
            if not word.startswith("-") or word == "-":
                others.append(word)
                continue
            key, equals, text = word.removeprefix("--").partition("=")
            name = key.replace("-", "_")
            kind = self._options.get(name)
            if not self._is_known(name):
                names = [f"--{known.replace('_', '-')}" for known in self._options]
                names += [f"--{known}" for known in self._types]
                raise InputValueError(f"option must be one of this command's{suggest(word, names)}")
            if kind is bool:
                if equals:
                    raise InputValueError(f"--{key} must stand alone, as a switch, got {text or 'nothing'}")
                self._set(name, True, _COMMAND_LINE)
                continue
            is_list = typing.get_origin(kind) is Sequence
            values = [text] if equals else []
            while not equals and left and not left[0].startswith("--") and (is_list or not values):
                values.append(left.pop(0))
            if not values or not values[0]:
                raise InputValueError(f"--{key} must be followed by its value, got nothing")
            if is_list:
                self._set(name, values, _COMMAND_LINE)
            else:
                self.read_option(key, values[0])
        return others

    def read_option(self, key: str, text: str) -> None:
        """Read one option: a setting, a whole section, an entry of a mapping, an option of its own, or ``config``."""
        name = key.replace("-", "_")
        if name in REMOVED_SETTINGS:
            raise InputValueError(f"--{key} must be left out: {REMOVED_SETTINGS[name]}")
        if name == "config" and self._reads_files:
            self.read_file(text)
        elif name in self._options:
            self._set(name, _read_word(self._options[name], text, f"--{key}"), _COMMAND_LINE)
        elif name in self._types:
            self._set(name, _read_word(self._types[name], text, name), _COMMAND_LINE)
        elif "." not in name:
            document = read_document(text, name) if is_file(text) else parse_document(text, f"--{name}")
            section = {n.removeprefix(f"{name}."): kind for n, kind in self._types.items() if n.startswith(f"{name}.")}
            self._read_document(document, section, f"{name}.")
        else:
            self._read_entry(name, text)

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

    def _is_known(self, name: str) -> bool:
        """Whether an option is ``config``, one of the command's own, a section, a setting or an entry of a mapping."""
        if name == "config":
            return self._reads_files or "config" in self._options
        sections = {known.split(".")[0] for known in self._types if "." in known}
        return name in self._options or name in self._types or name.split(".")[0] in sections

    def _list_settings(self, kind: type, prefix: str) -> None:
        """Type, default and dependents of every single setting by its dotted name."""
        hints = typing.get_type_hints(kind)
        for entry in dataclasses.fields(kind):  # type: ignore[arg-type]  # a dataclass
            annotation, key = hints[entry.name], f"{prefix}{entry.name}"
            if dataclasses.is_dataclass(annotation):
                self._list_settings(typing.cast(type, annotation), f"{key}.")
                continue
            self._types[key], self._defaults[key] = annotation, entry.default
            if entry.metadata.get("is_path"):
                self._paths.add(key)
            if "belongs_to" in entry.metadata:
                self._dependents.setdefault(f"{prefix}{entry.metadata['belongs_to']}", []).append(key)

    def _read_document(self, document: YamlDocument, known: Mapping[str, Any], prefix: str) -> None:
        rank = 1 + max((source.rank for source in self.sources.values() if source != _COMMAND_LINE), default=0)
        removed = {name.removeprefix(prefix): why for name, why in REMOVED_SETTINGS.items() if name.startswith(prefix)}
        for name, path in flatten(document, known, removed).items():
            place, key = document.place(path), f"{prefix}{name}"
            value = convert_value(known[name], document, path, key)
            if key in self._paths and document.name:
                value = _find_beside(document.name, value)
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
            if not isinstance(entries, dict):
                raise InputValueError(f"--{key} must name an entry of a mapping, but {group} is {entries}")
        entries[last] = _read_word(Any, text, key)
        self._set(mapping, convert_value(self._types[mapping], document, (), mapping), _COMMAND_LINE)

    def _set(self, key: str, value: Any, source: Source) -> None:
        before = self.values.get(key, self._defaults.get(key))
        for dependent in self._dependents.get(key, ()) if value != before else ():
            # It belonged to the value before: another one, given later, takes it away.
            if self.values.get(dependent) and self.sources[dependent].rank < source.rank:
                logger.info("not used, because of %s %s: %s%s", key, value, self.sources[dependent].place, dependent)
                del self.values[dependent], self.sources[dependent]
        self.values[key], self.sources[key] = value, source


def _find_beside(file: str, name: str) -> str:
    """The path of a file that is named in another one, from its folder if it lies there."""
    beside = Path(file).parent / name
    return str(beside) if is_path(name) and is_file(beside) else name


def _flatten_stored(
    settings: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known:
            yield from _flatten_stored(value, known, f"{key}.")
        else:
            yield key, value


def _plain(value: Any) -> Any:
    """A value as JSON can write it: paths as text, scalars of numpy as Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value


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
