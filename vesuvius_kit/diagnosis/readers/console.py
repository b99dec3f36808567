"""Lines that a training program prints: `Epoch [3/100] Train Loss: 0.41 | Val Loss: 0.44` in its many forms.

A line is taken apart at its numbers: what stands before a number is its name, as far back as the last sign that parts things.
Nothing is taken that has no name of its own, and nothing from a sentence about a record, a file or a setting.
"""

import math
import re
from functools import lru_cache
from typing import Literal

from vesuvius_kit.diagnosis.readers.names import Meaning, Split, heading_split, meaning_of, word_set, words_of
from vesuvius_kit.diagnosis.readers.rows import MAX_EPOCH, Row

# A line without any of these words holds nothing for us.
_RELEVANT = (
    "loss", "epoch", "dice", "train", "val", "iou", "score", "acc", "f1", "lr", "learning", "step", "iter", "metric", "jaccard",
    "dsc", "auc", "ep ",
)  # fmt: skip
_STAMP = re.compile(
    r"\d{4}[-/.]\d\d?[-/.]\d\d?(?:[ T_]+\d\d?:\d\d(?::\d\d)?(?:[.,]\d+)?)?(?:Z\b|[+-]\d\d:?\d\d\b)?"
    r"|(?<![\d.])\d{1,3}:\d\d(?::\d\d)?(?:[.,]\d+)?(?![\d.])"
)
_NUMBER = re.compile(
    r"(?<![\w.@])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w*\.\d)|(?<=[:= (\[])(?:[-+]?(?:nan|inf(?:inity)?))(?!\w)",
    re.IGNORECASE,
)
# What NumPy and torch write round a number.
_WRAPPED = re.compile(r"(?:np\.|numpy\.|torch\.)?(?:float(?:16|32|64)|tensor|array)\(\s*", re.IGNORECASE)
_WRAPPED_END = re.compile(r"(?:,\s*(?:device|dtype|grad_fn|requires_grad)=[^,()]{1,40}(?:\(\))?>?)+\)")
# What a progress bar is made of.
_BAR = ("%|", "% |", "it/s", "s/it", "/step", "█", "━", "[==", "==]", "=>.", "[>", "batch/s", "s/batch")
_BEHIND_BAR = re.compile(r"(?:it/s|s/it|batch/s)(?:, [^\]|]{0,200})?\](?=.*\bepoch\b)", re.IGNORECASE)
_SEPARATORS = re.compile(r"[|,;()\[\]{}<>•·→│!?:=\t]|\s[-–—]+\s|\s{2,}|-{2,}|={2,}|\*{2,}|\.{2,}")
# In Keras's bars that are not at their end, and one that is.
_NOT_DONE = " - ETA: "
_DONE_BAR = re.compile(r"\d+/\d+ \[=+\]")
_PERCENT = re.compile(r"\s?%(?!\s?\|)")
_UNIT = re.compile(
    r"\s?(?:ms|s|sec|secs|seconds|min|mins|minutes|h|hrs?|hours|it|its|G|M|K|k|GB|MB|GiB|MiB|B|x)(?![a-zA-Z])"
)
_OPENS_PARTS = re.compile(r"^\s*[(\[{]")
# Words behind which an epoch's number is not the epoch that the line tells of.
_NOT_THIS_EPOCH = word_set(
    """
    from best better saved saving save found checkpoint early stopping stopped stop resume resumed
    resuming load loaded loading improve improved until max min total num last previous warmup restore
    restored every after_epoch triggered ran reached patience model skipping
    """
)
# A line that tells of a record, and not of an epoch.
_RECORD = re.compile(r"\b(?:best|saved?|saving|improved|improvement|new record)\b", re.IGNORECASE)
_BESIDE = word_set("best avg average mean ema min max prev previous was old")
MAX_LINE = 20_000
_MAX_LABEL = 240


def last_of_bars(line: str) -> str:
    """Return the last of Keras's bars that stand in one line, as where the signs that took the others back were lost.

    It is the line itself where it holds one bar or none.
    """
    last = line.rfind(_NOT_DONE)
    if last <= line.find(_NOT_DONE) or (match := _DONE_BAR.search(line, last)) is None:
        return line
    return line[match.start() :]


