"""Where a run stands between two steps; saved with every checkpoint."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunState:
    """Counters, bests and history of a run, as plain types that JSON keeps exactly."""

    epoch: int = 0
    """The epoch that runs next or is running, counted from 0."""
    step: int = 0
    """Steps of it that are done."""
    partial: dict[str, Any] = field(default_factory=dict)
    """What these steps have added up for the log."""
    best_loss: float | None = None
    """Smallest validation loss so far."""
    best_score: float | None = None
    """Largest validation score so far."""
    best_epoch: int | None = None
    """Epoch of ``best_score``."""
    epochs_without_improvement: int = 0
    """Epochs since either of them improved. It survives every resume and rollback."""
    stopped_early: bool = False
    """Whether that has ended the run."""
    rollback_epoch: int | None = None
    """Epoch of ``best_loss``, if its state has been kept to go back to."""
    rollbacks: int = 0
    """How often the run went back."""
    last_loss: float | None = None
    """The last epoch's validation loss."""
    rising_epochs: int = 0
    """For how many epochs in a row it rose."""
    chunk_ids: list[str] = field(default_factory=list)
    """Chunks the run trains on."""
    trained_on: list[str] = field(default_factory=list)
    """Chunks that these weights have ever been trained on: the run's own, and those of every run it goes on from."""
    resumed_from: str | None = None
    """The checkpoint of another run that this one was started from."""
    history: list[str] = field(default_factory=list)
    """Starts, resumes and what was changed at each."""
    precision: dict[str, Any] = field(default_factory=dict)
    """What the run computes in, and the timings behind it, as `Precision.to_dict` returns it."""
