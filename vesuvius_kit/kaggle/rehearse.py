"""A whole Kaggle session, here: the notebooks run as they would there, before anything is sent.

Each run gets a fresh virtual environment that lacks the kit, a ``/kaggle`` tree with a phantom competition in the older or
the newer layout, Kaggle's environment variables and no network. What it leaves is checked as strictly as Kaggle would.

The environment sees the packages of this one through a folder of links, without those that Kaggle's image lacks: building a
real image would mean gigabytes. The versions are therefore those installed here. Network and ``/kaggle`` are those of an
unprivileged Linux namespace. Where that is not permitted, the notebooks are told their folders by variables, and the network
stays; `rehearse` says so.
"""

import json
import logging
import os
import re
import shutil
import site
import subprocess
import sys
import time
import venv
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError, check_choice, check_folder
from vesuvius_kit.console import no_progress
from vesuvius_kit.kaggle import execute
from vesuvius_kit.kaggle.bundle import build_bundle
from vesuvius_kit.kaggle.discretion import Discretion, is_secret_name
from vesuvius_kit.kaggle.paths import BUNDLE_SLUG, COMPETITION_SLUG, INPUT_VARIABLE
from vesuvius_kit.kaggle.session import PROCESSES_VARIABLE, QUICK_SETTINGS, TRAIN_SLUG

logger = logging.getLogger(__name__)

LAYOUTS = ("old", "new")
# Which notebook runs how, in this order: submit predicts with what train left. Both layouts together show every pair.
PLAN = {
    "old": (("train", "interactive"), ("explore", "batch"), ("submit", "batch"), ("submit", "rerun")),
    "new": (("train", "batch"), ("explore", "interactive"), ("submit", "interactive"), ("submit", "rerun")),
}
FIGURES = {
    "train": ("training.png", "held_out.png"),
    "explore": ("slices.png", "survey.png"),
    "submit": ("submission.png",),
}
LARGEST_OUTPUT = 20e9  # bytes that /kaggle/working holds
MOST_LINES = 200  # of text that a saved notebook may hold

# Kaggle's image lacks them, beside what is in the bundle.
_NOT_IN_IMAGE = (
    "vesuvius-kit", "timm-3d", "jsonargparse", "imagecodecs", "connected-components-3d", "edt", "fill-voids",
    "surface-distance", "monai", "nnunetv2", "zarr",
)  # fmt: skip
_PHANTOM = {"train": 4, "shape": (64, 64, 64), "test_shape": (64, 80, 72)}
_PHANTOM_STYLES = {"train_styles": ("even", "dense", "wavy", "loose"), "test_styles": ("dense", "faint")}
_TEST_CHUNKS = {"visible": 1, "hidden": 2}
_SETTINGS = {
    "model.options": {"initial_filters": 8, "depth": 1},
    "patches.size": [32, 32, 32],
    "predict.window": [48, 48, 48],
    "train.num_epochs": 2,
    "train.steps_per_epoch": 4,
    "train.score_every_epochs": 2,
}
_START_SECONDS = 120.0  # of an interpreter, a kernel and their end, on a slow machine
_SECRET = "rehearsed-secret-that-nothing-may-print"

# A root of its own: everything of the machine's, and /kaggle, whose input is read-only as on Kaggle.
_ENTER = """
set -e
root=$1; kaggle=$2; python=$3; shift 2
mount -t tmpfs tmpfs "$root"
for entry in /*; do
  if [ "$entry" = /kaggle ]; then continue
  elif [ -L "$entry" ]; then cp -P "$entry" "$root$entry"
  elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
  else touch "$root$entry"; mount --bind "$entry" "$root$entry"
  fi
done
mkdir "$root/kaggle"
mount --bind "$kaggle" "$root/kaggle"
mount --bind "$kaggle/input" "$root/kaggle/input"
mount -o remount,bind,ro "$root/kaggle/input"
# Sockets to this machine itself work on Kaggle too: raise the loopback interface (SIOCSIFFLAGS, up and running).
"$python" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 0x49))'
exec chroot "$root" /bin/sh -c 'cd /kaggle/working; exec "$@"' sh "$@"
"""


