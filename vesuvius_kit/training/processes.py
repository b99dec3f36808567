"""The processes of a run, as Accelerate started them: one, one a GPU in a notebook, or many on several machines.

What a process must know alike, all of them learn here: values are averaged or gathered, never assumed equal.
"""

import getpass
import logging
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DataLoaderConfiguration,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import Precision as PrecisionName
from vesuvius_kit.inference.precision import Precision, choose_precision
from vesuvius_kit.inference.predict import choose_device

# One process may score a large volume while the others wait. A process that dies is noticed by the launcher, not by this.
_LONGEST_WAIT = timedelta(hours=2)

_TRUE, _FALSE = ("1", "yes", "on", "y", "t", "true"), ("", "0", "no", "off", "n", "f", "false")
# What the environment may say to Accelerate, by `accelerate launch` or by hand, although the settings decide: where it says
# anything else, it asks for something that the kit would not do. Of each, the values that ask for nothing, and the reason.
_MUST_BE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        ("", "1"),
        "gradients are not accumulated, train.batch_size is the batch",
    ),
    "ACCELERATE_DYNAMO_BACKEND": (("", "no"), "networks are not compiled"),
    "ACCELERATE_USE_DEEPSPEED": (_FALSE, "processes share the batch and nothing else"),
    "ACCELERATE_USE_FSDP": (_FALSE, "processes share the batch and nothing else"),
    "ACCELERATE_USE_MEGATRON_LM": (_FALSE, "processes share the batch and nothing else"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (_FALSE, "processes share the batch and nothing else"),
    "ACCELERATE_USE_SAGEMAKER": (_FALSE, "processes are started by accelerate launch, torchrun or notebook_launcher"),
    "ACCELERATE_DOWNCAST_BF16": (_FALSE, "there is no training on TPUs"),
}
# These change nothing that is computed and reach Accelerate; all others of its variables are hidden from it.
_HARMLESS = ("ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE")
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
# With these MPI tells a process what launchers say in the variables above.
_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def name_cache_folder() -> None:
    """Give PyTorch's compiler a cache where the user has no name, as in many containers; called before a network is tried.

    PyTorch 2.10 loads its compiler with the first optimizer, or the first mean without numbers, asks for the name, and fails.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        folder = Path(tempfile.gettempdir()) / f"torchinductor_uid_{os.getuid()}"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def leave_lost_threads() -> None:
    """Compute on one thread in a process that was forked, as from a notebook; to be called before torch computes anything.

    OpenMP's threads do not survive the fork, and whoever waits for them waits for ever.
    """
    if isinstance(multiprocessing.current_process(), ForkProcess):
        torch.set_num_threads(1)


def start_accelerator(
    device: str = "auto", precision: PrecisionName = "auto", kept: Precision | None = None
) -> tuple[Accelerator, Precision]:
    """Join the processes of this launch, each on a device of its own, all in the precision that the main one found.

    Parameters
    ----------
    device
        ``auto`` is this process's own GPU, or the CPU where there is none; ``cpu``; or, with one process only, a device such
        as ``cuda:1``.
    precision
        See `choose_precision`.
    kept
        What the run that goes on has computed in so far; ``auto`` then means the same.

    Returns
    -------
    accelerator
        It splits each batch of a prepared loader over the processes.
    precision
        The same in every process.

    Raises
    ------
    InputValueError
        Not a device of this machine; one device for several processes; fp16 on a CPU; a variable of the environment that
        asks Accelerate for something that the kit does not do.
    """
    _check_launch()
    chosen = choose_device(_ask_for_cpu(device))
    _check_environment(chosen)
    if chosen.type == "cuda":
        several = int(os.environ.get("WORLD_SIZE", 1)) > 1
        if several and chosen.index is not None:
            raise InputValueError(f"device must be auto or cpu where several processes train, got {device}")
        own = int(os.environ.get("LOCAL_RANK", 0)) if several else chosen.index
        if own is not None:
            if own >= torch.cuda.device_count():
                raise InputValueError(
                    f"each of several processes must have a GPU of its own, got process {own} on a machine with "
                    f"{torch.cuda.device_count()}; predict.device cpu trains on the CPU"
                )
            torch.cuda.set_device(own)
        # Else cuDNN takes gradients of float32 convolutions that differ from run to run: a resumed run would be another one.
        torch.backends.cudnn.deterministic = True
    release_accelerator()
    with _quiet_launch():
        # The processes must have met before the main one can hand its precision on.
        processes = PartialState(cpu=chosen.type == "cpu", timeout=_LONGEST_WAIT)
    choice = _agree_on_precision(processes, precision, kept)
    mixed_precision = {"fp32": "no"}.get(choice.name, choice.name)
    _check_variable(
        "ACCELERATE_MIXED_PRECISION", ("", "no", mixed_precision), f"train.precision decides, here {choice.name}"
    )
    with _quiet_launch():
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            cpu=chosen.type == "cpu",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dataloader_config=DataLoaderConfiguration(split_batches=True),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
        )
    # Accelerate looks for a device by itself.
    if accelerator.device.type != chosen.type:
        raise InputValueError(
            f"device must be one that Accelerate finds, got {chosen.type} and {accelerator.device.type}"
        )
    return accelerator, choice


def _agree_on_precision(processes: PartialState, precision: PrecisionName, kept: Precision | None) -> Precision:
    """The main process's choice in every process."""
    found = None
    if processes.is_main_process:
        if precision == "auto" and kept is not None:
            found = kept
        else:
            found = choose_precision(precision, processes.device, training=True)
    choice: Precision = broadcast(found)
    if choice.name == "fp16" and processes.device.type == "cpu":
        raise InputValueError(f"precision must be fp32 or bf16 to train on a CPU, got fp16 ({choice.source})")
    return choice


