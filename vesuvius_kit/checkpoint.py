"""Save and resume: one safetensors file holds weights, optimiser and the state of the run, and is replaced in one move.

A checkpoint is a folder with ``checkpoint.safetensors`` and, beside it, the resolved ``config.yaml`` for a person to read.
Tensors are named ``model.*``, ``optimizer.*`` and ``average.*``; everything else is JSON in the file's own header. So a
kill at any moment leaves the old checkpoint or the new one, never half of each, and nothing is ever unpickled.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vesuvius_kit.checks import InputNotFoundError, InputValueError, check_file
from vesuvius_kit.models import ModelRecord, create_model
from vesuvius_kit.volume import write_atomically

FILE_NAME = "checkpoint.safetensors"


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
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
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
        save_file(tensors, stream.name, metadata=header)
    if config_yaml is not None:
        with write_atomically(folder / "config.yaml") as stream:
            stream.write(config_yaml)
    return path


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
    path = Path(path)
    path = check_file("checkpoint", path / FILE_NAME if path.is_dir() else path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputValueError(f"checkpoint must be a complete safetensors file, got {path}: {error}") from error
    if not {"record", "state"} <= header.keys():
        raise InputValueError(f"checkpoint must have been written by this kit, got {path}")
    weights, optimizer, average = (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in ("model.", "optimizer.", "average.")
    )
    record = ModelRecord.from_dict(json.loads(header["record"]))
    return Checkpoint(record, weights, optimizer, json.loads(header["state"]), average)


def link_checkpoint(source, target) -> None:
    """Make one checkpoint's folder hold what another holds, in one move and, where the file system can, without a copy.

    Parameters
    ----------
    source, target : str or Path
        Folders; ``target`` is made if missing, and what it held is replaced.
    """
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    # The weights last: what the folder is judged by.
    for name in ("config.yaml", FILE_NAME):
        partial = target / f".{name}.link"
        partial.unlink(missing_ok=True)
        try:
            os.link(source / name, partial)
        except OSError:
            # Not every file system has links.
            shutil.copyfile(source / name, partial)
        os.replace(partial, target / name)


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


def load_model(path) -> torch.nn.Module:
    """Rebuild the network of a checkpoint with its weights, in evaluation mode.

    Parameters
    ----------
    path : str or Path
        The checkpoint's folder or file.

    Returns
    -------
    torch.nn.Module
        On the processor, with ``record``.

    Raises
    ------
    InputNotFoundError, InputValueError
        See `load_checkpoint`.
    """
    checkpoint = load_checkpoint(path)
    model = create_model(
        checkpoint.record.name, normalisation=checkpoint.record.normalisation, **checkpoint.record.options
    )
    model.load_state_dict(checkpoint.weights)
    return model.eval()


def find_checkpoints(paths) -> list[Path]:
    """Return the checkpoints meant by a list of paths, to be averaged in that order.

    Parameters
    ----------
    paths : sequence of str or Path
        Each is a checkpoint (file or folder), a fold's folder (its ``best`` is taken, else ``last``) or a run's folder (every
        fold in it).

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    InputNotFoundError
        Nothing was found at a path.
    """
    found = []
    for path in map(Path, paths):
        folds = sorted(path.glob("fold_[0-9]*"), key=lambda fold: (len(fold.name), fold.name))
        chosen = _checkpoint_of(path)
        files = [chosen] if chosen else [file for fold in folds if (file := _checkpoint_of(fold))]
        if not files:
            raise InputNotFoundError(f"checkpoint must be a {FILE_NAME} in {path} or its folds, got none")
        found += files
    return found


def _checkpoint_of(path: Path) -> Path | None:
    """The checkpoint file a path names without looking into folds; ``best`` before ``last``."""
    places = [path, path / FILE_NAME, path / "best" / FILE_NAME, path / "last" / FILE_NAME]
    return next((place for place in places if place.is_file()), None)
