"""Networks by name; importing the package registers every model."""

from vesuvius_kit.models import nnunet_network, resenc_unet, timm_unet, unet3d
from vesuvius_kit.models.normalisation import Normalisation
from vesuvius_kit.models.registry import ModelRecord, SegmentationModel, create_model, list_models, register_model
from vesuvius_kit.models.rules import OutputRule, PredictionRules, ResamplingRule
from vesuvius_kit.models.trial import check_takes

__all__ = [
    "ModelRecord",
    "Normalisation",
    "OutputRule",
    "PredictionRules",
    "ResamplingRule",
    "SegmentationModel",
    "check_takes",
    "create_model",
    "list_models",
    "nnunet_network",
    "register_model",
    "resenc_unet",
    "timm_unet",
    "unet3d",
]
