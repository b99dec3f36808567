"""What a push sends: the bundle, the weights of trained networks, and one notebook. Built here, sent by `push`."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputValueError, check_choice, check_file, make_folder, name_os_errors
from vesuvius_kit.config.files import is_path, settings_to_yaml
from vesuvius_kit.config.tuned import read_tuned
from vesuvius_kit.constants import TUNED_FILE
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.kaggle.bundle import build_bundle
from vesuvius_kit.kaggle.metadata import KERNELS, METADATA_NAME, check_metadata, find_edits, kernel_metadata
from vesuvius_kit.kaggle.paths import BUNDLE_SLUG, MANIFEST_NAME, MODELS_SLUG

logger = logging.getLogger(__name__)

MODELS_MANIFEST_NAME = "models.json"

_PIPELINE_NAME = "pipeline.yaml"


@dataclass(frozen=True)
class Dataset:
    """What shall lie in one data set: local files by their paths in it, among them a manifest with their common digest."""

    slug: str
    title: str
    files: dict[str, Path]
    manifest_name: str
    digest: str


@dataclass(frozen=True)
class Shipment:
    """What a push sends: data sets, and the notebook of a checkout with the metadata of `kernel_metadata`."""

    datasets: tuple[Dataset, ...]
    kernel: str
    models_from: str
    checkout: Path


def prepare_shipment(
    folder: Path | str,
    *,
    checkout: Path | str = ".",
    kernel: str = "submit",
    checkpoints: Sequence[Path | str] = (),
    tuned: Path | str | None = None,
    models_from: str = "dataset",
    with_imagecodecs: bool = False,
) -> Shipment:
    """Build everything that a push sends, without contacting anybody, in ``bundle/`` and ``models/`` of a folder.

    ``checkout`` holds ``kernels/`` and ``notebooks/``. The weights of checkpoints, folds, runs or nnU-Net's folders become a
    data set, with the settings of ``tuned``, a tuning's folder. The rest is as in `kernel_metadata` and `build_bundle`.
    """
    folder, checkout = Path(folder), Path(checkout)
    if tuned is not None and not checkpoints:
        raise InputValueError(f"tuned settings must go with checkpoints, in one data set, got {tuned} alone")
    check_choice("kernel", kernel, KERNELS)
    check_file("notebook", notebook_path(checkout, kernel))
    metadata = kernel_metadata(kernel, models_from=models_from)
    problems = check_metadata(metadata, checkout / "kernels" / kernel, allow_placeholder=True)
    if problems:
        raise InputValueError(f"the {kernel} kernel must be acceptable to Kaggle, got: {'; '.join(problems)}")
    path = checkout / "kernels" / kernel / METADATA_NAME
    if edits := find_edits(path, kernel) if path.exists() else []:
        # The file is for people and for the official client; an edit there would be lost without a word.
        logger.warning("%s was edited (%s): a push sends what the kit would write there", path, ", ".join(edits))
    manifest = build_bundle(folder / "bundle", checkout=checkout, with_imagecodecs=with_imagecodecs)
    files = {name: folder / "bundle" / name for name in (MANIFEST_NAME, *(file.name for file in manifest.files))}
    datasets = [Dataset(BUNDLE_SLUG, "Vesuvius Kit Bundle", files, MANIFEST_NAME, manifest.digest)]
    if checkpoints:
        datasets.append(_models_dataset(checkpoints, folder / "models", tuned))
    return Shipment(tuple(datasets), kernel, models_from, checkout)


def notebook_path(checkout: Path | str, kernel: str) -> Path:
    """Return where the notebook of a kernel lies in a checkout."""
    return Path(checkout) / "kernels" / kernel / kernel_metadata(kernel)["code_file"]


def collect_models(checkpoints: Sequence[Path | str], folder: Path | str) -> dict[str, Path]:
    """Return the files of weights by their paths in a data set, in the layout of run folders.

    nnU-Net's folders become checkpoints of the kit, made in ``folder``, so that no session has to read a pickle; one that was
    made from the same files is taken as it is.
    """
    from vesuvius_kit.models.weights import find_weights

    files: dict[str, Path] = {}
    for path in find_weights(checkpoints):
        path = _as_kit_checkpoint(path, Path(folder))
        name = _name_in_models(path, files)
        files[name] = path
        if (path.parent / "config.yaml").is_file():
            files[Path(name).with_name("config.yaml").as_posix()] = path.parent / "config.yaml"
    return files


def collect_tuned(tuned: Path | str, checkpoints: Sequence[Path | str], folder: Path | str) -> dict[str, Path]:
    """Return the files of a tuning by their paths in a data set, written into a folder: settings, and their pipeline.

    What does not fit, such as weights of other networks, is refused here, and not on Kaggle.
    """
    from vesuvius_kit.models.weights import find_weights, inspect_weights, share_weights
    from vesuvius_kit.postprocess.pipeline import choose_pipeline

    settings, folder = read_tuned(tuned), make_folder(folder)
    if weights := settings.get("predict.weights"):
        share_weights([inspect_weights(path) for path in find_weights(checkpoints)], weights)
    files = {TUNED_FILE: folder / TUNED_FILE}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    postprocess = sections.get("postprocess", {})
    choose_pipeline(**postprocess)
    if is_path(pipeline := str(postprocess.get("pipeline", ""))):
        postprocess["pipeline"], files[_PIPELINE_NAME] = _PIPELINE_NAME, folder / _PIPELINE_NAME
        with name_os_errors(f"write {folder / _PIPELINE_NAME}"):
            shutil.copyfile(pipeline, folder / _PIPELINE_NAME)
    with write_atomically(folder / TUNED_FILE) as stream:
        stream.write(settings_to_yaml(sections))
    return files


def _as_kit_checkpoint(path: Path, folder: Path) -> Path:
    """A checkpoint of the kit, itself or converted."""
    from vesuvius_kit.models.checkpoint import read_checkpoint_header
    from vesuvius_kit.models.nnunet import digest_nnunet, find_nnunet, is_nnunet
    from vesuvius_kit.models.weights import convert_weights

    if not is_nnunet(path):
        return path
    files = find_nnunet(path)
    digest = digest_nnunet(files)
    # The digest keeps two folders of one name apart.
    target = folder / "converted" / digest / _safe_name(files.folder) / "fold_0" / "best"
    converted = target / "checkpoint.safetensors"
    if converted.is_file() and read_checkpoint_header(converted).state.get("source") == digest:
        return converted
    logger.info("%s becomes a checkpoint of the kit", path)
    return convert_weights(path, target)


def _safe_name(folder: Path) -> str:
    """The name of a results folder, in letters that every file system and Kaggle take."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", folder.absolute().name).strip("_") or "nnunet"


