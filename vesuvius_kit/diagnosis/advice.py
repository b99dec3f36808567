"""What to change, as the YAML that `vesuvius-kit train --config` takes: labels before the loss, the loss before the rate."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from vesuvius_kit.config import load_config
from vesuvius_kit.constants import MAX_FACTOR
from vesuvius_kit.diagnosis.curves import base_rate, setting_of, weights_of
from vesuvius_kit.diagnosis.finding import Finding
from vesuvius_kit.diagnosis.logs import Config, LoggedEpoch

Changes = dict[str, dict[str, Any]]
"""Settings by section, as in a configuration file."""

# What the plateau case was cured with.
_CURED_LOSS = {
    "dice_weight": 0.8,
    "cross_entropy_weight": 0.0,
    "focal_weight": 0.15,
    "boundary_weight": 0.05,
    "variance_weight": 0.0,
}
# Where one of these is found, the rate is left alone.
_LOSS_FIRST = frozenset(
    ("labels", "zero_batches", "variance_reward", "conflict", "uniform_output", "standstill", "chance_level", "no_learning",
     "standing_score")
)  # fmt: skip
# Which of two components in conflict gives way: the later one.
_KEPT_FIRST = ("dice", "cross_entropy", "focal", "boundary", "cldice", "connectivity", "variance")


def advise(findings: Sequence[Finding], records: Sequence[LoggedEpoch], config: Config | None = None) -> Changes:
    """Return the settings to change; empty where nothing is to be changed.

    The findings come the most basic first. Where the labels or the loss are at fault, the rate itself is left alone: one
    thing at a time, and that one first.
    """
    changes: Changes = {}
    faults = [finding.fault for finding in findings]
    for finding in findings:
        for section, settings in _CURES[finding.fault](finding, records, config).items():
            for name, value in settings.items():
                changes.setdefault(section, {}).setdefault(name, value)
    if _LOSS_FIRST & set(faults):
        changes.get("train", {}).pop("learning_rate", None)
        changes.setdefault("lr", {})["allow_raise"] = False
    return {section: settings for section, settings in changes.items() if settings}


def advice_yaml(changes: Changes, findings: Sequence[Finding]) -> str:
    """Return the changes as a configuration file that names the faults in a comment; empty where nothing is to be changed."""
    if not changes:
        return ""
    head = f"# Against: {', '.join(finding.fault.replace('_', ' ') for finding in findings)}. Give it to train after your own\n"
    return head + "# settings: a later --config wins.\n" + yaml.safe_dump(changes, sort_keys=False)


def _cure_labels(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    # The kit's training never takes label 2 for surface, so no setting is to be changed.
    return {}


def _cure_loss(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    return {"loss": _CURED_LOSS}


def _cure_conflict(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    weights = weights_of(records[-1], config) or {}
    yielding = {max(pair.split(","), key=_rank) for pair in finding.evidence["cosines"]}
    if not set(weights) - yielding:
        return _cure_loss(finding, records, config)
    return {"loss": {f"{name}_weight": 0.0 for name in sorted(yielding)}}


def _rank(name: str) -> int:
    return _KEPT_FIRST.index(name) if name in _KEPT_FIRST else len(_KEPT_FIRST)


def _cure_uniform(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    return {"loss": {"dice_weight": 0.5, "cross_entropy_weight": 0.5, "variance_weight": 0.0}}


def _cure_zero_batches(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    return {"patches": {"surface_fraction": 0.5, "max_unlabelled_fraction": 0.9}}


def _cure_runaway(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    return {"lr": {"max_factor": MAX_FACTOR}}


def _cure_not_finite(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    return {"train": {"learning_rate": _scaled_rate(records, config, 0.1), "gradient_clip": 1.0, "precision": "fp32"}}


def _cure_high_rate(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    return {
        "train": {"learning_rate": _scaled_rate(records, config, 0.1), "gradient_clip": 1.0},
        "lr": {"warmup_epochs": 5},
    }


def _cure_low_rate(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    return {"train": {"learning_rate": _scaled_rate(records, config, 10.0)}}


def _cure_overfitting(finding: Finding, records: Sequence[LoggedEpoch], config: Config | None) -> Changes:
    return {"patches": {"augmentation": "light"}, "train": {"weight_decay": 0.01, "early_stopping_patience": 20}}


_CURES: dict[str, Callable[[Finding, Sequence[LoggedEpoch], Config | None], Changes]] = {
    "labels": _cure_labels,
    "variance_reward": _cure_loss,
    "conflict": _cure_conflict,
    "uniform_output": _cure_uniform,
    "standstill": _cure_loss,
    "runaway": _cure_runaway,
    "not_finite": _cure_not_finite,
    "high_rate": _cure_high_rate,
    "low_rate": _cure_low_rate,
    "overfitting": _cure_overfitting,
    "parting": _cure_overfitting,
    "zero_batches": _cure_zero_batches,
    "chance_level": _cure_uniform,
    "no_learning": _cure_uniform,
    "standing_score": _cure_uniform,
}


def _scaled_rate(records: Sequence[LoggedEpoch], config: Config | None, factor: float) -> float:
    """The run's base rate times a factor, in two digits, within what is ever used; of the default where none is known."""
    rate = setting_of(config, "train", "learning_rate") or base_rate(records, config)
    rate = rate if rate and math.isfinite(rate) else load_config().train.learning_rate
    return float(f"{min(max(rate * factor, 1e-6), 1e-2):.1e}")
