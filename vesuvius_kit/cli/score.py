"""Print the competition's score of masks, volume by volume, with the mean."""

from vesuvius_kit.config.parser import make_bare_parser, parse_arguments
from vesuvius_kit.console import show_progress

SCORE_COLUMNS = ("score", "toposcore", "surface_dice", "voi_score")


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument("--predictions", type=str, required=True, help="folder of {id}.tif, or a submission.zip")
    parser.add_argument("--labels", type=str, required=True, help="folder of {id}.tif with 0, 1 and 2")
    parser.add_argument("--processes", type=int, default=1, help="volumes scored at once, about 0.6 GB each")
    parser.add_argument("--skip-invalid", action="store_true", help="score what can be scored instead of refusing")
    parser.add_argument("--surface-tolerance", type=float, default=2.0, help="of SurfaceDice, in voxels")
    parser.add_argument("--voi-alpha", type=float, default=0.3, help="of the VOI score; the competition uses 0.3")
    parser.add_argument("--csv", type=str, default=None, help="also write the table to this file")
    parser.add_argument("--json", type=str, default=None, help="also write the table and the problems to this file")
    given = parse_arguments(parser, arguments)
    from vesuvius_kit.checks import check_output_file
    from vesuvius_kit.metrics import score_folder

    for option, path in (("--csv", given.csv), ("--json", given.json)):
        if path is not None:
            check_output_file(option, path)
    result = score_folder(
        given.predictions,
        given.labels,
        surface_tolerance=given.surface_tolerance,
        voi_alpha=given.voi_alpha,
        processes=given.processes,
        skip_invalid=given.skip_invalid,
        progress=show_progress,
    )
    if given.csv is not None:
        result.to_csv(given.csv)
    if given.json is not None:
        result.to_json(given.json)
    rows = result.rows()
    width = max(len(row["id"]) for row in rows)
    print(" " * width, *(f"{column:>13}" for column in SCORE_COLUMNS))
    for row in rows:
        print(f"{row['id']:<{width}}", *(f"{row[column]:>13.4f}" for column in SCORE_COLUMNS))
    for kind, names in result.problems.items():
        print(f"not scored, {kind}: {'; '.join(names)}")
