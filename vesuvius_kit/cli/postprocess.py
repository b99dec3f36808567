"""Turn a folder of probabilities into masks."""

from dataclasses import replace

from vesuvius_kit.config import PostprocessConfig
from vesuvius_kit.config.parser import add_settings, instantiate, make_bare_parser, parse_arguments
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument("--probabilities", type=str, default="probabilities", help="folder of {id}.npy, .npz or .tif")
    parser.add_argument("--output", type=str, default="masks", help="folder for {id}.tif, uint8 in {0, 1}")
    parser.add_argument(
        "--pipeline", type=str, default=None, help="short for --postprocess.pipeline: a preset or a YAML file"
    )
    parser.add_argument("--report", type=str, default=None, help="JSON file: what every step changed in every volume")
    parser.add_argument("--processes", type=int, default=1, help="volumes at once")
    parser.add_argument("--fresh", action="store_true", help="make again what is there")
    add_settings(parser, PostprocessConfig, "postprocess")
    given = parse_arguments(parser, arguments)
    settings = instantiate(parser, given).postprocess
    if given.pipeline is not None:
        settings = replace(settings, pipeline=given.pipeline)
    from vesuvius_kit.inference.submission import postprocess_folder

    postprocess_folder(
        given.probabilities,
        given.output,
        settings,
        report=given.report,
        processes=given.processes,
        fresh=given.fresh,
        progress=show_progress,
    )
    print(given.output)
