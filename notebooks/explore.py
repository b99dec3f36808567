# ruff: noqa: E402 - a notebook imports where it needs things

# %% [markdown]
# # Explore: what is in a scroll?
#
# Before training anything: how do the chunks look, what did people label, how thick is the line they drew, and how
# different is one scroll from the next?
#
# **It runs as it is** on Kaggle (internet off, no GPU needed) and at home, where it makes a small phantom scroll when
# it finds no data.
#
# To attach on Kaggle: the competition and your dataset `vesuvius-kit-bundle`.

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
# Reading a full-size volume with its label takes a second or two. Three of each scroll are enough to see how scrolls
# differ.

# %%
import vesuvius_kit as vk
from vesuvius_kit.console import show_progress
from vesuvius_kit.kaggle.session import open_session

VOLUMES_PER_SCROLL = int(os.environ.get("VESUVIUS_KIT_VOLUMES", "3"))

session = open_session(progress=show_progress)
print(session.to_text())
competition = vk.Competition(session.data)

# %% [markdown]
# ## 3. The folder
# Rows without files, withdrawn pairs, shapes, and the shares of the label's three values over *all* labels. Label 2
# means *unlabelled*: whoever reads it as surface, or as background, trains on a lie.

# %%
print(competition.audit(progress=show_progress).to_text())

# %% [markdown]
# ## 4. Slices in three directions
# One chunk of each scroll, cut across z, y and x. The lower half of each slice carries the label: orange is the
# surface, the blue haze is labelled background, and what is darkened is unlabelled. The upper half is bare: could you
# have drawn the line?

# %%
from IPython.display import Image

from vesuvius_kit.report import survey_scrolls, survey_to_text, write_slices_page, write_survey_page

surveys = survey_scrolls(competition.require_train(), VOLUMES_PER_SCROLL, progress=show_progress)
Image(write_slices_page(session.working / "slices.png", [survey.chunks[0] for survey in surveys]))

# %% [markdown]
# ## 5. How scrolls differ
# Left: most voxels are unlabelled. Middle: the drawn line is about two voxels thick, so a prediction that is off by
# two has missed it; the score forgives exactly that much. Right: two humps, air and papyrus, and they sit elsewhere
# in each scroll: a fixed grey threshold cannot work, and a fold that mixes scrolls hides it.

# %%
print(survey_to_text(surveys))
Image(write_survey_page(session.working / "survey.png", surveys))
