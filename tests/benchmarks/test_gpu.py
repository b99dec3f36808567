"""What surrounds the measurements on a GPU: the folder of wheels, the record and its table, the contestants' common ground."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vesuvius_kit.inference.grid import window_starts
from vesuvius_kit.kaggle.wheels import Wheel

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules; they import each other by name, as they do when one is run."""
    sys.path.insert(0, str(BENCHMARKS))
    before = set(sys.modules)
    try:
        import gpu
        import gpu_setup
        import gpu_wheels
        import inference
        import peers

        yield SimpleNamespace(gpu=gpu, setup=gpu_setup, wheels=gpu_wheels, inference=inference, peers=peers)
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
                del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "serves"),
    [
        ("six-1.17.0-py2.py3-none-any.whl", True),
        ("safetensors-0.8.0-cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("pyyaml-6.0.4-cp312-cp312-manylinux2014_x86_64.whl", True),
        ("pyyaml-6.0.4-cp311-cp311-manylinux2014_x86_64.whl", False),
        ("later-1.0-cp313-abi3-manylinux2014_x86_64.whl", False),
        ("newer_system-1.0-cp312-cp312-manylinux_2_39_x86_64.whl", False),
        ("other-1.0-cp312-cp312-macosx_11_0_arm64.whl", False),
        ("other-1.0-cp312-cp312-manylinux2014_aarch64.whl", False),
    ],
)
def test_a_wheel_must_be_for_that_python_and_system(scripts, name, serves):
    assert scripts.wheels.is_for(name, "3.12") == serves


def wheel_of(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/data.bin", content)
    return Wheel(path, path.name.partition("-")[0], "1.0", (), None, (), "")


def test_a_part_is_packed_again_where_that_makes_it_fit_and_left_out_where_not(scripts, tmp_path):
    # LZMA finds what repeats over a longer stretch than deflate's 32 KiB.
    content = np.random.default_rng(0).bytes(600_000) * 3
    added = [wheel_of(tmp_path / "added-1.0-py3-none-any.whl", content)]
    before = added[0].path.stat().st_size
    scripts.wheels.make_fit(added, [], 1_500_000)
    assert added[0].path.stat().st_size < before / 2
    with zipfile.ZipFile(added[0].path) as archive:
        assert archive.read("package/data.bin") == content
    with pytest.raises(scripts.wheels.UnavailableError, match=r"do not fit beside the 0 MB .* into 0 MB"):
        scripts.wheels.make_fit(added, [], 100_000)


def test_what_pytorch_brings_is_not_carried(scripts):
    given = scripts.wheels.list_given(scripts.wheels.environment_of("3.12"))
    assert {"torch", "numpy", "llvmlite", "pillow", "filelock"} <= given
    assert not given & {"timm", "monai", "nnunetv2", "safetensors"}


def run_setup(*words):
    command = [sys.executable, str(BENCHMARKS / "gpu_setup.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_cannot_be_tried_is_said_in_one_line(tmp_path):
    done = run_setup("--wheels", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("make gpu: there is no folder of wheels at ")
    (tmp_path / "list.json").write_text(json.dumps({"python_version": "2.7", "given": []}))
    done = run_setup("--wheels", tmp_path)
    assert done.returncode == 2
    assert "are for Python 2.7, and this is 3." in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_so(tmp_path):
    python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "list.json").write_text(json.dumps({"python_version": python_version, "given": ["torch"]}))
    done = run_setup("--wheels", tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "make gpu: there is no GPU that PyTorch sees; GPU_STAND_IN=cpu tries everything on the CPU\n"
    )


def record_of(**changes):
    row = {"case": "kit", "network": "unet3d", "precision": "fp16", "batch": 4, "seconds": 0.5}
    row |= {"over_forward": 0.05, "memory_gib": 2.0, "flop_per_second": 16.25e12}
    section = {"seconds": 12.0, "error": None, "rows": [row]}
    tests = {"passed": 3, "failed": 0, "skipped": 1, "failures": [], "skips": [], "error": None, "seconds": 9.0}
    machine = {"gpu": "Tesla T4", "memory_gib": 14.7, "cores": 4, "python": "3.12.3", "versions": {"torch": "2.10"}}
    record = {"machine": machine, "seconds": 99.0, "tests": tests, "sections": {"inference unet3d": section}}
    return {**record, "left_out": [], **changes}


def test_the_table_holds_every_row(scripts):
    table = scripts.gpu.to_table(record_of())
    assert "| inference unet3d | kit | fp16 | 4 | 500 ms | +5 % | 2.00 |  |" in table.splitlines()
    assert "3 passed, 0 failed, 1 skipped" in table
    assert not scripts.gpu.has_failed(record_of())


def test_what_failed_is_named_and_fails_the_call(scripts):
    failed = {"layouts unet3d": {"seconds": 3.0, "error": "RuntimeError: no compiler | here", "rows": []}}
    record = record_of(sections=failed, left_out=["submission"])
    table = scripts.gpu.to_table(record)
    assert "| layouts unet3d | **failed** |  |  | 3 s |  |  | RuntimeError: no compiler / here |" in table.splitlines()
    assert "| submission | left out |  |  |  |  |  | no time was left |" in table.splitlines()
    assert scripts.gpu.has_failed(record)
    tests = record_of()["tests"]
    assert scripts.gpu.has_failed(record_of(tests={**tests, "failed": 1, "failures": ["test_x: no"]}))
    assert scripts.gpu.has_failed(record_of(tests={**tests, "error": "not done within 150 s"}))


def test_the_estimate_takes_the_share_that_a_gpu_reached(scripts, tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(record_of()))
    share, over, gpu = scripts.inference.read_reached(path, "unet3d")
    assert (share, over, gpu) == (pytest.approx(0.25), pytest.approx(1.05), "Tesla T4")
    assert scripts.inference.read_reached(path, "resenc_unet") is None


@pytest.mark.parametrize(
    ("length", "window", "overlap"), [(320, 96, 0.5), (320, 128, 0.5), (61, 16, 0.25), (100, 20, 0.8)]
)
def test_bare_forward_passes_are_those_of_the_kits_windows(scripts, length, window, overlap):
    task = scripts.peers.Task(window=window, overlap=overlap)
    starts = window_starts(length, window, overlap)
    assert scripts.peers.corners_of((length, window, window), task) == [(start, 0, 0) for start in starts]


def test_all_contestants_predict_the_same_of_a_network_that_does_nothing(scripts):
    pytest.importorskip("monai")
    pytest.importorskip("nnunetv2")
    volume = np.random.default_rng(0).integers(0, 8, (40, 40, 40), dtype=np.uint8)
    expected = 1 / (1 + np.exp(-volume.astype(np.float64)))
    task = scripts.peers.Task(window=16)
    for name, predict in scripts.peers.CONTESTANTS.items():
        predicted = predict(scripts.peers.Identity(), volume, task)
        assert predicted.dtype == np.float32
        # nnU-Net's sums are of half precision.
        np.testing.assert_allclose(predicted, expected, atol=5e-3 if name == "nnU-Net" else 1e-5, err_msg=name)
        assert scripts.peers.count_windows(name, scripts.peers.Identity(), volume, task) == 64


def test_operations_are_counted_without_computing(scripts):
    with torch.device("meta"):
        network = torch.nn.Conv3d(1, 2, 3, padding=1, bias=False)
    assert scripts.peers.count_flops(network, scripts.peers.Task(window=8)) == 2 * 27 * 2 * 8**3
