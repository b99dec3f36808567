"""The offline bundle: what goes in, what is refused, the same bytes again, damage, the installer before the kit is there."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.cli import main
from vesuvius_kit.constants import SURFACE
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.kaggle import bundle, install, wheels
from vesuvius_kit.kaggle.bundle import build_bundle, read_manifest, verify_bundle
from vesuvius_kit.kaggle.paths import find_bundle

CHECKOUT = Path(__file__).parents[2]
EXPECTED = ["docstring-parser", "jsonargparse", "lazy-loader", "six", "timm-3d", "vesuvius-kit"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the kit's sources, so that edits made while the tests run change nothing here."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_checkout(CHECKOUT, folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, checkout):
    folder = tmp_path_factory.mktemp("built") / "bundle"
    build_bundle(folder, checkout=checkout)
    return folder


@pytest.fixture
def copy(built, tmp_path):
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "bundle"))


def copy_checkout(source, target):
    shutil.copytree(source / "vesuvius_kit", target / "vesuvius_kit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "requirements.txt", "README.md", "LICENSE"):
        shutil.copyfile(source / name, target / name)


def make_wheel(folder, name="thing", version="1.0", *, requires=(), tag="py3-none-any", python=">=3.8", files=None):
    """A small wheel with one module."""
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    headers = [f"Name: {name}", f"Version: {version}", f"Requires-Python: {python}"]
    headers += [f"Requires-Dist: {requirement}" for requirement in requires]
    content = files or {f"{package}.py": "answer = 42\n"}
    content[f"{info}/METADATA"] = "Metadata-Version: 2.1\n" + "\n".join(headers) + "\n"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    quoted = {path: f'"{path}"' if "," in path else path for path in content}
    rows = [f"{quoted[path]},{install.record_hash(text.encode())},{len(text)}" for path, text in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    path = Path(folder) / f"{package}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in content.items():
            archive.writestr(entry, text)
    return path


def make_bundle(folder, *wheel_files, imports):
    """A bundle of given wheels, without the checks of building one."""
    folder.mkdir(exist_ok=True)
    entries = []
    for path in wheel_files:
        described = wheels.read_wheel(path)
        entries.append(vars(bundle._file(path, described.name, described.version, described.record_sha256)))
        shutil.copy(path, folder)
    shutil.copyfile(install.__file__, folder / "install.py")
    entries.append(vars(bundle._file(folder / "install.py", None, None, None)))
    content = {"kind": "vesuvius-kit-bundle", "kit_version": "1.0", "files": entries, "imports": imports, "digest": ""}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def unpack(folder, pattern, keep_ending):
    """What Kaggle makes of an archive: a folder in its place."""
    (path,) = folder.glob(pattern)
    content = path.read_bytes()
    path.unlink()
    target = path if keep_ending else path.with_suffix("")
    (folder / "archive").write_bytes(content)
    with zipfile.ZipFile(folder / "archive") as archive:
        archive.extractall(target)
    (folder / "archive").unlink()
    return target


# -- what goes in --------------------------------------------------------------------------------------------------------


def test_the_bundle_holds_the_kit_and_what_the_image_lacks(built):
    manifest = read_manifest(built)
    assert sorted(file.package for file in manifest.files if file.package) == EXPECTED
    assert sorted(path.name for path in built.iterdir()) == sorted(
        [*(file.name for file in manifest.files), "manifest.json"]
    )
    assert all(file.name.endswith("-none-any.whl") for file in manifest.files if file.package)
    assert manifest.size == sum((built / file.name).stat().st_size for file in manifest.files) < 5e6
    assert verify_bundle(built) == []
    assert find_bundle(roots=[built.parent]) == built


def test_the_kits_wheel_holds_every_module_and_configuration(built, checkout):
    (kit,) = built.glob("vesuvius_kit-*.whl")
    with zipfile.ZipFile(kit) as archive:
        packed = {name for name in archive.namelist() if name.startswith("vesuvius_kit/")}
        for name in packed:
            assert archive.read(name) == (checkout / name).read_bytes()
    sources = {path for path in (checkout / "vesuvius_kit").rglob("*") if path.is_file()}
    assert packed == {path.relative_to(checkout).as_posix() for path in sources}


def test_every_requirement_is_met_by_the_image_or_by_the_bundle(built):
    # Read from the requirements file and the finished wheels: a second way to the same answer.
    versions = {file.package: file.version for file in read_manifest(built).files if file.package}
    asked = [line for line in (CHECKOUT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    for path in built.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            (name,) = (entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
            lines = archive.read(name).decode().split("\n\n")[0].splitlines()
        asked += [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    assert len(asked) > 25
    for requirement in map(Requirement, asked):
        if requirement.marker is None or requirement.marker.evaluate({"extra": "", "python_version": "3.12"}):
            name = re.sub(r"[-_.]+", "-", requirement.name.lower())
            assert name in {**bundle.IMAGE, **versions}, f"{requirement} is met by nothing"
            known = versions.get(name) or bundle.IMAGE[name]
            assert known is None or requirement.specifier.contains(known), f"{requirement}, but {known} is there"


@pytest.mark.long  # packing its 45 MB takes a while
def test_imagecodecs_comes_only_when_asked_for(tmp_path, checkout):
    manifest = build_bundle(tmp_path / "bundle", checkout=checkout, with_imagecodecs=True)
    assert sorted(file.package for file in manifest.files if file.package) == sorted([*EXPECTED, "imagecodecs"])
    (compiled,) = (file for file in manifest.files if file.package == "imagecodecs")
    assert re.search(r"-cp3(8|9|10|11|12)-abi3-manylinux.*_x86_64\.whl", compiled.name)
    assert manifest.imports["imagecodecs"] == ["numpy"]
    assert verify_bundle(tmp_path / "bundle") == []
    assert manifest.size < 60e6
    build_bundle(tmp_path / "bundle", checkout=checkout)
    assert list((tmp_path / "bundle").glob("imagecodecs*")) == []


def collect(monkeypatch, tmp_path, available, **kit):
    """The wheels collected for a kit, from a table of made-up packages."""
    store = tmp_path / "store"
    store.mkdir()
    made = {name: make_wheel(store, name, **options) for name, options in available.items()}
    monkeypatch.setattr(wheels, "obtain_wheel", lambda requirement, folder: made[requirement.name])
    found = bundle._collect(wheels.read_wheel(make_wheel(tmp_path, "vesuvius-kit", **kit)), tmp_path, False)
    return [wheel.name for wheel in found]


def test_requirements_are_followed_transitively_and_the_images_are_not_carried(monkeypatch, tmp_path):
    available = {"one": {"requires": ["two>=1", "PyYAML", "numpy>=1.20"]}, "two": {"requires": ["one", "scikit_image"]}}
    assert collect(monkeypatch, tmp_path, available, requires=["one", "torch>=2.4"]) == ["one", "two", "vesuvius-kit"]


def test_markers_decide_for_kaggles_pythons_and_extras_are_not_asked_for(monkeypatch, tmp_path):
    requires = [
        "old; python_version < '3.12'",
        "windows; sys_platform == 'win32'",
        "fast; extra == 'fast'",
        "new; python_version >= '3.13'",
    ]
    assert collect(monkeypatch, tmp_path, {"new": {}}, requires=requires) == ["new", "vesuvius-kit"]


@pytest.mark.parametrize(
    ("available", "requires", "words"),
    [
        ({}, ["scipy>=99"], "vesuvius-kit must work with scipy 1.16 on Kaggle, but asks for scipy>=99"),
        ({"one": {"requires": ["numpy>=2.3"]}}, ["one"], "one must work with numpy 2.0 on Kaggle"),
        ({"torchaudio": {}}, ["torchaudio"], "would replace the image's own torchaudio"),
        ({"opencv-python": {}}, ["opencv-python"], "would replace the image's own opencv-python"),
        (
            {"one": {"requires": ["nvidia-nccl-cu13"]}, "nvidia-nccl-cu13": {}},
            ["one"],
            "asked for by one: nvidia_nccl_cu13-1.0-py3-none-any.whl would replace",
        ),
        ({"edt": {"tag": "cp312-cp312-manylinux_2_28_x86_64"}}, ["edt"], "is not pure Python"),
        ({"one": {"python": "<3.13"}}, ["one"], "must be for Python 3.13, asks for <3.13"),
        ({"one": {"requires": ["two>=2"]}, "two": {}}, ["two", "one"], "one must work with two 1.0 on Kaggle"),
    ],
)
def test_what_must_not_travel_or_cannot_work_is_refused(monkeypatch, tmp_path, available, requires, words):
    with pytest.raises(InputValueError, match=re.escape(words)) as caught:
        collect(monkeypatch, tmp_path, available, requires=requires)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("thing-1.0-py3-none-any.whl", None),
        ("six-1.17.0-py2.py3-none-any.whl", None),
        ("imagecodecs-2026.3.6-cp311-abi3-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", None),
        ("imagecodecs-2026.3.6-cp311-abi3-macosx_11_0_arm64.whl", "does not run on Linux"),
        ("imagecodecs-2026.3.6-cp311-abi3-manylinux_2_28_aarch64.whl", "does not run on Linux"),
        ("imagecodecs-2026.3.6-cp312-cp312-manylinux_2_28_x86_64.whl", "an abi3 wheel is needed"),
        ("imagecodecs-2027.1.1-cp313-abi3-manylinux_2_28_x86_64.whl", "an abi3 wheel is needed"),
        ("thing-1.0-py2-none-any.whl", "is not for every Python 3"),
        ("thing-1.0-py3-none-manylinux_2_28_x86_64.whl", "is not pure Python"),
        ("torch-2.10.0-cp312-cp312-manylinux_2_28_x86_64.whl", "would replace"),
        ("torchvision-0.25.0-py3-none-any.whl", "would replace"),
        ("numpy-2.3.0-py3-none-any.whl", "would replace"),
        ("scipy-1.17.0-cp312-cp312-manylinux_2_28_x86_64.whl", "would replace"),
        ("numba-0.62.0-py3-none-any.whl", "would replace"),
        ("opencv_python_headless-4.13-cp37-abi3-manylinux_2_28_x86_64.whl", "would replace"),
        ("nvidia_cublas-13.0-py3-none-manylinux_2_28_x86_64.whl", "would replace"),
    ],
)
def test_which_wheels_may_travel(name, reason):
    said = wheels.refusal(name)
    assert said is None if reason is None else reason in said


@pytest.mark.parametrize(
    ("options", "version", "accepted"),
    [
        ({}, "3.12", True),
        ({"tag": "cp311-abi3-manylinux_2_28_x86_64"}, "3.13", True),
        ({"tag": "cp313-cp313-manylinux_2_28_x86_64"}, "3.12", False),
    ],
)
def test_pip_decides_for_another_python(tmp_path, options, version, accepted):
    wheel = make_wheel(tmp_path, **options)
    if accepted:
        wheels.check_resolution([wheel], version)
    else:
        with pytest.raises(InputValueError, match=f"trying the bundle for Python {version} failed: ERROR"):
            wheels.check_resolution([wheel], version)


# -- the same bytes again ------------------------------------------------------------------------------------------------


def test_the_same_sources_elsewhere_and_later_give_the_same_bundle(built, checkout, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy_checkout(checkout, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (2e9, 2e9))
        path.chmod(0o775 if path.is_dir() else 0o755)
    # What builds and runs leave behind must not get in.
    for name in ("build/lib/vesuvius_kit/stale.py", "vesuvius_kit/__pycache__/x.cpython-312.pyc"):
        (tmp_path / "elsewhere" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "elsewhere" / name).write_text("x = 1")
    again = build_bundle(tmp_path / "bundle", checkout=tmp_path / "elsewhere")
    assert again == read_manifest(built)
    for path in built.iterdir():
        assert path.read_bytes() == (tmp_path / "bundle" / path.name).read_bytes()
    assert not (tmp_path / "elsewhere" / "vesuvius_kit.egg-info").exists()


def test_a_changed_source_changes_the_kits_wheel_and_the_digest_only(built, checkout, tmp_path):
    (tmp_path / "changed").mkdir()
    copy_checkout(checkout, tmp_path / "changed")
    with open(tmp_path / "changed" / "vesuvius_kit" / "inference" / "grid.py", "a") as stream:
        stream.write("# one more line\n")
    before, after = read_manifest(built), build_bundle(tmp_path / "bundle", checkout=tmp_path / "changed")
    assert before.digest != after.digest
    changed = [new.package for old, new in zip(before.files, after.files, strict=True) if old.sha256 != new.sha256]
    assert changed == ["vesuvius-kit"]


def test_an_earlier_bundle_is_brought_up_to_date_and_other_files_stay(copy, checkout):
    before = read_manifest(copy)
    (copy / "dataset-metadata.json").write_text("{}")
    content = json.loads((copy / "manifest.json").read_text())
    content["files"].append({**content["files"][0], "name": "gone-1.0-py3-none-any.whl"})
    (copy / "manifest.json").write_text(json.dumps(content))
    (copy / "gone-1.0-py3-none-any.whl").write_text("of an earlier bundle")
    assert build_bundle(copy, checkout=checkout) == before
    assert not (copy / "gone-1.0-py3-none-any.whl").exists()
    assert (copy / "dataset-metadata.json").exists()
    assert verify_bundle(copy) == []
    assert [path.name for path in copy.iterdir() if path.name.startswith(".")] == []


def test_a_folder_with_other_things_is_left_alone(tmp_path, checkout):
    (tmp_path / "thesis.doc").write_text("ten years")
    with pytest.raises(InputValueError, match=r"must be an earlier bundle, empty or absent, got thesis\.doc"):
        build_bundle(tmp_path, checkout=checkout)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


@pytest.mark.parametrize("survived", [0, 1, 3])
def test_a_build_that_is_stopped_half_way_is_mended_by_the_next(built, tmp_path, monkeypatch, survived):
    real, moved = os.replace, []

    def stop_half_way(source, target):
        if len(moved) == survived:
            raise KeyboardInterrupt
        moved.append(target)
        real(source, target)

    def take_what_is_built(_kit, scratch, _with_imagecodecs):
        return [wheels.read_wheel(shutil.copy(path, scratch)) for path in sorted(built.glob("*.whl"))]

    # The wheels are at hand: what is tried here is the order in which they appear.
    monkeypatch.setattr(wheels, "build_kit_wheel", lambda _checkout, _scratch: next(built.glob("vesuvius_kit-*")))
    monkeypatch.setattr(bundle, "_collect", take_what_is_built)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop_half_way)
        with pytest.raises(KeyboardInterrupt):
            build_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / ".building-left" / "over").mkdir(parents=True)
    if survived:
        assert verify_bundle(tmp_path / "bundle") != []
    assert build_bundle(tmp_path / "bundle") == read_manifest(built)
    assert verify_bundle(tmp_path / "bundle") == []
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == sorted(
        path.name for path in built.iterdir()
    )


def test_what_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"checkout must be a folder of the kit's sources, got .* without"):
        build_bundle(tmp_path / "bundle", checkout=tmp_path)


def test_a_checkout_that_does_not_build_is_one_line(tmp_path, checkout):
    (tmp_path / "broken").mkdir()
    copy_checkout(checkout, tmp_path / "broken")
    (tmp_path / "broken" / "setup.cfg").write_text("[metadata\n")
    with pytest.raises(InputValueError, match="building the kit's wheel failed: ") as caught:
        build_bundle(tmp_path / "bundle", checkout=tmp_path / "broken")
    assert "\n" not in str(caught.value)


# -- wheels of installed packages ----------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path in which pip installed a small package with a script."""
    folder = tmp_path / "site"
    files = {"thing/__init__.py": "answer = 42\n", "thing/data, more.txt": "x"}
    files["thing-1.0.dist-info/entry_points.txt"] = "[console_scripts]\nthing = thing:answer\n"
    (tmp_path / "wheel").mkdir()
    wheel = make_wheel(tmp_path / "wheel", files=files)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", folder, wheel]
    subprocess.run(command, check=True)
    monkeypatch.syspath_prepend(folder)
    return folder


