"""Save and resume: one safetensors file holds weights, optimiser and the state of the run, and is replaced in one move.

A checkpoint is a folder with ``checkpoint.safetensors`` and, beside it, the resolved ``config.yaml`` for a person to read.
Tensors are named ``model.*``, ``optimizer.*`` and ``average.*``; everything else is JSON in the file's own header. So a
kill at any moment leaves the old checkpoint or the new one, never half of each, and nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

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
)
from vesuvius_kit.io.run_folder import list_folds
from vesuvius_kit.io.volume import write_atomically
from vesuvius_kit.models import ModelRecord, create_model

FILE_NAME = "checkpoint.safetensors"
_DIGEST_LENGTH = 16


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Parameters
    ----------
    record : ModelRecord
        Which network the weights belong to and how its input is normalised.
    weights : dict of str to torch.Tensor
        The network's state dict.
    optimizer : dict of str to torch.Tensor
        The optimiser's tensors by ``{parameter index}.{name}``; empty in a ``best`` checkpoint.
    state : dict
        Epoch, controller, counters, history and the resolved configuration, as JSON holds them.
    average : dict of str to torch.Tensor
        The mean of the weights that a run takes towards its end; empty before.
    """

    record: ModelRecord
    weights: dict
    optimizer: dict
    state: dict
    average: dict


def save_checkpoint(folder, model, state: dict, optimizer=None, config_yaml: str | None = None, average=None) -> Path:
    """Write a checkpoint, replacing an earlier one in the same folder in one move.

    Parameters
    ----------
    folder : str or Path
        Made if missing.
    model : torch.nn.Module
        With ``record``, as `create_model` returns it.
    state : dict
        Anything JSON can hold.
    optimizer : torch.optim.Optimizer, optional
        Its tensors are stored as well; needed to resume, not to predict.
    config_yaml : str, optional
        Written beside the file as ``config.yaml``.
    average : dict of str to torch.Tensor, optional
        Averaged weights, stored beside the model's own.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputOSError
        The disk is full or read-only; the earlier checkpoint is as it was.
    """
    folder = make_folder(folder)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
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


def remove_leftovers(folder) -> None:
    """Remove what killed runs left of checkpoints they were writing, each as large as one; only its run may call this.

    Parameters
    ----------
    folder : str or Path
        Of a checkpoint; it may be missing.
    """
    # Ours, and those of safetensors.
    for pattern in (f".{FILE_NAME}.*.part", ".config.yaml.*.part", ".*.link", ".tmp*"):
        for leftover in Path(folder).glob(pattern):
            with suppress(OSError):
                leftover.unlink()


