"""Gather the wheels that `make gpu` installs: what the kit, its GPU tests and its peers need beyond PyTorch and the like.

    python benchmarks/gpu_wheels.py --python-version 3.12 --output gpu-wheels

The folder is for Linux on x86_64 and one version of Python, which need not be the one that runs this. It holds at most 50 MB;
a peer that does not fit, or of which there is no wheel, is left out. What is in it, what is not and why stands in
``gpu-wheels/list.json``. Wheels that a call finds in the folder are kept, so that a second one is quick.

Where a part would not fit else, its large wheels are packed again with LZMA, which zip files may use and pip reads: SimpleITK
shrinks from 53 to 29 MB, in two minutes. nnU-Net fits if the machine has pandas, scikit-learn and the like already, and they
are named: ``--present pandas scikit-learn ...``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from vesuvius_kit.kaggle.wheels import Wheel, build_kit_wheel, read_wheel

CHECKOUT = Path(__file__).resolve().parent.parent
LARGEST = 50_000_000  # bytes
LIST_NAME = "list.json"
# What a machine with a GPU has, and all that these ask for. torchvision fits one release of PyTorch only and comes with it.
GIVEN = ("torch", "torchvision", "numpy", "scipy", "numba", "scikit-image")
# pip matches these exactly; a newer C library than 2.28's is not assumed.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
PLATFORMS += [f"manylinux{year}_x86_64" for year in ("2014", "2010", "1")]
_PACK_AGAIN_FROM = 1_000_000  # bytes
_SMALLEST_SHARE = 0.5  # of a wheel's size is left at best; packing takes minutes, and is not begun in vain


@dataclass(frozen=True)
class Part:
    """Packages that are of use together only."""

    name: str
    roots: tuple[str, ...]
    without: Mapping[str, str] = field(default_factory=dict)
    """Packages that its members ask for and that are not carried, and why that is no loss here."""


class UnavailableError(Exception):
    """There is no wheel of a package for that Python, and none can be built; the message is one line."""


def read_requirements():
    """Return the lines of the kit's requirements, without comments."""
    lines = (CHECKOUT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def list_parts():
    """Return the parts, those that must not be missing first."""
    pictures, network, unused = "draws pictures", "talks to other machines", "its predictor does not load it"
    peer = {"timm": "the kit's is there", "imagecodecs": unused, "seaborn": pictures, "matplotlib": pictures}
    peer |= dict.fromkeys(("connected-components-3d", "graphviz", "yacs", "future", "unittest2"), unused)
    kit = {
        "kaggle": network,
        "hf-xet": network,
        "matplotlib": pictures,
        "opencv-python-headless": "61 MB; without it augmentation, and the test of a whole training run, are left out",
    }
    return (
        Part("the kit", read_requirements(), kit),
        Part("its tests", ("pytest", "hypothesis")),
        Part("MONAI", ("monai",)),
        Part("nnU-Net", ("nnunetv2",), {**peer, "requests": network, "rich": unused}),
    )


def environment_of(python_version):
    """Return the values of dependency markers on the machine that the wheels are for."""
    return {
        "extra": "",
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python_version}.0",
        "python_version": python_version,
        "sys_platform": "linux",
    }


def applies(requirement, environment):
    """Return whether a requirement holds there."""
    return requirement.marker is None or requirement.marker.evaluate(dict(environment))


def list_given(environment):
    """Return the names of the packages that the machine has: `GIVEN`, and by this machine's metadata all they ask for."""
    given, pending = set(), list(GIVEN)
    while pending:
        name = canonicalize_name(pending.pop())
        if name in given:
            continue
        given.add(name)
        try:
            asked = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:
            continue
        pending += [requirement.name for requirement in asked if applies(requirement, environment)]
    return given


def obtain(requirement: Requirement, folder: Path, python_version: str) -> Wheel:
    """Return the newest wheel that serves, from the folder or else from the package registry."""
    name = canonicalize_name(requirement.name)
    for path in sorted(folder.glob("*.whl")):
        found, version, *_ = parse_wheel_filename(path.name)
        if found == name and requirement.specifier.contains(version, prereleases=True):
            return read_wheel(path)
    asked = f"{requirement.name}{requirement.specifier}"
    with tempfile.TemporaryDirectory() as scratch:
        tags = [word for platform in PLATFORMS for word in ("--platform", platform)]
        options = ["--only-binary=:all:", "--python-version", python_version, "--implementation", "cp", *tags]
        if not run_pip("download", *options, "--no-deps", "--dest", scratch, asked):
            # Sources alone: they serve if what is built of them is pure Python.
            run_pip("wheel", "--no-deps", "--wheel-dir", scratch, asked)
        wheels = list(Path(scratch).glob("*.whl"))
        if not wheels:
            raise UnavailableError(f"there is no wheel of {asked} for Python {python_version}")
        if not is_for(wheels[0].name, python_version):
            raise UnavailableError(f"{requirement.name} must be built for Python {python_version}, which is not here")
        return read_wheel(Path(shutil.copy(wheels[0], folder)))


def run_pip(*words):
    """Call pip, and return whether it succeeded."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *map(str, words)]
    return subprocess.run(command, capture_output=True).returncode == 0


def is_for(file_name, python_version):
    """Return whether a wheel's tags are those of the machine."""
    digits = python_version.replace(".", "")
    older = {f"cp3{minor}" for minor in range(2, int(digits[1:]) + 1)}
    for tag in parse_wheel_filename(file_name)[3]:
        pure = tag.abi == "none" and tag.interpreter in ("py3", "py2.py3", f"py{digits}", f"cp{digits}")
        stable = tag.abi == "abi3" and tag.interpreter in older
        if (pure or stable or tag.abi == f"cp{digits}") and tag.platform in ("any", *PLATFORMS):
            return True
    return False


