"""What a push sends: the bundle, the weights of trained networks, and one notebook. Built here, sent by `push`."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from vesuvius_kit.checks import InputValueError, check_choice, check_file, make_folder
from vesuvius_kit.io.volume import write_atomically
from vesuvius_kit.kaggle.bundle import build_bundle
from vesuvius_kit.kaggle.metadata import KERNELS, METADATA_NAME, check_metadata, find_edits, kernel_metadata
from vesuvius_kit.kaggle.paths import BUNDLE_SLUG, MANIFEST_NAME, MODELS_SLUG

logger = logging.getLogger(__name__)

MODELS_MANIFEST_NAME = "models.json"


@dataclass(frozen=True)
class Dataset:
    """What shall lie in one data set.

    Parameters
    ----------
    slug : str
        Its name within the user's data sets.
    title : str
        6 to 50 characters.
    files : dict of str to Path
        Local file by its path within the data set, the manifest among them.
    manifest_name : str
        The JSON file that holds ``digest``.
    digest : str
        Changes if and only if a file's content does.
    """

    slug: str
    title: str
    files: dict
    manifest_name: str
    digest: str


@dataclass(frozen=True)
class Shipment:
    """What a push sends.

    Parameters
    ----------
    datasets : tuple of Dataset
        In the order of sending.
    kernel : str
        ``train``, ``submit`` or ``explore``.
    models_from : str
        Where the submit notebook finds its weights, see `vesuvius_kit.kaggle.metadata.kernel_metadata`.
    checkout : Path
        Holds ``kernels/`` and ``notebooks/``.
    """

    datasets: tuple
    kernel: str
    models_from: str
    checkout: Path


def prepare_shipment(
    folder, *, checkout=".", kernel="submit", checkpoints=(), models_from="dataset", with_imagecodecs=False
):
    """Build everything that a push sends, without contacting anybody.

    Parameters
    ----------
    folder : str or Path
        Gets ``bundle/`` and, with ``checkpoints``, ``models/``.
    checkout : str or Path
        Holds ``kernels/`` and ``notebooks/``.
    kernel : str
        ``train``, ``submit`` or ``explore``.
    checkpoints : sequence of str or Path
        Checkpoints, folds or runs whose weights become a data set; empty sends none.
    models_from : str
        ``dataset`` or ``train``: where the submit notebook finds its weights.
    with_imagecodecs : bool
        Add imagecodecs' compiled wheel to the bundle.

    Returns
    -------
    Shipment

    Raises
    ------
    InputError
        Something it is built from is missing or wrong.
    """
    folder, checkout = Path(folder), Path(checkout)
    check_choice("kernel", kernel, KERNELS)
    check_file("notebook", notebook_path(checkout, kernel))
    metadata = kernel_metadata(kernel, models_from=models_from)
    problems = check_metadata(metadata, checkout / "kernels" / kernel, allow_placeholder=True)
    if problems:
        raise InputValueError(f"the {kernel} kernel must be acceptable to Kaggle, got: {'; '.join(problems)}")
    _mention_edits(checkout / "kernels" / kernel / METADATA_NAME, kernel)
    manifest = build_bundle(folder / "bundle", checkout=checkout, with_imagecodecs=with_imagecodecs)
    names = [MANIFEST_NAME, *(file.name for file in manifest.files)]
    files = {name: folder / "bundle" / name for name in names}
    datasets = [Dataset(BUNDLE_SLUG, "Vesuvius Kit Bundle", files, MANIFEST_NAME, manifest.digest)]
    if checkpoints:
        datasets.append(_models_dataset(checkpoints, folder / "models"))
    return Shipment(tuple(datasets), kernel, models_from, checkout)


def _mention_edits(path, kernel):
    """The file is for people and for the official client; an edit there would be lost without a word."""
    edits = find_edits(path, kernel) if path.exists() else []
    if edits:
        logger.warning("%s was edited (%s): a push sends what the kit would write there", path, ", ".join(edits))


def notebook_path(checkout, kernel) -> Path:
    """Return where the notebook of a kernel lies.

    Parameters
    ----------
    checkout : str or Path
        Holds ``kernels/`` and ``notebooks/``.
    kernel : str
        ``train``, ``submit`` or ``explore``.

    Returns
    -------
    pathlib.Path
    """
    return Path(checkout) / "kernels" / kernel / kernel_metadata(kernel)["code_file"]


def _models_dataset(checkpoints, folder):
    """The weights in the layout of run folders, with a manifest of their hashes."""
    from vesuvius_kit.models.checkpoint import find_checkpoints

    files = {}
    for path in find_checkpoints(checkpoints):
        name = _name_in_models(path, files)
        files[name] = path
        if (path.parent / "config.yaml").is_file():
            files[Path(name).with_name("config.yaml").as_posix()] = path.parent / "config.yaml"
    hashes = {name: sha256_of(path) for name, path in sorted(files.items())}
    digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    make_folder(folder)
    with write_atomically(folder / MODELS_MANIFEST_NAME) as stream:
        json.dump({"digest": digest, "files": hashes}, stream, indent=1, sort_keys=True)
    files[MODELS_MANIFEST_NAME] = folder / MODELS_MANIFEST_NAME
    return Dataset(MODELS_SLUG, "Vesuvius Kit Models", files, MODELS_MANIFEST_NAME, digest)


def _name_in_models(path, taken):
    """Where a checkpoint lies in the data set: ``run/fold_N/best/checkpoint.safetensors``, N free."""
    fold = path.absolute().parents[1]
    run, number = "run", 0
    if fold.name.startswith("fold_") and fold.name[5:].isdigit():
        run, number = fold.parent.name or "run", int(fold.name[5:])
    while f"{run}/fold_{number}/best/{path.name}" in taken:
        number += 1
    return f"{run}/fold_{number}/best/{path.name}"


def sha256_of(path) -> str:
    """Return the hash of a file, in hexadecimal digits.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    str
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
