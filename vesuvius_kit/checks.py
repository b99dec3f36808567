"""Argument checks with one message form: what, the requirement, what arrived.

The error classes are the ordinary ``TypeError``, ``ValueError``, ``FileNotFoundError`` and ``OSError`` with a common base, so
that the command line can tell what the user, the disk or the network did (one line, exit code 2) from a mistake of the kit (a
traceback). A `RunFailedError` is neither: one line, exit code 1.
"""

import math
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path


class InputError(Exception):
    """Something the user gave cannot be used; the message is one line that names it."""


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
    """Turn what the disk or the system refuses inside the block into one line that names what was tried.

    Parameters
    ----------
    action : str
        What the block does, with the path: ``write masks/1.tif``.

    Raises
    ------
    InputOSError
        ``cannot write masks/1.tif: No space left on device``.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputOSError(f"cannot {action}: {explain_os_error(error)}") from error


def explain_os_error(error: OSError) -> str:
    """Return the system's own words for an ``OSError``, without its number.

    Parameters
    ----------
    error : OSError
        As the system or a library raised it.

    Returns
    -------
    str
    """
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def make_folder(path: Path | str) -> Path:
    """Make a folder, and those above it, unless it is there.

    Parameters
    ----------
    path : str or Path
        The folder.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputOSError
        The disk is read-only or full, or a file is in the way.
    """
    with name_os_errors(f"make the folder {path}"):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def check_output_file(name: str, path: Path | str) -> Path:
    """Return ``path`` as a Path if a file can be written there: asked before the work whose result it will hold.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    path : str or Path
        The file; it need not be there.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputNotFoundError
        The folder of ``path`` does not exist.
    InputOSError
        ``path`` is a folder, or its folder cannot be written to.
    """
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
    """Make a folder among the temporary files, for the time of the block.

    Yields
    ------
    pathlib.Path

    Raises
    ------
    InputOSError
        No temporary folder can be written to; TMPDIR may name another.
    """
    with name_os_errors("make a temporary folder (TMPDIR may name another place)"):
        holder = tempfile.TemporaryDirectory(prefix="vesuvius_kit_", ignore_cleanup_errors=True)
    with holder as folder:
        yield Path(folder)


def check_real(name, value, *, minimum=None, maximum=None, above=None, below=None) -> float:
    """Return ``value`` as a float after checking its kind and range.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    value : float
        A finite real number; bool is refused.
    minimum, maximum : float, optional
        Inclusive bounds.
    above, below : float, optional
        Exclusive bounds.

    Returns
    -------
    float

    Raises
    ------
    InputTypeError
        ``value`` is not a real number.
    InputValueError
        It is not finite or lies outside the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
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


def check_integer(name, value, *, minimum=None, maximum=None) -> int:
    """Return ``value`` as an int after checking its kind and range.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    value : int
        A Python or NumPy integer; bool is refused.
    minimum, maximum : int, optional
        Inclusive bounds.

    Returns
    -------
    int

    Raises
    ------
    InputTypeError
        ``value`` is not an integer.
    InputValueError
        It lies outside the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputTypeError(f"{name} must be an integer, got {type(value).__name__}")
    check_real(name, int(value), minimum=minimum, maximum=maximum)
    return int(value)


def check_choice(name, value, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    value : str
        What arrived.
    choices : collection of str
        What is allowed; the message lists them.

    Returns
    -------
    str

    Raises
    ------
    InputValueError
        ``value`` is none of them.
    """
    if value not in choices:
        raise InputValueError(f"{name} must be one of {', '.join(sorted(choices))}, got {value!r}")
    return value


def check_size(name, size, *, ndim: int = 3, minimum: int = 1) -> tuple[int, ...]:
    """Return a size in voxels, (z, y, x), as a tuple of ints; a single integer means a cube.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    size : int or sequence of int
        One edge length for all axes, or one for each.
    ndim : int
        Number of axes.
    minimum : int
        Smallest edge length allowed, inclusive.

    Returns
    -------
    tuple of int

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind, wrong number of axes, an edge below ``minimum``.
    """
    if isinstance(size, Integral) and not isinstance(size, bool):
        size = (size,) * ndim
    if isinstance(size, str) or not isinstance(size, Iterable):
        raise InputTypeError(f"{name} must be an integer or {ndim} integers, got {size!r}")
    size = tuple(size)
    if len(size) != ndim:
        raise InputValueError(f"{name} must have {ndim} values, got {len(size)}")
    return tuple(check_integer(f"{name}[{axis}]", edge, minimum=minimum) for axis, edge in enumerate(size))


