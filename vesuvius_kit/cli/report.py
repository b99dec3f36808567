"""``vesuvius-kit report``."""

from collections.abc import Sequence

from vesuvius_kit.console import show_progress


def report(
    run: str,
    other: str | None = None,
    /,
    *,
    output: str = "report.html",
    data: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    masks: str | None = None,
    probabilities: str | None = None,
    tuning: str | None = None,
    volumes: Sequence[str] = (),
    pipeline: str | None = None,
    figures: str | None = None,
) -> None:
    """Explain a run on one HTML page that needs no network: curves, scores, slices, errors, sheets in 3-D.

    Parameters
    ----------
    run
        folder that the kit wrote: a training run, a submission's folder, a demo, a tuning
    other
        folder of a run to compare it with
    output
        the page
    data
        competition folder: images, labels, scrolls; by default what lies in the run's folder, as all below
    images
        folder of {id}.tif
    labels
        folder of {id}.tif with 0, 1 and 2
    masks
        folder of {id}.tif, or a submission.zip
    probabilities
        folder of {id}.npy, .npz or .tif, or what predict --out-of-fold wrote
    tuning
        what tune wrote
    volumes
        ids of the volumes to show slice by slice; by default the worst by score
    pipeline
        preset or YAML file that makes masks of the probabilities, in place of those that lie there
    figures
        also write the figures as PNG into this folder
    """
    from vesuvius_kit.report import Places, write_report

    places = Places(data, images, labels, masks, probabilities, tuning)
    page = write_report(
        output, run, other, places=places, volumes=volumes, pipeline=pipeline, figures=figures, progress=show_progress
    )
    print(page)
