"""Train the chosen folds; the same command goes on where a run was stopped."""

import os

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.config.parser import make_parser, parse_arguments, run_config_of
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_parser(prog=prog, description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="move an earlier run aside and start from nothing")
    parser.add_argument(
        "--resume_from", "--resume-from", type=str, default=None, help="checkpoint to start from under changed settings"
    )
    given = parse_arguments(parser, arguments)
    config = run_config_of(parser, given)
    if not config.data:
        raise InputValueError("--data must name the competition folder, got nothing")
    from vesuvius_kit.training.loop import train

    folder = train(config, fresh=given.fresh, resume_from=given.resume_from, progress=show_progress)
    # Where several processes train, each of them comes by here.
    if os.environ.get("RANK", "0") == "0":
        print(folder)