@dataclass(frozen=True)
class Run:
    """One notebook, rehearsed.

    Parameters
    ----------
    notebook, layout, run_type : str
        What ran, and how.
    seconds : float
        From the start of its interpreter to its end.
    size : int
        Bytes it left in the working folder.
    problems : list of str
        What is wrong; empty when nothing is.
    saved : pathlib.Path
        The notebook with its outputs.
    """

    notebook: str
    layout: str
    run_type: str
    seconds: float
    size: int
    problems: list
    saved: Path


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found.

    Parameters
    ----------
    runs : list of Run
        In the order they ran.
    isolated : bool
        Whether the notebooks had no network and a ``/kaggle`` of their own.
    """

    runs: list
    isolated: bool

    @property
    def ok(self) -> bool:
        """Whether no run has a problem."""
        return not any(run.problems for run in self.runs)

    def to_text(self) -> str:
        """Return the table, and below it what is wrong.

        Returns
        -------
        str
            Several lines.
        """
        how = (
            "no network, /kaggle of its own" if self.isolated else "THE NETWORK WAS THERE: namespaces are not permitted"
        )
        lines = [how, f"{'notebook':<10}{'layout':<8}{'run type':<13}{'seconds':>8}{'left MB':>9}  verdict"]
        for run in self.runs:
            verdict = "FAILED" if run.problems else "ok"
            lines.append(
                f"{run.notebook:<10}{run.layout:<8}{run.run_type:<13}{run.seconds:>8.1f}{run.size / 1e6:>9.1f}  {verdict}"
            )
        for run in self.runs:
            lines += [f"{run.notebook}, {run.layout}, {run.run_type}: {problem}" for problem in run.problems]
        return "\n".join(lines)


def rehearse(
    folder, *, notebooks="notebooks", layout: str = "both", checkout=None, budget_seconds=600, progress=no_progress
) -> Rehearsal:
    """Run the notebooks as Kaggle would and check what they leave.

    Parameters
    ----------
    folder : str or Path
        Where everything is built; what an earlier rehearsal left there is removed.
    notebooks : str or Path
        Folder with ``train.ipynb``, ``submit.ipynb`` and ``explore.ipynb``.
    layout : str
        How inputs are mounted: ``old``, ``new`` or ``both``.
    checkout : str or Path, optional
        The kit's sources for the bundle; by default those this package was imported from.
    budget_seconds : float
        What each run may take; the submit notebook is told it.
    progress : callable
        Wraps the runs, in tqdm's calling form.

    Returns
    -------
    Rehearsal

    Raises
    ------
    InputNotFoundError
        A notebook is missing, or the packages that execute notebooks are not installed.
    InputValueError
        ``folder`` holds something else, or a bad argument.
    """
    check_choice("layout", layout, (*LAYOUTS, "both"))
    sources = {name: check_folder("notebooks", notebooks).absolute() / f"{name}.ipynb" for name in FIGURES}
    for source in sources.values():
        if not source.is_file():
            raise InputNotFoundError(f"notebooks must hold {source.name}, got none in {notebooks}")
    _require_packages()
    folder = _clear(Path(folder).absolute())
    manifest = build_bundle(folder / "bundle", checkout=checkout)
    _make_image(folder / "image", {*_NOT_IN_IMAGE, *(file.package for file in manifest.files)})
    _make_data(folder / "data")
    isolated = _can_isolate(folder)
    runs = []
    plan = [(name, *pair) for name in LAYOUTS if layout in (name, "both") for pair in PLAN[name]]
    for layout_name, notebook, run_type in progress(plan, total=len(plan), desc="rehearsal"):
        place = folder / f"{layout_name}_{notebook}_{run_type}"
        trained = next((folder / f"{layout_name}_train_{kind}" for name, kind in PLAN[layout_name] if name == "train"))
        models = trained / "kaggle" / "working" if notebook == "submit" else None
        _mount_inputs(folder, place / "kaggle", layout_name, run_type, models)
        seconds, failure = _run(sources[notebook], place, folder / "image", run_type, isolated, budget_seconds)
        problems = [failure] if failure else check_run(place, notebook)
        if seconds > budget_seconds:
            problems.append(f"took {seconds:.0f} s of {budget_seconds:.0f} s")
        size = sum(path.stat().st_size for path in (place / "kaggle" / "working").rglob("*") if path.is_file())
        if size > LARGEST_OUTPUT:
            problems.append(f"left {size / 1e9:.1f} GB, more than {LARGEST_OUTPUT / 1e9:.0f}")
        runs.append(Run(notebook, layout_name, run_type, seconds, size, problems, place / "saved.ipynb"))
    return Rehearsal(runs, isolated)


def check_run(place, notebook: str) -> list[str]:
    """Check what a notebook left, and the notebook as it was saved.

    Parameters
    ----------
    place : str or Path
        Holds ``kaggle/`` and ``saved.ipynb``.
    notebook : str
        ``train``, ``submit`` or ``explore``.

    Returns
    -------
    list of str
        What is wrong, one line each; empty when nothing is.
    """
    from vesuvius_kit.inference.submission import validate_submission
    from vesuvius_kit.kaggle.paths import find_competition
    from vesuvius_kit.models.checkpoint import find_checkpoints, load_model
    from vesuvius_kit.report import read_log

    place = Path(place)
    working = place / "kaggle" / "working"
    problems = [f"{name} is missing" for name in FIGURES[notebook] if not (working / name).is_file()]
    try:
        if notebook == "train":
            for checkpoint in find_checkpoints([working / "checkpoints"]):
                load_model(checkpoint)
            if not read_log(working / "checkpoints" / "fold_0"):
                problems.append("the training's log is empty")
        if notebook == "submit":
            data = find_competition(roots=[place / "kaggle" / "input"])
            validate_submission(working / "submission.zip", data / "test_images")
    except InputError as error:
        problems.append(str(error))
    return problems + check_saved(place / "saved.ipynb", len(FIGURES[notebook]))


def check_saved(path, n_figures: int) -> list[str]:
    """Check a notebook that was saved with its outputs.

    Parameters
    ----------
    path : str or Path
        The notebook.
    n_figures : int
        Pictures it must show.

    Returns
    -------
    list of str
        What is wrong: a cell that did not run, a missing picture, standard error, a secret, more text than a person reads.
    """
    content = Path(path).read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    problems = [f"{cell['id']} did not run" for cell in cells if cell["execution_count"] is None]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    if pictures != n_figures:
        problems.append(f"the saved notebook must show {n_figures} pictures, got {pictures}")
    streams = {"stdout": "", "stderr": ""}
    for output in outputs:
        if output["output_type"] == "stream":
            streams[output["name"]] += "".join(output["text"])
    # Processes that meet over the loopback interface cannot ask for its name without a network; torch warns, and goes on.
    errors = [line for line in streams["stderr"].splitlines() if line.strip() and not re.match(r"\[W.*\[c10d\]", line)]
    if errors:
        problems.append(f"standard error must be empty, got {errors[-1].strip()}")
    n_lines = streams["stdout"].count("\n") + streams["stdout"].count("\r")
    if n_lines > MOST_LINES:
        problems.append(f"the saved notebook must hold at most {MOST_LINES} lines of text, got {n_lines}")
    discretion = Discretion()
    discretion.add(_SECRET)
    if discretion.shows(content):
        problems.append("a secret of the session, or of this machine, was printed")
    return problems


def _require_packages():
    for name in ("nbclient", "nbformat", "ipykernel"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise InputNotFoundError(f"rehearse must have {name}: pip install nbclient nbformat ipykernel") from error


def _clear(folder):
    """Empty a folder of what an earlier rehearsal left, and nothing else."""
    mark = folder / ".rehearsal"
    if folder.is_dir() and any(folder.iterdir()) and not mark.is_file():
        raise InputValueError(f"folder must be empty, absent or an earlier rehearsal, got {folder}")
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    mark.touch()
    return folder


def _make_image(folder, without):
    """Link every package of this environment into a folder, except those that Kaggle's image lacks."""
    left_out = {"__pycache__"}
    for distribution in metadata.distributions():
        if distribution.name.lower().replace("_", "-") in without:
            left_out |= {file.parts[0] for file in distribution.files or ()}
    folder.mkdir()
    for packages in map(Path, site.getsitepackages()):
        for entry in packages.iterdir() if packages.is_dir() else ():
            # A .pth may lead to the kit's sources.
            if entry.name not in left_out and entry.suffix != ".pth" and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)


