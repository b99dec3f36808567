"""What a repair step promises: data on the step, which the property tests check."""

ADDS_ONLY = "adds only"  # every voxel of the mask stays
REMOVES_ONLY = "removes only"  # no voxel outside the mask is set
JOINS_NOTHING = "joins no components"  # no two 26-connected components of the mask become one
NO_NEW_TUNNELS = "adds no tunnels"  # the number of tunnels, as the score counts them in one block, does not rise
KEEPS_OCTANTS = "keeps each octant's topology"  # its components, tunnels and cavities, as the score counts them


def promise(*promises):
    """Write promises on a step, as its attribute ``promises``.

    Parameters
    ----------
    *promises : str
        Of this module's constants.

    Returns
    -------
    callable
        A decorator that returns the function itself.
    """

    def write(function):
        function.promises = promises
        return function

    return write
