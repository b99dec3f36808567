"""``vesuvius-kit ship``."""

from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputValueError, check_duration, check_folder
from vesuvius_kit.cli.command import extends
from vesuvius_kit.cli.push import connect, push, show_shipment
from vesuvius_kit.console import show_progress


@extends(push)
def ship(
    *,
    data: str | None = None,
    submit: bool = False,
    message: str = "vesuvius-kit",
    wait: str = "14h",
    **options: Any,
) -> None:
    """Push, follow the notebook until it ends, fetch and validate its output, and submit it on request.

    Parameters
    ----------
    data
        competition folder; its test_images validate the submission
    submit
        submit that version to the competition and wait for the score
    message
        stands beside the submission
    wait
        how long to wait for the notebook, and for the score
    """
    kernel, folder, dry_run = (options.pop(name) for name in ("kernel", "folder", "dry_run"))
    images = None
    if kernel != "submit" and submit:
        raise InputValueError(f"--submit must go with --kernel submit, got --kernel {kernel}")
    if kernel == "submit":
        if data is None:
            raise InputValueError("--data must name the competition folder, to validate the submission, got none")
        images = check_folder("test images", Path(data) / "test_images")
    wait_seconds = check_duration("--wait", wait)
    from vesuvius_kit.inference.submission import list_images

    if images is not None:
        list_images(images)
    from vesuvius_kit.kaggle.follow import check_output, follow, submit_run
    from vesuvius_kit.kaggle.push import push as push_shipment
    from vesuvius_kit.kaggle.shipment import prepare_shipment

    client = connect(dry_run)
    shipment = prepare_shipment(folder, kernel=kernel, **options)
    if dry_run or client is None:
        show_shipment(shipment, client)
        print("then: follow the notebook, fetch its output" + (", submit it" if submit else ""))
        return
    started = push_shipment(client, shipment, folder, progress=show_progress)
    print(f"{started.kernel} version {started.version}: {started.url}", flush=True)
    output = follow(client, started, folder, wait_seconds=wait_seconds, progress=show_progress)
    if images is None:
        print(output)
        return
    masks = check_output(started, output, images)
    print(f"{output / 'submission.zip'}: {masks} masks, valid", flush=True)
    if submit:
        score = submit_run(client, started, message, wait_seconds=wait_seconds, progress=show_progress)
        print(f"public score {score}")
