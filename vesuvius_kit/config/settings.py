"""Every setting of a run with its default, unit and limits; a YAML file holds only what differs.

Nothing here loads torch or numba, so that ``--help`` stays instant. Functions that share a default with a setting refer to
the field, as in ``overlap: float = PredictConfig.overlap``.
"""

import dataclasses
import itertools
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

from vesuvius_kit.checks import InputValueError, check_choice, check_duration, check_integer, check_real, check_size
from vesuvius_kit.constants import MAX_FACTOR

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Size = tuple[int, int, int]
"""Edges in voxels, (z, y, x). In a file or on the command line a single edge stands for three."""
TTA = Literal["auto", "none", "mirror4", "mirror", "seven", "cubic"]
"""Presets of test-time augmentation."""
Schedule = Literal["constant", "cosine", "warm_restarts", "polynomial", "plateau"]
Points = list[tuple[int, float]]
"""(epoch, weight) in rising order."""


class UnusedSettingError(InputValueError):
    """A setting that was given and can have no effect beside the others.

    Parameters
    ----------
    key
        Its dotted name.
    because
        Dotted names of the settings that take its effect away.
    unused
        The value that says the same without pretending to do anything.
    """

    def __init__(self, key: str, because: tuple[str, ...], unused: Any, message: str) -> None:
        super().__init__(message)
        self.key, self.because, self.unused = key, because, unused


def _refuse_unused(section: str, settings: Any, names: Iterable[str], used_with: str, because: tuple[str, ...]) -> None:
    """Raise if one of the settings ``names`` of a section was given although only ``used_with`` would use it."""
    defaults = {entry.name: entry.default for entry in dataclasses.fields(settings)}
    for name in names:
        value = getattr(settings, name)
        if value != defaults[name]:
            key = f"{section}.{name}"
            raise UnusedSettingError(
                key, because, defaults[name], f"{key} must be left out, since only {used_with} uses it, got {value!r}"
            )


def _check_choices(section: str, settings: Any) -> None:
    """Raise unless every setting with a literal type has one of its values: a configuration may be built in Python too."""
    for name, kind in typing.get_type_hints(type(settings)).items():
        if typing.get_origin(kind) is Literal:
            check_choice(f"{section}.{name}", getattr(settings, name), typing.get_args(kind))


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "unet3d"
    """A name of `vesuvius_kit.models.list_models`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of that model, for example ``{"initial_filters": 16}``."""
    normalisation: Literal["volume"] = "volume"
    """``volume``: z-score by the volume's own mean and deviation. It is stored with the weights."""


