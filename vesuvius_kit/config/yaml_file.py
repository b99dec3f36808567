"""The one reader of every YAML file of the kit: configurations, pipelines, the settings beside a checkpoint.

YAML 1.1 and 1.2 read some words differently: ``no`` is false or a word, ``017`` is 15 or 17, ``1:30`` is 90 or a text,
``1e-3`` is a text or a number. Here numbers are those of YAML 1.2, and a word on which the two disagree stays text until the
type of the setting decides (`values.convert_value`); where no type is known, it is refused.

A key that occurs twice, a second document, a list that contains itself and an explosion of aliases are errors: each names
the file and the line.
"""

import codecs
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from vesuvius_kit.checks import InputValueError, check_file, name_os_errors

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000  # of a document, aliases followed
MAX_DEPTH = 40

KeyPath = tuple[str | int, ...]
"""The keys and indices that lead to a value; empty for the whole document."""

OLD_BOOLEANS = {
    **{spelling: True for word in ("yes", "on") for spelling in (word, word.title(), word.upper())},
    **{spelling: False for word in ("no", "off") for spelling in (word, word.title(), word.upper())},
}
"""The words that are true or false to YAML 1.1 only."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
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
    """What a YAML text holds, and where."""

    name: str
    """How messages call it: the file's path; empty for a word of the command line."""
    value: Any = None
    """Dicts with text as keys, lists, and scalars. A word on which YAML 1.1 and 1.2 disagree is text."""
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """The line of each value, counted from 1."""
    words: dict[KeyPath, str] = field(default_factory=dict)
    """The text of each scalar that stands without quotes."""
    ambiguous: set[KeyPath] = field(default_factory=set)
    """Where words stand on which YAML 1.1 and 1.2 disagree."""

    def place(self, path: KeyPath | None = None) -> str:
        """Return how a message about a value, or about the document, begins: ``mine.yaml, line 3: ``; empty without a name."""
        return _place(self.name, None if path is None else self.lines.get(path))

    def require_plain(self, path: KeyPath = ()) -> None:
        """Raise if a value holds a word that YAML 1.1 and 1.2 read differently."""
        for found in sorted(self.ambiguous, key=lambda found: self.lines[found]):
            if found[: len(path)] == path:
                raise InputValueError(
                    f"{self.place(found)}{_dotted(found)} must be spelt so that every YAML reads it alike (false "
                    f"instead of no, 15 instead of 017, quotes about a text), got {self.words[found]}"
                )


def load_yaml(path: Path | str, what: str = "settings") -> Any:
    """Return the plain value of a YAML file: a dict with text as keys, a list or a scalar; ``what`` names it in messages.

    The file is UTF-8, or UTF-16 or UTF-32 with a byte order mark. A word that YAML 1.1 and 1.2 read differently is refused.
    """
    document = read_document(path, what)
    document.require_plain()
    return document.value


def read_document(path: Path | str, what: str = "settings") -> YamlDocument:
    """Read a YAML file as `load_yaml` does, remember where everything stands, and leave ambiguous words to the caller."""
    path = check_file(what, path)
    with name_os_errors(f"read {path}"), open(path, "rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputValueError(f"{path} must be YAML of at most {MAX_BYTES} bytes, got more")
    return parse_document(_decode(content, path), str(path))


def parse_document(text: str, name: str) -> YamlDocument:
    """Read a YAML text, one document, and remember where everything stands; ``name`` is how messages call it."""
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


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, which leaves plain words to `_Reader` and refuses to go too deep."""

    # PyYAML's own attribute, read only.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    _depth = 0

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]  # its stub has no types
            raise InputValueError(f"{_place(self.name, line)}YAML must nest at most {MAX_DEPTH} levels, got more")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Reader:
    """Turns PyYAML's nodes into values."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document
        self._count = 0
        self._open: list[yaml.Node] = []

    def read(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        """Return the value of a node; note its line, its word and whether that is ambiguous under ``path``."""
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
        value: Any
        if isinstance(node, yaml.ScalarNode):
            value = self._read_scalar(node, path)
        elif isinstance(node, yaml.MappingNode):
            value = self._read_mapping(node, path)
        else:
            value = [self.read(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)]
        self._open.pop()
        return value

    def _read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        value: dict[str, Any] = {}
        first: dict[str, int] = {}
        # What is merged in comes first, so that the mapping's own keys win.
        merged = [(key, item) for key, item in node.value if key.value == "<<" and not key.style]
        for _, item in merged:
            for source in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                if not isinstance(source, yaml.MappingNode):
                    self._refuse(path, "<< must merge a mapping", "something else")
                value = {**self.read(source, path, self._document.lines[path]), **value}
        self._forget(path, {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)} & value.keys())
        for key, item in node.value:
            if any(key is known for known, _ in merged):
                continue
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                self._refuse((*path, "?"), "a key must be a word", "something else", line)
            name = key.value
            if name in first:
                here, lines = f"{self._document.place()}{_dotted((*path, name))}", f"{first[name]} and {line}"
                raise InputValueError(f"{here} must be given once, got it in lines {lines}")
            first[name] = line
            value[name] = self.read(item, (*path, name), line)
        return value

    def _forget(self, path: KeyPath, names: set[str]) -> None:
        """Drop what is known of merged entries that the mapping's own keys replace."""
        document, depth = self._document, len(path)
        stale = {place for place in document.lines if place[:depth] == path and {*place[depth : depth + 1]} & names}
        for place in stale:
            del document.lines[place]
            document.words.pop(place, None)
        document.ambiguous -= stale

    def _read_scalar(self, node: yaml.ScalarNode, path: KeyPath) -> str | int | float | bool | None:
        text: str = node.value
        if node.style is not None:
            return text
        self._document.words[path] = text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text) and len(text) < 20:
            return int(text)
        if _NOT_FINITE.fullmatch(text):
            self._refuse(path, f"{_dotted(path)} must be finite", text)
        if text in OLD_BOOLEANS or _OLD_NUMBER.fullmatch(text):
            self._document.ambiguous.add(path)
            return text
        if _FLOAT.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                self._refuse(path, f"{_dotted(path)} must be finite", text)
            return number
        return text

    def _refuse(self, path: KeyPath, requirement: str, arrived: str, line: int | None = None) -> NoReturn:
        place = self._document.place(path) if line is None else _place(self._document.name, line)
        raise InputValueError(f"{place}{requirement}, got {arrived}")


def _place(name: str, line: int | None = None) -> str:
    """How a message begins; a word of the command line has no name."""
    if not name:
        return ""
    return f"{name}: " if line is None else f"{name}, line {line}: "


def _decode(content: bytes, path: Path) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputValueError(
            f"{path}, line {line}: YAML must be text in UTF-8 (or UTF-16 with a byte order mark), got the byte "
            f"0x{content[error.start]:02x}"
        ) from error


def _explain(error: Exception, name: str) -> str:
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


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path)) or "the document"
