"""Push, follow the notebook until it ends, fetch and validate its output, and submit it on request."""

from pathlib import Path

from vesuvius_kit.checks import InputValueError, check_duration, check_folder
from vesuvius_kit.cli.push import add_push_arguments, prepare
from vesuvius_kit.config.parser import make_bare_parser, parse_arguments
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    add_push_arguments(parser)
    parser.add_argument(
        "--data", type=str, default=None, help="competition folder; its test_images validate the submission"
    )
    parser.add_argument(
        "--submit", action="store_true", help="submit that version to the competition and wait for the score"
    )
    parser.add_argument("--message", type=str, default="vesuvius-kit", help="stands beside the submission")
    parser.add_argument("--wait", type=str, default="14h", help="how long to wait for the notebook, and for the score")
    given = parse_arguments(parser, arguments)
    if given.kernel != "submit" and given.submit:
        raise InputValueError(f"--submit must go with --kernel submit, got --kernel {given.kernel}")
    if given.kernel == "submit":
        if given.data is None:
            raise InputValueError("--data must name the competition folder, to validate the submission, got none")
        check_folder("test images", Path(given.data) / "test_images")
    from vesuvius_kit.inference.submission import list_images

    wait_seconds = check_duration("--wait", given.wait)
    if given.kernel == "submit":
        list_images(Path(given.data) / "test_images")
    client, shipment = prepare(given)
    if client is None:
        print("then: follow the notebook, fetch its output" + (", submit it" if given.submit else ""))
        return
    from vesuvius_kit.kaggle.follow import check_output, follow, submit_run
    from vesuvius_kit.kaggle.push import push

    started = push(client, shipment, given.folder, progress=show_progress)
    print(f"{started.kernel} version {started.version}: {started.url}", flush=True)
    output = follow(client, started, given.folder, wait_seconds=wait_seconds, progress=show_progress)
    if given.kernel != "submit":
        print(output)
        return
    masks = check_output(started, output, Path(given.data) / "test_images")
    print(f"{output / 'submission.zip'}: {masks} masks, valid", flush=True)
    if given.submit:
        score = submit_run(client, started, given.message, wait_seconds=wait_seconds, progress=show_progress)
        print(f"public score {score}")
