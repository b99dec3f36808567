"""What `tune` found, as the page holds it; read from its ``tuning.json``."""

from collections.abc import Mapping
from typing import Any

from vesuvius_kit.checks import InputValueError, describe_error
from vesuvius_kit.report.scores import COLUMNS, ScoredVolume


def describe_tuning(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a tuning.

    Raises
    ------
    InputValueError
        It is not what `tune` writes.
    """
    try:
        settings = dict(tuning["tuned"].get("settings", {}))
        estimate = tuning.get("estimate") or {}
        return {
            "score": float(tuning["tuned"]["score"]),
            "settings": settings,
            "baselines": sorted(
                ((str(k), float(v)) for k, v in tuning.get("baselines", {}).items()), key=lambda row: -row[1]
            ),
            "estimate": {
                "baseline": str(estimate.get("baseline", "")),
                **{name: _number(estimate.get(name)) for name in ("gain", "low", "high", "level")},
                "scrolls": [
                    (str(scroll), int(row["volumes"]), float(row["baseline"]), float(row["tuned"]))
                    for scroll, row in sorted(estimate.get("scrolls", {}).items())
                ],
            },
            # Of the gain, of the files that were written; also where nothing was estimated.
            "cautions": [str(line) for line in tuning.get("cautions", [])],
            "importance": sorted(
                ((str(name), float(share)) for name, share in tuning.get("importance", {}).items()),
                key=lambda row: -row[1],
            ),
            "optimum": dict(tuning.get("optimum", {})),
            "slices": {
                str(name): [[a, float(b)] for a, b in points] for name, points in tuning.get("slices", {}).items()
            },
            "best_by_part": [
                {
                    "part": str(row["part"]),
                    # What differs from the tuned settings: the rest stands above.
                    "settings": {
                        name: value for name, value in row.get("settings", {}).items() if settings.get(name) != value
                    },
                    **{name: _number(row.get(name)) for name in COLUMNS},
                }
                for row in tuning.get("best_by_part", [])
            ],
            "trials": {str(name): int(count) for name, count in tuning.get("trials", {}).items()},
            "history": [[int(number), float(score)] for number, score in tuning.get("history", [])],
            "seconds": {str(name): float(seconds) for name, seconds in tuning.get("seconds", {}).items()},
            "volumes": [vars(volume) for volume in list_volumes(tuning)],
        }
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputValueError(f"tuning must be what tune writes, got {describe_error(error)}") from error


def list_volumes(tuning: Mapping[str, Any]) -> list[ScoredVolume]:
    """Return the scores of the volumes that were tuned on, tuned and of the baseline."""
    return [
        ScoredVolume(
            str(id_),
            str(row.get("scroll", "")),
            {name: float(row["tuned"][name]) for name in COLUMNS},
            {name: float(row["baseline"][name]) for name in COLUMNS},
            source="tuning",
        )
        for id_, row in sorted(tuning.get("volumes", {}).items())
    ]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
