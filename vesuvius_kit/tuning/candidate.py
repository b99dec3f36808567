"""A pipeline with the weights of an ensemble: what is scored, and what comes out of a search."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vesuvius_kit.postprocess.pipeline import STEPS, Step, make_pipeline

_DIGITS = 6  # of a weight


@dataclass(frozen=True)
class Candidate:
    """A pipeline and the share of each group of networks in the mean; as text, so that it can be told from others."""

    pipeline: str
    """Its name."""
    steps_json: str
    """The steps with all their parameters."""
    weights: tuple[tuple[str, float], ...]
    """Group and share, by name; the shares sum to one, and none is 0."""

    @classmethod
    def of(cls, pipeline: str, steps: Sequence[Step], weights: Mapping[str, float]) -> "Candidate":
        """Make a candidate; weights are relative, and equal when all are 0."""
        total = sum(weights.values())
        shares = {group: weight / total for group, weight in weights.items()} if total else dict.fromkeys(weights, 1.0)
        if not total:
            shares = {group: share / len(shares) for group, share in shares.items()}
        kept = tuple((group, round(share, _DIGITS)) for group, share in sorted(shares.items()) if share > 0)
        content = [
            [step.name, {key: _as_typed(step.name, key, value) for key, value in sorted(step.parameters.items())}]
            for step in steps
        ]
        return cls(pipeline, json.dumps(content, separators=(",", ":")), kept)

    @property
    def steps(self) -> list[Step]:
        """The pipeline."""
        return [Step(name, parameters) for name, parameters in json.loads(self.steps_json)]

    @property
    def digest(self) -> str:
        """What tells the candidate from all that make other masks; 16 digits."""
        return hashlib.sha256(f"{self.weights}{self.steps_json}".encode()).hexdigest()[:16]

    def to_yaml(self) -> list[dict[str, Any]]:
        """Return the pipeline as a YAML file holds it."""
        content = [{step.name: step.parameters} for step in self.steps]
        make_pipeline(content)
        return content

    def settings(self) -> dict[str, Any]:
        """Return the pipeline's name, its parameters and the weights, by name."""
        own = {f"{step.name}.{key}": value for step in self.steps for key, value in step.parameters.items()}
        weights = {f"weights.{group}": weight for group, weight in self.weights} if len(self.weights) > 1 else {}
        return {"pipeline": self.pipeline, **own, **weights}


def _as_typed(step: str, parameter: str, value: Any) -> Any:
    """A value as its step counts with it: 3 and 3.0 are one thickness."""
    kind = inspect.signature(STEPS[step]).parameters[parameter].annotation
    return float(value) if kind is float else value
