"""A connection to Kaggle through the official client, with what that lacks: time limits, bounded retries, errors, discretion.

The command line of Kaggle's client prints an error of the server and still exits 0, drops a file whose upload failed, waits
for an answer without limit, and shows signed addresses. So the requests and responses here are those of the official client,
and what surrounds them is ours: every failure is one `KaggleError` (or an `InputError`, where a file or a setting here is the
cause) with one line, whatever was raised below. `discreet` is the one way out: nothing passes it with a secret in it, and
no exception that it raises leads to one that has.

Uploads follow Google's resumable protocol, as the official client does: after a break the server says how much it holds.
"""

import contextlib
import functools
import io
import json
import logging
import os
import random
import re
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from vesuvius_kit.checks import InputError, InputNotFoundError, InputOSError, check_file, explain_os_error
from vesuvius_kit.console import no_progress
from vesuvius_kit.io.volume import write_atomically
from vesuvius_kit.kaggle.credentials import config_folder, find_credentials
from vesuvius_kit.kaggle.discretion import Discretion
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.network import PROXY_HINT, explain_failure, is_web_page

logger = logging.getLogger(__name__)

NO_CREDENTIALS = (
    "Kaggle credentials must be set: create a token at https://www.kaggle.com/settings and export KAGGLE_API_TOKEN, or put it "
    "into ~/.kaggle/access_token (or KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json), got none that is valid"
)
CHUNK = 1 << 20
LONGEST_MESSAGE = 300  # of the server's words, in characters
_ANSWER_LIMIT = 5  # in silences: what a whole answer may take from a server that sends byte after byte
_NOT_ACCEPTED = (400, 401, 403, 404)


def discreet(method):
    """Let nothing out of a method of `Connection` but results, `KaggleError` and `InputError` without secrets.

    Parameters
    ----------
    method : callable
        The method.

    Returns
    -------
    callable
        The same, guarded.
    """

    @functools.wraps(method)
    def guarded(self, *arguments, **keywords):
        return self._discreetly(method.__name__.replace("_", " "), lambda: method(self, *arguments, **keywords))

    guarded.is_discreet = True
    return guarded


