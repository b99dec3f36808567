"""What a submission did to each volume and how long it took, as the page holds it; read from its ``run.json``."""

from collections.abc import Mapping
from typing import Any

from vesuvius_kit.checks import InputValueError, describe_error
from vesuvius_kit.inference.ladder import Rung

STAGES = ("decode", "network", "repair", "simple", "closing")
"""Of a volume, in their order; others come behind."""


def describe_submission(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a submission.

    Raises
    ------
    InputValueError
        It is not what `submit` writes.
    """
    try:
        volumes = [
            {
                "id": str(id_),
                "mask": str(entry.get("mask", "")),
                "what": str(entry.get("what", "")),
                "precision": entry.get("precision") or "",
                "seconds": {str(stage): float(seconds) for stage, seconds in (entry.get("seconds") or {}).items()},
                "causes": [str(cause) for cause in entry.get("causes", [])],
            }
            for id_, entry in sorted(record.get("volumes", {}).items())
        ]
        found = {stage for volume in volumes for stage in volume["seconds"]}
        stages = [stage for stage in STAGES if stage in found] + sorted(found - set(STAGES))
        return {
            "started": record.get("started") or "",
            "ended": record.get("ended") or "",
            "kit": record.get("kit") or "",
            "budget": record.get("budget_seconds"),
            "processes": record.get("processes"),
            "weights": [
                {"path": str(row.get("path", "")), "digest": str(row.get("digest", "")), "window": row.get("window")}
                for row in record.get("weights", [])
            ],
            "requested": dict(record.get("requested") or {}),
            "plans": [
                Rung(tuple((int(number), tta) for number, tta in plan["members"]), float(plan["overlap"])).to_text()
                for plan in record.get("plans", [])
            ],
            "stages": stages,
            "volumes": volumes,
            "warnings": [str(line) for line in record.get("warnings", [])],
        }
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputValueError(f"run.json must be what submit writes, got {describe_error(error)}") from error
