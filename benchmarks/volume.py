"""Reading an LZW volume: the kit, tifffile with imagecodecs, and Pillow, on the same file in the same process.

python benchmarks/volume.py [--edge 320]
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.phantom import make_phantom


def read_with_pillow(path):
    with Image.open(path) as image:
        pages = []
        for z in range(image.n_frames):
            image.seek(z)
            pages.append(np.asarray(image))
    return np.stack(pages)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, tifffile {tifffile.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.tif"
        volume = make_phantom((given.edge,) * 3, seed=0).image
        write_volume(path, volume)
        print(f"{given.edge}^3 uint8, {path.stat().st_size / 1e6:.1f} MB on disk; best and median seconds")
        ours = None
        for name, read in (("kit", read_volume), ("imagecodecs", tifffile.imread), ("Pillow", read_with_pillow)):
            np.testing.assert_array_equal(read(path), volume)
            seconds = []
            for _ in range(given.repeats):
                started = time.perf_counter()
                read(path)
                seconds.append(time.perf_counter() - started)
            ours = ours or min(seconds)
            print(f"{name:<12} {min(seconds):7.3f} {np.median(seconds):7.3f}   {min(seconds) / ours:5.1f} x the kit")


if __name__ == "__main__":
    main()
