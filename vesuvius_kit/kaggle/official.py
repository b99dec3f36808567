"""The faults of Kaggle's official client, each worked around in one place.

Of the client only kagglesdk is used. Importing ``kaggle`` above it authenticates, makes a folder, prints and, without
credentials, closes standard input; its methods print an error of the server and go on, drop a file whose upload failed, and
remember uploads by path and date, which a rebuilt wheel may share with its forerunner.
"""

import contextlib
import io
import logging
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from importlib import import_module
from typing import Any, TypeVar

import requests

from vesuvius_kit.checks import InputNotFoundError
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.network import refuse_page

try:
    from kagglesdk import KaggleClient, KaggleCredentials, KaggleEnv
except ImportError as error:
    raise InputNotFoundError(f"Kaggle's client must be installed (pip install 'kaggle>=2.2'), got {error}") from error

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
Send = Callable[[Any], Any]  # takes a client, returns the answer to a request
_SERVICES = dict(blobs="blob_api", competitions="competition_api", datasets="dataset_api", kernels="kernels_api")
_SERVICES["security"] = "oauth"


def request(service: str, method: str, **fields: Any) -> Send:
    """Make a request of the client, as ``request("datasets", "GetDatasetStatus", owner_slug=..., dataset_slug=...)``."""
    filled = fill(service, f"{'' if service == 'security' else 'Api'}{method}Request", **fields)
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()
    return lambda kaggle: getattr(getattr(getattr(kaggle, service), f"{_SERVICES[service]}_client"), name)(filled)


def fill(service: str, kind: str, **fields: Any) -> Any:
    """Make an object of the client, whose constructors take no arguments."""
    made = getattr(types_of(service), kind)()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def types_of(service: str) -> Any:
    """Return the client's module of requests, answers and enumerations of a service."""
    return import_module(f"kagglesdk.{service}.types.{_SERVICES[service]}_service")


@contextlib.contextmanager
def open_client(authorization: str, timeout: float) -> Iterator[Any]:
    """Open a client that sends a header ``authorization``, if not "", and waits ``timeout`` seconds for each byte."""
    # It looks for credentials of its own and sends them as they stand in a file. With a session that is there already it
    # does not look.
    session = _BoundedSession()
    session.timeout = timeout
    session.headers.update(
        {"Content-Type": "application/json"} | ({"Authorization": authorization} if authorization else {})
    )
    env = KaggleEnv.LOCAL if os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST" else KaggleEnv.PROD
    client = KaggleClient(env=env)
    client.http_client()._session = session
    with client:
        yield client


class _BoundedSession(requests.Session):
    """The client's own session waits without limit, and takes a log-in page of the network for an answer."""

    timeout: float

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        answer = super().send(request, **{"timeout": self.timeout, **settings})
        refuse_page(answer)
        return answer


def within(seconds: float, act: Callable[[], _T]) -> _T:
    """Call ``act`` in a thread and wait so long; raise ``TimeoutError`` then."""
    # The client reads an answer to its end, and the limit of a socket begins anew with every byte.
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as raised:
            future.set_exception(raised)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what is printed within the block to the debug log: the client prints requests, answers and advice."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    finally:
        if printed.getvalue().strip():
            logger.debug("kaggle: %s", printed.getvalue())


def refuse_error(what: str, answer: Any) -> None:
    """Raise the error that an answer with status 200 may hold; the client leaves it there."""
    if answer is not None and (answer.error or (getattr(answer, "status", "") or "").lower() == "error"):
        raise KaggleError(f"{what}: {answer.error or 'refused without a reason'}", "refused")


def unpack(content: bytes) -> bytes:
    """Return a small file as it was uploaded: Kaggle sends some packed, and the client passes that on."""
    if content[:4] != b"PK\x03\x04":
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(archive.namelist()[0])


def new_token(kaggle: Any, refresh_token: str) -> str:
    """Ask for an access token for what a log-in by browser left; it is not kept, the official client renews its own."""
    return KaggleCredentials(kaggle, refresh_token=refresh_token).generate_access_token().token or ""


def owner_of(kaggle: Any, token: str) -> str:
    """Ask whom a token belongs to; "" if it is not valid."""
    answer = request("security", "IntrospectToken", token=token)(kaggle)
    return answer.username or "" if answer.active else ""
