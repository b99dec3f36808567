"""Which volumes each fold of nnU-Net was trained on: ``splits_final.json``, a list of ``{"train": [ids], "val": [ids]}``."""

import json
import os
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputNotFoundError, InputValueError, name_os_errors, one_line
from vesuvius_kit.models.nnunet import NnUNetFolder, read_dataset_name
from vesuvius_kit.models.nnunet_plans import PLANS_NAME

SPLITS_NAME = "splits_final.json"
_PREPROCESSED = "nnUNet_preprocessed"


def read_training_ids(files: NnUNetFolder) -> frozenset[str]:
    """Return the ids of the volumes that the folds of a model were trained on, those of all its folds together.

    The splits lie beside ``plans.json``, or where nnU-Net keeps them: in the data set's folder of ``nnUNet_preprocessed``,
    which stands beside the results or in the variable of that name. A network of all data saw every volume that they name.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    InputValueError
        It is damaged, or does not have the fold.
    """
    path = _find_splits(files)
    splits = _read_splits(path)
    ids: set[str] = set()
    for checkpoint in files.checkpoints:
        fold = checkpoint.absolute().parent.name.removeprefix("fold_")
        if fold == "all":
            ids.update(*(split[part] for split in splits for part in ("train", "val")))
        elif int(fold) >= len(splits):
            # nnU-Net draws one at random then.
            raise InputValueError(f"{path} must hold the volumes of fold {fold}, got {len(splits)} folds")
        else:
            ids.update(splits[int(fold)]["train"])
    return frozenset(ids)


def _find_splits(files: NnUNetFolder) -> Path:
    # A results folder is nnUNet_results/Dataset001_Name/Trainer__Plans__configuration, perhaps through a link.
    real, name = files.folder.resolve(), read_dataset_name(files)
    places = [files.folder, real]
    if len(real.parents) > 2:
        places.append(real.parents[1].with_name(_PREPROCESSED) / name)
    if preprocessed := os.environ.get(_PREPROCESSED):
        places.append(Path(preprocessed) / name)
    paths = list(dict.fromkeys(place / SPLITS_NAME for place in places))
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise InputNotFoundError(
            f"which volumes nnU-Net's folds were trained on must be known: put {SPLITS_NAME} beside {PLANS_NAME}, got none of "
            f"{', '.join(map(str, paths))}"
        )
    return found


def _read_splits(path: Path) -> list[dict[str, list[str]]]:
    try:
        with name_os_errors(f"read {path}"):
            content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputValueError(f"{path} must be JSON, got: {one_line(error)}") from error
    is_split = isinstance(content, list) and all(
        isinstance(split, dict) and all(_is_ids(split.get(part)) for part in ("train", "val")) for split in content
    )
    if not is_split:
        raise InputValueError(f"{path} must be a list of folds with the ids of train and val, got something else")
    return content


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(id_, str) for id_ in value)
