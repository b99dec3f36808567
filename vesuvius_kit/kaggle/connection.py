"""A connection to Kaggle: log-in, bounded retries, uploads, downloads, and the one way out for errors.

Every failure is one `KaggleError` (or an `InputError`, where a file or a setting here is the cause) with one line. Nothing
passes `redacted` with a secret in it, and no exception that it raises leads to one that has. Uploads follow Google's resumable
protocol: after a break the server says how much it holds.
"""

import base64
import functools
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from vesuvius_kit.checks import InputError, InputNotFoundError, check_file
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.kaggle import official
from vesuvius_kit.kaggle.credentials import Credential, find_credentials
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.network import explain, refuse_page
from vesuvius_kit.kaggle.redaction import Redaction
from vesuvius_kit.kaggle.uploads import UploadMemory

logger = logging.getLogger(__name__)

NO_CREDENTIALS = (
    "Kaggle credentials must be set: create a token at https://www.kaggle.com/settings and export KAGGLE_API_TOKEN, or put it "
    "into ~/.kaggle/access_token (or KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json), got none that is valid"
)
CHUNK = 1 << 20
_ANSWER_LIMIT = 5  # in silences: what a whole answer may take from a server that sends byte after byte
_NOT_ACCEPTED = (400, 401, 403, 404)
_backoff = wait_exponential_jitter(initial=1, max=60)

_T = TypeVar("_T")
_P = ParamSpec("_P")
_C = TypeVar("_C", bound="Connection")


def redacted(method: Callable[Concatenate[_C, _P], _T]) -> Callable[Concatenate[_C, _P], _T]:
    """Let nothing out of a method of `Connection` but results, `KaggleError` and `InputError` without secrets."""

    @functools.wraps(method)
    def guarded(self: _C, /, *arguments: _P.args, **keywords: _P.kwargs) -> _T:
        with self._redaction.watch():
            try:
                return method(self, *arguments, **keywords)
            except BaseException as raised:
                error = self._retell(method.__name__.replace("_", " ").strip(), raised)
        # Outside of the handler: an exception raised within it would carry the first one as its context.
        raise error

    vars(guarded)["is_redacted"] = True
    return guarded


