"""A whole Kaggle session, here: the notebooks run as they would there, before anything is sent.

Each run gets a fresh virtual environment, a ``/kaggle`` tree with a phantom competition in the older or the newer layout,
Kaggle's environment variables and no network. The environment sees the packages of this one through a folder of links, without
those that Kaggle's image lacks. Network and ``/kaggle`` are those of an unprivileged Linux namespace; where that is not
permitted, the notebooks are told their folders by variables, the network stays, and `rehearse` says so.
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
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError, check_choice, check_folder
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.kaggle import execute
from vesuvius_kit.kaggle.bundle import build_bundle
from vesuvius_kit.kaggle.paths import BUNDLE_SLUG, COMPETITION_SLUG, INPUT_VARIABLE, MODELS_SLUG, find_competition
from vesuvius_kit.kaggle.redaction import Redaction, is_secret_name
from vesuvius_kit.kaggle.session import PROCESSES_VARIABLE, QUICK_SETTINGS, TRAIN_SLUG
from vesuvius_kit.kaggle.shipment import collect_models, collect_tuned

logger = logging.getLogger(__name__)

LAYOUTS = ("old", "new")
# Which notebook runs how, in this order: submit predicts with what train left. Both layouts together show every pair.
PLAN = {
    "old": (("train", "interactive"), ("explore", "batch"), ("submit", "batch"), ("submit", "rerun")),
    "new": (("train", "batch"), ("explore", "interactive"), ("submit", "interactive"), ("submit", "rerun")),
}
FIGURES: dict[str, tuple[str, ...]] = {
    "train": ("training.png", "held_out.png", "errors.png"),
    "submit": ("submission.png",),
}
FIGURES["explore"] = ("slices.png", "survey.png")
LARGEST_OUTPUT = 20e9  # bytes that /kaggle/working holds
MOST_LINES = 200  # of text that a saved notebook may hold

# Kaggle's image lacks them, beside what is in the bundle.
_NOT_IN_IMAGE = ("vesuvius-kit", "timm-3d", "jsonargparse", "imagecodecs", "connected-components-3d", "edt", "fill-voids",
                 "surface-distance", "monai", "nnunetv2", "zarr")  # fmt: skip
_PHANTOM: dict[str, Any] = {"train": 4, "shape": (64, 64, 64), "test_shape": (64, 80, 72)}
_PHANTOM |= {"train_styles": ("even", "dense", "wavy", "loose"), "test_styles": ("dense", "faint")}
_TEST_CHUNKS = {"visible": 1, "hidden": 2}
_SETTINGS: dict[str, Any] = {"patches.size": [32, 32, 32], "predict.window": [48, 48, 48]}
_SETTINGS |= {"train.num_epochs": 2, "train.steps_per_epoch": 4, "train.score_every_epochs": 2}
_SETTINGS |= {"model.options": {"initial_filters": 8, "depth": 1}}
_RUNNERS = ("nbclient", "nbformat", "ipykernel")  # what executes a notebook
_START_SECONDS = 120.0  # of an interpreter, a kernel and their end, on a slow machine
_SECRET = "rehearsed-secret-that-nothing-may-print"


@dataclass(frozen=True)
class Run:
    """One notebook, rehearsed: what ran, how, how long, the bytes it left, what is wrong, itself with its outputs."""

    notebook: str
    layout: str
    run_type: str
    seconds: float
    size: int
    problems: list[str]
    saved: Path


@dataclass(frozen=True)
class Rehearsal:
    """The runs, in their order, and whether the notebooks had no network and a ``/kaggle`` of their own."""

    runs: list[Run]
    isolated: bool

    @property
    def ok(self) -> bool:
        """Whether no run has a problem."""
        return not any(run.problems for run in self.runs)

    def to_text(self) -> str:
        """Return the table, and below it what is wrong."""
        refused = "THE NETWORK WAS THERE: namespaces are not permitted"
        lines = ["no network, /kaggle of its own" if self.isolated else refused]
        lines.append(f"{'notebook':<10}{'layout':<8}{'run type':<13}{'seconds':>8}{'left MB':>9}  verdict")
        for run in self.runs:
            row = f"{run.notebook:<10}{run.layout:<8}{run.run_type:<13}{run.seconds:>8.1f}{run.size / 1e6:>9.1f}"
            lines.append(f"{row}  {'FAILED' if run.problems else 'ok'}")
        for run in self.runs:
            lines += [f"{run.notebook}, {run.layout}, {run.run_type}: {problem}" for problem in run.problems]
        return "\n".join(lines)


def rehearse(
    folder: Path | str,
    *,
    notebooks: Path | str = "notebooks",
    layout: str = "both",
    checkout: Path | str | None = None,
    checkpoints: Sequence[Path | str] = (),
    tuned: Path | str | None = None,
    budget_seconds: float = 600,
    progress: Progress = no_progress,
) -> Rehearsal:
    """Run the notebooks as Kaggle would, with inputs mounted in one ``layout`` or both, and check what they leave.

    Everything is built in ``folder``, which an earlier rehearsal may fill and nothing else. ``checkout`` is as for the bundle;
    ``budget_seconds`` is what each run may take, and the submit notebook is told it. With ``checkpoints``, of the kit or of
    nnU-Net, the submit notebook gets these, as `push` would send them, instead of what the train notebook left, and the
    settings of ``tuned``, a tuning's folder.
    """
    if tuned is not None and not checkpoints:
        raise InputValueError(f"tuned settings must go with checkpoints, got {tuned} alone")
    check_choice("layout", layout, (*LAYOUTS, "both"))
    sources = {name: check_folder("notebooks", notebooks).absolute() / f"{name}.ipynb" for name in FIGURES}
    for source in sources.values():
        if not source.is_file():
            raise InputNotFoundError(f"notebooks must hold {source.name}, got none in {notebooks}")
    if missing := [name for name in _RUNNERS if find_spec(name) is None]:
        raise InputNotFoundError(f"rehearse must have {missing[0]}: pip install {' '.join(_RUNNERS)}")
    folder = _clear(Path(folder).absolute())
    weights = _copy_weights(checkpoints, folder, tuned) if checkpoints else None
    manifest = build_bundle(folder / "bundle", checkout=checkout)
    _make_image(folder / "image", {*_NOT_IN_IMAGE, *(file.package for file in manifest.files if file.package)})
    _make_data(folder / "data")
    isolated = _can_isolate(folder)
    plan = [(name, *pair) for name in LAYOUTS if layout in (name, "both") for pair in PLAN[name]]
    runs = []
    for name, notebook, run_type in progress(plan, total=len(plan), desc="rehearsal"):
        place = folder / f"{name}_{notebook}_{run_type}"
        trained = next(f"{name}_train_{kind}" for other, kind in PLAN[name] if other == "train")
        is_submit = notebook == "submit"
        models = folder / trained / "kaggle" / "working" if is_submit and weights is None else None
        _mount_inputs(folder, place / "kaggle", name, run_type, models, weights if is_submit else None)
        seconds, failure = _run(sources[notebook], place, run_type, isolated, budget_seconds)
        problems = [failure] if failure else check_run(place, notebook)
        if seconds > budget_seconds:
            problems.append(f"took {seconds:.0f} s of {budget_seconds:.0f} s")
        size = sum(path.stat().st_size for path in (place / "kaggle" / "working").rglob("*") if path.is_file())
        if size > LARGEST_OUTPUT:
            problems.append(f"left {size / 1e9:.1f} GB, more than {LARGEST_OUTPUT / 1e9:.0f}")
        runs.append(Run(notebook, name, run_type, seconds, size, problems, place / "saved.ipynb"))
    return Rehearsal(runs, isolated)


def check_run(place: Path | str, notebook: str) -> list[str]:
    """Say what is wrong with what a notebook left in ``kaggle/`` of a place, and with its ``saved.ipynb`` there."""
    from vesuvius_kit.inference.submission import validate_submission
    from vesuvius_kit.io.record import read_records
    from vesuvius_kit.models.checkpoint import find_checkpoints, load_model

    place = Path(place)
    working = place / "kaggle" / "working"
    problems = [f"{name} is missing" for name in FIGURES[notebook] if not (working / name).is_file()]
    try:
        if notebook == "train":
            if not (working / "report.html").is_file():
                problems.append("report.html is missing")
            for checkpoint in find_checkpoints([working / "checkpoints"]):
                load_model(checkpoint)
            if not read_records(working / "checkpoints" / "fold_0", strict=True):
                problems.append("the training's log is empty")
        if notebook == "submit":
            data = find_competition(roots=[place / "kaggle" / "input"])
            validate_submission(working / "submission.zip", data / "test_images")
    except InputError as error:
        problems.append(str(error))
    return problems + check_saved(place / "saved.ipynb", len(FIGURES[notebook]))


def check_saved(path: Path | str, n_figures: int) -> list[str]:
    """Say what is wrong with a saved notebook: a cell that did not run, a missing picture, errors, a secret, too much text."""
    content = Path(path).read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    problems = [f"{cell['id']} did not run" for cell in cells if cell["execution_count"] is None]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    if pictures != n_figures:
        problems.append(f"the saved notebook must show {n_figures} pictures, got {pictures}")
    printed = [("".join(output["text"]), output["name"]) for output in outputs if output["output_type"] == "stream"]
    stdout, stderr = ("".join(text for text, stream in printed if stream == name) for name in ("stdout", "stderr"))
    # Processes that meet over the loopback interface cannot ask for its name without a network; torch warns, and goes on.
    errors = [line for line in stderr.splitlines() if line.strip() and not re.match(r"\[W.*\[c10d\]", line)]
    if errors:
        problems.append(f"standard error must be empty, got {errors[-1].strip()}")
    n_lines = stdout.count("\n") + stdout.count("\r")
    if n_lines > MOST_LINES:
        problems.append(f"the saved notebook must hold at most {MOST_LINES} lines of text, got {n_lines}")
    redaction = Redaction()
    redaction.add(_SECRET)
    if redaction.shows(content):
        problems.append("a secret of the session, or of this machine, was printed")
    return problems


def _clear(folder: Path) -> Path:
    """Empty a folder of what an earlier rehearsal left, and nothing else."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ".rehearsal").is_file():
        raise InputValueError(f"folder must be empty, absent or an earlier rehearsal, got {folder}")
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / ".rehearsal").touch()
    return folder


