"""What the commands that predict share: the settings that a checkpoint brings along, and how a failed worker is reported."""

import sys
from collections.abc import Mapping
from typing import Any

from vesuvius_kit.config import config_to_dict, load_config
from vesuvius_kit.config.tuned import lay_over, read_tuned
from vesuvius_kit.console import how_to_go_on


def settings_of_training(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections ``predict`` and ``postprocess`` that lie below the command line.

    They come from ``--config``, or from all of ``--checkpoints``, as far as these agree (`agreed_settings`). Those of
    ``--tuned`` lie above them. A section that the command does not take is left out.
    """
    tuned = {} if (given := options.get("tuned")) is None else read_tuned(given)
    return _nest(lay_over(_below_tuned(options), tuned), options)


def settings_of_tuning(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``postprocess`` of ``--tuned``, unless ``--pipeline`` names another pipeline."""
    if options["tuned"] is None or options["pipeline"] is not None:
        return {}
    return _nest(read_tuned(options["tuned"]), options)


def _below_tuned(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration, or of the weights, by name."""
    if options["config"] is not None:
        config = config_to_dict(load_config(options["config"]))
        sections = ("predict", "postprocess")
        return {f"{section}.{name}": value for section in sections for name, value in config[section].items()}
    from vesuvius_kit.models.weights import agreed_settings, find_weights

    return agreed_settings(find_weights(options["checkpoints"]))


def _nest(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by section, for those sections that a command takes."""
    nested: dict[str, Any] = {section: {} for section in ("predict", "postprocess") if section in options}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if section in nested:
            nested[section][name] = value
    return nested


def report_worker_error(error: Exception, fresh: bool) -> int:
    """Print the one line of a prediction process that failed; return the exit code."""
    print(f"vesuvius-kit: {error}; what is done is kept, {how_to_go_on(fresh)}", file=sys.stderr)
    return 1
