"""Time and memory of post-processing beside SciPy, scikit-image and others, on the same volume in the same process.

    python benchmarks/postprocess.py            both tables, as Markdown
    python benchmarks/postprocess.py SIZE       the same on SIZE^3 voxels (320 if not given)
    python benchmarks/postprocess.py fresh FILE peak memory and first calls, in a process that loads nothing else

The volume is a phantom's label, blurred and made uncertain by noise of two scales, as a network's probability is.
connected-components-3d, edt and fill-voxels take part where they are installed. Every result is compared with the peer's, and
the table says whether they are equal.
"""

import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import ndimage

SETTINGS = [(0.35, 0.85, 3, 2, 100), (0.50, 0.90, 3, 2, 100), (0.25, 0.80, 3, 2, 200), (0.15, 0.50, 3, 1, 150)]
EVERY = np.ones((3, 3, 3), dtype=bool)
REPEATS = 9


def make_probability(size):
    """Return a volume like a prediction: about a sixth of it surface, with gaps, mergers and dust."""
    from vesuvius_kit.phantom import make_phantom

    surface = make_phantom((size,) * 3, seed=1, style="dense").surface
    blurred = ndimage.gaussian_filter(surface.astype(np.float32), 1.0)
    rng = np.random.default_rng(0)
    logits = 12 * blurred / blurred.max() - 4
    for sigma in (1.5, 6):
        noise = ndimage.gaussian_filter(rng.normal(size=surface.shape).astype(np.float32), sigma)
        logits += noise / noise.std()
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def best_of(function, repeats=REPEATS):
    """Return the best time of several calls in seconds, and the last result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def make_cylinder(z_radius, xy_radius):
    """Return the public function's structuring element."""
    y, x = np.mgrid[-xy_radius : xy_radius + 1, -xy_radius : xy_radius + 1]
    return np.stack([y**2 + x**2 <= xy_radius**2] * (2 * z_radius + 1))


def remove_dust(mask, min_size):
    """Remove small objects with scikit-image, whose argument changed its name and meaning."""
    from skimage.morphology import remove_small_objects

    old = tuple(map(int, version("scikit-image").split(".")[:2])) < (0, 26)
    return remove_small_objects(mask, **({"min_size": min_size} if old else {"max_size": min_size - 1}))


def compose_scipy(probability, t_low, t_high, z_radius, xy_radius, dust_min_size):
    """Return the public post-processing as it was published: SciPy and scikit-image."""
    strong = probability >= np.float32(t_high)
    mask = ndimage.binary_propagation(strong, mask=probability >= np.float32(t_low), structure=EVERY)
    mask = ndimage.binary_closing(mask, make_cylinder(z_radius, xy_radius))
    return remove_dust(mask, dust_min_size)


def compose_cc3d(probability, t_low, t_high, z_radius, xy_radius, dust_min_size):
    """Return the same with connected-components-3d where that is faster."""
    import cc3d

    weak = cc3d.connected_components(probability >= np.float32(t_low), connectivity=26)
    keep = np.zeros(int(weak.max()) + 1, dtype=bool)
    keep[weak[probability >= np.float32(t_high)]] = True
    keep[0] = False
    mask = ndimage.binary_closing(keep[weak], make_cylinder(z_radius, xy_radius))
    return cc3d.dust(mask, threshold=dust_min_size, connectivity=6) != 0


def list_cases(probability):
    """List name, our call, {peer: its call} and how to compare, for each primitive."""
    from skimage import filters, measure, morphology

    from vesuvius_kit.postprocess import close_ball, close_cylinder, remove_small_components, ridge_filter
    from vesuvius_kit.voxel import components, distance, euler, holes, skeleton
    from vesuvius_kit.voxel.morphology import box_rows, dilate_mask

    mask = probability >= 0.5
    ball = np.hypot(np.hypot(*np.mgrid[-3:4, -3:4, -3:4][:2]), np.mgrid[-3:4, -3:4, -3:4][2]) <= 3
    cylinder = make_cylinder(3, 2)
    labelled = components.label_components(mask)[0]
    small = probability[:160, :160, :160]
    cases = [
        (
            "close_cylinder (3, 2)",
            lambda: close_cylinder(mask, 3, 2),
            {"scipy": lambda: ndimage.binary_closing(mask, cylinder)},
        ),
        ("close_ball 3", lambda: close_ball(mask, 3), {"scipy": lambda: ndimage.binary_closing(mask, ball)}),
        (
            "dilate by 9^3",
            lambda: dilate_mask(mask, box_rows(4)),
            {"scipy": lambda: ndimage.binary_dilation(mask, np.ones((9, 9, 9)))},
        ),
        (
            "label, 26",
            lambda: components.label_components(mask, 26)[0],
            {"scipy": lambda: ndimage.label(mask, EVERY)[0]},
        ),
        ("label, 6", lambda: components.label_components(mask, 6)[0], {"scipy": lambda: ndimage.label(mask)[0]}),
        (
            "remove_small_components 100",
            lambda: remove_small_components(mask, 100),
            {"scikit-image": lambda: remove_dust(mask, 100)},
        ),
        ("fill_cavities", lambda: holes.fill_cavities(mask), {"scipy": lambda: ndimage.binary_fill_holes(mask)}),
        (
            "measure_distance, cap 5",
            lambda: distance.measure_distance(~mask, 5),
            {"scipy": lambda: np.minimum(ndimage.distance_transform_edt(~mask), 5).astype(np.float32)},
        ),
        (
            "measure_distance, cap 30",
            lambda: distance.measure_distance(~mask, 30),
            {"scipy": lambda: np.minimum(ndimage.distance_transform_edt(~mask), 30).astype(np.float32)},
        ),
        ("euler_number", lambda: euler.euler_number(mask), {"scikit-image": lambda: measure.euler_number(mask, 3)}),
        (
            "euler_of_components",
            lambda: euler.euler_of_components(labelled).sum(),
            {"scikit-image, all in one": lambda: measure.euler_number(mask, 3)},
        ),
        ("skeletonize", lambda: skeleton.skeletonize(mask), {"scikit-image": lambda: morphology.skeletonize(mask) > 0}),
        ("thin_to_surface", lambda: skeleton.thin_to_surface(mask), {}),
        (
            "ridge_filter, 160^3",
            lambda: ridge_filter(small, 2),
            {"sato of scikit-image": lambda: filters.sato(small, [2], black_ridges=False)},
        ),
    ]
    found = {name: load(name) for name in ("cc3d", "edt", "fill_voids")}
    for name, _, peers in cases:
        if found["cc3d"] and name.startswith("label"):
            connectivity = int(name.split()[-1])
            peers["cc3d"] = lambda c=connectivity: found["cc3d"].connected_components(mask, connectivity=c)
        if found["cc3d"] and name.startswith("remove"):
            peers["cc3d"] = lambda: found["cc3d"].dust(mask, threshold=100, connectivity=6) != 0
        if found["edt"] and name.startswith("measure_distance"):
            cap = int(name.split()[-1])
            peers["edt"] = lambda cap=cap: np.minimum(found["edt"].edt(~mask, parallel=os.cpu_count()), cap)
        if found["fill_voids"] and name == "fill_cavities":
            peers["fill_voids"] = lambda: found["fill_voids"].fill(mask)
    return cases


