"""Weights of any origin: the kit's checkpoints and nnU-Net's results folders, found, told apart and loaded alike."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from vesuvius_kit.checks import InputNotFoundError, InputValueError, name_os_errors
from vesuvius_kit.models.checkpoint import (
    find_checkpoints,
    have_same_weights,
    inspect_checkpoint,
    load_model,
    read_checkpoint_header,
    save_checkpoint,
)
from vesuvius_kit.models.nnunet import (
    Fold,
    digest_nnunet,
    find_nnunet,
    is_nnunet,
    load_nnunet,
    read_network,
    read_rules,
)
from vesuvius_kit.models.nnunet_plans import DATASET_NAME, PLANS_NAME
from vesuvius_kit.models.nnunet_splits import read_training_ids
from vesuvius_kit.models.registry import SegmentationModel, create_model
from vesuvius_kit.models.rules import PredictionRules

logger = logging.getLogger(__name__)

_OF_THE_MACHINE = ("predict.device", "predict.precision")
_OF_THE_ENSEMBLE = ("predict.weights",)
_OF_THE_NETWORK = ("predict.window", "predict.overlap", "predict.tta")

_RESULTS_FOLDER = f"{PLANS_NAME}, {DATASET_NAME} and fold_*/checkpoint_*.pth"
_FOREIGN_SUFFIXES = (".pth", ".pt", ".ckpt", ".zip")


class WeightsFile(NamedTuple):
    """Weights on the disk, as they were when they were inspected."""

    path: Path
    """A kit checkpoint's file; of nnU-Net its folder, or what was given of it."""
    digest: str
    """16 digits of a SHA-256: what tells the bytes from all others."""
    kind: Literal["kit", "nnunet"]
    """Who wrote them."""
    rules: PredictionRules
    """How the network is shown a volume; its window is None where the patch size of the training is not known."""
    settings: Mapping[str, Any]
    """The settings of the training by section, as a kit checkpoint holds them; empty for others."""
    source: str | None = None
    """The digest of what a converted checkpoint was made from."""


def find_weights(paths: Iterable[Path | str]) -> list[Path]:
    """Return what holds the weights meant by some paths, to be averaged, in the order of the paths.

    A path is a results folder of nnU-Net (one network, whatever the number of its folds), a fold of it or a checkpoint in that;
    or it is what `find_checkpoints` takes: a checkpoint, a fold or a run of the kit. Nothing at a path is an error.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        found += [path] if is_nnunet(path) else _find_of_the_kit(path)
    return found


def _find_of_the_kit(path: Path) -> list[Path]:
    """The checkpoints of the kit that a path means; what looks like nnU-Net's without being complete is named."""
    if path.is_file() and path.suffix in _FOREIGN_SUFFIXES:
        raise InputValueError(
            f"weights must be a checkpoint of the kit or nnU-Net's results folder ({_RESULTS_FOLDER}), unpacked, got {path}"
        )
    try:
        return find_checkpoints([path])
    except InputNotFoundError as error:
        if nested := sorted(plans.parent for depth in ("*", "*/*") for plans in path.glob(f"{depth}/{PLANS_NAME}")):
            raise InputNotFoundError(
                f"nnU-Net's results folder must be given itself, got {path}, which holds {', '.join(map(str, nested[:4]))}"
            ) from error
        if any(True for pattern in ("*.pth", "fold_*/*.pth") for _ in path.glob(pattern)):
            raise InputNotFoundError(
                f"nnU-Net's results folder must be complete ({_RESULTS_FOLDER}), got {path} without"
            ) from error
        raise


def inspect_weights(path: Path | str) -> WeightsFile:
    """Read one entry of `find_weights` once from end to end, for its digest and what it says of itself."""
    path = Path(path)
    if is_nnunet(path):
        files = find_nnunet(path)
        return WeightsFile(path, digest_nnunet(files), "nnunet", read_rules(files), {})
    file = inspect_checkpoint(path)
    settings, source = _settings_of(file.header.state), file.header.state.get("source")
    rules = file.header.record.rules
    if rules.window is None:
        size = settings.get("patches", {}).get("size")
        if isinstance(size, (list, tuple)) and len(size) == 3:
            rules = replace(rules, window=(int(size[0]), int(size[1]), int(size[2])))
    return WeightsFile(file.path, file.digest, "kit", rules, settings, source if isinstance(source, str) else None)


