"""Argument checks with one message form: what, the requirement, what arrived.

The error classes are the ordinary ``TypeError``, ``ValueError``, ``FileNotFoundError`` and ``OSError`` with a common base, so
that the command line can tell what the user, the disk or the network did (one line, exit code 2) from a mistake of the kit (a
traceback). A `RunFailedError` is neither: one line, exit code 1.

Every ``check_...`` takes the argument's ``name`` for the message, and returns the argument in the type it was checked for.
"""

import math
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard, TypeVar, overload

if TYPE_CHECKING:
    # Not loaded for it: the command line's --help needs no NumPy.
    from numpy.typing import NDArray

_Array = TypeVar("_Array", bound="NDArray[Any]")
_Choice = TypeVar("_Choice", bound=str)


class Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> Sequence[int]:
        """Edge lengths."""


class InputError(Exception):
    """Something the user gave cannot be used; the message is one line that names it.

    Examples
    --------
    >>> import vesuvius_kit as vk
    >>> try:
    ...     vk.read_volume("nowhere.tif")
    ... except vk.InputError as error:
    ...     print(error)
    volume must be an existing file, got nowhere.tif
    """


class InputTypeError(InputError, TypeError):
    """An argument of the wrong kind."""


class InputValueError(InputError, ValueError):
    """An argument of the right kind with a value that cannot be used."""


class InputNotFoundError(InputError, FileNotFoundError):
    """A file or folder that is not there."""


class InputOSError(InputError, OSError):
    """The disk or the system refused: a full disk, a read-only mount, a folder where a file must be."""


class RunFailedError(RuntimeError):
    """What the user gave can be used, but the work on it came to nothing; the message is one line."""


