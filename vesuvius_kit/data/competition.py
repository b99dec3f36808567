"""The competition's folder as it lies on Kaggle: tables, pairs, an audit before training, folds grouped by scroll.

Layout: ``train.csv`` and ``test.csv`` with columns ``id, scroll_id``; ``train_images/{id}.tif``,
``train_labels/{id}.tif``, ``test_images/{id}.tif``; withdrawn pairs in ``deprecated_train_images/`` and
``deprecated_train_labels/`` while their rows stay in ``train.csv``.
"""

import csv
import io
import logging
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from vesuvius_kit.checks import (
    InputError,
    InputNotFoundError,
    InputValueError,
    check_choice,
    check_file,
    check_folder,
    check_integer,
    name_os_errors,
)
from vesuvius_kit.console import no_progress
from vesuvius_kit.constants import BACKGROUND, SURFACE, UNLABELLED
from vesuvius_kit.io.listing import list_volumes
from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype

_LABEL_VALUES = (BACKGROUND, SURFACE, UNLABELLED)
_NAMES_SHOWN = 5  # of a long list in one line of a message
_COLUMNS = ("id", "scroll_id")
_SPREADSHEET_DIGITS = 15  # what a spreadsheet keeps of a number

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """One volume of the competition: its id, its scroll, where its files are.

    Parameters
    ----------
    id : str
        The name of its files without the ending.
    scroll_id : str
        The scroll it was cut from; "" for a test image without a row in ``test.csv``.
    image_path : pathlib.Path
        The image.
    label_path : pathlib.Path or None
        The label; None for a test chunk.
    """

    id: str
    scroll_id: str
    image_path: Path
    label_path: Path | None = None


@dataclass(frozen=True)
class VolumeRecord:
    """What the audit found out about one volume.

    Parameters
    ----------
    part : str
        "train" or "test".
    id, scroll_id : str
        As in `Chunk`.
    shape : tuple of int
        (Z, Y, X) of the image.
    dtype : str
        The image's pixel type.
    label_counts : tuple of int or None
        Voxels of value 0, 1 and 2; None without a readable label.
    """

    part: str
    id: str
    scroll_id: str
    shape: tuple[int, int, int]
    dtype: str
    label_counts: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Audit:
    """What `Competition.audit` found.

    Parameters
    ----------
    folder : str
        The competition's folder.
    n_rows, n_pairs, n_test : int
        Rows of ``train.csv``, pairs that can be trained on, test images.
    dropped : list of str
        Ids of rows of ``train.csv`` without files, deprecated ones included.
    deprecated : list of str
        Those of them whose files lie in the deprecated folders.
    volumes : list of VolumeRecord
        Every volume whose image can be read.
    errors, warnings : list of str
        One line each. With an error the folder cannot be trained on as it is; a warning should be read once.
    """

    folder: str
    n_rows: int
    n_pairs: int
    n_test: int
    dropped: list[str] = field(default_factory=list)
    deprecated: list[str] = field(default_factory=list)
    volumes: list[VolumeRecord] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return not self.errors

    @property
    def label_shares(self) -> tuple[float, float, float] | None:
        """Shares of label 0, 1 and 2 among all labelled files' voxels; None without a label."""
        return _share(record.label_counts for record in self.volumes)

    def to_text(self) -> str:
        """Return the audit for a terminal: counts, one row a scroll, warnings, errors.

        Returns
        -------
        str
            Several lines; the table of single volumes is in `to_dict`.
        """
        lines = [
            f"{self.folder}",
            f"train.csv: {self.n_rows} rows, {self.n_pairs} pairs on disk, {len(self.dropped)} rows dropped "
            f"({len(self.deprecated)} deprecated)",
            f"test: {self.n_test} images",
            f"{'scroll':>10} {'volumes':>8} {'background':>11} {'surface':>8} {'unlabelled':>11}  shapes",
        ]
        scrolls = Counter((record.part, record.scroll_id) for record in self.volumes)
        for (part, scroll_id), count in sorted(scrolls.items(), key=lambda item: (item[0][0] == "test", -item[1])):
            members = [record for record in self.volumes if (record.part, record.scroll_id) == (part, scroll_id)]
            shares = _share(record.label_counts for record in members)
            cells = [f"{share:.1%}" for share in shares] if shares else ["-"] * 3
            shapes = Counter(record.shape for record in members).most_common()
            name = (scroll_id or "unknown") if part == "train" else f"{scroll_id} test".strip()
            lines.append(
                f"{name:>10} {count:>8} {cells[0]:>11} {cells[1]:>8} {cells[2]:>11}  "
                + ", ".join(f"{_shape_text(shape)} ({number})" for shape, number in shapes)
            )
        lines += [f"warning: {line}" for line in self.warnings]
        lines += [f"error: {line}" for line in self.errors]
        lines.append("ok" if self.ok else f"{len(self.errors)} error(s)")
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """Return everything as plain lists, numbers and strings, ready for JSON.

        Returns
        -------
        dict
            The attributes, with ``ok``, the overall ``label_shares`` and each volume's ``label_shares``.
        """
        result = asdict(self) | {"ok": self.ok, "label_shares": self.label_shares}
        for row in result["volumes"]:
            row["label_shares"] = _share([row["label_counts"]])
        return result


