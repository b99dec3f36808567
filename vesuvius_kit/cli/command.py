"""A command from a typed function: its options, its help, and the call.

A parameter is an option of the same name (``skip_invalid`` is ``--skip-invalid``), without a default a required one; a bool is
a flag, a sequence takes several words, a positional-only parameter is no option but a word of its own. A parameter whose type
is a section of the configuration brings all settings of the section. The first line of the docstring says what the command
does, its parameters what the options mean.
"""

import dataclasses
import inspect
import typing
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import RunConfig, list_configs
from vesuvius_kit.config.parser import SettingsParser
from vesuvius_kit.config.yaml_file import suggest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Command = Callable[..., int | None]
StoredSettings = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the options given to the settings, by section, that lie below what the command line says."""


def summary_of(function: Command) -> str:
    """Return the first line of a command's docstring; Python leaves it out under ``-OO``."""
    return (function.__doc__ or "").partition("\n")[0]


def run_command(function: Command, words: Sequence[str], prog: str, stored: StoredSettings | None = None) -> int:
    """Read a command line as the parameters of a function, call it, and return the exit code.

    Parameters
    ----------
    function
        The command; None counts as 0.
    words
        The command line behind the command's name.
    prog
        What help calls the command.
    stored
        Where settings come from that the command line does not give; see `StoredSettings`.

    Raises
    ------
    InputError
        An unknown or abbreviated option, a value of the wrong kind or out of range, an unreadable file, a missing option.
    """
    parameters = inspect.signature(function).parameters
    if any(word in ("-h", "--help") for word in words):
        print(_make_parser(function, prog, for_help=True).format_help())
        return 0
    sections: dict[str, type] = {
        _prefix(p): p.annotation for p in parameters.values() if dataclasses.is_dataclass(p.annotation)
    }
    options = {name: p.annotation for name, p in parameters.items() if _takes_one_word(p)}
    settings = SettingsParser(sections, options, reads_files=RunConfig in sections.values())
    given = _parse_flags(function, prog, settings.read_words(words))
    given |= {name: settings.values[name] for name in options if name in settings.values}
    for name, parameter in parameters.items():
        if (
            name not in given
            and parameter.default is parameter.empty
            and not dataclasses.is_dataclass(parameter.annotation)
        ):
            raise InputValueError(f"{_option(name)} must be given, got nothing")
    if stored is not None:
        defaults = {name: p.default for name, p in parameters.items()}
        # Below the command line, which is therefore read once more.
        settings = SettingsParser(sections, options)
        settings.read_stored(stored({**defaults, **given}))
        settings.read_words(words)
    built = settings.build() if sections else {}
    given |= {name: built[_prefix(p)] for name, p in parameters.items() if dataclasses.is_dataclass(p.annotation)}
    positional = [given.pop(name, p.default) for name, p in parameters.items() if p.kind is p.POSITIONAL_ONLY]
    return function(*positional, **given) or 0


def _prefix(parameter: inspect.Parameter) -> str:
    """The section's name before its settings; the whole configuration has none."""
    return "" if parameter.annotation is RunConfig else parameter.name


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _takes_one_word(parameter: inspect.Parameter) -> bool:
    kind = parameter.annotation
    many = kind is bool or typing.get_origin(kind) is Sequence or parameter.kind is parameter.POSITIONAL_ONLY
    return not many and not dataclasses.is_dataclass(kind)


def _make_parser(function: Command, prog: str, *, for_help: bool = False) -> "ArgumentParser":
    from docstring_parser import parse
    from jsonargparse import ArgumentParser, set_parsing_settings

    # The settings' fields are documented beside them.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, description=summary_of(function), allow_abbrev=False, exit_on_error=False)
    described = {entry.arg_name: entry.description for entry in parse(function.__doc__ or "").params}
    for name, parameter in inspect.signature(function).parameters.items():
        kind, default, text = parameter.annotation, parameter.default, described.get(name)
        if dataclasses.is_dataclass(kind):
            if kind is RunConfig:
                shipped = ", ".join(list_configs())
                parser.add_argument(
                    "--config", type=str, help=f"YAML file, or one of {shipped}; may be repeated, the later wins"
                )
            parser.add_class_arguments(kind, _prefix(parameter) or None)
        elif kind is bool:
            parser.add_argument(_option(name), action="store_true", help=text)
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            parser.add_argument(name, type=str, nargs="?", default=default, help=text)
        elif typing.get_origin(kind) is Sequence:
            parser.add_argument(_option(name), type=str, nargs="+", default=list(default), help=text)
        else:
            plain = str if Path in (kind, *typing.get_args(kind)) else kind
            required = default is parameter.empty
            # What was not given is missed later, after the words that are not read by this parser.
            parser.add_argument(
                _option(name),
                type=plain,
                required=required and for_help,
                default=None if required else default,
                help=text,
            )
    return parser


def _parse_flags(function: Command, prog: str, words: Sequence[str]) -> dict[str, Any]:
    """Flags, options of several words, and positional words; what was not given is left out."""
    parameters = inspect.signature(function).parameters
    options = {_option(name): name for name, p in parameters.items() if p.kind is not p.POSITIONAL_ONLY}
    given, spelt = {name for name, p in parameters.items() if p.kind is p.POSITIONAL_ONLY}, []
    for word in words:
        if word.startswith("-"):
            option, equals, text = word.partition("=")
            option = option.replace("_", "-")
            if option not in options:
                raise InputValueError(f"option must be one of this command's{suggest(word, options)}")
            given.add(options[option])
            word = f"{option}{equals}{text}"
        spelt.append(word)
    if not words:
        return {}
    try:
        namespace = _make_parser(function, prog).parse_args(spelt)
    except ArgumentError as error:
        raise InputValueError(" ".join(str(error).split())) from error
    return {name: _convert(parameters[name].annotation, namespace[name]) for name in given}


def _convert(kind: Any, value: Any) -> Any:
    """Paths where the parameter asks for them."""
    if Path in (kind, *typing.get_args(kind)) and value is not None:
        return [Path(word) for word in value] if isinstance(value, list) else Path(value)
    return value


def extends(base: Command) -> Callable[[Command], Command]:
    """Return a decorator for a command that takes the options of another one too, as its ``**options``."""

    def decorate(function: Command) -> Command:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = list(inspect.signature(base).parameters.values())
        function.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]  # read by inspect
        described = (base.__doc__ or "").partition("----------\n")[2]
        function.__doc__ = inspect.cleandoc(function.__doc__ or "") + "\n" + inspect.cleandoc(described)
        return function

    return decorate
