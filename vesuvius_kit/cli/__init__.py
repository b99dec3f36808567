"""The command ``vesuvius-kit``: one module for each subcommand, with one typed function, which makes one call of the library.

`command.py` makes the options from the function's signature and its help from the docstring.

Exit codes: 0 done, 1 an audit or a run found a fault or Kaggle refused, 2 something the user gave cannot be used (one line
says what), 130 stopped by Ctrl-C.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from vesuvius_kit import __version__
from vesuvius_kit.checks import InputError, InputValueError, RunFailedError, explain_os_error
from vesuvius_kit.cli.audit import audit
from vesuvius_kit.cli.bundle import bundle
from vesuvius_kit.cli.command import Command, StoredSettings, run_command, summary_of
from vesuvius_kit.cli.convert import convert
from vesuvius_kit.cli.demo import demo
from vesuvius_kit.cli.diagnose import diagnose
from vesuvius_kit.cli.phantom import phantom
from vesuvius_kit.cli.postprocess import postprocess
from vesuvius_kit.cli.predict import predict, settings_of_prediction
from vesuvius_kit.cli.prediction import settings_of_training, settings_of_tuning
from vesuvius_kit.cli.push import push
from vesuvius_kit.cli.rehearse import rehearse
from vesuvius_kit.cli.report import report
from vesuvius_kit.cli.score import score
from vesuvius_kit.cli.ship import ship
from vesuvius_kit.cli.submit import submit
from vesuvius_kit.cli.train import train
from vesuvius_kit.cli.tune import tune
from vesuvius_kit.console import configure_logging, how_to_go_on, outlive_readers
from vesuvius_kit.inference.hardware import count_cores
from vesuvius_kit.kaggle.errors import KaggleError

logger = logging.getLogger(__name__)

COMMANDS: dict[str, Command] = {
    "demo": demo,
    "phantom": phantom,
    "audit": audit,
    "train": train,
    "predict": predict,
    "postprocess": postprocess,
    "score": score,
    "tune": tune,
    "report": report,
    "submit": submit,
    "convert": convert,
    "diagnose": diagnose,
    "bundle": bundle,
    "push": push,
    "ship": ship,
    "rehearse": rehearse,
}

STORED_SETTINGS: dict[str, StoredSettings] = {
    "predict": settings_of_prediction,
    "submit": settings_of_training,
    "postprocess": settings_of_tuning,
}
"""Where a command finds settings that its command line does not give."""

# These keep nothing of an unfinished call.
START_AGAIN = ("audit", "score", "report", "diagnose", "rehearse")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default that of the process, and return its exit code, see above."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    configure_logging()
    _share_cores()
    # A library's warning about its own future is not for the person at the command line.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with outlive_readers():
        return _report(words)


def _report(arguments: list[str]) -> int:
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
        # What the disk or the system refused without anybody naming it.
        place = f"{error.filename}: " if error.filename else ""
        code, line = 2, f"{place}{_one_line(explain_os_error(error))}"
    except KeyboardInterrupt as stop:
        code, line = 130, f"stopped; {_one_line(stop) or _after_stop(arguments)}"
    # Only now are the loops that were left gone, and with them the progress bars that the line would stand behind.
    print(f"vesuvius-kit: {line}", file=sys.stderr)
    return code


def _share_cores() -> None:
    """Tell the numerical libraries how many cores a container was given: they count those of the machine."""
    cores = count_cores()
    if cores < (os.cpu_count() or 1) and "torch" not in sys.modules:
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ.setdefault(name, str(cores))


def _after_stop(arguments: list[str]) -> str:
    """What a person has to do after Ctrl-C, where the command itself did not say."""
    if arguments[:1] and arguments[0] in START_AGAIN:
        return "the same command starts again"
    return how_to_go_on("--fresh" in arguments)


def _one_line(error: object) -> str:
    """The message of an error; of one that a loader process sent with its traceback, the last line."""
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(text.split())


def _run(arguments: list[str]) -> int:
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"vesuvius-kit {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputValueError(f"command must be one of {', '.join(COMMANDS)}, got {name!r}")
    return run_command(COMMANDS[name], rest, f"vesuvius-kit {name}", STORED_SETTINGS.get(name))


def _overview() -> str:
    lines = [
        "usage: vesuvius-kit COMMAND [OPTIONS]",
        "",
        "Find the papyrus surface in X-ray CT of the Herculaneum scrolls.",
    ]
    lines += ["", "commands (each has its own --help):"]
    lines += [f"  {name:<12} {summary_of(command)}" for name, command in COMMANDS.items()]
    return "\n".join(lines)
