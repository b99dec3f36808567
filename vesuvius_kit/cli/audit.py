"""``vesuvius-kit audit``."""

from json import dump

from vesuvius_kit.checks import check_output_file
from vesuvius_kit.console import show_progress


def audit(data: str, *, json: str | None = None) -> int:
    """Check a competition folder: missing files, shapes, label values and shares.

    Parameters
    ----------
    data
        competition folder
    json
        also write the report to this file
    """
    from vesuvius_kit.data.competition import Competition
    from vesuvius_kit.io.atomic import write_atomically

    if json is not None:
        check_output_file("--json", json)
    report = Competition(data).audit(progress=show_progress)
    if json is not None:
        with write_atomically(json) as stream:
            dump(report.to_dict(), stream, indent=1)
    print(report.to_text())
    return 0 if report.ok else 1
