"""Faults that a score or the losses of single batches show, as logs of others hold them; one function for each.

A false alarm in a healthy run costs more than a miss, so what healthy runs show too is left out: a score that is 0 in the first
epochs, one that was only carried forward, a flat loss of a network that had learned before the log begins.
"""

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from vesuvius_kit.diagnosis.curves import (
    Curve,
    Part,
    begins_anew,
    floor_of,
    heights,
    number_of,
    scores_of,
    series,
    span_of,
)
from vesuvius_kit.diagnosis.finding import Finding
from vesuvius_kit.diagnosis.logs import Config, LoggedEpoch
from vesuvius_kit.diagnosis.readers.names import meaning_of

# Overlap that a network which learns nothing does not reach, and overlap that says that it has hardly learned.
GOOD_OVERLAP = 0.5
POOR_OVERLAP = 0.2
# Fewer points show no relation.
RELATED_POINTS = 8
# Changes from epoch to epoch that agree so well are of one quantity; those of a true score oppose the loss's.
RELATED = 0.8
# Losses of batches that are exactly 0 though the others are far from it.
ZERO_BATCHES = 3
ZERO_SHARE = 0.05
FAR_FROM_ZERO = 0.05
# The cross entropy of an output that is the same for each of 2 or 3 classes, and how near a mean over an epoch comes to it.
CHANCE = {"ln 2": math.log(2), "ln 3": math.log(3)}
CHANCE_WIDTH = 0.012
CHANCE_EPOCHS = 6
# A whole run that wins less than this share of what there was to win.
FLAT_EPOCHS, FLAT_GAIN = 10, 0.03
LONG_FLAT_EPOCHS, LONG_FLAT_GAIN = 20, 0.05
POOR_FLAT_GAIN = 0.1
# A loss that is the same to the last digit in so many epochs was computed from weights that are the same.
CONSTANT_EPOCHS = 6
# The same score to the last digit: at the end for so many points, or in the middle for two, far under the others.
STILL_AT_END = 5
STILL_IN_MIDDLE = 2
STILL_DECIMALS = 4
STILL_UNDER = 0.6
STILL_LOSS_FALL = 0.02


def disguised_losses(records: Sequence[LoggedEpoch]) -> dict[str, tuple[Part, float]]:
    """Return the scores that move with a loss, so that they are losses themselves.

    Each name comes with the part whose loss it moves with, and the correlation of the changes from epoch to epoch.
    """
    found = {}
    losses: dict[Part, dict[int, float]] = {
        part: dict(series(records, part, "loss")) for part in ("train", "validation")
    }
    for name, points in scores_of(records).items():
        if not meaning_of(name).overlap and meaning_of(name).kind != "score":
            continue
        agreements: dict[Part, float] = {}
        opposed = False
        for part, curve in losses.items():
            pairs = [(value, curve[epoch]) for epoch, value in points if epoch in curve]
            if len(pairs) > RELATED_POINTS:
                changes = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(pairs)]
                # A score that hardly ever changes agrees with nothing, and one large change must not outweigh the others.
                if sum(change != 0 for change, _ in changes) >= 0.7 * len(changes):
                    columns = zip(*changes, strict=True)
                    agreements[part] = _correlation(list(zip(*map(_ranks, columns), strict=True)))
                opposed = opposed or _correlation(pairs) < 0
        closest = max(agreements, key=lambda part: agreements[part], default=None)
        if closest is not None and agreements[closest] >= RELATED and not opposed:
            found[name] = (closest, agreements[closest])
    return found


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each value among all; equal ones share theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values]


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    first, second = fmean(a for a, _ in pairs), fmean(b for _, b in pairs)
    product = sum((a - first) * (b - second) for a, b in pairs)
    squares = sum((a - first) ** 2 for a, _ in pairs) * sum((b - second) ** 2 for _, b in pairs)
    return product / math.sqrt(squares) if squares > 0 else 0.0


