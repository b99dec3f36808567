"""Work on a volume in slabs along z, one thread each.

The kernels release the interpreter's lock, so plain threads keep all cores busy; unlike numba's own thread layers they may
be used from several threads at once and do not forbid a later fork.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Scalar = TypeVar("_Scalar", bound=np.generic)


def for_slabs(function: Callable[[int, int], _Result], n_z: int) -> list[_Result]:
    """Call ``function(start, stop)`` in threads for slabs that cover ``range(n_z)``; return the results in their order.

    An exception in a call is raised here; without planes there is no call.
    """
    edges = np.linspace(0, n_z, min(numba.get_num_threads(), n_z) + 1).astype(int).tolist()
    slabs = list(pairwise(edges))
    if len(slabs) < 2:
        return [function(*slab) for slab in slabs]
    with ThreadPoolExecutor(len(slabs) - 1) as pool:
        others = [pool.submit(function, *slab) for slab in slabs[1:]]
        return [function(*slabs[0]), *(other.result() for other in others)]


def for_each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Call ``function(item)`` in threads, whichever is free taking the next; return the results in the order of the items.

    The longest work comes first, so that no thread is left with it at the end. An exception in a call is raised here.
    """
    n_threads = min(numba.get_num_threads(), len(items))
    if n_threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))


def map_slabs(
    function: Callable[[NDArray[_Scalar], tuple[bool, bool]], NDArray[_Scalar]], volume: NDArray[_Scalar], halo: int
) -> NDArray[_Scalar]:
    """Apply a function of limited reach along z to a volume (Z, ...), in threads.

    ``function(part, faces)`` gives an array of the part's shape and the volume's type; ``faces`` says whether the part begins,
    and whether it ends, at a face of the volume. A plane of the result may depend on ``halo`` planes on either side.
    """
    mapped = np.empty_like(volume)
    n_z = len(volume)

    def work(start: int, stop: int) -> None:
        low, high = max(start - halo, 0), min(stop + halo, n_z)
        part = function(volume[low:high], (low == 0, high == n_z))
        mapped[start:stop] = part[start - low : stop - low]

    for_slabs(work, n_z)
    return mapped
