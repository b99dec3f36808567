"""What a notebook finds when it starts: the competition, GPUs, a place to write; at home a phantom and quick settings."""

import logging
import os
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.config import load_config
from vesuvius_kit.config.tuned import lay_over, read_tuned
from vesuvius_kit.console import Progress, configure_logging, no_progress
from vesuvius_kit.kaggle import paths

logger = logging.getLogger(__name__)

PHANTOM_FOLDER = "phantom"
RUN_FOLDER = "checkpoints"
TRAIN_SLUG = "vesuvius-kit-train"
PROCESSES_VARIABLE = "VESUVIUS_KIT_PROCESSES"

# A minute on two CPU cores: shows that everything runs, and learns a little.
QUICK_SETTINGS: dict[str, Any] = {"patches.size": [48, 48, 48], "train.num_epochs": 8, "train.steps_per_epoch": 20}
QUICK_SETTINGS |= {"train.validation_patches": 4, "train.score_every_epochs": 4}


@dataclass(frozen=True)
class Session:
    """What a notebook works with: the competition's folder, one for results, a configuration that suits the machine."""

    data: Path
    working: Path
    made_phantom: bool
    """Whether ``data`` is a phantom that `open_session` made because there was nothing else."""
    processes: int
    """Training processes to start: one for each GPU, at least one."""
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings to replace in the configuration, by dotted key; quick ones on a machine without a GPU."""

    def to_text(self) -> str:
        """Return what was found, for the top of a notebook: a few lines."""
        rerun = ", hidden rerun" if paths.is_rerun() else ""
        place = f"Kaggle, {paths.run_type()}{rerun}" if paths.is_kaggle() else "not on Kaggle"
        made = " (no data found: a small phantom, made here)" if self.made_phantom else ""
        lines = [f"session:     {place}", f"competition: {self.data}{made}", f"results:     {self.working}"]
        lines.append(f"settings:    {self.config}, {self.processes} process(es)")
        quick = "no GPU: quick settings, which show that everything runs, not how well it can be done"
        return "\n".join([*lines, f"             {quick}"] if self.settings else lines)


def open_session(*, progress: Progress = no_progress) -> Session:
    """Find what a notebook needs, and turn on the kit's messages; away from Kaggle, make a small phantom for want of data."""
    # device_count asks the driver without starting CUDA, which must not run before processes are forked.
    import torch

    configure_logging()
    # Other packages ask for tqdm's widgets, and complain on standard error where those are not installed.
    warnings.filterwarnings("ignore", message="IProgress not found")
    n_gpus = torch.cuda.device_count()
    processes = os.environ.get(PROCESSES_VARIABLE, str(max(1, n_gpus)))
    if not processes.isdecimal() or int(processes) < 1:
        raise InputValueError(f"{PROCESSES_VARIABLE} must be a number of at least 1, got {processes!r}")
    working, made_phantom = paths.working_folder(), False
    try:
        data = paths.find_competition()
    except InputNotFoundError:
        if paths.is_kaggle():
            raise
        from vesuvius_kit.phantom import write_competition

        # Four scrolls to train on, and a test chunk of one of them.
        data, made_phantom = working / PHANTOM_FOLDER, True
        styles: dict[str, Any] = {"train_styles": ("even", "dense", "wavy", "loose"), "test_styles": ("dense",)}
        write_competition(data, train=4, test=1, shape=(96, 96, 96), **styles, progress=progress)
    config, settings = ("config_v6_fix_plateau", {}) if n_gpus else ("cpu_demo", dict(QUICK_SETTINGS))
    return Session(data, working, made_phantom, int(processes), config, settings)


def find_free_port() -> str:
    """Return a port of this machine that nobody listens on, for ``notebook_launcher``: two notebooks cannot share its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def find_earlier_checkpoint(fold: int) -> Path | None:
    """Return where an earlier session's training of a fold ended, for `train`'s ``resume_from``, if its output is attached."""
    try:
        last = paths.find_outputs(TRAIN_SLUG) / RUN_FOLDER / f"fold_{fold}" / "last"
    except InputNotFoundError:
        return None
    return last if last.is_dir() else None


def stored_settings(models: Sequence[Path | str]) -> dict[str, Any]:
    """Return the settings that the weights bring along, by name, as far as they agree; see `agreed_settings`.

    Tuned ones that are found with the models (`find_tuned`) take their place, and the log says so.
    """
    from vesuvius_kit.models.weights import agreed_settings, find_weights

    settings = agreed_settings(find_weights(models))
    if (folder := paths.find_tuned(models)) is None:
        return settings
    tuned = read_tuned(folder)
    logger.info("tuned settings in %s: %s", folder, ", ".join(f"{name} {value}" for name, value in tuned.items()))
    return lay_over(settings, tuned)


def find_or_train_models(session: Session, *, progress: Progress = no_progress) -> list[Path]:
    """Return the runs and nnU-Net folders that are attached; away from Kaggle, train a small network where there is none."""
    try:
        return paths.find_models()
    except InputNotFoundError:
        if paths.is_kaggle():
            raise
    from vesuvius_kit import train

    logger.warning("no model found: a small network is trained for about a minute; its masks are no measure of the kit")
    places = {"data": str(session.data), "output": str(session.working / RUN_FOLDER)}
    return [train(load_config("cpu_demo", QUICK_SETTINGS | places), progress=progress)]
