"""The offline bundle: the kit's wheel and those that Kaggle's image lacks, an installer, and a manifest of hashes.

What goes in is computed: the kit's requirements, and theirs, minus what the image has. Kaggle shows it to a notebook as a data
set; the notebook runs ``python <bundle>/install.py``. A new version of the data set is needed only when `Manifest.digest`
changes.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vesuvius_kit.checks import InputNotFoundError, InputValueError, check_folder, make_folder
from vesuvius_kit.kaggle import install, wheels
from vesuvius_kit.kaggle.paths import BUNDLE_KIND, MANIFEST_NAME
from vesuvius_kit.kaggle.wheels import PYTHON_VERSIONS, Wheel

INSTALLER_NAME = "install.py"
_SCRATCH = ".building-"
# Kaggle's image as of autumn 2026, the versions where the kit's requirements could fail to be met by them. What is not known to
# be there is carried along: install.py leaves alone what it finds.
IMAGE: dict[str, str | None] = {"torch": "2.10", "torchvision": "0.25", "timm": "1.0.26", "numpy": "2.0"}
IMAGE |= {"scipy": "1.16", "numba": "0.60", "scikit-image": "0.25", "albumentations": "2.0.8"}
# papermill, which runs the notebooks there, asks for tenacity.
_OF_ANY_VERSION = (
    "accelerate huggingface-hub jinja2 kaggle matplotlib optuna packaging pillow plotly psutil pyyaml safetensors "
    "tenacity tifffile tqdm"
)
IMAGE |= dict.fromkeys(_OF_ANY_VERSION.split())
# What the installer imports of the kit, and which of the image's packages that takes.
_NUMERIC = ("numpy", "scipy", "numba", "scikit-image", "tifffile", "pillow")
_KIT_IMPORTS = {
    "vesuvius_kit.cli": ("pyyaml",),
    "vesuvius_kit.kaggle.paths": (),
    "vesuvius_kit.metrics": _NUMERIC,
    "vesuvius_kit.postprocess": _NUMERIC,
    "vesuvius_kit.inference.submission": ("torch", "safetensors", *_NUMERIC),
    "vesuvius_kit.training": ("torch", "accelerate", "safetensors", "albumentations", *_NUMERIC),
}


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle, by its name without folders; the installer has neither package, version nor RECORD."""

    name: str
    package: str | None
    version: str | None
    size: int
    sha256: str
    record_sha256: str | None
    """Of a wheel's RECORD, by which an unpacked wheel is checked."""


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds beside the manifest itself, sorted by name, and a digest that changes if and only if it does."""

    kit_version: str
    files: tuple[BundleFile, ...]
    imports: dict[str, list[str]]
    """The modules that the installer imports, each with the packages of the image that it needs."""
    digest: str

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def build_bundle(folder: Path | str, *, checkout: Path | str | None = None, with_imagecodecs: bool = False) -> Manifest:
    """Build the bundle, or bring an earlier one up to date; return what was written to ``manifest.json``.

    Packages that are installed here are packed from their installed files, without a network; pip fetches the others. Files
    of an earlier bundle that this one has not are removed; a folder that holds other things is refused. Without a
    ``checkout``, the kit's sources are those this package was imported from.
    """
    folder = Path(folder)
    checkout = Path(__file__).parents[2] if checkout is None else check_folder("checkout", checkout)
    old_names = _check_target(folder)
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
        chosen = _collect(wheels.read_wheel(wheels.build_kit_wheel(checkout, scratch)), scratch, with_imagecodecs)
        for python_version in PYTHON_VERSIONS:
            wheels.check_resolution([wheel.path for wheel in chosen], python_version)
        shutil.copyfile(install.__file__, Path(scratch) / INSTALLER_NAME)
        manifest = _describe(chosen, Path(scratch) / INSTALLER_NAME)
        names = [file.name for file in manifest.files]
        # In this order whatever is left half-way is known for damaged by its manifest, and mended by building again.
        for name in set(old_names) - set(names):
            (folder / name).unlink(missing_ok=True)
        text = json.dumps({"kind": BUNDLE_KIND, **asdict(manifest)}, indent=2) + "\n"
        (Path(scratch) / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="")
        for name in [MANIFEST_NAME, *names]:
            os.replace(Path(scratch) / name, folder / name)
    return manifest


def read_manifest(folder: Path | str) -> Manifest:
    """Read a bundle's manifest."""
    path = check_folder("bundle", folder) / MANIFEST_NAME
    if not path.is_file():
        raise InputNotFoundError(f"bundle must hold a {MANIFEST_NAME}, got {folder}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("kind") != BUNDLE_KIND:
            raise ValueError("it is of another kind")
        files = tuple(BundleFile(**entry) for entry in content.pop("files"))
        if any(Path(file.name).name != file.name for file in files):
            raise ValueError("it names a file in another folder")
        return Manifest(files=files, **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputValueError(f"{path} must be the manifest of a bundle, got {what}") from error


def verify_bundle(folder: Path | str) -> list[str]:
    """Say what is wrong with the files of a bundle, one line each; Kaggle may have unpacked its wheels."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems = []
    for file in manifest.files:
        problems += install.check_entry(folder, asdict(file))
        problems += filter(None, [wheels.refusal(file.name)] if file.package else [])
    if manifest.digest != _digest(manifest.files, manifest.imports):
        problems.append(f"{MANIFEST_NAME} was changed: its digest is not that of its entries")
    others = {path.name for path in folder.glob("*.whl")} - {file.name for file in manifest.files}
    return problems + [f"{name} is not in the manifest" for name in sorted(others)]


def _check_target(folder: Path) -> list[str]:
    """The names of the earlier bundle in a folder; raise unless it is that, empty or absent."""
    if folder.is_file():
        raise InputValueError(f"{folder} must be a folder, got a file")
    for leftover in folder.glob(f"{_SCRATCH}*"):  # of a build that was killed
        shutil.rmtree(leftover)
    if (folder / MANIFEST_NAME).is_file():
        return [file.name for file in read_manifest(folder).files]
    others = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if others:
        raise InputValueError(f"{folder} must be an earlier bundle, empty or absent, got {others[0]}")
    return []


def _collect(kit: Wheel, folder: Path | str, with_imagecodecs: bool) -> list[Wheel]:
    """The kit's wheel and, transitively, every wheel it needs that the image lacks."""
    chosen = {kit.name: kit}
    pending = [(requirement, kit.name) for requirement in kit.requires]
    if with_imagecodecs:
        pending.append((Requirement("imagecodecs"), kit.name))
    while pending:
        requirement, asked_by = pending.pop(0)
        name = canonicalize_name(requirement.name)
        if not _applies(requirement):
            continue
        if name not in IMAGE and name not in chosen:
            wheel = chosen[name] = wheels.read_wheel(wheels.obtain_wheel(requirement, folder))
            if reason := wheels.refusal(wheel.path.name):
                raise InputValueError(f"a bundle must not hold {wheel.path.name}, asked for by {asked_by}: {reason}")
            pending += [(needed, name) for needed in wheel.requires]
        there = IMAGE[name] if name in IMAGE else chosen[name].version
        if there is not None and not requirement.specifier.contains(there, prereleases=True):
            raise InputValueError(f"{asked_by} must work with {name} {there} on Kaggle, but asks for {requirement}")
    for wheel, version in product(chosen.values(), PYTHON_VERSIONS):
        asked = wheel.requires_python
        if not asked.contains(f"{version}.0"):
            raise InputValueError(f"{wheel.path.name} must be for Python {version}, asks for {asked}")
    return sorted(chosen.values(), key=lambda wheel: wheel.path.name)


def _applies(requirement: Requirement) -> bool:
    """Whether a requirement holds on Kaggle: without extras, on Linux, for any of its Python versions."""
    kaggle = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    pythons = [{"python_version": version, "python_full_version": f"{version}.0"} for version in PYTHON_VERSIONS]
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**kaggle, **python, "extra": ""}) for python in pythons)


def _describe(chosen: Sequence[Wheel], installer: Path) -> Manifest:
    kit = next(wheel for wheel in chosen if wheel.name == "vesuvius-kit")
    files = [_file(wheel.path, wheel.name, wheel.version, wheel.record_sha256) for wheel in chosen]
    files = sorted([*files, _file(installer, None, None, None)], key=lambda file: file.name)
    imports = {module: list(needs) for module, needs in _KIT_IMPORTS.items()}
    for wheel in chosen:
        if wheel is not kit:
            required = {canonicalize_name(requirement.name) for requirement in wheel.requires if _applies(requirement)}
            imports |= {module: sorted(required & set(IMAGE)) for module in wheel.modules}
    return Manifest(kit.version, tuple(files), imports, _digest(files, imports))


def _file(path: Path, package: str | None, version: str | None, record_sha256: str | None) -> BundleFile:
    content = path.read_bytes()
    return BundleFile(path.name, package, version, len(content), hashlib.sha256(content).hexdigest(), record_sha256)


def _digest(files: Sequence[BundleFile], imports: Mapping[str, Sequence[str]]) -> str:
    content = [[[file.name, file.sha256] for file in files], imports]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
