"""Faults of the learning rate and of the fit: one function for each, which returns a finding or None.

Every threshold is a named constant with its reason. A false alarm in a healthy run costs more than a miss, so each fault asks
for several epochs, and for more than one sign where a healthy run shows a single sign too.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from vesuvius_kit.constants import MAX_FACTOR
from vesuvius_kit.diagnosis.curves import (
    Curve,
    Part,
    base_rate,
    begins_anew,
    entries_of,
    floor_of,
    heights,
    loss_curve,
    number_of,
    scores_of,
    series,
    setting_of,
    since_new_base,
    since_new_weights,
)
from vesuvius_kit.diagnosis.finding import Finding
from vesuvius_kit.diagnosis.logs import Config, LoggedEpoch
from vesuvius_kit.diagnosis.readers.names import heading_split, meaning_of, words_of
from vesuvius_kit.diagnosis.score_faults import GOOD_OVERLAP, has_gained, overlap_level

# From one epoch to the next no schedule but a warm restart doubles the rate, and that does not pass the base.
JUMP = 2.0
# Fewer epochs show no trend; the last ones are averaged, since one may be an accident.
MIN_EPOCHS = 6
LAST_EPOCHS = 3
# The cross entropy of a constant 0.5, in nats a voxel; more than it for half of a run is worse than knowing nothing.
CHANCE_LEVEL = math.log(2)
# Losses that change by more than a tenth from epoch to epoch swing, and are not noisy: means over an epoch are smoother.
THROWN = 0.1
# The loss of the last epochs over twice the best is an explosion, not over-fitting, when it is the training loss.
EXPLODED = 2.0
# Losses that rise by a fifth in three of ten epochs.
RISE = 0.2
RISING_PART = 0.3
# Nearly every epoch.
CLIPPED_PART = 0.9
# A whole run that wins less than a tenth, in falls almost every epoch, without slowing down.
SLOW_GAIN = 0.1
SLOW_PART = {"validation": 0.9, "train": 0.85}
SLOW_EPOCHS = 8
SLOW_CURVATURE = 0.4
# The validation loss a sixth over its best for the last epochs while the training loss fell on by a tenth; healthy runs on few
# patches swing by a tenth.
OVERFIT_RISE = 0.15
# And by a twentieth of what the run began with: where nothing is left to learn, small numbers change by large parts.
OVERFIT_SIZE = 0.05
OVERFIT_FALL = 0.1
OVERFIT_EPOCHS = 5
# A run that is rolled back never gets worse for long: two rollbacks of this kind are no accident.
OVERFIT_ROLLBACKS = 2
# In a long run, in means over several epochs: the validation loss a twentieth over its best, the training loss less than
# 60 % of what it was then, and what is left to learn on the validation two and a half times what is left in training.
PARTED_EPOCHS = 15
PARTED_RISE = 0.05
PARTED_FALL = 0.6
PARTED_GAP = 2.5
# Half of the training loss learned, and of the validation loss as good as nothing.
BY_HEART_FALL = 0.5
BY_HEART_KEPT = 0.95
# Where only scores tell: an overlap of 0.8 in training, under 60 % of it in validation, and no gain there since the beginning.
SCORED_IN_TRAINING = 0.8
SCORED_GAP = 0.6
SCORED_GAIN = 0.02
# A loss scaler skips a few steps in the first epochs while it finds its scale.
SCALER_EPOCHS = 2
MAX_SKIPPED = 3
# Validations that were no numbers at the very beginning, and never in so many epochs afterwards.
SETTLING_EPOCHS = 3
SETTLED_EPOCHS = 10


def find_runaway(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a learning rate beyond five times its base."""
    base = base_rate(records, config)
    multiples = []
    for record in records:
        for entry in record.interventions:
            multiple = number_of(entry.get("multiple"))
            if math.isnan(multiple) and base:
                multiple = number_of(entry.get("rate_after")) / base
            multiples.append((record.epoch, multiple))
    interventions = len(multiples)
    if base and (config or records[0].epoch <= 1):
        # A rate that was raised without an intervention in the log. A schedule climbs more slowly than this.
        rates = [(record.epoch, number_of(record.rate)) for record in since_new_base(records)]
        jumps = [epoch for (_, before), (epoch, after) in itertools.pairwise(rates) if after > JUMP * before]
        if not config and not records[-1].loss_weights:
            # In a log of others a jump may be a schedule's: it counts where the loss suffered from it.
            jumps = [epoch for epoch in jumps if _has_suffered(records, epoch)]
        multiples += [(epoch, rate / base) for epoch, rate in rates if jumps and epoch >= jumps[0]]
    multiples = [(epoch, multiple) for epoch, multiple in multiples if multiple > MAX_FACTOR * (1 + 1e-6)]
    if not multiples:
        return None
    at_epoch, highest = max(multiples, key=lambda pair: pair[1])
    first = min(epoch for epoch, _ in multiples)
    text = (
        f"The learning rate ran away: past {MAX_FACTOR:g} times its base from epoch {first} on, {highest:.4g} times at "
        f"epoch {at_epoch}"
    )
    text += f", in {_count(interventions, 'intervention')}." if interventions else "."
    evidence = {
        "highest_multiple": highest,
        "at_epoch": at_epoch,
        "first_epoch": first,
        "interventions": interventions,
        "base_rate": base,
    }
    return Finding("runaway", text, evidence)


