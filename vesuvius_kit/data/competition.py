"""The competition's folder as it lies on Kaggle: pairs, test images, an audit before training, folds grouped by scroll.

Layout: ``train.csv`` and ``test.csv`` with columns ``id, scroll_id``; ``train_images/{id}.tif``,
``train_labels/{id}.tif``, ``test_images/{id}.tif``; withdrawn pairs in ``deprecated_train_images/`` and
``deprecated_train_labels/`` while their rows stay in ``train.csv``.
"""

import logging
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from vesuvius_kit.checks import InputValueError, check_integer
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.data.audit import Audit, VolumeRecord, audit_folder, audit_pair
from vesuvius_kit.data.folder import Chunk, CompetitionFolder, list_names

__all__ = ["Audit", "Chunk", "Competition", "VolumeRecord"]

logger = logging.getLogger(__name__)


class Competition:
    """A competition folder, which must hold ``train.csv``, ``test.csv`` or ``test_images/``.

    The tables are read when they are first needed, so that a folder with test images alone can be predicted on.

    Examples
    --------
    >>> import tempfile
    >>> import vesuvius_kit as vk
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     competition = vk.Competition(vk.write_competition(scratch, train=2, test=0, deprecated=0, shape=16))
    ...     audit = competition.audit()
    ...     training, validation = competition.folds(n_folds=2)[0]
    >>> len(competition.train), len(competition.test), audit.ok
    (2, 0, True)
    >>> {chunk.scroll_id for chunk in training} & {chunk.scroll_id for chunk in validation}
    set()
    """

    def __init__(self, folder: Path | str) -> None:
        self._files = CompetitionFolder(folder)
        self.folder = self._files.path

    @cached_property
    def train(self) -> list[Chunk]:
        """The pairs to train on, in the order of ``train.csv``; rows without files are left out.

        A table that cannot be read raises `InputValueError`, and so does a row with half a pair, or one whose id is a
        file's but for what a spreadsheet did to it.
        """
        problems = self._files.problems
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InputValueError(problems[0] + more)
        chunks = self._files.list_pairs()
        dropped = [id_ for id_ in self._files.train_rows if id_ not in self._files.train_images]
        logger.info("%s: %d pairs of %d rows in train.csv", self.folder, len(chunks), len(self._files.train_rows))
        if dropped:
            withdrawn = self._files.list_withdrawn()
            logger.info(
                "%d rows without files are dropped, %d of them deprecated: %s",
                len(dropped), sum(id_ in withdrawn for id_ in dropped), list_names(dropped),
            )  # fmt: skip
        return chunks

    @property
    def scrolls(self) -> dict[str, str]:
        """The scroll of every row of ``train.csv`` by id, rows without files too."""
        return self._files.train_rows

    @cached_property
    def test(self) -> list[Chunk]:
        """The test images: those of ``test.csv`` in its order, then those without a row, whose scroll is "", by name."""
        return self._files.tests

    def require_train(self) -> list[Chunk]:
        """Return `train`, which must not be empty."""
        if not self.train:
            raise InputValueError(f"no training pairs in {self.folder}")
        return self.train

    def require_test(self) -> list[Chunk]:
        """Return `test`, which must not be empty."""
        if not self.test:
            raise InputValueError(f"no test images in {self.folder / 'test_images'}")
        return self.test

    def audit_pairs(self) -> None:
        """Check the headers of every training pair, not the labels' values: seconds, where `audit` takes minutes."""
        for chunk in self.require_train():
            audit_pair(chunk)

    def folds(self, n_folds: int, seed: int = 0) -> list[tuple[list[Chunk], list[Chunk]]]:
        """Split the training pairs for cross-validation, whole scrolls at a time: chunks of training and validation.

        Chunks of one scroll share its scanner and its noise, so a split by chunk would flatter the validation score. Scrolls
        are dealt out largest first, each to the fold with the fewest chunks. Each chunk validates exactly one fold; both
        lists are in the order of ``train.csv``.

        Parameters
        ----------
        n_folds
            At least 2, at most the number of scrolls.
        seed
            Decides the order of scrolls of the same size.
        """
        check_integer("n_folds", n_folds, minimum=2)
        check_integer("seed", seed, minimum=0)
        sizes = Counter(chunk.scroll_id for chunk in self.require_train())
        if n_folds > len(sizes):
            raise InputValueError(
                f"n_folds must be at most {len(sizes)}, the number of scrolls in {self.folder} (a scroll is never on "
                f"both sides), got {n_folds}"
            )
        scrolls = [str(scroll) for scroll in np.random.default_rng(seed).permutation(sorted(sizes))]
        fold_of: dict[str, int] = {}
        load = [0] * n_folds
        for scroll in sorted(scrolls, key=lambda scroll: -sizes[scroll]):
            fold_of[scroll] = load.index(min(load))
            load[fold_of[scroll]] += sizes[scroll]
        return [
            (
                [chunk for chunk in self.train if fold_of[chunk.scroll_id] != fold],
                [chunk for chunk in self.train if fold_of[chunk.scroll_id] == fold],
            )
            for fold in range(n_folds)
        ]

    def audit(self, images: Literal["headers", "pixels"] = "headers", progress: Progress = no_progress) -> Audit:
        """Look at every file before hours are spent on them; only tables that cannot be read raise.

        With "headers" the images' page directories are read, which finds files that were cut off; "pixels" decodes them as
        well, which takes a third of a second each. Labels are always decoded.
        """
        return audit_folder(self._files, images, progress)
