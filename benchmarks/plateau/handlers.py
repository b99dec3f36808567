"""What the plateau case did wrong, so that the failure can be repeated: its learning-rate handlers, and its reading of labels.

Never use any of it to train a network. `vesuvius_kit.training.loop.Hooks` brings it into a run.
"""

import logging
import math
from typing import Any

from torch import Tensor

from vesuvius_kit.training.learning_rate import RAISE_SCALES, BoundedLR, check_state, copy_state

logger = logging.getLogger(__name__)

# The plateau case's handler: scale of the first intervention, its growth with each further one, and the repaired handler's.
LEGACY_SCALE = 25.0
LEGACY_GROWTH = 0.15
COMPOUNDING_SCALE = 2.5
# Nineteen interventions between the best epoch, 5, and the log's end at about 60 are one in three epochs.
LEGACY_PATIENCE = 3
# The norms it took for small were 0.04 to 0.06; a phantom's healthy run has 0.2 to 0.4.
LEGACY_SMALL_GRADIENT = 0.1


def read_foreground(labels: Tensor) -> Tensor:
    """Return labels read as ``label > 0``: unlabelled voxels count as surface."""
    return (labels > 0).to(labels.dtype)


class LegacyHandler:
    """FOR THE STUDY ALONE: the plateau handler whose learning rate ran away; never use it to train.

    It takes a small gradient on a plateau for a reason to raise the rate, and nothing bounds the rate.

    *Known* from the case: the gradients it reacted to (norms 0.04 to 0.06); that the k-th intervention set 25 (1 + 0.15
    (k - 1)) times the base rate, so 77.5 at the 15th and 92.5 at the 19th; of the repaired handler (`compounding`), that
    it multiplied the current rate, kept the product as its new base and held its cap of 5 for each intervention alone,
    so that three interventions at 2.5 made 15.6.

    *Assumed*: an intervention follows `LEGACY_PATIENCE` epochs without any improvement, for nineteen fitted between
    epoch 5 and about 60; a gradient under 0.1 is small; before the first one the base schedule runs, afterwards the rate
    stays where the last one set it, since nothing is recorded that lowered it; the repaired handler makes three
    interventions a plateau, as many as the case counts.

    Parameters
    ----------
    base_lr
        The configured rate, above 0.
    compounding
        The repaired handler instead of the first.
    **settings
        Of `BoundedLR`, for the base schedule and `mode`; what concerns raises is not used.
    """

    def __init__(self, base_lr: float, *, compounding: bool = False, **settings: Any) -> None:
        # A cap of 1 leaves the bare schedule.
        self._base = BoundedLR(base_lr, **{**settings, "max_factor": 1.0})
        self._sign = -1.0 if settings.get("mode", "min") == "max" else 1.0
        self._compounding = bool(compounding)
        self._gradient_norm = None
        self._best = None
        self._stale_epochs = 0
        self._raises_in_plateau = 0
        self._raised_rate = None
        self._interventions = []
        logger.warning(
            "LEGACY LEARNING-RATE HANDLER%s: it lets the rate run away, as in the plateau case. For the study alone.",
            " (compounding)" if compounding else "",
        )

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The arguments that the base schedule's rate depends on, as `BoundedLR.depends_on`."""
        return self._base.depends_on

    @property
    def epoch(self) -> int:
        """The epoch that runs, from 0."""
        return self._base.epoch

    @property
    def base_lr(self) -> float:
        """The configured rate of the run's first start."""
        return self._base.base_lr

    @property
    def rate(self) -> float:
        """The rate of the epoch that runs."""
        return self._base.rate if self._raised_rate is None else self._raised_rate

    @property
    def interventions(self) -> list[dict[str, Any]]:
        """Every raise so far, as `BoundedLR.interventions`; multiple is of the base rate."""
        return copy_state(self._interventions)

    def see_gradient(self, norm: float) -> None:
        """Take note of the mean norm of the epoch\'s gradient before clipping; before `step`."""
        self._gradient_norm = float(norm)

    def step(self, metric: float, allow_raise: object = True) -> float:
        """End the epoch that runs and return the rate of the next. ``allow_raise`` is not used: this handler asks nobody."""
        ended, before = self.epoch, self.rate
        self._base.step(metric)
        cost = self._sign * float(metric)
        small = self._gradient_norm is not None and self._gradient_norm < LEGACY_SMALL_GRADIENT
        norm, self._gradient_norm = self._gradient_norm, None
        if math.isfinite(cost) and (self._best is None or cost < self._best):
            self._best = cost
            self._stale_epochs = self._raises_in_plateau = 0
            return self.rate
        self._stale_epochs += 1
        spent = self._compounding and self._raises_in_plateau == len(RAISE_SCALES)
        if self._stale_epochs < LEGACY_PATIENCE or not small or spent:
            return self.rate
        number = len(self._interventions) + 1
        if self._compounding:
            self._raised_rate = before * COMPOUNDING_SCALE
        else:
            self._raised_rate = self.base_lr * LEGACY_SCALE * (1 + LEGACY_GROWTH * (number - 1))
        self._stale_epochs = 0
        self._raises_in_plateau += 1
        self._interventions.append(
            {
                "epoch": ended,
                "scale": self.rate / before,
                "multiple": self.rate / self.base_lr,
                "rate_before": before,
                "rate_after": self.rate,
                "reason": f"legacy handler, intervention {number}: no improvement and a gradient norm of {norm:.3g}",
            }
        )
        return self.rate

    def rollback(self, state: dict[str, Any]) -> None:
        """Leave the rate where it is: this handler knew no way back."""
        check_state(state, _LEGACY_STATE)

    def forget_best(self) -> None:
        """Start to compare metrics anew."""
        self._base.forget_best()
        self._best = None
        self._stale_epochs = self._raises_in_plateau = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state: plain types that JSON keeps exactly."""
        own = {name: copy_state(getattr(self, f"_{name}")) for name in _LEGACY_STATE if name != "base"}
        return {"base": self._base.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was saved."""
        check_state(state, _LEGACY_STATE)
        self._base.load_state_dict(state["base"])
        for name in _LEGACY_STATE[1:]:
            setattr(self, f"_{name}", copy_state(state[name]))


_LEGACY_STATE = ("base", "best", "stale_epochs", "raises_in_plateau", "raised_rate", "interventions")
