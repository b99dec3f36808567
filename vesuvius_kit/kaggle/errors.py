"""The error of the Kaggle side, apart from what raises it, so that the command line can catch it without loading that."""


class KaggleError(RuntimeError):
    """Kaggle refused, failed or could not be reached; the message is one line without secrets.

    Parameters
    ----------
    message : str
        What was asked and what came of it.
    kind : str
        ``refused`` (the server said no), ``busy`` (429: ask later), ``broken`` (no complete answer: the request may have
        been carried out), ``blocked`` (a setting of this machine or its network stands in the way: asking again is of no
        use) or ``failed`` (what Kaggle did for us went wrong).
    status : int, optional
        The HTTP status, where there was one.
    retry_after : float, optional
        Seconds that the server asks to wait.
    is_page : bool
        Whether a page for people came in the place of an answer, perhaps from somebody in between.
    """

    def __init__(self, message, kind="failed", status=None, retry_after=None, is_page=False):
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after = retry_after
        self.is_page = is_page
