"""Send the bundle, and weights, to Kaggle if they changed, and start a notebook there."""

from vesuvius_kit.config.parser import make_bare_parser, parse_arguments
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    add_push_arguments(parser)
    given = parse_arguments(parser, arguments)
    client, shipment = prepare(given)
    if client is None:
        return
    from vesuvius_kit.kaggle.push import push

    started = push(client, shipment, given.folder, progress=show_progress)
    print(f"{started.kernel} version {started.version}: {started.url}")


def add_push_arguments(parser):
    """What push and ship share."""
    parser.add_argument("--kernel", choices=["train", "submit", "explore"], default="submit", help="which notebook")
    parser.add_argument(
        "--checkpoints",
        type=str,
        nargs="+",
        default=[],
        help="checkpoints, folds or runs to upload for the submit notebook",
    )
    parser.add_argument(
        "--models-from",
        choices=["dataset", "train"],
        default="dataset",
        help="where the submit notebook finds weights: uploaded ones, or the output of the train notebook",
    )
    parser.add_argument("--with-imagecodecs", action="store_true", help="add imagecodecs' compiled wheel to the bundle")
    parser.add_argument("--checkout", type=str, default=".", help="folder with kernels/ and notebooks/")
    parser.add_argument("--folder", type=str, default="dist/kaggle", help="gets the bundle and the output")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent and send nothing")


def prepare(given):
    """The client and the shipment; for a dry run, print what would be sent and return no client."""
    from vesuvius_kit.checks import InputNotFoundError
    from vesuvius_kit.kaggle.client import KaggleClient
    from vesuvius_kit.kaggle.push import describe_shipment
    from vesuvius_kit.kaggle.shipment import prepare_shipment

    client = None
    try:
        client = KaggleClient()
    except InputNotFoundError:
        if not given.dry_run:
            raise
    shipment = prepare_shipment(
        given.folder,
        checkout=given.checkout,
        kernel=given.kernel,
        checkpoints=given.checkpoints,
        models_from=given.models_from,
        with_imagecodecs=given.with_imagecodecs,
    )
    if not given.dry_run:
        return client, shipment
    if client is None:
        print("no Kaggle credentials: what is there already was not looked up")
    print("\n".join(describe_shipment(shipment, client)))
    return None, shipment
