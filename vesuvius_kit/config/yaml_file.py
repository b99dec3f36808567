"""The one reader of every YAML file of the kit: configurations, pipelines, the settings beside a checkpoint.

YAML 1.1 and 1.2 read some words differently: ``no`` is false or a word, ``017`` is 15 or 17, ``1:30`` is 90 or a text,
``1e-3`` is a text or a number. Here numbers are those of YAML 1.2, and a word on which the two disagree stays text until the
type of the setting decides (`convert_value`); where nobody knows a type, it is refused.

A key that occurs twice, a second document, a list that contains itself and an explosion of aliases are errors: each names
the file and the line.
"""

import codecs
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import yaml

from vesuvius_kit.checks import InputValueError, check_file, name_os_errors

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000  # of a document, aliases followed
MAX_DEPTH = 40

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# As Python writes them too: 1_000.
_GROUPED_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_GROUPED_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_OLD_BOOLEANS = {
    **{spelling: True for word in ("yes", "on") for spelling in (word, word.title(), word.upper())},
    **{spelling: False for word in ("no", "off") for spelling in (word, word.title(), word.upper())},
}
# What YAML 1.1 takes for a number and YAML 1.2 does not, or for another number.
_OLD_NUMBER = re.compile(
    r"[-+]?(0[0-9_]+|0o[0-7]+|0x[0-9a-fA-F_]+|0b[01_]+|[0-9]+_[0-9_.]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)"
)
_KNOWN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class YamlDocument:
    """What a YAML text holds, and where.

    Parameters
    ----------
    name : str
        How messages call it: the file's path.
    value : object
        Dicts with text as keys, lists, and scalars. A word on which YAML 1.1 and 1.2 disagree is text.
    lines : dict of tuple to int
        The line of each value, counted from 1, by its path of keys and indices.
    words : dict of tuple to str
        The text of each scalar that stands without quotes.
    ambiguous : set of tuple
        Paths of the words on which YAML 1.1 and 1.2 disagree.
    """

    name: str
    value: Any = None
    lines: dict = field(default_factory=dict)
    words: dict = field(default_factory=dict)
    ambiguous: set = field(default_factory=set)

    def place(self, path: tuple) -> str:
        """Return where a value stands, as a message begins.

        Parameters
        ----------
        path : tuple of str and int
            Its keys and indices.

        Returns
        -------
        str
            For example ``mine.yaml, line 3: ``; nothing for a document without a name.
        """
        return _place(self.name, self.lines.get(path))

    def require_plain(self, path: tuple = ()) -> None:
        """Raise if a value holds a word that YAML 1.1 and 1.2 read differently.

        Parameters
        ----------
        path : tuple of str and int
            Of the value.

        Raises
        ------
        InputValueError
            It does; the message says where.
        """
        for found in sorted(self.ambiguous, key=lambda found: self.lines[found]):
            if found[: len(path)] == path:
                raise InputValueError(
                    f"{self.place(found)}{_dotted(found)} must be spelt so that every YAML reads it alike (false instead "
                    f"of no, 15 instead of 017, quotes about a text), got {self.words[found]}"
                )


def load_yaml(path: Path | str, what: str = "settings") -> Any:
    """Return the plain value of a YAML file.

    Parameters
    ----------
    path : str or Path
        UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one.
    what : str
        How messages call the file's content.

    Returns
    -------
    dict, list or scalar
        Dicts have text as keys.

    Raises
    ------
    InputNotFoundError, InputOSError, InputValueError
        No such file, one that cannot be read, not one sound YAML document, or one with a word that YAML 1.1 and 1.2 read
        differently.
    """
    document = read_document(path, what)
    document.require_plain()
    return document.value


