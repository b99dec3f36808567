"""Before and after for each repair, on small scenes made for it, and for whole pipelines on a phantom.

    python benchmarks/repair_pictures.py --output docs/images

White stays, green is added, red is removed. Each scene is a cut through the fault that the step is for; the holes of sheets are
seen face on, as the number of voxels above one another.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from scipy import ndimage

from vesuvius_kit.phantom import make_phantom
from vesuvius_kit.postprocess import load_pipeline, run_pipeline
from vesuvius_kit.postprocess.pipeline import STEPS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WHITE, GREEN, RED, DARK = (0.85, 0.85, 0.85), (0.2, 0.8, 0.3), (0.9, 0.2, 0.2), (0.08, 0.08, 0.1)


def wraps(shape=(36, 48, 48), gap=9, tilt=0.25):
    """Two tilted layers, three voxels thick, with a hole in the upper one."""
    z, y, x = np.mgrid[tuple(slice(0, edge) for edge in shape)]
    height = 6 + tilt * y + 1.5 * np.sin(x / 7)
    return np.abs(z - height) <= 1.3, np.abs(z - height - gap) <= 1.3


def scenes():
    """Name of the step: (probability or None, mask, parameters, how to look at it)."""
    first, second = wraps(gap=14)
    _, y, x = np.mgrid[:36, :48, :48]
    hole = (y - 24) ** 2 + (x - 24) ** 2 <= 49
    cut = ("cut", 24)
    stairs = np.zeros((36, 48, 48), bool)
    for k in range(36):
        stairs[k, :, k + 6] = True
    both = first | second
    height = np.mgrid[:36, :48, :48][0] - 6 - 0.25 * y - 1.5 * np.sin(x / 7)
    bridged = both | ((np.abs(y - 24) <= 1) & (np.abs(x - 24) <= 1) & (height > 0) & (height < 14))
    strength = 0.9 * both + 0.5 * (bridged & ~both)
    cracked = first & ((np.abs(y - 24) > 2) | (np.abs(x - 24) > 15))
    faded = strength * (0.5 + 0.5 * (np.abs(y - 24) > 4))
    uneven = np.abs(height) <= 0.4 + 2.2 * (np.sin(y / 4) > 0)
    ragged = first & ((y + x) % 7 != 0)
    rough = np.abs(np.mgrid[:36, :48, :48][0] - 12 - ndimage.gaussian_filter(
        np.random.default_rng(0).normal(0, 5, (48, 48)), 1.2)) <= 1.3  # fmt: skip
    close_by = np.logical_or(*wraps(gap=8))
    blurred = np.clip(ndimage.gaussian_filter(1.6 * close_by, 1.8), 0, 1)
    return {
        "trace_ridges": (blurred, blurred >= 0.25, {"sigma": 1.5, "thickness": 2.0}, cut),
        "plug_pinholes": (None, stairs, {}, ("side", 24)),
        "patch_heights": (None, first & ~hole, {}, ("face", 0)),
        "flatten_sheets": (None, rough, {"min_coverage": 0.3}, cut),
        "close_sheets": (None, ragged | second, {"radius": 3}, ("cut", 21)),
        "separate_sheets": (strength, bridged, {"thresholds": [0.6]}, cut),
        "grow_sheets": (strength, strength > 0.8, {"t_low": 0.4}, cut),
        "assemble_wraps": (faded, faded > 0.8, {"t_low": 0.2, "min_contact": 1}, cut),
        "bridge_gaps": (None, cracked | second, {"length": 9}, cut),
        "cut_bridges": (None, bridged, {}, cut),
        "redraw_sheets": (None, uneven | second, {"thickness": 3.0, "sigma": 1.5, "axial": False}, cut),
        "slit_tunnels": (strength, first & ((y - 12) ** 2 + (x - 12) ** 2 > 20) & (y < 23), {}, ("face", 0)),
    }


def look(mask, view):
    """A 2-D picture of a mask: a cut across x, or from the side across y, or the shadow along z."""
    if view[0] == "face":
        return mask.any(axis=0)
    return mask[:, :, view[1]] if view[0] == "cut" else mask[:, view[1]]


def paint(before, after):
    image = np.empty((*before.shape, 3))
    image[:] = DARK
    image[before & after], image[after & ~before], image[before & ~after] = WHITE, GREEN, RED
    return image


def draw_steps(path):
    found = scenes()
    figure, axes = plt.subplots(4, 6, figsize=(13, 8.2), facecolor="white")
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (name, (probability, mask, parameters, view)) in enumerate(found.items()):
        given = {"mask": mask}
        if probability is not None:
            given = {"probability": probability.astype(np.float32), "mask": mask}
        if name == "trace_ridges":
            after = STEPS[name](given["probability"], **parameters) > 0.05
        else:
            after = STEPS[name](**given, **parameters)
        row, column = divmod(number, 3)
        left, right = axes[row, 2 * column], axes[row, 2 * column + 1]
        shown = look(mask, view), look(after, view)
        left.imshow(paint(shown[0], shown[0]), interpolation="nearest")
        right.imshow(paint(*shown), interpolation="nearest")
        left.set_title(f"{name}\nbefore", fontsize=9)
        right.set_title(f"+{int((after & ~mask).sum()):,} -{int((mask & ~after).sum()):,} voxels\nafter", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def simulate(edge=160, seed=5):
    """A phantom's sheets as an unsure network might see them: uneven, with gaps, bridges and crumbs."""
    phantom = make_phantom(edge, seed, "dense")
    rng = np.random.default_rng(seed)

    def field(sigma):
        noise = ndimage.gaussian_filter(rng.standard_normal(phantom.surface.shape, dtype=np.float32), sigma)
        return noise / noise.std()

    near = ndimage.gaussian_filter(phantom.surface.astype(np.float32), 1.2)
    probability = near / near.max() * np.clip(0.9 + 0.28 * field(5), 0, 1) + 0.12 * field(1.5)
    return phantom, np.clip(probability, 0, 1).astype(np.float32)


def draw_pipelines(path, names=("raw", "public", "first_place", "second_place", "sheet_repair")):
    phantom, probability = simulate()
    figure, axes = plt.subplots(1, 1 + len(names), figsize=(15, 3.1), facecolor="white")
    z = phantom.surface.shape[0] // 3
    axes[0].imshow(probability[z], cmap="gray", vmin=0, vmax=1)
    axes[0].set_title("probability", fontsize=9)
    for axis, name in zip(axes[1:], names):
        mask = run_pipeline(probability, load_pipeline(name))
        # Each wrap, as far as it is one component, has its own colour.
        labels = ndimage.label(mask, np.ones((3, 3, 3)))[0][z]
        axis.imshow(np.where(labels > 0, 1 + labels % 9, np.nan), cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
        axis.set_facecolor("black")
        axis.set_title(name, fontsize=9)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    draw_steps(folder / "postprocess_steps.png")
    draw_pipelines(folder / "postprocess_pipelines.png")


if __name__ == "__main__":
    main()