def read_console_line(line: str, number: int, is_cut: bool = False) -> Row | None:
    """Return what a line of a console says; None for a line that says nothing of an epoch.

    Parameters
    ----------
    line
        Without colours.
    number
        From 1.
    is_cut
        The text ends with the line, so that its last number may be cut and is not taken.
    """
    if len(line) > MAX_LINE or line[0] in "{#":
        return None
    lower = line.lower()
    if not any(word in lower for word in _RELEVANT):
        return None
    is_bar = any(sign in line for sign in _BAR)
    if is_bar and (behind := _BEHIND_BAR.search(line)) is not None:
        # Another line was printed behind a bar that had not ended its own.
        line, is_bar = line[behind.end() :], False
    text = _STAMP.sub(" ", line)
    if "(" in text and _WRAPPED.search(text):
        text = _WRAPPED_END.sub("", _WRAPPED.sub("", text))
    scan = _Scan(text, number, is_bar)
    matches = list(_NUMBER.finditer(text))
    if is_cut and matches and not text[matches[-1].end() :].strip():
        matches.pop()
    for match in matches:
        scan.take(match)
        if scan.is_hopeless:
            return None
    scan.see_headings(text[scan.end :])
    return scan.row()


class _Scan:
    """One line, number by number."""

    def __init__(self, text: str, number: int, is_bar: bool) -> None:
        self.text, self.is_bar = text, is_bar
        self.end = 0
        self.found = Row(number, source="console")
        self.split: Split = ""
        self.after: Literal["", "count", "epoch", "loss"] = (
            ""  # what the number before was; count: the whole may follow
        )
        self.parts_of = ""  # the loss whose components stand in the bracket that is open
        self.fraction: tuple[float, float] | None = None  # how much of the epoch is done, and the whole
        self.is_hopeless = False
        self.is_batch = False
        self.whole = 0.0
        self.last_loss = ""
        self.is_record = False
        self.is_counted = False  # the epoch is told as one of so many

    def take(self, match: re.Match[str]) -> None:
        label, self.end = self.text[self.end : match.start()], match.end()
        behind = self.text[match.end() : match.end() + 12]
        word = match[0]
        before_parts = self.after
        self.after = ""
        if label.strip() in ("/", "of") and before_parts in ("epoch", "count"):
            self.is_counted = self.is_counted or before_parts == "epoch"
            if before_parts == "count" and word.isdigit():
                self.fraction = (self.whole, float(word))
            return
        self._follow_parts(label, before_parts)
        key = self._key(label[-_MAX_LABEL:])
        if self.is_bar and behind.lstrip()[:1] == "%":
            # How far a bar is; what stands before it may say what is counted.
            self.split = heading_split(key) or self.split
        elif key:
            self._take_named(key, word, behind)
        # 0.41 (0.43): the mean behind the value; [10/314], 45%: how far the epoch is.
        elif behind.lstrip()[:1] == "/" and word.isdigit():
            self.after, self.whole = "count", float(word)

    def _follow_parts(self, label: str, before: str) -> None:
        """Notice what stands before a number: a record, the end of the components of a loss, their beginning."""
        if not self.found.values and _tells_of_record(label):
            self.is_record = True
        label = label[-_MAX_LABEL:]
        if self.parts_of and (")" in label or "]" in label or "}" in label):
            self.parts_of = ""
        if before == "loss" and _OPENS_PARTS.match(label):
            self.parts_of = self.last_loss

    def _take_named(self, key: str, word: str, behind: str) -> None:
        """Take a number by what its name means."""
        value = _value(word, behind)
        meaning = meaning_of(key)
        if meaning.kind == "epoch":
            self.split = meaning.split or self.split
            self._take_epoch(key, word)
        elif meaning.kind == "step":
            self.is_batch = True
            if word.isdigit():
                self.found.step = float(word)
                self.after, self.whole = "count", float(word)
        elif meaning.kind == "bare" and word.isdigit() and self.found.epoch is None and _is_of_epoch(key, behind):
            # Train: 3 [ 120/314 ... or Final training 3/99 ...
            self.split = meaning.split
            self._take_epoch("epoch", word)
        elif behind[:1] == "/" and behind[1:2].isdigit():
            self.after, self.whole = "count", float(word) if word.isdigit() else 0.0
        elif value is None or meaning.kind == "other":
            if behind.lstrip()[:1] == "/" and word.isdigit():
                self.after, self.whole = "count", float(word)
            self._guard(key, word)
            if self.parts_of and value is not None:
                self._take_part(key, value)
        else:
            self._take_value(key, meaning, value)

    def _guard(self, key: str, word: str) -> None:
        """An epoch's number that is not the line's own makes the line a sentence about something else."""
        words = words_of(key)
        if word.isdigit() and words and words[-1] in ("epoch", "ep"):
            if set(words) & _NOT_THIS_EPOCH or self.found.epoch is not None or self.found.values:
                self.is_hopeless = self.found.epoch is None and not self.found.values
            elif len(words) <= 4:
                self._take_epoch(key, word)

    def _take_epoch(self, key: str, word: str) -> None:
        if set(words_of(key)) & _NOT_THIS_EPOCH:
            self.is_hopeless = self.found.epoch is None and not self.found.values
            return
        epoch = float(word) if not word.lower().lstrip("+-").startswith(("n", "i")) else math.nan
        if self.found.epoch is None and 0 <= epoch < MAX_EPOCH:
            self.found.epoch = epoch
            self.after = "epoch"

    def _take_value(self, key: str, meaning: Meaning, value: float) -> None:
        if self.parts_of:
            self._take_part(key, value)
            return
        name = key
        if not meaning.split and self.split and meaning.kind in ("loss", "score"):
            name = f"{self.split} {key}"
        if name in self.found.values:
            return
        self.found.values[name] = value
        if meaning.kind == "loss":
            self.after, self.last_loss = "loss", name

    def _take_part(self, key: str, value: float) -> None:
        words = words_of(key)
        if words and not set(words) & _BESIDE and len(words) <= 4:
            name = "_".join(word for word in words if word != "loss") or "loss"
            self.found.values[f"{self.parts_of}::{name}"] = value

    def _key(self, label: str) -> str:
        """The name in front of a number; words on their own that name a split hold for what follows."""
        key, split = _key_of(label)
        self.split = split or self.split
        return key

    def see_headings(self, rest: str) -> None:
        for segment in _SEPARATORS.split(rest[:_MAX_LABEL]):
            if not self.found.values and segment.strip():
                self.split = heading_split(segment.strip(" \t\"'`*#>.-_")) or self.split

    def _name_scores(self) -> None:
        """Where a line tells of one split alone, a score without one is of that split."""
        splits = {meaning_of(name).split for name in self.found.values if meaning_of(name).kind == "loss"}
        if len(splits) == 1 and splits != {""} and not self.split:
            split = splits.pop()
            self.found.values = {
                f"{split} {name}" if meaning_of(name).kind == "score" and not meaning_of(name).split else name: value
                for name, value in self.found.values.items()
            }

    def row(self) -> Row | None:
        found = self.found
        if self.fraction is not None:
            done, whole = self.fraction
            if done < whole or not (self.is_bar or self.split == "validation"):
                self.is_batch = True
        if self.is_bar and self.fraction is None and self.is_batch is False:
            match = re.search(r"(\d+)%\s?\|", self.text)
            self.is_batch = match is not None and match[1] != "100"
        if found.epoch is None and "{" in self.text and all(meaning_of(name).kind == "rate" for name in found.values):
            return None  # settings that were printed
        if found.values:
            self._name_scores()
            found.level = "batch" if self.is_batch else "bar" if self.is_bar else "epoch"
            if found.epoch is None and found.level == "epoch" and self.is_record:
                found.level = "record"
            return found
        # Best Dice: 0.93 (epoch 41) heads nothing.
        if found.epoch is not None and not self.is_batch and (self.is_counted or not self.is_record):
            found.level = "header"
            return found
        return None


