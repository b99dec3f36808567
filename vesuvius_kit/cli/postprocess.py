"""``vesuvius-kit postprocess``."""

from dataclasses import replace

from vesuvius_kit.config import PostprocessConfig
from vesuvius_kit.console import show_progress


def postprocess(
    postprocess: PostprocessConfig,
    *,
    probabilities: str = "probabilities",
    output: str = "masks",
    pipeline: str | None = None,
    tuned: str | None = None,
    report: str | None = None,
    processes: int = 1,
    fresh: bool = False,
) -> None:
    """Turn a folder of probabilities into masks.

    Parameters
    ----------
    probabilities
        folder of {id}.npy, .npz or .tif
    output
        folder for {id}.tif, uint8 in {0, 1}
    pipeline
        short for --postprocess.pipeline: a preset or a YAML file
    tuned
        what tune found, its folder; below what the command line says
    report
        JSON file: what every step changed in every volume
    processes
        volumes at once
    fresh
        make again what is there
    """
    from vesuvius_kit.inference.submission import postprocess_folder

    settings = postprocess if pipeline is None else replace(postprocess, pipeline=pipeline)
    postprocess_folder(
        probabilities, output, settings, report=report, processes=processes, fresh=fresh, progress=show_progress
    )
    print(output)
