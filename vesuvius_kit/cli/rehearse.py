"""Run the notebooks as Kaggle would: a fresh environment, /kaggle in both layouts, no network; check what they leave."""

from vesuvius_kit.checks import check_duration
from vesuvius_kit.config.parser import make_bare_parser, parse_arguments
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument("--notebooks", type=str, default="notebooks", help="folder of the .ipynb")
    parser.add_argument("--checkout", type=str, default=".", help="folder of the kit's sources, for the bundle")
    parser.add_argument("--layout", choices=["old", "new", "both"], default="both", help="how Kaggle mounts inputs")
    parser.add_argument("--output", type=str, default="dist/rehearsal", help="folder; an earlier rehearsal is replaced")
    parser.add_argument("--budget", type=str, default="10m", help="what each notebook may take")
    given = parse_arguments(parser, arguments)
    from vesuvius_kit.kaggle.rehearse import rehearse

    result = rehearse(
        given.output,
        notebooks=given.notebooks,
        layout=given.layout,
        checkout=given.checkout,
        budget_seconds=check_duration("--budget", given.budget),
        progress=show_progress,
    )
    print(result.to_text())
    return 0 if result.ok else 1