class Connection:
    """One user's connection to Kaggle.

    Parameters
    ----------
    timeout_seconds : float
        Longest silence of the server in one request.
    max_attempts : int
        How often a request is tried that the server is too busy for or that breaks.
    sleep : callable
        Takes seconds; tests give one that does not sleep.

    Raises
    ------
    InputNotFoundError
        No credentials, or none that Kaggle accepts.
    KaggleError
        Kaggle could not be reached to check them.
    """

    def __init__(self, *, timeout_seconds=60.0, max_attempts=6, sleep=time.sleep):
        self._timeout = timeout_seconds
        self._max_attempts = max_attempts
        self._sleep = sleep
        self._discretion = Discretion()
        self._discreetly("checking the credentials", self._log_in)

    def _log_in(self):
        found = find_credentials()
        for secret in found.secrets:
            self._discretion.add(secret)
        self._api = _make_api(self._timeout)
        problems = []
        for place in found.places:
            problem = place if isinstance(place, str) else self._try_credential(place)
            if problem is None:
                break
            problems.append(problem)
        else:
            raise InputNotFoundError(": ".join(filter(None, [NO_CREDENTIALS, "; ".join(problems)])))
        if problems:
            logger.info("%s; logged in as %s by %s", "; ".join(problems), self.owner, place.source)

    def _try_credential(self, credential):
        """Take a credential for this connection; why Kaggle does not accept it, or None."""
        self._discretion.add(credential.key, credential.username)
        what, token, username = "checking the credentials", credential.token, credential.username
        try:
            if credential.refresh_token and not token:
                token = self._ask(what, lambda kaggle: _new_token(kaggle, credential.refresh_token))
                self._discretion.add(token or "")
            self._api.log_in(username, credential.key, token)
            if token:
                username = self._ask(what, lambda kaggle: _owner_of(kaggle, token)) or ""
        except KaggleError as error:
            if error.status not in _NOT_ACCEPTED or error.is_page:
                raise
            username = ""
        if not username or not (token or credential.key):
            return f"Kaggle does not accept what {credential.source} holds"
        self._api.log_in(username, credential.key, token)
        self.owner = username.lower()
        return None

    @discreet
    def upload(self, path, key, memory, progress=no_progress) -> str:
        """Upload one file and return the token that a data set is made from.

        Parameters
        ----------
        path : str or Path
            The file.
        key : str
            Names this file with this content in this data set.
        memory : vesuvius_kit.kaggle.uploads.UploadMemory
            Knows by the key where an upload that broke in an earlier run goes on.
        progress : callable
            See `vesuvius_kit.console`.

        Returns
        -------
        str
        """
        path = check_file("upload", path)
        what = f"uploading {path.name}"
        size = path.stat().st_size
        token, url = memory.get(key) or (None, None)
        resumed = broken = token is not None
        if not resumed:
            token, url = self._start_upload(what, path)
            memory.note(key, token, url)
        self._discretion.add(token)

        def put():
            nonlocal broken
            start = self._uploaded_bytes(url, size) if broken else 0
            broken = True
            if start < size or size == 0:
                self._put(url, path, start, progress if size > 8 * CHUNK else no_progress)

        try:
            self._repeat(what, put)
        except KaggleError as error:
            if error.kind == "refused":
                memory.forget(key)
            if error.kind != "refused" or not resumed:
                raise
            # The address of the earlier run is worth nothing any more.
            return self.upload(path, key, memory, progress)
        return token

    def _start_upload(self, what, path):
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest

        request = ApiStartBlobUploadRequest()
        request.type = ApiBlobType.DATASET
        request.name = path.name
        request.content_length = path.stat().st_size
        request.last_modified_epoch_seconds = int(path.stat().st_mtime)
        answer = self._ask(what, lambda kaggle: kaggle.blobs.blob_api_client.start_blob_upload(request))
        if not answer.create_url or not answer.token:
            raise KaggleError(f"{what}: Kaggle gave no place to upload to", kind="refused")
        return answer.token, answer.create_url

    def _uploaded_bytes(self, url, size):
        """How much of an interrupted upload has arrived."""
        import requests

        answer = requests.put(url, headers={"Content-Range": f"bytes */{size}"}, timeout=self._timeout)
        _refuse_page(answer)
        if answer.status_code in (200, 201):
            return size
        if answer.status_code != 308:
            answer.raise_for_status()
        arrived = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
        return int(arrived[1]) + 1 if arrived else 0

    def _put(self, url, path, start, progress):
        import requests

        size = path.stat().st_size
        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        with open(path, "rb") as stream:
            stream.seek(start)
            body = _Counted(stream, size - start, path.name, progress)
            answer = requests.put(url, data=body, headers=headers, timeout=self._timeout)
        if answer.status_code == 308:
            raise requests.exceptions.ConnectionError("the server took only a part")
        answer.raise_for_status()
        _refuse_page(answer)

    @discreet
    def download(self, url, path, progress=no_progress):
        """Fetch one file; it appears under its name only when it is complete.

        Parameters
        ----------
        url : str
            As `kernel_output` returned it.
        path : str or Path
            Where it shall lie.
        progress : callable
            See `vesuvius_kit.console`.
        """
        import requests

        path, what = Path(path), f"fetching {Path(path).name}"

        def fetch():
            with requests.get(url, stream=True, timeout=self._timeout) as answer:
                answer.raise_for_status()
                if path.suffix.lower() not in (".html", ".htm"):
                    _refuse_page(answer)
                with write_atomically(path, "wb") as stream:
                    for chunk in self._incoming(what, answer, path.name, progress):
                        stream.write(chunk)

        self._repeat(what, fetch)

    def _incoming(self, what, answer, name, progress):
        """The pieces of a file; their errors are told here, lest the disk be blamed for them where they are written."""
        announced = answer.headers.get("Content-Length", "")
        size, arrived = int(announced) if announced.isdecimal() else 0, 0
        show = progress if size > 8 * CHUNK else no_progress

        def pieces():
            try:
                yield from answer.iter_content(CHUNK)
                return
            except Exception as raised:
                error = self._explain(what, raised)
            raise error

        for piece in show(pieces(), total=-(-size // CHUNK) or None, desc=name, unit="MB"):
            arrived += len(piece)
            yield piece
        if size and arrived < size and "Content-Encoding" not in answer.headers:
            raise KaggleError(f"{what}: the connection broke, {arrived} of {size} bytes came", kind="broken")

    def pause(self, seconds):
        """Sleep, as the client was told to.

        Parameters
        ----------
        seconds : float
            How long.
        """
        self._sleep(seconds)

    def poll(self, name, limit_seconds, first, longest, progress=no_progress):
        """Yield the seconds waited so far, at once and then after growing pauses, until the limit.

        Parameters
        ----------
        name : str
            What is waited for, for the bar.
        limit_seconds : float
            When to stop.
        first, longest : float
            The first pause and the longest, in seconds.
        progress : callable
            See `vesuvius_kit.console`.

        Yields
        ------
        float
        """

        def beats():
            waited, pause = 0.0, float(first)
            while waited < limit_seconds:
                self.pause(min(pause, limit_seconds - waited))
                waited, pause = min(limit_seconds, waited + pause), min(longest, 1.5 * pause)
                yield waited

        # What is there at the first question needs no bar.
        yield 0.0
        yield from progress(beats(), desc=f"waiting for {name}", unit=" questions")

    def scrub(self, text):
        """Return a text as one line without the user's secrets and without what follows the ``?`` of an address.

        Parameters
        ----------
        text : str
            Anything that may be shown.

        Returns
        -------
        str
        """
        return self._discretion.scrub(text)

    def hide(self, text):
        """Return a text of several lines without the user's secrets, see `scrub`.

        Parameters
        ----------
        text : str
            Anything that may be kept.

        Returns
        -------
        str
        """
        return self._discretion.hide(text)

    def _discreetly(self, what, act):
        """Call ``act``; whatever it raises leaves as one line, and without a way to what was raised first."""
        with self._discretion.watch():
            try:
                return act()
            except BaseException as raised:
                error = self._retell(what, raised)
        # Outside of the handler: an exception raised within it would carry the first one as its context.
        raise error

    def _retell(self, what, raised):
        """The exception to be seen in the place of another."""
        if isinstance(raised, (KaggleError, InputError)):
            text = self.scrub(raised)
            if isinstance(raised, KaggleError):
                error = KaggleError(text, raised.kind, raised.status, raised.retry_after, raised.is_page)
            else:
                error = type(raised)(text)
            return error
        if isinstance(raised, (KeyboardInterrupt, GeneratorExit)):
            return type(raised)()
        return self._explain(what, raised)

    def _ask(self, what, send, absent=()):
        """A request that may be repeated; None for a status in ``absent``."""
        try:
            return self._repeat(what, lambda: self._send(send))
        except KaggleError as error:
            if error.status in absent:
                return None
            raise

    def _do_once(self, what, send, happened):
        """A request that must not be carried out twice: after a broken answer the server is asked whether it ``happened``.

        Returns the answer, or None where it was lost.
        """
        for attempt in range(self._max_attempts):
            try:
                return self._repeat(what, lambda: self._send(send), only_busy=True)
            except KaggleError as error:
                if error.kind != "broken":
                    raise
                self._back_off(what, error, attempt)
                if happened():
                    return None
                if attempt == self._max_attempts - 1:
                    raise
        raise AssertionError("unreachable: max_attempts is at least 1")

    def _repeat(self, what, act, only_busy=False):
        """Call ``act`` until it succeeds, with growing pauses, turning whatever goes wrong into a KaggleError."""
        for attempt in range(self._max_attempts):
            try:
                return act()
            except InputError:
                raise
            except (Exception, SystemExit) as raised:
                error = self._explain(what, raised)
            passing = ("busy",) if only_busy else ("busy", "broken")
            if isinstance(error, InputError) or error.kind not in passing or attempt == self._max_attempts - 1:
                raise error
            self._back_off(what, error, attempt)
        raise AssertionError("unreachable: max_attempts is at least 1")

    def _back_off(self, what, error, attempt):
        delay = min(60.0, 2.0**attempt) * (0.5 + random.random())
        if error.retry_after is not None:
            delay = min(300.0, error.retry_after)
        logger.info("%s; trying again in %.0f s", error, delay)
        self.pause(delay)

    def _send(self, send):
        """One request through the official client, within a limit for the whole of it."""

        def act():
            with self._api.build_kaggle_client() as kaggle:
                return send(kaggle)

        return self._quietly(lambda: _within(_ANSWER_LIMIT * self._timeout, act))

    def _quietly(self, act):
        """The official client prints what it should raise or keep to itself."""
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                return act()
        finally:
            if printed.getvalue().strip():
                logger.debug("kaggle: %s", self.scrub(printed.getvalue()))

    def _explain(self, what, raised):
        """The error, one line without secrets, for whatever a request raised."""
        import requests

        if isinstance(raised, (KaggleError, InputError)):
            return raised
        # What the line leaves out, for those who look for it.
        logger.debug("%s", self.hide("".join(traceback.format_exception(raised))))
        if isinstance(raised, requests.exceptions.HTTPError) and raised.response is not None:
            return self._explain_status(what, raised.response, str(raised))
        if isinstance(raised, (requests.exceptions.Timeout, _TooSlow)):
            return KaggleError(f"{what}: no answer within {self._timeout:g} s", kind="broken")
        # JSONDecodeError is a ValueError in the standard library and a RequestException in requests.
        unreadable = (json.JSONDecodeError, requests.exceptions.InvalidJSONError, KeyError, zipfile.BadZipFile)
        if isinstance(raised, unreadable):
            return KaggleError(
                f"{what}: the answer is not one that this version of the kaggle client reads", kind="broken"
            )
        if isinstance(raised, _WebPage):
            words = "answered with a web page: does this network want a log-in in the browser, or is there maintenance?"
            return KaggleError(f"{what}: {raised} {words}", kind="broken", is_page=True)
        if isinstance(raised, OSError) and raised.filename is not None:
            # A file of this machine's; requests' own errors are OSErrors without one.
            return InputOSError(self.scrub(f"{what}: {raised.filename}: {explain_os_error(raised)}"))
        if isinstance(raised, OSError):
            reason, kind = explain_failure(raised)
            return KaggleError(self.scrub(f"{what}: {reason}"), kind)
        words = self.scrub(raised)[:LONGEST_MESSAGE]
        return KaggleError(f"{what}: the kaggle client failed ({type(raised).__name__}{f': {words}' if words else ''})")

    def _explain_status(self, what, response, text):
        status, is_page, content = response.status_code, False, None
        with contextlib.suppress(ValueError, OSError):
            is_page = is_web_page(response)
            content = response.json()
        if isinstance(content, dict):
            message, code = content.get("message") or "", content.get("code")
            # The client turns a code in the body into an error, whatever the status line says.
            status = code if status < 400 and isinstance(code, int) else status
        else:
            message = ""
        kind = "busy" if status == 429 else "broken" if status >= 500 else "blocked" if status == 407 else "refused"
        reason = {
            401: "Kaggle does not accept the credentials",
            403: "Kaggle denies access",
            404: "Kaggle knows no such thing",
            407: f"the proxy asks for a name and a password, {PROXY_HINT}",
            409: "Kaggle reports a conflict",
            429: "Kaggle receives too many requests",
        }.get(status, "Kaggle answers with an error")
        # Scrubbed before it is cut, or half a secret may be left.
        message = "with a web page, perhaps a proxy's" if is_page and not message else self.scrub(message)
        detail = f": {message[:LONGEST_MESSAGE]}" if message else ""
        return KaggleError(
            self.scrub(f"{what}: {reason} (HTTP {status}){detail}"),
            kind,
            status,
            _seconds(response.headers.get("Retry-After")),
            is_page,
        )


class _TooSlow(Exception):
    """An answer that never ended."""


class _WebPage(Exception):
    """An answer that is none, although its status says so: the network wants a log-in, or there is maintenance."""


def _refuse_page(answer):
    if answer.status_code < 300 and is_web_page(answer):
        raise _WebPage(urlsplit(answer.url).hostname)


def _within(seconds, act):
    """Call ``act`` in a thread and wait so long: a time limit of a socket begins anew with every byte."""
    outcome = []

    def run():
        try:
            outcome.append((act(), None))
        except BaseException as raised:
            outcome.append((None, raised))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _TooSlow
    result, raised = outcome[0]
    if raised is not None:
        raise raised
    return result


class _Counted:
    """A file to upload that reports its progress; requests reads its length."""

    def __init__(self, stream, size, name, progress):
        self._stream = stream
        self._left = size
        self._steps = iter(progress(range(-(-size // CHUNK)), desc=name, unit="MB"))

    def __len__(self):
        return self._left

    def read(self, size=-1):
        data = self._stream.read(min(CHUNK, self._left) if size is None or size < 0 else min(size, self._left))
        before, self._left = self._left, self._left - len(data)
        for _ in range(-(-before // CHUNK) - -(-self._left // CHUNK)):
            next(self._steps, None)
        if not self._left:
            # The bar closes when its iterator ends.
            next(self._steps, None)
        return data


def _seconds(retry_after):
    """The number in a Retry-After header; a date is not worth reading."""
    return float(retry_after) if retry_after and re.fullmatch(r"\d+(\.\d+)?", retry_after) else None


def _new_token(kaggle, refresh_token):
    """An access token for what a log-in by browser left; it is not kept, the official client renews its own."""
    from kagglesdk.kaggle_creds import KaggleCredentials

    return KaggleCredentials(kaggle, refresh_token=refresh_token).generate_access_token().token


def _owner_of(kaggle, token):
    """Who a token belongs to; None if it is not valid."""
    from kagglesdk.security.types.oauth_service import IntrospectTokenRequest

    request = IntrospectTokenRequest()
    request.token = token
    answer = kaggle.security.oauth_client.introspect_token(request)
    return answer.username if answer.active else None


def _import_client():
    """The official client's class. Importing it authenticates, makes a folder, prints advice: none of it is wanted here."""
    from kagglesdk.kaggle_http_client import KaggleHttpClient

    def refuse(*_arguments):
        raise ConnectionError("importing asks nobody")

    call, KaggleHttpClient.call = KaggleHttpClient.call, refuse
    before, folder = dict(os.environ), config_folder()
    # Without credentials it calls exit(), which closes standard input before it raises.
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        with tempfile.TemporaryDirectory() as nowhere, contextlib.redirect_stdout(io.StringIO()):
            for name in before:
                if name.startswith(("KAGGLE_", "VERBOSE")):
                    del os.environ[name]
            os.environ |= {"HOME": nowhere, "USERPROFILE": nowhere, "KAGGLE_CONFIG_DIR": nowhere}
            from kaggle.api.kaggle_api_extended import KaggleApi

            if KaggleApi.config_dir == nowhere:
                # For others who use it in this process.
                KaggleApi.config_dir, KaggleApi.config = str(folder), str(folder / KaggleApi.config_file)
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ |= before
        KaggleHttpClient.call, sys.stdin = call, stdin
    return KaggleApi


def _make_api(timeout):
    """The official client with a time limit on every request and without its verbose mode, which prints the key."""
    try:
        import requests

        KaggleApi = _import_client()
    except ImportError as error:
        raise InputNotFoundError(
            f"Kaggle's client must be installed (pip install 'kaggle>=2.2'), got {error}"
        ) from error

    class Bounded(requests.adapters.HTTPAdapter):
        def send(self, request, **kwargs):
            kwargs["timeout"] = kwargs.get("timeout") or timeout
            answer = super().send(request, **kwargs)
            _refuse_page(answer)
            return answer

    class Api(KaggleApi):
        args = ("--local",) if os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST" else ()
        auth = None

        def log_in(self, username, key, token):
            values = {"username": username, "key": key, "token": token}
            self.config_values = {name: value for name, value in values.items() if value}
            self.auth = KaggleHttpClient.BearerAuth(token) if token else (username, key) if key else None
            self._authenticated = True

        def build_kaggle_client(self):
            client = super().build_kaggle_client()
            http = client.http_client()
            # Else it looks for credentials of its own, and sends them as they are.
            http._signed_in = True
            http._init_session()
            http._session.auth = self.auth
            for scheme in ("https://", "http://"):
                http._session.mount(scheme, Bounded())
            return client

    from kagglesdk.kaggle_http_client import KaggleHttpClient

    api = Api()
    api.log_in("", "", "")
    return api
