"""The settings of a run: typed dataclasses, the YAML files that ship with the kit, and the one reader of YAML."""

from vesuvius_kit.config.files import (
    changed_settings,
    config_to_dict,
    config_to_yaml,
    find_config,
    list_configs,
)
from vesuvius_kit.config.parser import load_config
from vesuvius_kit.config.settings import (
    LossConfig,
    ModelConfig,
    PatchConfig,
    PostprocessConfig,
    Precision,
    PredictConfig,
    RunConfig,
    ScheduleConfig,
    Size,
    TrainConfig,
    UnusedSettingError,
)

__all__ = [
    "LossConfig",
    "ModelConfig",
    "PatchConfig",
    "PostprocessConfig",
    "Precision",
    "PredictConfig",
    "RunConfig",
    "ScheduleConfig",
    "Size",
    "TrainConfig",
    "UnusedSettingError",
    "changed_settings",
    "config_to_dict",
    "config_to_yaml",
    "find_config",
    "list_configs",
    "load_config",
]
