"""The bounded learning-rate controller: warm-up, a base schedule, and raises that cannot run away.

The plateau case is why it exists. There a handler took small gradients for a reason to raise the rate 25 to 92 times,
and its repaired version kept each raised rate as the new base, so that a cap per raise bound nothing. Here every rate is
computed afresh from the configured base rate; the cap binds the rate itself, for the whole run, resumes included; and
gradients are not even an argument.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal

from vesuvius_kit.checks import InputTypeError, InputValueError, check_choice, check_integer, check_real
from vesuvius_kit.config import ScheduleConfig
from vesuvius_kit.config.settings import Schedule
from vesuvius_kit.constants import MAX_FACTOR

# What the rate of each schedule, raises and reductions apart, depends on beside the base rate and the warm-up.
_DEPENDS_ON: dict[str, tuple[str, ...]] = {
    "plateau": ("plateau_factor",),
    "constant": (),
    "cosine": ("n_epochs", "eta_min"),
    "warm_restarts": ("eta_min", "t_0", "t_mult"),
    "polynomial": ("n_epochs", "power"),
}
SCHEDULES = tuple(_DEPENDS_ON)
# The first, second and third raise of one plateau; there is no fourth.
RAISE_SCALES = (2.0, 1.5, 1.2)
RAISE_GROWTH = 0.1
RAISE_GROWTH_MAX = 1.3


class BoundedLR:
    """Learning rate of each epoch: base schedule times raises, always within [`floor`, `max_factor` x `base_lr`].

    Epochs count from 0. `rate` is the rate of the epoch that runs; `step`, called once at its end, goes to the next.

    *Warm-up*: the first `warmup_epochs` climb linearly, epoch e at (e + 1) / (`warmup_epochs` + 1) of the base rate. The
    schedule starts after them and is spread over the epochs that are left.

    *Raises* multiply the schedule's rate. One is made at the end of an epoch when all of this holds: `patience` epochs
    with a finite metric have passed without an improvement by `min_delta`; the epoch is `raise_start_epoch` or later and
    past the warm-up; the caller allows it; the last raise is at least `cooldown` epochs old; the plateau has had fewer
    than three. The first, second and third raise of a plateau multiply by 2.0, 1.5 and 1.2, times a factor of 1.0 for
    the first plateau that is raised, 1.1 for the second, 1.2, then 1.3 for all others. Within a plateau the multipliers
    compound, up to `max_factor`; between plateaus they do not: an improvement ends the plateau, and the rate goes back
    to the schedule's. It also goes back when the last raise (the third, or the one that reached the cap) has brought
    nothing within its cool-down: a raise is a push out of a local minimum, not a new base, and one that did not help is
    not kept. A NaN or infinite metric never raises, is never an improvement, and does not count towards `patience`.
    Small gradients are no reason.

    *Reduce on plateau* (schedule "plateau") multiplies the base by `plateau_factor` whenever more than
    `plateau_patience` epochs after the warm-up had no improvement by the fraction `plateau_threshold` of the best;
    epochs with a metric that is not finite are among them. It makes no raises unless `raises_on_plateau_schedule`.

    Parameters
    ----------
    base_lr
        The configured rate, above 0.
    schedule
        Cosine annealing and warm restarts as in SGDR (Loshchilov and Hutter, ICLR 2017); polynomial as in nnU-Net.
    n_epochs
        Length of the run, warm-up included; "cosine" and "polynomial" end there and stay at their lowest rate.
    warmup_epochs
        Fewer than `n_epochs`; 0 for none.
    eta_min
        Lowest rate of "cosine" and "warm_restarts", at most `base_lr`.
    t_0
        Epochs of the first cycle of "warm_restarts".
    t_mult
        How many times longer each further cycle is.
    power
        Exponent of "polynomial".
    plateau_patience
        Epochs without improvement that "plateau" tolerates.
    plateau_factor
        What "plateau" multiplies by, between 0 and 1.
    plateau_threshold
        Improvement that "plateau" asks for, as a fraction of the best metric.
    mode
        Whether a lower or a higher metric is better.
    patience
        Epochs without an improvement before a raise.
    min_delta
        Improvement that ends a plateau, in units of the metric.
    cooldown
        Epochs that run after a raise before the next may be made.
    raise_start_epoch
        First epoch at whose end a raise may be made.
    raises_on_plateau_schedule
        Whether the "plateau" schedule, which reduces, may be raised as well.
    max_factor
        Cap on the rate in units of `base_lr`, from 1 to 5.
    floor
        Lowest rate, at most `base_lr`.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> controller = vk.BoundedLR(0.001, schedule="constant", patience=3, raise_start_epoch=0)
    >>> [round(controller.step(0.5), 6) for _ in range(5)]  # three epochs without an improvement
    [0.001, 0.001, 0.001, 0.002, 0.002]
    """

    def __init__(
        self,
        base_lr: float,
        *,
        schedule: Schedule = "plateau",
        n_epochs: int = 100,
        warmup_epochs: int = 0,
        eta_min: float = ScheduleConfig.eta_min,
        t_0: int = ScheduleConfig.t_0,
        t_mult: int = ScheduleConfig.t_mult,
        power: float = ScheduleConfig.power,
        plateau_patience: int = ScheduleConfig.plateau_patience,
        plateau_factor: float = ScheduleConfig.plateau_factor,
        plateau_threshold: float = ScheduleConfig.plateau_threshold,
        mode: Literal["min", "max"] = "min",
        patience: int = ScheduleConfig.patience,
        min_delta: float = ScheduleConfig.min_delta,
        cooldown: int = ScheduleConfig.cooldown,
        raise_start_epoch: int = ScheduleConfig.raise_start_epoch,
        raises_on_plateau_schedule: bool = ScheduleConfig.raises_on_plateau_schedule,
        max_factor: float = ScheduleConfig.max_factor,
        floor: float = ScheduleConfig.floor,
    ) -> None:
        self._base_lr = check_real("base_lr", base_lr, above=0.0)
        self._schedule = check_choice("schedule", schedule, SCHEDULES)
        self._n_epochs = check_integer("n_epochs", n_epochs, minimum=1)
        self._warmup_epochs = check_integer("warmup_epochs", warmup_epochs, minimum=0, maximum=n_epochs - 1)
        self._eta_min = check_real("eta_min", eta_min, minimum=0.0)
        if schedule in ("cosine", "warm_restarts"):
            check_real("eta_min", eta_min, maximum=base_lr)
        self._t_0 = check_integer("t_0", t_0, minimum=1)
        self._t_mult = check_integer("t_mult", t_mult, minimum=1)
        self._power = check_real("power", power, above=0.0)
        self._plateau_patience = check_integer("plateau_patience", plateau_patience, minimum=0)
        self._plateau_factor = check_real("plateau_factor", plateau_factor, above=0.0, below=1.0)
        self._plateau_threshold = check_real("plateau_threshold", plateau_threshold, minimum=0.0)
        self._sign = -1.0 if check_choice("mode", mode, ("min", "max")) == "max" else 1.0
        self._patience = check_integer("patience", patience, minimum=1)
        self._min_delta = check_real("min_delta", min_delta, minimum=0.0)
        self._cooldown = check_integer("cooldown", cooldown, minimum=1)
        self._raise_start_epoch = check_integer("raise_start_epoch", raise_start_epoch, minimum=0)
        self._makes_raises = schedule != "plateau" or bool(raises_on_plateau_schedule)
        self._max_factor = check_real("max_factor", max_factor, minimum=1.0, maximum=MAX_FACTOR)
        self._floor = check_real("floor", floor, minimum=0.0, maximum=base_lr)

        self._epoch = 0
        # Improvement by min_delta, for raises.
        self._best: float | None = None
        self._stale_epochs = 0
        self._multiplier = 1.0
        self._raises_in_plateau = 0
        self._raised_plateaus = 0
        self._last_raise_epoch: int | None = None
        # The multiple that is being tried, and those that brought nothing.
        self._trial: float | None = None
        self._failed: list[float] = []
        self._interventions: list[dict[str, Any]] = []
        # Improvement by plateau_threshold, for the reductions of the "plateau" schedule.
        self._reduce_best: float | None = None
        self._reduce_stale_epochs = 0
        self._reductions = 0

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The arguments that the schedule's rate depends on: where one of them changes, a saved state has lost its meaning.

        A longer run is another schedule under "cosine" and "polynomial" only. What concerns raises and the patience of
        reductions is not among them: another value counts from now on.
        """
        return ("base_lr", "schedule", "warmup_epochs", *_DEPENDS_ON[self._schedule])

    @property
    def epoch(self) -> int:
        """The epoch that runs, from 0."""
        return self._epoch

    @property
    def base_lr(self) -> float:
        """The configured rate of the run's first start."""
        return self._base_lr

    @property
    def rate(self) -> float:
        """The rate of the epoch that runs."""
        rate = self._scheduled_rate() * self._multiplier
        return min(max(rate, self._floor), self._max_factor * self._base_lr)

    @property
    def interventions(self) -> list[dict[str, Any]]:
        """Every raise so far: epoch at whose end it was made, scale, multiple, rate_before, rate_after, reason."""
        return copy_state(self._interventions)

    @property
    def best(self) -> float | None:
        """The best metric so far, its sign turned round with mode "max"; None before the first finite one."""
        return self._best

    @property
    def failed(self) -> list[float]:
        """The multiples of the schedule's rate that brought no improvement and are not tried again."""
        return list(self._failed)

    def step(self, metric: float, allow_raise: bool | Callable[[], bool] = True) -> float:
        """End the epoch that runs and return the rate of the next, which is also `rate` from now on.

        Parameters
        ----------
        metric
            What the epoch achieved; may be NaN or infinite.
        allow_raise
            Whether a raise may be made now; what else a raise needs is counted either way. A callable is asked only when
            everything else speaks for a raise.
        """
        if isinstance(metric, bool) or not isinstance(metric, Real):
            raise InputTypeError(f"metric must be a number, got {type(metric).__name__}")
        # From here on lower is better.
        cost = self._sign * float(metric)
        before = self.rate
        self._decide_reduction(cost)
        scale = self._decide_raise(cost, allow_raise)
        ended = self._epoch
        self._epoch += 1
        if scale is not None:
            reason = (
                f"{self._stale_epochs} epochs without an improvement by {self._min_delta:g}: raise "
                f"{self._raises_in_plateau} of at most {len(RAISE_SCALES)} in raised plateau {self._raised_plateaus}"
            )
            self._interventions.append(
                {
                    "epoch": ended,
                    "scale": scale,
                    "multiple": self._multiplier,
                    "rate_before": before,
                    "rate_after": self.rate,
                    "reason": reason,
                }
            )
        return self.rate

    def rollback(self, state: dict[str, Any]) -> None:
        """Go back to an earlier state of this run without forgetting what was learned since.

        The raise that stands is taken back, down to the earlier state's, and counts as failed unless it had brought an
        improvement. All else goes on: the epoch, the base rate and with it the cap, the interventions, what failed, the
        raises this plateau has had, the reductions, and the counters of patience. So a rollback never raises the rate
        of the epoch that runs.

        ``state`` is what `state_dict` returned at the time the run goes back to.
        """
        check_state(state, _STATE)
        then = check_real("multiplier of the learning-rate state", state["multiplier"], minimum=1.0, maximum=MAX_FACTOR)
        if self._multiplier > then:
            self._multiplier = then
            self._mark_trial_failed()

    def forget_best(self) -> None:
        """Start to compare metrics anew, for example because the weights of the loss have changed.

        The plateau ends as with an improvement, but the raise that stands counts neither as failed nor as a success.
        """
        self._best = self._reduce_best = self._trial = None
        self._stale_epochs = self._reduce_stale_epochs = self._raises_in_plateau = 0
        self._multiplier = 1.0

    def _scheduled_rate(self) -> float:
        """The rate of this epoch before raises and bounds."""
        base = self._base_lr
        if self._epoch < self._warmup_epochs:
            return base * (self._epoch + 1) / (self._warmup_epochs + 1)
        epoch = self._epoch - self._warmup_epochs
        length = self._n_epochs - self._warmup_epochs
        # A base that was restored from another run may lie below eta_min.
        eta_min = min(self._eta_min, base)
        if self._schedule == "plateau":
            return base * self._plateau_factor**self._reductions
        if self._schedule == "cosine":
            return _anneal(base, eta_min, min(epoch / length, 1.0))
        if self._schedule == "polynomial":
            return base * max(0.0, 1.0 - epoch / length) ** self._power
        if self._schedule == "warm_restarts":
            cycle = self._t_0
            while epoch >= cycle:
                epoch -= cycle
                cycle *= self._t_mult
            return _anneal(base, eta_min, epoch / cycle)
        return base

    def _decide_reduction(self, cost: float) -> None:
        if self._schedule != "plateau" or self._epoch < self._warmup_epochs:
            return
        best = self._reduce_best
        if math.isfinite(cost) and (best is None or cost < best - self._plateau_threshold * abs(best)):
            self._reduce_best = cost
            self._reduce_stale_epochs = 0
            return
        self._reduce_stale_epochs += 1
        if self._reduce_stale_epochs > self._plateau_patience:
            self._reductions += 1
            self._reduce_stale_epochs = 0

    def _decide_raise(self, cost: float, allow_raise: bool | Callable[[], bool]) -> float | None:
        """Return the scale of the raise that is made now, or None."""
        age = math.inf if self._last_raise_epoch is None else self._epoch - self._last_raise_epoch
        improved = math.isfinite(cost) and (
            self._best is None or (cost < self._best and self._best - cost >= self._min_delta)
        )
        if age > self._cooldown or (age == self._cooldown and not improved):
            self._mark_trial_failed()
        if not math.isfinite(cost):
            return None
        if improved:
            self._best = cost
            self._stale_epochs = 0
            self._multiplier = 1.0
            self._raises_in_plateau = 0
            self._trial = None
            return None
        self._stale_epochs += 1
        if self._stale_epochs < self._patience or age < self._cooldown:
            return None
        too_early = self._epoch < max(self._raise_start_epoch, self._warmup_epochs)
        raised = self._next_multiplier()
        if raised is None:
            self._raises_in_plateau = len(RAISE_SCALES)
        sensible = raised is not None and not too_early and self._makes_raises
        if raised is None or not sensible or not (allow_raise() if callable(allow_raise) else allow_raise):
            # The last raise, if there was one, has failed: what it did not bring, keeping it will not.
            self._multiplier = 1.0
            return None
        scale = raised / self._multiplier
        self._raised_plateaus += self._raises_in_plateau == 0
        self._multiplier = self._trial = raised
        self._raises_in_plateau += 1
        self._last_raise_epoch = self._epoch
        return scale

    def _next_multiplier(self) -> float | None:
        """The multiple that the plateau's next raise would reach; None when it has had its raises or they failed before."""
        if self._raises_in_plateau == len(RAISE_SCALES) or self._multiplier >= self._max_factor:
            return None
        plateaus = self._raised_plateaus + (self._raises_in_plateau == 0)
        growth = min(1.0 + RAISE_GROWTH * (plateaus - 1), RAISE_GROWTH_MAX)
        raised = min(self._multiplier * RAISE_SCALES[self._raises_in_plateau] * growth, self._max_factor)
        return None if any(math.isclose(raised, multiple) for multiple in self._failed) else raised

    def _mark_trial_failed(self) -> None:
        """The raise that was being tried has brought nothing."""
        if self._trial is not None:
            self._failed.append(self._trial)
            self._trial = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state: plain types that JSON keeps exactly, without NaN or infinity.

        It holds `base_lr` and all that `step` changes. The other settings belong to the configuration.
        """
        return {name: copy_state(getattr(self, f"_{name}")) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was saved; with the same settings the trajectory is identical.

        The base rate of the state, the one the run was first started with, replaces the one this object was made with:
        a resume cannot move the cap.

        Raises
        ------
        InputValueError
            Keys that are missing or unknown, or a base rate below the floor.
        """
        check_state(state, _STATE)
        check_real("base_lr of the learning-rate state", state["base_lr"], above=0.0, minimum=self._floor)
        check_real("multiplier of the learning-rate state", state["multiplier"], minimum=1.0, maximum=MAX_FACTOR)
        check_integer("epoch of the learning-rate state", state["epoch"], minimum=0)
        for name in _STATE:
            setattr(self, f"_{name}", copy_state(state[name]))


