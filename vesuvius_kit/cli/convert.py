"""``vesuvius-kit convert``."""

from collections.abc import Sequence
from typing import cast


def convert(
    weights: str,
    /,
    *,
    output: str,
    half: bool = False,
    folds: Sequence[str] = (),
    checkpoint: str | None = None,
    surface: Sequence[str] = (),
) -> int:
    """Write an nnU-Net folder as one checkpoint of the kit, which needs no pickle.

    Parameters
    ----------
    weights
        nnU-Net's results folder (plans.json, dataset.json, fold_*), a fold of it, or a checkpoint of the kit
    output
        folder of the checkpoint; made if missing
    half
        store the weights in float16, half the size
    folds
        numbers, or all; by default every fold there is
    checkpoint
        final, best, or a file's name; by default final, where there is none, best
    surface
        labels or regions that are the surface; by default those named surface, recto, papyrus or sheet
    """
    from vesuvius_kit.checks import InputValueError
    from vesuvius_kit.models.nnunet import Fold
    from vesuvius_kit.models.weights import convert_weights

    for fold in folds:
        if fold != "all" and not fold.isdecimal():
            raise InputValueError(f"--folds must be numbers or all, got {fold}")
    numbers = [cast(Fold, "all") if fold == "all" else int(fold) for fold in folds]
    path = convert_weights(
        weights,
        output,
        half=half,
        folds=numbers or None,
        checkpoint=checkpoint,
        surface=list(surface) or None,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0