def _models_dataset(checkpoints: Sequence[Path | str], folder: Path, tuned: Path | str | None = None) -> Dataset:
    """The weights, with tuned settings and a manifest of their hashes."""
    found = {} if tuned is None else collect_tuned(tuned, checkpoints, folder / "tuned")
    files = collect_models(checkpoints, folder) | found
    hashes = {name: sha256_of(path) for name, path in sorted(files.items())}
    digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    make_folder(folder)
    with write_atomically(folder / MODELS_MANIFEST_NAME) as stream:
        json.dump({"digest": digest, "files": hashes}, stream, indent=1, sort_keys=True)
    files[MODELS_MANIFEST_NAME] = folder / MODELS_MANIFEST_NAME
    return Dataset(MODELS_SLUG, "Vesuvius Kit Models", files, MODELS_MANIFEST_NAME, digest)


def _name_in_models(path: Path, taken: Collection[str]) -> str:
    """Where a checkpoint lies in the data set: ``run/fold_N/best/checkpoint.safetensors``, N free."""
    fold = re.search(r"([^/]*)/fold_(\d+)/[^/]+/[^/]+$", path.absolute().as_posix())
    run, number = (fold[1] or "run", int(fold[2])) if fold else ("run", 0)
    while f"{run}/fold_{number}/best/{path.name}" in taken:
        number += 1
    return f"{run}/fold_{number}/best/{path.name}"


def sha256_of(path: Path | str) -> str:
    """Return the hash of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