_STATE = (
    "base_lr",
    "epoch",
    "best",
    "stale_epochs",
    "multiplier",
    "raises_in_plateau",
    "raised_plateaus",
    "last_raise_epoch",
    "trial",
    "failed",
    "interventions",
    "reduce_best",
    "reduce_stale_epochs",
    "reductions",
)


def copy_state(value: Any) -> Any:
    """Return a copy of a scalar, or of a list of scalars or flat dicts; quick, unlike deepcopy."""
    if isinstance(value, list):
        return [dict(entry) if isinstance(entry, dict) else entry for entry in value]
    return value


def check_state(state: Any, names: tuple[str, ...]) -> None:
    """Raise unless a saved state is a mapping with exactly these keys."""
    if not isinstance(state, dict):
        raise InputTypeError(f"learning-rate state must be a mapping, got {type(state).__name__}")
    if set(state) != set(names):
        wrong = ", ".join(sorted(set(state) ^ set(names)))
        raise InputValueError(f"learning-rate state must have the keys of state_dict, differs in {wrong}")


def _anneal(highest: float, lowest: float, progress: float) -> float:
    """Half a cosine wave from `highest` at progress 0 to `lowest` at 1."""
    return lowest + (highest - lowest) * (1.0 + math.cos(math.pi * progress)) / 2.0