def load(name):
    """Return a module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def compare(ours, theirs):
    """Say whether two results are equal; labels may be numbered differently."""
    if np.array_equal(ours, theirs):
        return "yes"
    if getattr(ours, "dtype", None) == np.int32:
        pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
        same = pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
        return "yes, numbered otherwise" if same else "NO"
    return "NO"


def read_peak_gb():
    """Peak resident memory since this program started; getrusage would include the parent's, which outlives exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def run_fresh(path):
    """Print the memory and the first calls of this process, which has loaded only the package and the volume."""
    started = time.perf_counter()
    from vesuvius_kit.postprocess import topo_postprocess

    imported = time.perf_counter() - started
    probability = np.load(path)
    before = read_peak_gb()
    first, _ = best_of(lambda: topo_postprocess(probability), 1)
    second, _ = best_of(lambda: topo_postprocess(probability), 3)
    peak = read_peak_gb()
    print(f"{imported:.2f} {first:.2f} {second:.4f} {before:.3f} {peak:.3f}")


def main(size):
    """Print both tables."""
    import numba

    from vesuvius_kit.postprocess import topo_postprocess

    names = ("numpy", "numba", "scipy", "scikit-image")
    machine = f"{platform.machine()}, {numba.get_num_threads()} threads, Python {platform.python_version()}"
    print(machine, *(f"{name} {version(name)}" for name in names), sep=", ")
    probability = make_probability(size)
    print(
        f"{size}^3 voxels; {(probability >= 0.35).mean():.1%} reach 0.35, {(probability >= 0.85).mean():.1%} reach 0.85\n"
    )
    print(
        "| topo_postprocess | s | SciPy and scikit-image, s | ratio | with cc3d, s | ratio | equal |\n"
        "|---|---|---|---|---|---|---|"
    )
    topo_postprocess(probability)
    for setting in SETTINGS:
        ours, result = best_of(lambda setting=setting: topo_postprocess(probability, *setting))
        theirs, expected = best_of(lambda setting=setting: compose_scipy(probability, *setting), 2)
        other, second = (
            best_of(lambda setting=setting: compose_cc3d(probability, *setting), 1)
            if load("cc3d")
            else (np.nan, expected)
        )
        print(
            f"| {setting} | {ours:.3f} | {theirs:.2f} | {theirs / ours:.0f} | {other:.2f} | {other / ours:.0f} | "
            f"{compare(result, expected)}, {compare(result, second)} |",
            flush=True,
        )
    print("\n| primitive | ms | peer | ms | ratio | equal |\n|---|---|---|---|---|---|")
    for name, call, peers in list_cases(probability):
        call()
        ours, result = best_of(call, 3 if name.startswith(("skel", "thin", "ridge")) else REPEATS)
        for peer, peer_call in peers.items() or [("", None)]:
            if peer_call is None:
                print(f"| {name} | {1e3 * ours:.1f} | | | | |", flush=True)
                continue
            theirs, expected = best_of(peer_call, 1)
            equal = "another measure" if name.startswith("ridge") else compare(result, expected)
            times = f"{1e3 * ours:.1f} | {peer} | {1e3 * theirs:.0f} | {theirs / ours:.1f}"
            print(f"| {name} | {times} | {equal} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probability.npy")
        np.save(path, probability)
        print(
            "\n| fresh process | import, s | first call, s | later, s | memory before, GB | peak, GB |\n"
            "|---|---|---|---|---|---|"
        )
        for title, cache in (("nothing compiled", Path(folder, "cache")), ("kernels on disk", None)):
            environment = {**os.environ, **({"NUMBA_CACHE_DIR": str(cache)} if cache else {})}
            run = subprocess.run(
                [sys.executable, __file__, "fresh", path], capture_output=True, text=True, check=True, env=environment
            )
            print(f"| {title} | " + " | ".join(run.stdout.split()) + " |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["fresh"]:
        run_fresh(sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 320)