class Competition:
    """A competition folder.

    The tables are read when they are first needed, so that a folder with test images alone can be predicted on.

    Parameters
    ----------
    folder : str or Path
        The folder that holds ``train.csv``, ``train_images/`` and so on.

    Raises
    ------
    InputNotFoundError
        There is no such folder, or nothing of a competition in it.
    """

    def __init__(self, folder):
        self.folder = check_folder("data folder", folder)
        if not any((self.folder / name).exists() for name in ("train.csv", "test.csv", "test_images")):
            raise InputNotFoundError(f"{self.folder} must hold train.csv or test_images, got neither")

    @cached_property
    def train(self) -> list[Chunk]:
        """The pairs to train on, in the order of ``train.csv``; rows without files are left out.

        Raises
        ------
        InputNotFoundError, InputValueError
            ``train.csv`` is missing, lacks a column, an id or a scroll, repeats an id with another scroll, a row has half a
            pair, or the ids of rows without files are those of files without rows, but for what a spreadsheet did to them.
        """
        problems = self._half_pairs + self._spoilt_ids
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InputValueError(problems[0] + more)
        chunks = [self._train_chunk(*row) for row in self._train_rows.items() if row[0] in self._train_images]
        dropped = [id_ for id_ in self._train_rows if id_ not in self._train_images]
        logger.info("%s: %d pairs of %d rows in train.csv", self.folder, len(chunks), len(self._train_rows))
        if dropped:
            withdrawn = self._tiffs("deprecated_train_images") | self._tiffs("deprecated_train_labels")
            logger.info(
                "%d rows without files are dropped, %d of them deprecated: %s",
                len(dropped), sum(id_ in withdrawn for id_ in dropped), _list_names(dropped),
            )  # fmt: skip
        return chunks

    @cached_property
    def test(self) -> list[Chunk]:
        """The test images: first those of ``test.csv`` in its order, then those without a row, by name.

        Empty without images: use `require_test` where some are needed. A scroll without a row is "".

        Raises
        ------
        InputValueError
            ``test.csv`` lacks a column or an id, or repeats an id.
        """
        images = self._tiffs("test_images")
        ids = [id_ for id_ in self._test_rows if id_ in images] + sorted(images.keys() - self._test_rows.keys())
        return [Chunk(id_, self._test_rows.get(id_, ""), images[id_]) for id_ in ids]

    def require_train(self) -> list[Chunk]:
        """Return `train`, which must not be empty.

        Returns
        -------
        list of Chunk

        Raises
        ------
        InputValueError
            There is no pair.
        """
        if not self.train:
            raise InputValueError(f"no training pairs in {self.folder}")
        return self.train

    def require_test(self) -> list[Chunk]:
        """Return `test`, which must not be empty.

        Returns
        -------
        list of Chunk

        Raises
        ------
        InputValueError
            There is no test image.
        """
        if not self.test:
            raise InputValueError(f"no test images in {self.folder / 'test_images'}")
        return self.test

    def audit_pairs(self) -> None:
        """Check from the headers alone that every training pair can be trained on: seconds, where `audit` takes minutes.

        Raises
        ------
        InputNotFoundError, InputValueError
            What `train` raises, no pair at all, or the first file that is cut off, 2-D, not uint8 or unlike its
            partner in shape. Label values are seen when a label is decoded.
        """
        for chunk in self.require_train():
            shapes = []
            for path in (chunk.image_path, chunk.label_path):
                shape, dtype = volume_shape_and_dtype(path)
                if dtype != np.uint8:
                    raise InputValueError(f"{path} must hold uint8 pixels, got {dtype}")
                shapes.append(shape)
            if shapes[0] != shapes[1]:
                raise InputValueError(_differing_shapes(chunk, *shapes))

    def folds(self, n_folds: int, seed: int = 0) -> list[tuple[list[Chunk], list[Chunk]]]:
        """Split the training pairs for cross-validation, whole scrolls at a time.

        Chunks of one scroll share its scanner and its noise, so a split by chunk would
        flatter the validation score. Scrolls are dealt out largest first, each to the fold with the fewest chunks.

        Parameters
        ----------
        n_folds : int
            At least 2, at most the number of scrolls.
        seed : int
            Decides the order of scrolls of the same size.

        Returns
        -------
        list of (list of Chunk, list of Chunk)
            Training and validation chunks of each fold, each in the order of ``train.csv``. No scroll is on both
            sides, each chunk validates exactly one fold, and the same arguments give the same folds.

        Raises
        ------
        InputTypeError, InputValueError
            No pair, or ``n_folds`` out of range.
        """
        check_integer("n_folds", n_folds, minimum=2)
        check_integer("seed", seed, minimum=0)
        sizes = Counter(chunk.scroll_id for chunk in self.require_train())
        if n_folds > len(sizes):
            raise InputValueError(
                f"n_folds must be at most {len(sizes)}, the number of scrolls in {self.folder} "
                f"(a scroll is never on both sides), got {n_folds}"
            )
        scrolls = [str(scroll) for scroll in np.random.default_rng(seed).permutation(sorted(sizes))]
        fold_of, load = {}, [0] * n_folds
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

    def audit(self, images: str = "headers", progress=no_progress) -> Audit:
        """Look at every file before hours are spent on them.

        Parameters
        ----------
        images : {"headers", "pixels"}
            "headers" reads the images' page directories, which finds files that were cut off; "pixels" decodes them
            as well, which takes a third of a second each. Labels are always decoded.
        progress : callable
            tqdm's calling form.

        Returns
        -------
        Audit

        Raises
        ------
        InputNotFoundError, InputValueError
            The tables cannot be read, or ``images`` is neither of the two; anything else becomes a line of the
            result's errors or warnings.
        """
        check_choice("images", images, ("headers", "pixels"))
        errors = self._half_pairs + self._spoilt_ids
        pairs = [
            self._train_chunk(*row)
            for row in self._train_rows.items()
            if row[0] in self._train_images and row[0] in self._train_labels
        ]
        dropped = [id_ for id_ in self._train_rows if id_ not in self._train_images | self._train_labels]
        withdrawn = self._tiffs("deprecated_train_images") | self._tiffs("deprecated_train_labels")
        parts = [("train", chunk) for chunk in pairs] + [("test", chunk) for chunk in self.test]
        volumes = []
        for part, chunk in progress(parts, total=len(parts), desc="audit"):
            record, problems = _inspect(part, chunk, images == "pixels")
            errors += problems
            volumes += [record] if record else []
        if not pairs:
            errors.append(f"no training pairs in {self.folder}")
        audit = Audit(
            folder=str(self.folder),
            n_rows=len(self._train_rows),
            n_pairs=len(pairs),
            n_test=len(self.test),
            dropped=dropped,
            deprecated=[id_ for id_ in dropped if id_ in withdrawn],
            volumes=volumes,
            errors=errors,
        )
        audit.warnings.extend(self._warn(audit))
        return audit

    def _warn(self, audit):
        if audit.dropped:
            yield (
                f"{len(audit.dropped)} rows of train.csv have no files and are dropped, {len(audit.deprecated)} of "
                f"them deprecated: {_list_names(audit.dropped)}"
            )
        for name, files, rows in (
            ("train_images", self._train_images, self._train_rows),
            ("train_labels", self._train_labels, self._train_rows),
            ("test_images", self._tiffs("test_images"), self._test_rows),
        ):
            strays = sorted(files.keys() - rows.keys())
            use = "predicted all the same" if name == "test_images" else "not used"
            if strays:
                yield f"{len(strays)} files of {name} have no row and are {use}: {_list_names(strays)}"
        for name, counts in self._tables.items():
            if repeated := [id_ for id_, count in counts.items() if count > 1]:
                yield f"{len(repeated)} ids of {name} are there more than once and count once: {_list_names(repeated)}"
        missing = [id_ for id_ in self._test_rows if id_ not in self._tiffs("test_images")]
        if missing:
            yield f"{len(missing)} rows of test.csv have no image: {_list_names(missing)}"
        for what in ("shape", "dtype"):
            kinds = Counter(getattr(record, what) for record in audit.volumes).most_common()
            if len(kinds) > 1:
                others = [record.id for record in audit.volumes if getattr(record, what) != kinds[0][0]]
                text = _shape_text if what == "shape" else str
                counted = ", ".join(f"{text(kind)} ({count})" for kind, count in kinds)
                yield f"images differ in {what}: {counted}; not the most common: {_list_names(others)}"
        bare = [record.id for record in audit.volumes if record.label_counts and not record.label_counts[SURFACE]]
        if bare:
            yield f"{len(bare)} labels have no surface voxel: {_list_names(bare)}"
        shares = audit.label_shares
        if shares and shares[UNLABELLED]:
            yield (
                f"{shares[UNLABELLED]:.1%} of the label voxels are 2, which means that nobody looked: read as "
                f"foreground (label > 0) they make {1 - shares[BACKGROUND]:.1%} surface out of {shares[SURFACE]:.1%} "
                "(label == 1); losses and scores must ignore them"
            )

    @cached_property
    def _tables(self) -> dict[str, Counter]:
        """How often each id stands in a table that was read."""
        return {}

    @cached_property
    def _train_rows(self) -> dict[str, str]:
        return self._read_rows("train.csv", needs_scroll=True)

    @cached_property
    def _test_rows(self) -> dict[str, str]:
        return self._read_rows("test.csv", needs_scroll=False) if (self.folder / "test.csv").is_file() else {}

    def _read_rows(self, name, *, needs_scroll) -> dict[str, str]:
        rows = _read_table(self.folder / name, needs_scroll=needs_scroll)
        self._tables[name] = Counter(id_ for id_, _ in rows)
        return dict(rows)

    @cached_property
    def _train_images(self) -> dict[str, Path]:
        return self._tiffs("train_images")

    @cached_property
    def _train_labels(self) -> dict[str, Path]:
        return self._tiffs("train_labels")

    @cached_property
    def _half_pairs(self) -> list[str]:
        lines = []
        for id_ in self._train_rows:
            image, label = self._train_images.get(id_), self._train_labels.get(id_)
            if image and not label:
                lines.append(f"half a pair: {image} has no label in {self.folder / 'train_labels'}")
            if label and not image:
                lines.append(f"half a pair: {label} has no image in {self.folder / 'train_images'}")
        return lines

    @cached_property
    def _spoilt_ids(self) -> list[str]:
        files = self._train_labels | self._train_images
        rows = [(id_, number) for id_ in self._train_rows if id_ not in files and (number := _read_number(id_))]
        strays = [
            (path, number)
            for id_, path in files.items()
            if id_ not in self._train_rows and (number := _read_number(id_))
        ]
        pairs = [
            f"{row} for {path}"
            for (row, written), (path, meant) in product(rows, strays)
            if _is_spoilt(written, meant, row)
        ]
        if not pairs:
            return []
        return [
            f"{self.folder / 'train.csv'} must name files, got ids as a spreadsheet spoils them (keep the column as text): "
            f"{_list_names(pairs)}"
        ]

    def _train_chunk(self, id_, scroll_id) -> Chunk:
        return Chunk(id_, scroll_id, self._train_images[id_], self._train_labels[id_])

    def _tiffs(self, name) -> dict[str, Path]:
        folder = self.folder / name
        return list_volumes(name, folder) if folder.is_dir() else {}


