"""parser."""

import dataclasses
import json
import logging
import re
import types
import typing
from argparse import ArgumentError
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.config.files import find_config, list_configs
from vesuvius_kit.config.settings import RunConfig, UnusedSettingError
from vesuvius_kit.config.yaml_file import (
    YamlDocument,
    convert_value,
    describe_type,
    flatten,
    parse_document,
    read_document,
    suggest,
)

logger = logging.getLogger(__name__)


def load_config(name_or_path=None, overrides: dict | None = None) -> RunConfig:
    """Return the configuration of a YAML file, with single settings replaced.

    Parameters
    ----------
    name_or_path : str or Path, optional
        See `find_config`; without it the defaults.
    overrides : dict, optional
        Values by dotted key, for example ``{"train.learning_rate": 1e-3}``.

    Returns
    -------
    RunConfig

    Raises
    ------
    InputNotFoundError, InputValueError
        No such configuration; an unknown key, a value of the wrong kind or out of range.
    """
    parser = make_parser()
    arguments = [] if name_or_path is None else [f"--config={name_or_path}"]
    for key, value in (overrides or {}).items():
        arguments.append(f"--{key}={value if isinstance(value, (str, Path)) else json.dumps(value)}")
    return run_config_of(parser, parse_arguments(parser, arguments))


class Source(NamedTuple):
    """Where a setting was given.

    Attributes
    ----------
    place : str
        As a message begins: ``mine.yaml, line 3: ``; nothing for the command line.
    rank : int
        A later source has a higher rank and wins; the command line comes last.
    """

    place: str
    rank: int


_COMMAND_LINE = Source("", 1_000_000)


def make_parser(**kwargs):
    """Return a parser of ``--config NAME`` and one option for every setting of `RunConfig`.

    Parameters
    ----------
    **kwargs
        Of jsonargparse's ArgumentParser.

    Returns
    -------
    jsonargparse.ArgumentParser
        It raises ArgumentError instead of leaving the process, and accepts no abbreviated option.
    """
    parser = make_bare_parser(**kwargs)
    shipped = ", ".join(list_configs())
    parser.add_argument(
        "--config", type=str, help=f"YAML file, or one of: {shipped}; may be given again, the later wins"
    )
    parser.reads_configurations = True
    add_settings(parser, RunConfig)
    return parser


