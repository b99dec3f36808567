"""What stands between this machine and Kaggle, in words: proxies, certificates, names, pages that somebody else sends.

A request that failed for a setting fails again. Such a failure is of kind ``blocked``, says which setting it is, and is not
repeated; what may pass by itself is ``broken``.
"""

import os
import re
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from vesuvius_kit.kaggle.discretion import PROXY_VARIABLES

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # those that requests reads, in its order
PROXY_HINT = "write NAME:PASSWORD@ before its host in HTTPS_PROXY"
_KINDS = (ssl.SSLCertVerificationError, ssl.SSLError, socket.gaierror)
_CLOCK = "certificate has expired", "certificate is not yet valid"


def explain_failure(raised) -> tuple[str, str]:
    """Say why a request came to nothing.

    Parameters
    ----------
    raised : Exception
        As requests, urllib3, ssl or socket raised it; without an answer of the server.

    Returns
    -------
    reason : str
        One clause for the message, with the setting that would help.
    kind : str
        ``blocked`` or ``broken``, as in `vesuvius_kit.kaggle.errors.KaggleError`.
    """
    import requests
    import urllib3

    reason = _unusable_bundle()
    chain = list(_chain(raised))
    failures = {kind: next((each for each in chain if isinstance(each, kind)), None) for kind in _KINDS}
    if reason is not None and (failures[ssl.SSLError] or "CA certificate" in str(raised)):
        return reason, "blocked"
    if isinstance(raised, requests.exceptions.ProxyError):
        return _explain_proxy(chain, failures)
    host = _host(raised)
    if failures[ssl.SSLCertVerificationError]:
        return _explain_certificate(host, failures[ssl.SSLCertVerificationError]), "blocked"
    if failures[ssl.SSLError] and "VERSION_NUMBER" in str(failures[ssl.SSLError]):
        return f"{host} does not speak TLS: a proxy or firewall stands in between", "blocked"
    if isinstance(raised, ValueError):
        # InvalidURL, InvalidSchema, InvalidProxyURL, InvalidHeader: nothing was sent.
        setting = f"{_proxy_setting()} cannot be used" if _proxy_setting() else "the request cannot be sent"
        return f"{setting} ({type(raised).__name__}: {raised})", "blocked"
    if failures[socket.gaierror]:
        return f"the name {host} cannot be resolved: is there a network?", "broken"
    refused = next((each for each in chain if isinstance(each, ConnectionRefusedError)), None)
    if isinstance(raised, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
        return f"no answer from {host}", "broken"
    return f"the connection to {host} failed or broke{' (refused)' if refused else ''}", "broken"


def is_web_page(response) -> bool:
    """Say whether an answer is a page for people: of a network that wants a log-in, of a proxy, of maintenance.

    Parameters
    ----------
    response : requests.Response
        Its body is read only if it says that it is HTML.

    Returns
    -------
    bool
    """
    # Google's storage calls its empty answers HTML, too.
    is_html = response.headers.get("Content-Type", "").lower().startswith("text/html")
    return is_html and response.content.lstrip()[:1] == b"<"


def _chain(raised):
    """An exception and all that is behind it: causes, contexts, and those that were put into arguments."""
    waiting, seen = [raised], set()
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseException) and id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]


def _host(raised):
    return urlsplit(getattr(getattr(raised, "request", None), "url", None) or "").hostname or "Kaggle"


def _explain_certificate(host, error):
    words = getattr(error, "verify_message", "") or "it cannot be verified"
    if words in _CLOCK:
        return f"the certificate of {host} is not valid ({words}): is this machine's clock right?"
    hint = f"set {CA_VARIABLES[0]} to the file (PEM) of the authority that your network uses"
    other = os.environ.get("SSL_CERT_FILE")
    if other and not any(map(os.environ.get, CA_VARIABLES)):
        hint += f", SSL_CERT_FILE ({other}) is not read here"
    return f"the certificate of {host} is not trusted ({words}); where a proxy or firewall opens connections, {hint}"


def _unusable_bundle():
    """Why the file of certificates that a variable names cannot be used; None if it can, or there is none."""
    name = next((name for name in CA_VARIABLES if os.environ.get(name)), None)
    if name is None:
        return None
    path = Path(os.environ[name])
    try:
        if not path.exists():
            return f"{name} must name a file of certificates, and {path} is not there"
        if path.is_file():
            ssl.create_default_context(cafile=path)
    except (OSError, ValueError):
        return f"{name} must name a file of certificates (PEM) that can be read, got {path}"
    return None


def _proxy_setting():
    """Which variable names the proxy, and its host without name and password; "" if none does."""
    for name in PROXY_VARIABLES:
        value = os.environ.get(name)
        if value:
            return f"the proxy of {name} ({re.sub(r'^.*@|^[a-z0-9]+://', '', value)})"
    return ""


def _explain_proxy(chain, failures):
    proxy = _proxy_setting() or "the proxy"
    texts = " ".join(map(str, chain))
    answer = re.search(r"Tunnel connection failed: (\d{3})", texts)
    status = int(answer[1]) if answer else None
    if status == 407:
        return f"{proxy} asks for a name and a password (HTTP 407): {PROXY_HINT}", "blocked"
    if status is not None:
        kind = "broken" if status >= 500 or status == 429 else "blocked"
        return f"{proxy} does not let the connection through (HTTP {status})", kind
    if failures[socket.gaierror]:
        return f"the name of {proxy} cannot be resolved", "blocked"
    if "appears to only use HTTP" in texts:
        return f"{proxy} speaks plain HTTP: write http:// before its name", "blocked"
    if failures[ssl.SSLCertVerificationError]:
        return f"the certificate of {proxy} is not trusted: set {CA_VARIABLES[0]}", "blocked"
    return f"{proxy} cannot be reached", "broken"
