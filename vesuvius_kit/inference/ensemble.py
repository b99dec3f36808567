"""The networks of some checkpoints as one: which files they are, how each wants its windows, the mean of their answers."""

import copy
import gc
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vesuvius_kit.checks import InputValueError, describe_error, one_line
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.config.settings import TTA
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.inference.averaging import ProbabilityMean, whole_weights
from vesuvius_kit.inference.grid import count_windows
from vesuvius_kit.inference.ladder import Rung
from vesuvius_kit.inference.precision import Precision, choose_precision
from vesuvius_kit.inference.predict import (
    NotFiniteError,
    OutOfTimeError,
    check_divisible,
    choose_device,
    predict_volume,
)
from vesuvius_kit.inference.stages import SpoiltProcessError
from vesuvius_kit.inference.tta import count_views
from vesuvius_kit.models import SegmentationModel
from vesuvius_kit.models.weights import (
    WeightsFile,
    are_the_same,
    find_weights,
    inspect_weights,
    load_weights,
    read_size_divisors,
    share_weights,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberReport:
    """What one network did for one volume."""

    number: int
    """Of the network, from 0 in the order in which the checkpoints were given."""
    digest: str
    """Of its weights."""
    tta: TTA
    """Name of its test-time augmentation."""
    views: int
    """Of each window."""
    window: tuple[int, ...]
    """Edges in voxels."""
    n_windows: int
    """Of the volume."""
    seconds: float
    """Wall time."""


@dataclass
class Answer:
    """What the networks of a plan said of one volume."""

    probability: NDArray[np.float32] | None = None
    """The mean of those that answered, (Z, Y, X) in [0, 1]; None: none did."""
    members: list[MemberReport] = field(default_factory=list)
    """Those that answered."""
    faults: dict[int, str] = field(default_factory=dict)
    """Why the others did not, by number."""
    is_late: bool = False
    """Whether the time was over before all had been asked."""


class _Question(NamedTuple):
    """What is asked of each network about one volume."""

    name: str
    """Of the volume, in messages."""
    volume: NDArray[Any]
    """(Z, Y, X)."""
    overlap: float
    deadline: float | None = None
    progress: Progress = no_progress


class Ensemble:
    """The networks of some checkpoints with the settings they predict under; each is loaded when it is first used.

    They are numbered from 0 in the order in which they were given, those of weight 0 left out.
    """

    def __init__(self, checkpoints: Iterable[Path | str], predict: PredictConfig) -> None:
        files = [inspect_weights(path) for path in find_weights(checkpoints)]
        _refuse_duplicates(files)
        shares = share_weights(files, predict.weights)
        for file, share in zip(files, shares):
            if not share:
                logger.info("weights %s (%s) count 0 and are left out", file.path, file.digest)
        files = [file for file, share in zip(files, shares) if share]
        self.weights = whole_weights([share for share in shares if share])
        """What each network counts in the mean, relative to the others."""
        self.paths = [file.path for file in files]
        self.digests = [file.digest for file in files]
        self._rules = [file.rules for file in files]
        self.predict_settings = predict
        choose_device(predict.device)
        self.windows: list[tuple[int, ...]] = [
            tuple(predict.window) if all(predict.window) else _trained_window(file) for file in files
        ]
        if all(predict.window):
            # That of the training fits.
            for file, window in zip(files, self.windows):
                check_divisible(window, read_size_divisors(file), f"the network of {file.path}")
        for path, digest, window in zip(self.paths, self.digests, self.windows):
            logger.info("weights %s (%s), window %s", path, digest, "x".join(map(str, window)))
        self._threads = torch.get_num_threads()
        self._models: dict[int, SegmentationModel] = {}

    @property
    def is_weighted(self) -> bool:
        """Whether some networks count more than others."""
        return len(set(self.weights)) > 1

    @property
    def shares(self) -> list[float]:
        """The part of each network in the mean; their sum is 1."""
        return [weight / sum(self.weights) for weight in self.weights]

    @property
    def settings(self) -> dict[str, Any]:
        """What is noted beside the results. Without device, precision and batch size: another machine may go on.

        In an order of its own, since it does not matter in which order the networks were given.
        """
        order = sorted(range(len(self.paths)), key=lambda number: (self.digests[number], self.paths[number]))
        windows = [list(self.windows[number]) for number in order]
        is_one = len(set(self.windows)) == 1
        return {
            "weights": [self.digests[number] for number in order],
            **({"shares": [round(self.shares[number], 6) for number in order]} if self.is_weighted else {}),
            **({"window": windows[0]} if is_one else {"windows": windows}),
            "overlap": self.predict_settings.overlap,
            "tta": self.predict_settings.tta,
        }

    @property
    def whole(self) -> Rung:
        """The plan that was asked for: every network, with all its views and the whole overlap."""
        settings = self.predict_settings
        return Rung(tuple((number, settings.tta) for number in range(len(self.paths))), settings.overlap)

    def log_mean(self) -> None:
        """Say that the networks are averaged, and what each counts where that differs."""
        if len(self.paths) > 1:
            parts = ", weighted by " + ", ".join(f"{share:.3f}" for share in self.shares) if self.is_weighted else ""
            logger.info("the probabilities of these %d networks are averaged%s", len(self.paths), parts)

    def at(self, precision: Precision) -> "Ensemble":
        """Return the same ensemble in a precision that has been chosen, for every process that shares the work."""
        other = copy.copy(self)
        other.predict_settings = replace(self.predict_settings, precision=precision.name)
        return other

    def on(self, device: str) -> "Ensemble":
        """Return the same ensemble for another device, its networks not loaded."""
        other = copy.copy(self)
        other.predict_settings = replace(self.predict_settings, device=device)
        other._models = {}
        return other

    def count_windows(self, shape: Sequence[int], number: int, overlap: float) -> int:
        """Return the windows of a network in a volume."""
        rules = self._rules[number]
        turned = [shape[axis] for axis in rules.transpose]
        return count_windows(turned, self.windows[number], overlap, rules.grid)

    def count_views(self, number: int, tta: TTA) -> int:
        """Return the views of each window of a network under a name of test-time augmentation."""
        return count_views(tta, self._rules[number].mirror_axes)

    def predict(
        self,
        name: str,
        volume: NDArray[Any],
        deadline: float | None = None,
        progress: Progress = no_progress,
        *,
        numbers: Collection[int] | None = None,
    ) -> NDArray[np.float32]:
        """Return the weighted mean probability of a volume, (Z, Y, X) in [0, 1]; ``name`` is its id in messages.

        With ``numbers`` only these networks are asked, and the others let go of their memory. Whatever keeps a network from its
        answer is raised.
        """
        question, mean = _Question(name, volume, self.whole.overlap, deadline, progress), ProbabilityMean()
        if numbers is not None:
            self._models = {number: model for number, model in self._models.items() if number in numbers}
        for number, tta in self.whole.members:
            if numbers is None or number in numbers:
                mean.add(self._ask(question, number, tta)[0], self.weights[number])
        return mean.mean()

    def answer(
        self,
        name: str,
        volume: NDArray[Any],
        rung: Rung,
        *,
        deadline: float | None = None,
        make_room: Callable[[], None] | None = None,
        progress: Progress = no_progress,
    ) -> Answer:
        """Return the mean of the networks of a plan that can be had: a network that fails is left out, with the reason.

        Parameters
        ----------
        name
            The volume's id in messages.
        volume
            (Z, Y, X).
        rung
            The plan, with at least one network.
        deadline
            A reading of `time.monotonic` after which no window is started: what was complete by then is the answer.
        make_room
            Called when the memory was too small, before the network is asked once more, with single windows.

        Raises
        ------
        SpoiltProcessError
            This process can do nothing more with its GPU, as after an illegal access.
        """
        answer, mean = Answer(), ProbabilityMean()
        question = _Question(name, volume, rung.overlap, deadline, progress)
        for number, tta in rung.members:
            try:
                probability, report = self._ask_twice(question, number, tta, make_room)
                mean.add(probability, self.weights[number])
            except OutOfTimeError:
                answer.is_late = True
                break
            except NotFiniteError as error:
                answer.faults[number] = one_line(error)
                continue
            except Exception as error:  # a network is anybody's code and may raise anything
                if _is_poison(error):
                    raise SpoiltProcessError(one_line(error)) from error
                logger.debug("volume %s: the network of %s", name, self.paths[number], exc_info=True)
                answer.faults[number] = (
                    f"volume {name}: the network of {self.paths[number]} failed: {describe_error(error)}"
                )
                continue
            answer.members.append(report)
        answer.probability = mean.mean() if mean.count else None
        return answer

    def time_windows(self, deadline: float | None = None) -> dict[int, float]:
        """Return the seconds a window of each network, by number, measured on noise after a first time that is not counted.

        A network that fails, or that the deadline left no time for, is not in it.
        """
        batch = self.predict_settings.batch_size
        seconds = {}
        for number, window in enumerate(self.windows):
            shape = (*window[:-1], batch * window[-1])
            noise = np.random.default_rng(0).integers(1, 255, shape, np.uint8)
            question = _Question("of noise", noise, 0.0, deadline)
            for _ in range(2):
                try:
                    _, report = self._ask(question, number, "none")
                except OutOfTimeError:
                    break
                except Exception as error:  # a network is anybody's code; what it does to a volume is dealt with there
                    if _is_poison(error):
                        raise SpoiltProcessError(one_line(error)) from error
                    logger.debug("trial of %s", self.paths[number], exc_info=True)
                    break
                seconds[number] = report.seconds / report.n_windows
        return seconds

    def _ask_twice(
        self, question: _Question, number: int, tta: TTA, make_room: Callable[[], None] | None
    ) -> tuple[NDArray[np.float32], MemberReport]:
        """As `_ask`; once more with single windows when the memory was too small for the first time."""
        try:
            return self._ask(question, number, tta)
        except Exception as error:  # a network is anybody's code; all but one kind goes on to the caller
            if _is_poison(error) or not is_out_of_memory(error):
                raise
            reason = describe_error(error)
        # Only here has the exception let go of what the network held.
        logger.warning(
            "volume %s: the memory was too small for the network of %s (%s): once more, with single windows",
            question.name, self.paths[number], reason,
        )  # fmt: skip
        if make_room is not None:
            make_room()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._ask(question, number, tta, batch_size=1)

    def _ask(
        self, question: _Question, number: int, tta: TTA, batch_size: int | None = None
    ) -> tuple[NDArray[np.float32], MemberReport]:
        """The probability of one network, and what it took; ``batch_size`` in place of that of the settings."""
        if number not in self._models:
            # The digest is that of the bytes that predict, in whichever process.
            self._models[number] = load_weights(self.paths[number], self.digests[number])
        settings, device = self.predict_settings, choose_device(self.predict_settings.device)
        # A CPU sums in another order with another number of threads, so every process takes the caller's; and starting
        # numba's threads, as the repair of the volume before may have done, resets the number.
        torch.set_num_threads(self._threads)
        started = time.monotonic()
        probability = predict_volume(
            self._models[number],
            question.volume,
            window=self.windows[number],
            overlap=question.overlap,
            batch_size=settings.batch_size if batch_size is None else batch_size,
            tta=tta,
            device=device,
            dtype=choose_precision(settings.precision, device).dtype,
            deadline=question.deadline,
            name=f"volume {question.name}: the network of {self.paths[number]}",
            progress=question.progress,
        )
        report = MemberReport(
            number,
            self.digests[number],
            tta,
            self.count_views(number, tta),
            self.windows[number],
            self.count_windows(question.volume.shape, number, question.overlap),
            time.monotonic() - started,
        )
        return probability, report


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or what it came from, says that the memory of the machine or of a GPU is too small."""
    return any(
        isinstance(cause, (MemoryError, torch.OutOfMemoryError))
        # torch's allocator of the CPU has no class of its own.
        or (isinstance(cause, RuntimeError) and "can't allocate memory" in str(cause))
        for cause in _chain(error)
    )


def _is_poison(error: BaseException) -> bool:
    """Whether a GPU has given up on this process: torch says so in words only. Out of memory is no such error."""
    return any(isinstance(cause, RuntimeError) and "CUDA error" in str(cause) for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _trained_window(file: WeightsFile) -> tuple[int, ...]:
    """The patch size a network was trained with, which is its window unless another is given."""
    if file.rules.window is None:
        raise InputValueError(
            f"predict.window must be given for weights that do not know their patch size, got {file.path} without one"
        )
    return file.rules.window


def _refuse_duplicates(files: Sequence[WeightsFile]) -> None:
    """Averaging a network with itself takes twice the time and changes nothing: nobody means it."""
    for index, file in enumerate(files):
        for other in files[:index]:
            if are_the_same(file, other):
                raise InputValueError(
                    f"checkpoints must hold different weights, got the same in {other.path} and {file.path}"
                )
