"""How a training run lies on disk: one folder a fold, ``fold_0``, ``fold_1`` and so on, in the run's folder."""

import re
from pathlib import Path

_FOLD = re.compile(r"fold_(0|[1-9][0-9]*)")


def list_folds(run_folder: Path | str) -> list[Path]:
    """Return the folders of a run's folds, in the order of their numbers; none in a missing folder."""
    # By exact names: neither fold_0_backup nor fold_00 is one.
    folds = [path for path in Path(run_folder).glob("fold_*") if _FOLD.fullmatch(path.name) and path.is_dir()]
    return sorted(folds, key=lambda fold: int(fold.name.removeprefix("fold_")))
