"""What a repair step promises: data on the step, which the property tests check."""

from collections.abc import Callable
from typing import Any, TypeVar

ADDS_ONLY = "adds only"
"""Every voxel of the mask stays."""
REMOVES_ONLY = "removes only"
"""No voxel outside the mask is set."""
JOINS_NOTHING = "joins no components"
"""No two 26-connected components of the mask become one."""
NO_NEW_TUNNELS = "adds no tunnels"
"""The number of tunnels, as the score counts them in one block, does not rise."""
KEEPS_OCTANTS = "keeps each octant's topology"
"""Its components, tunnels and cavities, as the score counts them."""

_Step = TypeVar("_Step", bound=Callable[..., Any])


def promise(*promises: str) -> Callable[[_Step], _Step]:
    """Return a decorator that writes constants of this module on a step, as its attribute ``promises``."""

    def write(function: _Step) -> _Step:
        vars(function)["promises"] = promises
        return function

    return write
