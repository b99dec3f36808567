"""A results folder of nnU-Net v2 as a model of the kit, without nnU-Net (Isensee et al., Nature Methods 2021).

Such a folder holds ``plans.json``, ``dataset.json`` and a folder ``fold_K`` with ``checkpoint_final.pth`` or
``checkpoint_best.pth`` for each fold. All its folds are one model, whose logits are averaged as nnU-Net does.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch

from vesuvius_kit.checks import (
    InputNotFoundError,
    InputTypeError,
    InputValueError,
    check_file,
    name_os_errors,
)
from vesuvius_kit.models.nnunet_plans import (
    DATASET_NAME,
    PLANS_NAME,
    NnUNetLabels,
    NnUNetPlans,
    parse_json,
    parse_labels,
    parse_plans,
)
from vesuvius_kit.models.pickled import read_pickled
from vesuvius_kit.models.registry import SegmentationModel, create_model
from vesuvius_kit.models.rules import OutputRule, PredictionRules

logger = logging.getLogger(__name__)

Fold = int | Literal["all"]

DIGEST_LENGTH = 16
"""Digits of a SHA-256 that tell weights apart."""

_FOLD = re.compile(r"fold_(0|[1-9][0-9]*|all)")
_DEFAULT_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_WRAPPERS = ("module.", "_orig_mod.")
# Names that a message lists before it says how many more there are.
_LISTED = 4


@dataclass(frozen=True)
class NnUNetFolder:
    """Which files of a results folder make up a model."""

    folder: Path
    """With ``plans.json`` and ``dataset.json``."""
    checkpoints: tuple[Path, ...]
    """One of each fold."""


def is_nnunet(path: Path | str) -> bool:
    """Return whether a path is a results folder of nnU-Net, the folder of a fold in one, or a checkpoint in that."""
    return _locate(Path(path)) is not None


def _locate(path: Path) -> tuple[Path, Path | None, Path | None] | None:
    """The results folder, the fold's folder and the checkpoint that a path names, None for what it leaves open."""
    if (path / PLANS_NAME).is_file():
        return path, None, None
    # A relative path may end at the fold.
    path = path.absolute()
    fold = path.parent if path.suffix == ".pth" else path
    if not _FOLD.fullmatch(fold.name) or not (fold.parent / PLANS_NAME).is_file():
        return None
    return fold.parent, fold, path if path.suffix == ".pth" else None


def find_nnunet(
    path: Path | str, folds: Fold | Sequence[Fold] | None = None, checkpoint: str | None = None
) -> NnUNetFolder:
    """Return the files that a path, and for a whole folder a choice of folds, means; see `load_nnunet`."""
    located = _locate(Path(path))
    if located is None:
        raise InputNotFoundError(f"nnU-Net's results folder must hold {PLANS_NAME}, got none in {path}")
    folder, fold, file = located
    if (fold is not None or file is not None) and (folds is not None or (file is not None and checkpoint is not None)):
        raise InputValueError(f"folds and checkpoint must be left out where the path names them, got {path}")
    if file is not None:
        return NnUNetFolder(folder, (check_file("checkpoint", file),))
    if fold is not None:
        return NnUNetFolder(folder, (_checkpoint_of(fold, checkpoint, is_needed=True),))
    if folds is not None:
        chosen = [folds] if isinstance(folds, (int, str)) else list(folds)
        if not chosen or len(set(map(str, chosen))) != len(chosen):
            raise InputValueError(f"folds must be different folds, at least one, got {chosen}")
        places = [folder / f"fold_{_check_fold(number)}" for number in chosen]
        return NnUNetFolder(folder, tuple(_checkpoint_of(place, checkpoint, is_needed=True) for place in places))
    there = [place for place in folder.glob("fold_*") if _FOLD.fullmatch(place.name) and place.is_dir()]
    # A network of all data is no member of a cross-validation: it is taken where there is no other.
    numbered = [place for place in there if place.name != "fold_all"]
    numbered.sort(key=lambda place: int(place.name.removeprefix("fold_")))
    for candidates in (numbered, there):
        files = [_checkpoint_of(place, checkpoint, is_needed=False) for place in candidates]
        if found := tuple(file for file in files if file is not None):
            if without := [place.name for place, file in zip(candidates, files) if file is None]:
                logger.warning("%s: no checkpoint in %s, left out", folder, ", ".join(without))
            return NnUNetFolder(folder, found)
    wanted = _name_of(checkpoint) if checkpoint else " or ".join(_DEFAULT_CHECKPOINTS)
    raise InputNotFoundError(
        f"nnU-Net's results folder must hold fold_0, fold_1, ... with {wanted}, got none in {folder}"
    )


def _check_fold(fold: object) -> Fold:
    if fold == "all":
        return "all"
    if not isinstance(fold, int) or isinstance(fold, bool):
        raise InputTypeError(f"folds must be numbers or all, got {fold!r}")
    if fold < 0:
        raise InputValueError(f"folds must be >= 0, got {fold}")
    return fold


def _name_of(checkpoint: str) -> str:
    return f"checkpoint_{checkpoint}.pth" if checkpoint in ("final", "best", "latest") else checkpoint


