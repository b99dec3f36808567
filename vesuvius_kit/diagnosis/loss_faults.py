"""Faults of the labels, the loss and the output: one function for each, which returns a finding or None.

Every threshold is a named constant with its reason. A false alarm in a healthy run costs more than a miss, so each fault asks
for several epochs, and for more than one sign where a healthy run shows a single sign too.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from vesuvius_kit.diagnosis.curves import (
    begins_anew,
    entries_of,
    find_plateau,
    floor_of,
    loss_curve,
    mean_components,
    mean_diagnostics,
    part_of,
    series,
    span_of,
    weights_of,
)
from vesuvius_kit.diagnosis.finding import Finding
from vesuvius_kit.diagnosis.logs import Config, LoggedEpoch
from vesuvius_kit.diagnosis.score_faults import GOOD_OVERLAP, falls_steadily, overlap_level

# Labelled surface is 5 to 20 % of what a rightly read label shows: sheets of 2 voxels in bands of about 12; patches centred on
# surface show a little more. With label 2 taken for surface it is 75 %, as in the plateau case.
MAX_SURFACE_SHARE = 0.4
# Half of the loss or more in a term that no truthful output can lower is more than all that can be learned from.
VARIANCE_SHARE = 0.5
# (1 - Var)^2 with Var at most 0.25: nothing gets under it, and a truthful output with 12 % surface stays over 0.8.
VARIANCE_LOWEST = 0.5625
# An output whose spread is a fifth of the label's own explains at most 4 % of it.
UNIFORM_SPREAD = 0.2
# Where the label share is not logged: the spread of labels with 12 % surface, the usual share.
USUAL_SPREAD = 0.32
# A mean within a tenth of the label's share, or within 0.02: the constant that costs a network without features least.
SHARE_TOLERANCE = 0.1
# Early in a run every output is uniform, and one epoch may be an accident.
SETTLED_EPOCH = 5
SETTLED_EPOCHS = 3
# A run that has halved its loss has learned; the plateau case had won 13 % when it stopped, its repetition in small 17 %.
STUCK_GAIN = 0.3
# Of a log without components, in which a plateau at a good result looks the same, less makes it a standstill.
STUCK_GAIN_UNSEEN = 0.2
# Learning that ends in the first third of what was run ended too early to be the end of a schedule.
STUCK_PART = 1 / 3
# A training loss that fell by a tenth since the best epoch goes on learning, if only by memorising.
TRAIN_FALL = 0.1
# Overlap that leaves a third or more to win, so that stillness is not success.
POOR_DICE = 0.35
# Two gradients more than 107 degrees apart oppose each other; near an optimum all gradients cancel, hence the further signs.
CONFLICT_COSINE = -0.3
# A pull under a tenth of the other's changes its direction by less than 6 degrees.
CONFLICT_PULL = 0.1


def find_wrong_labels(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find unlabelled voxels that count as surface."""
    shares = [value for _, value in series(records, "validation", "surface_share")]
    share = fmean(shares) if shares else math.nan
    told = records[0].told_labels
    evidence: dict[str, Any]
    if share > MAX_SURFACE_SHARE:
        seen = f"{100 * share:.0f} % of the voxels that the loss sees are surface, where 5 to 20 % is usual"
        evidence = {"surface_share": share}
    elif told:
        seen, evidence = f'the log says "{told}", where 5 to 20 % surface is usual', {"told": told}
    else:
        return None
    return Finding(
        "labels",
        f"The labels are read wrongly: {seen}. Label 2 means unlabelled; counted as surface, it makes a uniform output "
        "nearly optimal.",
        {**evidence, "usual": [0.05, 0.2], "epochs": span_of(records)},
    )