def check_spacing(name, spacing) -> tuple[float, float, float]:
    """Return a voxel size along (z, y, x) as a tuple of floats.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    spacing : sequence of 3 floats
        Each above 0.

    Returns
    -------
    tuple of 3 floats

    Raises
    ------
    InputTypeError, InputValueError
        Wrong kind, wrong number of values, a value that is not positive and finite.
    """
    if isinstance(spacing, str) or not isinstance(spacing, Iterable):
        raise InputTypeError(f"{name} must be 3 numbers, got {spacing!r}")
    spacing = tuple(spacing)
    if len(spacing) != 3:
        raise InputValueError(f"{name} must have 3 values, got {len(spacing)}")
    return tuple(check_real(f"{name}[{axis}]", step, above=0) for axis, step in enumerate(spacing))


def check_array(name, array, *, ndim: int | None = 3, kinds: str = "biuf"):
    """Return ``array`` unchanged if it is a NumPy array of the right dimension and kind.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    array : numpy.ndarray
        What arrived.
    ndim : int or None
        Required number of axes; None allows any.
    kinds : str
        Allowed ``dtype.kind`` letters: b bool, i signed, u unsigned, f float.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    InputTypeError
        Not an array, or of another kind.
    InputValueError
        Another number of axes.
    """
    dtype = getattr(array, "dtype", None)
    if dtype is None or not hasattr(array, "__array__") or not hasattr(dtype, "kind"):
        raise InputTypeError(f"{name} must be a NumPy array, got {type(array).__name__}")
    if dtype.kind not in kinds:
        raise InputTypeError(f"{name} must have a dtype of kind {'/'.join(kinds)}, got {dtype}")
    if ndim is not None and array.ndim != ndim:
        raise InputValueError(f"{name} must have {ndim} dimensions, got shape {tuple(array.shape)}")
    return array


def check_same_shape(first_name, first, second_name, second) -> None:
    """Raise unless two arrays have the same shape.

    Parameters
    ----------
    first_name : str
        How the message calls the first array.
    first : numpy.ndarray
        The first array.
    second_name : str
        How the message calls the second array.
    second : numpy.ndarray
        The second array.

    Raises
    ------
    InputValueError
        The shapes differ.
    """
    if tuple(first.shape) != tuple(second.shape):
        raise InputValueError(
            f"{first_name} and {second_name} must have the same shape, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def check_duration(name, value) -> float:
    """Return the seconds meant by a duration such as ``8h30m``, ``90s`` or ``600``.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    value : str or float
        What arrived: hours, minutes and seconds with their letters, in that order, or plain seconds.

    Returns
    -------
    float
        Seconds, above 0.

    Raises
    ------
    InputValueError
        Not of that form, or 0.
    """
    number = r"(\d+(?:\.\d+)?)"
    text = str(value).strip()
    text = f"{text}s" if re.fullmatch(number, text) else text
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text)
    if not match or not any(match.groups()):
        raise InputValueError(f"{name} must look like 8h30m, 45m, 90s or 600, got {str(value)!r}")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return check_real(name, 3600 * hours + 60 * minutes + seconds, above=0)


def check_folder(name, path) -> Path:
    """Return ``path`` as a Path if it is an existing folder.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    path : str or Path
        What arrived.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputNotFoundError
        There is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputNotFoundError(f"{name} must be an existing folder, got {path}")
    return path


def check_file(name, path) -> Path:
    """Return ``path`` as a Path if it is an existing file.

    Parameters
    ----------
    name : str
        How the message calls the argument.
    path : str or Path
        What arrived.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputNotFoundError
        There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputNotFoundError(f"{name} must be an existing file, got {path}")
    return path
