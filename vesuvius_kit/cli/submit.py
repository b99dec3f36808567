"""Predict, repair and pack every test volume into a validated submission.zip, within a time budget."""

from pathlib import Path

from vesuvius_kit.checks import InputValueError, check_duration
from vesuvius_kit.cli.prediction import add_prediction_arguments, parse_with_checkpoint_defaults, report_worker_error
from vesuvius_kit.config import PostprocessConfig, PredictConfig
from vesuvius_kit.config.parser import add_settings, make_bare_parser
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument("--data", type=str, default=None, help="competition folder; its test_images are predicted")
    parser.add_argument("--images", type=str, default=None, help="folder of {id}.tif, instead of --data")
    add_prediction_arguments(parser)
    parser.add_argument("--output", type=str, default="submission.zip", help="the archive")
    parser.add_argument(
        "--budget", type=str, default=None, help="wall time such as 8h30m; what is left gets a simple mask"
    )
    add_settings(parser, PredictConfig, "predict")
    add_settings(parser, PostprocessConfig, "postprocess")
    given, built = parse_with_checkpoint_defaults(parser, arguments, ["predict", "postprocess"])
    if (given.data is None) == (given.images is None):
        raise InputValueError("submit must be given either --data or --images, got both or neither")
    from vesuvius_kit.inference.submission import write_submission
    from vesuvius_kit.inference.workers import WorkerError

    try:
        summary = write_submission(
            given.output,
            given.images if given.data is None else Path(given.data) / "test_images",
            given.checkpoints,
            built.predict,
            built.postprocess,
            budget_seconds=None if given.budget is None else check_duration("--budget", given.budget),
            workers=given.workers,
            fresh=given.fresh,
            progress=show_progress,
        )
    except WorkerError as error:
        return report_worker_error(error, given.fresh)
    failed = f" ({len(summary.failed)} of them because the network failed)" if summary.failed else ""
    print(f"{summary.zip_path}: {len(summary.predicted)} predicted, {len(summary.simple)} simple{failed}, valid")
    return 1 if summary.failed else 0