def load_checkpoint(path) -> Checkpoint:
    """Read a checkpoint onto the processor.

    Parameters
    ----------
    path : str or Path
        The folder or the file in it.

    Returns
    -------
    Checkpoint

    Raises
    ------
    InputNotFoundError
        There is no such file.
    InputValueError
        It is not a checkpoint of the kit, or it is damaged.
    """
    with _open_checkpoint(path) as file:
        record, state = _parse_header(file.metadata() or {}, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    weights, optimizer, average = (_part(tensors, prefix) for prefix in ("model.", "optimizer.", "average."))
    return Checkpoint(record, weights, optimizer, state, average)


def read_checkpoint_header(path) -> tuple[ModelRecord, dict]:
    """Read what a checkpoint says of itself, and none of its tensors.

    Parameters
    ----------
    path : str or Path
        The folder or the file in it.

    Returns
    -------
    record : ModelRecord
        Which network it is and how its input is normalised.
    state : dict
        See `Checkpoint.state`.

    Raises
    ------
    InputNotFoundError, InputValueError
        See `load_checkpoint`.
    """
    with _open_checkpoint(path) as file:
        return _parse_header(file.metadata() or {}, path)


def read_digest(path) -> str:
    """Return what tells one checkpoint file from every other: 16 digits of the SHA-256 of its bytes.

    Parameters
    ----------
    path : str or Path
        The folder or the file in it.

    Returns
    -------
    str

    Raises
    ------
    InputNotFoundError
        There is no such file.
    """
    with open(_file_of(path), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGEST_LENGTH]


def read_weights_digest(path) -> str:
    """Return what tells the network's weights in a checkpoint from all others, whatever else the file holds.

    Parameters
    ----------
    path : str or Path
        The folder or the file in it.

    Returns
    -------
    str
        The same for ``best`` and ``last`` of one epoch, of which one file has an optimiser and the other has none.

    Raises
    ------
    InputNotFoundError, InputValueError
        See `load_checkpoint`.
    """
    digest = hashlib.sha256()
    with _open_checkpoint(path) as file:
        for name in sorted(name for name in file.keys() if name.startswith("model.")):  # noqa: SIM118 - not a dict
            tensor = file.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _file_of(path):
    path = Path(path)
    return check_file("checkpoint", path / FILE_NAME if path.is_dir() else path)


@contextmanager
def _open_checkpoint(path):
    """The open file of a checkpoint."""
    path = _file_of(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise InputValueError(f"checkpoint must be a complete safetensors file, got {path}: {error}") from error


def _parse_header(header, path):
    if not {"record", "state"} <= header.keys():
        raise InputValueError(f"checkpoint must have been written by this kit, got {path}")
    try:
        record, state = (json.loads(header[name]) for name in ("record", "state"))
        if not isinstance(record, dict) or not isinstance(state, dict):
            raise InputValueError("its record and its state are no JSON objects")
        return ModelRecord.from_dict(record), state
    except (ValueError, RecursionError, InputError) as error:
        raise InputValueError(f"checkpoint must have been written by this kit, got {path}: {error}") from error


def _part(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def link_checkpoint(source, target) -> None:
    """Make one checkpoint's folder hold what another holds, in one move and, where the file system can, without a copy.

    Parameters
    ----------
    source, target : str or Path
        Folders; ``target`` is made if missing, and what it held is replaced.

    Raises
    ------
    InputOSError
        The disk is full or read-only; ``target`` holds what it held.
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


def _link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:
        # Not every file system has links.
        shutil.copyfile(source, target)


def restore_optimizer(optimizer, tensors: dict) -> None:
    """Put the tensors of a checkpoint back into an optimiser over the same parameters.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its options (the rate among them) are kept; its state is replaced.
    tensors : dict of str to torch.Tensor
        `Checkpoint.optimizer`.
    """
    content = optimizer.state_dict()
    content["state"] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        content["state"].setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(content)


def load_model(path, digest: str | None = None) -> torch.nn.Module:
    """Rebuild the network of a checkpoint with its weights, in evaluation mode.

    Parameters
    ----------
    path : str or Path
        The checkpoint's folder or file.
    digest : str, optional
        What `read_digest` said of the file before: other bytes are refused.

    Returns
    -------
    torch.nn.Module
        On the processor, with ``record``.

    Raises
    ------
    InputNotFoundError, InputValueError
        See `load_checkpoint`; a file that was replaced; weights that are not those of the network.
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
        raise InputValueError(f"checkpoint must be a complete safetensors file, got {path}: {error}") from error
    # The file begins with the length of its header, in 8 bytes; the library gives no header of bytes.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    record, _ = _parse_header(header, path)
    model = create_model(record.name, normalisation=record.normalisation, **record.options)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputValueError(f"checkpoint must hold the weights of its {record.name}, got {path}: {reason}") from error
    return model.eval()


def find_checkpoints(paths) -> list[Path]:
    """Return the checkpoints meant by a list of paths, to be averaged.

    Parameters
    ----------
    paths : sequence of str or Path
        Each is a checkpoint (file or folder), a fold's folder (its ``best`` is taken, else ``last``) or a run's folder (every
        fold in it: ``fold_0``, ``fold_1`` and so on, no other name).

    Returns
    -------
    list of pathlib.Path
        The files, in the order of the paths.

    Raises
    ------
    InputNotFoundError
        Nothing was found at a path.
    """
    found = []
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
