"""What a request may raise, as one error of one line: statuses, proxies, certificates, names, pages of somebody in between.

A request that failed for a setting fails again. Such a failure is of kind ``blocked``, says which setting it is, and is not
repeated; what may pass by itself is ``broken``.
"""

import contextlib
import json
import logging
import os
import re
import socket
import ssl
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests

from vesuvius_kit.checks import InputError, InputOSError, explain_os_error
from vesuvius_kit.kaggle.errors import KaggleError, Kind
from vesuvius_kit.kaggle.redaction import PROXY_VARIABLES

logger = logging.getLogger(__name__)

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # those that requests reads, in its order
PROXY_HINT = "write NAME:PASSWORD@ before its host in HTTPS_PROXY"
LONGEST_MESSAGE = 300  # of the server's words, in characters
Scrub = Callable[[object], str]  # takes the secrets out of a text
_E = TypeVar("_E", bound=BaseException)
# JSONDecodeError is a ValueError in the standard library and a RequestException in requests.
_UNREADABLE = (json.JSONDecodeError, requests.exceptions.InvalidJSONError, KeyError, zipfile.BadZipFile)
_CLOCK, _CLOCK_HINT = ("certificate has expired", "certificate is not yet valid"), "is this machine's clock right?"
_STATUSES = {
    401: "Kaggle does not accept the credentials",
    403: "Kaggle denies access",
    404: "Kaggle knows no such thing",
    407: f"the proxy asks for a name and a password, {PROXY_HINT}",
    409: "Kaggle reports a conflict",
    429: "Kaggle receives too many requests",
}


class WebPageError(Exception):
    """An answer that is none, although its status says so: the network wants a log-in, or there is maintenance."""


def explain(what: str, raised: BaseException, scrub: Scrub, timeout: float) -> KaggleError | InputError:
    """Return the error for whatever a request raised while it did ``what``."""
    if isinstance(raised, (KaggleError, InputError)):
        return raised
    # What the line leaves out, for those who look for it.
    logger.debug("%s", "".join(traceback.format_exception(raised)))
    if isinstance(raised, requests.exceptions.HTTPError) and raised.response is not None:
        return _explain_status(what, raised.response, scrub)
    if isinstance(raised, (requests.exceptions.Timeout, TimeoutError)):
        return KaggleError(f"{what}: no answer within {timeout:g} s", "broken")
    if isinstance(raised, _UNREADABLE):
        return KaggleError(f"{what}: the answer is not one that this version of the kaggle client reads", "broken")
    if isinstance(raised, WebPageError):
        words = "answered with a web page: does this network want a log-in in the browser, or is there maintenance?"
        return KaggleError(f"{what}: {raised} {words}", "broken", is_page=True)
    if isinstance(raised, OSError) and raised.filename is not None:
        # A file of this machine's; requests' own errors are OSErrors without one.
        return InputOSError(scrub(f"{what}: {raised.filename}: {explain_os_error(raised)}"))
    if isinstance(raised, OSError):
        reason, kind = _explain_failure(raised)
        return KaggleError(scrub(f"{what}: {reason}"), kind)
    words = scrub(raised)[:LONGEST_MESSAGE]
    return KaggleError(f"{what}: the kaggle client failed ({type(raised).__name__}{f': {words}' if words else ''})")


def refuse_page(answer: requests.Response) -> None:
    """Raise if an answer that is none claims to be one."""
    if answer.status_code < 300 and _is_web_page(answer):
        raise WebPageError(urlsplit(answer.url).hostname)


def _is_web_page(answer: requests.Response) -> bool:
    """Whether an answer is a page for people; its body is read only if it says that it is HTML."""
    # Google's storage calls its empty answers HTML, too.
    is_html = answer.headers.get("Content-Type", "").lower().startswith("text/html")
    return is_html and answer.content.lstrip()[:1] == b"<"


def _explain_status(what: str, response: requests.Response, scrub: Scrub) -> KaggleError:
    status, is_page, content = response.status_code, False, None
    with contextlib.suppress(ValueError, OSError):
        is_page = _is_web_page(response)
        content = response.json()
    content = content if isinstance(content, dict) else {}
    message, code = content.get("message") or "", content.get("code")
    # The client turns a code in the body into an error, whatever the status line says.
    status = code if status < 400 and isinstance(code, int) else status
    kind: Kind = "busy" if status == 429 else "broken" if status >= 500 else "blocked" if status == 407 else "refused"
    # Scrubbed before it is cut, or half a secret may be left.
    message = "with a web page, perhaps a proxy's" if is_page and not message else scrub(message)
    detail = f": {message[:LONGEST_MESSAGE]}" if message else ""
    reason = _STATUSES.get(status, "Kaggle answers with an error")
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if re.fullmatch(r"\d+(\.\d+)?", after) else None  # a date is not worth reading
    return KaggleError(scrub(f"{what}: {reason} (HTTP {status}){detail}"), kind, status, seconds, is_page)


