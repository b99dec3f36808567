"""A run explained: one HTML page, and figures of its curves, of what was predicted, of what the data look like."""

from vesuvius_kit.report.explain import write_report
from vesuvius_kit.report.pages import (
    draw_curves,
    draw_overlay,
    write_overview_page,
    write_prediction_page,
    write_training_page,
)
from vesuvius_kit.report.parts import Places
from vesuvius_kit.report.survey import (
    ScrollSurvey,
    survey_scrolls,
    survey_to_text,
    write_slices_page,
    write_survey_page,
)

__all__ = [
    "Places",
    "ScrollSurvey",
    "draw_curves",
    "draw_overlay",
    "survey_scrolls",
    "survey_to_text",
    "write_overview_page",
    "write_prediction_page",
    "write_report",
    "write_slices_page",
    "write_survey_page",
    "write_training_page",
]
