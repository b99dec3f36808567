# ruff: noqa: E402 - a notebook imports where it needs things

# %% [markdown]
# # Submit: from test images to `submission.zip`
#
# The trained network marks the papyrus surface in every test chunk, the masks are repaired and packed, and the
# archive is checked before anybody sees it. All of it within the nine hours that Kaggle grants: the run plans its time,
# sheds views, then networks, then overlap when it must, and there is a valid archive to score at every moment.
#
# **It runs as it is** in Kaggle's editor, in *Save & Run All*, in the hidden rerun, and at home (on a small phantom,
# with a network trained on the spot, when it finds nothing better).
#
# To attach on Kaggle: the competition, your dataset `vesuvius-kit-bundle`, and a model: the dataset
# `vesuvius-kit-models`, the output of the notebook *train*, or a dataset with an nnU-Net results folder. Internet off.

# %% [markdown]
# ## 1. Install
# Nothing is downloaded: the kit and the few packages that Kaggle's image lacks come from the attached bundle.

# %%
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

STARTED = time.monotonic()
if importlib.util.find_spec("vesuvius_kit") is None:
    root = Path(os.environ.get("VESUVIUS_KIT_INPUT", "/kaggle/input"))
    places = ("vesuvius-kit-bundle", "datasets/*/vesuvius-kit-bundle")  # Kaggle mounts datasets in either way
    installers = sorted(path for place in places for path in root.glob(f"{place}/install.py"))
    if not installers:
        raise SystemExit(f"Attach the dataset vesuvius-kit-bundle: no install.py in {places} of {root}")
    subprocess.run([sys.executable, installers[0]], check=True)
    importlib.invalidate_caches()

# %% [markdown]
# ## 2. Settings
# Every model found among the inputs is used, averaged, nnU-Net's as nnU-Net would. The settings are those that they
# were trained with, where they agree; above them lie those of a `tuned.yaml` beside the models, which `ship --tuned` sends.
# `SETTINGS` replaces single ones, for example `{"predict.tta": "mirror", "postprocess.pipeline": "public"}`. `BUDGET`
# counts from the first cell; half an hour of Kaggle's nine stays unused for starting and scoring.

# %%
import json

import vesuvius_kit as vk
from vesuvius_kit.checks import check_duration
from vesuvius_kit.console import show_progress
from vesuvius_kit.kaggle.paths import find_tuned
from vesuvius_kit.kaggle.session import find_or_train_models, open_session, stored_settings

BUDGET = os.environ.get("VESUVIUS_KIT_BUDGET", "8h30m")
SETTINGS = {"predict.device": "auto", "predict.precision": "auto"} | json.loads(
    os.environ.get("VESUVIUS_KIT_SETTINGS", "{}")
)

session = open_session(progress=show_progress)
print(session.to_text())
models = find_or_train_models(session, progress=show_progress)
config = vk.load_config(None, stored_settings(models) | SETTINGS)
print("models:     ", *models)
print("tuned:      ", find_tuned(models) or "no tuned.yaml beside the models")
print("predict:    ", config.predict)
print("postprocess:", config.postprocess)

# %% [markdown]
# ## 3. Predict against the clock
# Window by window over each volume, then the repair: sheets are drawn along the ridges of the probability, gaps are bridged,
# tunnels slit, crumbs dropped. The table shows the plans with the time that each would take; every volume gets the largest
# that fits. Stop and run the cell again: it goes on with the first volume that has no mask yet.

# %%
IMAGES = session.data / "test_images"
summary = vk.write_submission(
    session.working / "submission.zip",
    IMAGES,
    models,
    config.predict,
    config.postprocess,
    budget_seconds=check_duration("BUDGET", BUDGET) - (time.monotonic() - STARTED),
    show_plan=print,
    progress=show_progress,
)
print(f"{len(summary.predicted)} predicted, {len(summary.simple)} with a simple mask, {summary.seconds:.0f} s")
print(*summary.warnings, sep="\n")

# %% [markdown]
# ## 4. Is it acceptable?
# One mask for each test image and nothing else, uint8, zeros and ones, exactly the image's shape. Anything else
# raises an error here instead of costing a submission.

# %%
n_masks = vk.validate_submission(summary.zip_path, IMAGES)
print(f"{summary.zip_path}: valid, {n_masks} masks, {summary.zip_path.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# ## 5. Look at it
# The first test chunk that was predicted, as the scanner saw it and with the predicted surface painted over: each wrap
# should carry one thin unbroken line, on the side that faces the scroll's centre. Lines that jump from one wrap to the
# next are what hurts the unwrapping most. (Paint in the black frame is harmless: the outermost voxels are never
# labelled, and nothing counts there.)

# %%
from IPython.display import Image, display

from vesuvius_kit.report import write_prediction_page

for chunk in [chunk for chunk in vk.Competition(session.data).require_test() if chunk.id in summary.predicted][:1]:
    mask = vk.read_volume(session.working / "submission_masks" / f"{chunk.id}.tif")
    title = f"test chunk {chunk.id}, scroll {chunk.scroll_id or 'unknown'}: {mask.mean():.1%} surface"
    image = vk.read_volume(chunk.image_path)
    display(Image(write_prediction_page(session.working / "submission.png", image, mask, title)))
