"""A command from a typed function: its options, its help, and the call.

A parameter is an option of the same name (``skip_invalid`` is ``--skip-invalid``), without a default a required one; a bool is
a switch, a sequence takes several words, a positional-only parameter is no option but a word of its own. A parameter whose type
is a section of the configuration brings all settings of the section. The first line of the docstring says what the command
does, its parameters what the options mean.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import RunConfig, list_configs
from vesuvius_kit.config.parser import SettingsParser

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
        print(_make_help_parser(function, prog).format_help())
        return 0
    sections = {_prefix(p): section for p in parameters.values() if (section := _section_of(p)) is not None}
    options = {name: p.annotation for name, p in parameters.items() if _is_option(p)}
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_ONLY]
    settings = SettingsParser(sections, options, reads_files=RunConfig in sections.values())
    others = settings.read_words(words)
    if len(others) > len(positional):
        raise InputValueError(f"a word must follow an option that takes it, got {others[len(positional)]}")
    given = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    given |= {name: settings.values[name] for name in options if name in settings.values}
    given |= dict(zip(positional, others))
    for name in (*positional, *options):
        if name not in given:
            word = _option(name) if name in options else name.upper()
            raise InputValueError(f"{word} must be given, got nothing")
    if stored is not None:
        # Below the command line, which is therefore read once more.
        settings = SettingsParser(sections, options)
        settings.read_stored(stored(given | sections))
        settings.read_words(words)
    built = settings.build() if sections else {}
    given |= {name: built[_prefix(p)] for name, p in parameters.items() if _section_of(p) is not None}
    return function(*[given.pop(name) for name in positional], **given) or 0


def extends(base: Command) -> Callable[[Command], Command]:
    """Return a decorator for a command that takes the options of another one too, as its ``**options``."""

    def decorate(function: Command) -> Command:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = list(inspect.signature(base).parameters.values())
        vars(function).update(__signature__=inspect.Signature([*shared, *own]), base=base)
        return function

    return decorate


def _section_of(parameter: inspect.Parameter) -> type | None:
    """The section of the configuration that a parameter takes."""
    kind = parameter.annotation
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _prefix(parameter: inspect.Parameter) -> str:
    """The section's name before its settings; the whole configuration has none."""
    return "" if parameter.annotation is RunConfig else parameter.name


def _is_option(parameter: inspect.Parameter) -> bool:
    return parameter.kind is not parameter.POSITIONAL_ONLY and _section_of(parameter) is None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _make_help_parser(function: Command, prog: str) -> "ArgumentParser":
    """What writes the help."""
    from docstring_parser import parse
    from jsonargparse import ArgumentParser, set_parsing_settings

    # The settings' fields are documented beside them.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    documented = [text for text in (vars(function).get("base", function).__doc__, function.__doc__) if text]
    described = {entry.arg_name: entry.description for text in documented for entry in parse(text).params}
    parameters = inspect.signature(function).parameters
    places = [p for p in parameters.values() if p.kind is p.POSITIONAL_ONLY]
    words = "".join(f" {p.name}" if p.default is p.empty else f" [{p.name}]" for p in places)
    parser = ArgumentParser(prog=prog, description=summary_of(function), usage=f"%(prog)s{words} [options]")
    for name, parameter in parameters.items():
        kind, default, text = parameter.annotation, parameter.default, described.get(name)
        if dataclasses.is_dataclass(kind):
            if kind is RunConfig:
                shipped = ", ".join(list_configs())
                parser.add_argument(
                    "--config", type=str, help=f"YAML file, or one of {shipped}; may be repeated, the later wins"
                )
            parser.add_class_arguments(kind, _prefix(parameter) or None)
            parser.epilog = "An entry of a mapping is an option too, such as --model.options.NAME VALUE."
        elif kind is bool:
            parser.add_argument(_option(name), action="store_true", help=text)
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            place: dict[str, Any] = {} if default is parameter.empty else {"nargs": "?", "default": default}
            parser.add_argument(name, type=str, help=text, **place)
        elif typing.get_origin(kind) is Sequence:
            parser.add_argument(_option(name), type=str, nargs="+", default=list(default), help=text)
        elif default is parameter.empty:
            parser.add_argument(_option(name), type=kind, required=True, help=text)
        else:
            parser.add_argument(_option(name), type=kind, default=default, help=text)
    return parser
