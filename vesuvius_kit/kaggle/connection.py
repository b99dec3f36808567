"""A connection to Kaggle through the official client, with what that lacks: time limits, bounded retries, errors, discretion.

The command line of Kaggle's client prints an error of the server and still exits 0, drops a file whose upload failed, waits
for an answer without limit, and shows signed addresses. So the requests and responses here are those of the official client,
and what surrounds them is ours: every failure is one `KaggleError` with one line.

Uploads follow Google's resumable protocol, as the official client does: after a break the server says how much it holds.
"""

import base64
import contextlib
import io
import json
import logging
import os
import random
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

from vesuvius_kit.checks import InputNotFoundError, check_file
from vesuvius_kit.console import no_progress
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.volume import write_atomically

logger = logging.getLogger(__name__)

NO_CREDENTIALS = (
    "Kaggle credentials must be set: create a token at https://www.kaggle.com/settings and export KAGGLE_API_TOKEN, or put it "
    "into ~/.kaggle/access_token (or KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json), got none that is valid"
)
CHUNK = 1 << 20


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
        self._secrets = set()
        self._api = _make_api(timeout_seconds)
        self._learn_secrets()
        # At its debug level urllib3 writes down every address, the signed ones too.
        logging.getLogger("urllib3.connectionpool").addFilter(_hide_queries)
        try:
            self._repeat("checking the credentials", lambda: self._quietly(self._api.authenticate))
        except SystemExit:
            raise InputNotFoundError(NO_CREDENTIALS) from None
        self._learn_secrets()
        self.owner = self._api.config_values.get("username", "").lower()
        if not self.owner:
            raise InputNotFoundError(NO_CREDENTIALS)

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
        self._secrets.add(token)

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

        path = Path(path)

        def fetch():
            with requests.get(url, stream=True, timeout=self._timeout) as answer:
                answer.raise_for_status()
                size = int(answer.headers.get("Content-Length", 0))
                written = 0
                with write_atomically(path, "wb") as stream:
                    chunks = answer.iter_content(CHUNK)
                    show = progress if size > 8 * CHUNK else no_progress
                    for chunk in show(chunks, total=-(-size // CHUNK) or None, desc=path.name, unit="MB"):
                        stream.write(chunk)
                        written += len(chunk)
                    if size and written < size and "Content-Encoding" not in answer.headers:
                        raise requests.exceptions.ConnectionError(f"{written} of {size} bytes came")

        self._repeat(f"fetching {path.name}", fetch)

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
        text = " ".join(str(text).split())
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        text = re.sub(r"(?i)\b(bearer|basic)\s+[\w+/=.~-]{6,}", r"\1 ***", text)
        return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1?***", text)

    def _learn_secrets(self):
        values = getattr(self._api, "config_values", {})
        found = {
            values.get("key"),
            values.get("token"),
            os.environ.get("KAGGLE_KEY"),
            os.environ.get("KAGGLE_API_TOKEN"),
        }
        for path in sorted(Path("~/.kaggle").expanduser().glob("access_token*")):
            found.add(path.read_text(errors="replace").strip())
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stored = json.loads(Path("~/.kaggle/credentials.json").expanduser().read_text())
            found |= {value for key, value in stored.items() if "token" in key and isinstance(value, str)}
        if values.get("username") and values.get("key"):
            found.add(base64.b64encode(f"{values['username']}:{values['key']}".encode()).decode())
        self._secrets |= {secret for secret in found if secret and len(secret) >= 4}

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
            except Exception as raised:
                error = self._explain(what, raised)
                if error is None:
                    raise
            if error.kind not in (("busy",) if only_busy else ("busy", "broken")) or attempt == self._max_attempts - 1:
                raise error from None
            self._back_off(what, error, attempt)
        raise AssertionError("unreachable: max_attempts is at least 1")

    def _back_off(self, what, error, attempt):
        delay = min(60.0, 2.0**attempt) * (0.5 + random.random())
        if error.retry_after is not None:
            delay = min(300.0, error.retry_after)
        logger.info("%s; trying again in %.0f s", error, delay)
        self.pause(delay)

    def _send(self, send):
        """One request through the official client."""
        with self._api.build_kaggle_client() as kaggle:
            return self._quietly(lambda: send(kaggle))

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
        """The KaggleError for what a request raised; None for a mistake that is not Kaggle's."""
        import requests

        if isinstance(raised, KaggleError):
            return raised
        if isinstance(raised, requests.exceptions.HTTPError) and raised.response is not None:
            return self._explain_status(what, raised.response, str(raised))
        if isinstance(raised, requests.exceptions.Timeout):
            return KaggleError(f"{what}: no answer within {self._timeout:g} s", kind="broken")
        # JSONDecodeError is a ValueError in the standard library and a RequestException in requests.
        if isinstance(raised, (json.JSONDecodeError, requests.exceptions.InvalidJSONError, KeyError)):
            return KaggleError(
                f"{what}: the answer is not one that this version of the kaggle client reads", kind="broken"
            )
        if isinstance(raised, requests.exceptions.RequestException):
            host = urlsplit(getattr(getattr(raised, "request", None), "url", None) or "").hostname or "Kaggle"
            return KaggleError(f"{what}: the connection to {host} failed or broke", kind="broken")
        return None

    def _explain_status(self, what, response, text):
        status = response.status_code
        try:
            message = response.json().get("message") or ""
            # The client turns a code in the body into an error, whatever the status line says.
            status = response.json().get("code") or status if status < 400 else status
        except (ValueError, AttributeError):
            message = ""
        kind = "busy" if status == 429 else "broken" if status >= 500 else "refused"
        reason = {
            401: "Kaggle does not accept the credentials",
            403: "Kaggle denies access",
            404: "Kaggle knows no such thing",
            409: "Kaggle reports a conflict",
            429: "Kaggle receives too many requests",
        }.get(status, "Kaggle answers with an error")
        detail = f": {message[:300]}" if message else ""
        return KaggleError(
            self.scrub(f"{what}: {reason} (HTTP {status}){detail}"),
            kind,
            status,
            _seconds(response.headers.get("Retry-After")),
        )


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


def _hide_queries(record):
    """A filter of log records: what follows the ? of an address is its signature."""
    record.msg, record.args = re.sub(r"\?[^\s\"']+", "?***", record.getMessage()), ()
    return True


def _seconds(retry_after):
    """The number in a Retry-After header; a date is not worth reading."""
    return float(retry_after) if retry_after and re.fullmatch(r"\d+(\.\d+)?", retry_after) else None


def _make_api(timeout):
    """The official client with a time limit on every request and without its verbose mode, which prints the key."""
    import requests
    from kagglesdk.kaggle_http_client import KaggleHttpClient

    class Bounded(requests.adapters.HTTPAdapter):
        def send(self, request, **kwargs):
            kwargs["timeout"] = kwargs.get("timeout") or timeout
            return super().send(request, **kwargs)

    def refuse(*_arguments):
        raise requests.exceptions.ConnectionError("importing asks nobody")

    # Importing it authenticates, over the network and without a time limit, and prints advice: neither is wanted here.
    call, KaggleHttpClient.call = KaggleHttpClient.call, refuse
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from kaggle.api.kaggle_api_extended import KaggleApi
    finally:
        KaggleHttpClient.call = call

    class Api(KaggleApi):
        args = ("--local",) if os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST" else ()

        def build_kaggle_client(self):
            client = super().build_kaggle_client()
            http = client.http_client()
            http._init_session()
            for scheme in ("https://", "http://"):
                http._session.mount(scheme, Bounded())
            return client

    api = Api()
    api.config_values = {}
    return api
