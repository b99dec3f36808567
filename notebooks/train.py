# ruff: noqa: E402 - a notebook imports where it needs things

# %% [markdown]
# # Train: find the papyrus surface
#
# A rolled-up scroll, carbonised in 79 AD, seen by X-ray: the papyrus is a sheet a few voxels thin, wound dozens of
# times. This notebook trains a network that marks the side of the sheet which faces the scroll's centre.
#
# **It runs as it is** on Kaggle (internet off, both T4s) and at home. Without data it makes a small phantom scroll of
# its own, and without a GPU it takes quick settings: a minute or two, to see every step happen.
#
# To attach on Kaggle: the competition *Vesuvius Challenge - Surface Detection* and your dataset
# `vesuvius-kit-bundle`.

# %% [markdown]
# ## 1. Install
# Nothing is downloaded: the kit and the few packages that Kaggle's image lacks come from the attached bundle.

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

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
# `CONFIG` names a settings file that ships with the kit (or the path of your own), `SETTINGS` replaces single values
# in it. Both can come from outside, through environment variables, so that nobody has to edit a notebook to try
# something. A session ends after twelve hours, and one that Kaggle has to end may leave nothing: no epoch begins that would
# not end within `BUDGET`, and what is left of the twelve hours is for the cells around the training.

# %%
import json

import vesuvius_kit as vk
from vesuvius_kit.config import changed_settings
from vesuvius_kit.console import show_progress
from vesuvius_kit.kaggle.session import find_earlier_checkpoint, find_free_port, open_session

session = open_session(progress=show_progress)
CONFIG = os.environ.get("VESUVIUS_KIT_CONFIG", session.config)
BUDGET = os.environ.get("VESUVIUS_KIT_BUDGET", "11h")
SETTINGS = session.settings | json.loads(os.environ.get("VESUVIUS_KIT_SETTINGS", "{}"))
RUN = session.working / "checkpoints"

config = vk.load_config(CONFIG, {"data": str(session.data), "output": str(RUN), "train.budget": BUDGET} | SETTINGS)
EARLIER = find_earlier_checkpoint(config.fold_list[0])  # where the last session ended, if its output is attached
print(session.to_text())
changed = changed_settings(vk.config_to_dict(vk.RunConfig()), vk.config_to_dict(config))
print("different from the defaults:", *changed, sep="\n  ")

# %% [markdown]
# ## 3. Are the data in order?
# Files cut off by a broken copy, labels with strange values, images and labels of different shapes: better found now
# than after nine hours. Label 2 means *unlabelled*. It is most of each volume, and nothing in the kit takes
# it for background.

# %%
competition = vk.Competition(config.data)
print(competition.audit(progress=show_progress).to_text())

# %% [markdown]
# ## 4. Train
# One process for each GPU. A checkpoint is written after every epoch: restart, run all, and it goes on where it was
# stopped. When the budget ends first, attach this notebook's own output to its next session, and that goes on too.
# The folds never split a scroll, since chunks of one scroll look alike and would flatter the score.

# %%
from functools import partial, update_wrapper

run = partial(vk.train, config, resume_from=EARLIER, progress=show_progress)
update_wrapper(run, vk.train)  # the launcher asks a function for its name
if session.processes > 1:
    from accelerate import notebook_launcher

    notebook_launcher(run, num_processes=session.processes, use_port=find_free_port())
else:
    run()

# %% [markdown]
# ## 5. How did it go?
# Left: the loss should fall on the patches it trains on *and* on those of a scroll it never saw; squares are the
# competition's score on whole volumes. Middle: the components of the loss. Right: the learning rate, which can never
# pass five times its base; a triangle is a raise.

# %%
from IPython.display import Image

from vesuvius_kit.report import write_training_page

Image(write_training_page(session.working / "training.png", RUN))

# %% [markdown]
# ## 6. If it does not learn
# The kit reads the log and says in words what is wrong, if anything, with the numbers it goes by, and what to change:
# the loss first, the learning rate last.

# %%
from vesuvius_kit.io.run_folder import list_folds

for fold in list_folds(RUN):
    print(vk.diagnose(fold).to_text())

# %% [markdown]
# ## 7. What does the network see?
# The best checkpoint on a chunk of the scroll that was held out: green is found, orange is not there, blue is missed.
# The dark parts were never labelled, so nothing can be said about them. Below it the largest errors, each in the slice that
# shows it best: sheets that merged or were cut, tunnels and pieces that should not be there. `report.html`, among the
# notebook's output, has all of it on one page: download it and leaf through the chunk in three directions.

# %%
import tempfile

import numpy as np
from IPython.display import display

from vesuvius_kit.models.checkpoint import find_checkpoints
from vesuvius_kit.report import Places, write_prediction_page
from vesuvius_kit.training.from_config import inference_window

chunk = competition.folds(config.n_folds, config.train.seed)[config.fold_list[0]][1][0]
image, label = vk.read_volume(chunk.image_path), vk.read_volume(chunk.label_path)
model = vk.load_model(find_checkpoints([RUN])[0])
probability = vk.predict_volume(model, image, window=inference_window(config), progress=show_progress)
mask = vk.make_mask(probability, config.postprocess.pipeline, config.postprocess.steps)
score = vk.leaderboard_score(mask, label)
title = f"chunk {chunk.id}, scroll {chunk.scroll_id} held out: score {score.score:.3f}, surface dice {score.surface_dice:.3f}"
print(title)
probabilities = tempfile.mkdtemp()
np.save(Path(probabilities) / f"{chunk.id}.npy", probability.astype(np.float16))
places = Places(data=config.data, probabilities=probabilities)
vk.write_report(session.working / "report.html", RUN, places=places, figures=session.working, progress=show_progress)
display(Image(write_prediction_page(session.working / "held_out.png", image, mask, title, label=label)))
display(Image(session.working / "errors.png"))

# %% [markdown]
# ## 8. What to take along
# Kaggle keeps this folder as the notebook's output. Attach it to the notebook *submit* (Add input, Notebook), or
# upload `checkpoints` as a dataset of its own. `best` is what predicts; `last` also holds the optimiser and resumes
# the training.

# %%
for path in sorted(RUN.glob("fold_*/*/checkpoint.safetensors")):
    print(f"{path.stat().st_size / 1e6:9.1f} MB  {path.relative_to(session.working)}")