class Connection:
    """One user's connection to Kaggle, whose credentials are checked at once.

    ``timeout_seconds`` is the longest silence of the server in one request; ``max_attempts`` is how often a request is tried
    that the server is too busy for or that breaks.
    """

    owner: str
    """The user's name, in lower case."""

    def __init__(self, *, timeout_seconds: float = 60.0, max_attempts: int = 6) -> None:
        self._timeout = timeout_seconds
        self._max_attempts = max_attempts
        self._redaction = Redaction()
        self._authorization = ""
        self._log_in()

    @redacted
    def _log_in(self) -> None:
        found, problems = find_credentials(), []
        for secret in found.secrets:
            self._redaction.add(secret)
        for place in found.places:
            problem = place if isinstance(place, str) else self._try_credential(place)
            if problem:
                problems.append(problem)
                continue
            if problems:
                logger.info("%s; logged in as %s", "; ".join(problems), self.owner)
            return
        raise InputNotFoundError(": ".join(filter(None, [NO_CREDENTIALS, "; ".join(problems)])))

    def _try_credential(self, credential: Credential) -> str:
        """Take a credential for this connection; why Kaggle does not accept it, or ""."""
        what, token, username = "checking the credentials", credential.token, credential.username
        self._redaction.add(credential.key, username)
        self._authorization = ""
        try:
            if credential.refresh_token and not token:
                token = self._ask(what, lambda kaggle: official.new_token(kaggle, credential.refresh_token))
                self._redaction.add(token)
            basic = base64.b64encode(f"{username}:{credential.key}".encode()).decode() if credential.key else ""
            self._authorization = f"Bearer {token}" if token else basic and f"Basic {basic}"
            if token:
                username = self._ask(what, lambda kaggle: official.owner_of(kaggle, token))
        except KaggleError as error:
            if error.status not in _NOT_ACCEPTED or error.is_page:
                raise
            username = ""
        if not username or not self._authorization:
            return f"Kaggle does not accept what {credential.source} holds"
        self.owner = username.lower()
        return ""

    @redacted
    def upload(self, path: Path | str, key: str, memory: UploadMemory, progress: Progress = no_progress) -> str:
        """Upload one file and return the token that a data set is made from.

        ``key`` names this file with this content in this data set; by it ``memory`` knows where an upload that broke in an
        earlier run goes on.
        """
        path = check_file("upload", path)
        what, size = f"uploading {path.name}", path.stat().st_size
        known = memory.get(key)
        token, url = known or self._start_upload(what, path)
        if not known:
            memory.note(key, token, url)
        self._redaction.add(token)
        broken = known is not None

        def put() -> None:
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
            if error.kind != "refused" or not known:
                raise
            # The address of the earlier run is worth nothing any more.
            return self.upload(path, key, memory, progress)
        return token

    def _start_upload(self, what: str, path: Path) -> tuple[str, str]:
        about, kind = path.stat(), official.types_of("blobs").ApiBlobType.DATASET
        fields = {"content_length": about.st_size, "last_modified_epoch_seconds": int(about.st_mtime)}
        answer = self._ask(what, official.request("blobs", "StartBlobUpload", type=kind, name=path.name, **fields))
        if not answer.create_url or not answer.token:
            raise KaggleError(f"{what}: Kaggle gave no place to upload to", "refused")
        return answer.token, answer.create_url

    def _uploaded_bytes(self, url: str, size: int) -> int:
        """How much of an interrupted upload has arrived."""
        answer = requests.put(url, headers={"Content-Range": f"bytes */{size}"}, timeout=self._timeout)
        refuse_page(answer)
        if answer.status_code != 308:
            answer.raise_for_status()
            return size
        arrived = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
        return int(arrived[1]) + 1 if arrived else 0

    def _put(self, url: str, path: Path, start: int, progress: Progress) -> None:
        size = path.stat().st_size
        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        with open(path, "rb") as stream:
            stream.seek(start)
            steps = progress(range(-(-(size - start) // CHUNK)), desc=path.name, unit="MB")
            body = _Body((stream.read(CHUNK) for _ in steps), size - start)
            answer = requests.put(url, data=body if size else b"", headers=headers, timeout=self._timeout)
        if answer.status_code == 308:
            raise requests.exceptions.ConnectionError("the server took only a part")
        answer.raise_for_status()
        refuse_page(answer)

    @redacted
    def download(self, url: str, path: Path | str, progress: Progress = no_progress) -> None:
        """Fetch one file, by an address of `kernel_output`; it appears under its name only when it is complete."""
        path, what = Path(path), f"fetching {Path(path).name}"

        def fetch() -> None:
            with requests.get(url, stream=True, timeout=self._timeout) as answer:
                answer.raise_for_status()
                if path.suffix.lower() not in (".html", ".htm"):
                    refuse_page(answer)
                announced = answer.headers.get("Content-Length", "")
                size = int(announced) if announced.isdecimal() and "Content-Encoding" not in answer.headers else 0
                show = progress if size > 8 * CHUNK else no_progress
                pieces = show(self._pieces(what, answer), total=-(-size // CHUNK) or None, desc=path.name, unit="MB")
                with write_atomically(path, "wb") as stream:
                    stream.writelines(pieces)
                    if stream.tell() < size:
                        arrived = f"{stream.tell()} of {size} bytes came"
                        raise KaggleError(f"{what}: the connection broke, {arrived}", "broken")

        self._repeat(what, fetch)

    def _pieces(self, what: str, answer: requests.Response) -> Iterator[bytes]:
        """The pieces of a file; their errors are told here, lest the disk be blamed for them where they are written."""
        try:
            yield from answer.iter_content(CHUNK)
        except Exception as raised:
            raise explain(what, raised, self.scrub, self._timeout) from None

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def poll(
        self, name: str, limit_seconds: float, first: float, longest: float, progress: Progress = no_progress
    ) -> Iterator[float]:
        """Yield the seconds waited so far, at once and then after pauses that grow from ``first`` to ``longest`` seconds."""

        def beats() -> Iterator[float]:
            waited, pause = 0.0, float(first)
            while waited < limit_seconds:
                self.pause(min(pause, limit_seconds - waited))
                waited, pause = min(limit_seconds, waited + pause), min(longest, 1.5 * pause)
                yield waited

        # What is there at the first question needs no bar.
        yield 0.0
        yield from progress(beats(), desc=f"waiting for {name}", unit=" questions")

    def scrub(self, text: object) -> str:
        """Return a text as one line without the user's secrets and without what follows the ``?`` of an address."""
        return self._redaction.scrub(text)

    def hide(self, text: object) -> str:
        """Return a text of several lines without the user's secrets, see `scrub`."""
        return self._redaction.hide(text)

    def _retell(self, what: str, raised: BaseException) -> BaseException:
        """The exception to be seen in the place of another."""
        if isinstance(raised, (KeyboardInterrupt, GeneratorExit)):
            return type(raised)()
        error = explain(what, raised, self.scrub, self._timeout)
        if isinstance(error, InputError):
            return type(error)(self.scrub(error))
        return KaggleError(self.scrub(error), error.kind, error.status, error.retry_after, error.is_page)

    def _ask(self, what: str, send: official.Send, absent: Collection[int] = ()) -> Any:
        """A request that may be repeated; None for a status in ``absent``."""
        try:
            return self._repeat(what, lambda: self._send(send))
        except KaggleError as error:
            if error.status in absent:
                return None
            raise

    def _do_once(self, what: str, send: official.Send, happened: Callable[[], bool]) -> Any:
        """A request that must not be carried out twice: if its answer is lost and it ``happened`` nevertheless, None."""
        lost: list[BaseException] = []

        def ask_then_send() -> Any:
            if lost and happened():
                return None
            if len(lost) == self._max_attempts:
                raise lost[-1]
            try:
                return self._repeat(what, lambda: self._send(send), ("busy",))
            except KaggleError as error:
                if error.kind == "broken":
                    lost.append(error)
                raise

        # One attempt more, which only asks.
        return self._retrying(self._max_attempts + 1, lambda error: error in lost)(ask_then_send)

    def _repeat(self, what: str, act: Callable[[], _T], kinds: Collection[str] = ("busy", "broken")) -> _T:
        """Call ``act`` until it succeeds, turning whatever goes wrong into an error to be told."""

        def attempt() -> _T:
            try:
                return act()
            except (Exception, SystemExit) as raised:
                raise explain(what, raised, self.scrub, self._timeout) from None

        def passes(error: BaseException) -> bool:
            return isinstance(error, KaggleError) and error.kind in kinds

        return self._retrying(self._max_attempts, passes)(attempt)

    def _retrying(self, attempts: int, passes: Callable[[BaseException], bool]) -> Retrying:
        stop, retry = stop_after_attempt(attempts), retry_if_exception(passes)
        return Retrying(self.pause, stop, _choose_wait, retry, before_sleep=_announce_wait, reraise=True)

    def _send(self, send: official.Send) -> Any:
        """One request through the official client."""
        with official.quiet(), official.open_client(self._authorization, self._timeout) as kaggle:
            return official.within(_ANSWER_LIMIT * self._timeout, lambda: send(kaggle))


def _choose_wait(state: RetryCallState) -> float:
    """What the server asks for, or else longer each time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, KaggleError) else None
    return _backoff(state) if asked is None else min(300.0, asked)


def _announce_wait(state: RetryCallState) -> None:
    logger.info("%s; trying again in %.0f s", state.outcome.exception() if state.outcome else "", state.upcoming_sleep)


@dataclass
class _Body:
    """Pieces to upload, with the length that requests asks for."""

    pieces: Iterable[bytes]
    size: int

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return self.size
