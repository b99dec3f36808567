"""Write a synthetic competition folder: images, labels and tables in the competition's layout."""

from vesuvius_kit.config.parser import make_bare_parser, parse_arguments
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument("--output", type=str, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=8, help="number of training chunks")
    parser.add_argument("--test", type=int, default=1, help="number of test chunks")
    parser.add_argument("--shape", type=tuple[int, int, int], default=(320, 320, 320), help="voxels, (z, y, x)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same bytes")
    parser.add_argument(
        "--truth", type=str, default=None, help="also write the truth of the test chunks to this folder"
    )
    given = parse_arguments(parser, arguments)
    from vesuvius_kit.phantom import write_competition

    write_competition(
        given.output,
        train=given.train,
        test=given.test,
        shape=given.shape,
        seed=given.seed,
        truth_folder=given.truth,
        progress=show_progress,
    )
    print(given.output)
