"""The house rules a machine can check: layers, docstrings, names, one default in one place, what importing loads."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpydoc.docscrape
import pytest

import vesuvius_kit

PACKAGE = Path(vesuvius_kit.__file__).parent
LAYERS = {
    "checks": 0, "console": 0, "constants": 0,
    "voxel": 1,
    "io": 2, "config": 2,
    "data": 3, "phantom": 3, "metrics": 3, "losses": 3, "models": 3, "postprocess": 3,
    "inference": 4, "diagnosis": 4,
    "training": 5, "report": 5,
    "kaggle": 6, "tuning": 6,
    "demo": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def package_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported_modules(module):
    """Every module of the kit that a module imports, imports inside functions included."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    is_package = path.is_dir()
    tree = ast.parse((path / "__init__.py" if is_package else path.with_suffix(".py")).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "vesuvius_kit")
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "vesuvius_kit":
                yield from (f"vesuvius_kit.{alias.name}" for alias in node.names)
            elif name.startswith("vesuvius_kit."):
                yield name


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_layers_or_its_own_package(module):
    package = package_of(module)
    if not package:
        return  # The flat names come from everywhere; what importing them loads is tested below.
    assert package in LAYERS, f"{package} has no layer: add it to the table here and in docs/architecture.md"
    for imported in imported_modules(module):
        other = package_of(imported)
        if other and other in LAYERS and other != package:
            assert LAYERS[other] < LAYERS[package], f"{module} (layer {LAYERS[package]}) imports {imported}"


def test_training_does_not_import_the_diagnosis():
    """It asks through a hook, so that either can be changed without the other."""
    for module in MODULES:
        if module.startswith("vesuvius_kit.training"):
            assert not [name for name in imported_modules(module) if name.startswith("vesuvius_kit.diagnosis")]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_private_name_of_another(module):
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vesuvius_kit"):
            private = [alias.name for alias in node.names if alias.name.startswith("_") and alias.name != "__version__"]
            assert not private, f"{module} imports {private} of {node.module}"


def test_the_layer_check_sees_imports_inside_functions():
    assert "vesuvius_kit.metrics" in set(imported_modules("vesuvius_kit.cli.score"))


def test_the_page_names_every_package():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package in {package_of(module) for module in MODULES} - {"", "__main__"}:
        assert f"`{package}" in page, f"docs/architecture.md does not name {package}"


def test_the_top_of_the_package_stays_small():
    top = {path.name for path in PACKAGE.iterdir() if not path.name.startswith(("__pycache__", "."))}
    # The two that are no module say that the package is typed.
    assert len(top - {"py.typed", "__init__.pyi"}) <= 22


def test_the_tests_mirror_the_package():
    tests = PACKAGE.parent / "tests"
    elsewhere = {"benchmarks", "files", "helpers", "notebooks"}
    for path in tests.rglob("test_*.py"):
        folder = path.relative_to(tests).parts[0]
        if path.parent == tests:
            assert path.stem.removeprefix("test_") in {*LAYERS, "architecture", "examples"}, path
        else:
            assert (PACKAGE / folder).is_dir() or folder in elsewhere, path


def public_functions():
    for module_name in MODULES:
        if module_name.endswith("__main__"):
            continue
        module = importlib.import_module(module_name)
        for name, item in vars(module).items():
            if name.startswith("_") or getattr(item, "__module__", None) != module_name:
                continue
            if inspect.isfunction(item):
                yield f"{module_name}.{name}", item
            elif inspect.isclass(item):
                yield f"{module_name}.{name}", item
                for method_name, method in vars(item).items():
                    if not method_name.startswith("_") and inspect.isfunction(method):
                        yield f"{module_name}.{name}.{method_name}", method


@pytest.mark.parametrize(("name", "item"), [pytest.param(*row, id=row[0]) for row in public_functions()])
def test_what_a_docstring_describes_is_what_the_signature_takes(name, item):
    text = inspect.getdoc(item)
    assert text, f"{name} has no docstring"
    described = [
        part.strip().lstrip("*")
        for row in numpydoc.docscrape.NumpyDocString(text or "")["Parameters"]
        for part in row.name.split(",")
        if part.strip()
    ]
    if inspect.isclass(item) and issubclass(item, Exception) and "__init__" not in vars(item):
        return
    taken = [parameter for parameter in inspect.signature(item).parameters if parameter not in ("self", "cls")]
    assert [parameter for parameter in taken if parameter in described] == described, f"{name}: takes {taken}"


def test_importing_the_package_loads_neither_torch_nor_numba():
    code = "import sys, vesuvius_kit as vk, vesuvius_kit.cli; vk.load_config(); print(*{'torch', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# The names that tests, notebooks and outsiders' scripts call.
PUBLIC = set(
    """
    make_phantom write_competition read_volume write_volume BACKGROUND SURFACE UNLABELLED Competition
    PatchDataset create_model list_models load_model WeightedLoss BoundedLR load_config train diagnose
    predict_volume topo_postprocess load_pipeline run_pipeline make_mask simple_mask save_checkpoint
    predict_folder postprocess_folder list_images pack_submission load_probability config_to_dict RunConfig
    InputError leaderboard_score betti_matching_counts betti_matching_features surface_dice
    variation_of_information score_folder write_submission validate_submission
    """.split()  # noqa: SIM905
)


def test_the_public_names_are_there_and_show_how_they_are_used():
    assert set(vesuvius_kit.__all__) >= PUBLIC
    assert sorted(dir(vesuvius_kit)) == sorted(vesuvius_kit.__all__)
    for name in sorted(PUBLIC):
        item = getattr(vesuvius_kit, name)
        if callable(item):
            assert "Examples\n" in inspect.getdoc(item), f"{name} has no example"


def test_defaults_of_the_configuration_equal_those_of_the_functions():
    from vesuvius_kit.config import LossConfig, PatchConfig, PredictConfig, ScheduleConfig
    from vesuvius_kit.data.patches import PatchDataset
    from vesuvius_kit.inference.predict import predict_volume
    from vesuvius_kit.losses import WeightedLoss
    from vesuvius_kit.training.learning_rate import BoundedLR

    pairs = [
        (ScheduleConfig(), BoundedLR, {}),
        (LossConfig(), WeightedLoss, {}),
        (PatchConfig(), PatchDataset, {"per_volume": "patches_per_volume"}),
        (PredictConfig(), predict_volume, {"device": "device"}),
    ]
    # The controller is told its schedule and its warm-up; a default of its own serves whoever calls it alone.
    chosen_by_the_run = {"schedule", "warmup_epochs", "window", "augmentation"}
    compared = 0
    for settings, function, renamed in pairs:
        parameters = inspect.signature(function).parameters
        for name, value in vars(settings).items():
            parameter = parameters.get(renamed.get(name, name))
            if parameter is None or parameter.default is inspect.Parameter.empty or name in chosen_by_the_run:
                continue
            assert parameter.default == value, f"{type(settings).__name__}.{name}"
            compared += 1
    assert compared >= 25