def _checkpoint_of(fold: Path, checkpoint: str | None, *, is_needed: bool) -> Any:
    """The checkpoint's path; None where there is none and none is needed."""
    names = _DEFAULT_CHECKPOINTS if checkpoint is None else (_name_of(checkpoint),)
    file = next((fold / name for name in names if (fold / name).is_file()), None)
    if file is None and is_needed:
        there = ", ".join(sorted(path.name for path in fold.glob("*.pth"))) or "no checkpoint"
        raise InputNotFoundError(f"{fold} must hold {' or '.join(names)}, got {there}")
    return file


def load_nnunet(
    folder: Path | str,
    folds: Fold | Sequence[Fold] | None = None,
    *,
    checkpoint: str | None = None,
    surface: str | int | Sequence[str | int] | None = None,
    digest: str | None = None,
) -> SegmentationModel:
    """Return the network of an nnU-Net v2 results folder, in evaluation mode on the CPU, with its own record.

    The record holds how nnU-Net prepares a volume, how its windows lie and what it mirrors, so that `predict_volume` answers
    what nnU-Net's own predictor does.

    Parameters
    ----------
    folder
        With ``plans.json`` and ``dataset.json``; or a fold in it, or a checkpoint in that.
    folds
        Numbers, or ``all``; the logits of several are averaged. Default: every numbered fold with a checkpoint.
    checkpoint
        ``final``, ``best`` or the name of a file. Default: final, where a fold has none, best.
    surface
        The labels or regions that are the surface, by name or number. Default: the only foreground; of several, those whose
        name contains surface, recto, papyrus or sheet (without "non" or "not"), else all.
    digest
        What `digest_nnunet` said of the files before: other bytes are refused.

    Raises
    ------
    InputError
        A file is missing or damaged, a pickle names code, the plans ask for what the kit does not do, or the names and shapes
        of the weights are not those of the network in the plans; one line says which.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> model = vk.load_nnunet("surface_m7_nnunet")  # doctest: +SKIP
    >>> probability = vk.predict_volume(model, vk.read_volume("1407735.tif"))  # doctest: +SKIP
    """
    files = find_nnunet(folder, folds, checkpoint)
    hasher = hashlib.sha256()
    plans, dataset = (_read_hashed(files.folder / name, hasher) for name in (PLANS_NAME, DATASET_NAME))
    labels = parse_labels(dataset, str(plans.get("label_manager", "LabelManager")))
    output = labels.output_rule(surface)
    parsed: NnUNetPlans | None = None
    axes: tuple[int, ...] | None = None
    members: list[dict[str, torch.Tensor]] = []
    for path in files.checkpoints:
        content = _read_checkpoint(path, hasher)
        own = parse_plans(plans, _configuration_of(content, path), str(content.get("trainer_name", "nnUNetTrainer")))
        if parsed is None:
            # As nnU-Net, which asks the first fold alone.
            parsed, axes = own, _mirror_axes(content, path)
        elif own != parsed:
            raise InputValueError(
                f"folds must be of one configuration, got {parsed.configuration} and {own.configuration}"
            )
        members.append(_clean_weights(content, path))
    if digest is not None and (found := hasher.hexdigest()[:DIGEST_LENGTH]) != digest:
        raise InputValueError(
            f"checkpoint must not be replaced while it is in use, got {files.folder} with digest {found} after {digest} at "
            "the start"
        )
    if parsed is None:
        raise InputNotFoundError(f"nnU-Net's results folder must hold a checkpoint, got none in {files.folder}")
    model = create_model(
        "nnunet",
        normalisation=parsed.normalisation,
        rules=_rules_of(parsed, output, axes),
        n_classes=output.n_channels,
        n_members=len(members),
        **parsed.network,
    )
    if any(edge % divisor for edge, divisor in zip(parsed.patch_size, model.size_divisors)):
        raise InputValueError(f"patch_size must be multiples of {model.size_divisors}, got {parsed.patch_size}")
    for member, weights, path in zip(
        model.get_submodule("members").children(), members, files.checkpoints, strict=True
    ):
        _load_weights(member, weights, path)
    return model.eval()


def digest_nnunet(files: NnUNetFolder) -> str:
    """Return 16 digits of the SHA-256 of plans, labels and checkpoints: what tells a model from every other."""
    hasher = hashlib.sha256()
    for name in (PLANS_NAME, DATASET_NAME):
        _read_hashed(files.folder / name, hasher)
    for path in files.checkpoints:
        with _hashed(path, hasher):
            pass
    return hasher.hexdigest()[:DIGEST_LENGTH]


def read_rules(files: NnUNetFolder) -> PredictionRules:
    """Return how a folder's model is shown a volume, without its weights; the first checkpoint names the configuration."""
    parsed, labels, axes = _read_description(files)
    return _rules_of(parsed, labels.output_rule(None), axes)


def read_network(files: NnUNetFolder) -> dict[str, Any]:
    """Return the options of a folder's network, as `create_model` takes them."""
    return _read_description(files)[0].network


