"""Check a competition folder: missing files, shapes, label values and shares."""

import json

from vesuvius_kit.config.parser import make_bare_parser, parse_arguments
from vesuvius_kit.console import show_progress


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument("--data", type=str, required=True, help="competition folder")
    parser.add_argument("--json", type=str, default=None, help="also write the report to this file")
    given = parse_arguments(parser, arguments)
    from vesuvius_kit.checks import check_output_file
    from vesuvius_kit.data.competition import Competition
    from vesuvius_kit.io.volume import write_atomically

    if given.json is not None:
        check_output_file("--json", given.json)
    audit = Competition(given.data).audit(progress=show_progress)
    if given.json is not None:
        with write_atomically(given.json) as stream:
            json.dump(audit.to_dict(), stream, indent=1)
    print(audit.to_text())
    return 0 if audit.ok else 1
