"""``vesuvius-kit train``."""

import os

import vesuvius_kit
from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import RunConfig
from vesuvius_kit.console import show_progress


def train(config: RunConfig, *, fresh: bool = False, resume_from: str | None = None) -> None:
    """Train the chosen folds; the same command goes on where a run was stopped.

    Parameters
    ----------
    fresh
        move an earlier run aside and start from nothing
    resume_from
        checkpoint to start from under changed settings, or a run's folder
    """
    if not config.data:
        raise InputValueError("--data must name the competition folder, got nothing")
    folder = vesuvius_kit.train(config, fresh=fresh, resume_from=resume_from, progress=show_progress)
    # Where several processes train, the main one prints.
    if os.environ.get("RANK", "0") == "0":
        print(folder)
