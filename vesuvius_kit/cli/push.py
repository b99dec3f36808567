"""``vesuvius-kit push``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from vesuvius_kit.console import show_progress

if TYPE_CHECKING:
    from vesuvius_kit.kaggle.client import KaggleClient
    from vesuvius_kit.kaggle.shipment import Shipment


def push(
    *,
    kernel: Literal["train", "submit", "explore"] = "submit",
    checkpoints: Sequence[str] = (),
    tuned: str | None = None,
    models_from: Literal["dataset", "train"] = "dataset",
    with_imagecodecs: bool = False,
    checkout: str = ".",
    folder: str = "dist/kaggle",
    dry_run: bool = False,
) -> None:
    """Send the bundle, and weights, to Kaggle if they changed, and start a notebook there.

    Parameters
    ----------
    kernel
        which notebook
    checkpoints
        checkpoints, folds, runs or nnU-Net's folders to upload for the submit notebook
    tuned
        what tune found, its folder, to go with them: the submit notebook takes these settings
    models_from
        where the submit notebook finds weights: uploaded ones, or the output of the train notebook
    with_imagecodecs
        add imagecodecs' compiled wheel to the bundle
    checkout
        folder with kernels/ and notebooks/
    folder
        gets the bundle and the output
    dry_run
        show what would be sent and send nothing
    """
    from vesuvius_kit.kaggle.push import push as push_shipment
    from vesuvius_kit.kaggle.shipment import prepare_shipment

    client = connect(dry_run)
    shipment = prepare_shipment(
        folder,
        checkout=checkout,
        kernel=kernel,
        checkpoints=checkpoints,
        tuned=tuned,
        models_from=models_from,
        with_imagecodecs=with_imagecodecs,
    )
    if dry_run or client is None:
        show_shipment(shipment, client)
        return
    started = push_shipment(client, shipment, folder, progress=show_progress)
    print(f"{started.kernel} version {started.version}: {started.url}")


def connect(dry_run: bool) -> "KaggleClient | None":
    """Return the client; for a dry run None where there are no credentials."""
    from vesuvius_kit.checks import InputNotFoundError
    from vesuvius_kit.kaggle.client import KaggleClient

    try:
        return KaggleClient()
    except InputNotFoundError:
        if not dry_run:
            raise
        return None


def show_shipment(shipment: "Shipment", client: "KaggleClient | None") -> None:
    """Print what would be sent."""
    from vesuvius_kit.kaggle.push import describe_shipment

    if client is None:
        print("no Kaggle credentials: what is there already was not looked up")
    print("\n".join(describe_shipment(shipment, client)))
