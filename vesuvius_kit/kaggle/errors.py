"""The error of the Kaggle side, apart from what raises it, so that the command line can catch it without loading that."""

from typing import Literal

Kind = Literal["refused", "busy", "broken", "blocked", "failed"]


class KaggleError(RuntimeError):
    """Kaggle refused, failed or could not be reached; the message is one line without secrets.

    The kind is ``refused`` (the server said no), ``busy`` (429: ask later), ``broken`` (no complete answer: the request may be
    carried out), ``blocked`` (a setting of this machine or its network stands in the way: asking again is of no use) or
    ``failed`` (what Kaggle did for us went wrong). Where there was an answer, ``status`` is that of HTTP, ``retry_after`` the
    seconds that it asks to wait, and ``is_page`` says that it was a page for people, perhaps of somebody in between.
    """

    def __init__(
        self,
        message: str,
        kind: Kind = "failed",
        status: int | None = None,
        retry_after: float | None = None,
        is_page: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind, self.status, self.retry_after, self.is_page = kind, status, retry_after, is_page
