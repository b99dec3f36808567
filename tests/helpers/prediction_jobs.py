"""The prediction job with faults, for processes under test: a spawned process imports it by name."""

import time
from dataclasses import dataclass

from helpers.worker_jobs import claim, kill_me

from vesuvius_kit.inference.jobs import VolumeJob


@dataclass(frozen=True)
class KilledInAVolume(VolumeJob):
    """The real job, whose process is killed between two windows of a volume: the first ``times`` volumes that are begun."""

    times: int = 1

    def run(self, name, volume, seconds, progress=None):
        def die_at_the_third(batches, **_):
            for number, batch in enumerate(batches):
                if number == 2 and any(claim(self.folder / f"killed_{count}") for count in range(self.times)):
                    kill_me()
                yield batch

        return super().run(name, volume, seconds, die_at_the_third)


@dataclass(frozen=True)
class OutOfMemory(VolumeJob):
    """The real job, which fails at one volume."""

    def run(self, name, volume, seconds, progress=None):
        if name == "402":
            raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")
        return super().run(name, volume, seconds)


@dataclass(frozen=True)
class Stuck(VolumeJob):
    """The real job, which never comes back from one volume."""

    def run(self, name, volume, seconds, progress=None):
        if name == "402":
            time.sleep(600)
        return super().run(name, volume, seconds)
