"""Wait for a notebook on Kaggle, fetch and check what it left, submit it and wait for the score."""

import logging
from pathlib import Path

from vesuvius_kit.checks import InputError, make_folder
from vesuvius_kit.console import no_progress
from vesuvius_kit.io.volume import write_atomically
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.paths import COMPETITION_SLUG
from vesuvius_kit.kaggle.push import forget_run

logger = logging.getLogger(__name__)

SUBMISSION_NAME = "submission.zip"
RUN_WAIT_SECONDS = 14 * 3600.0
UNKNOWN_SECONDS = 300.0


def follow(client, run, folder, *, wait_seconds=RUN_WAIT_SECONDS, progress=no_progress) -> Path:
    """Wait until a notebook has ended and fetch what it left.

    Parameters
    ----------
    client : KaggleClient
        Who asks.
    run : KernelRun
        What to wait for.
    folder : str or Path
        Gets ``output/<slug>-v<version>/``; files that are there are not fetched again.
    wait_seconds : float
        How long at most.
    progress : callable
        See `vesuvius_kit.console`.

    Returns
    -------
    pathlib.Path
        The folder of the output, the log in it.

    Raises
    ------
    KaggleError
        The notebook ended with an error, was cancelled, or did not end in time.
    """
    slug = run.kernel.split("/")[1]
    output = Path(folder) / "output" / f"{slug}-v{run.version}"
    name, state = f"notebook {run.kernel} version {run.version}", None
    for waited in client.poll(slug, wait_seconds, 15, 60, progress):
        try:
            before, (state, reason) = state, client.kernel_state(run.kernel, run.version)
        except KaggleError as error:
            # A version that was just pushed may not be known everywhere yet.
            if error.status != 404 or waited > UNKNOWN_SECONDS:
                raise
            continue
        if state != before:
            logger.info("%s: %s", name, state)
        if state in ("COMPLETE", "ERROR") or state.startswith("CANCEL"):
            break
    else:
        raise KaggleError(
            f"{name}: still {state or 'unknown'} after {wait_seconds / 3600:.1f} h; the same command goes on waiting"
        )
    if state == "COMPLETE":
        _fetch_output(client, run, output, progress)
        return output
    # The same content may be tried again: the version that failed is forgotten.
    forget_run(folder, run.kernel)
    ended = "ended with an error" if state == "ERROR" else f"was cancelled ({state})"
    reason = f": {reason}" if reason else ""
    try:
        _fetch_output(client, run, output, no_progress, only_log=True)
        where = f"the log in {output}"
    except KaggleError as error:
        where = f"no log ({error})"
    raise KaggleError(f"{name} {ended}{reason}; see {run.url} and {where}")


def _fetch_output(client, run, output, progress, only_log=False):
    urls, log = client.kernel_output(run.kernel, run.version)
    make_folder(output)
    with write_atomically(output / f"{run.kernel.split('/')[1]}.log") as stream:
        stream.write(log)
    for name, url in () if only_log else sorted(urls.items()):
        path = output / name
        if not path.resolve().is_relative_to(output.resolve()):
            raise KaggleError(f"the output of {run.kernel}: a file must not lie outside of it, got {name!r}")
        if not path.exists():
            make_folder(path.parent)
            client.download(url, path, progress)


def check_output(run, output, images_folder) -> int:
    """Check the submission that a notebook left and return the number of its masks.

    Parameters
    ----------
    run : KernelRun
        Where the output comes from, for the message.
    output : str or Path
        As `follow` returned it.
    images_folder : str or Path
        The test images that the notebook saw.

    Returns
    -------
    int

    Raises
    ------
    KaggleError
        There is no submission, or one that the competition does not accept.
    """
    from vesuvius_kit.inference.submission import validate_submission

    path = Path(output) / SUBMISSION_NAME
    name = f"notebook {run.kernel} version {run.version}"
    if not path.is_file():
        there = sorted(str(each.relative_to(output)) for each in Path(output).rglob("*") if each.is_file())
        raise KaggleError(f"{name} left no {SUBMISSION_NAME}, only {', '.join(there[:5])}; see {run.url}")
    try:
        return validate_submission(path, images_folder)
    except InputError as error:
        raise KaggleError(f"{name} left a submission that is not valid: {error}") from error


def submit_run(
    client, run, message, *, competition=COMPETITION_SLUG, wait_seconds=RUN_WAIT_SECONDS, progress=no_progress
) -> str:
    """Submit one version of a notebook once, wait for the score and return it.

    Parameters
    ----------
    client : KaggleClient
        Whose submission it becomes.
    run : KernelRun
        What to submit.
    message : str
        Shown beside the submission, followed by the notebook's version, by which a repeated call finds it.
    competition : str
        Its slug.
    wait_seconds : float
        How long to wait for the score at most.
    progress : callable
        See `vesuvius_kit.console`.

    Returns
    -------
    str
        The public score as Kaggle writes it, or "not shown".

    Raises
    ------
    KaggleError
        Kaggle refused, the hidden rerun failed, or the score did not come in time.
    """
    description = " ".join(f"{message} [{run.kernel.split('/')[1]} v{run.version}]".split())
    if client.find_submission(competition, description) is None:
        client.submit(competition, run.kernel, run.version, SUBMISSION_NAME, description)
        logger.info("submitted %s version %d to %s", run.kernel, run.version, competition)
    else:
        logger.info("%s version %d is submitted already", run.kernel, run.version)
    for _ in client.poll("score", wait_seconds, 30, 120, progress):
        submission = client.find_submission(competition, description)
        state = "PENDING" if submission is None else submission.status.name
        if state == "COMPLETE":
            return submission.public_score or "not shown"
        if state == "ERROR":
            reason = client.scrub(submission.error_description or "no reason given")
            raise KaggleError(f"the submission of {run.kernel} version {run.version} failed: {reason}")
    raise KaggleError(f"no score after {wait_seconds / 3600:.1f} h; the same command goes on waiting")