@dataclass(frozen=True)
class LossConfig:
    """The weighted loss; a weight of 0 switches a component off."""

    dice_weight: float = 0.5
    """Overlap of prediction and surface."""
    cross_entropy_weight: float = 0.5
    """Plain cross-entropy."""
    focal_weight: float = 0.0
    """Cross-entropy that fades where the network is sure."""
    boundary_weight: float = 0.0
    """Cross-entropy near the boundary of the surface."""
    variance_weight: float = 0.0
    """The term of the plateau case that rewards uncertainty; kept for study."""
    cldice_weight: float = 0.0
    """Centreline Dice."""
    connectivity_weight: float = 0.0
    """Difference of the max-pooled masks."""
    focal_gamma: float = 2.0
    """Exponent of the focal term."""
    focal_alpha: float = 0.35
    """Weight of the surface in the focal term, in [0, 1]."""
    class_weights: tuple[float, float] = (1.0, 1.5)
    """Background and surface, in the focal term only."""
    schedule: dict[str, Points] = field(default_factory=dict)
    """Weights that change over the epochs: the name of a weight above to points (epoch, weight) in rising order. Epochs
    are those of the log, counted from 0 and on through a resume; before its first point a weight has its plain
    value."""
    schedule_kind: Literal["step", "linear"] = "step"
    """``step``: each point's weight holds until the next; ``linear``: straight lines between the points."""

    def __post_init__(self) -> None:
        _check_choices("loss", self)
        for name, weight in self.weights().items():
            check_real(f"loss.{name}_weight", weight, minimum=0)
        for name, points in self.schedule.items():
            if name.removesuffix(_WEIGHT) not in self.weights() or not name.endswith(_WEIGHT):
                raise InputValueError(f"loss.schedule must name weights such as variance_weight, got {name}")
            _check_points(f"loss.schedule.{name}", points)
        # Between two points the sum is a mixture of the sums there: none is 0 if these are not.
        for epoch in sorted({0, *(epoch for points in self.schedule.values() for epoch, _ in points)}):
            if not any(self.weights(epoch).values()):
                raise InputValueError(f"loss must have at least one weight > 0, got all 0 in epoch {epoch}")
        check_real("loss.focal_gamma", self.focal_gamma, minimum=0)
        check_real("loss.focal_alpha", self.focal_alpha, minimum=0, maximum=1)
        for index, weight in enumerate(self.class_weights):
            check_real(f"loss.class_weights[{index}]", weight, minimum=0)
        self._check_use()

    def _check_use(self) -> None:
        defaults = type(self).__dataclass_fields__
        for name, points in self.schedule.items():
            plain = getattr(self, name)
            if points[0][0] == 0 and plain not in (points[0][1], defaults[name].default):
                key = f"loss.{name}"
                raise UnusedSettingError(
                    key, ("loss.schedule",), defaults[name].default,
                    f"{key} must be left out, since loss.schedule.{name} begins with epoch 0, got {plain!r}",
                )  # fmt: skip
        if not self.schedule:
            _refuse_unused("loss", self, ["schedule_kind"], "loss.schedule", ("loss.schedule",))
        points = self.schedule.get("focal_weight", [])
        if not self.focal_weight and not any(weight for _, weight in points):
            names = ("focal_gamma", "focal_alpha", "class_weights")
            because = ("loss.focal_weight", "loss.schedule")
            _refuse_unused("loss", self, names, "a loss.focal_weight above 0", because)
        elif not any((self.class_weights[0] * (1 - self.focal_alpha), self.class_weights[1] * self.focal_alpha)):
            raise InputValueError(
                "loss.class_weights and loss.focal_alpha must leave one class a weight above 0, got "
                f"{list(self.class_weights)} and {self.focal_alpha}"
            )

    def weights(self, epoch: int | None = None) -> dict[str, float]:
        """Return the weight of each component by its name, as the schedule has it in an epoch; None for the plain weights."""
        names = [entry.name for entry in dataclasses.fields(self) if entry.name.endswith(_WEIGHT)]
        weights = {name: getattr(self, name) for name in names}
        if epoch is not None:
            for name, points in self.schedule.items():
                weights[name] = _follow(points, epoch, weights[name], self.schedule_kind)
        return {name.removesuffix(_WEIGHT): weight for name, weight in weights.items()}


_WEIGHT = "_weight"


def _check_points(name: str, points: Points) -> None:
    if not points:
        raise InputValueError(f"{name} must have at least one point (epoch, weight), got none")
    for epoch, weight in points:
        check_integer(f"epoch in {name}", epoch, minimum=0)
        check_real(f"weight in {name}", weight, minimum=0)
    epochs = [epoch for epoch, _ in points]
    if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
        raise InputValueError(f"epochs in {name} must rise, got {epochs}")