def find_variance_reward(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a loss that is led by the variance term, which rewards uncertainty."""
    recent = [record for record in records if series([record], part_of(record), "variance")][-SETTLED_EPOCHS:]
    if not recent:
        return None
    components = mean_components(recent)
    weights = weights_of(recent[-1], config)
    known = weights is not None
    pulls = {name: value * (1.0 if weights is None else weights.get(name, 0.0)) for name, value in components.items()}
    share = pulls["variance"] / sum(pulls.values()) if sum(pulls.values()) > 0 else 0.0
    if share < VARIANCE_SHARE or components["variance"] < VARIANCE_LOWEST:
        return None
    # Without the weights, the share is that of the bare components: only a standstill makes it evidence.
    if not known and find_plateau(records) is None:
        return None
    curve = series(records, part_of(recent[-1]), "variance")
    cosines = _mean_cosines(records)
    opposed = {
        pair: value for pair, value in cosines.items() if "variance" in pair.split(",") and value <= CONFLICT_COSINE
    }
    text = (
        f"The variance term rewards uncertainty and leads the loss: it makes up {100 * share:.0f} % of "
        f"{'it' if known else 'the sum of the components'} and went from {curve[0][1]:.2f} to {curve[-1][1]:.2f}. A "
        "decided output pays 1.06 for it at least, so it holds the output back."
    )
    if "dice" in components:
        text += f" The overlap loss (Dice) stands at {components['dice']:.2f} meanwhile."
    if opposed:
        text += " Its gradient opposes " + ", ".join(
            f"{_other(pair, 'variance')} (cosine {value:.2f})" for pair, value in opposed.items()
        )
        text += "."
    evidence = {
        "components": components,
        "share": share,
        "weights": weights,
        "cosines": opposed,
        "epochs": span_of(recent),
    }
    return Finding("variance_reward", text, evidence)


def find_uniform_output(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find an output that is the same everywhere."""
    recent = [
        record for record in records if record.epoch >= SETTLED_EPOCH and series([record], "validation", "output_std")
    ]
    recent = recent[-SETTLED_EPOCHS:]
    if len(recent) < SETTLED_EPOCHS:
        return None
    shares = [value for _, value in series(recent, "validation", "surface_share")]
    share = fmean(shares) if shares else math.nan
    spread = math.sqrt(share * (1 - share)) if 0 < share < 1 else USUAL_SPREAD
    deviations = [value for _, value in series(recent, "validation", "output_std")]
    if max(deviations) > UNIFORM_SPREAD * spread:
        return None
    means = [value for _, value in series(recent, "validation", "output_mean")]
    mean = fmean(means) if means else math.nan
    text = f"The output is uniform: it spreads by {fmean(deviations):.3f}, the labels by {spread:.2f}."
    if abs(mean - share) <= max(SHARE_TOLERANCE * share, 0.02):
        text += f" Its mean, {mean:.3f}, is the labels' share of surface, {share:.3f}: the network has learned nothing else."
    elif math.isfinite(mean):
        text += f" Its mean is {mean:.3f}."
    return Finding(
        "uniform_output",
        text,
        {"output_std": fmean(deviations), "output_mean": mean, "surface_share": share, "epochs": span_of(recent)},
    )


def find_conflict(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find components whose gradients oppose each other while the run stands still."""
    plateau = find_plateau(records)
    dice = series(records, part_of(records[-1]), "dice")
    if plateau is None or (dice and dice[-1][1] < POOR_DICE):
        return None
    stale = [record for record in records if record.epoch > plateau.best_epoch]
    weights = weights_of(records[-1], config)
    norms = mean_diagnostics(stale, "gradient_norms")
    if not weights or not norms:
        return None
    pulls = {name: norm * weights.get(name, 0.0) for name, norm in norms.items()}
    conflicts = {}
    for pair, cosine in _mean_cosines(stale).items():
        low, high = sorted(pulls.get(name, 0.0) for name in pair.split(","))
        if cosine <= CONFLICT_COSINE and high > 0 and low >= CONFLICT_PULL * high:
            conflicts[pair] = cosine
    if not conflicts:
        return None
    told = "; ".join(f"{pair.replace(',', ' and ')} (cosine {value:.2f})" for pair, value in conflicts.items())
    return Finding(
        "conflict",
        f"Components of the loss pull against each other while nothing improves: {told}.",
        {"cosines": conflicts, "pulls": pulls, "epochs": span_of(stale)},
    )


def find_standstill(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a run that stopped learning early, at a poor loss."""
    plateau, floor = find_plateau(records), floor_of(records)
    if plateau is None or floor is None:
        return None
    curve = loss_curve(records)
    first, height = curve[0][0], curve[0][1] - floor
    gain = (curve[0][1] - plateau.best_loss) / height if height else 1.0
    part = (plateau.best_epoch - first) / max(plateau.last_epoch - first, 1)
    enough = STUCK_GAIN if mean_components(records[-SETTLED_EPOCHS:]) or records[-1].loss_weights else STUCK_GAIN_UNSEEN
    if (
        not begins_anew(records)
        or part > STUCK_PART
        or gain >= enough
        or not _train_stands(records, plateau.best_epoch, floor)
    ):
        return None
    if overlap_level(records) >= GOOD_OVERLAP or falls_steadily(curve):
        return None
    stale = [loss for epoch, loss in curve if epoch > plateau.best_epoch]
    text = (
        f"The run stopped learning at epoch {plateau.best_epoch} ({plateau.best_loss:.4f}) and stood between "
        f"{min(stale):.4f} and {max(stale):.4f} to epoch {plateau.last_epoch}. A small gradient in a local minimum is "
        "no sign that the rate is too low: suspect the loss first."
    )
    still = _standing_components(records, plateau.best_epoch)
    if still:
        text += " Standing still: " + ", ".join(f"{name} at {value:.2f}" for name, value in still.items()) + "."
    evidence = {
        "best_epoch": plateau.best_epoch,
        "best_loss": plateau.best_loss,
        "plateau": [plateau.best_epoch + 1, plateau.last_epoch],
        "gain": gain,
        "standing_components": still,
    }
    return Finding("standstill", text, evidence)


def _mean_cosines(records: Sequence[LoggedEpoch]) -> dict[str, float]:
    return {pair: value for pair, value in mean_diagnostics(records, "cosines").items() if pair.count(",") == 1}


def _other(pair: str, name: str) -> str:
    return next(part for part in pair.split(",") if part != name)


def _train_stands(records: Sequence[LoggedEpoch], epoch: int, floor: float) -> bool:
    """Whether the training loss too has stopped to fall; True where it was not logged."""
    curve = series(records, "train", "loss")
    before = [loss for at, loss in curve if at <= epoch][-SETTLED_EPOCHS:]
    after = [loss for at, loss in curve if at > epoch][-SETTLED_EPOCHS:]
    return not before or not after or fmean(after) - floor > (1 - TRAIN_FALL) * (fmean(before) - floor)


def _standing_components(records: Sequence[LoggedEpoch], epoch: int) -> dict[str, float]:
    """Components that moved by less than 5 % between the best epoch and the end."""
    then = [record for record in records if record.epoch <= epoch and entries_of(record, part_of(record))]
    now = mean_components(records[-SETTLED_EPOCHS:])
    before = mean_components(then[-SETTLED_EPOCHS:])
    return {
        name: value
        for name, value in now.items()
        if name in before and abs(value - before[name]) <= 0.05 * abs(before[name])
    }