def gather(part: Part, chosen: Mapping[str, Wheel], given: Collection[str], folder: Path, python_version: str):
    """Return the wheels that a part adds to those chosen already, by package."""
    environment = environment_of(python_version)
    added: dict[str, Wheel] = {}
    pending = [(Requirement(text), part.name) for text in part.roots]
    while pending:
        requirement, asked_by = pending.pop(0)
        name = canonicalize_name(requirement.name)
        if name in given or name in part.without or not applies(requirement, environment):
            continue
        there = chosen.get(name) or added.get(name)
        if there is None:
            there = added[name] = obtain(requirement, folder, python_version)
            print(f"  {there.path.name}: {there.path.stat().st_size / 1e6:.1f} MB", flush=True)
            pending += [(asked, name) for asked in there.requires]
        if not requirement.specifier.contains(there.version, prereleases=True):
            raise UnavailableError(f"{asked_by} asks for {requirement}, and {there.version} is in the folder")
    return added


def pack_again(wheel: Wheel) -> Wheel:
    """Pack a large wheel with LZMA where it is not yet, and where that makes it smaller; its files and RECORD stay."""
    with zipfile.ZipFile(wheel.path) as archive:
        entries = archive.infolist()
        if wheel.path.stat().st_size < _PACK_AGAIN_FROM or any(e.compress_type == zipfile.ZIP_LZMA for e in entries):
            return wheel
        smaller = wheel.path.with_suffix(".packing")
        with zipfile.ZipFile(smaller, "w") as packed:
            for entry in entries:
                info = zipfile.ZipInfo(entry.filename, entry.date_time)
                info.external_attr, info.compress_type = entry.external_attr, zipfile.ZIP_LZMA
                packed.writestr(info, archive.read(entry))
    if smaller.stat().st_size < wheel.path.stat().st_size:
        smaller.replace(wheel.path)
    else:
        smaller.unlink()
    return wheel


def size_of(wheels):
    """Return the bytes of wheels together."""
    return sum(wheel.path.stat().st_size for wheel in wheels)


def make_fit(added, chosen, largest):
    """Pack a part's wheels again where the folder would be too large else; raise where that cannot or does not suffice."""
    before, asked = size_of(chosen), size_of(added)
    if before + asked > largest and before + _SMALLEST_SHARE * asked <= largest:
        for wheel in added:
            pack_again(wheel)
    if before + size_of(added) > largest:
        raise UnavailableError(
            f"its {size_of(added) / 1e6:.0f} MB do not fit beside the {before / 1e6:.0f} MB that come first into "
            f"{largest / 1e6:.0f} MB; what the machine has of it can be named with --present"
        )


def build(folder: Path, python_version: str, present: Collection[str], largest: int = LARGEST):
    """Fill the folder, and return what is written to its list."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*"):
        # Of a call that was killed, of another Python, or the kit's of another day.
        if path.suffix != ".whl" or not is_for(path.name, python_version) or path.name.startswith("vesuvius_kit"):
            path.unlink()
    given = list_given(environment_of(python_version)) | {canonicalize_name(name) for name in present}
    kit = read_wheel(build_kit_wheel(CHECKOUT, folder))
    chosen = {kit.name: kit}
    parts, skipped, not_carried = [], [], {}
    for part in list_parts():
        print(part.name, flush=True)
        try:
            added = gather(part, chosen, given, folder, python_version)
            make_fit(added.values(), chosen.values(), largest)
        except UnavailableError as error:
            print(f"  left out: {error}", flush=True)
            skipped.append({"part": part.name, "why": str(error)})
            continue
        chosen |= added
        not_carried |= {name: f"{part.name}: {why}" for name, why in part.without.items()}
        packages = {wheel.name: wheel.version for wheel in added.values()}
        parts.append({"part": part.name, "bytes": size_of(added.values()), "packages": packages})
    for name in {path.name for path in folder.glob("*.whl")} - {wheel.path.name for wheel in chosen.values()}:
        (folder / name).unlink()
    listed = {
        "python_version": python_version,
        "platform": "Linux x86_64",
        "bytes": size_of(chosen.values()),
        "kit": kit.version,
        "given": sorted({*GIVEN, *present}),
        "parts": parts,
        "skipped": skipped,
        "not_carried": {name: why for name, why in sorted(not_carried.items()) if name not in chosen},
    }
    (folder / LIST_NAME).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    return listed


def main():
    """Fill the folder and say what is in it; exit code 1 when the kit itself is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python-version", default="3.12", help="of the machine with the GPU, such as 3.12")
    parser.add_argument("--output", type=Path, default=Path("gpu-wheels"), help="the folder of wheels")
    parser.add_argument("--present", nargs="*", default=[], help="packages that the machine has beyond PyTorch's")
    given = parser.parse_args()
    listed = build(given.output, given.python_version, given.present)
    print(f"{given.output}: {listed['bytes'] / 1e6:.1f} MB for Python {listed['python_version']}")
    for part in listed["parts"]:
        print(f"  {part['part']}: {len(part['packages'])} packages, {part['bytes'] / 1e6:.1f} MB")
    for part in listed["skipped"]:
        print(f"  left out: {part['part']}: {part['why']}")
    missing = {part["part"] for part in listed["skipped"]} & {"the kit", "its tests"}
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
