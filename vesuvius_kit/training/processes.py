"""The processes of a run, as Accelerate started them: one, one a GPU in a notebook, or many on several machines.

What a process must know alike, all of them learn here: values are averaged or gathered, never assumed equal.
"""

import logging
import os
import warnings
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DataLoaderConfiguration,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.inference import choose_device, choose_dtype

# One process may score a large volume while the others wait. A process that dies is noticed by the launcher, not by this.
_LONGEST_WAIT = timedelta(hours=2)


def start_accelerator(device: str = "auto", precision: str = "auto") -> Accelerator:
    """Join the processes of this launch, each on a device of its own.

    Parameters
    ----------
    device : str
        ``auto`` is this process's own GPU, or the processor where there is none; ``cpu``; or, with one process only,
        a device such as ``cuda:1``.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``; see `vesuvius_kit.inference.choose_dtype`.

    Returns
    -------
    accelerate.Accelerator
        It splits each batch of a prepared loader over the processes.

    Raises
    ------
    InputValueError
        Not a device of this machine; one device for several processes.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        several = int(os.environ.get("WORLD_SIZE", 1)) > 1
        if several and chosen.index is not None:
            raise InputValueError(f"device must be auto or cpu where several processes train, got {device}")
        own = int(os.environ.get("LOCAL_RANK", 0)) if several else chosen.index
        if own is not None:
            torch.cuda.set_device(own)
    dtype = choose_dtype(precision, chosen)
    release_accelerator()
    with warnings.catch_warnings():
        # Processes on one processor share its threads; Accelerate divides them, and says so.
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
        return Accelerator(
            mixed_precision={torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype],
            cpu=chosen.type == "cpu",
            dataloader_config=DataLoaderConfiguration(split_batches=True),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
        )


def get_main_logger(name: str) -> logging.Logger:
    """Return a logger that is silent in all processes but the main one.

    Parameters
    ----------
    name : str
        Of the module.

    Returns
    -------
    logging.Logger
    """
    logger = logging.getLogger(name)
    logger.addFilter(_in_main_process)
    return logger


def _in_main_process(_record) -> bool:
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


def dtype_of(accelerator: Accelerator) -> torch.dtype:
    """Return the type that an accelerator computes in.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
        As `start_accelerator` returns it.

    Returns
    -------
    torch.dtype
    """
    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[accelerator.mixed_precision]


def gather_rows(rows: list) -> list:
    """Return the entries of all processes in the order of the processes, the same list in each of them.

    Parameters
    ----------
    rows : list
        Of this process; anything that can be pickled.

    Returns
    -------
    list
    """
    return list(gather_object(list(rows)))


def take_from_main(value):
    """Return the main process's value in every process.

    Parameters
    ----------
    value : object
        Anything that can be pickled; that of the other processes is dropped.

    Returns
    -------
    object
    """
    return broadcast_object_list([value])[0]
