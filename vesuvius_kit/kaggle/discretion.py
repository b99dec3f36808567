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
_watching = []
_watching_lock = threading.Lock()


def is_secret_name(name: str) -> bool:
    """Say whether a variable of this name usually holds a secret.

    Parameters
    ----------
    name : str
        Of an environment variable.

    Returns
    -------
    bool
    """
    return bool(_SECRET_NAMES.search(name))


class Discretion:
    """The secrets of one user. Begins with those of the environment: tokens, keys, the password of a proxy."""

    def __init__(self):
        self._forms = set()
        for name, value in os.environ.items():
            # The name of a file is none; it is wanted in messages.
            if is_secret_name(name) and len(value) >= 8 and not _is_path(value):
                self.add(value)
        for name in PROXY_VARIABLES:
            self._add_address(os.environ.get(name, ""))

    def add(self, secret: str, username: str = "") -> None:
        """Keep a secret from now on.

        Parameters
        ----------
        secret : str
            What nobody shall read.
        username : str
            With whom it is sent, in base64, as basic authentication wants it.
        """
        texts = {secret, secret.strip()} | ({f"{username}:{secret}"} if username else set())
        for text in texts:
            self._forms |= {form for form in _forms(text) if len(form) >= SHORTEST}

    def hide(self, text) -> str:
        """Return a text, its lines as they are, without secrets and without what follows the ``?`` of an address.

        Parameters
        ----------
        text : str
            Anything that may be shown.

        Returns
        -------
        str
        """
        text = str(text)
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, HIDDEN)
        for pattern, shown in _PATTERNS:
            text = pattern.sub(shown, text)
        return text

    def scrub(self, text) -> str:
        """Return a text as one line, see `hide`.

        Parameters
        ----------
        text : str
            Anything that may be shown.

        Returns
        -------
        str
        """
        # Hidden before and after: a secret may hold a line break, or stand beside one.
        return self.hide(" ".join(self.hide(text).split()))

    def shows(self, text: str) -> bool:
        """Say whether a text holds a secret.

        Parameters
        ----------
        text : str
            Anything.

        Returns
        -------
        bool
        """
        return any(form in text for form in self._forms)

    @contextlib.contextmanager
    def watch(self):
        """Hide secrets in every log record made within the block, by whatever library, its traceback included."""
        with _watching_lock:
            _watching.append(self)
            if len(_watching) == 1:
                _start_watching()
        try:
            yield
        finally:
            with _watching_lock:
                _watching.remove(self)
                if not _watching:
                    _stop_watching()

    def _add_address(self, address):
        with contextlib.suppress(ValueError):
            parts = urlsplit(address if "://" in address else f"http://{address}")
            if parts.password:
                for password in {parts.password, unquote(parts.password)}:
                    self.add(password, unquote(parts.username or ""))


def _forms(text):
    """A secret as it stands in an address, in JSON, in a message that quotes it, in base64."""
    encoded = text.encode("utf-8", "surrogatepass")
    yield text
    yield from (quote(encoded), quote(encoded, safe=""), quote_plus(encoded))
    yield from (json.dumps(text)[1:-1], repr(text)[1:-1], ascii(text)[1:-1], repr(encoded)[2:-1])
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        form = encode(encoded).decode()
        yield from (form, form.rstrip("="))


def _is_path(value):
    try:
        return os.path.exists(value)
    except ValueError:
        return False


def _start_watching():
    """Records go through a factory: a filter would miss the loggers that a library makes later."""
    make, debug_level = logging.getLogRecordFactory(), http.client.HTTPConnection.debuglevel
    # At its debug level http.client prints every header.
    http.client.HTTPConnection.debuglevel = 0

    def make_hidden(*arguments, **keywords):
        record = make(*arguments, **keywords)
        text = _hide_all(_message_of(record))
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = _hide_all("".join(traceback.format_exception(*record.exc_info)).rstrip())
            record.exc_info = None
        record.msg, record.args = text, ()
        return record

    make_hidden.undo = (make, debug_level)
    logging.setLogRecordFactory(make_hidden)


def _stop_watching():
    current = logging.getLogRecordFactory()
    if hasattr(current, "undo"):
        make, http.client.HTTPConnection.debuglevel = current.undo
        logging.setLogRecordFactory(make)


def _message_of(record):
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args}"


def _hide_all(text):
    for discretion in tuple(_watching):
        text = discretion.hide(text)
    return text
