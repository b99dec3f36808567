"""``vesuvius-kit rehearse``."""

from collections.abc import Sequence
from typing import Literal

from vesuvius_kit.checks import check_duration
from vesuvius_kit.console import show_progress


def rehearse(
    *,
    notebooks: str = "notebooks",
    checkout: str = ".",
    layout: Literal["old", "new", "both"] = "both",
    checkpoints: Sequence[str] = (),
    tuned: str | None = None,
    output: str = "dist/rehearsal",
    budget: str = "10m",
) -> int:
    """Run the notebooks as Kaggle would: a fresh environment, /kaggle in both layouts, no network; check what they leave.

    Parameters
    ----------
    notebooks
        folder of the .ipynb
    checkout
        folder of the kit's sources, for the bundle
    layout
        how Kaggle mounts inputs
    checkpoints
        weights for the submit notebook, of the kit or of nnU-Net, instead of those that the train notebook leaves
    tuned
        what tune found for these checkpoints, its folder
    output
        folder; an earlier rehearsal is replaced
    budget
        what each notebook may take
    """
    from vesuvius_kit.kaggle.rehearse import rehearse as rehearse_session

    result = rehearse_session(
        output,
        notebooks=notebooks,
        layout=layout,
        checkout=checkout,
        checkpoints=checkpoints,
        tuned=tuned,
        budget_seconds=check_duration("--budget", budget),
        progress=show_progress,
    )
    print(result.to_text())
    return 0 if result.ok else 1