def read_settings(path: Path | str) -> Mapping[str, Any] | None:
    """Return the settings of the training by section, None where the weights bring none: those of other programs.

    Read from a checkpoint's header alone.
    """
    if is_nnunet(path):
        return None
    settings = read_checkpoint_header(path).state.get("config")
    return settings if isinstance(settings, dict) else None


def split_folds(path: Path | str) -> list[Path]:
    """Return the networks of one entry of `find_weights` that were trained on different volumes: nnU-Net's folds."""
    return list(find_nnunet(path).checkpoints) if is_nnunet(path) else [Path(path)]


def read_trained_on(path: Path | str) -> frozenset[str]:
    """Return the ids of the volumes that one entry of `find_weights` was ever trained on.

    A checkpoint of the kit says so itself, of nnU-Net's folder ``splits_final.json`` does; see `read_training_ids`.

    Raises
    ------
    InputNotFoundError
        Nothing says so; the message says what is missing.
    InputValueError
        What says so is damaged.
    """
    if is_nnunet(path):
        return read_training_ids(find_nnunet(path))
    state = read_checkpoint_header(path).state
    run = state.get("run")
    ids: set[str] = set()
    # A converted checkpoint has no state of a run.
    for holder in (state, run if isinstance(run, dict) else {}):
        for name in ("trained_on", "chunk_ids"):
            listed = holder.get(name, [])
            if not isinstance(listed, list) or not all(isinstance(id_, str) for id_ in listed):
                raise InputValueError(f"{name} of a checkpoint must be a list of ids, got {listed!r} in {path}")
            ids.update(listed)
    if not ids:
        raise InputNotFoundError(
            f"which volumes a network was trained on must be known: a checkpoint must list them in its state (trained_on), as "
            f"train writes it, got none in {path}"
        )
    return frozenset(ids)


def read_size_divisors(file: WeightsFile) -> tuple[int, int, int]:
    """Return what the edges, (z, y, x), of a network's windows must be multiples of, without its weights."""
    if file.kind == "nnunet":
        name, options = "nnunet", read_network(find_nnunet(file.path))
    else:
        record = read_checkpoint_header(file.path).record
        name, options = record.name, record.options
    with torch.device("meta"):
        return create_model(name, **options).size_divisors


def agreed_settings(weights: Iterable[Path | str]) -> dict[str, Any]:
    """Return how some weights, entries of `find_weights`, were predicted and repaired while they were trained.

    The keys are the settings' names, such as ``predict.overlap``. Device and precision belong to the machine, weights to one
    ensemble: they are left out, and so is, with a line in the log, what the weights do not agree on. Beside weights that bring
    none, as nnU-Net's, so are window, overlap and test-time augmentation: those have rules of their own.
    """
    found = [read_settings(path) for path in weights]
    those_with = [settings for settings in found if settings is not None]
    bring_rules = len(those_with) < len(found)
    agreed: dict[str, Any] = {}
    for section in ("predict", "postprocess"):
        names = {name: None for settings in those_with for name in settings.get(section, {})}
        for name in names:
            key, values = f"{section}.{name}", [settings.get(section, {}).get(name) for settings in those_with]
            if key in (*_OF_THE_MACHINE, *_OF_THE_ENSEMBLE) or (bring_rules and key in _OF_THE_NETWORK):
                continue
            if all(value == values[0] for value in values):
                agreed[key] = values[0]
            else:
                said = ", ".join(map(str, values))
                logger.info("the weights do not agree on %s (%s): the default holds, unless it is given", key, said)
    return agreed


