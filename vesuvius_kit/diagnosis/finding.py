"""What a diagnosis consists of."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run.

    Parameters
    ----------
    fault : str
        Its name, for programs.
    text : str
        What it is, in plain words.
    evidence : dict
        Epochs and numbers that show it.
    severity : str
        ``fault``, or ``note`` for what is worth knowing without being wrong.
    """

    fault: str
    text: str
    evidence: dict = field(default_factory=dict)
    severity: str = "fault"
