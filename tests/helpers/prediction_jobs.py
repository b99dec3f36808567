"""The prediction job with faults, for processes under test: a spawned process imports it by name."""

import time
from dataclasses import dataclass, replace

from helpers.worker_jobs import claim, kill_me

from vesuvius_kit.inference.jobs import VolumeJob
from vesuvius_kit.inference.stages import SpoiltProcessError


@dataclass(frozen=True)
class KilledInAVolume(VolumeJob):
    """The real job, whose process is killed between two windows of a volume: the first ``times`` volumes that are begun."""

    times: int = 1

    def work(self, task, material, order, settle):
        def die_at_the_third(batches, **_):
            for number, batch in enumerate(batches):
                if number == 2 and any(claim(self.folder / f"killed_{count}") for count in range(self.times)):
                    kill_me()
                yield batch

        return VolumeJob.work(replace(self, progress=die_at_the_third), task, material, order, settle)


@dataclass(frozen=True)
class KilledThrice(KilledInAVolume):
    """The first three."""

    times: int = 3


@dataclass(frozen=True)
class Faulty(VolumeJob):
    """The real job, which fails at one volume in a way that nobody foresaw."""

    def work(self, task, material, order, settle):
        if task == "402":
            raise RuntimeError("something\nunforeseen")
        return super().work(task, material, order, settle)


@dataclass(frozen=True)
class Spoilt(VolumeJob):
    """The real job, which loses its GPU at one volume: ``times`` times."""

    times: int = 1

    def work(self, task, material, order, settle):
        if task == "402" and any(claim(self.folder / f"spoilt_{count}") for count in range(self.times)):
            raise SpoiltProcessError("CUDA error: an illegal memory access was encountered")
        return super().work(task, material, order, settle)


@dataclass(frozen=True)
class SpoiltForEver(Spoilt):
    """Whatever process takes it."""

    times: int = 10


@dataclass(frozen=True)
class Stuck(VolumeJob):
    """The real job, which never comes back from one volume."""

    def work(self, task, material, order, settle):
        if task == "402":
            time.sleep(600)
        return super().work(task, material, order, settle)
