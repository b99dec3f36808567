"""A network that takes its time, and one that misbehaves, for processes under test.

A spawned process knows only the models that the kit registers itself, so both are ordinary networks whose weights are loaded as
ever; what is added is done by `Ensemble`'s job in the process (`SlowJob`).
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from vesuvius_kit.inference import ensemble
from vesuvius_kit.inference.jobs import VolumeJob

_predict = ensemble.predict_volume


@dataclass(frozen=True)
class SlowJob(VolumeJob):
    """The real job with networks that sleep in each forward pass, and the faults that are asked for."""

    seconds: float = 0.02
    """Of each forward pass."""
    fault: str = ""
    """``raise``, ``nan``, ``shape``, ``memory`` or ``cuda memory``: what ``faulty`` does."""
    faulty: tuple[int, ...] = ()
    """Digests' places among the networks."""

    def prepare(self):
        slow_down(self)
        return super().prepare()

    def work(self, task, material, order, settle):
        slow_down(self)
        return super().work(task, material, order, settle)


def slow_down(job):
    """Let every prediction of this process sleep, and some fail."""
    faulty = {str(job.ensemble.paths[number]) for number in job.faulty}

    def predict_slowly(model, volume, *, name, batch_size, **settings):
        def forward(image):
            time.sleep(job.seconds)
            if any(path in name for path in faulty):
                if job.fault == "raise":
                    raise ZeroDivisionError("a network of somebody else's")
                if job.fault == "nan":
                    return torch.full_like(image, float("nan"))
                if job.fault == "shape":
                    return image[..., :-1]
                if job.fault == "memory" and batch_size > 1:
                    raise MemoryError("simulated")
                if job.fault == "no memory":
                    np.empty(2**60, np.uint8)
                if job.fault == "cuda memory" and batch_size > 1:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return model(image)

        with torch.inference_mode():
            model.eval()
            return _predict(
                forward, volume, name=name, batch_size=batch_size, normalisation=model.record.normalisation, **settings
            )

    ensemble.predict_volume = predict_slowly