def _explain_failure(raised: OSError) -> tuple[str, Kind]:
    """Say why a request came to nothing, with the setting that would help, and whether it may pass."""
    chain = list(_chain(raised))
    texts, is_proxy = " ".join(map(str, chain)), isinstance(raised, requests.exceptions.ProxyError)
    unresolved, refused = _first(chain, socket.gaierror), _first(chain, ConnectionRefusedError)
    tls, certificate = _first(chain, ssl.SSLError), _first(chain, ssl.SSLCertVerificationError)
    words = getattr(certificate, "verify_message", "") or "it cannot be verified"
    bundle, proxy = _unusable_bundle(), _proxy_setting()
    at, setting = proxy or "the proxy", f"{proxy} cannot be used" if proxy else "the request cannot be sent"
    host = urlsplit(getattr(getattr(raised, "request", None), "url", None) or "").hostname or "Kaggle"
    tunnel = re.search(r"Tunnel connection failed: (\d{3})", texts) if is_proxy else None
    status, is_plain = int(tunnel[1]) if tunnel else 0, is_proxy and "appears to only use HTTP" in texts
    rules: list[tuple[object, str, Kind]] = [
        (bundle and (tls or "CA certificate" in str(raised)), bundle, "blocked"),
        (status == 407, f"{at} asks for a name and a password (HTTP 407): {PROXY_HINT}", "blocked"),
        (status >= 500 or status == 429, f"{at} does not let the connection through (HTTP {status})", "broken"),
        (status, f"{at} does not let the connection through (HTTP {status})", "blocked"),
        (is_proxy and unresolved, f"the name of {at} cannot be resolved", "blocked"),
        (is_plain, f"{at} speaks plain HTTP: write http:// before its name", "blocked"),
        (is_proxy and certificate, f"the certificate of {at} is not trusted: set {CA_VARIABLES[0]}", "blocked"),
        (is_proxy, f"{at} cannot be reached", "broken"),
        (words in _CLOCK, f"the certificate of {host} is not valid ({words}): {_CLOCK_HINT}", "blocked"),
        (certificate, f"the certificate of {host} is not trusted ({words}); {_hint_authority()}", "blocked"),
        ("VERSION_NUMBER" in str(tls), f"{host} does not speak TLS: a proxy or firewall stands in between", "blocked"),
        # InvalidURL, InvalidSchema, InvalidProxyURL, InvalidHeader: nothing was sent.
        (isinstance(raised, ValueError), f"{setting} ({type(raised).__name__}: {raised})", "blocked"),
        (unresolved, f"the name {host} cannot be resolved: is there a network?", "broken"),
        (True, f"the connection to {host} failed or broke{' (refused)' if refused else ''}", "broken"),
    ]
    return next((reason, kind) for holds, reason, kind in rules if holds)


def _chain(raised: BaseException) -> Iterator[BaseException]:
    """An exception and all that is behind it: causes, contexts, and those that were put into arguments."""
    waiting: list[object] = [raised]
    seen = set()
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseException) and id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]


def _first(chain: list[BaseException], kind: type[_E]) -> _E | None:
    return next((error for error in chain if isinstance(error, kind)), None)


def _hint_authority() -> str:
    hint = f"where a proxy or firewall opens connections, set {CA_VARIABLES[0]} to the file (PEM) of the authority that"
    other = "" if any(map(os.environ.get, CA_VARIABLES)) else os.environ.get("SSL_CERT_FILE")
    return f"{hint} your network uses" + (f", SSL_CERT_FILE ({other}) is not read here" if other else "")


def _unusable_bundle() -> str:
    """Why the file of certificates that a variable names cannot be used; "" if it can, or there is none."""
    name = next((name for name in CA_VARIABLES if os.environ.get(name)), None)
    if name is None:
        return ""
    path = Path(os.environ[name])
    try:
        if path.is_file():
            ssl.create_default_context(cafile=path)
        elif not path.exists():
            return f"{name} must name a file of certificates, and {path} is not there"
    except (OSError, ValueError):
        return f"{name} must name a file of certificates (PEM) that can be read, got {path}"
    return ""


def _proxy_setting() -> str:
    """Which variable names the proxy, and its host without name and password; "" if none does."""
    name = next((name for name in PROXY_VARIABLES if os.environ.get(name)), None)
    return f"the proxy of {name} ({re.sub(r'^.*@|^[a-z0-9]+://', '', os.environ[name])})" if name else ""