def _read(name: str) -> str:
    return os.environ.get(name, "").strip().lower()


def _check_launch() -> None:
    """What a launcher says of the processes must be numbers that fit together: a forgotten variable would wait for ever."""
    several = [name for name in _MPI if _read(name) not in ("", "1")]
    if several and not all(_read(name) for name in _RANKS):
        raise InputValueError(
            "several processes must be started by accelerate launch, torchrun or notebook_launcher, got "
            f"{several[0]}={_read(several[0])}, as mpirun and srun set it"
        )
    given = {name: _read(name) for name in _RANKS if _read(name)}
    for name, value in given.items():
        if not value.isdecimal():
            raise InputValueError(
                f"{name} in the environment must be an integer >= 0, as a launcher sets it, got {value!r}"
            )
    size, rank = int(given.get("WORLD_SIZE", 1)), int(given.get("RANK", 0))
    says_several = size > 1 or rank > 0 or "LOCAL_RANK" in given
    if says_several and (len(given) < len(_RANKS) or rank >= size):
        found = " ".join(f"{name}={value}" for name, value in given.items())
        raise InputValueError(
            f"RANK, LOCAL_RANK and WORLD_SIZE must all be set by a launcher such as torchrun, or none of them, got {found}"
        )


def _ask_for_cpu(device: str) -> str:
    """The device asked for; with ``accelerate launch --cpu`` the CPU."""
    value = _read("ACCELERATE_USE_CPU")
    if value not in _TRUE + _FALSE:
        raise InputValueError(f"ACCELERATE_USE_CPU in the environment must be true or false, got {value!r}")
    if value in _FALSE or device == "cpu":
        return device
    if device != "auto":
        raise InputValueError(
            f"predict.device must be auto or cpu where the environment says ACCELERATE_USE_CPU={value}, got {device}"
        )
    return "cpu"


def _check_environment(chosen: torch.device) -> None:
    """Raise where a variable asks for something that will not be done: dropped in silence it would mislead."""
    for name, (allowed, reason) in _MUST_BE.items():
        _check_variable(name, allowed, reason)
    _check_variable("ACCELERATE_TORCH_DEVICE", ("", str(chosen)), f"predict.device decides, here {chosen}")
    for name in _HARMLESS:
        _check_variable(name, (*_FALSE, *_TRUE, "true or false"), "it is a switch")


def _check_variable(name: str, allowed: Sequence[str], reason: str) -> None:
    """The last of what is allowed is what the message proposes."""
    if _read(name) not in allowed:
        raise InputValueError(
            f"{name} in the environment must be unset or {allowed[-1]} ({reason}), got {os.environ[name]!r}"
        )


@contextmanager
def _quiet_launch() -> Iterator[None]:
    """Within the ``with`` statement Accelerate finds no variable of its own but the harmless ones."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _is_hidden(name)}
    try:
        with warnings.catch_warnings():
            # Processes on one CPU share its threads; Accelerate divides them, and says so.
            warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
            yield
    finally:
        os.environ.update(hidden)


def _is_hidden(name: str) -> bool:
    return name.startswith("ACCELERATE_") and (name not in _HARMLESS or not os.environ[name].strip())


def get_main_logger(name: str) -> logging.Logger:
    """Return a logger that is silent in all processes but the main one."""
    logger = logging.getLogger(name)
    logger.addFilter(_in_main_process)
    return logger


def _in_main_process(_record: logging.LogRecord) -> bool:
    # Every launcher sets it; asking Accelerate would need an accelerator.
    return os.environ.get("RANK", "0") == "0"


def release_accelerator() -> None:
    """Forget the last run's accelerator.

    Accelerate keeps its settings in singletons, which would forbid a second run with another precision in this process,
    and ``notebook_launcher`` after a run in the notebook itself. The connection to other processes stays.
    """
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=not connected)


def wait_for_all() -> None:
    """Wait until every process of the launch is here.

    Accelerate's own barrier names a GPU by the process's number, also where CPUs train: torch then looks for that GPU.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


@contextmanager
def plain_forward(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """A network without the autocast that Accelerate put around its forward pass: whoever calls it chooses the type.

    ``model`` is as `prepare` returned it; its forward pass is wrapped again afterwards.
    """
    wrapped = vars(model).pop("forward", None)
    try:
        yield model
    finally:
        if wrapped is not None:
            model.forward = wrapped


def dtype_of(accelerator: Accelerator) -> torch.dtype:
    """Return the type that an accelerator computes in."""
    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[accelerator.mixed_precision]


def gather_rows(rows: list[Any]) -> list[Any]:
    """Return the entries of all processes in the order of the processes, the same list in each of them.

    They must be picklable.
    """
    return list(gather_object(list(rows)))


def broadcast(value: Any) -> Any:
    """Return the value of the main process, which must be picklable, in every process."""
    return broadcast_object_list([value])[0]
