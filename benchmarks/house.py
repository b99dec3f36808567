"""Count what can be counted about the tidiness of the package's sources, as Markdown. The package is not imported.

    python benchmarks/house.py                            # the checkout this script lies in
    python benchmarks/house.py before=../old after=.      # a column each

Public is a module-level function, a class or a method of a public class if no part of its module, class and own name
starts with an underscore (``__init__`` methods are not public, packages' ``__init__.py`` are).
"""

import argparse
import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = "vesuvius_kit"
LONG_FUNCTION = 50
LONG_MODULE = 500
OF_POSTPROCESS = ("t_low", "t_high", "z_radius", "xy_radius", "dust_min_size")
DEFAULTS = (*OF_POSTPROCESS, "window", "overlap", "max_factor", "learning_rate", "batch_size")
WORDS = ("processor", "views", "evidence", "look closely", "coin", "nobody looked", "floor", "roll-back")
LEGACY = re.compile("legacy|unlabelled_as_surface", re.IGNORECASE)
IN_YAML = re.compile(r"(\w+):\s+(\[[^\]]*\]|[-+]?[.\d][-+.\de]*)")
RAISES = re.compile(r"^Raises\n-+\n(.*?)(?=^\w[\w ]*\n-+$|\Z)", re.MULTILINE | re.DOTALL)

Function = ast.FunctionDef | ast.AsyncFunctionDef
DOCUMENTED = Function | ast.ClassDef | ast.Module


