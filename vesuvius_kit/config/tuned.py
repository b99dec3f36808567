"""Tuned settings as an overlay: ``tuned.yaml``, which lies above what the weights bring along and below what a person gives.

    predict:
      weights: {'b440b0951c0377a5': 0.7, '9c1185a5c5e9fc54': 0.3}
    postprocess:
      pipeline: pipeline.yaml

It holds settings of the sections ``predict`` and ``postprocess`` only. A pipeline's file lies beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.config.files import is_file, is_path
from vesuvius_kit.config.parser import SettingsParser
from vesuvius_kit.config.settings import PostprocessConfig, PredictConfig
from vesuvius_kit.constants import TUNED_FILE


def read_tuned(path: Path | str) -> dict[str, Any]:
    """Return the settings of a tuning's folder, or of its ``tuned.yaml``, by name, such as ``predict.weights``.

    The path of a pipeline's file is absolute, and the file must be there.
    """
    path = Path(path)
    file = (path / TUNED_FILE if path.is_dir() else path).absolute()
    if not is_file(file):
        raise InputNotFoundError(f"tuned settings must be {TUNED_FILE}, or a folder that holds it, got {path}")
    parser = SettingsParser({"predict": PredictConfig, "postprocess": PostprocessConfig})
    parser.read_file(file)
    parser.build()
    if not parser.values:
        raise InputValueError(f"tuned settings must hold at least one of predict or postprocess, got none in {file}")
    pipeline = parser.values.get("postprocess.pipeline")
    # A path that is still relative was not found there; what lies where the command is given is not what was tuned.
    if pipeline is not None and is_path(pipeline) and not (Path(pipeline).is_absolute() and is_file(pipeline)):
        raise InputNotFoundError(f"{file} must name a preset, or a pipeline that lies beside it, got {pipeline}")
    return parser.values


def lay_over(settings: Mapping[str, Any], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name with tuned ones in their place; parameters of another pipeline go with that pipeline."""
    kept = dict(settings)
    if "postprocess.pipeline" in tuned:
        kept.pop("postprocess.steps", None)
    return kept | dict(tuned)
