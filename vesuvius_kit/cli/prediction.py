"""What the commands that predict share: their arguments, and the settings a checkpoint brings along."""

import sys

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config import config_to_dict, load_config
from vesuvius_kit.config.parser import instantiate, parse_arguments
from vesuvius_kit.console import how_to_go_on


def add_prediction_arguments(parser):
    parser.add_argument(
        "--checkpoints", type=str, nargs="+", default=["checkpoints"], help="checkpoints, folds or runs; averaged"
    )
    parser.add_argument(
        "--config", type=str, default=None, help="take the settings from here instead of the first checkpoint"
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes that share the volumes; by default one for each GPU"
    )
    parser.add_argument("--fresh", action="store_true", help="make again what is there")


def parse_with_checkpoint_defaults(parser, arguments, sections):
    """Parse twice: the settings a checkpoint was trained with are the defaults of what is not given.

    Returns the parsed namespace and the one with the sections as dataclasses.
    """
    given = parse_arguments(parser, arguments)
    if given.config is not None:
        stored = config_to_dict(load_config(given.config))
    else:
        from vesuvius_kit.models.checkpoint import find_checkpoints, read_checkpoint_header

        path = find_checkpoints(given.checkpoints)[0]
        _, state = read_checkpoint_header(path)
        if not isinstance(state.get("config"), dict):
            raise InputValueError(f"checkpoint must hold the settings of its training (or give --config), got {path}")
        stored = state["config"]
    # A device or a precision belongs to the machine, not to the checkpoint.
    parser.stored = {
        f"{section}.{key}": value
        for section in sections
        for key, value in stored[section].items()
        if key not in ("device", "precision")
    }
    given = parse_arguments(parser, arguments)
    return given, instantiate(parser, given)


def report_worker_error(error, fresh):
    """Print the one line of a prediction process that failed; the exit code."""
    print(f"vesuvius-kit: {error}; what is done is kept, {how_to_go_on(fresh)}", file=sys.stderr)
    return 1
