"""Say why a run does not learn, from its folder or from any training log."""

import json

from vesuvius_kit.checks import InputValueError, check_output_file
from vesuvius_kit.config.parser import make_bare_parser, parse_arguments


def run(prog, arguments):
    parser = make_bare_parser(prog=prog, description=__doc__)
    parser.add_argument(
        "place",
        nargs="?",
        type=str,
        default=None,
        help="run's folder, fold's folder, or a training log of nearly any form",
    )
    parser.add_argument("--run", type=str, default=None, help="the same, by name")
    parser.add_argument("--figure", type=str, default=None, help="draw losses, components and rate into this picture")
    parser.add_argument("--json", type=str, default=None, help="also write the diagnosis to this file")
    parser.add_argument("--yaml", type=str, default=None, help="also write what to change to this configuration file")
    given = parse_arguments(parser, arguments)
    if (given.place is None) == (given.run is None):
        raise InputValueError("diagnose needs one run: a folder or a log, as its first word or as --run")
    from vesuvius_kit.diagnosis import diagnose, find_logs
    from vesuvius_kit.io.volume import write_atomically

    for option, path in (("--figure", given.figure), ("--json", given.json), ("--yaml", given.yaml)):
        if path is not None:
            check_output_file(option, path)
    logs = find_logs(given.run or given.place)
    if len(logs) > 1 and (given.figure or given.json or given.yaml):
        raise InputValueError(
            f"--figure, --json and --yaml take one fold, got {', '.join(log.parent.name for log in logs)}"
        )
    diagnoses = [diagnose(log) for log in logs]
    print("\n\n".join(diagnosis.to_text() for diagnosis in diagnoses))
    if given.figure is not None:
        diagnoses[0].figure(given.figure)
    for path, text in ((given.json, json.dumps(diagnoses[0].to_dict(), indent=2)), (given.yaml, diagnoses[0].advice)):
        if path is not None:
            with write_atomically(path) as stream:
                stream.write(text if text.endswith("\n") else f"{text}\n")
    return 0 if all(diagnosis.healthy for diagnosis in diagnoses) else 1
