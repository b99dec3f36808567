"""What is decided at the end of an epoch: score whole volumes, note the best, go back, average the weights, stop.

Plain arithmetic on a run's state, without torch. The rate itself is `learning_rate.py`'s.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vesuvius_kit.config import RunConfig
from vesuvius_kit.io.record import EpochRecord
from vesuvius_kit.training.state import RunState

VetoRaise = Callable[[Sequence[EpochRecord], RunConfig], str | None]
"""Asked before the rate is raised, with all epochs so far: why the rate is not to blame, or None to let it rise."""


class Controller(Protocol):
    """What the loop asks of a learning-rate controller, such as `BoundedLR`."""

    @property
    def rate(self) -> float:
        """The rate of the epoch that runs."""

    @property
    def base_lr(self) -> float:
        """The configured rate of the run's first start."""

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The arguments whose change takes a saved state its meaning."""

    @property
    def interventions(self) -> list[dict[str, Any]]:
        """Every raise so far."""

    def step(self, metric: float, allow_raise: bool | Callable[[], bool] = True) -> float:
        """End the epoch that runs and return the rate of the next."""

    def rollback(self, state: dict[str, Any]) -> None:
        """Go back to an earlier state of this run without forgetting what was learned since."""

    def forget_best(self) -> None:
        """Start to compare metrics anew."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain types that JSON keeps exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved."""


@dataclass(frozen=True)
class ScoringPolicy:
    """Whole volumes are scored every so many epochs, and where the run may end, so that it has a best."""

    every_epochs: int
    num_epochs: int
    early_stopping_patience: int

    def is_due(self, state: RunState, epoch: int, loss: float) -> bool:
        """Return whether whole volumes are scored after an epoch with that validation loss."""
        if (epoch + 1) % self.every_epochs == 0 or epoch + 1 == self.num_epochs:
            return True
        may_stop = 0 < self.early_stopping_patience <= state.epochs_without_improvement + 1
        return may_stop and not _is_better(loss, state.best_loss)


@dataclass(frozen=True)
class EarlyStopping:
    """A run ends after so many epochs without a better loss or score; 0 never."""

    patience: int

    def stops(self, state: RunState) -> bool:
        """Return whether the run has ended, once `note_best` has seen the epoch."""
        return 0 < self.patience <= state.epochs_without_improvement


@dataclass(frozen=True)
class AveragingPolicy:
    """From ``start_epoch`` on, 0 for never, every so many epochs the weights go into the mean (stochastic weight averaging)."""

    start_epoch: int
    every_epochs: int
    rate: float | None
    """The constant rate meanwhile; None for the controller's."""

    def is_active(self, epoch: int) -> bool:
        """Return whether an epoch belongs to those at the end whose weights are averaged."""
        return 0 < self.start_epoch <= epoch

    def takes(self, epoch: int) -> bool:
        """Return whether the weights at an epoch's end go into the mean."""
        return self.is_active(epoch) and (epoch - self.start_epoch) % self.every_epochs == 0

    def choose_rate(self, epoch: int, controlled: float) -> float:
        """Return the rate of an epoch, ``controlled`` being that of the controller."""
        return self.rate if self.is_active(epoch) and self.rate is not None else controlled


@dataclass(frozen=True)
class RollbackPolicy:
    """A run goes back to its best state when the validation loss degrades."""

    tolerance: float
    """More than this fraction worse than the best; 0 never."""
    rising_epochs: int
    """Risen for so many epochs in a row; 0 never."""
    max_rollbacks: int
    first_epoch: int
    """Not before: the loss of a warm-up says nothing."""

    @property
    def is_active(self) -> bool:
        """Whether the run may ever go back, so that its best state must be kept."""
        return self.max_rollbacks > 0 and (self.tolerance > 0 or self.rising_epochs > 0)

    def find_degradation(self, state: RunState, epoch: int, loss: float) -> str | None:
        """Return why the run should go back after an epoch, or None; `note_loss` has seen it."""
        if not self.is_active or epoch < self.first_epoch or state.rollbacks >= self.max_rollbacks:
            return None
        if state.rollback_epoch is None or state.best_loss is None:
            return None
        best = f"the best, {state.best_loss:.4f} in epoch {state.rollback_epoch}"
        # Written so that NaN counts as worse.
        if self.tolerance and not loss <= state.best_loss * (1 + self.tolerance):
            return f"the validation loss, {loss:.4f}, is more than {self.tolerance:.0%} worse than {best}"
        if 0 < self.rising_epochs <= state.rising_epochs:
            return (
                f"the validation loss has risen for {state.rising_epochs} epochs in a row, to {loss:.4f}, from {best}"
            )
        return None


@dataclass(frozen=True)
class Policies:
    """All of a run's."""

    scoring: ScoringPolicy
    stopping: EarlyStopping
    averaging: AveragingPolicy
    rollback: RollbackPolicy
    allow_raise: bool

    @classmethod
    def from_config(cls, config: RunConfig) -> "Policies":
        """Return the policies that the sections ``train`` and ``lr`` of a configuration ask for."""
        train = config.train
        # A warm restart makes the loss worse on purpose.
        goes_back = config.lr.schedule != "warm_restarts"
        return cls(
            ScoringPolicy(train.score_every_epochs, train.num_epochs, train.early_stopping_patience),
            EarlyStopping(train.early_stopping_patience),
            AveragingPolicy(train.swa_start_epoch, train.swa_every_epochs, train.swa_learning_rate),
            RollbackPolicy(
                train.rollback_tolerance,
                train.rollback_rising_epochs,
                train.max_rollbacks if goes_back else 0,
                config.lr.warmup_epochs,
            ),
            config.lr.allow_raise,
        )


def note_loss(state: RunState, loss: float) -> None:
    """Count for how many epochs in a row the validation loss has risen; NaN counts as risen."""
    rose = state.last_loss is not None and not loss <= state.last_loss
    state.rising_epochs = state.rising_epochs + 1 if rose else 0
    state.last_loss = loss if math.isfinite(loss) else state.last_loss


def note_best(state: RunState, epoch: int, loss: float, score: float | None) -> tuple[bool, bool]:
    """Note a better loss or score, and return whether each is better than before; ``score`` is None where none was taken."""
    better_loss = _is_better(loss, state.best_loss)
    better_score = score is not None and (state.best_score is None or score > state.best_score)
    # The first score is the best so far, but there was nothing to improve on.
    improved = better_loss or (better_score and state.best_score is not None)
    if better_loss:
        state.best_loss = loss
    if better_score:
        state.best_score, state.best_epoch = score, epoch
    state.epochs_without_improvement = 0 if improved else state.epochs_without_improvement + 1
    return better_loss, better_score


def note_average(state: RunState, epoch: int, average: Mapping[str, Any] | None) -> bool:
    """Note the score in `EpochRecord.average`, None where nothing was averaged, and return whether it is the best."""
    score = None if average is None else average["score"]["score"]
    if score is None or (state.best_score is not None and score <= state.best_score):
        return False
    state.best_score, state.best_epoch = score, epoch
    return True


def _is_better(loss: float, best: float | None) -> bool:
    return math.isfinite(loss) and (best is None or loss < best)