def make_bare_parser(**kwargs):
    """Return a parser without options that raises ArgumentError and accepts no abbreviated option.

    Parameters
    ----------
    **kwargs
        Of jsonargparse's ArgumentParser.

    Returns
    -------
    jsonargparse.ArgumentParser
        For `add_settings` and `parse_arguments`.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(allow_abbrev=False, exit_on_error=False, **kwargs)
    parser.reads_configurations = False
    parser.setting_types, parser.stored, parser.sources = {}, {}, {}
    return parser


def add_settings(parser, settings: type, section: str | None = None) -> None:
    """Give a parser one option for every setting of a dataclass.

    Parameters
    ----------
    parser : jsonargparse.ArgumentParser
        See `make_bare_parser`.
    settings : type
        `RunConfig` or one of its sections.
    section : str, optional
        The section's name, which stands before the settings' with a dot.
    """
    parser.add_class_arguments(settings, section)
    parser.setting_types |= _list_settings(settings, f"{section}." if section else "")


def _list_settings(settings, prefix):
    """Type of every single setting by its dotted name."""
    found = {}
    for name, kind in typing.get_type_hints(settings).items():
        found |= _list_settings(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {prefix + name: kind}
    return found


def parse_arguments(parser, arguments):
    """Parse a command line; settings and configuration files are read here, every other option by the parser.

    Parameters
    ----------
    parser : jsonargparse.ArgumentParser
        What parses, see `make_bare_parser`. Its ``sources`` say afterwards where each setting was given.
    arguments : sequence of str
        The words of the command line.

    Returns
    -------
    jsonargparse.Namespace

    Raises
    ------
    InputError
        An unknown or abbreviated option, a value of the wrong kind, an unreadable YAML file.
    """
    # What JSON or YAML kept of them, lists for tuples among it.
    stored = {key: _read_stored(parser.setting_types, key, value) for key, value in parser.stored.items()}
    words, values, others = list(map(str, arguments)), {}, []
    parser.sources = {key: Source("", 0) for key in parser.stored}
    while words:
        word = words.pop(0)
        key, has_value, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not _is_setting(parser, key):
            others.append(word)
            continue
        if not has_value and (not words or words[0].startswith("--")):
            raise InputValueError(f"--{key} must be followed by its value, got nothing")
        text = text if has_value else words.pop(0)
        rank = 1 + max((source.rank for source in parser.sources.values() if source != _COMMAND_LINE), default=0)
        for name, (value, place) in _read_option(parser, key, text, values).items():
            # A later word wins; the last one counts as the source.
            if place and parser.sources.get(name) == _COMMAND_LINE and values.get(name) != value:
                logger.warning("%s%s replaces --%s %s, which stands before it", place, value, name, values.get(name))
            values[name] = value
            parser.sources[name] = Source(place, rank) if place else _COMMAND_LINE
    try:
        namespace = parser.parse_args(others)
    except ArgumentError as error:
        raise InputValueError(_explain_option(parser, error)) from error
    for name, value in {**stored, **values}.items():
        namespace[name] = value
    return namespace


def _explain_option(parser, error):
    """What jsonargparse says of an option, in the words that settings have for the same mistake."""
    text = " ".join(str(error).split())
    found = re.match(r'Parser key "(\w+)": .*Got value: (.*)', text)
    action = next((action for action in parser._actions if found and action.dest == found[1]), None)
    kind = getattr(action, "_typehint", None)
    return f"--{found[1]} must be {describe_type(kind)}, got {found[2]}" if kind else text


def _read_stored(known, key, value):
    if key not in known:
        raise InputValueError(f"stored settings must be known here{suggest(key, known)}")
    return convert_value(known[key], YamlDocument("", list(value) if isinstance(value, tuple) else value), (), key)


def _is_setting(parser, key):
    """Whether an option is read here: a setting, a section, an entry of a mapping, a configuration file."""
    if key == "config":
        return parser.reads_configurations
    sections = {name.split(".")[0] for name in parser.setting_types if "." in name}
    return key in parser.setting_types or key.split(".")[0] in sections


def _read_option(parser, key, text, earlier):
    """The settings that one option gives, each with its place in a file."""
    known = parser.setting_types
    if key == "config":
        return _read_settings(read_document(find_config(text), "configuration"), known)
    if key in known:
        return {key: (_read_word(known[key], text, key), "")}
    if "." not in key:
        section = {name.removeprefix(f"{key}."): kind for name, kind in known.items() if name.startswith(f"{key}.")}
        document = read_document(text, key) if Path(text).is_file() else parse_document(text, f"--{key}")
        return {f"{key}.{name}": entry for name, entry in _read_settings(document, section).items()}
    mapping, _, entry = key.rpartition(".")
    if typing.get_origin(known.get(mapping)) is not dict:
        raise InputValueError(
            f"option must be the name of a setting{suggest(f'--{key}', [f'--{name}' for name in known])}"
        )
    document = parse_document(json.dumps(earlier.get(mapping, {})), "")
    document.value[entry] = _read_word(Any, text, key)
    return {mapping: (convert_value(known[mapping], document, (), mapping), "")}


def _read_settings(document: YamlDocument, known):
    return {
        name: (convert_value(known[name], document, path, name), document.place(path))
        for name, path in flatten(document, known).items()
    }


def _read_word(kind, text, name):
    """The value of a setting on the command line, where a text needs no quotes."""
    parts, origin = typing.get_args(kind), typing.get_origin(kind)
    if kind is str or origin is Literal or (origin in (typing.Union, types.UnionType) and str in parts):
        document = YamlDocument("", None if type(None) in parts and text in ("null", "~") else text)
    else:
        document = dataclasses.replace(parse_document(text, f"--{name}"), name="")
    return convert_value(kind, document, (), name)


def instantiate(parser, namespace):
    """Return a parsed namespace with its sections as dataclasses, every range checked.

    A setting that has no effect beside the others is refused, unless a later source took its effect away: another pipeline
    on the command line takes the thresholds of a configuration file with it.

    Parameters
    ----------
    parser : jsonargparse.ArgumentParser
        The parser that made ``namespace``.
    namespace : jsonargparse.Namespace
        What `parse_arguments` returned.

    Returns
    -------
    jsonargparse.Namespace

    Raises
    ------
    InputValueError
        A value out of range, or without effect.
    """
    # instantiate_classes is its name up to jsonargparse 4.48.
    return _build(parser, namespace, getattr(parser, "instantiate", None) or parser.instantiate_classes)


def _build(parser, namespace, build):
    while True:
        try:
            return build(namespace)
        except UnusedSettingError as error:
            last = max((parser.sources[key].rank for key in error.because if key in parser.sources), default=-1)
            source = parser.sources.get(error.key, _COMMAND_LINE)
            if source.rank >= last:
                raise InputValueError(f"{source.place}{error}") from error
            logger.info("not used, because of %s: %s%s", ", ".join(error.because), source.place, error)
            namespace[error.key] = error.unused
            parser.sources[error.key] = source._replace(rank=last)
        except InputError as error:
            named = re.match(r"[a-z_0-9]+(\.[a-z_0-9]+)*", str(error))
            source = parser.sources.get(named.group() if named else None)
            if source is None or not source.place:
                raise
            raise type(error)(f"{source.place}{error}") from error


def run_config_of(parser, namespace) -> RunConfig:
    """Return the settings in a parsed namespace as a `RunConfig`, checking every range.

    Parameters
    ----------
    parser : jsonargparse.ArgumentParser
        The parser that made ``namespace``, see `make_parser`.
    namespace : jsonargparse.Namespace
        What `parse_arguments` returned.

    Returns
    -------
    RunConfig

    Raises
    ------
    InputValueError
        A value out of range, or without effect.
    """

    def build(namespace):
        built = (getattr(parser, "instantiate", None) or parser.instantiate_classes)(namespace)
        return RunConfig(**{entry.name: built[entry.name] for entry in dataclasses.fields(RunConfig)})

    return _build(parser, namespace, build)