def _read_table(path, *, needs_scroll) -> list[tuple[str, str]]:
    """Return (id, scroll_id) in the file's order; a row may be there twice, an id with two scrolls may not."""
    check_file(path.name, path)
    with name_os_errors(f"read {path}"):
        text = _decode_text(path, path.read_bytes())
    rows, scroll_of, spellings = [], {}, {}
    try:
        # Strict: a quote that is never closed would otherwise swallow the rest of the table.
        form = {"delimiter": _find_delimiter(path, text), "skipinitialspace": True, "strict": True}
        table = csv.DictReader(io.StringIO(text, newline=""), **form)
        table.fieldnames = [(name or "").strip() for name in table.fieldnames]
        for row in table:
            if any(field.strip() for field in row.pop(None, ())):
                raise InputValueError(
                    f"{path} must have {len(table.fieldnames)} fields in line {table.line_num}, got more"
                )
            if not any((value or "").strip() for value in row.values()):
                continue
            if None in row.values():
                raise InputValueError(
                    f"{path} must have {len(table.fieldnames)} fields in line {table.line_num}, got {row}"
                )
            id_, scroll_id = (row[column].strip() for column in _COLUMNS)
            if not id_ or (needs_scroll and not scroll_id):
                raise InputValueError(f"{path} must have an id and a scroll_id in line {table.line_num}, got {row}")
            if scroll_of.setdefault(id_, scroll_id) != scroll_id:
                raise InputValueError(
                    f"{path} must not repeat an id, got {id_} again in line {table.line_num} with another scroll"
                )
            # A scroll in two spellings would be two, and lie on both sides of a fold.
            number = _read_number(scroll_id)
            spelt = spellings.setdefault(scroll_id.casefold() if number is None else number, scroll_id)
            if spelt != scroll_id:
                raise InputValueError(
                    f"{path} must spell a scroll_id in one way, got {scroll_id} in line {table.line_num} and {spelt} before"
                )
            rows.append((id_, scroll_id))
    except csv.Error as error:
        raise InputValueError(f"{path} is not a table: {error}") from error
    return rows


