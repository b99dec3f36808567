"""What a diagnosis consists of."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run."""

    fault: str
    """Its name, for programs."""
    text: str
    """What it is, in plain words."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Epochs and numbers that show it."""
    severity: Literal["fault", "note"] = "fault"
    """``note`` for what is worth knowing without being wrong."""
