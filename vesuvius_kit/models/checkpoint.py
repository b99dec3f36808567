"""Save and resume: one safetensors file holds weights, optimiser and the state of the run, and is replaced in one move.

A checkpoint is a folder with ``checkpoint.safetensors`` and, beside it, the resolved ``config.yaml`` for a person to read.
Tensors are named ``model.*``, ``optimizer.*`` and ``average.*``; everything else is JSON in the file's own header. So a
kill at any moment leaves the old checkpoint or the new one, never half of each, and nothing is ever unpickled.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from vesuvius_kit.checks import (
    InputError,
    InputNotFoundError,
    InputOSError,
    InputValueError,
    check_file,
    make_folder,
    name_os_errors,
    one_line,
)
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.run_folder import list_folds
from vesuvius_kit.models import ModelRecord, SegmentationModel, create_model

FILE_NAME = "checkpoint.safetensors"
_DIGEST_LENGTH = 16
# In bytes, as the safetensors library has it: a length that was damaged is not allocated.
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    record: ModelRecord
    """Which network the weights belong to and how its input is normalised."""
    weights: dict[str, torch.Tensor]
    """The network's state dict."""
    optimizer: dict[str, torch.Tensor]
    """The optimiser's tensors by ``{parameter index}.{name}``; empty in a ``best`` checkpoint."""
    state: dict[str, Any]
    """Epoch, controller, counters, history and the resolved configuration, as JSON holds them."""
    average: dict[str, torch.Tensor]
    """The mean of the weights that a run takes towards its end; empty before."""


class CheckpointHeader(NamedTuple):
    """What a checkpoint says of itself; see `Checkpoint`."""

    record: ModelRecord
    state: dict[str, Any]


class CheckpointFile(NamedTuple):
    """A checkpoint on the disk, as it was when it was inspected."""

    path: Path
    digest: str
    """16 digits of the SHA-256 of its bytes: what tells it from every other file."""
    header: CheckpointHeader


