"""Wheels: building the kit's, packing those of installed packages again, reading them, and refusing what must not travel.

A bundle is built without a network where it can be: an installed package's RECORD names its files and their hashes, which is
all a wheel needs. The same files always give the same bytes, so that a data set gets a new version only when something changed.

References
----------
The binary distribution format (PEP 427), compatibility tags (PEP 425), the RECORD of installed projects (PEP 376).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.kaggle.install import pack_wheel, read_record, record_hash

PYTHON_VERSIONS = ("3.12", "3.13")
PLATFORM = "manylinux_2_28_x86_64"
COMPILED_ALLOWED = ("imagecodecs",)
# Whatever pip would put in the place of the image's CUDA stack or of what that was built against.
FORBIDDEN = ("torch", "torchvision", "torchaudio", "triton", "numpy", "scipy", "numba", "llvmlite")
FORBIDDEN_PREFIXES = ("nvidia-", "cuda-", "opencv-", "pytorch-triton")

_SOURCES = ("pyproject.toml", "setup.cfg", "requirements.txt", "README.md", "LICENSE")
_LEFT_OUT = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")


@dataclass(frozen=True)
class Wheel:
    """What a wheel says of itself.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    name : str
        The package, in its canonical form.
    version : str
        Its version.
    requires : tuple of packaging.requirements.Requirement
        What it asks for.
    requires_python : packaging.specifiers.SpecifierSet
        The Python versions it is for.
    modules : tuple of str
        What is imported: the module called like the package, else every top-level one.
    record_sha256 : str
        Hash of its RECORD, in hexadecimal.
    """

    path: Path
    name: str
    version: str
    requires: tuple[Requirement, ...]
    requires_python: SpecifierSet
    modules: tuple[str, ...]
    record_sha256: str


def build_kit_wheel(checkout, folder) -> Path:
    """Build the kit's wheel from a checkout, which is left as it is.

    Parameters
    ----------
    checkout : str or Path
        The folder with ``setup.cfg`` and ``vesuvius_kit/``.
    folder : str or Path
        Where the wheel is written.

    Returns
    -------
    pathlib.Path
        The wheel.

    Raises
    ------
    InputNotFoundError
        The folder is not a checkout of the kit.
    InputValueError
        pip could not build it; the message has pip's reason.
    """
    checkout = Path(checkout)
    absent = [name for name in (*_SOURCES, "vesuvius_kit/__init__.py") if not (checkout / name).is_file()]
    if absent:
        raise InputNotFoundError(f"checkout must be a folder of the kit's sources, got {checkout} without {absent[0]}")
    with tempfile.TemporaryDirectory() as scratch:
        # A copy: what an earlier build left in build/ would end up in the wheel, and the checkout stays clean.
        sources, built, unpacked = (Path(scratch) / name for name in ("sources", "built", "unpacked"))
        shutil.copytree(
            checkout / "vesuvius_kit", sources / "vesuvius_kit", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in _SOURCES:
            shutil.copyfile(checkout / name, sources / name)
        # Without the network, unless this environment lacks setuptools: then pip must fetch it.
        offline = ["--no-build-isolation", "--no-index"] if _can_build() else []
        _run_pip("wheel", "--no-deps", *offline, "--wheel-dir", built, sources, purpose="building the kit's wheel")
        (wheel,) = built.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        _write_record(unpacked)
        target = Path(folder) / wheel.name
        pack_wheel(unpacked, target)
    return target


def obtain_wheel(requirement: Requirement, folder) -> Path:
    """Write the wheel of a package: of the installed one when that serves on Kaggle, else of the registry's.

    Parameters
    ----------
    requirement : packaging.requirements.Requirement
        The package and the versions that will do.
    folder : str or Path
        Where the wheel is written.

    Returns
    -------
    pathlib.Path
        The wheel.

    Raises
    ------
    InputValueError
        An installed file was changed after its installation, or pip found no wheel for Kaggle.
    """
    try:
        installed = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        installed = None
    if installed is not None and requirement.specifier.contains(installed.version, prereleases=True):
        packed = _pack_installed(installed, Path(folder))
        if packed is not None:
            return packed
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON_VERSIONS[0], "--platform", PLATFORM]
        _run_pip(
            "download", *options, "--dest", scratch, str(requirement), purpose=f"fetching a wheel of {requirement.name}"
        )
        (wheel,) = Path(scratch).glob("*.whl")
        return Path(shutil.copy(wheel, folder))


def read_wheel(path) -> Wheel:
    """Read what a wheel says of itself.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Wheel
    """
    path = Path(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (metadata_name,) = (name for name in names if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        message = Parser().parsestr(archive.read(metadata_name).decode())
        record = archive.read(metadata_name.replace("METADATA", "RECORD"))
    name = canonicalize_name(message["Name"])
    folders = {entry.split("/")[0] for entry in names if "/" in entry}
    files = {entry.removesuffix(".py") for entry in names if "/" not in entry and entry.endswith(".py")}
    top = {part for part in folders | files if part.isidentifier()}
    own = name.replace("-", "_")
    return Wheel(
        path=path,
        name=name,
        version=message["Version"],
        requires=tuple(map(Requirement, message.get_all("Requires-Dist", []))),
        requires_python=SpecifierSet(message.get("Requires-Python", "")),
        modules=(own,) if own in top else tuple(sorted(top)),
        record_sha256=hashlib.sha256(record).hexdigest(),
    )


def refusal(file_name: str) -> str | None:
    """Say why a wheel must not be in a bundle.

    Parameters
    ----------
    file_name : str
        The wheel's name, which holds the package and its compatibility tags.

    Returns
    -------
    str or None
        The reason; None when it may.
    """
    package, _, _, tags = parse_wheel_filename(file_name)
    if package in FORBIDDEN or package.startswith(FORBIDDEN_PREFIXES):
        return f"{file_name} would replace the image's own {package}"
    if all(tag.abi == "none" and tag.platform == "any" for tag in tags):
        if any(tag.interpreter == "py3" for tag in tags):
            return None
        return f"{file_name} is not for every Python 3"
    if package not in COMPILED_ALLOWED:
        return f"{file_name} is not pure Python, and only {', '.join(COMPILED_ALLOWED)} may be compiled"
    if any(tag.abi == "abi3" and _serves_kaggle(tag) for tag in tags):
        return None
    return f"{file_name} does not run on Linux x86_64 with Python {PYTHON_VERSIONS[0]}: an abi3 wheel is needed"


def check_resolution(wheels, python_version: str) -> None:
    """Let pip decide whether wheels can be installed under a Python version on Kaggle's platform, without the network.

    Parameters
    ----------
    wheels : sequence of Path
        The files.
    python_version : str
        Such as "3.12"; it need not be installed here.

    Raises
    ------
    InputValueError
        pip refuses one; the message has its reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--dry-run", "--quiet", "--no-index", "--no-deps", "--target", scratch, "--only-binary=:all:"]
        options += ["--python-version", python_version, "--platform", PLATFORM, "--platform", "any"]
        _run_pip("install", *options, *wheels, purpose=f"trying the bundle for Python {python_version}")