def _decode_text(path, content) -> str:
    # Byte order marks: spreadsheets put that of UTF-8 before the first column's name, or write UTF-16.
    is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputValueError(f"{path} is not a table in UTF-8 or UTF-16: {error}") from error
    if "\0" in text:
        raise InputValueError(f"{path} is not a table in UTF-8: it holds NUL characters")
    # Lines may end with CR LF, LF, or the CR of an old Mac.
    return text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")


def _find_delimiter(path, text) -> str:
    """The delimiter under which the first line names both columns once: comma, semicolon or tab."""
    first = text.partition("\n")[0]
    for delimiter in ",;\t":
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])]
        if all(names.count(column) == 1 for column in _COLUMNS):
            return delimiter
    names = [name.strip() for name in next(csv.reader([first]), [])]
    column = next(column for column in _COLUMNS if names.count(column) != 1)
    a = "one" if column in names else "a"
    raise InputValueError(f"{path} must have {a} column {column}, got {names or 'no line'}")


def _read_number(id_) -> Decimal | None:
    # Exponents of more digits are not a spreadsheet's.
    is_number = re.fullmatch(r"[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]{1,3})?", id_)
    return Decimal(id_.replace(",", ".")) if is_number else None


def _is_spoilt(written, meant, text) -> bool:
    """Whether a table's id is what a spreadsheet makes of a file's id: 12 of 0012, 1.01209E+09 of 1012093321."""
    is_rounded = "E" in text.upper()
    n_kept = len(written.as_tuple().digits) if is_rounded else _SPREADSHEET_DIGITS
    if not is_rounded and written.adjusted() < n_kept:
        return written == meant
    # The last digit that was kept may have been rounded or cut.
    return abs(written - meant) < Decimal(10) ** (written.adjusted() - n_kept + 1)