class Module:
    """One source file and its syntax tree."""

    def __init__(self, path: Path, root: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.nodes = list(ast.walk(self.tree))
        self.place = path.relative_to(root).as_posix()
        self.is_package = path.stem == "__init__"
        parts = path.relative_to(root).with_suffix("").parts
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.length = len(self.text.splitlines())


def measure(root: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the rows of the table and the lists under it."""
    package = root / PACKAGE
    modules = [Module(path, root) for path in sorted(package.rglob("*.py"))]
    nodes = [node for module in modules for node in module.nodes]
    yaml = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(package.rglob("*.yaml"))}
    papers = [*(root / "notebooks").rglob("*.py"), *(root / "docs").rglob("*.md"), *root.glob("README.md")]
    sources = [module.text for module in modules]
    with_yaml = [*sources, *yaml.values()]
    prose = sources + [path.read_text("utf-8") for path in papers]

    public = [definition for module in modules for definition in list_public(module)]
    functions = [(node, is_method) for node, is_method in public if isinstance(node, Function)]
    parameters = [one for node, is_method in functions for one in list_parameters(node, is_method)]
    top = (path for path in package.iterdir() if path.name != "__pycache__" and path.name[0] != ".")
    top = sorted(path.name + "/" * path.is_dir() for path in top)
    long_functions = list_long_functions(modules)
    long_modules = sorted(((one.length, one.place) for one in modules if one.length > LONG_MODULE), reverse=True)
    private = [found for module in modules for found in find_private(module, {module.name for module in modules})]
    own = [f"{place} {name}" for place, name in private if name.startswith(PACKAGE)]
    foreign = [f"{place} {name}" for place, name in private if not name.startswith(PACKAGE)]
    defaults = find_defaults(modules, yaml)
    raises, sections = count_raises(nodes)

    rows = {
        "annotated parameters of public functions": share([one.annotation is not None for one in parameters]),
        "public functions with a return annotation": share([node.returns is not None for node, _ in functions]),
        "public functions, methods, classes with a docstring longer than the body": share(
            [is_wordy(node) for node, _ in public]
        ),
        "lines in `Raises` sections (sections)": f"{raises:,} ({sections})",
        f"things at the top of {PACKAGE}/": f"{len(top)}",
        f"functions over {LONG_FUNCTION} lines": f"{len(long_functions)}",
        f"lines of {PACKAGE}/kaggle/*.py": f"{sum(one.length for one in modules if '/kaggle/' in one.place):,}",
        f"modules over {LONG_MODULE} lines": f"{len(long_modules)}",
        "`add_argument(` calls": f"{sum(map(is_option, nodes))}",
        "private names used across modules (those of other packages)": f"{len(own)} ({len(foreign)})",
        **{f"places of the default of `{name}`": f"{len(places)}" for name, places in defaults.items()},
        "lines of the package, *.py": f"{sum(one.length for one in modules):,}",
        "lines with legacy or unlabelled_as_surface, *.py and *.yaml": f"{count_lines(LEGACY, with_yaml)}",
        **{f"lines with “{word}”, notebooks and docs too": f"{count_lines(wrapped(word), prose)}" for word in WORDS},
    }
    lists = {
        f"Top of {PACKAGE}/": [", ".join(top)],
        f"Functions over {LONG_FUNCTION} lines": long_functions,
        f"Modules over {LONG_MODULE} lines": [f"{place} ({length})" for length, place in long_modules],
        "Private names used across modules": own + foreign,
        "Places of defaults": [f"`{name}`: {', '.join(places) or 'none'}" for name, places in defaults.items()],
    }
    return rows, lists


def list_public(module: Module) -> list[tuple[Function | ast.ClassDef, bool]]:
    """Return the public definitions of a module, each with whether it is in a class."""

    def find(body: Sequence[ast.stmt], is_method: bool) -> Iterator[tuple[Function | ast.ClassDef, bool]]:
        for node in body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield node, is_method
                if isinstance(node, ast.ClassDef):
                    yield from find(node.body, True)

    return [] if any(part.startswith("_") for part in module.name.split(".")) else list(find(module.tree.body, False))


def list_parameters(node: Function, is_method: bool) -> list[ast.arg]:
    """Return all parameters, ``*args`` and ``**kwargs`` too, but not the self or cls of a method."""
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return every[1:] if is_method and every and every[0].arg in ("self", "cls") else every


def count_docstrings(node: ast.AST) -> int:
    """Lines, from quotes to quotes, of the docstrings of a definition and of all that is defined inside it."""
    documented = [one for one in ast.walk(node) if isinstance(one, DOCUMENTED) and ast.get_docstring(one) is not None]
    return sum(one.body[0].end_lineno - one.body[0].lineno + 1 for one in documented)


def is_wordy(node: Function | ast.ClassDef) -> bool:
    """Whether the docstring has more lines than the body.

    Lines of the docstring are those from quotes to quotes. Lines of the body are all those after the docstring, blank
    ones and comments too, without the docstrings of what is defined inside, such as the methods of a class.
    """
    if ast.get_docstring(node) is None:
        return False
    own = node.body[0].end_lineno - node.body[0].lineno + 1
    return own > node.end_lineno - node.body[0].end_lineno - (count_docstrings(node) - own)


def count_raises(nodes: Sequence[ast.AST]) -> tuple[int, int]:
    """Lines in the Raises sections of docstrings, without heading and blank lines, and the number of these sections."""
    texts = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, DOCUMENTED)]
    sections = [body for text in texts for body in RAISES.findall(text)]
    return sum(bool(line.strip()) for body in sections for line in body.splitlines()), len(sections)


def list_long_functions(modules: Sequence[Module]) -> list[str]:
    """Functions of any kind, longest first; from the line of the def to the last one, docstrings not counted."""
    found = [
        (node.end_lineno - node.lineno + 1 - count_docstrings(node), f"{module.place}:{node.lineno} {node.name}")
        for module in modules
        for node in module.nodes
        if isinstance(node, Function)
    ]
    return [f"{place} ({length})" for length, place in sorted(found, reverse=True) if length > LONG_FUNCTION]


def find_private(module: Module, names: set[str]) -> Iterator[tuple[str, str]]:
    """Places and names of imported private names, and of private attributes of imported modules."""
    aliases: dict[str, str] = {}
    for node in module.nodes:
        if isinstance(node, ast.Import):
            aliases.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            up = node.level - module.is_package
            above = module.name.split(".")[: -up or None] if node.level else []
            for alias in node.names:
                name = ".".join([*above, *filter(None, [node.module]), alias.name])
                if any(map(is_private, name.split("."))):
                    yield f"{module.place}:{node.lineno}", name
                if name in names:
                    aliases[alias.asname or alias.name] = name
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in aliases:
            yield f"{module.place}:{node.lineno}", f"{aliases[ast.unparse(node.value)]}.{node.attr}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def find_defaults(modules: Sequence[Module], yaml: dict[str, str]) -> dict[str, list[str]]:
    """Where each default is stated as a literal number or several, as ``file:line = value``."""
    places: dict[str, list[str]] = {name: [] for name in DEFAULTS}
    for module in modules:
        for name, value in (pair for node in module.nodes for pair in list_defaults(node)):
            if name in places and is_number(value):
                places[name].append(f"{module.place}:{value.lineno} = {ast.unparse(value)}")
    for place, text in yaml.items():
        for number, line in enumerate(text.splitlines(), 1):
            for name, value in IN_YAML.findall(line.partition("#")[0]):
                if name in places:
                    places[name].append(f"{place}:{number} = {value}")
    return places


def list_defaults(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and defaults of a function's parameters, a class's annotated fields or an `add_argument`."""
    if isinstance(node, Function):
        positional = [*node.args.posonlyargs, *node.args.args]
        pairs = [*zip(positional[::-1], node.args.defaults[::-1]), *zip(node.args.kwonlyargs, node.args.kw_defaults)]
        yield from ((argument.arg, value) for argument, value in pairs if value is not None)
    elif isinstance(node, ast.ClassDef):
        fields = (field for field in node.body if isinstance(field, ast.AnnAssign) and field.value is not None)
        yield from ((ast.unparse(field.target), field.value) for field in fields)
    elif is_option(node):
        flags = [flag.value for flag in node.args if isinstance(flag, ast.Constant)]
        values = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
        yield from ((re.split("--|[.]", flag)[-1].replace("-", "_"), value) for flag in flags for value in values)


def is_option(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"


def is_number(value: ast.expr) -> bool:
    """Whether it is a literal number, or a tuple or list of them."""
    try:
        literal = ast.literal_eval(value)
    except ValueError:
        return False
    return all(type(one) in (int, float) for one in (literal if isinstance(literal, tuple | list) else [literal]))


def wrapped(word: str) -> re.Pattern[str]:
    """The word, also as a part of a name_like_this and with an s; a phrase may go on in the next line."""
    phrase = re.sub(" ", r"[\\s#_]+", word)
    return re.compile(f"(?<![a-z]){phrase}s?(?![a-z])", re.IGNORECASE)


def count_lines(pattern: re.Pattern[str], texts: Sequence[str]) -> int:
    return sum(len({text.count("\n", 0, hit.start()) for hit in pattern.finditer(text)}) for text in texts)


def share(flags: Sequence[bool]) -> str:
    return f"{sum(flags) / max(len(flags), 1):.1%} ({sum(flags):,}/{len(flags):,})"


def print_report(trees: Sequence[tuple[str, Path]]) -> None:
    measured = [(label, *measure(root)) for label, root in trees]
    print("| |", " | ".join(label for label, *_ in measured), "|")
    print("|---|" + "---:|" * len(measured))
    for row in measured[0][1]:
        print(f"| {row} |", " | ".join(rows[row] for _, rows, _ in measured), "|")
    for label, _, lists in measured:
        for title, items in lists.items():
            print(f"\n{title}, {label}:\n")
            print("\n".join(f"- {item}" for item in items) or "- none")


def find_tree(argument: str) -> tuple[str, Path]:
    label, path = argument.split("=", 1) if "=" in argument else ("", argument)
    root = Path(path).resolve()
    if not (root / PACKAGE).is_dir():
        raise argparse.ArgumentTypeError(f"a checkout must have a folder {PACKAGE}, got {path}")
    return label or root.name, root


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs="*", type=find_tree, metavar="TREE", help="a checkout, or label=checkout")
    print_report(parser.parse_args().trees or [find_tree(str(Path(__file__).parent.parent))])
