"""A hook of MkDocs: the pages at the repository's top, and the API reference, one page for each package.

The reference is made from the tree as it stands: a new module or package needs no line here.
"""

import ast
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vesuvius_kit"
TOP_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
# A command is described by its `--help`.
LEFT_OUT = ("__init__", "__main__", "cli")

_reference: dict[str, str] = {}


def on_config(config):
    """Make the reference and add it to the navigation."""
    package = griffe.load(PACKAGE.name, search_paths=[ROOT], docstring_parser="numpy")
    _reference["reference/index.md"] = _list_public_names(package)
    entries = [{"Public names": "reference/index.md"}]
    for path in sorted(PACKAGE.iterdir()):
        modules = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.suffix == ".py" else []
        if modules and path.stem not in LEFT_OUT:
            directives = (_describe(package, module, 2 if n else 1) for n, module in enumerate(modules))
            _reference[f"reference/{path.stem}.md"] = "\n".join(directives)
            entries.append({path.stem: f"reference/{path.stem}.md"})
    config.nav.append({"API reference": entries})
    return config


def on_files(files, config):
    """Add the pages that lie outside docs/, those that are made here, and the colours of code."""
    for name in TOP_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    for uri, text in {**_reference, "pygments.css": colours}.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links between the top and docs/, and bars in a table's code, mean what they mean on GitHub."""
    markdown = re.sub(r"`[^`\n]+`", lambda code: code[0].replace("\\|", "|"), markdown)
    if page.file.src_uri in TOP_PAGES:
        return markdown.replace("](docs/", "](")
    return re.sub(rf"\]\(\.\./(?={'|'.join(map(re.escape, TOP_PAGES))})", "](", markdown)


def _describe(package, path, heading_level):
    """Return the directive for a module, with what it defines itself: names that it passes on stand where they are defined."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    module = package[parts] if parts else package
    own = [
        name
        for name, member in module.members.items()
        if not (name.startswith("_") or member.is_alias or member.is_module) and member.has_docstring
    ]
    return f"::: {module.path}\n    options:\n      heading_level: {heading_level}\n      members: {own}\n"


def _list_public_names(package):
    """Return the page of the names in the stub of the package, each with a link to its description."""
    rows = []
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        names = (
            [alias.asname for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [getattr(node, "name", None)]
        )
        for name in filter(None, names):
            member = package[name].final_target if package[name].is_alias else package[name]
            # A module may have the name of its function.
            member = member[name] if member.is_module else member
            summary = " ".join(member.docstring.value.split("\n\n")[0].split()).replace("|", "\\|")
            rows.append(f"| [`{name}`][{member.path}] | {summary} |")
    text = (
        "# Public names\n\n"
        "After `import vesuvius_kit as vk` these are `vk.predict_volume` and so on. Torch and numba are loaded when a name\n"
        "first needs them. Axes are always (z, y, x). The other pages describe every module, package by package.\n\n"
        "| name | what it is |\n|---|---|\n"
    )
    return text + "\n".join(rows) + "\n\n" + _describe(package, PACKAGE / "__init__.py", 2)
