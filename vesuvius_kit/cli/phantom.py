"""``vesuvius-kit phantom``."""

from vesuvius_kit.config import Size
from vesuvius_kit.console import show_progress
from vesuvius_kit.constants import CHUNK_SHAPE


def phantom(
    output: str, *, train: int = 8, test: int = 1, shape: Size = CHUNK_SHAPE, seed: int = 0, truth: str | None = None
) -> None:
    """Write a synthetic competition folder: images, labels and tables in the competition's layout.

    Parameters
    ----------
    output
        folder to write
    train
        number of training chunks
    test
        number of test chunks
    shape
        voxels, (z, y, x), or one edge for all three
    seed
        the same seed writes the same bytes
    truth
        also write the truth of the test chunks to this folder
    """
    from vesuvius_kit.phantom import write_competition

    write_competition(
        output, train=train, test=test, shape=shape, seed=seed, truth_folder=truth, progress=show_progress
    )
    print(output)