def _follow(points: Points, epoch: int, plain: float, kind: str) -> float:
    """The scheduled weight of an epoch; ``plain`` before the first point."""
    passed = [point for point in points if point[0] <= epoch]
    if not passed:
        return plain
    start, weight = passed[-1]
    if kind == "linear" and len(passed) < len(points):
        end, next_weight = points[len(passed)]
        return weight + (next_weight - weight) * (epoch - start) / (end - start)
    return weight


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves; see `vesuvius_kit.training.learning_rate.BoundedLR`."""

    schedule: Schedule = "polynomial"
    """The base schedule."""
    warmup_epochs: int = 2
    """Epochs of linear warm-up."""
    eta_min: float = 1e-6
    """Of cosine and warm_restarts: the lowest rate."""
    t_0: int = 10
    """Of warm_restarts: epochs of the first cycle."""
    t_mult: int = 2
    """Of warm_restarts: growth of each next cycle."""
    power: float = 0.9
    """Of polynomial: the exponent."""
    plateau_patience: int = 5
    """Of plateau: epochs without an improvement that are tolerated before a reduction."""
    plateau_factor: float = 0.5
    """Of plateau: what a reduction multiplies the rate by."""
    plateau_threshold: float = 0.001
    """Of plateau: what counts as an improvement, as a fraction of the best validation loss."""
    allow_raise: bool = True
    """Whether a plateau may raise the rate at all."""
    raises_on_plateau_schedule: bool = False
    """Whether it may do so under the schedule plateau, which reduces."""
    patience: int = 5
    """Epochs without an improvement before a raise."""
    min_delta: float = 0.002
    """What counts as an improvement of the validation loss for that."""
    cooldown: int = 5
    """Epochs after a raise before the next."""
    raise_start_epoch: int = 15
    """No raise before this epoch, counted from 0."""
    max_factor: float = MAX_FACTOR
    """The rate never passes this many times the base, over the whole run; at most 5."""
    floor: float = 1e-7
    """The rate never falls below this."""

    def __post_init__(self) -> None:
        _check_choices("lr", self)
        for name in ("warmup_epochs", "plateau_patience", "raise_start_epoch"):
            check_integer(f"lr.{name}", getattr(self, name), minimum=0)
        for name in ("t_0", "t_mult", "patience", "cooldown"):
            check_integer(f"lr.{name}", getattr(self, name), minimum=1)
        for name in ("eta_min", "plateau_threshold", "min_delta", "floor"):
            check_real(f"lr.{name}", getattr(self, name), minimum=0)
        check_real("lr.power", self.power, above=0)
        check_real("lr.plateau_factor", self.plateau_factor, above=0, below=1)
        check_real("lr.max_factor", self.max_factor, minimum=1, maximum=MAX_FACTOR)
        self._check_use()

    def _check_use(self) -> None:
        for names, schedules in (
            (("eta_min",), ("cosine", "warm_restarts")),
            (("t_0", "t_mult"), ("warm_restarts",)),
            (("power",), ("polynomial",)),
            (("plateau_patience", "plateau_factor", "plateau_threshold"), ("plateau",)),
            (("raises_on_plateau_schedule",), ("plateau",)),
        ):
            if self.schedule not in schedules:
                _refuse_unused("lr", self, names, f"lr.schedule {' or '.join(schedules)}", ("lr.schedule",))
        of_raises = ("patience", "min_delta", "cooldown", "raise_start_epoch")
        if not self.allow_raise:
            unused = ("raises_on_plateau_schedule", *of_raises)
            _refuse_unused("lr", self, unused, "lr.allow_raise true", ("lr.allow_raise",))
        if self.schedule == "plateau" and not self.raises_on_plateau_schedule:
            because = ("lr.schedule", "lr.raises_on_plateau_schedule")
            _refuse_unused("lr", self, of_raises, "lr.raises_on_plateau_schedule true", because)
        if self.max_factor == 1:
            unused = ("raises_on_plateau_schedule", *of_raises)
            _refuse_unused("lr", self, unused, "an lr.max_factor above 1", ("lr.max_factor",))


@dataclass(frozen=True)
class PatchConfig:
    """Which pieces of the volumes the network trains on."""

    size: Size = (128, 128, 128)
    """Patch edges in voxels, (z, y, x)."""
    per_volume: int = 4
    """Patches taken from a volume once it is decoded."""
    surface_fraction: float = 0.5
    """Share of patches centred on a surface voxel."""
    max_unlabelled_fraction: float = 0.9
    """Patches with a larger share of label 2 are drawn again."""
    cache_volumes: int = 4
    """Decoded volumes held in memory by each loader process."""
    augmentation: Literal["none", "symmetries", "light"] = "light"
    """``none``, ``symmetries`` (the 16 that keep z) or ``light`` (with grey-value changes too)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_size("patches.size", self.size))
        _check_choices("patches", self)
        check_integer("patches.per_volume", self.per_volume, minimum=1)
        check_integer("patches.cache_volumes", self.cache_volumes, minimum=1)
        check_real("patches.surface_fraction", self.surface_fraction, minimum=0, maximum=1)
        check_real("patches.max_unlabelled_fraction", self.max_unlabelled_fraction, minimum=0, maximum=1)


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    learning_rate: float = 1e-3
    """Of AdamW; the base of the bounded controller."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    num_epochs: int = 100
    """Length of the run."""
    steps_per_epoch: int = 250
    """Batches in an epoch."""
    batch_size: int = 2
    """Patches in a batch of the run. Several processes share it in equal parts, so it must be divisible by their
    number, which does not change what is computed."""
    gradient_clip: float = 2.0
    """Largest norm of the gradient."""
    early_stopping_patience: int = 0
    """Epochs without a better validation loss or score after which the run ends; 0 never stops early."""
    validation_patches: int = 16
    """Fixed patches on which the validation loss is taken after every epoch."""
    score_every_epochs: int = 5
    """Whole validation volumes are predicted and scored after every so many epochs, and after the last."""
    validation_volumes: int = 4
    """How many of them, spread evenly over the fold; 0 means all."""
    precision: Precision = "auto"
    """``auto`` takes the fastest type: timed once a run on a CPU, by capability on a GPU; a run that goes on keeps its
    own."""
    num_workers: int = 2
    """Loader processes."""
    seed: int = 0
    """Of weights, patches and augmentation."""
    swa_start_epoch: int = 0
    """From this epoch on, counted from 0, the weights are averaged (stochastic weight averaging); 0 is off."""
    swa_every_epochs: int = 5
    """Every so many epochs the weights go into the mean."""
    swa_learning_rate: float | None = 5e-5
    """The constant rate while weights are averaged, at most ``lr.max_factor`` times the base; None for the schedule's. Nothing
    raises it."""
    gradient_diagnostics_every_epochs: int = 5
    """Every so many epochs the gradients of the loss components and the output are looked at on fixed patches, for the
    log and the diagnosis; 0 never. It changes nothing that is computed."""
    save_every_steps: int = 0
    """A checkpoint is written after so many steps within an epoch too, so that a kill costs no more than these; 0 only
    after every epoch. It changes nothing that is computed."""
    rollback_tolerance: float = 0.15
    """The run goes back to its best state when the validation loss is worse than the best by more than this fraction of
    it; 0 never."""
    rollback_rising_epochs: int = 5
    """It also goes back when the validation loss has risen for so many epochs in a row; 0 never. Neither happens during
    warm-up, nor under the schedule ``warm_restarts``, whose restarts are meant to lose the best for a time."""
    max_rollbacks: int = 3
    """A run goes back this often at most."""
    budget: str | None = None
    """Wall time of one start, such as ``11h``: no epoch begins that would not end in it, and the same command goes on
    another time; None without a limit. It changes nothing that is computed."""

    def __post_init__(self) -> None:
        _check_choices("train", self)
        check_real("train.learning_rate", self.learning_rate, above=0)
        check_real("train.weight_decay", self.weight_decay, minimum=0)
        check_real("train.gradient_clip", self.gradient_clip, above=0)
        for name in ("num_epochs", "steps_per_epoch", "batch_size", "validation_patches", "score_every_epochs"):
            check_integer(f"train.{name}", getattr(self, name), minimum=1)
        from_zero = ("early_stopping_patience", "validation_volumes", "num_workers", "seed", "swa_start_epoch")
        switches = ("gradient_diagnostics_every_epochs", "save_every_steps", "rollback_rising_epochs", "max_rollbacks")
        for name in from_zero + switches:
            check_integer(f"train.{name}", getattr(self, name), minimum=0)
        check_real("train.rollback_tolerance", self.rollback_tolerance, minimum=0)
        check_integer("train.swa_every_epochs", self.swa_every_epochs, minimum=1)
        if self.swa_learning_rate is not None:
            check_real("train.swa_learning_rate", self.swa_learning_rate, above=0)
        if self.budget is not None:
            check_duration("train.budget", self.budget)
        if not self.swa_start_epoch:
            names = ("swa_every_epochs", "swa_learning_rate")
            _refuse_unused("train", self, names, "a train.swa_start_epoch above 0", ("train.swa_start_epoch",))
        rollback_rules = ("rollback_tolerance", "rollback_rising_epochs")
        if not any(getattr(self, name) for name in rollback_rules):
            because = tuple(f"train.{name}" for name in rollback_rules)
            _refuse_unused("train", self, ["max_rollbacks"], f"one of {' and '.join(because)} above 0", because)
        if not self.max_rollbacks:
            unused = [name for name in rollback_rules if getattr(self, name)]
            _refuse_unused("train", self, unused, "a train.max_rollbacks above 0", ("train.max_rollbacks",))


@dataclass(frozen=True)
class PredictConfig:
    """Sliding-window inference."""

    window: Size = (0, 0, 0)
    """Window edges in voxels, (z, y, x); (0, 0, 0) means the patch size of the training."""
    overlap: float = 0.5
    """Smallest share of a window that the next one covers again, in [0, 1)."""
    batch_size: int = 2
    """Windows in one forward pass. A single one, which is what other tools take, costs CPUs up to six times as much each: torch
    then leaves small convolutions to its slow kernel."""
    tta: TTA = "auto"
    """Test-time augmentation: ``none``, ``mirror4`` (flips of y and x), ``mirror`` (8 flips), ``seven`` (3 flips, 3 quarter
    turns about z, none), ``cubic`` (48 symmetries), or ``auto``: what the model's rules say; none for the kit's own."""
    precision: Precision = "auto"
    """As in training."""
    device: str = "auto"
    """``auto``, or a torch device such as ``cuda:1``; for training too, where each of several processes needs its own."""
    weights: dict[str, float] = field(default_factory=dict)
    """What each network of an ensemble counts relative to the others, by the digest of its weights, which ``run.json`` and
    ``settings.json`` show; 0 leaves it out. Every network must be named, or none: then all count the same."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", check_size("predict.window", self.window, minimum=0))
        _check_choices("predict", self)
        if any(self.window) and not all(self.window):
            raise InputValueError(
                "predict.window must be three edges above 0, or [0, 0, 0] for the patch size of the training, got "
                f"{list(self.window)}"
            )
        check_real("predict.overlap", self.overlap, minimum=0, below=1)
        check_integer("predict.batch_size", self.batch_size, minimum=1)
        self._check_weights()
        if self.tta == "cubic" and len(set(self.window)) > 1:
            raise InputValueError(f"predict.window must be a cube for predict.tta cubic, got {list(self.window)}")
        if self.tta == "seven" and self.window[1] != self.window[2]:
            raise InputValueError(
                f"predict.window must be square in y and x for predict.tta seven, got {list(self.window)}"
            )

    def _check_weights(self) -> None:
        for digest, weight in self.weights.items():
            if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{16}", digest):
                raise InputValueError(
                    f"predict.weights must name networks by digests, texts of 16 digits among 0-9 and a-f, got {digest!r}"
                )
            check_real(f"predict.weights.{digest}", weight, minimum=0)
        if self.weights and not any(self.weights.values()):
            raise InputValueError("predict.weights must leave a network with a weight above 0, got 0 for all")


