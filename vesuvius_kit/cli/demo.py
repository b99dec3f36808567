"""``vesuvius-kit demo``."""

from vesuvius_kit.console import show_progress


def demo(*, output: str = "demo", seed: int = 0, tiny: bool = False) -> None:
    """The whole main job on a phantom: data, training, prediction, repair, submission.zip, score, a page.

    Parameters
    ----------
    output
        folder of everything the demo makes
    seed
        of the phantom and the training
    tiny
        seconds instead of minutes, to see that it runs
    """
    from vesuvius_kit.demo import run_demo

    print(run_demo(output, seed=seed, tiny=tiny, progress=show_progress).to_text())
