"""Synthetic chunks of a scroll with exact truth, alone or as a whole competition folder."""

from vesuvius_kit.phantom.chunk import Phantom, make_phantom
from vesuvius_kit.phantom.folder import write_competition
from vesuvius_kit.phantom.styles import REPORT_STYLES, STYLES, Style, list_styles

__all__ = ["REPORT_STYLES", "STYLES", "Phantom", "Style", "list_styles", "make_phantom", "write_competition"]
