"""Which plan the next volume is worked on with, so that a run uses its time budget and never exceeds it.

Whenever a process is free, the rest of the run is played through on paper, from the rates measured so far: each volume that
is left, in its order, on whichever process is free first. The largest plan with which all of them end in time is the one for
the rest; the next volume takes the plan above it, if the rest still fits with the lower one. So what is left over is less than
a step of the ladder, plans may be climbed up again, and the last volume takes whatever fits.
"""

import heapq
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vesuvius_kit.config.settings import TTA
from vesuvius_kit.inference.ladder import RIDGE, CountViews, Rung
from vesuvius_kit.inference.meter import Meter
from vesuvius_kit.inference.stages import Stop

CountWindows = Callable[[Sequence[int], int, float], int]
"""``count_windows(shape, number, overlap)``: the windows of a network, by its number, in a volume."""

# Kept back of a budget for what nobody foresaw: a hundredth, a minute at most.
_SHARE_KEPT, _MOST_KEPT = 0.01, 60.0
# What is to come is taken to last longer than the rates say: by the first share while only a trial was timed, by the last when
# many volumes were; and by twice the deviation that was met.
_FIRST_MARGIN, _LAST_MARGIN, _DEVIATIONS = 0.16, 0.04, 2.0
_MOST_ADDED = 0.2
_REMEMBERED = 8


@dataclass(frozen=True)
class Order:
    """How a volume is to be worked on."""

    rung: Rung
    """The plan."""
    number: int
    """Its place on the ladder as it was at the start, from 0; the ridge filter is the last."""
    seconds: float | None
    """For how long after ``issued`` the networks may work on it; None for no limit."""
    is_whole: bool
    """Whether this is all that was asked for."""
    issued: float = field(default_factory=time.monotonic, compare=False)
    """Reading of `time.monotonic`, which all processes of a machine share, at which it was given."""


@dataclass
class _Running:
    """A volume that a process works on."""

    name: str
    started: float
    expected: float
    is_free: bool = False
    """Whether the networks are done with it, and only its repair is under way."""


