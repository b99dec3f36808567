"""From what was gathered to one HTML file that needs no network."""

import base64
import json
import zlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from vesuvius_kit.io.record import without_nan

SCRIPTS = ("charts.js", "viewer.js", "errors.js", "space.js", "page.js")
"""In the order in which the page loads them."""
SPACE_LIBRARY = "plotly"
"""Id of the packed library for the view in three dimensions."""


def render_page(page: Mapping[str, Any], data: Mapping[str, Any], blobs: Mapping[str, str]) -> str:
    """Return the page.

    Parameters
    ----------
    page
        What the template shows.
    data
        What the scripts read, as JSON holds it; what is not a number becomes null.
    blobs
        Base64 texts by the id under which the scripts look for them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("vesuvius_kit.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": format_duration, "voxels": format_count}
    return environment.get_template("report.html").render(
        **page,
        style=Markup(_read_part("page.css")),
        scripts=[Markup(_read_part(name)) for name in SCRIPTS],
        data=Markup(_to_json(data)),
        # Base64 holds nothing that HTML reads otherwise.
        blobs={name: Markup(text) for name, text in blobs.items()},
    )


def pack_library() -> str:
    """Return Plotly's JavaScript, deflated, as base64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(zlib.compress(get_plotlyjs().encode("utf-8"), 9)).decode("ascii")


def format_duration(seconds: float) -> str:
    """Return seconds as a person reads them: ``0.35 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_count(number: int) -> str:
    """Return a whole number with narrow spaces between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


def _read_part(name: str) -> str:
    return (resources.files("vesuvius_kit.report") / "page" / name).read_text(encoding="utf-8")


def _to_json(data: Mapping[str, Any]) -> str:
    """JSON that may stand in a script: nothing in it ends the element."""
    text = json.dumps(without_nan(dict(data)), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