def save_checkpoint(
    folder: Path | str,
    model: SegmentationModel,
    state: Mapping[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
    config_yaml: str | None = None,
    average: Mapping[str, torch.Tensor] | None = None,
    *,
    half: bool = False,
) -> Path:
    """Write a checkpoint, replacing an earlier one in the same folder in one move, and return the file.

    When the disk is full or read-only, the earlier checkpoint is as it was.

    Parameters
    ----------
    folder
        Made if missing.
    model
        With ``record``, as `create_model` returns it.
    state
        Anything JSON can hold; the settings of the training as ``config``, for predictions.
    optimizer
        Its tensors are stored as well; needed to resume, not to predict.
    config_yaml
        Written beside the file as ``config.yaml``.
    average
        Averaged weights, stored beside the model's own.
    half
        The model's weights are stored in float16, half the size, to predict with; they are loaded as float32. Weights beyond
        its range are refused.

    Examples
    --------
    >>> import tempfile, vesuvius_kit as vk
    >>> model = vk.create_model("unet3d", initial_filters=2, depth=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = vk.save_checkpoint(folder, model, {"epoch": 3})
    ...     restored = vk.load_model(folder)
    >>> path.name, restored.record == model.record
    ('checkpoint.safetensors', True)
    """
    if model.record is None:
        raise InputValueError("model must have a record, as create_model gives it, got none")
    folder = make_folder(folder)
    tensors = {f"model.{name}": _halve(name, tensor) if half else tensor for name, tensor in model.state_dict().items()}
    if optimizer is not None:
        for index, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors |= {f"average.{name}": tensor for name, tensor in (average or {}).items()}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"record": json.dumps(model.record.to_dict()), "state": json.dumps(state, allow_nan=False)}
    path = folder / FILE_NAME
    with write_atomically(path, "wb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        try:
            save_file(tensors, stream.name, metadata=header)
            # Newer safetensors put a file of their own in its place, which nobody else may read.
            os.chmod(stream.name, mode)
        except SafetensorError as error:
            # What the system says reaches us as text: "I/O error: No space left on device (os error 28)".
            reason = str(error).removeprefix("Error while serializing: ").removeprefix("I/O error: ")
            raise InputOSError(f"cannot write {path}: {reason}") from error
    if config_yaml is not None:
        with write_atomically(folder / "config.yaml") as stream:
            stream.write(config_yaml)
    return path


def _halve(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float16, counters as they are."""
    if not tensor.is_floating_point():
        return tensor
    halved = tensor.to(torch.float16)
    if not torch.isfinite(halved).all():
        raise InputValueError(
            f"weights must be finite in float16 to be stored in half precision, got infinity in {name}"
        )
    return halved


def remove_leftovers(folder: Path | str) -> None:
    """Remove what killed runs left of checkpoints they were writing, each as large as one; only its run may call this.

    The folder, of a checkpoint, may be missing.
    """
    # Ours, and those of safetensors.
    for pattern in (f".{FILE_NAME}.*.part", ".config.yaml.*.part", ".*.link", ".tmp*"):
        for leftover in Path(folder).glob(pattern):
            with suppress(OSError):
                leftover.unlink()


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint, its folder or the file, onto the CPU; a damaged file, or one not of this kit, is refused."""
    with _open_checkpoint(path) as file:
        record, state = _parse_metadata(file.metadata() or {}, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    weights, optimizer, average = (_part(tensors, prefix) for prefix in ("model.", "optimizer.", "average."))
    return Checkpoint(record, weights, optimizer, state, average)


def read_checkpoint_header(path: Path | str) -> CheckpointHeader:
    """Read what a checkpoint, its folder or the file, says of itself, and none of its tensors."""
    path = _file_of(path)
    with name_os_errors(f"read {path}"), open(path, "rb") as stream:
        return _read_header(stream, path)


def inspect_checkpoint(path: Path | str) -> CheckpointFile:
    """Read a checkpoint, its folder or the file, once from end to end, for its header and its digest; nothing is kept of it."""
    path = _file_of(path)
    with name_os_errors(f"read {path}"), open(path, "rb") as stream:
        header = _read_header(stream, path)
        stream.seek(0)
        return CheckpointFile(path, hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGEST_LENGTH], header)


def have_same_weights(path: Path | str, other: Path | str) -> bool:
    """Return whether two checkpoints hold the same network weights, as ``best`` and ``last`` of one epoch do."""
    with _open_checkpoint(path) as first, _open_checkpoint(other) as second:
        names, others = _names_of_weights(first), _names_of_weights(second)
        # Nothing is read after the first tensor that differs.
        return names == others and all(_is_equal(first.get_tensor(name), second.get_tensor(name)) for name in names)


def _names_of_weights(file: Any) -> list[str]:
    return sorted(name for name in file.keys() if name.startswith("model."))  # noqa: SIM118 - not a dict


def _is_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors are the same in type, shape and every bit, so that NaN equals itself."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def _file_of(path: Path | str) -> Path:
    path = Path(path)
    return check_file("checkpoint", path / FILE_NAME if path.is_dir() else path)


@contextmanager
def _open_checkpoint(path: Path | str) -> Iterator[Any]:
    """The open file of a checkpoint, as safetensors has it: what is not asked for is not read."""
    path = _file_of(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise _not_complete(path, error) from error


def _not_complete(path: Path, reason: object) -> InputValueError:
    return InputValueError(f"checkpoint must be a complete safetensors file, got {path}: {reason}")


def _read_header(stream: BinaryIO, path: Path) -> CheckpointHeader:
    """Read the header from the beginning of a file: 8 bytes of its length, then JSON, then the tensors without a gap."""
    length = int.from_bytes(stream.read(8), "little")
    if length > _LONGEST_HEADER:
        raise _not_complete(path, f"a header of {length} bytes")
    try:
        content = json.loads(stream.read(length))
        metadata = content.pop("__metadata__", None) or {}
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata must be text")
        end = 8 + length + max((entry["data_offsets"][1] for entry in content.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _not_complete(path, f"its header cannot be read ({one_line(error)})") from error
    if end != (size := stream.seek(0, os.SEEK_END)):
        raise _not_complete(path, f"{size} bytes where its header says {end}")
    return _parse_metadata(metadata, path)


def _parse_metadata(metadata: Mapping[str, Any], path: Path | str) -> CheckpointHeader:
    """What the kit wrote into the metadata of a safetensors file."""
    if not {"record", "state"} <= metadata.keys():
        raise InputValueError(f"checkpoint must have been written by this kit, got {path}")
    try:
        record, state = (json.loads(metadata[name]) for name in ("record", "state"))
        if not isinstance(record, dict) or not isinstance(state, dict):
            raise InputValueError("its record and its state are no JSON objects")
        return CheckpointHeader(ModelRecord.from_dict(record), state)
    except (ValueError, RecursionError, InputError) as error:
        raise InputValueError(f"checkpoint must have been written by this kit, got {path}: {error}") from error


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def link_checkpoint(source: Path | str, target: Path | str) -> None:
    """Make one checkpoint's folder hold what another holds, in one move and, where the file system can, without a copy.

    The folder ``target`` is made if missing. When the disk is full or read-only, it holds what it held.
    """
    source, target = Path(source), make_folder(target)
    # The weights last: what the folder is judged by.
    for name in ("config.yaml", FILE_NAME):
        partial = target / f".{name}.link"
        with name_os_errors(f"write {target / name}"):
            try:
                partial.unlink(missing_ok=True)
                _link_or_copy(source / name, partial)
                os.replace(partial, target / name)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Not every file system has links.
        shutil.copyfile(source, target)


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put the tensors of `Checkpoint.optimizer` back into an optimiser over the same parameters.

    Its options (the rate among them) are kept; its state is replaced.
    """
    content = optimizer.state_dict()
    content["state"] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        content["state"].setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(content)


def load_model(path: Path | str, digest: str | None = None) -> SegmentationModel:
    """Rebuild the network of a checkpoint, its folder or the file, with its weights, in evaluation mode on the CPU.

    Parameters
    ----------
    digest
        What `inspect_checkpoint` said of the file before: other bytes are refused.

    Examples
    --------
    >>> import tempfile, vesuvius_kit as vk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = vk.save_checkpoint(folder, vk.create_model("unet3d", initial_filters=2, depth=1), {})
    ...     model = vk.load_model(folder)
    >>> model.record.name, model.training
    ('unet3d', False)
    """
    path = _file_of(path)
    # Read once: what is compared with the digest is what predicts, also when the file is replaced in between.
    data = path.read_bytes()
    if digest is not None and (found := hashlib.sha256(data).hexdigest()[:_DIGEST_LENGTH]) != digest:
        raise InputValueError(
            f"checkpoint must not be replaced while it is in use, got {path} with digest {found} after {digest} at the start"
        )
    try:
        weights = _part(load_tensors(data), "model.")
    except SafetensorError as error:
        raise _not_complete(path, error) from error
    record, _ = _read_header(io.BytesIO(data), path)
    model = create_model(record.name, normalisation=record.normalisation, rules=record.rules, **record.options)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputValueError(f"checkpoint must hold the weights of its {record.name}, got {path}: {reason}") from error
    return model.eval()


def find_checkpoints(paths: Iterable[Path | str]) -> list[Path]:
    """Return the checkpoint files meant by some paths, to be averaged, in the order of the paths.

    Each path is a checkpoint (file or folder), a fold's folder (its ``best`` is taken, else ``last``) or a run's folder (every
    fold in it: ``fold_0``, ``fold_1`` and so on, no other name). Nothing at a path is an error.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        chosen = _checkpoint_of(path)
        files = [chosen] if chosen else [file for fold in list_folds(path) if (file := _checkpoint_of(fold))]
        if not files:
            raise InputNotFoundError(
                f"checkpoint must be a {FILE_NAME} in {path} or its folds (fold_0, fold_1, ...), got none"
            )
        found += files
    return found


def _checkpoint_of(path: Path) -> Path | None:
    """The checkpoint file a path names without looking into folds; ``best`` before ``last``."""
    places = [path, path / FILE_NAME, path / "best" / FILE_NAME, path / "last" / FILE_NAME]
    return next((place for place in places if place.is_file()), None)
