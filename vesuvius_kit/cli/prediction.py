"""What the commands that predict share: the settings that a checkpoint brings along, and how a failed worker is reported."""

import sys
from collections.abc import Mapping
from typing import Any

from vesuvius_kit.config import config_to_dict, load_config
from vesuvius_kit.console import how_to_go_on


def settings_of_training(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections ``predict`` and ``postprocess`` that lie below the command line.

    They come from ``--config``, or from all of ``--checkpoints``, as far as these agree (`agreed_settings`). A section that the
    command does not take is left out.
    """
    sections = [section for section in ("predict", "postprocess") if section in options]
    if options["config"] is not None:
        config = config_to_dict(load_config(options["config"]))
        return {section: config[section] for section in sections}
    from vesuvius_kit.models.weights import agreed_settings, find_weights

    stored: dict[str, Any] = {section: {} for section in sections}
    for key, value in agreed_settings(find_weights(options["checkpoints"])).items():
        section, _, name = key.partition(".")
        if section in stored:
            stored[section][name] = value
    return stored


def report_worker_error(error: Exception, fresh: bool) -> int:
    """Print the one line of a prediction process that failed; return the exit code."""
    print(f"vesuvius-kit: {error}; what is done is kept, {how_to_go_on(fresh)}", file=sys.stderr)
    return 1
