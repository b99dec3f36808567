"""Training: the loop, what it keeps of a run, and its processes."""

from vesuvius_kit.training.choices import inference_window, make_controller
from vesuvius_kit.training.loop import TrainingDivergedError, train
from vesuvius_kit.training.run import RunState

__all__ = ["RunState", "TrainingDivergedError", "inference_window", "make_controller", "train"]
