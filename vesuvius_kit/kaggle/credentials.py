"""The user's credentials for Kaggle, read where the official client looks for them, and as people really keep them.

A token comes out of a file with a newline, out of a CI secret with CR LF, out of a web page with a zero-width space, out of
PowerShell in UTF-16, out of an ``.env`` file with quotes around it. The official client sends all of that as it is, and
its HTTP library then prints the whole header in the error. Here each value is cleaned of what surrounds it, and one that no
token can be is never sent: it counts as none, and is named.

References
----------
``kaggle.api.kaggle_api_extended.KaggleApi.authenticate`` and ``kagglesdk.kaggle_env`` of the official client, for the places
and their order.
"""

import codecs
import json
import os
import stat
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

LARGEST_FILE = 1 << 16
_LEAST_SECONDS = 60.0  # that a stored access token must still be good for


@dataclass(frozen=True)
class Credential:
    """One way to log in; its text never shows what is secret.

    Parameters
    ----------
    source : str
        Where it comes from, for messages.
    username : str
        The user's name; "" where Kaggle must be asked for it.
    token : str
        An access token; "" if there is none.
    key : str
        The legacy key that goes with ``username``; "" if there is none.
    refresh_token : str
        What a new access token can be had for; "" if there is none.
    """

    source: str
    username: str = ""
    token: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Found:
    """What was found, in the order in which it is to be tried.

    Parameters
    ----------
    places : list of Credential or str
        A credential that can be sent, or one line that says why a place has none that can be.
    secrets : set of str
        Every secret text seen, those that cannot be used included.
    """

    places: list
    secrets: set = field(repr=False)


class _Unusable(Exception):
    """Why a place holds no credentials; the message never quotes what it holds."""


def find_credentials() -> Found:
    """Look for credentials in the environment and in files.

    Returns
    -------
    Found
        In the official client's order: an access token, user name and key, what a log-in by browser left. Empty values count as
        not set.
    """
    found = Found([], set())
    for look in (_notebook_token, _variable_token, _file_token, _legacy_key, _browser_login):
        try:
            place = look(found.secrets)
        except _Unusable as error:
            place = str(error)
        if place is not None:
            found.places.append(place)
    return found


def config_folder() -> Path:
    """Return the folder that ``kaggle.json`` lies in; it need not exist.

    Returns
    -------
    pathlib.Path
    """
    given = os.environ.get("KAGGLE_CONFIG_DIR")
    if given:
        return Path(given)
    old = _home() / ".kaggle"
    if old.exists():
        return old
    return Path(os.environ.get("XDG_CONFIG_HOME") or _home() / ".config") / "kaggle"


def _home():
    """Path.home() raises where the user has none, as in a container that runs under another id."""
    return Path(os.path.expanduser("~"))


def clean(text: str) -> str:
    """Return a value without what surrounds it: white space, marks that nobody sees, one pair of quotes.

    Parameters
    ----------
    text : str
        As it was read.

    Returns
    -------
    str
    """
    for _ in range(2):
        text = _strip_unseen(text)
        if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1]
    return _strip_unseen(text)


def _strip_unseen(text):
    start, end = 0, len(text)
    while start < end and _is_unseen(text[start]):
        start += 1
    while start < end and _is_unseen(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_unseen(character):
    """White space, control characters, and format characters such as U+200B and the byte order mark."""
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def _usable(source, text, secrets):
    """The cleaned value, or "" for an empty one; refuses one that cannot stand in a header."""
    cleaned = clean(text)
    secrets.update(part for part in (text, cleaned) if part)
    wrong = next((character for character in cleaned if not "!" <= character <= "~"), None)
    if wrong is not None:
        # The parts between such characters are worth hiding, too.
        secrets.update("".join(c if "!" <= c <= "~" else " " for c in cleaned).split())
        raise _Unusable(f"{source} holds a character that no token or name has (U+{ord(wrong):04X})")
    return cleaned


def _read_text(path):
    """The text of a small file in whatever encoding an editor left it; None if there is no such file."""
    try:
        kind = os.stat(path)
        if not stat.S_ISREG(kind.st_mode):
            raise _Unusable(
                f"{path} must be a file, got {'a folder' if stat.S_ISDIR(kind.st_mode) else 'no plain file'}"
            )
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


def _read_mapping(path):
    """The JSON object that a file holds; {} if there is no such file, or an empty one."""
    text = _read_text(path)
    if text is None or not clean(text):
        return {}
    try:
        content = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError):
        # The parser's message may quote what stands in the file.
        raise _Unusable(f"{path} must be JSON with each key once, and is not") from None
    if not isinstance(content, dict):
        raise _Unusable(f"{path} must hold a JSON object with username and key, got a {type(content).__name__}")
    return content


