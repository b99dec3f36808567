# ruff: noqa: E402 - a notebook imports where it needs things

# %% [markdown]
# # Why did it stop learning?
#
# A run stopped learning at epoch 5, at a loss of 0.57, while its learning rate was raised to 92.5 times the base. Three
# things were suspected: labels read as `label > 0`, so that *unlabelled* counted as surface; a loss term that
# rewards an undecided output; and the handler that raised the rate. Each was switched on and off, alone and together, on
# phantom scrolls, where the whole truth is known. This notebook shows what came of it, and repeats as much as you like.
#
# Run it from a checkout of the kit. It reads the runs that lie in `docs/plateau_runs.jsonl`; the answer in words is in
# `docs/plateau.md`.

# %%
import sys
from pathlib import Path

checkout = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "benchmarks").is_dir())
sys.path.insert(0, str(checkout / "benchmarks" / "plateau"))

import report
import study
from IPython.display import Image, Markdown

results = report.read_results(checkout / "docs" / "plateau_runs.jsonl")
print(f"{len(results)} runs of {len({result['cell'] for result in results})} cells")

# %% [markdown]
# ## What each cell reached
# A cell is a reading of the labels, a weight of the variance term and a handler; or v5 or v6 whole. *Dice* is
# SurfaceDice at 2 voxels against the full truth on chunks that were held out: with the mask at 0.5, and with the mask
# that has the truth's share of voxels, which asks only what the network knows and not how loudly it says so.

# %%
Markdown(report.write_table(results, report.TRAINING) + "\n\n" + report.write_table(results))

# %% [markdown]
# ## What each suspect does
# The difference between runs that differ in one suspect alone, with the same seed.

# %%
Markdown(
    "\n\n".join(report.write_effects(results, figure) for figure in ("dice matched", "dice at 0.5", "area under curve"))
)

# %% [markdown]
# ## The curves
# Losses of different columns are different losses: compare their shapes, not their heights. The dotted line is the cap of
# the bounded controller, five times the base rate.

# %%
report.draw_curves(results, "plateau_curves.png")
Image("plateau_curves.png")

# %% [markdown]
# ## Where the runs end
# One dot a seed; the line is their mean. Red read the labels wrongly.

# %%
report.draw_scores(results, "plateau_scores.png")
Image("plateau_scores.png")

# %% [markdown]
# ## Repeat a part of it
# Two cells and one seed, scaled down to minutes. For the whole study: `python benchmarks/plateau/study.py`.

# %%
scale = study.Scale(chunk=64, train_chunks=4, initial_filters=4, depth=1, patch=32, epochs=3, steps=4)
cells = ["foreground-variance0.5-legacy", "ignored-variance0-bounded"]
written = study.run_study("dist/plateau_study_small", cells, [0], scale)
Markdown(report.write_table(report.read_results("dist/plateau_study_small/results")))