def _make_data(folder):
    """The competition as a session sees it, and as the hidden rerun does: with more test images."""
    from vesuvius_kit.phantom import write_competition

    for name, test in _TEST_CHUNKS.items():
        write_competition(folder / name, test=test, **_PHANTOM, **_PHANTOM_STYLES)


def _mount_inputs(folder, kaggle, layout, run_type, models):
    """Build the tree below ``/kaggle`` of one run."""
    names = {"competition": COMPETITION_SLUG, "bundle": BUNDLE_SLUG, "models": TRAIN_SLUG}
    if layout == "new":
        groups = {"competition": "competitions", "bundle": "datasets/someone", "models": "notebooks/someone"}
        names = {kind: f"{groups[kind]}/{name}" for kind, name in names.items()}
    (kaggle / "working").mkdir(parents=True)
    shutil.copytree(
        folder / "data" / ("hidden" if run_type == "rerun" else "visible"), kaggle / "input" / names["competition"]
    )
    bundle = shutil.copytree(folder / "bundle", kaggle / "input" / names["bundle"])
    if layout == "new":
        # Kaggle unpacks uploaded archives, and has called the folder by either name.
        for wheel in bundle.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(wheel.with_suffix(""))
            wheel.unlink()
    if models is not None:
        shutil.copytree(models, kaggle / "input" / names["models"])


