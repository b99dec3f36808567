"""What a competitor is told of the wraps: which are labelled, and where the line of each is drawn."""

import numpy as np
from numba import prange

from vesuvius_kit.compilation import compiled


@compiled(parallel=True, nogil=True)
def mark_surfaces(wrap, inner, outer, chosen, half_thickness, margin, border, label, surface):
    """Fill ``surface`` (bool) with every recto and ``label`` (uint8) with those of the ``chosen`` wraps.

    A recto is the voxels whose centres lie within ``half_thickness`` of it.
    """
    nz, ny, nx = wrap.shape
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                if min(z, y, x, nz - 1 - z, ny - 1 - y, nx - 1 - x) < border:
                    label[z, y, x] = 2
                    surface[z, y, x] = False
                    continue
                k = wrap[z, y, x]
                before, after = inner[z, y, x], outer[z, y, x]
                here, beyond = before < half_thickness, after <= half_thickness
                surface[z, y, x] = here or beyond
                if (here and chosen[k]) or (beyond and chosen[k + 1]):
                    label[z, y, x] = 1
                elif (chosen[k] and (chosen[k + 1] or before <= margin)) or (chosen[k + 1] and after <= margin):
                    label[z, y, x] = 0
                else:
                    label[z, y, x] = 2