def _make_image(folder: Path, without: Collection[str]) -> None:
    """Link every package of this environment into a folder, except those that Kaggle's image lacks."""
    lacking = [each for each in metadata.distributions() if each.name.lower().replace("_", "-") in without]
    left_out = {"__pycache__", *(file.parts[0] for each in lacking for file in each.files or ())}
    folder.mkdir()
    for entry in (entry for packages in site.getsitepackages() for entry in Path(packages).glob("*")):
        # A .pth may lead to the kit's sources.
        if entry.name not in left_out and entry.suffix != ".pth" and not (folder / entry.name).exists():
            (folder / entry.name).symlink_to(entry)


def _make_data(folder: Path) -> None:
    """The competition as a session sees it, and as the hidden rerun does: with more test images."""
    from vesuvius_kit.phantom import write_competition

    for name, test in _TEST_CHUNKS.items():
        write_competition(folder / name, test=test, **_PHANTOM)


def _copy_weights(checkpoints: Sequence[Path | str], folder: Path, tuned: Path | str | None = None) -> Path:
    """The data set of weights that a push would send."""
    weights = folder / "weights"
    settings = {} if tuned is None else collect_tuned(tuned, checkpoints, folder / "tuned")
    for name, path in (collect_models(checkpoints, folder) | settings).items():
        (weights / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, weights / name)
    return weights


