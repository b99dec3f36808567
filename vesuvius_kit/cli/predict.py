"""Write the surface probabilities of every volume in a folder."""

from vesuvius_kit.cli.prediction import add_prediction_arguments, parse_with_checkpoint_defaults, report_worker_error
from vesuvius_kit.config import PredictConfig
from vesuvius_kit.config.parser import add_settings, make_bare_parser
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument("--images", type=str, required=True, help="folder of {id}.tif")
    add_prediction_arguments(parser)
    parser.add_argument("--output", type=str, default="probabilities", help="folder for {id}.npy, float16")
    add_settings(parser, PredictConfig, "predict")
    given, built = parse_with_checkpoint_defaults(parser, arguments, ["predict"])
    from vesuvius_kit.inference.submission import predict_folder
    from vesuvius_kit.inference.workers import WorkerError

    try:
        predict_folder(
            given.images,
            given.checkpoints,
            given.output,
            built.predict,
            workers=given.workers,
            fresh=given.fresh,
            progress=show_progress,
        )
    except WorkerError as error:
        return report_worker_error(error, given.fresh)
    print(given.output)
    return 0
