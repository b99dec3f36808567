"""The command ``vesuvius-kit``: one module for each subcommand, which arranges one call of the library.

Each module has a docstring, whose first line is the command's summary, and ``run(prog, arguments)``, which parses and calls.

Exit codes: 0 done, 1 an audit or a run found a fault or Kaggle refused, 2 something the user gave cannot be used (one line
says what), 130 stopped by Ctrl-C.
"""

import logging
import os
import sys
import warnings

from vesuvius_kit import __version__
from vesuvius_kit.checks import InputError, InputValueError, RunFailedError, explain_os_error
from vesuvius_kit.cli import (
    audit,
    bundle,
    demo,
    diagnose,
    phantom,
    postprocess,
    predict,
    push,
    rehearse,
    score,
    ship,
    submit,
    train,
)
from vesuvius_kit.console import configure_logging, how_to_go_on, outlive_readers
from vesuvius_kit.inference.hardware import count_cores
from vesuvius_kit.kaggle.errors import KaggleError

logger = logging.getLogger(__name__)

COMMANDS = {
    "demo": demo,
    "phantom": phantom,
    "audit": audit,
    "train": train,
    "predict": predict,
    "postprocess": postprocess,
    "score": score,
    "submit": submit,
    "diagnose": diagnose,
    "bundle": bundle,
    "push": push,
    "ship": ship,
    "rehearse": rehearse,
}

# These keep nothing of an unfinished call.
START_AGAIN = ("audit", "score", "diagnose", "rehearse")


def main(arguments=None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the program's name; by default those of the process.

    Returns
    -------
    int
        0 done, 1 a fault was found or Kaggle refused, 2 unusable input, 130 stopped by Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    configure_logging()
    _share_cores()
    # A library's warning about its own future is not for the person at the command line.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with outlive_readers():
        return _report(arguments)


def _report(arguments):
    """Run a command; what went wrong is said in one line."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        code, line = 2, _one_line(error)
    except (KaggleError, RunFailedError) as error:
        code, line = 1, _one_line(error)
    except OSError as error:
        # The last net: what the disk or the system refused without anybody naming it.
        place = f"{error.filename}: " if error.filename else ""
        code, line = 2, f"{place}{_one_line(explain_os_error(error))}"
    except KeyboardInterrupt as stop:
        code, line = 130, f"stopped; {_one_line(stop) or _after_stop(arguments)}"
    # Only now are the loops that were left gone, and with them the progress bars that the line would stand behind.
    print(f"vesuvius-kit: {line}", file=sys.stderr)
    return code


def _share_cores():
    """Tell the numerical libraries how many cores a container was given: they count those of the machine."""
    cores = count_cores()
    if cores < (os.cpu_count() or 1) and "torch" not in sys.modules:
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ.setdefault(name, str(cores))


def _after_stop(arguments):
    """What a person has to do after Ctrl-C, where the command itself did not say."""
    if arguments[:1] and arguments[0] in START_AGAIN:
        return "the same command starts again"
    return how_to_go_on("--fresh" in arguments)


def _one_line(error):
    """The message of an error; of one that a loader process sent with its traceback, the last line."""
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(text.split())


def _run(arguments):
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"vesuvius-kit {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputValueError(f"command must be one of {', '.join(COMMANDS)}, got {name!r}")
    return COMMANDS[name].run(f"vesuvius-kit {name}", rest) or 0


def _overview():
    lines = [
        "usage: vesuvius-kit COMMAND [OPTIONS]",
        "",
        "Find the papyrus surface in X-ray CT of the Herculaneum scrolls.",
    ]
    lines += ["", "commands (each has its own --help):"]
    # Python leaves docstrings out under -OO.
    summaries = {name: (command.__doc__ or "").partition("\n")[0] for name, command in COMMANDS.items()}
    lines += [f"  {name:<12} {summary}" for name, summary in summaries.items()]
    return "\n".join(lines)