def read_dataset_name(files: NnUNetFolder) -> str:
    """Return what nnU-Net calls the data set, such as ``Dataset001_Scroll``; that of its folder where the plans do not say."""
    path = files.folder / PLANS_NAME
    name = parse_json(_read_bytes(path), path).get("dataset_name")
    return name if isinstance(name, str) and Path(name).name == name else files.folder.resolve().parent.name


def _read_description(files: NnUNetFolder) -> tuple[NnUNetPlans, NnUNetLabels, tuple[int, ...] | None]:
    plans, dataset = (
        parse_json(_read_bytes(files.folder / name), files.folder / name) for name in (PLANS_NAME, DATASET_NAME)
    )
    path = files.checkpoints[0]
    content = read_pickled(path, is_lazy=True)
    parsed = parse_plans(plans, _configuration_of(content, path), str(content.get("trainer_name", "nnUNetTrainer")))
    labels = parse_labels(dataset, str(plans.get("label_manager", "LabelManager")))
    return parsed, labels, _mirror_axes(content, path)


def _rules_of(plans: NnUNetPlans, output: OutputRule, mirror_axes: tuple[int, ...] | None) -> PredictionRules:
    """As nnU-Net's own predictor."""
    return PredictionRules(
        output=output,
        average="logits",
        window=plans.patch_size,
        grid="nnunet",
        mirror_axes=mirror_axes,
        transpose=plans.transpose,
        crop=True,
        spacing=plans.spacing,
        resampling=plans.resampling,
    )


def _read_bytes(path: Path) -> bytes:
    with name_os_errors(f"read {path}"):
        return check_file("nnU-Net file", path).read_bytes()


def _read_hashed(path: Path, hasher: Any) -> dict[str, Any]:
    data = _read_bytes(path)
    hasher.update(data)
    return parse_json(data, path)


@contextmanager
def _hashed(path: Path, hasher: Any) -> Iterator[BinaryIO]:
    """A file at its beginning, its bytes hashed: what is read then is what was hashed, also when it is replaced."""
    with name_os_errors(f"read {path}"), open(path, "rb") as stream:
        hasher.update(path.parent.name.encode())
        while block := stream.read(1 << 22):
            hasher.update(block)
        stream.seek(0)
        yield stream


def _read_checkpoint(path: Path, hasher: Any) -> dict[str, Any]:
    with _hashed(path, hasher) as stream:
        content = read_pickled(stream, path)
    if not isinstance(content, dict):
        raise InputValueError(f"checkpoint must hold nnU-Net's dictionary, got {type(content).__name__} in {path}")
    return content


def _configuration_of(content: object, path: Path) -> str:
    arguments = content.get("init_args") if isinstance(content, dict) else None
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    if not isinstance(configuration, str):
        raise InputValueError(f"checkpoint must name its configuration in init_args, got none in {path}")
    return configuration


def _mirror_axes(content: Mapping[str, Any], path: Path) -> tuple[int, ...] | None:
    """The axes, of the network, that predictions may be mirrored along; files of older releases allow none."""
    axes = content.get("inference_allowed_mirroring_axes")
    if axes is None:
        return None
    if not isinstance(axes, (tuple, list)) or any(axis not in (0, 1, 2) for axis in axes):
        raise InputValueError(f"inference_allowed_mirroring_axes must be axes 0, 1, 2, got {axes!r} in {path}")
    return tuple(int(axis) for axis in axes) or None


def _clean_weights(content: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """A network's weights by the names that the plain module has."""
    weights = content.get("network_weights")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputValueError(f"checkpoint must hold tensors by name in network_weights, got none in {path}")
    cleaned: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        own = str(name)
        while wrapper := next((text for text in _WRAPPERS if own.startswith(text)), None):
            own = own.removeprefix(wrapper)
        # Every block is listed twice, and the decoder lists the encoder once more.
        if ".all_modules." not in own and not own.startswith("decoder.encoder."):
            cleaned[own] = value
    return cleaned


def _load_weights(member: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put weights into a network whose names and shapes they must have."""
    state = member.state_dict()
    faults = [f"{name} is missing" for name in state if name not in weights]
    faults += [f"{name} is not of the network" for name in weights if name not in state]
    faults += [
        f"{name} is {value.dtype}, {value.layout}, on {value.device}"
        for name, value in weights.items()
        if name in state and not _is_plain(value, state[name])
    ]
    faults += [
        f"{name} is {tuple(weights[name].shape)} for {tuple(own.shape)}"
        for name, own in state.items()
        if name in weights and weights[name].shape != own.shape
    ]
    if faults:
        more = f" and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise InputValueError(
            f"checkpoint must match the network of its plans name by name, got {path}: {', '.join(faults[:_LISTED])}{more}"
        )
    member.load_state_dict(dict(weights))


def _is_plain(value: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a tensor is of real numbers as a network holds them: not packed, and with a value of its own everywhere."""
    is_dense = value.layout is torch.strided and not value.is_quantized and value.device.type == "cpu"
    return is_dense and value.is_floating_point() == own.is_floating_point() and not value.is_complex()