def overlap_level(records: Sequence[LoggedEpoch]) -> float:
    """Return the overlap that a run stands at: of its scores of masks the highest, in the median over the second half.

    NaN where no such score was logged.
    """
    levels = [
        median(value for _, value in points[len(points) // 2 :])
        for points in _true_scores(records, overlap=True).values()
    ]
    return max(levels, default=math.nan)


def has_gained(records: Sequence[LoggedEpoch]) -> bool:
    """Return whether a score of the validation rose over the run, whatever the loss did: a loss may rise by design."""
    for points in _true_scores(records).values():
        third = max(len(points) // 3, 1)
        first, last = (fmean(value for _, value in part) for part in (points[:third], points[-third:]))
        if (
            len(points) >= 6
            and last > first + 0.02 * max(abs(first), abs(last))
            and last >= 0.9 * max(v for _, v in points)
        ):
            return True
    return False


def _true_scores(records: Sequence[LoggedEpoch], overlap: bool = False) -> dict[str, Curve]:
    """The scores that are none of a training patch alone, no loss in disguise, and no bound."""
    scores = scores_of(records)
    if not scores:
        return {}
    losses = disguised_losses(records)
    found = {name: points for name, points in scores.items() if name not in losses}
    if overlap:
        found = {name: points for name, points in found.items() if meaning_of(name).overlap}
    return {
        name: points for name, points in found.items() if max(abs(value) for _, value in points) <= 1.0 or not overlap
    }


def find_zero_batches(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find batches whose loss is exactly 0 beside others that are far from it, or a whole validation of this kind."""
    losses = [number_of(loss) for record in records for loss in record.batches]
    losses = [loss for loss in losses if math.isfinite(loss)]
    zeros, others = sum(loss == 0 for loss in losses), [abs(loss) for loss in losses if loss != 0]
    evidence = {"batches": len(losses), "zero_batches": zeros, "epochs": span_of(records)}
    if zeros >= ZERO_BATCHES and zeros >= ZERO_SHARE * len(losses) and others:
        usual = median(others)
        between = sum(loss < 0.1 * usual for loss in others)
        if usual >= FAR_FROM_ZERO and 4 * between <= zeros:
            text = (
                f"In {zeros} of {len(losses)} batches that the log shows the loss is exactly 0, where the others stand "
                f"at {usual:.2f}: there is nothing labelled in them, so that a loss over labelled voxels has nothing "
                "to count. They teach nothing and pull the mean down; draw patches that hold labels, and leave such "
                "batches out of means."
            )
            return Finding("zero_batches", text, evidence | {"usual_loss": usual})
    validation, training = series(records, "validation", "loss"), series(records, "train", "loss")
    if len(training) >= 3 and all(loss == 0 for _, loss in training):
        text = (
            f"The training loss is exactly 0 in all {len(training)} epochs: nothing that is trained on is labelled, or "
            "the loss does not see it."
        )
        return Finding("zero_batches", text, evidence)
    usual = fmean(loss for _, loss in training) if training else 0.0
    if len(validation) >= 2 and all(loss == 0 for _, loss in validation) and usual >= FAR_FROM_ZERO:
        text = (
            f"The validation loss is exactly 0 in all {len(validation)} epochs, while the training loss is not: "
            "nothing that is validated on is labelled."
        )
        return Finding("zero_batches", text, evidence)
    return None


def find_chance_level(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a loss that stays at the cross entropy of knowing nothing."""
    curves = [curve for part in ("train", "validation") if (curve := series(records, part, "loss"))]
    if not curves or not begins_anew(records) or max(len(curve) for curve in curves) < CHANCE_EPOCHS:
        return None
    for name, level in CHANCE.items():
        if all(abs(loss - level) <= CHANCE_WIDTH * level for curve in curves for _, loss in curve[1:]) and all(
            abs(curve[0][1] - level) <= 0.1 * level for curve in curves
        ):
            steady = not any(falls_steadily(curve) for curve in curves)
            if steady:
                text = (
                    f"The loss stays at {name} ({level:.4f}) from the beginning, to {curves[-1][-1][1]:.4f}: the cross "
                    "entropy of a constant output. Nothing is learned: look at the labels, at whether the "
                    "gradient reaches the weights, and at the rate."
                )
                return Finding("chance_level", text, {"level": level, "epochs": span_of(records)})
    return None


def find_no_learning(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a run that from its beginning to its end wins hardly anything, in training and in validation."""
    floor = floor_of(records)
    if floor is None:
        return _find_constant_loss(records)
    curves = {part: curve for part in ("train", "validation") if (curve := heights(records, part))}
    n_epochs = records[-1].epoch - records[0].epoch
    longest = max((len(curve) for curve in curves.values()), default=0)
    if not curves or not begins_anew(records) or n_epochs < FLAT_EPOCHS or longest < FLAT_EPOCHS:
        return None
    level = overlap_level(records)
    if level >= GOOD_OVERLAP:
        return None
    is_poor = level <= POOR_OVERLAP
    if not is_poor and has_gained(records):
        return None
    gains = {}
    for part, curve in curves.items():
        values = [value for _, value in curve]
        if values[0] <= 0 or len(values) < 4:
            return None
        width = max(3, len(values) // 5)
        gains[part] = (values[0] - min(fmean(values[-width:]), median(values[len(values) // 2 :]))) / values[0]
    allowed = FLAT_GAIN
    if is_poor:
        allowed = POOR_FLAT_GAIN
    elif n_epochs >= LONG_FLAT_EPOCHS:
        allowed = LONG_FLAT_GAIN
    if max(gains.values()) >= allowed or any(falls_steadily(curve) for curve in curves.values()):
        return None
    named = {"train": "training loss", "validation": "validation loss"}
    told = " and the ".join(
        f"{named[part]} went from {curve[0][1] + floor:.4f} to {fmean(value for _, value in curve[-3:]) + floor:.4f}"
        for part, curve in curves.items()
    )
    text = (
        f"The run does not learn: in {longest} epochs the {told}, {100 * max(gains.values()):.1f} % of what there was "
        "to win."
    )
    poor = {name: points for name, points in _true_scores(records, overlap=True).items()} if is_poor else {}
    for name, points in list(poor.items())[:1]:
        values = [value for _, value in points]
        text += f' "{name}" stands between {min(values):.4g} and {max(values):.4g}.'
    text += (
        " Suspect the labels first (is label 2, unlabelled, taken for surface?), then the output (a sigmoid or softmax "
        "twice?), then the loss, and the rate last."
    )
    evidence = {"gains": gains, "overlap": level, "epochs": span_of(records)}
    return Finding("no_learning", text, evidence)


def _find_constant_loss(records: Sequence[LoggedEpoch]) -> Finding | None:
    """A loss without a known floor that is the same to the last digit from the second epoch on."""
    curves = [curve for part in ("train", "validation") if (curve := series(records, part, "loss"))]
    if not begins_anew(records) or overlap_level(records) >= GOOD_OVERLAP or has_gained(records):
        return None
    if min(len(curve) for curve in curves) < CONSTANT_EPOCHS or any(
        len({loss for _, loss in curve[1:]}) > 1 for curve in curves
    ):
        return None
    text = (
        f"The run does not learn: from the second epoch on the loss stands at exactly {curves[-1][-1][1]:.6g}. Nothing "
        "reaches the weights: look at the labels and at the output (does it saturate? is the loss for labels of this "
        "form?), and at the gradient."
    )
    return Finding("no_learning", text, {"loss": curves[-1][-1][1], "epochs": span_of(records)})


def falls_steadily(curve: Curve) -> bool:
    """Return whether a curve falls in nearly every epoch: too slow is not the same as not at all."""
    falls = [before - after for (_, before), (_, after) in itertools.pairwise(curve)]
    return len(falls) >= 5 and sum(fall > 0 for fall in falls) >= 0.85 * len(falls)


def find_standing_score(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a score that stands at exactly one value while the loss falls: the mask is empty or full."""
    loss = dict(heights(records, "validation") or heights(records, "train"))
    found = []
    for name, points in _true_scores(records).items():
        meaning = meaning_of(name)
        if meaning.split == "train" or meaning.is_step:
            continue
        stretch = _still_stretch(name, points, loss)
        if stretch is not None:
            found.append((name, *stretch))
    if not found:
        return None
    name, first, last, value, others = max(found, key=lambda entry: entry[2] - entry[1])
    text = f'The score "{name}" stands at exactly {value:.6g} from epoch {first} to {last}'
    floor = floor_of(records)
    if loss and floor is not None:
        text += f", while the loss goes from {_near(loss, first) + floor:.4f} to {_near(loss, last) + floor:.4f}"
    text += f" (elsewhere it is {others:.3g} in the middle)" if math.isfinite(others) else ""
    if " of class " in name:
        text += (
            ": this class is never predicted. Look at the classes: a class of its own for label 2, which means "
            "unlabelled, drowns the surface."
        )
    else:
        text += (
            ": the prediction is the same whatever the network puts out, empty or full. Look at the threshold that "
            "makes the mask, and at the output's range."
        )
    if len(found) > 1:
        text += f" So it is with {', '.join(entry[0] for entry in found if entry[0] != name)}."
    evidence = {"score": name, "value": value, "epochs": [first, last], "scores": [entry[0] for entry in found]}
    return Finding("standing_score", text, evidence)


def _near(loss: Mapping[int, float], epoch: int) -> float:
    return loss[min(loss, key=lambda other: abs(other - epoch))]


def _still_stretch(name: str, points: Curve, loss: Mapping[int, float]) -> tuple[int, int, float, float] | None:
    """First and last epoch, value, and the middle of the others, of the stretch that counts; None without one."""
    values = [value for _, value in points]
    stretches, start = [], 0
    for place in range(1, len(values) + 1):
        if place == len(values) or values[place] != values[start]:
            stretches.append((start, place - 1))
            start = place
    long = [stretch for stretch in stretches if stretch[1] > stretch[0]]
    # A score that is taken every few epochs and carried forward stands still all the time.
    if not long or (len(long) >= 3 and len(long) >= 0.6 * len(stretches)):
        return None
    decimals = max(len(f"{value!r}".partition(".")[2].partition("e")[0]) for value in values)
    usual_of = [value for value in values if value != values[long[-1][0]]]
    first, last = long[-1]
    value = values[first]
    if last == len(values) - 1 and last - first + 1 >= STILL_AT_END and value < 0.999:
        others = median(usual_of) if usual_of else math.nan
        fine = decimals >= STILL_DECIMALS or value == 0
        fallen = _fall(loss, points[first][0], points[last][0])
        collapsed = bool(usual_of) and value < STILL_UNDER * max(usual_of)
        if fine and (fallen >= STILL_LOSS_FALL or collapsed) and not (usual_of and abs(value) > 0.98 * max(usual_of)):
            return points[first][0], points[last][0], value, others
    if " of class " in name or decimals < STILL_DECIMALS + 1:
        return None
    for first, last in long:
        value, usual = values[first], [other for other in values if other != values[first]]
        if first == 0 or last == len(values) - 1 or last - first + 1 < STILL_IN_MIDDLE or len(usual) < 3:
            continue
        before, after = points[first - 1][0], points[last][0]
        recovered = max(values[:first]) >= 0.5 * median(usual)
        if value < STILL_UNDER * median(usual) and recovered and _fall(loss, before, after) >= STILL_LOSS_FALL:
            return points[first][0], points[last][0], value, median(usual)
    return None


def _fall(loss: Mapping[int, float], first: int, last: int) -> float:
    """By what share the loss fell between two epochs."""
    before = [value for epoch, value in loss.items() if epoch <= first][-1:]
    after = [value for epoch, value in loss.items() if epoch <= last][-1:]
    return (before[0] - after[0]) / before[0] if before and after and before[0] > 0 else 0.0


def find_disguised_loss(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a column with the name of a score that is a loss, and misleads whoever reads it as a score.

    The finding is a note: nothing is wrong with the run itself.
    """
    found = disguised_losses(records)
    if not found:
        return None
    name, (part, agreement) = max(found.items(), key=lambda item: item[1][1])
    points = scores_of(records)[name]
    named = " and ".join(f'"{other}"' for other in found)
    loss = "training" if part == "train" else "validation"
    text = (
        f'{named} {"are losses" if len(found) > 1 else "is a LOSS"} and no score: "{name}" goes up and down '
        f"with the {loss} loss "
        f"(correlation of the changes {agreement:.2f}), from {points[0][1]:.4f} to {points[-1][1]:.4f}; lower "
        f"is better, and one "
        "minus it is the overlap."
    )
    return Finding(
        "disguised_loss", text, {"scores": list(found), "correlation": agreement, "epochs": span_of(records)}, "note"
    )
