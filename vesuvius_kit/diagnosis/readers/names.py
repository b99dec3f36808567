"""What a column, a key or a label of a log means: which split, a loss, a score, a rate, a place; by the names people use."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["loss", "score", "rate", "epoch", "step", "bare", "other"]
"""What a number is; ``bare`` for a name that says a split and nothing else."""
Split = Literal["", "train", "validation", "test"]
"""Empty where a name does not say it."""


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_TRAIN = word_set("train training trn tr")
_VALIDATION = word_set(
    "val valid validation validating vali vld dev eval evaluation evaluating holdout heldout cv oof va"
)
_TEST = word_set("test testing tst")
_SPLITS: tuple[tuple[Split, frozenset[str]], ...] = (("train", _TRAIN), ("validation", _VALIDATION), ("test", _TEST))
_LOSS = word_set("loss losses cost objective")
_STEP = word_set("step steps iter iters iteration iterations itr batch batches it minibatch")
# Words that do not make another quantity of a loss or a score.
_FILLING = word_set(
    """
    epoch avg average averaged mean running total overall current final all sum the a per value values
    smooth smoothed this full combined weighted is was are of for in on at with and info debug warning
    root main metrics metric results result log logs phase stage coef coeff coefficient index similarity
    global mini finished completed complete done end summary stats set data over
    """
) - {"metric"}
# Names that say how large the overlap of two masks is, from 0 to 1.
OVERLAP = word_set("dice dsc dicescore iou miou iu miu jaccard jac f1 f05 fbeta mdice surfacedice nsd")
_SCORES = OVERLAP | word_set(
    """
    acc accuracy score auc auroc map precision recall sensitivity specificity toposcore topo kappa mcc
    r2 psnr ssim ap map50 metric
    """
)
_WORSE_WHEN_HIGHER = word_set(
    """
    hd hd95 hausdorff mae mse rmse error err wer cer assd asd asd voi perplexity ppl
    """
)
# A name with one of these is no measure of an epoch: a setting, a record, a time, an amount.
_NO_MEASURE = word_set(
    """
    best better improved improve improvement reached from to min max minimum maximum lowest highest
    target early stopping patience prev previous old since save saved saving checkpoint ckpt seed thr
    threshold th fold weight weights alpha gamma lambda factor eta time times sec secs second seconds
    elapsed duration runtime took mem memory gpu grad gradient norm wd decay size num number n samples
    count param params parameters momentum beta eps epsilon dropout std var scale delta until max_epochs
    ms hours minutes per_second flos remaining speed rank device version v reader ips
    """
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Written so, it would fall into two words.
_IOU = re.compile(r"(?<![A-Za-z])([mM]?)IoU|IoU")
_JOINED = {
    "trainloss": ("train", "loss"), "tloss": ("train", "loss"), "valloss": ("val", "loss"), "vloss": ("val", "loss"),
    "validloss": ("valid", "loss"), "testloss": ("test", "loss"), "trloss": ("tr", "loss"), "valdice": ("val", "dice"),
    "traindice": ("train", "dice"), "valiou": ("val", "iou"), "valacc": ("val", "acc"), "trainacc": ("train", "acc"),
    "lrs": ("lr",), "learningrate": ("lr",),
}  # fmt: skip
MAX_NAME = 80


@dataclass(frozen=True)
class Meaning:
    """What a name says."""

    kind: Kind
    """What its number is."""
    split: Split = ""
    """What it was measured on."""
    qualifier: str = ""
    """What makes it another quantity than the plain one: ``dice`` in ``train_dice_loss``."""
    is_step: bool = False
    """The name says that it is of one step, not of an epoch."""
    is_epoch: bool = False
    """The name says that it is of a whole epoch."""
    overlap: bool = False
    """A score that measures the overlap of masks."""


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case, in whatever spelling: ``valLoss``, ``val/loss``, ``Validation loss``."""
    words: list[str] = []
    if "IoU" in name:
        name = _IOU.sub(lambda match: f" {(match[1] or '').lower()}iou ", name)
    for word in _WORDS.findall(name):
        lower = word.lower()
        words.extend(_JOINED.get(lower, (lower,)))
    # A digit belongs to the word before it: f1, map50, pg0.
    joined: list[str] = []
    for word in words:
        if word.isdigit() and joined and joined[-1] in ("f", "map", "pg", "hd", "r", "fbeta", "p"):
            joined[-1] += word
        else:
            joined.append(word)
    return tuple(joined)


@lru_cache(maxsize=4096)
def meaning_of(name: str) -> Meaning:
    """Return what the name of a column, a key or a label in front of a number says."""
    words = words_of(name[:MAX_NAME])
    if not words or len(words) > 9 or len(name) > MAX_NAME:
        return Meaning("other")
    found = set(words)
    split: Split = ""
    for named, group in _SPLITS:
        if found & group:
            split = named if not split or split == "train" else split
    rest = [word for word in words if word not in _TRAIN | _VALIDATION | _TEST]
    if "lr" in found or ("learning" in found and "rate" in found):
        return Meaning("other" if found & (_NO_MEASURE - {"weight"}) or "base" in found else "rate", split)
    if found & _NO_MEASURE or words == ("batch", "cost"):  # PaddlePaddle tells what a batch costs in seconds
        return Meaning("other", split)
    if rest and rest[-1] in ("epoch", "ep") and not set(rest[:-1]) - _FILLING and not found & (_LOSS | _SCORES):
        return Meaning("epoch", split)
    if rest and rest[-1] in _STEP and not found & (_LOSS | _SCORES):
        return Meaning("step", split)
    is_step, is_epoch = bool(found & _STEP), bool(found & {"epoch"})
    plain = _FILLING | _STEP
    if found & _LOSS:
        qualifier = "_".join(word for word in rest if word not in plain | _LOSS)
        return Meaning("loss", split, qualifier, is_step, is_epoch)
    if found & _WORSE_WHEN_HIGHER:
        return Meaning("other", split)
    if found & _SCORES:
        qualifier = "_".join(word for word in rest if word not in plain)
        return Meaning("score", split, qualifier, is_step, is_epoch, bool(found & OVERLAP))
    if split and not set(rest) - plain:
        return Meaning("bare", split, "", is_step, is_epoch)
    return Meaning("other", split)


def heading_split(text: str) -> Split:
    """Return the split that a heading without a number names, such as ``[Train]`` or ``Validation``; empty for none."""
    if len(text) > 40:
        return ""
    meaning = meaning_of(text)
    return meaning.split if meaning.kind == "bare" else ""