def _has_suffered(records: Sequence[LoggedEpoch], epoch: int) -> bool:
    """Whether the loss was higher in the epochs after a jump of the rate than before it."""
    curve = loss_curve(records)
    before = [loss for at, loss in curve if at < epoch][-LAST_EPOCHS:]
    after = [loss for at, loss in curve if at >= epoch][-LAST_EPOCHS:]
    return bool(before and after) and fmean(after) > fmean(before)


def find_high_rate(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a loss that explodes or swings."""
    records = since_new_weights(records)
    curve, floor = heights(records, "train")[1:], floor_of(records)
    if floor is None or len(curve) < MIN_EPOCHS or has_gained(records):
        return None
    losses = [loss for _, loss in curve]
    changes = [after - before for before, after in itertools.pairwise(losses)]
    scale = max(median(losses), 0.25 * losses[0])
    rising = [epoch for (epoch, _), change in zip(curve[1:], changes, strict=True) if change > RISE * scale]
    entropies = series(records, "train", "cross_entropy")[1:]
    blind = [epoch for epoch, value in entropies if value > CHANCE_LEVEL]
    thrown = fmean(abs(change) for change in changes) > THROWN * fmean(losses)
    last = fmean(losses[-LAST_EPOCHS:])
    if last > EXPLODED * min(losses) and last > losses[0]:
        text = (
            f"The training loss exploded, from {min(losses) + floor:.3g} at its best to {last + floor:.3g} in the last "
            "epochs."
        )
    elif thrown and entropies and len(blind) >= len(entropies) / 2:
        text = (
            f"The loss swings, and in {len(blind)} of {len(entropies)} epochs the cross entropy is above chance level."
        )
    elif thrown and len(rising) >= RISING_PART * len(changes):
        text = f"The training loss swings: it rose by a fifth or more in {len(rising)} of {len(changes)} epochs."
    else:
        return None
    clip = number_of(setting_of(config, "train", "gradient_clip"))
    norms = [value for _, value in series(records, "train", "gradient_norm")]
    clipped = sum(norm > clip for norm in norms)
    if norms and clipped >= CLIPPED_PART * len(norms):
        text += f" The gradient was over the clip of {clip:g} on average in {clipped} of {len(norms)} epochs."
    evidence = {
        "best_loss": min(losses) + floor,
        "last_loss": last + floor,
        "rising_epochs": rising,
        "epochs": [curve[0][0], curve[-1][0]],
        "epochs_above_chance_level": len(blind),
        "rate": number_of(records[-1].rate),
    }
    return Finding("high_rate", "The rate is too high. " + text, evidence)


def find_low_rate(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a loss that falls steadily and hardly at all."""
    warmup = number_of(setting_of(config, "lr", "warmup_epochs"))
    floor = floor_of(records)
    if floor is None or not begins_anew(records) or overlap_level(records) >= GOOD_OVERLAP:
        return None
    for part in ("validation", "train"):
        curve = [(at, loss) for at, loss in heights(records, part) if at >= (warmup if math.isfinite(warmup) else 2)]
        if len(curve) < SLOW_EPOCHS or curve[0][1] <= 0:
            continue
        losses = [loss for _, loss in curve]
        gain = (losses[0] - losses[-1]) / losses[0]
        if gain >= SLOW_GAIN:
            return None
        if gain > 0 and _creeps(curve, gain, records, SLOW_PART[part]):
            break
    else:
        return None
    return Finding(
        "low_rate",
        f"The rate is too low: the {'training' if part == 'train' else 'validation'} loss falls in nearly every epoch "
        f"without slowing down, but only from {losses[0] + floor:.4f} to {losses[-1] + floor:.4f} in {len(losses)} "
        "epochs.",
        {"gain": gain, "first_loss": losses[0] + floor, "last_loss": losses[-1] + floor, "epochs": [curve[0][0], curve[-1][0]],
         "rate": number_of(records[-1].rate)},
    )  # fmt: skip


def _creeps(curve: Curve, gain: float, records: Sequence[LoggedEpoch], steady: float) -> bool:
    """Whether a loss falls in nearly every epoch and has not slowed down, or no more than a rate that was lowered."""
    losses = [loss for _, loss in curve]
    falls = [before - after for before, after in itertools.pairwise(losses)]
    if sum(fall > 0 for fall in falls) < steady * len(falls):
        return False
    middle = len(losses) // 2
    early, late = losses[0] - losses[middle], losses[middle] - losses[-1]
    if late >= SLOW_CURVATURE * early:
        return True
    rates = {record.epoch: number_of(record.rate) for record in records}
    used = [rates.get(epoch, math.nan) for epoch, _ in curve[1:]]
    if gain >= SLOW_GAIN / 2 or not all(rate > 0 for rate in used):
        return False
    return late * sum(used[:middle]) >= SLOW_CURVATURE * early * sum(used[middle:])


def find_overfitting(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a validation loss that rises while the training loss goes on falling."""
    records = since_new_weights(records)
    validation, training, floor = heights(records, "validation"), dict(heights(records, "train")), floor_of(records)
    if floor is None or not validation:
        return None
    best_epoch, best = min(validation, key=lambda pair: pair[1])
    after = [loss for epoch, loss in validation if epoch > best_epoch]
    trained = [loss for epoch, loss in sorted(training.items()) if epoch > best_epoch]
    if len(after) >= OVERFIT_EPOCHS and len(trained) >= OVERFIT_EPOCHS and best_epoch in training:
        last, last_trained, then = (
            fmean(after[-OVERFIT_EPOCHS:]),
            fmean(trained[-OVERFIT_EPOCHS:]),
            training[best_epoch],
        )
        if _has_parted(best, then, last, last_trained, validation[0][1]):
            text = (
                f"The network over-fits: since epoch {best_epoch} the validation loss rose from {best + floor:.4f} to "
                f"{last + floor:.4f}, while the training loss fell from {then + floor:.4f} to "
                f"{last_trained + floor:.4f}."
            )
            evidence = {"best_epoch": best_epoch, "best_loss": best + floor, "last_loss": last + floor}
            evidence |= {"train_loss_then": then + floor, "train_loss_last": last_trained + floor}
            return Finding("overfitting", text, evidence)
    parted = [epoch for epoch in _rollbacks(records) if _parted_before(epoch, validation, training)]
    if len(parted) < OVERFIT_ROLLBACKS:
        return None
    text = (
        f"The network over-fits: it was rolled back {len(parted)} times, first after epoch {parted[0]}, and each time "
        "the validation loss had risen while the training loss fell."
    )
    return Finding(
        "overfitting", text, {"best_epoch": best_epoch, "best_loss": best + floor, "rolled_back_after": parted}
    )


def _has_parted(best: float, trained_then: float, last: float, last_trained: float, first: float) -> bool:
    """Whether the validation loss is well over its best while the training loss fell on."""
    risen = last >= (1 + OVERFIT_RISE) * best and last >= best + OVERFIT_SIZE * first
    return risen and last_trained <= (1 - OVERFIT_FALL) * trained_then and last > last_trained


def _rollbacks(records: Sequence[LoggedEpoch]) -> list[int]:
    return [record.epoch for record in records if any(event.get("kind") == "rollback" for event in record.events)]


def _parted_before(epoch: int, validation: Curve, training: Mapping[int, float]) -> bool:
    """Whether training and validation had parted when the run was rolled back after an epoch."""
    before = [(at, loss) for at, loss in validation if at < epoch and at in training]
    losses = dict(validation)
    if not before or epoch not in losses or epoch not in training:
        return False
    best_epoch, best = min(before, key=lambda pair: pair[1])
    return _has_parted(best, training[best_epoch], losses[epoch], training[epoch], before[0][1])


def find_parting(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find a long run whose training loss leaves the validation loss far behind, which has turned and rises slowly."""
    records = since_new_weights(records)
    if not series(records, "validation", "loss"):
        return _find_parted_scores(records)
    training, floor = dict(heights(records, "train")), floor_of(records)
    both = [(epoch, height, training[epoch]) for epoch, height in heights(records, "validation") if epoch in training]
    width = max(OVERFIT_EPOCHS, len(both) // 20)
    if floor is None or len(both) < PARTED_EPOCHS + width:
        return None
    smooth = [
        (
            both[end - 1][0],
            fmean(row[1] for row in both[end - width : end]),
            fmean(row[2] for row in both[end - width : end]),
        )
        for end in range(width, len(both) + 1)
    ]
    best_epoch, best, then = min(smooth, key=lambda row: row[1])
    last_epoch, last, last_trained = smooth[-1]
    if begins_anew(records) and last >= BY_HEART_KEPT * both[0][1] and last_trained <= BY_HEART_FALL * both[0][2]:
        text = (
            "The network over-fits: it memorises the training data. The training loss fell from "
            f"{both[0][2] + floor:.4f} to {last_trained + floor:.4f}, the validation loss only went from "
            f"{both[0][1] + floor:.4f} to {last + floor:.4f}."
        )
        evidence = {"best_epoch": best_epoch, "best_loss": best + floor, "last_loss": last + floor}
        return Finding(
            "parting", text, evidence | {"train_loss_then": then + floor, "train_loss_last": last_trained + floor}
        )
    since = sum(epoch > best_epoch for epoch, _, _ in smooth)
    risen = last >= (1 + PARTED_RISE) * best
    if since < PARTED_EPOCHS or not risen or last_trained > PARTED_FALL * then or last < PARTED_GAP * last_trained:
        return None
    text = (
        f"The network over-fits: to epoch {last_epoch} the training loss fell to {last_trained + floor:.4f}, while the "
        f"validation loss turned at epoch {best_epoch} ({best + floor:.4f}) and stands at {last + floor:.4f} (means of "
        f"{width} epochs)."
    )
    evidence = {"best_epoch": best_epoch, "best_loss": best + floor, "last_loss": last + floor}
    return Finding(
        "parting", text, evidence | {"train_loss_then": then + floor, "train_loss_last": last_trained + floor}
    )


def _find_parted_scores(records: Sequence[LoggedEpoch]) -> Finding | None:
    """An overlap that is high in training, much lower in validation, and does not rise there any more."""
    scores = scores_of(records)
    for name, points in scores.items():
        meaning = meaning_of(name)
        if meaning.split != "validation" or not meaning.overlap or len(points) < MIN_EPOCHS:
            continue
        trained = next((dict(scores[other]) for other in scores if _measures_in_training(other, name)), {})
        third = len(points) // 3
        last_trained = [trained[epoch] for epoch, _ in points[-third:] if epoch in trained]
        first, last = (fmean(value for _, value in part) for part in (points[:third], points[-third:]))
        if not last_trained or not SCORED_IN_TRAINING <= fmean(last_trained) <= 1.0:
            continue
        if last > SCORED_GAP * fmean(last_trained) or last > first + SCORED_GAIN:
            continue
        best_epoch, best = max(points, key=lambda pair: pair[1])
        text = (
            f"The network over-fits: {name} stands at {last:.3f} (best {best:.3f} at epoch {best_epoch}) and does not "
            f"rise any more, while the same score is {fmean(last_trained):.3f} in training."
        )
        evidence = {"best_epoch": best_epoch, "score": name, "last": last, "in_training": fmean(last_trained)}
        return Finding("parting", text, evidence)
    return None


def _measures_in_training(name: str, other: str) -> bool:
    """Whether a score is what another one is, but of the training."""
    first, second = ([word for word in words_of(each) if not heading_split(word)] for each in (name, other))
    return first == second and meaning_of(name).split == "train"


def find_not_finite(records: Sequence[LoggedEpoch], config: Config | None = None) -> Finding | None:
    """Find losses that are no numbers, and steps that were skipped for it."""
    broken = [] if _settled_at_once(records) else _broken(records, "train", "validation")
    skipped = {
        epoch: int(count)
        for epoch, count in series(records, "train", "skipped_steps")
        if count > MAX_SKIPPED and (epoch >= SCALER_EPOCHS or epoch in broken)
    }
    if not broken and not skipped:
        return None
    parts = []
    if broken:
        parts.append(f"the loss was not a number in {_count(len(broken), 'epoch')}, first in epoch {broken[0]}")
    if skipped:
        parts.append(
            f"{sum(skipped.values())} steps were skipped in {_count(len(skipped), 'epoch')}, first in epoch "
            f"{min(skipped)}"
        )
    text = "Not every number was finite: " + "; ".join(parts) + "."
    return Finding("not_finite", text, {"epochs": broken, "skipped_steps": skipped})


def _broken(records: Sequence[LoggedEpoch], *parts: Part) -> list[int]:
    """The epochs in which the loss of one of the parts is no number."""
    told = [(record.epoch, entries_of(record, part)) for record in records for part in parts]
    return sorted({epoch for epoch, part in told if "loss" in part and not math.isfinite(number_of(part["loss"]))})


def _settled_at_once(records: Sequence[LoggedEpoch]) -> bool:
    """Whether only the first validations were no numbers, as of averaged weights that follow late, and training never broke."""
    broken = _broken(records, "validation")
    finite = [epoch for epoch, _ in series(records, "validation", "loss")]
    if not broken or not series(records, "train", "loss") or _broken(records, "train"):
        return False
    return len(broken) <= SETTLING_EPOCHS and len(finite) >= SETTLED_EPOCHS and broken[-1] < finite[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