def _can_build():
    try:
        return Version(metadata.version("setuptools")) >= Version("70.1")  # the first that makes wheels by itself
    except metadata.PackageNotFoundError:
        return False


def _run_pip(*words, purpose):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, words)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("ERROR")] or lines or ["pip said nothing"]
        raise InputValueError(f"{purpose} failed: {reasons[0]}")


def _serves_kaggle(tag):
    """Whether a stable-ABI tag fits 64-bit Linux and a Python not newer than Kaggle's."""
    if not (tag.platform.startswith("manylinux") and tag.platform.endswith("_x86_64")):
        return False
    minor = tag.interpreter.removeprefix("cp3")
    return minor.isdigit() and int(minor) <= int(PYTHON_VERSIONS[0].split(".")[1])


def _pack_installed(installed, folder: Path) -> Path | None:
    """A wheel of an installed package; None when its files do not suffice or do not serve on Kaggle."""
    record = next((file.locate() for file in installed.files or () if file.name == "RECORD"), None)
    tags = Parser().parsestr(installed.read_text("WHEEL") or "").get_all("Tag", [])
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if record is None or not tags or origin.get("dir_info", {}).get("editable"):
        return None
    python, abi, platform = (
        ".".join(sorted(set(parts))) for parts in zip(*(tag.split("-") for tag in tags), strict=True)
    )
    info = Path(record).parent
    target = folder / f"{info.name.removesuffix('.dist-info')}-{python}-{abi}-{platform}.whl"
    if refusal(target.name) and "any" not in platform.split("."):
        return None  # compiled for this machine only: the registry may have one for Kaggle
    scripts = {entry.name for entry in installed.entry_points}
    with tempfile.TemporaryDirectory() as scratch:
        for name, expected in read_record(record):
            path = Path(name)
            if path.suffix == ".pyc" or (path.parent.name == info.name and path.name in _LEFT_OUT):
                continue
            if path.is_absolute() or ".." in path.parts:
                if path.stem in scripts:
                    continue  # pip makes it again from the entry point
                return None  # the wheel had files for other places; they cannot be told apart any more
            content = (info.parent / path).read_bytes()
            if expected and record_hash(content) != expected:
                raise InputValueError(f"{installed.name} must be as it was installed, but {name} was changed since")
            copy = Path(scratch) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
        _write_record(Path(scratch))
        pack_wheel(Path(scratch), target)
    return target


def _write_record(folder: Path) -> None:
    """Write the RECORD of the wheel unpacked in a folder, sorted."""
    (info,) = folder.glob("*.dist-info")
    own = f"{info.name}/RECORD"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    rows = []
    for name in names:
        if name != own:
            content = (folder / name).read_bytes()
            quoted = f'"{name}"' if "," in name else name
            rows.append(f"{quoted},{record_hash(content)},{len(content)}\n")
    (info / "RECORD").write_text("".join(rows) + f"{own},,\n", encoding="utf-8", newline="")
