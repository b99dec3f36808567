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
from importlib import metadata
from pathlib import Path

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


class InstallError(Exception):
    """The bundle is damaged, pip refused it, or it does not import; the message is one line."""


def check_entry(folder, entry) -> list[str]:
    """Compare one file of a bundle with its entry in the manifest.

    Parameters
    ----------
    folder : Path
        The bundle.
    entry : dict
        ``name``, ``size`` in bytes, ``sha256``, and for a wheel ``record_sha256``.

    Returns
    -------
    list of str
        What is wrong with it, one line each; empty when nothing is. An unpacked wheel is compared file by file with its RECORD.
    """
    path = folder / entry["name"]
    if path.is_file():
        with open(path, "rb") as stream:
            same = hashlib.file_digest(stream, "sha256").hexdigest() == entry["sha256"]
        return [] if same else [f"{entry['name']} differs from the manifest"]
    unpacked = unpacked_folder(folder, entry)
    if unpacked is None:
        return [f"{entry['name']} is missing"]
    records = list(unpacked.glob("*.dist-info/RECORD"))
    if len(records) != 1 or hashlib.sha256(records[0].read_bytes()).hexdigest() != entry["record_sha256"]:
        return [f"{unpacked.name} has no RECORD or another one than the manifest says"]
    problems = []
    for name, expected in read_record(records[0]):
        file = unpacked / name
        if not file.is_file():
            problems.append(f"{unpacked.name}/{name} is missing")
        elif expected and record_hash(file.read_bytes()) != expected:
            problems.append(f"{unpacked.name}/{name} differs from its RECORD")
    return problems


def unpacked_folder(folder, entry):
    """Return the folder that Kaggle made of a wheel.

    Parameters
    ----------
    folder : Path
        The bundle.
    entry : dict
        The wheel's entry in the manifest.

    Returns
    -------
    Path or None
        ``x.whl/`` or ``x/``; None when there is neither.
    """
    if not entry["record_sha256"]:
        return None
    candidates = (folder / entry["name"], folder / entry["name"].removesuffix(".whl"))
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def read_record(path) -> list[tuple[str, str]]:
    """Read the RECORD of a wheel or of an installed package.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    list of (str, str)
        Each file's path and its hash, such as ``sha256=...``, "" where none is recorded.
    """
    with open(path, encoding="utf-8", newline="") as stream:
        return [(row[0], row[1]) for row in csv.reader(stream) if row]


def record_hash(content: bytes) -> str:
    """Return a file's hash in the form of a RECORD.

    Parameters
    ----------
    content : bytes
        The file.

    Returns
    -------
    str
        ``sha256=`` and the digest in base 64 for URLs, without padding.
    """
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"


def pack_wheel(folder, target) -> None:
    """Pack an unpacked wheel; the same files always give the same bytes.

    Parameters
    ----------
    folder : Path
        What shall be in the wheel; its RECORD names the files, others are left out.
    target : Path
        The wheel to write.
    """
    (record,) = folder.glob("*.dist-info/RECORD")
    with zipfile.ZipFile(target, "w") as archive:
        for name, _ in sorted(read_record(record), key=lambda row: (".dist-info/" in row[0], row[0])):
            # A fixed date, system and mode: nothing of the machine that packs may reach the file's hash.
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, (folder / name).read_bytes(), compresslevel=6)


def main(arguments=None) -> int:
    """Run the installer.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the file's name; by default those of the process.

    Returns
    -------
    int
        0 installed and imported, 1 not.
    """
    parser = argparse.ArgumentParser(description="Install the kit's bundle without a network.", allow_abbrev=False)
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent, help="the bundle's folder")
    parser.add_argument(
        "--without", default="", help="packages, separated by commas, that this environment lacks on purpose"
    )
    given = parser.parse_args(arguments)
    try:
        print(_install(given.bundle, {name.strip() for name in given.without.split(",") if name.strip()}))
    except InstallError as error:
        print(f"install.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _install(folder, without):
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file():
        raise InstallError(f"there is no manifest.json in {folder}")
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InstallError(f"{manifest_path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or not {"files", "imports"} <= set(manifest):
        raise InstallError(f"{manifest_path} is not the manifest of a bundle")
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
        modules = [module for module, needs in manifest["imports"].items() if not without & set(needs)]
        _check_imports(modules, scratch)
    said = f"installed {_names(missing) or 'nothing'}"
    said += f"; already there: {_names(present)}" if present else ""
    said += f"; {len(modules)} modules import"
    unchecked = sorted(set(manifest["imports"]) - set(modules))
    return said + (f"; not tried without {', '.join(sorted(without))}: {', '.join(unchecked)}" if unchecked else "")


def _names(entries):
    return ", ".join(f"{entry['package']} {entry['version']}" for entry in entries)


def _is_installed(entry):
    """Whether a package is there in the bundle's version or a newer one."""
    try:
        installed = metadata.version(entry["package"])
    except metadata.PackageNotFoundError:
        return False
    return _release(installed) >= _release(entry["version"])


def _release(version):
    return [int(number) for number in re.match(r"\d+(?:\.\d+)*", version).group().split(".")]


def _wheel_file(folder, entry, scratch):
    path = folder / entry["name"]
    if path.is_file():
        return path
    packed = scratch / entry["name"]
    pack_wheel(unpacked_folder(folder, entry), packed)
    return packed


def _pip_install(wheels):
    # Forced, since pip would keep an installed kit of the same version number though its content differs.
    options = ["--no-index", "--no-deps", "--force-reinstall", "--quiet", "--no-input"]
    options += ["--disable-pip-version-check", "--no-warn-script-location", "--root-user-action", "ignore"]
    command = [sys.executable, "-m", "pip", "install", *options, *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise InstallError(f"pip failed: {done.stderr.strip()[-500:] or 'it said nothing'}")


def _check_imports(modules, scratch):
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