@dataclass(frozen=True)
class PostprocessConfig:
    """Probability to mask; see `vesuvius_kit.postprocess.make_mask`."""

    pipeline: str = field(default="sheet_repair", metadata={"is_path": True})
    """A preset such as ``sheet_repair`` or ``public``, or a YAML file of steps. In a settings file its path may start from that
    file's folder."""
    steps: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"belongs_to": "pipeline"})
    """Parameters that replace those of the pipeline, by step: ``{"hysteresis_threshold": {"t_low": 0.3}}``. A step that the
    pipeline does not have, or a parameter that the step does not take, is refused."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> config = vk.RunConfig(data="competition", folds=[0, 2])
    >>> config.train.learning_rate, config.predict.tta, config.postprocess.pipeline
    (0.001, 'auto', 'sheet_repair')
    """

    data: str = ""
    """Competition folder."""
    output: str = "checkpoints"
    """Folder of the run; fold K goes to ``fold_K`` in it."""
    folds: int | list[int] = field(default_factory=lambda: [0])
    """Which folds are trained, one after the other; a single index is taken as a list of one."""
    n_folds: int = 5
    """Into how many scroll-grouped folds the training chunks are split; at most the number of scrolls."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The weighted loss."""
    lr: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How the learning rate moves."""
    patches: PatchConfig = field(default_factory=PatchConfig)
    """Which pieces of the volumes the network trains on."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    predict: PredictConfig = field(default_factory=PredictConfig)
    """Sliding-window inference."""
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    """Probability to mask."""

    def __post_init__(self) -> None:
        check_integer("n_folds", self.n_folds, minimum=2)
        folds = [self.folds] if isinstance(self.folds, Integral) else list(self.folds)  # type: ignore[arg-type]
        for fold in folds:
            check_integer("folds", fold, minimum=0, maximum=self.n_folds - 1)
        if not folds or len(set(folds)) < len(folds):
            raise InputValueError(f"folds must name at least one fold, each once, got {folds}")
        object.__setattr__(self, "folds", folds)
        if not self.output:
            raise InputValueError("output must name a folder, got nothing")
        self._check_rates()
        self._check_length()
        self._check_rollbacks()

    @property
    def fold_list(self) -> list[int]:
        """The folds as a list."""
        return [self.folds] if isinstance(self.folds, int) else self.folds

    def _check_rates(self) -> None:
        train, lr = self.train, self.lr
        check_real("lr.floor", lr.floor, maximum=train.learning_rate)
        if lr.schedule in ("cosine", "warm_restarts"):
            check_real("lr.eta_min", lr.eta_min, maximum=train.learning_rate)
        if train.swa_start_epoch and train.swa_learning_rate is not None:
            check_real("train.swa_learning_rate", train.swa_learning_rate, maximum=lr.max_factor * train.learning_rate)

    def _check_length(self) -> None:
        """What is to happen in an epoch that the run does not have."""
        epochs, because = self.train.num_epochs, ("train.num_epochs",)
        if self.lr.warmup_epochs >= epochs:
            raise InputValueError(
                f"lr.warmup_epochs must be below train.num_epochs, {epochs}, got {self.lr.warmup_epochs}"
            )
        if self.train.swa_start_epoch >= epochs:
            raise UnusedSettingError(
                "train.swa_start_epoch", because, 0,
                f"train.swa_start_epoch must be below train.num_epochs, {epochs}, or 0 for no averaging, got "
                f"{self.train.swa_start_epoch}",
            )  # fmt: skip
        reached = {name: self._reached(points) for name, points in self.loss.schedule.items()}
        for name, points in self.loss.schedule.items():
            if len(reached[name]) < len(points):
                epoch, weight = points[len(reached[name])]
                raise UnusedSettingError(
                    "loss.schedule", because, {name: points for name, points in reached.items() if points},
                    f"loss.schedule.{name} must end with the {epochs} epochs of the run, got [{epoch}, {weight}]",
                )  # fmt: skip

    def _reached(self, points: Points) -> Points:
        """The points that have an effect: a straight line to a later epoch begins within the run."""
        inside = [point for point in points if point[0] < self.train.num_epochs]
        line = self.loss.schedule_kind == "linear" and inside and inside[-1][0] < self.train.num_epochs - 1
        return points[: len(inside) + bool(line)]

    def _check_rollbacks(self) -> None:
        if self.lr.schedule == "warm_restarts":
            names = ("rollback_tolerance", "rollback_rising_epochs", "max_rollbacks")
            given = [name for name in names if getattr(self.train, name)]
            _refuse_unused("train", self.train, given, "a schedule without warm restarts", ("lr.schedule",))