def share_weights(files: Sequence[WeightsFile], weights: Mapping[str, float]) -> list[float]:
    """Return what each network counts by ``predict.weights``, whose keys are digests; 1 for each where they are empty.

    A converted checkpoint may be named by the digest of what it was made from.

    Raises
    ------
    InputValueError
        Weights for a network that is not there, none for one that is, or 0 for all.
    """
    if not weights:
        return [1.0] * len(files)
    named = {name for file in files for name in (file.digest, file.source) if name is not None}
    listed = ", ".join(f"{file.digest} ({file.path})" for file in files)
    if strangers := [digest for digest in weights if digest not in named]:
        raise InputValueError(
            f"predict.weights must name networks that are given, {listed}, got {', '.join(strangers)}"
        )
    shares = [weights.get(file.digest, weights.get(file.source or "")) for file in files]
    if forgotten := [file for file, share in zip(files, shares) if share is None]:
        names = ", ".join(f"{file.digest} ({file.path})" for file in forgotten)
        raise InputValueError(f"predict.weights must name every network or none, got none for {names}")
    known = [share for share in shares if share is not None]
    if not any(known):
        raise InputValueError("predict.weights must leave a network with a weight above 0, got 0 for all")
    return known


def _settings_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = state.get("config")
    return settings if isinstance(settings, dict) else {}


def load_weights(path: Path | str, digest: str | None = None) -> SegmentationModel:
    """Rebuild the network of one entry of `find_weights`, in evaluation mode on the CPU.

    ``digest`` is what `inspect_weights` said of it before: other bytes are refused.
    """
    return load_nnunet(path, digest=digest) if is_nnunet(path) else load_model(path, digest)


def are_the_same(first: WeightsFile, second: WeightsFile) -> bool:
    """Return whether two entries hold the same network, one of them perhaps converted from the other."""
    if {first.digest, first.source} & {second.digest, second.source} - {None}:
        return True
    return first.kind == second.kind == "kit" and have_same_weights(first.path, second.path)


def convert_weights(
    path: Path | str,
    output: Path | str,
    *,
    half: bool = False,
    folds: Fold | Sequence[Fold] | None = None,
    checkpoint: str | None = None,
    surface: str | int | Sequence[str | int] | None = None,
) -> Path:
    """Write weights as one checkpoint of the kit, which needs no pickle, into a folder, and return the file.

    Parameters
    ----------
    path
        A results folder of nnU-Net, or a checkpoint of the kit, whose optimiser is left out.
    output
        Made if missing; an earlier checkpoint there is replaced, but never the one that is converted.
    half
        Store the weights in float16, half the size.
    folds, checkpoint, surface
        Of nnU-Net's folder alone; see `load_nnunet`.
    """
    if is_nnunet(path):
        files = find_nnunet(path, folds, checkpoint)
        digest = digest_nnunet(files)
        model = load_nnunet(path, folds, checkpoint=checkpoint, surface=surface, digest=digest)
        return save_checkpoint(
            output, model, {"source": digest, **_trained_on(lambda: read_training_ids(files))}, half=half
        )
    for name, value in (("folds", folds), ("checkpoint", checkpoint), ("surface", surface)):
        if value is not None:
            raise InputValueError(f"{name} must be left out for a checkpoint of the kit, got {value!r}")
    (file,) = _only(find_weights([path]), path)
    if file.parent.resolve() == Path(output).resolve():
        raise InputValueError(
            f"output must be another folder than the checkpoint's, which would be replaced, got {output}"
        )
    inspected = inspect_checkpoint(file)
    state = {key: value for key, value in inspected.header.state.items() if key == "config"}
    state |= {"source": inspected.digest, **_trained_on(lambda: read_trained_on(file))}
    return save_checkpoint(output, load_model(file, inspected.digest), state, config_yaml=_read_config(file), half=half)


def _trained_on(read: Callable[[], frozenset[str]]) -> dict[str, list[str]]:
    """What a converted checkpoint keeps of its training, where that is known."""
    try:
        return {"trained_on": sorted(read())}
    except InputNotFoundError:
        return {}


def _read_config(file: Path) -> str | None:
    """The settings of the training beside a checkpoint, as the notebooks read them."""
    beside = file.with_name("config.yaml")
    if not beside.is_file():
        return None
    with name_os_errors(f"read {beside}"):
        return beside.read_text(encoding="utf-8")


def _only(files: Sequence[Path], path: Path | str) -> Sequence[Path]:
    if len(files) != 1:
        raise InputValueError(f"weights must be one checkpoint, got {len(files)} in {path}")
    return files