def _mount_inputs(
    folder: Path, kaggle: Path, layout: str, run_type: str, models: Path | None, weights: Path | None = None
) -> None:
    """Build the tree below ``/kaggle`` of one run; ``models`` is the output of a training, ``weights`` a data set of them."""
    groups = ("competitions", "datasets/someone", "notebooks/someone") if layout == "new" else ("", "", "")
    competition, dataset, notebook = (kaggle / "input" / group for group in groups)
    (kaggle / "working").mkdir(parents=True)
    seen = "hidden" if run_type == "rerun" else "visible"
    shutil.copytree(folder / "data" / seen, competition / COMPETITION_SLUG)
    bundle = shutil.copytree(folder / "bundle", dataset / BUNDLE_SLUG)
    if layout == "new":
        # Kaggle unpacks uploaded archives, and has called the folder by either name.
        for wheel in bundle.glob("*.whl"):
            shutil.unpack_archive(wheel, wheel.with_suffix(""), "zip")
            wheel.unlink()
    if models is not None:
        shutil.copytree(models, notebook / TRAIN_SLUG)
    if weights is not None:
        shutil.copytree(weights, dataset / MODELS_SLUG)


def _environment(place: Path, run_type: str, isolated: bool, budget_seconds: float) -> dict[str, str]:
    """The variables of a session; nothing of this one's Python, Kaggle or secrets shows through."""
    hidden = ("KAGGLE", "VESUVIUS", "PYTHON", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES")
    shown = {name for name in os.environ if not name.startswith(hidden) and not is_secret_name(name)}
    environment = {name: os.environ[name] for name in shown} | {
        "HOME": str(place / "home"),
        # The phantom needs no GPU, and one that is here would ask for the full-size settings.
        "CUDA_VISIBLE_DEVICES": "",
        "KAGGLE_KERNEL_RUN_TYPE": "Interactive" if run_type == "interactive" else "Batch",
        "KAGGLE_USER_SECRETS_TOKEN": _SECRET,
        "VESUVIUS_KIT_BUDGET": f"{budget_seconds:g}s",
    }
    # Two processes, as with two GPUs; only the train notebook asks.
    environment |= {PROCESSES_VARIABLE: "2"} if run_type == "batch" else {}
    environment |= {"KAGGLE_IS_COMPETITION_RERUN": "1"} if run_type == "rerun" else {}
    return environment | ({} if isolated else {INPUT_VARIABLE: str(place / "kaggle" / "input")})


def _run(source: Path, place: Path, run_type: str, isolated: bool, budget_seconds: float) -> tuple[float, str]:
    """Execute a notebook in a fresh virtual environment; its wall time, and its error or ""."""
    for name in ("home", "root"):
        (place / name).mkdir()
    venv.create(place / "venv", symlinks=True, with_pip=False)
    packages = next((place / "venv" / "lib").glob("python*/site-packages"))
    # Outside of the environment's own folder, so that pip can neither change nor remove what is linked.
    (packages / "image.pth").write_text(f"{place.parent / 'image'}\n", encoding="utf-8")
    environment = _environment(place, run_type, isolated, budget_seconds)
    if source.stem == "train":
        environment["VESUVIUS_KIT_SETTINGS"] = json.dumps(QUICK_SETTINGS | _SETTINGS)
    words = [
        place / "venv" / "bin" / "python",
        "-P",
        execute.__file__,
        source,
        place / "saved.ipynb",
        str(budget_seconds),
    ]
    limit, started = 2 * budget_seconds + _START_SECONDS, time.monotonic()
    try:
        done = _call(place, words, isolated, timeout=limit, cwd=place / "kaggle" / "working", env=environment)
    except subprocess.TimeoutExpired:
        return time.monotonic() - started, f"did not end within {limit:.0f} s"
    seconds = time.monotonic() - started
    failure = "" if done.returncode == 0 else (done.stderr.strip() or f"ended with code {done.returncode}")
    return seconds, Redaction().hide(failure)


def _call(place: Path, words: list[Any], isolated: bool, **options: Any) -> subprocess.CompletedProcess[str]:
    if isolated:
        words = [
            "unshare",
            "-rmn",
            "sh",
            Path(__file__).with_name("enter.sh"),
            place / "root",
            place / "kaggle",
            *words,
        ]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, errors="replace", **options)


def _can_isolate(folder: Path) -> bool:
    """Whether this user may have namespaces here: tried, not guessed."""
    place = folder / "isolation"
    for name in ("root", "kaggle/input", "kaggle/working"):
        (place / name).mkdir(parents=True)
    words = [sys.executable, "-c", "import os; os.listdir('/kaggle/input')"]
    try:
        done = _call(place, words, True, timeout=_START_SECONDS)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        logger.warning("there is no unshare here that works: the notebooks run with the network, and without /kaggle")
        return False
    if done.returncode:
        logger.warning("namespaces are not permitted here: %s", " ".join(done.stderr.split()))
    return done.returncode == 0
