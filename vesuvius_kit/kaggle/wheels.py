"""Wheels: building the kit's, packing those of installed packages again, reading them, and refusing what must not travel.

The same files always give the same bytes, so that a data set gets a new version only when something changed.
The formats are those of PEP 427 (wheels), PEP 425 (tags) and PEP 376 (RECORD).
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.kaggle.install import read_record, record_hash, write_wheel

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
    """What a wheel says of itself; the name is the package's canonical one."""

    path: Path
    name: str
    version: str
    requires: tuple[Requirement, ...]
    requires_python: SpecifierSet
    modules: tuple[str, ...]
    """What is imported: the module called like the package, else every top-level one."""
    record_sha256: str


def build_kit_wheel(checkout: Path | str, folder: Path | str) -> Path:
    """Build the kit's wheel from a checkout, which is left as it is, into a folder."""
    checkout = Path(checkout)
    absent = [name for name in (*_SOURCES, "vesuvius_kit/__init__.py") if not (checkout / name).is_file()]
    if absent:
        raise InputNotFoundError(f"checkout must be a folder of the kit's sources, got {checkout} without {absent[0]}")
    with tempfile.TemporaryDirectory() as scratch:
        # A copy: what an earlier build left in build/ would end up in the wheel, and the checkout stays clean.
        sources, built = Path(scratch) / "sources", Path(scratch) / "built"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(checkout / "vesuvius_kit", sources / "vesuvius_kit", ignore=ignore)
        for name in _SOURCES:
            shutil.copyfile(checkout / name, sources / name)
        # Without the network, unless this environment lacks setuptools: then pip must fetch it.
        offline = ["--no-build-isolation", "--no-index"] if _can_build() else []
        _run_pip("wheel", "--no-deps", *offline, "--wheel-dir", built, sources, purpose="building the kit's wheel")
        (wheel,) = built.glob("*.whl")
        # Packed again, without the times and modes of its files.
        with zipfile.ZipFile(wheel) as archive:
            write_wheel(Path(folder) / wheel.name, {name: archive.read(name) for name in archive.namelist()})
        return Path(folder) / wheel.name


def obtain_wheel(requirement: Requirement, folder: Path | str) -> Path:
    """Write the wheel of a package to a folder: of the installed one when that serves on Kaggle, else of the registry's."""
    installed = next(iter(metadata.distributions(name=requirement.name)), None)
    if installed is not None and requirement.specifier.contains(installed.version, prereleases=True):
        packed = _pack_installed(installed, Path(folder))
        if packed is not None:
            return packed
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON_VERSIONS[0], "--platform", PLATFORM]
        purpose = f"fetching a wheel of {requirement.name}"
        _run_pip("download", *options, "--dest", scratch, str(requirement), purpose=purpose)
        (wheel,) = Path(scratch).glob("*.whl")
        return Path(shutil.copy(wheel, folder))


def read_wheel(path: Path | str) -> Wheel:
    """Read what a wheel says of itself."""
    with zipfile.ZipFile(path) as archive:
        entries = list(zipfile.Path(archive).iterdir())
        (info,) = (entry for entry in entries if entry.name.endswith(".dist-info"))
        described = metadata.PathDistribution(info)
        name, own = canonicalize_name(described.name), described.name.replace("-", "_").lower()
        top = [entry.name.removesuffix(".py") for entry in entries if entry.is_dir() or entry.name.endswith(".py")]
        modules = (own,) if own in top else tuple(sorted(module for module in top if module.isidentifier()))
        requires = tuple(map(Requirement, described.requires or ()))
        python = SpecifierSet(",".join(described.metadata.get_all("Requires-Python", [])))
        record = hashlib.sha256((info / "RECORD").read_bytes()).hexdigest()
        return Wheel(Path(path), name, described.version, requires, python, modules, record)


