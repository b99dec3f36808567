"""Time, memory and figures of the phantom, and a picture of it.

    python benchmarks/phantom.py                          # 320^3, two chunks of every style
    python benchmarks/phantom.py --shape 128 --repeats 1
    python benchmarks/phantom.py --png docs/images/phantom.png --beside some_real_slices.png

Prints, beside the figures of the real data, the seconds a chunk takes (best and median), the peak memory of the process,
the shares of the label's values, the thickness of the label's lines and the grey values of air and papyrus.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np

from vesuvius_kit.phantom import list_styles, make_phantom

BORDER = 3
REAL = {"background %": "37.3", "surface %": "4.9", "unlabelled %": "57.8 to 71", "thickness median": "3",
        "thickness mean": "3.05 to 3.23", "grey of gaps": "50 to 70", "grey of sheets": "100 to 150"}  # fmt: skip


def measure_thickness(mask):
    """Thickness at each true voxel of thin sheets: the shortest of the three axis-parallel runs through it."""
    shortest = np.full(mask.shape, max(mask.shape))
    for axis in range(3):
        lines, view = np.moveaxis(mask, axis, -1), np.moveaxis(shortest, axis, -1)
        change = np.diff(np.pad(lines, [(0, 0), (0, 0), (1, 1)]).astype(np.int8).ravel())
        lengths = np.flatnonzero(change == -1) - np.flatnonzero(change == 1)
        view[lines] = np.minimum(view[lines], np.repeat(lengths, lengths))
    return shortest[mask]


def describe(phantom):
    """The figures of one chunk that have a counterpart in the real data."""
    inner = (slice(BORDER, -BORDER),) * 3
    background, surface, unlabelled = 100 * np.bincount(phantom.label.ravel(), minlength=3) / phantom.label.size
    # A cube from the middle is enough for a median, and the runs of a whole chunk take a minute.
    middle = tuple(slice(max(edge // 2 - 64, 0), edge // 2 + 64) for edge in phantom.label.shape)
    lines = measure_thickness(phantom.label[middle] == 1)
    grey = phantom.image[inner]
    split = (int(grey.max()) + int(grey.min())) // 2 if grey.std() == 0 else otsu(grey)
    return {
        "background %": background,
        "surface %": surface,
        "unlabelled %": unlabelled,
        "thickness median": float(np.median(lines)) if lines.size else float("nan"),
        "thickness mean": float(lines.mean()) if lines.size else float("nan"),
        "grey of gaps": float(np.median(grey[grey <= split])),
        "grey of sheets": float(np.median(grey[grey > split])),
    }


def otsu(grey):
    """Otsu's threshold of uint8 values, specks left out."""
    counts = np.bincount(grey.ravel(), minlength=256)[:200].astype(float)
    weight, total = np.cumsum(counts), np.cumsum(counts * np.arange(200))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total[-1] * weight / weight[-1] - total) ** 2 / (weight * (weight[-1] - weight))
    return int(np.nanargmax(between))


def draw(path, styles, shape, seed, beside):
    """Middle slices in z, y and x of one chunk of each style, image above label, and foreign pictures below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2 * len(styles), 3, figsize=(7.2, 4.8 * len(styles)), squeeze=False)
    paint = colors.ListedColormap(["black", "white", "firebrick"])
    for row, style in enumerate(styles):
        chunk = make_phantom(shape, seed + row, style)
        for axis, plane in enumerate(("z", "y", "x")):
            place = chunk.image.shape[axis] // 2
            top, bottom = axes[2 * row, axis], axes[2 * row + 1, axis]
            top.imshow(chunk.image.take(place, axis), cmap="gray", vmin=0, vmax=200, interpolation="nearest")
            bottom.imshow(chunk.label.take(place, axis), cmap=paint, vmin=0, vmax=2, interpolation="nearest")
            top.set_title(f"{style}, {plane} = {place}", fontsize=8)
    for axis in axes.ravel():
        axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=72, pil_kwargs={"optimize": True})
    plt.close(figure)
    if beside:
        stack(path, beside)


def stack(path, others):
    """Put other pictures under the one at ``path``, scaled to its width."""
    from PIL import Image

    pictures = [Image.open(name).convert("RGB") for name in (path, *others)]
    width = pictures[0].width
    pictures = [picture.resize((width, round(picture.height * width / picture.width))) for picture in pictures]
    sheet = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    sheet.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[320], help="one edge, or z y x")
    parser.add_argument("--styles", nargs="+", default=list(list_styles()), choices=list_styles())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=2, help="chunks of each style")
    parser.add_argument("--png", type=Path, help="write a picture instead of measuring")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="pictures to put under it")
    options = parser.parse_args()
    shape = options.shape[0] if len(options.shape) == 1 else tuple(options.shape)
    if options.png:
        draw(options.png, options.styles, shape, options.seed, options.beside)
        return

    start = time.perf_counter()
    make_phantom(16)
    print(f"compiling or loading the kernels: {time.perf_counter() - start:.1f} s")
    rows, seconds = {}, []
    for style in options.styles:
        described = []
        for repeat in range(options.repeats):
            start = time.perf_counter()
            chunk = make_phantom(shape, options.seed + repeat, style)
            seconds.append(time.perf_counter() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            described.append(describe(chunk))
        rows[style] = {key: np.mean([one[key] for one in described]) for key in described[0]}
    print(f"a chunk: best {min(seconds):.1f} s, median {statistics.median(seconds):.1f} s; peak memory {peak:.2f} GiB")
    heading = " | ".join(["", *rows, "mean", "real"])
    print(f"| {heading} |".replace("|  |", "| |"))
    print("|" + "---|" * (len(rows) + 3))
    for key, real in REAL.items():
        values = [row[key] for row in rows.values()]
        print(f"| {key} | " + " | ".join(f"{value:.1f}" for value in [*values, np.mean(values)]) + f" | {real} |")


if __name__ == "__main__":
    main()
