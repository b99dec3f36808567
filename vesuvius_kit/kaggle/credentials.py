"""The user's credentials for Kaggle, read where the official client looks for them, and as people really keep them.

A token comes out of a file with a newline, out of a CI secret with CR LF, out of a web page with a zero-width space, out of
PowerShell in UTF-16, out of an ``.env`` file with quotes around it. The official client sends all of that as it is, and
its HTTP library then prints the whole header in the error. Here each value is cleaned of what surrounds it, and one that no
token can be is never sent: it counts as none, and is named.
The places and their order are those of ``kaggle.api.kaggle_api_extended.KaggleApi.authenticate`` and ``kagglesdk.kaggle_env``.
"""

import codecs
import json
import os
import stat
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from vesuvius_kit.kaggle.metadata import refuse_repeated_keys

LARGEST_FILE = 1 << 16


@dataclass(frozen=True)
class Credential:
    """One way to log in: an access token, a user name with its legacy key, or a token by which an access token can be had."""

    source: str
    username: str = ""
    token: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Found:
    """What was found, in the order to be tried: credentials, or why a place has none; and every secret seen."""

    places: list[Credential | str]
    secrets: set[str] = field(repr=False)


class _Unusable(Exception):
    """Why a place holds no credentials; the message never quotes what it holds."""


def find_credentials() -> Found:
    """Look for credentials where and in the order in which the official client does; an empty value counts as none."""
    found = Found([], set())
    for look in (_notebook_token, _variable_token, _file_token, _legacy_key, _browser_login):
        try:
            place: Credential | str | None = look(found.secrets)
        except _Unusable as error:
            place = str(error)
        found.places.extend([place] if place else [])
    return found


def _home() -> Path:
    """Path.home() raises where the user has none, as in a container that runs under another id."""
    return Path(os.path.expanduser("~"))


def clean(text: str) -> str:
    """Return a value without what surrounds it: white space, marks that nobody sees, one pair of quotes."""
    # Control characters, and format characters such as U+200B and the byte order mark.
    hidden = "".join({each for each in text if each.isspace() or unicodedata.category(each) in ("Cc", "Cf")})
    for _ in range(2):
        text = text.strip(hidden)
        if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1]
    return text.strip(hidden)


def _usable(source: str, text: str, secrets: set[str]) -> str:
    """The cleaned value, or "" for an empty one; refuses one that cannot stand in a header."""
    cleaned = clean(text)
    secrets.update(part for part in (text, cleaned) if part)
    wrong = next((character for character in cleaned if not "!" <= character <= "~"), None)
    if wrong is not None:
        # The parts between such characters are worth hiding, too.
        secrets.update("".join(c if "!" <= c <= "~" else " " for c in cleaned).split())
        raise _Unusable(f"{source} holds a character that no token or name has (U+{ord(wrong):04X})")
    return cleaned


def _read_text(path: Path | str) -> str | None:
    """The text of a small file in whatever encoding an editor left it; None if there is no such file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _Unusable(f"{path} must be a file, got {'a folder' if os.path.isdir(path) else 'no plain file'}")
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _Unusable(f"{path} cannot be read ({error.strerror})") from None
    except ValueError:
        return None  # a name with a NUL is no file's
    if len(content) > LARGEST_FILE:
        raise _Unusable(f"{path} must hold credentials alone, got more than {LARGEST_FILE} bytes")
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise _Unusable(f"{path} must be text in UTF-8") from None


def _read_mapping(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds; {} if there is no such file, or an empty one."""
    text = _read_text(path) or ""
    try:
        content = json.loads(text, object_pairs_hook=refuse_repeated_keys) if clean(text) else {}
    except (ValueError, RecursionError):
        # The parser's message may quote what stands in the file.
        raise _Unusable(f"{path} must be JSON with each key once, and is not") from None
    if not isinstance(content, dict):
        raise _Unusable(f"{path} must hold a JSON object with username and key, got a {type(content).__name__}")
    return content