@contextmanager
def name_os_errors(action: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into an `InputOSError`: ``cannot {action}: No space left on device``."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputOSError(f"cannot {action}: {explain_os_error(error)}") from error


def explain_os_error(error: OSError) -> str:
    """Return the system's own words for an error, without its number."""
    return error.strerror or one_line(error)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def describe_error(error: BaseException) -> str:
    """Return an error's message on one line; of one that is no user's fault, its class too."""
    name, text = type(error).__name__, one_line(error)
    return text if isinstance(error, InputError) or text == name else f"{name}: {text}"


def make_folder(path: Path | str) -> Path:
    """Make a folder, and those above it, unless it is there."""
    with name_os_errors(f"make the folder {path}"):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def check_output_file(name: str, path: Path | str) -> Path:
    """Check, before the work whose result it will hold, that a file can be written; its folder must exist."""
    path = Path(path)
    if path.is_dir():
        raise InputOSError(f"{name} must be a file, got the folder {path}")
    if not path.parent.is_dir():
        raise InputNotFoundError(f"the folder of {path} must exist")
    with name_os_errors(f"write {path}"):
        # Without a name where the system can, so that a kill leaves nothing.
        tempfile.TemporaryFile(dir=path.parent).close()
    return path


@contextmanager
def make_scratch_folder() -> Iterator[Path]:
    """Make a folder among the temporary files (``TMPDIR``) for the time of the block."""
    with name_os_errors("make a temporary folder (TMPDIR may name another place)"):
        holder = tempfile.TemporaryDirectory(prefix="vesuvius_kit_", ignore_cleanup_errors=True)
    with holder as folder:
        yield Path(folder)


def check_real(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Check a finite real number of Python or NumPy, no bool; ``minimum`` and ``maximum`` are inclusive."""
    if not _is_real(value):
        raise InputTypeError(f"{name} must be a number, got {type(value).__name__}")
    bounds = []
    if minimum is not None:
        bounds.append((value >= minimum, f">= {minimum}"))
    if above is not None:
        bounds.append((value > above, f"> {above}"))
    if maximum is not None:
        bounds.append((value <= maximum, f"<= {maximum}"))
    if below is not None:
        bounds.append((value < below, f"< {below}"))
    if not math.isfinite(value) or not all(holds for holds, _ in bounds):
        requirement = " and ".join(text for _, text in bounds) or "finite"
        raise InputValueError(f"{name} must be {requirement}, got {value!r}")
    return float(value)


def check_integer(name: str, value: object, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """Check an integer of Python or NumPy, no bool; both bounds are inclusive."""
    if not _is_integer(value):
        raise InputTypeError(f"{name} must be an integer, got {type(value).__name__}")
    check_real(name, int(value), minimum=minimum, maximum=maximum)
    return int(value)


def check_choice(name: str, value: _Choice, choices: Collection[str]) -> _Choice:
    """Check that a value is one of ``choices``; the message lists them."""
    if value not in choices:
        raise InputValueError(f"{name} must be one of {', '.join(sorted(choices))}, got {value!r}")
    return value


@overload
def check_size(name: str, size: object, *, ndim: Literal[3] = 3, minimum: int = 1) -> tuple[int, int, int]: ...
@overload
def check_size(name: str, size: object, *, ndim: int, minimum: int = 1) -> tuple[int, ...]: ...
def check_size(name: str, size: object, *, ndim: int = 3, minimum: int = 1) -> tuple[int, ...]:
    """Check a size in voxels, (z, y, x), no edge below ``minimum``; a single integer means a cube."""
    if _is_integer(size):
        size = (size,) * ndim
    if isinstance(size, str) or not isinstance(size, Iterable):
        raise InputTypeError(f"{name} must be an integer or {ndim} integers, got {size!r}")
    edges = tuple(size)
    if len(edges) != ndim:
        raise InputValueError(f"{name} must have {ndim} values, got {len(edges)}")
    return tuple(check_integer(f"{name}[{axis}]", edge, minimum=minimum) for axis, edge in enumerate(edges))


def check_spacing(name: str, spacing: object) -> tuple[float, float, float]:
    """Check a voxel size along (z, y, x): three numbers above 0."""
    if isinstance(spacing, str) or not isinstance(spacing, Iterable):
        raise InputTypeError(f"{name} must be 3 numbers, got {spacing!r}")
    steps = tuple(spacing)
    if len(steps) != 3:
        raise InputValueError(f"{name} must have 3 values, got {len(steps)}")
    z, y, x = (check_real(f"{name}[{axis}]", step, above=0) for axis, step in enumerate(steps))
    return z, y, x


def check_array(name: str, array: _Array, *, ndim: int | None = 3, kinds: str = "biuf") -> _Array:
    """Check a NumPy array's number of axes (None: any) and kind of dtype: b bool, i signed, u unsigned, f float."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or not hasattr(array, "__array__") or not hasattr(dtype, "kind"):
        raise InputTypeError(f"{name} must be a NumPy array, got {type(array).__name__}")
    if dtype.kind not in kinds:
        raise InputTypeError(f"{name} must have a dtype of kind {'/'.join(kinds)}, got {dtype}")
    if ndim is not None and array.ndim != ndim:
        raise InputValueError(f"{name} must have {ndim} dimensions, got shape {tuple(array.shape)}")
    return array


def check_same_shape(first_name: str, first: Shaped, second_name: str, second: Shaped) -> None:
    """Check that two arrays or tensors have the same shape."""
    if tuple(first.shape) != tuple(second.shape):
        raise InputValueError(
            f"{first_name} and {second_name} must have the same shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )


def check_duration(name: str, value: float | str) -> float:
    """Return the seconds, above 0, of a duration such as ``8h30m``, ``90s`` or ``600``."""
    number = r"(\d+(?:\.\d+)?)"
    text = str(value).strip()
    text = f"{text}s" if re.fullmatch(number, text) else text
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text)
    if not match or not any(match.groups()):
        raise InputValueError(f"{name} must look like 8h30m, 45m, 90s or 600, got {str(value)!r}")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return check_real(name, 3600 * hours + 60 * minutes + seconds, above=0)


def check_folder(name: str, path: Path | str) -> Path:
    """Check that a folder exists."""
    path = Path(path)
    if not path.is_dir():
        raise InputNotFoundError(f"{name} must be an existing folder, got {path}")
    return path


def check_file(name: str, path: Path | str) -> Path:
    """Check that a file exists."""
    path = Path(path)
    if not path.is_file():
        raise InputNotFoundError(f"{name} must be an existing file, got {path}")
    return path


def _is_real(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)
