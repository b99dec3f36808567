"""Results folders as nnU-Net leaves them, with small networks of random weights, made without nnU-Net."""

import copy
import json

import numpy as np
import torch

from vesuvius_kit.models import create_model
from vesuvius_kit.models.nnunet_plans import parse_labels, parse_plans

LABELS = {"background": 0, "surface": 1, "ignore": 2}


def architecture(kind="PlainConvUNet", **changes):
    """The block of that name; ``changes`` replace arguments, None removes one."""
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    arguments = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        blocks: [2, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    arguments |= changes
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def resampling():
    kwargs = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": kwargs,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**kwargs, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**kwargs, "order": 1},
    }


def plans(network=None, **configuration):
    """The content of ``plans.json``; ``configuration`` replaces settings of ``3d_fullres``."""
    settings = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16, 16],
        "median_image_size_in_voxels": [32.0, 32.0, 32.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        **resampling(),
        "architecture": network or architecture(),
        "batch_dice": False,
        **configuration,
    }
    return {
        "dataset_name": "Dataset001_Scroll",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [32, 32, 32],
        "image_reader_writer": "Tiff3DIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": settings},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 255.0,
                "mean": 87.5,
                "median": 90.0,
                "min": 0.0,
                "percentile_00_5": 3.0,
                "percentile_99_5": 250.5,
                "std": 47.7,
            }
        },
    }


def old_plans(kind="PlainConvUNet", **configuration):
    """Plans of the first releases, without ``architecture``."""
    content = plans(
        UNet_class_name=kind,
        UNet_base_num_features=4,
        unet_max_num_features=7,
        n_conv_per_stage_encoder=[1, 2, 2],
        n_conv_per_stage_decoder=[2, 1],
        num_pool_per_axis=[2, 2, 2],
        pool_op_kernel_sizes=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        conv_kernel_sizes=[[3, 3, 3], [3, 3, 3], [3, 3, 3]],
        **configuration,
    )
    del content["configurations"]["3d_fullres"]["architecture"]
    content["foreground_intensity_properties_by_modality"] = content.pop("foreground_intensity_properties_per_channel")
    return content


def dataset(labels=None, **changes):
    """The content of ``dataset.json``."""
    return {
        "channel_names": {"0": "CT"},
        "labels": labels or LABELS,
        "numTraining": 2,
        "file_ending": ".tif",
        **changes,
    }


def write_json(folder, plans_content, dataset_content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans_content))
    (folder / "dataset.json").write_text(json.dumps(dataset_content))


def make_weights(plans_content, dataset_content, seed=0, configuration="3d_fullres"):
    """The state dictionary of one network with random weights, listed twice as nnU-Net's is."""
    parsed = parse_plans(plans_content, configuration)
    n_classes = parse_labels(dataset_content).output_rule().n_channels
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model("nnunet", n_classes=n_classes, **copy.deepcopy(parsed.network))
        weights = {}
        for name, value in model.members[0].state_dict().items():
            value = value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value
            weights[name] = value
            if ".conv." in name:
                weights[name.replace(".conv.", ".all_modules.0.")] = value
            if name.startswith("encoder."):
                weights[f"decoder.{name}"] = value
    return weights


def write_checkpoint(path, weights, configuration="3d_fullres", mirror_axes=(0, 1, 2), **changes):
    """A file as the trainer writes it; ``changes`` replace entries, and ``...`` leaves one out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "network_weights": weights,
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "train_losses": [np.float32(0.1)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 2,
        "init_args": {"plans": {}, "configuration": configuration, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirror_axes,
        **changes,
    }
    torch.save({key: value for key, value in content.items() if value is not ...}, path)
    return path


def write_nnunet_folder(
    folder, plans_content=None, dataset_content=None, *, folds=(0,), name="final", seed=0, weights=None, **changes
):
    """A results folder; returns it."""
    plans_content = plans() if plans_content is None else plans_content
    dataset_content = dataset() if dataset_content is None else dataset_content
    write_json(folder, plans_content, dataset_content)
    for number, fold in enumerate(folds):
        own = make_weights(plans_content, dataset_content, seed + number) if weights is None else weights
        write_checkpoint(folder / f"fold_{fold}" / f"checkpoint_{name}.pth", own, **changes)
    return folder
