"""Which files of a folder or of a zip archive are volumes: one rule for images, labels, masks and probabilities.

An id is the name of a file without its ending, which is ``.tif`` or ``.tiff`` in any case. Hidden files never count (macOS
lays ``._1.tif`` beside ``1.tif``, and the kit's own unfinished files are hidden), nor does anything in ``__MACOSX``. Two files
of one id are an error: whoever chose between them would choose wrongly for somebody.
"""

import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from vesuvius_kit.checks import InputValueError, check_file, check_folder, name_os_errors, one_line

logger = logging.getLogger(__name__)

TIFF_ENDINGS = (".tif", ".tiff")
_COMPANIONS = "__MACOSX"
_CHUNK = 2**20


def volume_id(name: str, endings: tuple[str, ...] = TIFF_ENDINGS) -> str | None:
    """Return the id of a file by its name, None if it does not count; ``endings`` are in small letters, with the dot."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in endings and not name.startswith(".") else None


def list_volumes(name: str, folder: Path | str, endings: tuple[str, ...] = TIFF_ENDINGS) -> dict[str, Path]:
    """Return the volumes of a folder by id, sorted; folders inside it are not entered.

    Two files of one id raise `InputValueError`. ``name`` is how a message calls the folder.
    """
    folder = check_folder(name, folder)
    with name_os_errors(f"list {folder}"):
        files = sorted(folder.iterdir())
    volumes: dict[str, Path] = {}
    for path in files:
        id_ = volume_id(path.name, endings)
        if id_ is None:
            continue
        if id_ in volumes:
            raise InputValueError(f"{name} must hold one file for each id, got {volumes[id_]} and {path}")
        volumes[id_] = path
    return dict(sorted(volumes.items()))


@contextmanager
def open_archive(name: str, path: Path | str) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading; ``name`` is how a message calls it."""
    path = check_file(name, path)
    with name_os_errors(f"read {path}"):
        try:
            archive = zipfile.ZipFile(path)
        except OSError:
            raise
        except Exception as error:  # of damaged bytes, zipfile raises any exception at all
            raise InputValueError(f"{name} must be a zip archive, got {path}: {one_line(error)}") from error
    with archive:
        yield archive


def list_members(archive: zipfile.ZipFile) -> Iterator[tuple[str | None, PurePosixPath, zipfile.ZipInfo]]:
    """Yield id, path and entry of an archive's files, in its order: hidden files and macOS's companions are left out.

    The id is None for what is not a volume. Names from Windows have backslashes; they are folders all the same.
    """
    n_left_out = 0
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if member.is_dir() or member.filename.endswith("\\"):
            continue
        if path.name.startswith(".") or _COMPANIONS in path.parts:
            n_left_out += 1
            continue
        yield volume_id(path.name), path, member
    if n_left_out:
        logger.warning("%s: %d hidden files, such as macOS's, do not count", archive.filename, n_left_out)


def copy_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, max_bytes: int) -> None:
    """Copy a file of an archive to the disk, whole; more than ``max_bytes`` is refused, whatever the archive says of its size.

    A message of `InputValueError` says why, without a name: ``is encrypted``.
    """
    n_bytes = 0
    with name_os_errors(f"write {target}"), open(target, "wb") as stream:
        for chunk in _read_chunks(archive, member):
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                raise InputValueError(f"has more than {max_bytes} bytes, far more than its volume needs")
            stream.write(chunk)
    if n_bytes != member.file_size:
        raise InputValueError(f"is damaged: it has {n_bytes} bytes where the archive says {member.file_size}")


def _read_chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    if member.flag_bits & 1:
        raise InputValueError("is encrypted")
    try:
        with archive.open(member) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except NotImplementedError as error:
        # typeshed does not know the names.
        names: dict[int, str] = zipfile.compressor_names  # type: ignore[attr-defined]
        kind = names.get(member.compress_type, f"method {member.compress_type}")
        raise InputValueError(f"is compressed by {kind} and cannot be read: {one_line(error)}") from error
    except Exception as error:  # of damaged bytes, zipfile and its decoders raise any exception at all
        raise InputValueError(f"is damaged: {one_line(error)}") from error
