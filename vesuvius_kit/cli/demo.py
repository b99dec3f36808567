"""The whole main job on a phantom: data, training, prediction, repair, submission.zip, score, a picture."""

from vesuvius_kit.config.parser import make_bare_parser, parse_arguments
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument("--output", type=str, default="demo", help="folder of everything the demo makes")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom and the training")
    parser.add_argument("--tiny", type=bool, default=False, help="seconds instead of minutes, to see that it runs")
    given = parse_arguments(parser, arguments)
    from vesuvius_kit.demo import run_demo

    summary = run_demo(given.output, seed=given.seed, tiny=given.tiny, progress=show_progress)
    print(summary.to_text())
