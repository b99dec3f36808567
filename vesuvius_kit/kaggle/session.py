"""What a notebook finds when it starts: the competition, GPUs, a place to write; at home a phantom and quick settings."""

import logging
import os
import socket
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.config import load_config
from vesuvius_kit.console import configure_logging, no_progress
from vesuvius_kit.kaggle.paths import (
    find_competition,
    find_models,
    find_outputs,
    is_kaggle,
    is_rerun,
    run_type,
    working_folder,
)

logger = logging.getLogger(__name__)

PHANTOM_FOLDER = "phantom"
RUN_FOLDER = "checkpoints"
TRAIN_SLUG = "vesuvius-kit-train"
PROCESSES_VARIABLE = "VESUVIUS_KIT_PROCESSES"

# The phantom's scrolls: four to train on, and a test chunk of one of them.
_PHANTOM = {"train": 4, "test": 1, "shape": (96, 96, 96), "test_styles": ("dense",)}
_PHANTOM_STYLES = ("even", "dense", "wavy", "loose")

# A minute on two processor cores: shows that everything runs, and learns a little.
QUICK_SETTINGS = {
    "patches.size": [48, 48, 48],
    "train.num_epochs": 8,
    "train.steps_per_epoch": 20,
    "train.validation_patches": 4,
    "train.score_every_epochs": 4,
}


@dataclass(frozen=True)
class Session:
    """What a notebook works with.

    Parameters
    ----------
    data : pathlib.Path
        The competition's folder.
    working : pathlib.Path
        Where results go; Kaggle keeps what lies there.
    made_phantom : bool
        Whether ``data`` is a phantom that `open_session` made because there was nothing else.
    n_processes : int
        Training processes to start: one for each GPU, at least one.
    config : str
        Name of the configuration that suits the machine.
    settings : dict
        Settings to replace in it, by dotted key; quick ones on a machine without a GPU.
    """

    data: Path
    working: Path
    made_phantom: bool
    n_processes: int
    config: str
    settings: dict = field(default_factory=dict)

    def to_text(self) -> str:
        """Return what was found, for the top of a notebook.

        Returns
        -------
        str
            A few lines.
        """
        place = {"local": "not on Kaggle"}.get(
            run_type(), f"Kaggle, {run_type()}{', hidden rerun' if is_rerun() else ''}"
        )
        lines = [
            f"session:     {place}",
            f"competition: {self.data}" + (" (no data found: a small phantom, made here)" if self.made_phantom else ""),
            f"results:     {self.working}",
            f"settings:    {self.config}, {self.n_processes} process(es)",
        ]
        if self.settings:
            lines.append(
                "             no GPU: quick settings, which show that everything runs, not how well it can be done"
            )
        return "\n".join(lines)


def open_session(*, progress=no_progress) -> Session:
    """Find what a notebook needs, and turn on the kit's messages.

    Away from Kaggle, where no competition is found, a small phantom is written to ``phantom`` in the working folder.

    Parameters
    ----------
    progress : callable
        Wraps the phantom's chunks, in tqdm's calling form.

    Returns
    -------
    Session

    Raises
    ------
    InputNotFoundError
        On Kaggle: no competition is attached. The message says where it was looked for.
    InputValueError
        Several competitions are equally near, or ``VESUVIUS_KIT_PROCESSES`` is not a number.
    """
    # device_count asks the driver without starting CUDA, which must not run before processes are forked.
    import torch

    configure_logging()
    # Other packages ask for tqdm's widgets, and complain on standard error where those are not installed.
    warnings.filterwarnings("ignore", message="IProgress not found")
    n_gpus = torch.cuda.device_count()
    n_processes = os.environ.get(PROCESSES_VARIABLE, str(max(1, n_gpus)))
    if not n_processes.isdecimal() or int(n_processes) < 1:
        raise InputValueError(f"{PROCESSES_VARIABLE} must be a number of at least 1, got {n_processes!r}")
    working = working_folder()
    made_phantom = False
    try:
        data = find_competition()
    except InputNotFoundError:
        if is_kaggle():
            raise
        from vesuvius_kit.phantom import write_competition

        data, made_phantom = working / PHANTOM_FOLDER, True
        write_competition(data, **_PHANTOM, train_styles=_PHANTOM_STYLES, progress=progress)
    config, settings = ("config_v6_fix_plateau", {}) if n_gpus else ("cpu_demo", dict(QUICK_SETTINGS))
    return Session(data, working, made_phantom, int(n_processes), config, settings)


def find_free_port() -> str:
    """Return a port of this machine that nobody listens on, for ``notebook_launcher``: two notebooks cannot share its own.

    Returns
    -------
    str
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def find_earlier_checkpoint(fold: int) -> Path | None:
    """Return where an earlier session's training of a fold ended, if its output is attached.

    A session on Kaggle ends after twelve hours, and the next starts with an empty folder.

    Parameters
    ----------
    fold : int
        Index of the fold.

    Returns
    -------
    pathlib.Path or None
        ``last`` of that fold in the output of the notebook ``vesuvius-kit-train``, for `train`'s ``resume_from``; None without.

    Raises
    ------
    InputValueError
        Several outputs are attached.
    """
    try:
        last = find_outputs(TRAIN_SLUG) / RUN_FOLDER / f"fold_{fold}" / "last"
    except InputNotFoundError:
        return None
    return last if last.is_dir() else None


def find_or_train_models(session: Session, *, progress=no_progress) -> list[Path]:
    """Return the runs whose checkpoints are attached; away from Kaggle, train a small one where there is none.

    Parameters
    ----------
    session : Session
        Of `open_session`.
    progress : callable
        Wraps the training, in tqdm's calling form.

    Returns
    -------
    list of pathlib.Path
        Run folders, as `vesuvius_kit.models.checkpoint.find_checkpoints` takes them.

    Raises
    ------
    InputNotFoundError
        On Kaggle: no model is attached. The message says where it was looked for.
    """
    try:
        return find_models()
    except InputNotFoundError:
        if is_kaggle():
            raise
    from vesuvius_kit.training.loop import train

    logger.warning("no model found: a small network is trained for about a minute; its masks are no measure of the kit")
    places = {"data": str(session.data), "output": str(session.working / RUN_FOLDER)}
    return [train(load_config("cpu_demo", QUICK_SETTINGS | places), progress=progress)]
