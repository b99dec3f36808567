"""From a `YamlDocument` to typed settings: which setting each value stands for, and the value its type asks for."""

import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config.yaml_file import OLD_BOOLEANS, KeyPath, YamlDocument

# As Python writes them too: 1_000.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_IN_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", type(None): "null"}


def flatten(
    document: YamlDocument, leaves: Mapping[str, Any], removed: Mapping[str, str] | None = None
) -> dict[str, KeyPath]:
    """Return the path of every setting of a document by its dotted name, in the document's order.

    A section is a mapping, or a dot in a key; one setting in both spellings is refused, as is an unknown name. ``leaves``
    holds the settings' types, ``removed`` the reasons why a name is no setting any more, both by dotted name.
    """
    if not isinstance(document.value, dict):
        kind = {list: "a list", type(None): "nothing"}.get(type(document.value), "a single value")
        raise InputValueError(f"{document.name or 'the value'} must hold settings by name, got {kind}")
    found: dict[str, KeyPath] = {}
    _collect(document, leaves, removed or {}, document.value, (), found)
    return found


def _collect(
    document: YamlDocument,
    leaves: Mapping[str, Any],
    removed: Mapping[str, str],
    mapping: dict[str, Any],
    path: tuple[str, ...],
    found: dict[str, KeyPath],
) -> None:
    for key, value in mapping.items():
        here = (*path, key)
        name = ".".join(here)
        if name in leaves:
            if name in found:
                lines = f"{document.lines[found[name]]} and {document.lines[here]}"
                raise InputValueError(f"{document.place()}{name} must be given once, got it in lines {lines}")
            found[name] = here
        elif name in removed:
            raise InputValueError(f"{document.place(here)}{name} must be left out: {removed[name]}")
        elif any(leaf.startswith(f"{name}.") for leaf in leaves):
            # A section whose lines are all commented out is one without settings.
            if document.words.get(here) == "":
                continue
            if not isinstance(value, dict):
                arrived = document.words.get(here, repr(value))
                raise InputValueError(f"{document.place(here)}{name} must be a section of settings, got {arrived}")
            _collect(document, leaves, removed, value, here, found)
        else:
            known = {*leaves, *(leaf.rpartition(".")[0] for leaf in leaves)}
            raise InputValueError(f"{document.place(here)}{name} must be a setting's name{suggest(name, known)}")


def suggest(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name, for example ``, got trian (did you mean train?)``."""
    import difflib

    near = difflib.get_close_matches(name, list(names), n=1)
    return f", got {name} (did you mean {near[0]}?)" if near else f", got {name}"


def convert_value(annotation: Any, document: YamlDocument, path: KeyPath, name: str) -> Any:
    """Return the value at a place of a document as its type asks for it; ``name`` is how messages call the setting.

    ``annotation`` is ``bool``, ``int``, ``float``, ``str``, None, ``Any``, a literal, a union, or a list, tuple or dict of
    such. A value of another kind is refused with its file and line.
    """
    value = document.value
    for key in path:
        value = value[key]
    if annotation is Any:
        document.require_plain(path)
        return value
    try:
        return _convert(annotation, document, value, path)
    except _WrongKindError:
        arrived = document.words.get(path)
        arrived = repr(value) if arrived is None else arrived or "nothing"
        raise InputValueError(
            f"{document.place(path)}{name} must be {describe_type(annotation)}, got {arrived}"
        ) from None


def describe_type(annotation: Any) -> str:
    """Return what a type, one that `convert_value` takes, asks for, in words."""
    if annotation in _IN_WORDS:
        return _IN_WORDS[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(part) for part in parts)
    if _is_size(origin, parts):
        return "an integer or three of them in brackets"
    if origin is tuple:
        return f"{len(parts)} values in brackets, each {describe_type(parts[0])}"
    if origin is list:
        return f"a list in brackets, each {describe_type(parts[0])}"
    if origin is dict:
        return "a mapping of names to values"
    return "any value"


class _WrongKindError(Exception):
    """A value is not of the kind its type asks for."""


def _convert(annotation: Any, document: YamlDocument, value: Any, path: KeyPath) -> Any:
    origin, parts = get_origin(annotation), get_args(annotation)
    word = document.words.get(path)
    if origin in (Union, types.UnionType):
        # Text last: it would take everything.
        for part in sorted(parts, key=lambda part: part is str):
            try:
                return _convert(part, document, value, path)
            except _WrongKindError:
                continue
        raise _WrongKindError
    if origin is Literal:
        text = value if isinstance(value, str) else word
        _require(text in parts)
        return text
    if origin in (list, tuple):
        return _convert_sequence(origin, parts, document, value, path)
    if origin is dict:
        _require(isinstance(value, dict))
        if parts[1] is Any:
            document.require_plain(path)
            return value
        return {key: _convert(parts[1], document, item, (*path, key)) for key, item in value.items()}
    return _SCALARS[annotation](value, word)


def _convert_sequence(
    origin: type, parts: tuple[Any, ...], document: YamlDocument, value: Any, path: KeyPath
) -> list[Any] | tuple[Any, ...]:
    if _is_size(origin, parts):
        try:
            return (_to_int(value, None),) * len(parts)
        except _WrongKindError:
            pass
    _require(isinstance(value, list))
    if origin is tuple:
        _require(len(value) == len(parts))
    else:
        parts = parts * len(value)
    items = [_convert(part, document, item, (*path, index)) for index, (part, item) in enumerate(zip(parts, value))]
    return tuple(items) if origin is tuple else items


def _is_size(origin: Any, parts: tuple[Any, ...]) -> bool:
    """Whether a type is a size of three integers, for which a single edge may be given."""
    return origin is tuple and len(parts) == 3 and set(parts) == {int}


def _require(holds: object) -> None:
    if not holds:
        raise _WrongKindError


def _to_bool(value: Any, _word: str | None) -> bool:
    if isinstance(value, str):
        value = OLD_BOOLEANS.get(value)
    _require(isinstance(value, bool))
    return value


def _to_int(value: Any, _word: str | None) -> int:
    if isinstance(value, str):
        # Python refuses to convert thousands of digits.
        _require(_INTEGER.fullmatch(value) and len(value) < 100)
        return int(value)
    _require(isinstance(value, int) and not isinstance(value, bool))
    return value


def _to_float(value: Any, _word: str | None) -> float:
    if isinstance(value, str):
        _require(_FLOAT.fullmatch(value))
    else:
        _require(isinstance(value, (int, float)) and not isinstance(value, bool))
    return float(value)


def _to_text(value: Any, word: str | None) -> str:
    if isinstance(value, str):
        return value
    # 017, true and 2024_01 are names of folders too; nothing at all is not.
    if word is None or value is None:
        raise _WrongKindError
    return word


def _to_none(value: Any, _word: str | None) -> None:
    _require(value is None)


_SCALARS: dict[Any, Callable[[Any, str | None], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_text,
    type(None): _to_none,
}
