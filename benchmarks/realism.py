"""How like a scan the phantom is: the same figures of real axial slices and of phantoms, side by side.

    VESUVIUS_KIT_REAL=real python benchmarks/realism.py                    # real slices beside all styles
    python benchmarks/realism.py --styles pressed laminar --seeds 1 2     # phantoms alone

The folder holds ``slices/slices.npz``: pairs ``{name}/image`` and ``{name}/label``, uint8 of 320 x 320, as they were
recovered from published figures. Every figure is taken from single axial slices, since that is what there is of real chunks.
"""

import argparse
import itertools
import os
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.feature import structure_tensor
from skimage.morphology import skeletonize

from vesuvius_kit.phantom import list_styles, make_phantom

BORDER = 3
SLICES = (48, 160, 272)


def load_real(folder):
    """Image and label of the real slices by scroll."""
    kept = np.load(Path(folder) / "slices" / "slices.npz")
    pairs = {}
    for key in kept:
        if key.endswith("/image"):
            name = key.removesuffix("/image")
            pairs.setdefault(name.split("_")[0], []).append((kept[key], kept[f"{name}/label"]))
    return pairs


def make_slices(style, seeds, edge):
    """Image and label of axial slices of phantoms."""
    pairs = []
    for seed in seeds:
        phantom = make_phantom(edge, seed, style)
        pairs += [(phantom.image[z], phantom.label[z]) for z in SLICES if z < edge]
    return pairs


def measure_slice(image, label):
    """The figures of one slice; what a slice cannot tell is NaN."""
    inner = (slice(BORDER, -BORDER),) * 2
    image, label = image[inner].astype(np.float64), label[inner]
    line = label == 1
    figures = {}
    for share in (5, 25, 50, 75, 95):
        figures[f"grey, {share} %"] = np.percentile(image, share)
    figures |= measure_spectrum(image)
    figures |= measure_correlation(image)
    slope = ndimage.gaussian_gradient_magnitude(image, 1.0)
    bright = image > np.median(image)
    figures["gradient, line / papyrus"] = slope[line].mean() / slope[bright].mean() if line.any() else np.nan
    figures["brightness, line / papyrus"] = image[line].mean() / image[bright].mean() if line.any() else np.nan
    figures["surface %"] = 100 * line.mean()
    figures["unlabelled %"] = 100 * (label == 2).mean()
    return figures | measure_lines(line, label)