def read_document(path: Path | str, what: str = "settings") -> YamlDocument:
    """Read a YAML file and remember where everything stands.

    Parameters
    ----------
    path : str or Path
        See `load_yaml`.
    what : str
        How messages call the file's content.

    Returns
    -------
    YamlDocument

    Raises
    ------
    InputNotFoundError, InputOSError, InputValueError
        See `load_yaml`; ambiguous words are allowed here.
    """
    path = check_file(what, path)
    with name_os_errors(f"read {path}"), open(path, "rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputValueError(f"{path} must be YAML of at most {MAX_BYTES} bytes, got more")
    return parse_document(_decode(content, path), str(path))


def parse_document(text: str, name: str) -> YamlDocument:
    """Read a YAML text and remember where everything stands.

    Parameters
    ----------
    text : str
        One document.
    name : str
        How messages call it.

    Returns
    -------
    YamlDocument

    Raises
    ------
    InputValueError
        Not one sound YAML document.
    """
    try:
        node = _Loader(text, name).get_single_node()
    except InputValueError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # ValueError: an escape of a character that does not exist.
        raise InputValueError(_explain(error, name)) from error
    document = YamlDocument(name)
    if node is not None:
        document.value = _Reader(document).read(node, (), node.start_mark.line + 1)
    return document


def convert_value(annotation: Any, document: YamlDocument, path: tuple, name: str) -> Any:
    """Return the value at a place of a document as its type asks for it.

    Parameters
    ----------
    annotation : type
        ``bool``, ``int``, ``float``, ``str``, None, ``Any``, a literal, a union, or a list, tuple or dict of such.
    document : YamlDocument
        Where it stands.
    path : tuple of str and int
        Its keys and indices there.
    name : str
        How messages call it.

    Returns
    -------
    object

    Raises
    ------
    InputValueError
        It is of another kind; the message names the place, the setting, the kind and what arrived.
    """
    value = _value_at(document.value, path)
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
    """Return what a type asks for, in words.

    Parameters
    ----------
    annotation : type
        See `convert_value`.

    Returns
    -------
    str
    """
    simple = {bool: "true or false", int: "an integer", float: "a number", str: "a text", type(None): "null"}
    if annotation in simple:
        return simple[annotation]
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


def _convert(annotation, document, value, path):
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        # Text last: it would take everything.
        for part in sorted(parts, key=lambda part: part is str):
            try:
                return _convert(part, document, value, path)
            except _WrongKindError:
                continue
        raise _WrongKindError
    if origin is Literal:
        return _require(value if isinstance(value, str) else document.words.get(path), lambda word: word in parts)
    if origin in (list, tuple):
        return _convert_sequence(origin, parts, document, value, path)
    if origin is dict:
        _require(value, lambda mapping: isinstance(mapping, dict))
        if parts[1] is Any:
            document.require_plain(path)
            return value
        return {key: _convert(parts[1], document, item, (*path, key)) for key, item in value.items()}
    return _SCALARS[annotation](value, document.words.get(path))


def _is_size(origin, parts):
    """Whether a type is a size of three integers, for which a single edge may be given."""
    return origin is tuple and len(parts) == 3 and set(parts) == {int}


def _convert_sequence(origin, parts, document, value, path):
    if _is_size(origin, parts):
        try:
            return (_to_int(value, None),) * len(parts)
        except _WrongKindError:
            pass
    _require(value, lambda sequence: isinstance(sequence, list))
    if origin is tuple:
        _require(value, lambda sequence: len(sequence) == len(parts))
    else:
        parts = parts * len(value)
    return origin(
        _convert(part, document, item, (*path, index)) for index, (part, item) in enumerate(zip(parts, value))
    )


def _require(value, holds):
    if not holds(value):
        raise _WrongKindError
    return value


def _to_bool(value, _word):
    return _require(_OLD_BOOLEANS.get(value, value) if isinstance(value, str) else value, lambda v: isinstance(v, bool))


def _to_int(value, _word):
    if isinstance(value, str):
        return int(_require(value, _GROUPED_INTEGER.fullmatch))
    return _require(value, lambda number: isinstance(number, int) and not isinstance(number, bool))


def _to_float(value, _word):
    if isinstance(value, str):
        return float(_require(value, _GROUPED_FLOAT.fullmatch))
    return float(_require(value, lambda number: isinstance(number, (int, float)) and not isinstance(number, bool)))


def _to_text(value, word):
    if isinstance(value, str):
        return value
    # 017, true and 2024_01 are names of folders too; nothing at all is not.
    return _require(word, lambda text: text is not None and value is not None)


def _to_none(value, _word):
    return _require(value, lambda nothing: nothing is None)


_SCALARS = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_text, type(None): _to_none}


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, which names the resolution of plain words to `_Reader` and refuses to go too deep."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's own attribute, read only
    _depth = 0

    def __init__(self, text, name):
        super().__init__(text)
        self.name = name

    def compose_node(self, parent, index):
        self._depth += 1
        if self._depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1
            raise InputValueError(f"{_place(self.name, line)}YAML must nest at most {MAX_DEPTH} levels, got more")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Reader:
    """Turns PyYAML's nodes into values."""

    def __init__(self, document):
        self._document = document
        self._count = 0
        self._open = []

    def read(self, node, path, line):
        # Not the node's own line: that of an alias is its anchor's.
        self._document.lines[path] = line
        self._count += 1
        if self._count > MAX_VALUES:
            self._refuse(path, f"YAML must hold at most {MAX_VALUES} values, aliases followed", "more")
        if any(node is outer for outer in self._open):
            self._refuse(path, "YAML must not contain itself", "an alias of what it stands in")
        if node.tag not in _KNOWN_TAGS:
            self._refuse(path, "YAML must be plain values", node.tag.replace("tag:yaml.org,2002:", "!!"))
        self._open.append(node)
        if isinstance(node, yaml.MappingNode):
            value = self._read_mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.read(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)]
        else:
            value = self._read_scalar(node, path)
        self._open.pop()
        return value

    def _read_mapping(self, node, path):
        value, first = {}, {}
        # What is merged in comes first, so that the mapping's own keys win.
        merged = [(key, item) for key, item in node.value if key.value == "<<" and not key.style]
        for _, item in merged:
            for source in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                if not isinstance(source, yaml.MappingNode):
                    self._refuse(path, "<< must merge a mapping", "something else")
                value = {**self.read(source, path, self._document.lines[path]), **value}
        for key, item in node.value:
            if any(key is known for known, _ in merged):
                continue
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                self._refuse((*path, "?"), "a key must be a word", "something else", line)
            name = key.value
            if name in first:
                here, there = _dotted((*path, name)), f"{first[name]} and {line}"
                raise InputValueError(
                    f"{_place(self._document.name)}{here} must be given once, got it in lines {there}"
                )
            first[name] = line
            value[name] = self.read(item, (*path, name), line)
        return value

    def _read_scalar(self, node, path):
        text = node.value
        if node.style is not None:
            return text
        self._document.words[path] = text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text) and len(text) < 20:
            return int(text)
        if _NOT_FINITE.fullmatch(text):
            self._refuse(path, f"{_dotted(path)} must be finite", text)
        if text in _OLD_BOOLEANS or _OLD_NUMBER.fullmatch(text):
            self._document.ambiguous.add(path)
            return text
        if _FLOAT.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                self._refuse(path, f"{_dotted(path)} must be finite", text)
            return number
        return text

    def _refuse(self, path, requirement, arrived, line=None) -> NoReturn:
        place = _place(self._document.name, self._document.lines.get(path) if line is None else line)
        raise InputValueError(f"{place}{requirement}, got {arrived}")


