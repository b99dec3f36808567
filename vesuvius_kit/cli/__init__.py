"""The command ``vesuvius-kit``: one module for each subcommand, which arranges one call of the library.

Each module has a docstring, whose first line is the command's summary, and ``run(prog, arguments)``, which parses and calls.

Exit codes: 0 done, 1 an audit or a run found a fault or Kaggle refused, 2 something the user gave cannot be used (one line
says what), 130 stopped by Ctrl-C.
"""

import logging
import sys
import warnings

from vesuvius_kit import __version__
from vesuvius_kit.checks import InputError, InputValueError
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
from vesuvius_kit.console import configure_logging
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
    # A library's warning about its own future is not for the person at the command line.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        return _run(arguments)
    except InputError as error:
        print(f"vesuvius-kit: {_one_line(error)}", file=sys.stderr)
        return 2
    except KaggleError as error:
        print(f"vesuvius-kit: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vesuvius-kit: stopped; the same command goes on", file=sys.stderr)
        return 130


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
    lines += [f"  {name:<12} {command.__doc__.splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(lines)
