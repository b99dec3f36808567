"""Train small networks with nnU-Net itself: ``python -m tests.helpers.nnunet_training JOBS.json FOLDER``.

In a process of its own: nnU-Net reads its folders from the environment when it is imported, and talks a lot.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

N_CASES = 3


def make_cases(n_labels, seed=0):
    """Phantoms with a black border, and labels 0 to ``n_labels - 1`` and above them ``ignore``."""
    from vesuvius_kit.phantom import make_phantom

    for number in range(N_CASES):
        phantom = make_phantom((32, 36, 40), seed=seed + number)
        image, label = phantom.image.copy(), np.asarray(phantom.label).astype(np.int16)
        for axis in range(3):
            np.moveaxis(image, axis, 0)[[0, 1, -1]] = 0
        ignored = label == 2
        label[ignored] = 0
        if n_labels > 2:
            # Two sheets that a network can tell apart: above and below the middle.
            label[16:][label[16:] == 1] = 2
        label[ignored] = n_labels
        yield image, label


def train(job, preprocessed, results):
    """Preprocess the cases and train every fold of a job for a few steps."""
    import torch
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans, dataset = job["plans"], job["dataset"]
    plans = {**plans, "dataset_name": f"Dataset{job['number']:03d}_{job['name']}"}
    base = preprocessed / plans["dataset_name"]
    manager = PlansManager(json.loads(json.dumps(plans)))
    configuration = manager.get_configuration("3d_fullres")
    target = base / configuration.data_identifier
    target.mkdir(parents=True)
    (base / "dataset_fingerprint.json").write_text("{}")
    names = [f"case_{number}" for number in range(N_CASES)]
    splits = [{"train": names[:fold] + names[fold + 1 :], "val": [names[fold]]} for fold in range(N_CASES)]
    (base / "splits_final.json").write_text(json.dumps(splits))
    numbers = {n for value in dataset["labels"].values() for n in (value if isinstance(value, list) else [value])}
    n_labels = len(numbers) - ("ignore" in dataset["labels"])
    for name, (image, label) in zip(names, make_cases(n_labels)):
        if "ignore" not in dataset["labels"]:
            label[label == n_labels] = 0
        data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            image[None], label[None], {"spacing": list(job["spacing"])}, manager, configuration, dataset
        )
        nnUNetDatasetBlosc2.save_case(data, seg, properties, str(target / name))
    for fold in job["folds"]:
        torch.manual_seed(fold)
        np.random.seed(fold)
        own = {**json.loads(json.dumps(plans)), "continue_training": False}
        trainer = nnUNetTrainer(own, "3d_fullres", fold, dataset, device=torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, job["steps"], 1
        trainer.initial_lr = 0.05
        trainer.plot_network_architecture = lambda: None
        trainer.run_training()
        folder = Path(trainer.output_folder_base)
    (results / job["name"]).symlink_to(folder, target_is_directory=True)


def main(jobs_path, folder):
    folder = Path(folder).absolute()
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    for number, job in enumerate(json.loads(Path(jobs_path).read_text()), start=1):
        train({**job, "number": number}, folder / "preprocessed", folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
