"""On a machine with a GPU and without a network: install from the folder of wheels, run the GPU tests, then `gpu.py`.

    python benchmarks/gpu_setup.py --wheels gpu-wheels

This is `make gpu`. It needs Python, pip and what `gpu_wheels.py` takes for given, and uses the standard library alone. The
packages go to a folder of their own, ``.gpu-packages``, and nothing of the machine's is replaced. (No virtual environment: one
that is made by the Python of another does not see what is installed there, and some images have no ``venv``.) What runs is the
code of this checkout, whatever the kit's wheel holds.

Left behind are ``gpu.json``, the record, and ``gpu.md``, the table; the exit code is 0 when all passed, 1 when something failed
and 2 when nothing could be tried.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = CHECKOUT / ".gpu-packages"
SECONDS = 465.0  # in all; eight minutes less what ending takes
TEST_SECONDS = 150.0
STANDS_IN = os.environ.get("GPU_STAND_IN") == "cpu"
_LOOK = """
import importlib.metadata as metadata, json, sys
absent = []
for name in sys.argv[1:]:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        absent.append(name)
gpus = 0
if "torch" not in absent:
    import torch
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"absent": absent, "gpus": gpus}))
"""


class CannotTryError(Exception):
    """Nothing can be tried on this machine; the message is one line."""


def look_at_machine(wheels: Path):
    """Return the list of the folder of wheels, if this machine is what it was made for and has a GPU."""
    path = wheels / "list.json"
    if not path.is_file():
        raise CannotTryError(
            f"there is no folder of wheels at {wheels}: `make gpu-wheels` makes it where there is a network"
        )
    listed = json.loads(path.read_text(encoding="utf-8"))
    python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if listed["python_version"] != python_version:
        raise CannotTryError(
            f"the wheels in {wheels} are for Python {listed['python_version']}, and this is {python_version}: "
            f"make gpu-wheels PYTHON_VERSION={python_version}"
        )
    looked = subprocess.run([sys.executable, "-c", _LOOK, *listed["given"]], capture_output=True, text=True)
    if looked.returncode != 0:
        raise CannotTryError(f"PyTorch cannot be loaded: {looked.stderr.strip().splitlines()[-1]}")
    machine = json.loads(looked.stdout.splitlines()[-1])
    if "torch" in machine["absent"]:
        raise CannotTryError(f"PyTorch must be installed for {sys.executable}")
    if not machine["gpus"] and not STANDS_IN:
        raise CannotTryError("there is no GPU that PyTorch sees; GPU_STAND_IN=cpu tries everything on the CPU")
    if machine["absent"]:
        print(f"not on this machine, though it should be: {', '.join(machine['absent'])}")
    return listed


def install(wheels: Path):
    """Install all wheels of the folder into `PACKAGES`, anew."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    options = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(PACKAGES)]
    done = subprocess.run([*command, *map(str, sorted(wheels.glob("*.whl")))], capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise CannotTryError(f"pip cannot install the wheels: {said[-1]}")


def compare_kit(wheels: Path):
    """Return whether the kit's wheel holds the code of this checkout."""
    (wheel,) = wheels.glob("vesuvius_kit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if name.startswith("vesuvius_kit/")}
    sources = {path.relative_to(CHECKOUT).as_posix(): path for path in (CHECKOUT / "vesuvius_kit").rglob("*.py")}
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(sources[name].read_bytes())
    same = sources.keys() == {name for name in packed if name.endswith(".py")}
    same = same and all(packed[name] == path.read_bytes() for name, path in sources.items())
    return {"code_sha256": digest.hexdigest(), "wheel_is_of_this_code": same}


def run_tests(environment, seconds):
    """Run the tests marked gpu; return how many passed, failed and were skipped, and which failed."""
    # Only these files: collecting the whole suite would take as long again.
    files = [path for path in sorted((CHECKOUT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--durations=5"]
        command += [f"--junitxml={report}", *map(str, files)]
        started, error = time.monotonic(), None
        try:
            code = subprocess.run(command, cwd=CHECKOUT, env=environment, timeout=seconds).returncode
            if code not in (0, 1):
                error = f"pytest ended with {code}"
        except subprocess.TimeoutExpired:
            error = f"not done within {seconds:.0f} s"
        counts = {"passed": 0, "failed": 0, "skipped": 0}
        failures, skipped = [], []
        cases = ElementTree.parse(report).iter("testcase") if report.is_file() else ()
        for case in cases:
            name = f"{case.get('classname')}::{case.get('name')}"
            wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
            if wrong is not None:
                counts["failed"] += 1
                failures.append(f"{name}: {(wrong.get('message') or '').strip().partition(chr(10))[0]}")
            elif case.find("skipped") is not None:
                counts["skipped"] += 1
                skipped.append(f"{name}: {case.find('skipped').get('message')}")
            else:
                counts["passed"] += 1
    rest = {"failures": failures, "skips": skipped, "error": error, "seconds": round(time.monotonic() - started, 1)}
    return counts | rest


def main():
    """Install, test and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, default=CHECKOUT / "gpu-wheels", help="as `make gpu-wheels` made it")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--table", type=Path, default=Path("gpu.md"))
    given = parser.parse_args()
    patience = 8.0 if STANDS_IN else 1.0
    started = time.monotonic()
    try:
        listed = look_at_machine(given.wheels)
        install(given.wheels)
    except CannotTryError as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return 2
    kit = compare_kit(given.wheels)
    print(f"installed in {time.monotonic() - started:.0f} s")
    for part in listed["skipped"]:
        print(f"not among the wheels: {part['part']}: {part['why']}")
    if not kit["wheel_is_of_this_code"]:
        print("the kit's wheel is of another state of the code: what runs is this checkout")
    paths = [str(CHECKOUT), str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NO_ALBUMENTATIONS_UPDATE": "1"}
    if STANDS_IN:
        environment["VESUVIUS_KIT_TEST_DEVICE"] = "cpu"
    tests = run_tests(environment, TEST_SECONDS * patience)
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before.json"
        record = {"kit": kit, "wheels": listed, "tests": tests, "seconds": time.monotonic() - started}
        before.write_text(json.dumps(record), encoding="utf-8")
        left = SECONDS * patience - (time.monotonic() - started)
        command = [sys.executable, str(CHECKOUT / "benchmarks" / "gpu.py"), "--before", str(before)]
        command += ["--output", str(given.output), "--table", str(given.table), "--seconds", f"{left:.0f}"]
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
