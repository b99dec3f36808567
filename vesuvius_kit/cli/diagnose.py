"""``vesuvius-kit diagnose``."""

from json import dumps

from vesuvius_kit.checks import InputValueError, check_output_file


def diagnose(
    place: str | None = None,
    /,
    *,
    run: str | None = None,
    figure: str | None = None,
    json: str | None = None,
    yaml: str | None = None,
) -> int:
    """Say why a run does not learn, from its folder or from any training log.

    Parameters
    ----------
    place
        run's folder, fold's folder, or a training log of nearly any form
    run
        the same, by name
    figure
        draw losses, components and rate into this picture
    json
        also write the diagnosis to this file
    yaml
        also write what to change to this configuration file
    """
    named = run if place is None else place
    if named is None or None not in (run, place):
        raise InputValueError("diagnose needs one run: a folder or a log, as its first word or as --run")
    from vesuvius_kit.diagnosis import diagnose as diagnose_log
    from vesuvius_kit.diagnosis import find_logs
    from vesuvius_kit.io.atomic import write_atomically

    for option, path in (("--figure", figure), ("--json", json), ("--yaml", yaml)):
        if path is not None:
            check_output_file(option, path)
    logs = find_logs(named)
    if len(logs) > 1 and (figure or json or yaml):
        raise InputValueError(
            f"--figure, --json and --yaml take one fold, got {', '.join(log.parent.name for log in logs)}"
        )
    diagnoses = [diagnose_log(log) for log in logs]
    print("\n\n".join(diagnosis.to_text() for diagnosis in diagnoses))
    if figure is not None:
        diagnoses[0].figure(figure)
    for path, text in ((json, dumps(diagnoses[0].to_dict(), indent=2)), (yaml, diagnoses[0].advice)):
        if path is not None:
            with write_atomically(path) as stream:
                stream.write(text if text.endswith("\n") else f"{text}\n")
    return 0 if all(diagnosis.healthy for diagnosis in diagnoses) else 1
