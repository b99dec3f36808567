"""Work on a volume in slabs along z, one thread each.

The kernels release the interpreter's lock, so plain threads keep all cores busy; unlike numba's own thread layers they may
be used from several threads at once and do not forbid a later fork.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np


def for_slabs(function, n_z):
    """Call a function for slabs that cover ``range(n_z)``, in threads.

    Parameters
    ----------
    function : callable
        ``function(start, stop)``; an exception in it is raised here.
    n_z : int
        Number of planes; 0 means no call.

    Returns
    -------
    list
        What the calls returned, in the order of the slabs.
    """
    edges = np.linspace(0, n_z, min(numba.get_num_threads(), n_z) + 1).astype(int).tolist()
    slabs = list(pairwise(edges))
    if len(slabs) < 2:
        return [function(*slab) for slab in slabs]
    with ThreadPoolExecutor(len(slabs) - 1) as pool:
        others = [pool.submit(function, *slab) for slab in slabs[1:]]
        return [function(*slabs[0]), *(other.result() for other in others)]


def for_each(function, items):
    """Call a function for every item, in threads: whichever is free takes the next.

    Parameters
    ----------
    function : callable
        ``function(item)``; an exception in it is raised here.
    items : sequence
        The longest work first, so that no thread is left with it at the end.

    Returns
    -------
    list
        What the calls returned, in the order of the items.
    """
    n_threads = min(numba.get_num_threads(), len(items))
    if n_threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))


def map_slabs(function, volume, halo):
    """Apply a function of limited reach along z, in threads.

    Parameters
    ----------
    function : callable
        ``function(part, faces)`` gives an array of the part's shape and the volume's type; ``faces`` says whether the part
        begins, and whether it ends, at a face of the volume. A plane of the result may depend on ``halo`` planes on
        either side.
    volume : numpy.ndarray
        (Z, ...).
    halo : int
        Planes.

    Returns
    -------
    numpy.ndarray
        Shape and type of the volume.
    """
    mapped = np.empty_like(volume)
    n_z = len(volume)

    def work(start, stop):
        low, high = max(start - halo, 0), min(stop + halo, n_z)
        part = function(volume[low:high], (low == 0, high == n_z))
        mapped[start:stop] = part[start - low : stop - low]

    for_slabs(work, n_z)
    return mapped
