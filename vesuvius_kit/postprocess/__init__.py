"""From probabilities to masks."""

from vesuvius_kit.postprocess.pipeline import list_presets, load_pipeline, make_mask, run_pipeline
from vesuvius_kit.postprocess.steps import (
    close_ball,
    close_cylinder,
    fill_cavities,
    hysteresis_threshold,
    remove_small_components,
    ridge_filter,
    simple_mask,
    smooth_octants,
    topo_postprocess,
)

__all__ = [
    "close_ball",
    "close_cylinder",
    "fill_cavities",
    "hysteresis_threshold",
    "list_presets",
    "load_pipeline",
    "make_mask",
    "remove_small_components",
    "ridge_filter",
    "run_pipeline",
    "simple_mask",
    "smooth_octants",
    "topo_postprocess",
]
