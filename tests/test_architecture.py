"""The house rules a machine can check: layers, docstrings, one default in one place, what importing loads."""

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
    "kaggle": 6,
    "demo": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def room_of(module):
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
    room = room_of(module)
    if not room:
        assert list(imported_modules(module)) == []
        return
    assert room in LAYERS, f"{room} has no layer: add it to the table here and in docs/architecture.md"
    for imported in imported_modules(module):
        other = room_of(imported)
        if other and other in LAYERS and other != room:
            assert LAYERS[other] < LAYERS[room], f"{module} (layer {LAYERS[room]}) imports {imported}"


def test_the_layer_check_sees_imports_inside_functions():
    assert "vesuvius_kit.training.loop" in set(imported_modules("vesuvius_kit.cli.train"))


def test_the_plan_names_every_room():
    plan = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in {room_of(module) for module in MODULES} - {"", "__main__"}:
        assert f"`{room}" in plan, f"docs/architecture.md does not name {room}"


def public_functions():
    for module_name in MODULES:
        # The commands are all run(prog, arguments), described once in vesuvius_kit.cli.
        if module_name.endswith("__main__") or module_name.startswith("vesuvius_kit.cli."):
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
def test_docstring_parameters_match_the_signature(name, item):
    text = inspect.getdoc(item)
    assert text, f"{name} has no docstring"
    sections = numpydoc.docscrape.NumpyDocString(text)
    described, attributes = (
        [part.strip().lstrip("*") for row in sections[part_name] for part in row.name.split(",") if part.strip()]
        for part_name in ("Parameters", "Attributes")
    )
    if inspect.isclass(item) and (issubclass(item, Exception) or item.__init__ is item.__base__.__init__):
        # Nothing of its own to construct it with: a named tuple lists its fields, another class may list attributes.
        expected = list(getattr(item, "_fields", ()))
        assert not expected or expected in (described, attributes), f"{name}: fields {expected}"
        return
    expected = [parameter for parameter in inspect.signature(item).parameters if parameter not in ("self", "cls")]
    if expected or described:
        assert described == expected, f"{name}: documented {described}, takes {expected}"


def test_importing_the_package_loads_neither_torch_nor_numba():
    code = "import sys, vesuvius_kit.cli, vesuvius_kit.config; print(*{'torch', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_defaults_of_the_configuration_equal_those_of_the_functions():
    from vesuvius_kit.config import LossConfig, PatchConfig, PostprocessConfig, PredictConfig, ScheduleConfig
    from vesuvius_kit.data.patches import PatchDataset
    from vesuvius_kit.inference.predict import predict_volume
    from vesuvius_kit.losses import WeightedLoss
    from vesuvius_kit.postprocess import topo_postprocess
    from vesuvius_kit.training.learning_rate import BoundedLR

    pairs = [
        (ScheduleConfig(), BoundedLR, {}),
        (LossConfig(), WeightedLoss, {}),
        (PatchConfig(), PatchDataset, {"per_volume": "patches_per_volume"}),
        (PredictConfig(), predict_volume, {"device": "device"}),
        (PostprocessConfig(), topo_postprocess, {}),
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
    assert compared >= 30