def _text_of(path: Path, content: dict[str, Any], key: str, secrets: set[str]) -> str:
    value = content.get(key)
    if not isinstance(value, str | None):
        raise _Unusable(f"{path} must hold {key} as a text, got a {type(value).__name__}")
    return _usable(f"{key} in {path}", value or "", secrets)


def _token_in_file(source: str, path: Path | str, secrets: set[str]) -> Credential | None:
    token = _usable(source, _read_text(path) or "", secrets)
    return Credential(source, token=token) if token else None


def _notebook_token(secrets: set[str]) -> Credential | None:
    """In a Kaggle notebook, a file that a variable names."""
    path = os.environ.get("KAGGLE_API_V1_TOKEN")
    is_there = {"KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_URL"} <= os.environ.keys()
    return _token_in_file(f"{path} (KAGGLE_API_V1_TOKEN)", path, secrets) if path and is_there else None


def _variable_token(secrets: set[str]) -> Credential | None:
    name = "KAGGLE_API_TOKEN"
    value = os.environ.get(name, "")
    # The official client takes the name of a file as well.
    path = clean(value)
    if path and len(path) < 4096 and "\0" not in path and os.path.exists(path):
        return _token_in_file(f"{path} ({name})", path, secrets)
    token = _usable(name, value, secrets)
    if "/" in token:
        raise _Unusable(f"{name} looks like the name of a file, and there is no such file")
    return Credential(name, token=token) if token else None


def _file_token(secrets: set[str]) -> Credential | None:
    paths = [_home() / ".kaggle" / name for name in ("access_token", "access_token.txt")]
    return next(filter(None, (_token_in_file(str(path), path, secrets) for path in paths)), None)


def _legacy_key(secrets: set[str]) -> Credential | None:
    """User name and key; a variable goes before the file, each for itself, as in the official client."""
    # First both, so that the one is known as a secret even if the other is refused.
    secrets.update(filter(None, [os.environ.get("KAGGLE_KEY")]))
    names: set[str] = set()
    username = _usable("KAGGLE_USERNAME", os.environ.get("KAGGLE_USERNAME", ""), names)
    key = _usable("KAGGLE_KEY", os.environ.get("KAGGLE_KEY", ""), secrets)
    source = "KAGGLE_USERNAME and KAGGLE_KEY"
    old = _home() / ".kaggle"
    new = Path(os.environ.get("XDG_CONFIG_HOME") or _home() / ".config") / "kaggle"
    path = Path(os.environ.get("KAGGLE_CONFIG_DIR") or (old if old.exists() else new)) / "kaggle.json"
    if not (username and key):
        content = _read_mapping(path)
        username = username or _text_of(path, content, "username", names)
        key = key or _text_of(path, content, "key", secrets)
        source = str(path) if content else source
        if content and not (username or key):
            raise _Unusable(f"{path} must hold username and key, got neither")
    if bool(username) != bool(key):
        name = "username" if key else "key"
        raise _Unusable(f"{name} is missing: neither KAGGLE_{name.upper()} nor {path} has it")
    return Credential(source, username=username, key=key) if key else None


def _browser_login(secrets: set[str]) -> Credential | None:
    """What ``kaggle auth login`` left."""
    path = _home() / ".kaggle" / "credentials.json"
    content = _read_mapping(path)
    refresh_token = _text_of(path, content, "refresh_token", secrets)
    token = _text_of(path, content, "access_token", secrets)
    username = _text_of(path, content, "username", set())
    token = token if _is_good(content.get("access_token_expiration")) else ""
    return Credential(str(path), username, token, refresh_token=refresh_token) if refresh_token else None


def _is_good(expiration: Any) -> bool:
    """Whether a stored token serves a while yet; if nobody can tell, it does not."""
    try:
        ends = datetime.fromisoformat(expiration)
        return ends > datetime.now(ends.tzinfo or UTC).replace(tzinfo=ends.tzinfo) + timedelta(minutes=1)
    except (TypeError, ValueError, OverflowError):
        return False
