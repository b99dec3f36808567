"""Wait for a notebook on Kaggle, fetch and check what it left, submit it and wait for the score."""

import logging
from pathlib import Path

from vesuvius_kit.checks import InputError, make_folder
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.kaggle.client import KaggleClient
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.paths import COMPETITION_SLUG
from vesuvius_kit.kaggle.push import KernelRun, forget_run

logger = logging.getLogger(__name__)

SUBMISSION_NAME = "submission.zip"
RUN_WAIT_SECONDS = 14 * 3600.0
UNKNOWN_SECONDS = 300.0


def follow(
    client: KaggleClient,
    run: KernelRun,
    folder: Path | str,
    *,
    wait_seconds: float = RUN_WAIT_SECONDS,
    progress: Progress = no_progress,
) -> Path:
    """Wait until a notebook has ended and fetch what it left, its log too, to ``output/<slug>-v<version>/`` in a folder.

    Files that are there are not fetched again. A notebook that failed is a `KaggleError` that says where its log is.
    """
    output = Path(folder) / "output" / f"{run.slug}-v{run.version}"
    if not (ended := _wait_for_end(client, run, wait_seconds, progress)):
        _fetch_output(client, run, output, progress)
        return output
    # The same content may be tried again: the version that failed is forgotten.
    forget_run(folder, run.kernel)
    try:
        _fetch_output(client, run, output, no_progress, files=False)
        where = f"the log in {output}"
    except KaggleError as error:
        where = f"no log ({error})"
    raise KaggleError(f"{run} {ended}; see {run.url} and {where}")


def _wait_for_end(client: KaggleClient, run: KernelRun, wait_seconds: float, progress: Progress) -> str:
    """Return "", or how the run failed."""
    state = ""
    for waited in client.poll(run.slug, wait_seconds, 15, 60, progress):
        try:
            before, (state, reason) = state, client.kernel_state(run.kernel, run.version)
        except KaggleError as error:
            # A version that was just pushed may not be known everywhere yet.
            if error.status != 404 or waited > UNKNOWN_SECONDS:
                raise
            continue
        if state != before:
            logger.info("%s: %s", run, state)
        if state == "COMPLETE":
            return ""
        if state == "ERROR" or state.startswith("CANCEL"):
            ended = "ended with an error" if state == "ERROR" else f"was cancelled ({state})"
            return f"{ended}: {reason}" if reason else ended
    hours = f"{wait_seconds / 3600:.1f} h"
    raise KaggleError(f"{run}: still {state or 'unknown'} after {hours}; the same command goes on waiting")


def _fetch_output(client: KaggleClient, run: KernelRun, output: Path, progress: Progress, files: bool = True) -> None:
    urls, log = client.kernel_output(run.kernel, run.version)
    make_folder(output)
    with write_atomically(output / f"{run.slug}.log") as stream:
        stream.write(log)
    for name, url in sorted(urls.items()) if files else ():
        path = output / name
        if not path.resolve().is_relative_to(output.resolve()):
            raise KaggleError(f"the output of {run.kernel}: a file must not lie outside of it, got {name!r}")
        if not path.exists():
            make_folder(path.parent)
            client.download(url, path, progress)


def check_output(run: KernelRun, output: Path | str, images_folder: Path | str) -> int:
    """Check the submission in an output of `follow` against the test images; return the number of its masks."""
    from vesuvius_kit.inference.submission import validate_submission

    path = Path(output) / SUBMISSION_NAME
    if not path.is_file():
        there = sorted(str(each.relative_to(output)) for each in Path(output).rglob("*") if each.is_file())
        raise KaggleError(f"{run} left no {SUBMISSION_NAME}, only {', '.join(there[:5])}; see {run.url}")
    try:
        return validate_submission(path, images_folder)
    except InputError as error:
        raise KaggleError(f"{run} left a submission that is not valid: {error}") from error


def submit_run(
    client: KaggleClient,
    run: KernelRun,
    message: str,
    *,
    competition: str = COMPETITION_SLUG,
    wait_seconds: float = RUN_WAIT_SECONDS,
    progress: Progress = no_progress,
) -> str:
    """Submit one version of a notebook once, wait for the public score and return it as Kaggle writes it.

    ``message`` stands beside the submission, followed by the notebook's version, by which a repeated call finds it.
    """
    description = " ".join(f"{message} [{run.slug} v{run.version}]".split())
    if client.find_submission(competition, description) is not None:
        logger.info("%s version %d is submitted already", run.kernel, run.version)
    else:
        client.submit(competition, run.kernel, run.version, SUBMISSION_NAME, description)
        logger.info("submitted %s version %d to %s", run.kernel, run.version, competition)
    for _ in client.poll("score", wait_seconds, 30, 120, progress):
        submission = client.find_submission(competition, description)
        state = "PENDING" if submission is None else submission.status.name
        if state == "COMPLETE":
            return submission.public_score or "not shown"
        if state == "ERROR":
            reason = client.scrub(submission.error_description or "no reason given")
            raise KaggleError(f"the submission of {run.kernel} version {run.version} failed: {reason}")
    raise KaggleError(f"no score after {wait_seconds / 3600:.1f} h; the same command goes on waiting")
