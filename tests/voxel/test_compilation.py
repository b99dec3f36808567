"""Where compiled kernels are kept, and that nothing that happens to them is anybody's error (C4)."""

import json
import os
import shutil
import stat
from pathlib import Path

import numba
import pytest
from helpers.competitions import write_small_competition
from helpers.strangers import run_as_stranger

import vesuvius_kit
from vesuvius_kit.config import RunConfig, config_to_dict
from vesuvius_kit.inference.submission import validate_submission
from vesuvius_kit.models import create_model
from vesuvius_kit.models.checkpoint import save_checkpoint
from vesuvius_kit.voxel import compilation
from vesuvius_kit.voxel.compilation import compiled, is_compiled

PACKAGE = Path(vesuvius_kit.__file__).parent


def make_kernel():
    """The same kernel as a process would find that imports it anew."""
    return compiled(nogil=True)(_add)


def _add(a, b):
    return a + b


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    monkeypatch.setattr(compilation, "_said", set())
    return folder


def test_a_kernel_is_compiled_once_and_kept(cache):
    kernel = make_kernel()
    assert not is_compiled(kernel)
    assert kernel(2, 3) == 5
    assert is_compiled(kernel)
    again = make_kernel()
    assert is_compiled(again)
    assert again(2, 3) == 5
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("content", [b"", b"\0" * 500, None])
def test_a_damaged_or_unreadable_cache_is_no_error(cache, ending, content):
    make_kernel()(2, 3)
    for path in cache.rglob(f"*{ending}"):
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size // 2] if content is None else content)
    # The index alone is asked whether there is code.
    assert is_compiled(make_kernel()) == (ending == ".nbc")
    assert make_kernel()(2, 3) == 5


def test_code_of_another_numba_does_not_count(cache, monkeypatch):
    make_kernel()(2, 3)
    monkeypatch.setattr(numba, "__version__", "0.0")
    assert not is_compiled(make_kernel())


def test_a_full_disk_is_no_error(cache, monkeypatch, caplog):
    caplog.set_level("INFO", "vesuvius_kit")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.core.caching.FunctionCache, "save_overload", refuse)
    kernel = make_kernel()
    assert kernel(2, 3) == 5
    assert kernel(2.0, 3.0) == 5
    assert caplog.text.count("No space left on device") == 1


def refuse_places(monkeypatch, places):
    """Numba finds a place only in the given folders, as where everything else is read-only."""
    real = compilation.FunctionCache.__init__

    def look(self, function):
        if numba.config.CACHE_DIR not in places:
            raise RuntimeError("cannot cache function: no locator available")
        real(self, function)

    monkeypatch.setattr(compilation.FunctionCache, "__init__", look)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")


def test_without_another_place_a_private_temporary_folder_is_taken(cache, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "vesuvius_kit")
    private = tmp_path / f"vesuvius_kit_{os.getuid()}"
    refuse_places(monkeypatch, [str(private)])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):
        assert make_kernel()(2, 3) == 5
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert list(private.rglob("*.nbi"))
    assert os.environ["NUMBA_CACHE_DIR"] == str(private)
    assert caplog.text.count(f"compiled kernels are kept in {private}") == 1


@pytest.mark.parametrize("trap", ["open to others", "a link", "a file", "of another user", "no temporary folder"])
def test_without_any_safe_place_kernels_work_all_the_same(cache, tmp_path, monkeypatch, caplog, trap):
    """What lies in the folder is executed, so it must be this user's alone."""
    caplog.set_level("INFO", "vesuvius_kit")
    private = tmp_path / f"vesuvius_kit_{os.getuid()}"
    refuse_places(monkeypatch, [str(private)])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path if trap != "no temporary folder" else tmp_path / "nowhere"))
    if trap == "open to others":
        private.mkdir()
        private.chmod(0o777)
    elif trap == "a link":
        (tmp_path / "mine").mkdir(mode=0o700)
        private.symlink_to(tmp_path / "mine")
    elif trap == "a file":
        private.write_text("")
    elif trap == "of another user":
        owner = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: owner)
        (tmp_path / f"vesuvius_kit_{owner}").mkdir(mode=0o700)
    kernel = make_kernel()
    assert kernel(2, 3) == 5
    assert is_compiled(kernel)
    assert not is_compiled(make_kernel())
    assert "compiled kernels can be kept nowhere" in caplog.text


def test_every_kernel_of_the_kit_is_compiled_here():
    sources = [path for path in PACKAGE.rglob("*.py") if path.name != "compilation.py"]
    assert [path.name for path in sources if "njit" in path.read_text(encoding="utf-8")] == []


@pytest.mark.long
def test_a_read_only_installation_without_home_and_network_submits(tmp_path):
    """C4: a container run as another user: numba found no place for its cache, and audit accused good labels."""
    code, work, temporary = (tmp_path / name for name in ("code", "work", "tmp"))
    shutil.copytree(PACKAGE, code / "vesuvius_kit", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (work, temporary):
        folder.mkdir()
    data = write_small_competition(tmp_path / "input" / "data", train_shapes=((16, 16, 16),) * 2)
    config = config_to_dict(RunConfig())
    config["predict"]["window"] = [16, 16, 16]
    model = create_model("unet3d", initial_filters=2, depth=1)
    save_checkpoint(tmp_path / "input" / "run" / "fold_0" / "best", model, {"config": config})
    for place in (code, tmp_path / "input"):
        for path in [place, *place.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    # Above the test's folders pytest lets nobody else in; the stranger may read all the same.
    place = {"package": code, "temporary": temporary, "network": False, "cwd": work, "timeout": 300}
    work.chmod(0o777)
    before = sorted(code.rglob("*"))
    command = ["-m", "vesuvius_kit", "submit", "--data", data, "--checkpoints", tmp_path / "input" / "run"]
    command += ["--predict.precision", "fp32", "--predict.device", "cpu", "--output", work / "submission.zip"]
    done = run_as_stranger(command, **place)
    assert done.returncode == 0, done.stderr
    assert "2 predicted, 0 simple, valid" in done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.count("compiled kernels are kept in") == 1
    assert validate_submission(work / "submission.zip", data / "test_images") == 2
    assert sorted(code.rglob("*")) == before
    audited = run_as_stranger(["-m", "vesuvius_kit", "audit", "--data", data, "--json", work / "audit.json"], **place)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    assert json.loads((work / "audit.json").read_text())["errors"] == []