def measure_spectrum(image):
    """Share of the variance in bands of wavelengths, in voxels."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij"))
    bands = ((2, 4), (4, 8), (8, 16), (16, 32), (32, 64))
    total = power[frequency > 1 / 128].sum()
    return {
        f"variance at {low} to {high} %": 100
        * power[(frequency > 1 / high) & (frequency <= 1 / low)].sum() / total
        for low, high in bands
    }  # fmt: skip


def measure_correlation(image):
    """Correlation of grey values along and across the sheets, whose direction the structure tensor tells."""
    a_rr, a_rc, a_cc = structure_tensor(ndimage.gaussian_filter(image, 1.0), sigma=6.0, order="rc")
    angle = 0.5 * np.arctan2(2 * a_rc, a_rr - a_cc)  # of the strongest change
    margin = 20
    rows, columns = np.mgrid[margin : image.shape[0] - margin : 2, margin : image.shape[1] - margin : 2]
    normal = np.stack([np.cos(angle), np.sin(angle)])[:, rows, columns]
    figures = {}
    for name, direction in (("across", normal), ("along", np.stack([-normal[1], normal[0]]))):
        for lag in (2, 4, 8, 16):
            ends = [
                ndimage.map_coordinates(image, [rows + s * direction[0], columns + s * direction[1]], order=1)
                for s in (-lag / 2, lag / 2)
            ]
            figures[f"correlation {name}, {lag}"] = np.corrcoef(ends[0].ravel(), ends[1].ravel())[0, 1]
    return figures


def measure_lines(line, label):
    """Thickness, distance and bend of labelled lines."""
    figures = dict.fromkeys(
        ("thickness median", "thickness mean", "gap between lines median", "gap between lines 5 %"), np.nan
    )
    figures |= dict.fromkeys(("bend over 16 voxels median, degrees", "bend over 16 voxels 95 %, degrees"), np.nan)
    if not line.any():
        return figures
    runs = np.minimum(run_lengths(line, 0), run_lengths(line, 1))[line]
    figures["thickness median"], figures["thickness mean"] = np.median(runs), runs.mean()
    gaps = []
    for axis in (0, 1):
        length = run_lengths(label == 0, axis)
        lines = label if axis == 1 else label.T
        lengths = length if axis == 1 else length.T
        for row, long in zip(lines, lengths, strict=True):
            edges = np.flatnonzero(np.diff(row.astype(int)))
            gaps += [long[a + 1] for a, b in itertools.pairwise(edges) if row[a] == row[b + 1] == 1 and row[a + 1] == 0]
    if gaps:
        figures["gap between lines median"], figures["gap between lines 5 %"] = np.median(gaps), np.percentile(gaps, 5)
    bends = measure_bends(skeletonize(line))
    if bends.size:
        figures["bend over 16 voxels median, degrees"] = np.median(bends)
        figures["bend over 16 voxels 95 %, degrees"] = np.percentile(bends, 95)
    return figures


def run_lengths(mask, axis):
    """For each voxel of a mask the length of its run along an axis, 0 elsewhere."""
    moved = np.moveaxis(mask, axis, 1)
    out = np.zeros(moved.shape, int)
    for row, lengths in zip(moved, out, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.view(np.int8), [0]])))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            lengths[start:stop] = stop - start
    return np.moveaxis(out, 1, axis)


def measure_bends(skeleton):
    """Angles between the chords of 8 voxels before and after the points of a skeleton's curves, in degrees."""
    bends = []
    labels, count = ndimage.label(skeleton, np.ones((3, 3)))
    for box, k in zip(ndimage.find_objects(labels), range(1, count + 1), strict=True):
        points = np.argwhere(labels[box] == k)
        if len(points) < 24:
            continue
        # Ordered along the longer side of the box, which a curve that doubles back defeats: those are left out.
        axis = int(np.argmax(np.ptp(points, axis=0)))
        points = points[np.argsort(points[:, axis], kind="stable")].astype(float)
        if np.bincount(points[:, axis].astype(int)).max() > 4:
            continue
        smooth = ndimage.gaussian_filter1d(points, 2.0, axis=0, mode="nearest")
        before, after = smooth[8:-8] - smooth[:-16], smooth[16:] - smooth[8:-8]
        cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        bends.append(np.degrees(np.abs(np.arctan2(cross, (before * after).sum(axis=1)))))
    return np.concatenate(bends) if bends else np.empty(0)


def print_table(columns):
    """One row a figure, one column a kind: the mean over its slices."""
    figures = list(next(iter(columns.values()))[0])
    print("| | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for figure in figures:
        cells = []
        for rows in columns.values():
            values = np.array([row[figure] for row in rows])
            values = values[np.isfinite(values)]
            cells.append(f"{values.mean():.3g} ({values.min():.3g} to {values.max():.3g})" if values.size else "")
        print(f"| {figure} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", nargs="*", default=list(list_styles()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--edge", type=int, default=320)
    given = parser.parse_args()
    columns = {}
    if real := os.environ.get("VESUVIUS_KIT_REAL"):
        columns |= {f"real {name}": pairs for name, pairs in load_real(real).items()}
    else:
        print("VESUVIUS_KIT_REAL is not set: phantoms alone\n")
    columns |= {style: make_slices(style, given.seeds, given.edge) for style in given.styles}
    print_table({name: [measure_slice(*pair) for pair in pairs] for name, pairs in columns.items()})


if __name__ == "__main__":
    main()