def _is_of_epoch(key: str, behind: str) -> bool:
    """Whether the number behind a lone split is an epoch's."""
    return behind.lstrip()[:1] == "[" or (behind[:1] == "/" and "final" in words_of(key))


@lru_cache(maxsize=4096)
def _tells_of_record(label: str) -> bool:
    return _RECORD.search(label) is not None


@lru_cache(maxsize=4096)
def _key_of(label: str) -> tuple[str, Split]:
    """The last part of what stands before a number, and the split that the parts before it name."""
    label = label.rstrip(" \t:=~>[({\"'*|,#")
    segments = [segment.strip(" \t\"'`*#>.-_") for segment in _SEPARATORS.split(label)]
    segments = [segment for segment in segments if segment]
    split: Split = ""
    for segment in segments[:-1]:
        split = heading_split(segment) or split
    if len(segments) > 1 and heading_split(segments[-1]) and segments[-2].lower() == "epoch":
        return segments[-2], heading_split(segments[-1])  # Epoch(train) [3][10/314]
    if len(segments) > 1 and heading_split(segments[-1]) and segments[-2].lower() == "iter":
        return "", heading_split(segments[-1])  # Iter(val) [500]: so many images
    return (segments[-1] if segments else ""), split


def _value(word: str, behind: str) -> float | None:
    """A measured number; None for a time, a size, a range, a factor, or what may be a comma in a number."""
    lower = word.lower()
    if lower.lstrip("+-").startswith(("nan", "inf")):
        return float(lower)
    if behind[:1] in ("*", "_") or (behind[:1] == "-" and behind[1:2].isdigit()) or behind[:1] in ("×", "^"):
        return None
    if behind[:1] == "," and behind[1:2].isdigit() and "." not in word:
        return None
    if _PERCENT.match(behind):
        return float(word) / 100
    if behind[:1].isalpha() or _UNIT.match(behind):
        return None
    return float(word)