def _without_repetition(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands there twice")
    return content


def _text_of(path, content, key, secrets):
    value = content.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Unusable(f"{path} must hold {key} as a text, got a {type(value).__name__}")
    return _usable(f"{key} in {path}", value, secrets)


def _token_in_file(source, path, secrets):
    text = _read_text(path)
    token = _usable(source, text, secrets) if text is not None else ""
    return Credential(source, token=token) if token else None


def _notebook_token(secrets):
    """In a Kaggle notebook, a file that a variable names."""
    path = os.environ.get("KAGGLE_API_V1_TOKEN")
    if not path or not {"KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_URL"} <= os.environ.keys():
        return None
    return _token_in_file(f"{path} (KAGGLE_API_V1_TOKEN)", path, secrets)


def _variable_token(secrets):
    name = "KAGGLE_API_TOKEN"
    value = os.environ.get(name, "")
    # The official client takes the name of a file as well.
    path = clean(value)
    if path and len(path) < 4096 and _exists(path):
        return _token_in_file(f"{path} ({name})", path, secrets)
    token = _usable(name, value, secrets)
    if "/" in token:
        raise _Unusable(f"{name} looks like the name of a file, and there is no such file")
    return Credential(name, token=token) if token else None


def _exists(path):
    try:
        return os.path.exists(path)
    except ValueError:
        return False


def _file_token(secrets):
    for name in ("access_token", "access_token.txt"):
        path = _home() / ".kaggle" / name
        credential = _token_in_file(str(path), path, secrets)
        if credential is not None:
            return credential
    return None


def _legacy_key(secrets):
    """User name and key; a variable goes before the file, each for itself, as in the official client."""
    # First both, so that the one is known as a secret even if the other is refused.
    secrets.update(filter(None, [os.environ.get("KAGGLE_KEY")]))
    username, key = (_usable(name, os.environ.get(name, ""), secrets) for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"))
    secrets.discard(username)
    secrets.discard(os.environ.get("KAGGLE_USERNAME"))
    source = "KAGGLE_USERNAME and KAGGLE_KEY"
    path = config_folder() / "kaggle.json"
    if not (username and key):
        content = _read_mapping(path)
        named = set()
        username = username or _text_of(path, content, "username", named)
        key = key or _text_of(path, content, "key", secrets)
        source = str(path) if content else source
        if content and not (username or key):
            raise _Unusable(f"{path} must hold username and key, got neither")
    if bool(username) != bool(key):
        name = "username" if key else "key"
        raise _Unusable(f"{name} is missing: neither KAGGLE_{name.upper()} nor {path} has it")
    return Credential(source, username=username, key=key) if key else None


def _browser_login(secrets):
    """What ``kaggle auth login`` left."""
    path = _home() / ".kaggle" / "credentials.json"
    content = _read_mapping(path)
    refresh_token = _text_of(path, content, "refresh_token", secrets)
    token = _text_of(path, content, "access_token", secrets)
    username = _text_of(path, content, "username", set())
    if not refresh_token:
        return None
    good = token and _is_good(content.get("access_token_expiration"))
    return Credential(str(path), username=username, token=token if good else "", refresh_token=refresh_token)


def _is_good(expiration):
    """Whether a stored token serves a while yet; if nobody can tell, it does not."""
    try:
        ends = datetime.fromisoformat(expiration)
        return ends > datetime.now(ends.tzinfo or UTC).replace(tzinfo=ends.tzinfo) + timedelta(seconds=_LEAST_SECONDS)
    except (TypeError, ValueError, OverflowError):
        return False
