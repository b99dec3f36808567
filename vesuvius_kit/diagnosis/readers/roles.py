"""Which name of a log is which loss, the rate, a score; nothing is taken without saying so."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vesuvius_kit.diagnosis.readers.names import Meaning, Split, meaning_of
from vesuvius_kit.diagnosis.readers.rows import Row, base_name

# So many names that are not used are listed.
MAX_LISTED = 12
# So many scores are kept.
MAX_SCORES = 24


@dataclass
class Roles:
    """What was taken as what."""

    train: list[str] = field(default_factory=list)
    """The names of the training loss; several are summed, none where there is no such loss."""
    validation: list[str] = field(default_factory=list)
    """Those of the validation loss."""
    train_parts: dict[str, str] = field(default_factory=dict)
    """Component of the training loss to the name it has in the log."""
    validation_parts: dict[str, str] = field(default_factory=dict)
    """That of the validation loss."""
    rate: str = ""
    """The name of the learning rate; empty for none."""
    scores: dict[str, str] = field(default_factory=dict)
    """What a score is called in the report, to its name in the log."""
    batch: list[str] = field(default_factory=list)
    """Losses of single batches."""
    from_batches: bool = False
    """The training loss of an epoch is the mean over the batches that the log shows."""
    said: list[str] = field(default_factory=list)
    """What was taken as what, in words."""


def assign_roles(rows: Sequence[Row]) -> Roles:
    """Find the losses, the rate and the scores among the names of a log whose rows have their places."""
    whole: dict[str, int] = {}
    single: dict[str, int] = {}
    recorded = {part for row in rows if row.record for part in ("train", "validation") if part in row.record}
    for row in rows:
        for name in row.values if row.epoch is not None and row.level != "record" else ():
            of_batch = row.level == "batch" or meaning_of(base_name(name)).is_step
            counts = single if of_batch else whole
            counts[name] = counts.get(name, 0) + 1
    names = {name: meaning_of(base_name(name)) for name in (*whole, *single)}
    roles = Roles()
    losses = [name for name in whole if names[name].kind == "loss" and "::" not in name]
    roles.batch = [
        name
        for name in single
        if names[name].kind == "loss" and "::" not in name and names[name].split in ("", "train")
    ]
    roles.batch = _plain_first(roles.batch, names, single)[:1]
    pairs = _pairs(rows, losses)
    if recorded:
        # What a log tells to the letter is not looked for under other names.
        losses = []
    roles.validation = _main_loss(losses, names, whole, ("validation",), pairs) or _main_loss(
        losses, names, whole, ("test",), pairs
    )
    roles.train = _main_loss(losses, names, whole, ("train",), pairs) or _main_loss(losses, names, whole, ("",), pairs)
    if not losses and not recorded:
        bare = {names[name].split: name for name in whole if names[name].kind == "bare"}
        if not roles.batch or "train" in bare:
            roles.train = [bare["train"]] if "train" in bare else []
            roles.validation = [bare["validation"]] if "validation" in bare else []
    if not roles.validation and not recorded:
        of_batches = [name for name in single if names[name].kind == "loss" and names[name].split == "validation"]
        roles.validation = _plain_first(of_batches, names, single)[:1]
    roles.from_batches = not roles.train and bool(roles.batch) and "train" not in recorded
    if roles.from_batches:
        roles.train = list(roles.batch)
    roles.train_parts = _parts(losses, names, roles.train, whole)
    roles.validation_parts = _parts(losses, names, roles.validation, whole)
    rates = [name for name in (*whole, *single) if names[name].kind == "rate"]
    roles.rate = rates[0] if rates else ""
    aliases = _aliases(rows, whole, names) if losses else {}
    scores = [name for name in whole if names[name].kind == "score" and "::" not in name]
    shown = {aliases.get(name, name): name for name in [*scores, *aliases]}
    roles.scores = dict(list(shown.items())[:MAX_SCORES])
    _say(roles, names, whole, single, aliases)
    return roles


def _plain_first(found: Iterable[str], names: Mapping[str, Meaning], counts: Mapping[str, int]) -> list[str]:
    """Names in the order in which they are taken: without a qualifier, of an epoch, those with most values."""
    return sorted(found, key=lambda name: (bool(names[name].qualifier), not names[name].is_epoch, -counts[name]))


def _main_loss(
    losses: Iterable[str],
    names: Mapping[str, Meaning],
    counts: Mapping[str, int],
    splits: tuple[Split, ...],
    pairs: Container[frozenset[str]],
) -> list[str]:
    """The plain loss of a split; the only one there is; the sum of several that are told without a plain one."""
    found = _plain_first([name for name in losses if names[name].split in splits and counts[name]], names, counts)
    if not found:
        return []
    if not names[found[0]].qualifier or len(found) == 1:
        return found[:1]
    together = [name for name in found if frozenset((found[0], name)) in pairs or name == found[0]]
    often = max(counts[name] for name in together)
    return [name for name in together if counts[name] == often]


def _pairs(rows: Iterable[Row], losses: Iterable[str]) -> set[frozenset[str]]:
    """Losses that stand in one row: only such may be terms of one sum."""
    known = set(losses)
    pairs: set[frozenset[str]] = set()
    for row in rows:
        here = [name for name in row.values if name in known]
        pairs.update(frozenset((first, second)) for first in here[:12] for second in here[:12] if first != second)
    return pairs


def _parts(
    losses: Iterable[str], names: Mapping[str, Meaning], main: Sequence[str], whole: Iterable[str]
) -> dict[str, str]:
    """The components of a loss: losses of its split with a qualifier, or those in brackets behind it."""
    if not main:
        return {}
    parts = {name.split("::", 1)[1]: name for name in whole if name.split("::", 1)[0] == main[0] and "::" in name}
    split = names[main[0]].split if main[0] in names else ""
    for name in losses:
        if name not in main and names[name].split == split and names[name].qualifier:
            parts.setdefault(names[name].qualifier, name)
    return {part: name for part, name in parts.items() if part != "loss"}


def _aliases(rows: Sequence[Row], whole: Mapping[str, int], names: Mapping[str, Meaning]) -> dict[str, str]:
    """A bare "Val" whose values are those of a "Val Dice" told beside it is that Dice."""
    by_epoch: dict[float, dict[str, float]] = {}
    for row in rows:
        if row.epoch is not None and row.level != "batch":
            by_epoch.setdefault(row.epoch, {}).update(row.values)
    aliases: dict[str, str] = {}
    for bare in [name for name in whole if names[name].kind == "bare"]:
        for score in sorted({name for row in rows if row.level == "record" for name in row.values} - set(whole)):
            if meaning_of(score).kind != "score":
                continue
            both = [values for values in by_epoch.values() if bare in values and score in values]
            if both and all(values[bare] == values[score] for values in both):
                aliases[bare] = score
    return aliases


def _say(
    roles: Roles,
    names: Mapping[str, Meaning],
    whole: Mapping[str, int],
    single: Mapping[str, int],
    aliases: Mapping[str, str],
) -> None:
    """Write into the roles what was taken as what."""
    said = roles.said
    for title, taken in (("training loss", roles.train), ("validation loss", roles.validation)):
        if not taken:
            continue
        text = f'{title} = "{" + ".join(taken)}"'
        meaning = names.get(taken[0], Meaning("other"))
        if title == "training loss" and roles.from_batches:
            text += " (mean of the batches shown)"
        elif title == "training loss" and meaning.kind == "loss" and not meaning.split:
            text += " (the log does not say of what)"
        elif meaning.split == "test":
            text += " (no validation loss beside it)"
        said.append(text)
    if roles.rate:
        said.append(f'rate = "{roles.rate}"')
    if roles.scores:
        called = [
            f'"{name}"' + (f' ("{label}", equal where both stand)' if name in aliases else "")
            for label, name in roles.scores.items()
        ]
        said.append(f"{'scores' if len(called) > 1 else 'score'} = {', '.join(called[:MAX_LISTED])}")
    parts = {**roles.train_parts, **roles.validation_parts}
    if parts:
        said.append(f"components of the loss = {', '.join(sorted(parts)[:MAX_LISTED])}")
    used = {*roles.train, *roles.validation, roles.rate, *roles.scores.values(), *roles.batch, *aliases.values()}
    used |= {*roles.train_parts.values(), *roles.validation_parts.values()}
    left = [name for name in {**whole, **single} if name not in used and names[name].kind in ("loss", "bare", "score")]
    if left:
        more = f" and {len(left) - MAX_LISTED} more" if len(left) > MAX_LISTED else ""
        said.append(f"not used: {', '.join(left[:MAX_LISTED])}{more}")