def test_an_installed_package_becomes_the_wheel_it_came_from(site, tmp_path):
    packed = wheels.obtain_wheel(Requirement("thing"), tmp_path)
    with zipfile.ZipFile(packed) as ours, zipfile.ZipFile(tmp_path / "wheel" / packed.name) as original:
        assert sorted(ours.namelist()) == sorted(original.namelist())
        for name in original.namelist():
            if not name.endswith("RECORD"):
                assert ours.read(name) == original.read(name)
    assert wheels.read_wheel(packed).modules == ("thing",)


def test_an_installed_file_that_was_edited_is_not_carried_along(site, tmp_path):
    (site / "thing" / "__init__.py").write_text("answer = 43\n")
    with pytest.raises(InputValueError, match=r"thing must be as it was installed, but thing/__init__\.py was changed"):
        wheels.obtain_wheel(Requirement("thing"), tmp_path)


def test_an_editable_or_too_old_package_is_fetched_instead(site, tmp_path, monkeypatch):
    asked = []

    def fake_pip(*words, purpose):
        asked.append(words)
        make_wheel(words[words.index("--dest") + 1], "thing", "2.0")

    monkeypatch.setattr(wheels, "_run_pip", fake_pip)
    assert wheels.obtain_wheel(Requirement("thing>=2"), tmp_path).name == "thing-2.0-py3-none-any.whl"
    (site / "thing-1.0.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    assert wheels.obtain_wheel(Requirement("thing"), tmp_path).name == "thing-2.0-py3-none-any.whl"
    assert all("--only-binary=:all:" in words and "3.12" in words and "--no-deps" in words for words in asked)
    assert len(asked) == 2


# -- damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_ending", [True, False])
def test_unpacked_wheels_are_good_and_their_damage_is_seen(copy, keep_ending):
    kit = unpack(copy, "vesuvius_kit-*.whl", keep_ending)
    unpack(copy, "six-*.whl", keep_ending)
    assert verify_bundle(copy) == []
    with open(kit / "vesuvius_kit" / "inference" / "grid.py", "a") as stream:
        stream.write("#")
    (kit / "vesuvius_kit" / "io" / "lzw.py").rename(kit / "vesuvius_kit" / "io" / "lwz.py")
    assert verify_bundle(copy) == [
        f"{kit.name}/vesuvius_kit/inference/grid.py differs from its RECORD",
        f"{kit.name}/vesuvius_kit/io/lzw.py is missing",
    ]
    (record,) = kit.glob("*.dist-info/RECORD")
    record.write_text("")
    assert verify_bundle(copy) == [f"{kit.name} has no RECORD or another one than the manifest says"]


def damage_a_wheel(folder):
    (path,) = folder.glob("six-*.whl")
    path.write_bytes(path.read_bytes()[:-1])
    return f"{path.name} differs from the manifest"


def remove_a_wheel(folder):
    (path,) = folder.glob("six-*.whl")
    path.unlink()
    return f"{path.name} is missing"


def add_a_wheel(folder):
    make_wheel(folder, "torch")
    return "torch-1.0-py3-none-any.whl is not in the manifest"


def change_the_installer(folder):
    with open(folder / "install.py", "a") as stream:
        stream.write("#")
    return "install.py differs from the manifest"


def remove_the_installer(folder):
    (folder / "install.py").unlink()
    return "install.py is missing"


def change_the_digest(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"vesuvius_kit.cli": [', '"no_such_module": ['))
    return "manifest.json was changed: its digest is not that of its entries"


@pytest.mark.parametrize(
    "damage",
    [damage_a_wheel, remove_a_wheel, add_a_wheel, change_the_installer, remove_the_installer, change_the_digest],
)
def test_damage_is_said(copy, damage, capsys):
    said = damage(copy)
    assert verify_bundle(copy) == [said]
    assert main(["bundle", "--output", str(copy), "--verify"]) == 1
    assert said in capsys.readouterr().out


def test_a_manifest_that_lists_what_must_not_travel_is_said(tmp_path):
    wheel = make_wheel(tmp_path, "numpy")
    folder = make_bundle(tmp_path / "bundle", wheel, imports={})
    assert "numpy-1.0-py3-none-any.whl would replace the image's own numpy" in verify_bundle(folder)


def test_a_manifest_that_names_other_folders_is_refused(copy, checkout):
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"install.py"', '"../thesis.doc"'))
    (copy.parent / "thesis.doc").write_text("ten years")
    with pytest.raises(InputValueError, match="it names a file in another folder"):
        build_bundle(copy, checkout=checkout)
    assert (copy.parent / "thesis.doc").exists()


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"kind": "other"}', '{"kind": "vesuvius-kit-bundle"}'])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    with pytest.raises(InputNotFoundError, match=r"bundle must hold a manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputValueError, match="must be the manifest of a bundle") as caught:
        verify_bundle(tmp_path)
    assert "\n" not in str(caught.value)


# -- the installer -------------------------------------------------------------------------------------------------------


def run_installer(folder, target, *words):
    """Run the bundle's own installer; pip writes to a folder of the test instead of this environment."""
    environment = {**os.environ, "PIP_TARGET": str(target), "PYTHONPATH": str(target)}
    command = [sys.executable, str(folder / "install.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=target.parent)


def test_the_installer_needs_the_standard_library_only(built):
    tree = ast.parse((built / "install.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_unpacked_wheels_are_installed_and_what_is_there_is_left_alone(copy, tmp_path):
    unpack(copy, "vesuvius_kit-*.whl", keep_ending=True)
    unpack(copy, "six-*.whl", keep_ending=False)
    done = run_installer(copy, tmp_path / "target", "--without", "torch")
    assert done.stderr == ""
    assert done.returncode == 0
    said = (
        r"installed vesuvius-kit \S+; already there: docstring-parser \S+, jsonargparse \S+, lazy-loader \S+, six \S+, timm-3d "
        r"\S+; 8 modules import; not tried without torch: timm_3d, vesuvius_kit\.inference\.submission, "
        r"vesuvius_kit\.training\n"
    )
    assert re.fullmatch(said, done.stdout)
    assert (tmp_path / "target" / "vesuvius_kit" / "config" / "cpu_demo.yaml").is_file()
    assert not (tmp_path / "target" / "timm_3d").exists()


@pytest.mark.long
def test_with_torch_everything_imports_from_the_installed_wheel(built, tmp_path):
    done = run_installer(built, tmp_path / "target")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"; {len(read_manifest(built).imports)} modules import\n")


def test_what_needs_torch_is_known(built):
    # The names after --without are believed, so they must be right: everything else imports where torch cannot.
    imports = read_manifest(built).imports
    without = [module for module, needs in imports.items() if "torch" not in needs]
    assert len(without) == 8
    code = (
        "import sys, importlib; sys.modules['torch'] = None; [importlib.import_module(name) for name in sys.argv[1:]]"
    )
    subprocess.run([sys.executable, "-c", code, *without], check=True)


def pretend_installed(target, name, version):
    """An older installation of a package, which pip can remove."""
    shutil.rmtree(target, ignore_errors=True)
    info = target / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/RECORD,,\n")


def test_a_newer_package_is_left_alone_and_an_older_one_is_replaced(tmp_path):
    wheel = make_wheel(tmp_path, "thing", "1.10")
    folder = make_bundle(tmp_path / "bundle", wheel, imports={"sys": []})
    for version, said in (
        ("1.9", "installed thing 1.10"),
        ("1.10", "already there: thing 1.10"),
        ("2.0rc1", "already there"),
    ):
        pretend_installed(tmp_path / "target", "thing", version)
        done = run_installer(folder, tmp_path / "target")
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout


def test_a_kit_of_the_same_version_is_replaced(tmp_path):
    pretend_installed(tmp_path / "target", "vesuvius-kit", "1.0")
    wheel = make_wheel(tmp_path, "vesuvius-kit", files={"vesuvius_kit_probe.py": "new = True\n"})
    folder = make_bundle(tmp_path / "bundle", wheel, imports={"vesuvius_kit_probe": []})
    done = run_installer(folder, tmp_path / "target")
    assert (done.stdout, done.stderr) == ("installed vesuvius-kit 1.0; 1 modules import\n", "")


def a_damaged_bundle(folder):
    (folder / "thing-1.0-py3-none-any.whl").write_bytes(b"")
    return r"the bundle in .* is damaged: thing-1\.0-py3-none-any\.whl differs from the manifest"


def no_manifest(folder):
    (folder / "manifest.json").unlink()
    return r"there is no manifest\.json in .*bundle"


def manifest_cut_short(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[:-9])
    return r".*manifest\.json is damaged: .*"


def anothers_manifest(folder):
    (folder / "manifest.json").write_text("[]")
    return r".*manifest\.json is not the manifest of a bundle"


def pip_refuses(folder):
    old = folder / "thing-1.0-py3-none-any.whl"
    new = make_wheel(folder, tag="cp27-cp27m-win32")
    make_bundle(folder.parent / "other", new, imports={})
    old.unlink()
    shutil.copy(folder.parent / "other" / "manifest.json", folder)
    return r"pip failed: .*not a supported wheel on this platform.*"


def import_fails(folder):
    content = json.loads((folder / "manifest.json").read_text())
    content["imports"]["thing.nowhere"] = []
    (folder / "manifest.json").write_text(json.dumps(content))
    return r"installed, but importing thing\.nowhere fails with ModuleNotFoundError: No module named 'thing\.nowhere'.*"


@pytest.mark.parametrize(
    "fault", [a_damaged_bundle, no_manifest, manifest_cut_short, anothers_manifest, pip_refuses, import_fails]
)
def test_the_installers_failures_are_one_line(tmp_path, fault):
    (tmp_path / "wheel").mkdir()
    folder = make_bundle(tmp_path / "bundle", make_wheel(tmp_path / "wheel"), imports={"thing": []})
    assert run_installer(folder, tmp_path / "first").returncode == 0
    said = fault(folder)
    done = run_installer(folder, tmp_path / "second")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(f"install\\.py: {said}\n", done.stderr)


def test_a_module_in_the_current_folder_does_not_stand_in_for_the_installed_one(tmp_path):
    folder = make_bundle(tmp_path / "bundle", make_wheel(tmp_path), imports={"thing": [], "impostor": []})
    (tmp_path / "impostor.py").write_text("")
    done = run_installer(folder, tmp_path / "target")
    assert "No module named 'impostor'" in done.stderr


# -- the command line ----------------------------------------------------------------------------------------------------


def test_the_command_prints_sizes_and_verifies(tmp_path, checkout, built, capsys):
    assert main(["bundle", "--output", str(tmp_path / "bundle"), "--checkout", str(checkout)]) == 0
    said = capsys.readouterr().out
    for file in read_manifest(built).files:
        assert re.search(rf"{re.escape(file.name)} +\d+\.\d{{3}} MB  sha256 {file.sha256[:16]}\n", said)
    assert re.search(rf"7 files, 1\.\d\d MB, digest {read_manifest(built).digest[:16]}\n", said)
    assert main(["bundle", "--output", str(tmp_path / "bundle"), "--verify"]) == 0
    assert "0 problems in 7 files" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    (tmp_path / "thesis.doc").write_text("ten years")
    assert main(["bundle", "--output", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# -- a clean environment -------------------------------------------------------------------------------------------------

# The image's versions, and what else of it the kit imports without torch.
IMAGE_PINS = ["numpy==2.0.*", "numba==0.60.*", "scikit-image==0.25.*", "albumentations==2.0.8"]
IMAGE_OTHERS = ["scipy", "pyyaml", "tifffile", "pillow", "tqdm", "safetensors", "packaging", "matplotlib"]


def interpreter(version):
    """A Python of a version, from the path or from pyenv."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(map(str, (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")))
    for candidate in filter(None, candidates):
        done = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True, text=True
        )
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    return pytest.skip(f"no Python {version} on this machine")


def cut_off():
    """The words that run a command in a network namespace of its own, where nothing can be reached."""
    for words in (["unshare", "-rn"], ["unshare", "-n"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    return pytest.skip("no network namespace is allowed here")


@pytest.mark.long
def test_the_bundle_is_built_without_network(built, checkout, tmp_path):
    if not wheels._can_build():
        pytest.skip("this environment has no setuptools that makes wheels by itself: pip must fetch one")
    command = ["-m", "vesuvius_kit", "bundle", "--output", tmp_path / "bundle", "--checkout", checkout]
    subprocess.run([*cut_off(), sys.executable, *command], check=True)
    assert read_manifest(tmp_path / "bundle") == read_manifest(built)


@pytest.mark.long
@pytest.mark.parametrize(
    ("version", "packages", "without"),
    [
        ("3.12", IMAGE_PINS + IMAGE_OTHERS, "torch"),
        # numba 0.60 has no wheel for 3.13: there it is the installation that is tried.
        ("3.13", [], "torch,numpy,pyyaml"),
    ],
)
def test_the_bundle_installs_in_a_clean_environment_without_network(tmp_path, checkout, version, packages, without):
    python, offline = interpreter(version), cut_off()
    manifest = build_bundle(tmp_path / "bundle", checkout=checkout, with_imagecodecs=True)
    for file in manifest.files:
        print(f"{file.name}: {file.size / 1e6:.3f} MB")
    unpack(tmp_path / "bundle", "timm_3d-*.whl", keep_ending=False)
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    inside = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    inside["NO_ALBUMENTATIONS_UPDATE"] = "1"

    def call(*words, prefix=()):
        command = [*prefix, *map(str, words)]
        done = subprocess.run(command, env=inside, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def listed():
        found = json.loads(call(binaries / "pip", "list", "--format", "json"))
        return {re.sub(r"[-_.]+", "-", each["name"].lower()): each["version"] for each in found}

    binaries = tmp_path / "venv" / "bin"
    if packages:
        call(binaries / "pip", "install", "--quiet", "--prefer-binary", *packages)
    before = listed()
    said = call(binaries / "python", tmp_path / "bundle" / "install.py", "--without", without, prefix=offline)
    print(said)
    assert len(said.splitlines()) == 1
    # Nothing that was there was touched; what came is the bundle.
    assert listed() == {**before, **{file.package: file.version for file in manifest.files if file.package}}
    checked = {module for module, needs in manifest.imports.items() if not set(needs) & set(without.split(","))}
    assert f"{len(checked)} modules import" in said
    if not packages:
        return
    assert {"vesuvius_kit.metrics", "vesuvius_kit.postprocess", "imagecodecs", "jsonargparse"} <= checked
    # The kit works there: a phantom is made, read back and scored against itself by the kernels of the old numba.
    kit = binaries / "vesuvius-kit"
    size = ["--train", "1", "--test", "1", "--shape", "[48,48,48]"]
    call(kit, "phantom", "--output", tmp_path / "data", *size, prefix=offline)
    labels = tmp_path / "data" / "train_labels"
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in labels.iterdir():
        # A label is no mask: what is unlabelled in it is neither.
        write_volume(masks / path.name, (read_volume(path) == SURFACE).astype(np.uint8))
    scored = call(kit, "score", "--predictions", masks, "--labels", labels, prefix=offline)
    print(scored)
    assert re.search(r"1\.0000 +1\.0000 +1\.0000 +1\.0000", scored)
