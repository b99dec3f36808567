"""Install the bundle that this file lies in: ``python <bundle>/install.py``, before the kit is there.

It uses the standard library only and never the network. It checks every file against ``manifest.json``, packs wheels
again that Kaggle has unpacked, leaves alone what is installed already in the same or a newer version, calls pip without index
and without dependencies, so that nothing of the image is replaced, and imports the result in a fresh interpreter. It prints one
line; on failure one line on standard error, with exit code 1.
"""

import argparse
import base64
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_KIT = "vesuvius-kit"
_IMPORT_EACH = """
import importlib, json, sys
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except BaseException as error:
        print(json.dumps([module, f"{type(error).__name__}: {error}"]))
        sys.exit(1)
"""
# Of the manifest: name, package, version, size in bytes, sha256, and for a wheel record_sha256.
Entry = Mapping[str, Any]


class InstallError(Exception):
    """The bundle is damaged, pip refused it, or it does not import; the message is one line."""


def check_entry(folder: Path, entry: Entry) -> list[str]:
    """Say what is wrong with one file of a bundle; an unpacked wheel is compared file by file with its RECORD."""
    path = folder / entry["name"]
    if path.is_file():
        with open(path, "rb") as stream:
            same = hashlib.file_digest(stream, "sha256").hexdigest() == entry["sha256"]
        return [] if same else [f"{entry['name']} differs from the manifest"]
    unpacked = _unpacked_folder(folder, entry)
    if unpacked is None:
        return [f"{entry['name']} is missing"]
    records = list(unpacked.glob("*.dist-info/RECORD"))
    if len(records) != 1 or hashlib.sha256(records[0].read_bytes()).hexdigest() != entry["record_sha256"]:
        return [f"{unpacked.name} has no RECORD or another one than the manifest says"]
    problems = []
    for name, expected in read_record(records[0].read_text(encoding="utf-8")):
        file = unpacked / name
        if not file.is_file():
            problems.append(f"{unpacked.name}/{name} is missing")
        elif expected and record_hash(file.read_bytes()) != expected:
            problems.append(f"{unpacked.name}/{name} differs from its RECORD")
    return problems


def _unpacked_folder(folder: Path, entry: Entry) -> Path | None:
    """The folder that Kaggle made of a wheel: ``x.whl/`` or ``x/``."""
    candidates = [folder / entry["name"], folder / entry["name"].removesuffix(".whl")] if entry["record_sha256"] else []
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def read_record(text: str) -> list[tuple[str, str]]:
    """Return each file of a RECORD and its hash, such as ``sha256=...``, "" where none is recorded."""
    return [(row[0], row[1]) for row in csv.reader(text.splitlines()) if row]


def record_hash(content: bytes) -> str:
    """Return a file's hash in the form of a RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"


def write_wheel(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a wheel of files by their paths in it; the same files always give the same bytes."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            # A fixed date, system and mode: nothing of the machine that packs may reach the file's hash.
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name], compresslevel=6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the installer with the words after the file's name; 0 installed and imported, 1 not."""
    parser = argparse.ArgumentParser(description="Install the kit's bundle without a network.", allow_abbrev=False)
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent, help="the bundle's folder")
    parser.add_argument("--without", default="", help="packages (a,b) that this environment lacks on purpose")
    given = parser.parse_args(arguments)
    try:
        print(_install(given.bundle, {name.strip() for name in given.without.split(",") if name.strip()}))
    except InstallError as error:
        print(f"install.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _install(folder: Path, without: Collection[str]) -> str:
    """Install what is missing; what was done, in one line."""
    manifest = _read_manifest(folder)
    problems = [problem for entry in manifest["files"] for problem in check_entry(folder, entry)]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InstallError(f"the bundle in {folder} is damaged: {'; '.join(problems[:3])}{more}")
    wheels = [entry for entry in manifest["files"] if entry["package"]]
    present = [entry for entry in wheels if entry["package"] != _KIT and _is_installed(entry)]
    missing = [entry for entry in wheels if entry not in present]
    with tempfile.TemporaryDirectory() as scratch:
        if missing:
            _pip_install([_wheel_file(folder, entry, Path(scratch)) for entry in missing])
        modules = [module for module, needs in manifest["imports"].items() if not set(without) & set(needs)]
        _check_imports(modules, scratch)
    said = f"installed {_names(missing) or 'nothing'}"
    said += f"; already there: {_names(present)}" if present else ""
    said += f"; {len(modules)} modules import"
    unchecked = sorted(set(manifest["imports"]) - set(modules))
    return said + (f"; not tried without {', '.join(sorted(without))}: {', '.join(unchecked)}" if unchecked else "")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise InstallError(f"there is no manifest.json in {folder}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InstallError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or not {"files", "imports"} <= set(manifest):
        raise InstallError(f"{path} is not the manifest of a bundle")
    return manifest


def _names(entries: Sequence[Entry]) -> str:
    return ", ".join(f"{entry['package']} {entry['version']}" for entry in entries)


def _is_installed(entry: Entry) -> bool:
    """Whether a package is there in the bundle's version or a newer one."""
    try:
        versions = metadata.version(entry["package"]), entry["version"]
    except metadata.PackageNotFoundError:
        return False
    there, here = ([int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", each)[0])] for each in versions)
    return there >= here


def _wheel_file(folder: Path, entry: Entry, scratch: Path) -> Path:
    path, unpacked = folder / entry["name"], _unpacked_folder(folder, entry)
    if path.is_file() or unpacked is None:
        return path
    (record,) = unpacked.glob("*.dist-info/RECORD")
    names = [name for name, _ in read_record(record.read_text(encoding="utf-8"))]
    write_wheel(scratch / entry["name"], {name: (unpacked / name).read_bytes() for name in names})
    return scratch / entry["name"]


def _pip_install(wheels: Sequence[Path]) -> None:
    # Forced, since pip would keep an installed kit of the same version number though its content differs.
    options = ["--no-index", "--no-deps", "--force-reinstall", "--quiet", "--no-input"]
    options += ["--disable-pip-version-check", "--no-warn-script-location", "--root-user-action", "ignore"]
    command = [sys.executable, "-m", "pip", "install", *options, *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise InstallError(f"pip failed: {done.stderr.strip()[-500:] or 'it said nothing'}")


def _check_imports(modules: Sequence[str], scratch: str) -> None:
    """Import in an interpreter of its own that sees neither this folder nor what this one has loaded."""
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = [sys.executable, "-P", "-c", _IMPORT_EACH, *modules]
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines()
        reason = " fails with ".join(json.loads(lines[-1])) if lines else done.stderr.strip()[-500:]
        raise InstallError(f"installed, but importing {reason}")


if __name__ == "__main__":
    sys.exit(main())