def _inspect(part, chunk, decode_image) -> tuple[VolumeRecord | None, list[str]]:
    problems, shape, counts = [], None, None
    try:
        shape, dtype = volume_shape_and_dtype(chunk.image_path)
        if dtype != np.uint8:
            problems.append(f"{chunk.image_path} must hold uint8 pixels, got {dtype}")
        if decode_image:
            read_volume(chunk.image_path)
    except InputError as error:
        problems.append(str(error))
    if chunk.label_path:
        try:
            label = read_volume(chunk.label_path, "uint8")
            counts = tuple(int(np.count_nonzero(label == value)) for value in _LABEL_VALUES)
            if sum(counts) != label.size:
                strange = sorted(set(np.unique(label).tolist()) - set(_LABEL_VALUES))
                problems.append(f"{chunk.label_path} must hold labels 0, 1 and 2, got {_list_names(strange)} as well")
            if shape and shape != label.shape:
                problems.append(_differing_shapes(chunk, shape, label.shape))
        except InputError as error:
            problems.append(str(error))
    record = VolumeRecord(part, chunk.id, chunk.scroll_id, shape, str(dtype), counts) if shape else None
    return record, problems


def _differing_shapes(chunk, image_shape, label_shape) -> str:
    return f"{chunk.label_path} must have its image's shape {_shape_text(image_shape)}, got {_shape_text(label_shape)}"


def _share(counts) -> tuple[float, float, float] | None:
    total = np.sum([row for row in counts if row], axis=0)
    return tuple((total / total.sum()).tolist()) if np.any(total) else None


def _shape_text(shape) -> str:
    return "x".join(str(edge) for edge in shape)


def _list_names(names) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(str(name) for name in names[:_NAMES_SHOWN]) + more