def _environment(place, run_type, isolated, budget_seconds):
    """The variables of a session; nothing of this one's Python, Kaggle or secrets shows through."""
    hidden = ("KAGGLE", "VESUVIUS", "PYTHON", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(hidden) and not is_secret_name(name)
    }
    environment |= {
        "HOME": str(place / "home"),
        # The phantom needs no GPU, and one that is here would ask for the full-size settings.
        "CUDA_VISIBLE_DEVICES": "",
        "KAGGLE_KERNEL_RUN_TYPE": "Interactive" if run_type == "interactive" else "Batch",
        "KAGGLE_USER_SECRETS_TOKEN": _SECRET,
        "VESUVIUS_KIT_BUDGET": f"{budget_seconds:g}s",
    }
    if run_type == "batch":
        # Two processes, as with two GPUs; only the train notebook asks.
        environment[PROCESSES_VARIABLE] = "2"
    if run_type == "rerun":
        environment["KAGGLE_IS_COMPETITION_RERUN"] = "1"
    if not isolated:
        environment[INPUT_VARIABLE] = str(place / "kaggle" / "input")
    return environment


def _run(source, place, image, run_type, isolated, budget_seconds):
    """Execute a notebook in a fresh virtual environment; its wall time, and its error or ""."""
    for name in ("home", "root"):
        (place / name).mkdir()
    venv.create(place / "venv", symlinks=True, with_pip=False)
    python = place / "venv" / "bin" / "python"
    packages = next((place / "venv" / "lib").glob("python*/site-packages"))
    # Outside of the environment's own folder, so that pip can neither change nor remove what is linked.
    (packages / "image.pth").write_text(f"{image}\n", encoding="utf-8")
    environment = _environment(place, run_type, isolated, budget_seconds)
    if source.stem == "train":
        environment["VESUVIUS_KIT_SETTINGS"] = json.dumps(QUICK_SETTINGS | _SETTINGS)
    words = [python, "-P", execute.__file__, source, place / "saved.ipynb", str(budget_seconds)]
    if isolated:
        words = _isolated(place, words)
    started, limit = time.monotonic(), 2 * budget_seconds + _START_SECONDS
    try:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=place / "kaggle" / "working",
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return time.monotonic() - started, f"did not end within {limit:.0f} s"
    seconds = time.monotonic() - started
    failure = "" if done.returncode == 0 else (done.stderr.strip() or f"ended with code {done.returncode}")
    return seconds, Discretion().hide(failure)


def _isolated(place, words):
    return ["unshare", "-rmn", "sh", "-c", _ENTER, "sh", place / "root", place / "kaggle", *words]


def _can_isolate(folder):
    """Whether this user may have namespaces here: tried, not guessed."""
    place = folder / "isolation"
    for name in ("root", "kaggle/input", "kaggle/working"):
        (place / name).mkdir(parents=True)
    words = _isolated(place, [sys.executable, "-c", "import os; os.listdir('/kaggle/input')"])
    try:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, errors="replace", timeout=_START_SECONDS
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        logger.warning("there is no unshare here that works: the notebooks run with the network, and without /kaggle")
        return False
    if done.returncode:
        logger.warning("namespaces are not permitted here: %s", " ".join(done.stderr.split()))
    return done.returncode == 0
