"""What is secret, and the one place where it is taken out of whatever is said: messages, exceptions, log records.

Requests, urllib3 and Kaggle's client quote headers, addresses and bodies in their errors and in their logs, and nobody can
list all the ways. So what is known to be secret is replaced in every text, in every form in which it travels.
"""

import base64
import contextlib
import http.client
import json
import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

HIDDEN = "***"
SHORTEST = 4  # what is shorter stands in ordinary words
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")

_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|_KEY$", re.IGNORECASE)
_PATTERNS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w+/=.~-]{6,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\bKGAT_[\w-]{4,}"), HIDDEN),
    # Name and password in an address, and what follows its ?, which is a signature.
    (re.compile(r"(\w+://)[^\s/@'\"]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*"), rf"\1?{HIDDEN}"),
    (re.compile(r"(?<=[\w/])\?(?=[\w.-]+=)[^\s'\"]+"), f"?{HIDDEN}"),
)


def is_secret_name(name: str) -> bool:
    """Say whether an environment variable of this name usually holds a secret."""
    return bool(_SECRET_NAMES.search(name))


class Redaction:
    """The secrets of one user. Begins with those of the environment: tokens, keys, the password of a proxy."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        for name, value in os.environ.items():
            # The name of a file is none; it is wanted in messages.
            if is_secret_name(name) and len(value) >= 8 and not os.path.exists(value):
                self.add(value)
        for address in filter(None, map(os.environ.get, PROXY_VARIABLES)):
            with contextlib.suppress(ValueError):
                parts = urlsplit(address if "://" in address else f"http://{address}")
                for password in {parts.password, unquote(parts.password)} if parts.password else ():
                    self.add(password, unquote(parts.username or ""))

    def add(self, secret: str, username: str = "") -> None:
        """Keep a secret from now on, also as basic authentication sends it with a user name."""
        texts = {secret, secret.strip()} | ({f"{username}:{secret}"} if username else set())
        self._forms |= {form for text in texts for form in _forms(text) if len(form) >= SHORTEST}

    def hide(self, text: object) -> str:
        """Return a text, its lines as they are, without secrets and without what follows the ``?`` of an address."""
        text = str(text)
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, HIDDEN)
        for pattern, shown in _PATTERNS:
            text = pattern.sub(shown, text)
        return text

    def scrub(self, text: object) -> str:
        """Return a text as one line, see `hide`."""
        # Hidden before and after: a secret may hold a line break, or stand beside one.
        return self.hide(" ".join(self.hide(text).split()))

    def shows(self, text: str) -> bool:
        """Say whether a text holds a secret."""
        return any(form in text for form in self._forms)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Hide secrets in every log record made within the block, by whatever library, its traceback included."""
        with _lock:
            if not _watching:
                _undo.append(_start_watching())
            _watching.append(self)
        try:
            yield
        finally:
            with _lock:
                _watching.remove(self)
                if not _watching:
                    _undo.pop()()


_watching: list[Redaction] = []
_undo: list[Callable[[], None]] = []
_lock = threading.Lock()


def _forms(text: str) -> Iterator[str]:
    """A secret as it stands in an address, in JSON, in a message that quotes it, in base64."""
    encoded = text.encode("utf-8", "surrogatepass")
    yield text
    yield from (quote(encoded), quote(encoded, safe=""), quote_plus(encoded))
    yield from (json.dumps(text)[1:-1], repr(text)[1:-1], ascii(text)[1:-1], repr(encoded)[2:-1])
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        form = encode(encoded).decode()
        yield from (form, form.rstrip("="))


def _start_watching() -> Callable[[], None]:
    """Records go through a factory: a filter would miss the loggers that a library makes later. Returns how to stop."""
    make, debug_level = logging.getLogRecordFactory(), http.client.HTTPConnection.debuglevel
    # At its debug level http.client prints every header.
    http.client.HTTPConnection.debuglevel = 0

    def make_hidden(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):
            text = f"{record.msg} {record.args}"
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = _hide_all("".join(traceback.format_exception(*record.exc_info)).rstrip())
            record.exc_info = None
        record.msg, record.args = _hide_all(text), ()
        return record

    def stop() -> None:
        # Whoever put another factory over this one keeps it.
        if logging.getLogRecordFactory() is make_hidden:
            logging.setLogRecordFactory(make)
            http.client.HTTPConnection.debuglevel = debug_level

    logging.setLogRecordFactory(make_hidden)
    return stop


def _hide_all(text: str) -> str:
    for redaction in tuple(_watching):
        text = redaction.hide(text)
    return text
