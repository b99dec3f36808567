"""``vesuvius-kit score``."""

from vesuvius_kit.checks import check_output_file
from vesuvius_kit.console import show_progress
from vesuvius_kit.constants import SCORE_PARTS, SURFACE_TOLERANCE, VOI_ALPHA


def score(
    predictions: str,
    labels: str,
    *,
    processes: int = 1,
    skip_invalid: bool = False,
    surface_tolerance: float = SURFACE_TOLERANCE,
    voi_alpha: float = VOI_ALPHA,
    csv: str | None = None,
    json: str | None = None,
) -> None:
    """Print the competition's score of masks, volume by volume, with the mean.

    Parameters
    ----------
    predictions
        folder of {id}.tif, or a submission.zip
    labels
        folder of {id}.tif with 0, 1 and 2
    processes
        volumes scored at once, about 0.6 GB each
    skip_invalid
        score what can be scored instead of refusing
    surface_tolerance
        of SurfaceDice, in voxels
    voi_alpha
        of the VOI score
    csv
        also write the table to this file
    json
        also write the table and the problems to this file
    """
    from vesuvius_kit.metrics import score_folder

    for option, path in (("--csv", csv), ("--json", json)):
        if path is not None:
            check_output_file(option, path)
    result = score_folder(
        predictions,
        labels,
        surface_tolerance=surface_tolerance,
        voi_alpha=voi_alpha,
        processes=processes,
        skip_invalid=skip_invalid,
        progress=show_progress,
    )
    if csv is not None:
        result.to_csv(csv)
    if json is not None:
        result.to_json(json)
    rows = result.rows()
    width = max(len(row["id"]) for row in rows)
    print(" " * width, *(f"{column:>13}" for column in SCORE_PARTS))
    for row in rows:
        print(f"{row['id']:<{width}}", *(f"{row[column]:>13.4f}" for column in SCORE_PARTS))
    for kind, names in result.problems.items():
        print(f"not scored, {kind}: {'; '.join(names)}")
