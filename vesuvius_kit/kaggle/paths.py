"""Where Kaggle mounted the competition, the bundle, the models and earlier outputs; the same questions work at home.

Two layouts occur. The older one mounts everything as ``/kaggle/input/<slug>``; the newer one as
``/kaggle/input/{competitions,datasets/<owner>,models/<owner>,notebooks/<owner>}/<slug>``. Each question first probes the places
that a slug should be at, in both layouts, and then searches for the files that mark what is wanted, whatever its folder
is called, below the ``roots``, by default those of `input_roots`. What is nowhere, or twice equally near, is refused.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from vesuvius_kit.checks import InputNotFoundError, InputTypeError, InputValueError, check_folder
from vesuvius_kit.constants import TUNED_FILE

logger = logging.getLogger(__name__)

COMPETITION_SLUG = "vesuvius-challenge-surface-detection"
BUNDLE_SLUG = "vesuvius-kit-bundle"
MODELS_SLUG = "vesuvius-kit-models"
INPUT_VARIABLE = "VESUVIUS_KIT_INPUT"
MANIFEST_NAME = "manifest.json"
BUNDLE_KIND = "vesuvius-kit-bundle"  # stands in the manifest, since other data sets have a manifest.json too

_KAGGLE_INPUT = Path("/kaggle/input")
_KAGGLE_WORKING = Path("/kaggle/working")
_HOME_FOLDERS = (".", "data", "input", "dist")
# A model is the deepest: models/<owner>/<model>/<framework>/<variation>/<version>/<run>, and one level to spare.
_DEPTH = 8
_ENTRIES_READ = 1000
_FOLDERS_READ = 5000
_NEVER_ENTERED = ("_images", "_labels", "__pycache__", "node_modules", "site-packages", ".whl")

Roots = Sequence[Path | str] | None


def input_roots() -> list[Path]:
    """Return the folders below which inputs are mounted.

    Those of the environment variable ``VESUVIUS_KIT_INPUT`` (several are separated as in ``PATH``); without it
    ``/kaggle/input`` where that exists; elsewhere those of ``.``, ``data``, ``input`` and ``dist`` that exist.
    """
    if given := os.environ.get(INPUT_VARIABLE):
        return [check_folder(INPUT_VARIABLE, part) for part in given.split(os.pathsep) if part]
    if _KAGGLE_INPUT.is_dir():
        return [_KAGGLE_INPUT]
    return [Path(folder) for folder in _HOME_FOLDERS if Path(folder).is_dir()]


def find_competition(*, slug: str = COMPETITION_SLUG, roots: Roots = None) -> Path:
    """Return the competition's folder: with ``train.csv`` or ``test.csv``, and ``train_images`` or ``test_images``."""
    return _find_one("the competition's data", _is_competition, (slug, f"competitions/{slug}"), roots)


def find_bundle(*, roots: Roots = None) -> Path:
    """Return the folder that holds the offline bundle's ``manifest.json``; its wheels may have been unpacked."""
    return _find_one("the kit's bundle", _is_bundle, (BUNDLE_SLUG, f"datasets/*/{BUNDLE_SLUG}"), roots)


def find_models(*, roots: Roots = None) -> list[Path]:
    """Return the folders that hold weights, sorted: of a model, a data set or a notebook's output.

    Each is a run of the kit, with ``fold_*/best/checkpoint.safetensors``, or ``last`` where it was stopped before it had a
    best; a folder with a ``checkpoint.safetensors`` of its own, as ``vesuvius-kit convert`` writes it; or a results folder of
    nnU-Net, with ``plans.json`` and ``fold_*/checkpoint_*.pth``.
    `vesuvius_kit.models.weights.find_weights` takes them as they are.
    """
    roots = _roots(roots)
    found = {folder.resolve(): folder for root in roots for folder, _ in _search(root, _holds_weights)}
    if not found:
        raise _not_found(
            "a model (fold_*/best/checkpoint.safetensors, checkpoint.safetensors, or nnU-Net's plans.json, dataset.json and "
            "fold_*/checkpoint_*.pth)",
            roots,
            (),
        )
    return sorted(found.values())


def find_tuned(models: Sequence[Path | str], *, roots: Roots = None) -> Path | None:
    """Return the folder with the ``tuned.yaml`` for some models, as `find_models` returns them; None where there is none.

    It lies in a model's folder or beside one, as ``ship --tuned`` sends it, or, on Kaggle, in any other input. Two of them are
    refused.
    """
    beside = [folder for model in map(Path, models) for folder in (model, model.parent)]
    found = [folder for folder in beside if _is_tuned(folder)]
    if not found and is_kaggle():
        found = [folder for root in _roots(roots) for folder, _ in _search(root, _is_tuned)]
    return _the_only(f"tuned settings ({TUNED_FILE})", found) if found else None


