"""What the commands that predict share: the settings that a checkpoint brings along, and how a failed worker is reported."""

import sys
from collections.abc import Mapping
from typing import Any

from vesuvius_kit.config import config_to_dict, load_config
from vesuvius_kit.console import how_to_go_on


def settings_of_training(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections ``predict`` and ``postprocess`` that lie below the command line.

    They come from ``--config``, or from the first of ``--checkpoints``: what the network was trained and scored with, but for
    device and precision, which belong to the machine. nnU-Net's weights bring rules instead, which no setting has to repeat.
    A section that the command does not take is left out.
    """
    sections = [section for section in ("predict", "postprocess") if section in options]
    if options["config"] is not None:
        config = config_to_dict(load_config(options["config"]))
        return {section: config[section] for section in sections}
    from vesuvius_kit.models.weights import find_weights, read_settings

    stored = read_settings(find_weights(options["checkpoints"])[0]) or {}
    return {
        section: {key: value for key, value in stored.get(section, {}).items() if key not in ("device", "precision")}
        for section in sections
    }


def report_worker_error(error: Exception, fresh: bool) -> int:
    """Print the one line of a prediction process that failed; return the exit code."""
    print(f"vesuvius-kit: {error}; what is done is kept, {how_to_go_on(fresh)}", file=sys.stderr)
    return 1