def refusal(file_name: str) -> str | None:
    """Say why a wheel, whose name holds the package and its compatibility tags, must not be in a bundle; None if it may."""
    package, _, _, tags = parse_wheel_filename(file_name)
    if package in FORBIDDEN or package.startswith(FORBIDDEN_PREFIXES):
        return f"{file_name} would replace the image's own {package}"
    if all(tag.abi == "none" and tag.platform == "any" for tag in tags):
        return None if any(tag.interpreter == "py3" for tag in tags) else f"{file_name} is not for every Python 3"
    if package not in COMPILED_ALLOWED:
        return f"{file_name} is not pure Python, and only {', '.join(COMPILED_ALLOWED)} may be compiled"
    # The stable ABI of a Python not newer than Kaggle's.
    minors = [re.fullmatch(r"cp3(\d+)-abi3-manylinux.*_x86_64", str(tag)) for tag in tags]
    if any(minor and int(minor[1]) <= int(PYTHON_VERSIONS[0].split(".")[1]) for minor in minors):
        return None
    return f"{file_name} does not run on Linux x86_64 with Python {PYTHON_VERSIONS[0]}: an abi3 wheel is needed"


def check_resolution(wheels: Sequence[Path], python_version: str) -> None:
    """Let pip decide whether wheels can be installed under a Python version, such as "3.12", that need not be here."""
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--dry-run", "--quiet", "--no-index", "--no-deps", "--target", scratch, "--only-binary=:all:"]
        options += ["--python-version", python_version, "--platform", PLATFORM, "--platform", "any"]
        _run_pip("install", *options, *wheels, purpose=f"trying the bundle for Python {python_version}")


def _can_build() -> bool:
    found = [each.version for each in metadata.distributions(name="setuptools")]
    return bool(found) and Version(found[0]) >= Version("70.1")  # the first that makes wheels by itself


def _run_pip(*words: Path | str, purpose: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("ERROR")] or lines or ["pip said nothing"]
        raise InputValueError(f"{purpose} failed: {reasons[0]}")


def _pack_installed(installed: metadata.Distribution, folder: Path) -> Path | None:
    """A wheel of an installed package; None when its files do not suffice or do not serve on Kaggle.

    By hand, since pip and build make wheels of sources and indexes only, and a bundle is built without a network; the RECORD
    names the files and their hashes, which is all a wheel needs.
    """
    record = installed.read_text("RECORD")
    tags = Parser().parsestr(installed.read_text("WHEEL") or "").get_all("Tag", [])
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if not record or not tags or origin.get("dir_info", {}).get("editable"):
        return None
    python, abi, platform = (".".join(sorted(set(parts))) for parts in zip(*(tag.split("-") for tag in tags)))
    info = next(Path(name).parent for name, _ in read_record(record) if name.endswith(".dist-info/RECORD"))
    target = folder / f"{info.name.removesuffix('.dist-info')}-{python}-{abi}-{platform}.whl"
    if refusal(target.name) and "any" not in platform.split("."):
        return None  # compiled for this machine only: the registry may have one for Kaggle
    scripts, files = {entry.name for entry in installed.entry_points}, {}
    for name, expected in read_record(record):
        path = Path(name)
        if path.suffix == ".pyc" or (path.parent == info and path.name in _LEFT_OUT):
            continue
        if path.is_absolute() or ".." in path.parts:
            if path.stem in scripts:
                continue  # pip makes it again from the entry point
            return None  # the wheel had files for other places; they cannot be told apart any more
        files[name] = Path(str(installed.locate_file(name))).read_bytes()
        if expected and record_hash(files[name]) != expected:
            raise InputValueError(f"{installed.name} must be as it was installed, but {name} was changed since")
    quoted = {name: f'"{name}"' if "," in name else name for name in files}
    rows = [f"{quoted[name]},{record_hash(files[name])},{len(files[name])}\n" for name in sorted(files)]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    write_wheel(target, files)
    return target
