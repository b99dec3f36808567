"""Find the papyrus surface in X-ray CT of the Herculaneum scrolls: training, offline inference, repair and score.

Every public name is an attribute of this module and is loaded when it is first used, so that importing it loads neither torch
nor numba.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader

from vesuvius_kit.console import Progress, no_progress

if TYPE_CHECKING:
    from vesuvius_kit.config import RunConfig

__version__ = "0.1.0"

# The names stand in __init__.pyi, which type checkers read too.
_load, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "train"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    return _load(name)


def train(
    config: "RunConfig",
    *,
    fresh: bool = False,
    resume_from: Path | str | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Train the folds a configuration names and return the run's folder; see `vesuvius_kit.training.loop.train`.

    Before the rate is raised, the diagnosis is asked whether the loss is to blame.

    Examples
    --------
    >>> import tempfile, vesuvius_kit as vk
    >>> tiny = {"n_folds": 2, "patches.size": 32, "train.num_epochs": 1, "train.steps_per_epoch": 1, "lr.warmup_epochs": 0,
    ...         "train.validation_patches": 4, "model.options": {"initial_filters": 2, "depth": 1}, "train.num_workers": 0}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = vk.write_competition(f"{folder}/data", train=4, test=0, shape=48)
    ...     run = vk.train(vk.load_config(None, {**tiny, "data": f"{folder}/data", "output": f"{folder}/run"}))
    ...     sorted(path.name for path in (run / "fold_0").iterdir())
    ['best', 'last', 'log.jsonl']
    """
    from vesuvius_kit.diagnosis.raise_veto import veto_raise
    from vesuvius_kit.training.loop import Hooks
    from vesuvius_kit.training.loop import train as train_folds

    return train_folds(config, fresh=fresh, resume_from=resume_from, hooks=Hooks(veto_raise), progress=progress)