def find_outputs(slug: str, *, roots: Roots = None) -> Path:
    """Return the folder in which the output of an earlier notebook, such as ``vesuvius-kit-train``, is mounted."""

    def is_output(folder: Path) -> bool:
        return folder.name == slug and folder.is_dir() and any(folder.iterdir())

    return _find_one(f"the output of {slug}", is_output, (slug, f"notebooks/*/{slug}"), roots)


def working_folder() -> Path:
    """Return ``/kaggle/working``, which keeps what a session on Kaggle writes; elsewhere the current folder."""
    return _KAGGLE_WORKING if is_kaggle() and _KAGGLE_WORKING.is_dir() else Path.cwd()


def is_kaggle() -> bool:
    """Return whether this is a session on Kaggle, or the rehearsal of one."""
    return bool(os.environ.get("KAGGLE_KERNEL_RUN_TYPE"))


def is_rerun() -> bool:
    """Return whether this is the hidden rerun, in which the test images are those that count."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


def run_type() -> str:
    """Return "interactive" in Kaggle's editor, "batch" in every other session on Kaggle, "local" elsewhere."""
    kind = os.environ.get("KAGGLE_KERNEL_RUN_TYPE")
    return "interactive" if kind == "Interactive" else "batch" if kind else "local"


def _is_tuned(folder: Path) -> bool:
    return (folder / TUNED_FILE).is_file()


def _is_competition(folder: Path) -> bool:
    has_table = (folder / "train.csv").is_file() or (folder / "test.csv").is_file()
    return has_table and ((folder / "train_images").is_dir() or (folder / "test_images").is_dir())


def _is_bundle(folder: Path) -> bool:
    try:
        content = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return False  # none, or somebody else's file, not even JSON
    return isinstance(content, dict) and content.get("kind") == BUNDLE_KIND


def _holds_weights(folder: Path) -> bool:
    folds = [fold for fold in _folders_in(folder) if fold.name.startswith("fold_")]
    if any((fold / kind / "checkpoint.safetensors").is_file() for fold in folds for kind in ("best", "last")):
        return True
    # Those two are a run's: of a fold one of them is meant, not both.
    if folder.name not in ("best", "last") and (folder / "checkpoint.safetensors").is_file():
        return True
    is_nnunet = bool(folds) and all((folder / name).is_file() for name in ("plans.json", "dataset.json"))
    return is_nnunet and any(
        (fold / f"checkpoint_{kind}.pth").is_file() for fold in folds for kind in ("final", "best")
    )


def _find_one(what: str, matches: Callable[[Path], bool], places: tuple[str, ...], roots: Roots) -> Path:
    """The folder at one of the places a slug should be at, else the nearest that a search finds."""
    roots = _roots(roots)
    for root in roots:
        probed = [root, *(folder for place in places for folder in sorted(root.glob(place)))]
        if nearest := [folder for folder in probed if matches(folder)]:
            return _the_only(what, nearest)
    for root in roots:
        found = list(_search(root, matches))
        if nearest := [folder for folder, level in found if level == found[0][1]]:
            return _the_only(what, nearest)
    raise _not_found(what, roots, places)


def _roots(roots: Roots) -> list[Path]:
    if roots is None:
        return input_roots()
    if isinstance(roots, str | os.PathLike):
        raise InputTypeError(f"roots must be a sequence of folders, got {str(roots)!r}")
    return [Path(root) for root in roots]


def _the_only(what: str, folders: list[Path]) -> Path:
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    if len(distinct) > 1:
        names = ", ".join(map(str, distinct))
        raise InputValueError(f"{what} must be in one place only, got {names}; {INPUT_VARIABLE} can name the one meant")
    return distinct[0]


def _not_found(what: str, roots: list[Path], places: tuple[str, ...]) -> InputNotFoundError:
    looked = [str(root / place) for root in roots for place in places]
    looked += [f"{_DEPTH} levels below {root if root.is_dir() else f'{root} (which is no folder)'}" for root in roots]
    where = ", ".join(looked) or "no folder at all"
    return InputNotFoundError(f"{what} must be mounted, looked in {where}; {INPUT_VARIABLE} can name another folder")


def _search(root: Path, matches: Callable[[Path], bool]) -> Iterator[tuple[Path, int]]:
    """Folders below a root that match, and their level, the nearest first; nothing is looked for inside a match."""
    level, n_read = [root], 0
    for depth in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            if matches(folder):
                yield folder, depth
            elif n_read < _FOLDERS_READ:
                below += _folders_in(folder)
                n_read += 1
            else:
                logger.warning("%s holds too many folders: the search stopped after %d", root, _FOLDERS_READ)
                return
        level = below


def _folders_in(folder: Path) -> list[Path]:
    """The folders in a folder that may hold a marker, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _ENTRIES_READ) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        logger.warning("%s cannot be read: it is not searched", folder)
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".") and not name.endswith(_NEVER_ENTERED)]