class Schedule:
    """Decides, whenever a volume is begun, by which plan; and holds which volumes have no result yet.

    Parameters
    ----------
    ladder
        The plans, largest first, the last of them `RIDGE`.
    shapes
        Of the volumes, by id.
    waiting
        Ids of those without a result, in the order in which they will be begun.
    count_windows
        See `CountWindows`.
    count_views
        See `CountViews`.
    whole
        All that was asked for; the first of the ladder by default.
    seconds
        The budget; None for no limit, and so always the first plan.
    started
        The reading of ``clock`` from which the budget counts; now by default.
    n_processes
        That share the volumes.
    packed_voxels
        Of all masks that the archive will hold, those of an earlier run among them; by default of the volumes that wait.
    clock
        Seconds, never going back.
    """

    def __init__(
        self,
        ladder: Sequence[Rung],
        shapes: Mapping[str, Sequence[int]],
        waiting: Iterable[str],
        count_windows: CountWindows,
        count_views: CountViews,
        *,
        whole: Rung | None = None,
        seconds: float | None = None,
        started: float | None = None,
        n_processes: int = 1,
        packed_voxels: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ladder = list(ladder)
        """The plans as they were at the start."""
        self.meter = Meter()
        """Rates measured so far."""
        self.left = list(waiting)
        """Ids of the volumes without a result, in their order."""
        self.budget_seconds = seconds
        """The budget."""
        self.dropped: dict[int, str] = {}
        """Networks that are asked no more, by number, and why."""
        self._whole = self.ladder[0] if whole is None else whole
        self._clock = clock
        self._started = clock() if started is None else started
        self._shapes = dict(shapes)
        self._voxels = {name: math.prod(shape) for name, shape in shapes.items()}
        self._packed_voxels = sum(self._voxels[n] for n in self.left) if packed_voxels is None else packed_voxels
        self._count_windows, self._count_views = count_windows, count_views
        self._waiting = list(self.left)
        self._stood_in: set[str] = set()
        self._running: dict[int, list[_Running]] = {number: [] for number in range(n_processes)}
        self._ratios: list[float] = []
        self._n_timed = 0
        self._counted: dict[tuple[tuple[int, ...], int, float], int] = {}

    def note_trial(self, windows: Mapping[int, float], stages: Mapping[str, float]) -> None:
        """Take rates that a process measured before its first volume: seconds a window by network, seconds a voxel by stage."""
        for number, rate in windows.items():
            # As little as a window of the first volume will count against it.
            self.meter.note_network(number, 1, rate)
        for stage in ("decode", "repair", "simple", "closing"):
            if stage in stages:
                self.meter.note_stage(stage, 1, stages[stage])

    def order_for(self, name: str, process: int = 0) -> Order | Stop:
        """Return how a volume is to be worked on that a process begins now, or `Stop` when the time is over."""
        now = self._clock()
        self.gain_process(process)
        number = self._choose(name, process, now)
        if number is None:
            return Stop.STOP
        rung = self._rungs()[number]
        expected = self._network_seconds(name, rung)
        # Another process may have held it before.
        self.give_up(name)
        self._running.setdefault(process, []).append(_Running(name, now, expected))
        seconds = None
        if self.budget_seconds is not None:
            # What the others might need in the end is no reason to stop what was chosen because it fits.
            wanted = max(self.seconds_left(name) - self._repair_seconds(name, rung), (1 + self._margin()) * expected)
            seconds = max(0.0, min(wanted, self._seconds_to_close() - self._repair_seconds(name, rung)))
        return Order(rung, number, seconds, self._is_all(rung))

    def _is_all(self, rung: Rung) -> bool:
        """Whether a plan has all that was asked for, or more."""
        views = {number: self._count_views(number, tta) for number, tta in rung.members}
        asked = {number: self._count_views(number, tta) for number, tta in self._whole.members}
        return rung.overlap >= self._whole.overlap and all(views.get(number, 0) >= asked[number] for number in asked)

    def seconds_left(self, but: str | None = None) -> float:
        """Return after how many seconds all work with networks must have ended, below 0 when it is late; infinite for never.

        Until the end of the budget, less the archive and the cheapest mask of each volume without a result, ``but`` one; as
        many are made at once as there are processes.
        """
        if self.budget_seconds is None:
            return math.inf
        sure = {one.name for running in self._running.values() for one in running if one.is_free} | self._stood_in
        rest = sum(self._cheapest_seconds(name) for name in self.left if name != but and name not in sure)
        return self._seconds_to_close() - rest / len(self._running)

    def has_time_for_ridge(self, name: str) -> bool:
        """Return whether there is time to read a volume and filter its ridges, besides the archive."""
        return self.budget_seconds is None or self._seconds_to_close() > sum(self._stages(name, RIDGE))

    def note_network(self, name: str, process: int, seconds: Mapping[int, float], rung: Rung) -> None:
        """Learn that the networks are done with a volume, and how long each that answered took, by number."""
        for number, tta in rung.members:
            if number in seconds:
                self.meter.note_network(number, self._windows(name, number, tta, rung.overlap), seconds[number])
        for running in self._running.get(process, ()):
            if running.name == name:
                running.is_free = True
                asked = {number for number, _ in rung.members}
                if running.expected > 0 and asked == seconds.keys():
                    # What was expected from a trial alone says nothing of how much volumes differ.
                    if self._n_timed >= len(self._running):
                        self._ratios = [*self._ratios, sum(seconds.values()) / running.expected][-_REMEMBERED:]
                    self._n_timed += 1

    def note_stage(self, name: str, stage: str, seconds: float) -> None:
        """Learn how long ``decode``, ``repair``, ``simple`` or ``closing`` took for a volume."""
        for known in ("decode", "repair", "simple", "closing"):
            if known == stage:
                self.meter.note_stage(known, self._voxels[name], seconds)

    def finish(self, name: str) -> None:
        """Take a volume as done."""
        self.left.remove(name)
        self.give_up(name)

    def give_up(self, name: str) -> None:
        """Take a volume as one that nobody works on any more, though it has no result."""
        self._waiting = [other for other in self._waiting if other != name]
        for process, running in self._running.items():
            self._running[process] = [one for one in running if one.name != name]

    def stand_in(self, name: str) -> None:
        """Take a volume as one that has a mask without a network, and is not worked on any more."""
        self._stood_in.add(name)
        self.give_up(name)

    def lose_process(self, process: int) -> None:
        """Learn that a process is gone: what it held waits again."""
        self._waiting += [one.name for one in self._running.pop(process, [])]
        if not self._running:
            # Another one takes its place.
            self._running[process] = []

    def gain_process(self, process: int) -> None:
        """Learn that a process is ready for its first volume."""
        self._running.setdefault(process, [])

    def drop_network(self, number: int, cause: str) -> None:
        """Ask a network no more, unless it is the last one."""
        members = {one for rung in self.ladder for one, _ in rung.members}
        if number not in self.dropped and members - self.dropped.keys() - {number}:
            self.dropped[number] = cause

    def seconds_for_all(self, rung: Rung, names: Iterable[str] | None = None) -> float:
        """Return how long volumes, by default those that wait, will take with a plan on all processes, from now on."""
        names = self._waiting if names is None else list(names)
        return self._play(self._lanes(self._clock()), [(name, rung) for name in names], 1.0)

    def to_text(self) -> str:
        """Return the ladder as a table: what each plan would take for the volumes that wait, and which one is chosen."""
        rungs = self._rungs()
        now = self._clock()
        chosen = self._choose(self._waiting[0], next(iter(self._running)), now) if self._waiting else None
        lines = [f"{'plan':>4}  {'networks':>8}  {'windows':>8}  {'seconds':>8}  {'':6}  what"]
        for number, rung in enumerate(rungs):
            windows = sum(
                self._windows(name, member, tta, rung.overlap) for name in self._waiting for member, tta in rung.members
            )
            seconds = self.seconds_for_all(rung)
            fits = "" if self.budget_seconds is None else "fits" if seconds <= self._seconds_to_close() else "no"
            mark = " <- first" if number == chosen else ""
            lines.append(
                f"{number:>4}  {len(rung.members):>8}  {windows:>8}  {seconds:>8.1f}  {fits:6}  {rung.to_text()}{mark}"
            )
        end = "no budget" if self.budget_seconds is None else f"{self._seconds_to_close():.0f} s left for them"
        return "\n".join([*lines, f"{len(self._waiting)} volumes, {len(self._running)} process(es), {end}"])

    def _choose(self, name: str, process: int, now: float) -> int | None:
        """The number of the plan for a volume that is begun now; None when the time is over."""
        rungs = self._rungs()
        if self.budget_seconds is None:
            return 0
        left = self._seconds_to_close()
        rest = [other for other in self._waiting if other != name]
        lanes, margin = self._lanes(now), self._margin()
        if _advance(lanes[list(self._running).index(process)], *self._stages(name, RIDGE), 1 + margin)[2] > left:
            return None

        def fits(first: Rung, others: Rung) -> bool:
            own = [_advance(lane, *self._stages(name, first), 1 + margin) if k == process else lane
                   for k, lane in zip(self._running, lanes)]  # fmt: skip
            return self._play(own, [(other, others) for other in rest], 1 + margin) <= left

        floor = next((k for k, rung in enumerate(rungs) if fits(rung, rung)), len(rungs) - 1)
        chosen = floor - 1 if floor > 0 and fits(rungs[floor - 1], rungs[floor]) else floor
        # In a small volume a smaller overlap may leave the windows as they are.
        costs = [self._network_seconds(name, rung) for rung in rungs]
        while chosen > 0 and 0 < costs[chosen - 1] <= costs[chosen]:
            chosen -= 1
        return chosen

    def _rungs(self) -> list[Rung]:
        """The ladder for the networks that are left, each plan at its old place."""
        return [rung.without(self.dropped) if self.dropped else rung for rung in self.ladder]

    def _seconds_to_close(self) -> float:
        """Until the archive must be packed."""
        if self.budget_seconds is None:
            return math.inf
        kept = min(_MOST_KEPT, _SHARE_KEPT * self.budget_seconds)
        packing = 1.2 * self.meter.seconds_a_voxel("closing") * self._packed_voxels
        return self._started + self.budget_seconds - kept - packing - self._clock()

    def _margin(self) -> float:
        deviation = statistics.median(abs(ratio - 1) for ratio in self._ratios) if self._ratios else 0.0
        return (
            _LAST_MARGIN
            + (_FIRST_MARGIN - _LAST_MARGIN) / (1 + self._n_timed)
            + min(_MOST_ADDED, _DEVIATIONS * deviation)
        )

    def _windows(self, name: str, number: int, tta: TTA, overlap: float) -> int:
        """Windows of a network in a volume, each view counted."""
        key = (tuple(self._shapes[name]), number, overlap)
        if key not in self._counted:
            self._counted[key] = self._count_windows(*key)
        return self._counted[key] * self._count_views(number, tta)

    def _network_seconds(self, name: str, rung: Rung) -> float:
        return sum(
            self.meter.seconds_a_window(number) * self._windows(name, number, tta, rung.overlap)
            for number, tta in rung.members
        )

    def _repair_seconds(self, name: str, rung: Rung) -> float:
        return self.meter.seconds_a_voxel("simple" if rung.is_ridge else "repair") * self._voxels[name]

    def _cheapest_seconds(self, name: str) -> float:
        """Of a volume, by the ridge filter, or by the last plan with networks where that is faster."""
        ridge = self._repair_seconds(name, RIDGE)
        last = next((rung for rung in reversed(self._rungs()) if not rung.is_ridge), RIDGE)
        return ridge if last.is_ridge else min(ridge, self._network_seconds(name, last) or ridge)

    def _stages(self, name: str, rung: Rung) -> tuple[float, float, float]:
        """Seconds of a volume's three stages."""
        decode = self.meter.seconds_a_voxel("decode") * self._voxels[name]
        return decode, self._network_seconds(name, rung), self._repair_seconds(name, rung)

    def _lanes(self, now: float) -> list[tuple[float, float, float]]:
        """Of each process, after how many seconds it has read ahead, is free of networks, and has repaired what it holds."""
        lanes = []
        for running in self._running.values():
            free = repaired = 0.0
            for one in running:
                repair = self.meter.seconds_a_voxel("repair") * self._voxels[one.name]
                if not one.is_free:
                    free = max(0.0, one.started + one.expected - now)
                repaired = max(free, repaired) + repair
            lanes.append((0.0, free, repaired))
        return lanes

    def _play(
        self, lanes: Sequence[tuple[float, float, float]], work: Sequence[tuple[str, Rung]], factor: float
    ) -> float:
        """After how many seconds all is done, each volume begun by the process that is free first."""
        queue = [(lane[1], number, lane) for number, lane in enumerate(lanes)]
        heapq.heapify(queue)
        for name, rung in work:
            _, number, lane = queue[0]
            lane = _advance(lane, *self._stages(name, rung), factor)
            heapq.heapreplace(queue, (lane[1], number, lane))
        return max(lane[2] for _, _, lane in queue)


def _advance(
    lane: tuple[float, float, float], decode: float, network: float, repair: float, factor: float
) -> tuple[float, float, float]:
    """A process's times after one more volume: the next is read while the networks work, and repaired behind them."""
    read, free, repaired = lane
    start = max(free, read)
    done = max(start + factor * network, repaired)
    return start + factor * decode, done, done + factor * repair