def _place(name, line=None):
    """How a message begins; a text of the command line has no name."""
    if not name:
        return ""
    return f"{name}: " if line is None else f"{name}, line {line}: "


def _decode(content, path):
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputValueError(
            f"{path}, line {line}: YAML must be text in UTF-8 (or UTF-16 with a byte order mark), "
            f"got the byte 0x{content[error.start]:02x}"
        ) from error


def _explain(error, name):
    """One line of what PyYAML says, with the file and the line."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"{_place(name)}YAML must be printable text, got {' '.join(str(error).split())}"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = _place(name, mark.line + 1 if mark else None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    if "another document" in problem:
        return f"{place}YAML must be one document, got a second one"
    if "'\\t'" in problem:
        return f"{place}YAML must be indented by spaces, got a tab"
    context = getattr(error, "context", None)
    return f"{place}the text must be YAML, got: {f'{context}: ' if context else ''}{problem}"


def _value_at(value, path):
    for key in path:
        value = value[key]
    return value


def _dotted(path):
    return ".".join(map(str, path)) or "the document"


def flatten(
    document: YamlDocument, leaves: Mapping[str, Any], removed: Mapping[str, str] | None = None
) -> dict[str, tuple[Any, ...]]:
    """Return the path of every setting of a document by its dotted name, in the document's order.

    Parameters
    ----------
    document
        A mapping; sections are mappings in it, or dots in its keys.
    leaves
        Type of every setting by its dotted name.
    removed
        Why a name is no setting any more, by the name.

    Raises
    ------
    InputValueError
        Not a mapping, an unknown name, a section that is none, one setting in both spellings.
    """
    if not isinstance(document.value, dict):
        kind = {list: "a list", type(None): "nothing"}.get(type(document.value), "a single value")
        raise InputValueError(f"{document.name or 'the value'} must hold settings by name, got {kind}")
    found: dict[str, tuple[Any, ...]] = {}
    _collect(document, leaves, removed or {}, document.value, (), found)
    return found


def _collect(
    document: YamlDocument,
    leaves: Mapping[str, Any],
    removed: Mapping[str, str],
    mapping: dict[str, Any],
    path: tuple[Any, ...],
    found: dict[str, tuple[Any, ...]],
) -> None:
    for key, value in mapping.items():
        here = (*path, key)
        name = ".".join(here)
        if name in leaves:
            if name in found:
                lines = f"{document.lines[found[name]]} and {document.lines[here]}"
                raise InputValueError(f"{_place(document.name)}{name} must be given once, got it in lines {lines}")
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


def suggest(name: str, names) -> str:
    """Return the end of a message about an unknown name.

    Parameters
    ----------
    name : str
        What arrived.
    names : collection of str
        What is known.

    Returns
    -------
    str
        For example ``, got trian (did you mean train?)``.
    """
    import difflib

    near = difflib.get_close_matches(name, list(names), n=1)
    return f", got {name} (did you mean {near[0]}?)" if near else f", got {name}"
