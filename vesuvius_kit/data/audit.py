"""What is found out about a competition's folder before hours are spent on it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from vesuvius_kit.checks import InputError, InputValueError, check_choice
from vesuvius_kit.console import Progress
from vesuvius_kit.constants import BACKGROUND, SURFACE, UNLABELLED
from vesuvius_kit.data.folder import Chunk, CompetitionFolder, list_names
from vesuvius_kit.io.volume import read_volume, volume_shape_and_dtype

_LABEL_VALUES = (BACKGROUND, SURFACE, UNLABELLED)

Part = Literal["train", "test"]


@dataclass(frozen=True)
class VolumeRecord:
    """What the audit found out about one volume."""

    part: Part
    id: str
    scroll_id: str
    """As in `Chunk`."""
    shape: tuple[int, int, int]
    """(Z, Y, X) of the image."""
    dtype: str
    """The image's pixel type."""
    label_counts: tuple[int, int, int] | None = None
    """Voxels of value 0, 1 and 2; None without a readable label."""


@dataclass(frozen=True)
class Audit:
    """What `Competition.audit` found."""

    folder: str
    n_rows: int
    """Rows of ``train.csv``, one for each id."""
    n_pairs: int
    """Pairs that can be trained on."""
    n_test: int
    """Test images."""
    dropped: list[str] = field(default_factory=list)
    """Ids of rows of ``train.csv`` without files, deprecated ones included."""
    deprecated: list[str] = field(default_factory=list)
    """Those of them whose files lie in the deprecated folders."""
    volumes: list[VolumeRecord] = field(default_factory=list)
    """Every volume whose image can be read."""
    errors: list[str] = field(default_factory=list)
    """One line each; with an error the folder cannot be trained on as it is."""
    warnings: list[str] = field(default_factory=list)
    """One line each, to be read once."""

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return not self.errors

    @property
    def label_shares(self) -> tuple[float, float, float] | None:
        """Shares of label 0, 1 and 2 among all labelled files' voxels; None without a label."""
        return _share(record.label_counts for record in self.volumes)

    def to_text(self) -> str:
        """Return the audit for a terminal: counts, one row a scroll, warnings, errors."""
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

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, with ``ok`` and ``label_shares``, also of each volume, ready for JSON."""
        result = asdict(self) | {"ok": self.ok, "label_shares": self.label_shares}
        for row in result["volumes"]:
            row["label_shares"] = _share([row["label_counts"]])
        return result


def audit_folder(folder: CompetitionFolder, images: Literal["headers", "pixels"], progress: Progress) -> Audit:
    """Look at every file, as `Competition.audit` says."""
    check_choice("images", images, ("headers", "pixels"))
    errors = list(folder.problems)
    pairs = folder.list_pairs()
    files = folder.train_images | folder.train_labels
    dropped = [id_ for id_ in folder.train_rows if id_ not in files]
    withdrawn, tests = folder.list_withdrawn(), folder.tests
    parts: list[tuple[Part, Chunk]] = [*(("train", chunk) for chunk in pairs), *(("test", chunk) for chunk in tests)]
    volumes: list[VolumeRecord] = []
    for part, chunk in progress(parts, total=len(parts), desc="audit"):
        record, problems = _inspect(part, chunk, images == "pixels")
        errors += problems
        volumes += [record] if record else []
    if not pairs:
        errors.append(f"no training pairs in {folder.path}")
    audit = Audit(
        folder=str(folder.path),
        n_rows=len(folder.train_rows),
        n_pairs=len(pairs),
        n_test=len(tests),
        dropped=dropped,
        deprecated=[id_ for id_ in dropped if id_ in withdrawn],
        volumes=volumes,
        errors=errors,
    )
    audit.warnings.extend([*_warn_about_rows(folder, audit), *_warn_about_volumes(audit)])
    return audit


def audit_pair(chunk: Chunk) -> None:
    """Raise unless the headers of a training pair are those of two uint8 volumes of one shape."""
    shapes = []
    for path in (chunk.image_path, chunk.require_label()):
        shape, dtype = volume_shape_and_dtype(path)
        if dtype != np.uint8:
            raise InputValueError(f"{path} must hold uint8 pixels, got {dtype}")
        shapes.append(shape)
    if shapes[0] != shapes[1]:
        raise InputValueError(_differing_shapes(chunk, *shapes))


def _warn_about_rows(folder: CompetitionFolder, audit: Audit) -> Iterator[str]:
    if audit.dropped:
        yield (
            f"{len(audit.dropped)} rows of train.csv have no files and are dropped, {len(audit.deprecated)} of them "
            f"deprecated: {list_names(audit.dropped)}"
        )
    for name, files, rows in (
        ("train_images", folder.train_images, folder.train_rows),
        ("train_labels", folder.train_labels, folder.train_rows),
        ("test_images", folder.list_files("test_images"), folder.test_rows),
    ):
        strays = sorted(files.keys() - rows.keys())
        use = "predicted all the same" if name == "test_images" else "not used"
        if strays:
            yield f"{len(strays)} files of {name} have no row and are {use}: {list_names(strays)}"
    for name, counts in folder.id_counts.items():
        if repeated := [id_ for id_, count in counts.items() if count > 1]:
            yield f"{len(repeated)} ids of {name} are there more than once and count once: {list_names(repeated)}"
    images = folder.list_files("test_images")
    missing = [id_ for id_ in folder.test_rows if id_ not in images]
    if missing:
        yield f"{len(missing)} rows of test.csv have no image: {list_names(missing)}"


def _warn_about_volumes(audit: Audit) -> Iterator[str]:
    for what in ("shape", "dtype"):
        kinds = Counter(getattr(record, what) for record in audit.volumes).most_common()
        if len(kinds) > 1:
            others = [record.id for record in audit.volumes if getattr(record, what) != kinds[0][0]]
            text = _shape_text if what == "shape" else str
            counted = ", ".join(f"{text(kind)} ({count})" for kind, count in kinds)
            yield f"images differ in {what}: {counted}; not the most common: {list_names(others)}"
    bare = [record.id for record in audit.volumes if record.label_counts and not record.label_counts[SURFACE]]
    if bare:
        yield f"{len(bare)} labels have no surface voxel: {list_names(bare)}"
    shares = audit.label_shares
    if shares and shares[UNLABELLED]:
        yield (
            f"{shares[UNLABELLED]:.1%} of the label voxels are 2, unlabelled: read as foreground (label > 0) they make "
            f"{1 - shares[BACKGROUND]:.1%} surface out of {shares[SURFACE]:.1%} (label == 1); losses and scores must "
            "ignore them"
        )


def _inspect(part: Part, chunk: Chunk, decode_image: bool) -> tuple[VolumeRecord | None, list[str]]:
    problems: list[str] = []
    header: tuple[tuple[int, int, int], np.dtype[Any]] | None = None
    counts = None
    try:
        header = volume_shape_and_dtype(chunk.image_path)
        if header[1] != np.uint8:
            problems.append(f"{chunk.image_path} must hold uint8 pixels, got {header[1]}")
        if decode_image:
            read_volume(chunk.image_path)
    except InputError as error:
        problems.append(str(error))
    if chunk.label_path:
        try:
            label = read_volume(chunk.label_path, "uint8")
            background, surface, unlabelled = (int(np.count_nonzero(label == value)) for value in _LABEL_VALUES)
            counts = background, surface, unlabelled
            if sum(counts) != label.size:
                strange = sorted(set(np.unique(label).tolist()) - set(_LABEL_VALUES))
                problems.append(f"{chunk.label_path} must hold labels 0, 1 and 2, got {list_names(strange)} as well")
            if header and header[0] != label.shape:
                problems.append(_differing_shapes(chunk, header[0], label.shape))
        except InputError as error:
            problems.append(str(error))
    record = VolumeRecord(part, chunk.id, chunk.scroll_id, header[0], str(header[1]), counts) if header else None
    return record, problems


def _differing_shapes(chunk: Chunk, image_shape: Sequence[int], label_shape: Sequence[int]) -> str:
    return f"{chunk.label_path} must have its image's shape {_shape_text(image_shape)}, got {_shape_text(label_shape)}"


def _share(counts: Iterable[tuple[int, int, int] | None]) -> tuple[float, float, float] | None:
    total = np.sum([row for row in counts if row], axis=0)
    if not np.any(total):
        return None
    background, surface, unlabelled = (total / total.sum()).tolist()
    return background, surface, unlabelled


def _shape_text(shape: Sequence[int]) -> str:
    return "x".join(str(edge) for edge in shape)
