"""A volume as a network is shown it: cropped, turned, resampled, normalised and padded as its rules say, and the way back.

Where the rules ask for nothing but grey values that are shifted and scaled, which is what the kit's own networks want, no other
volume is made: the grey values are turned while windows are cut.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesuvius_kit.inference.blending import Greys
from vesuvius_kit.inference.scan import find_no_scan
from vesuvius_kit.io.volume import check_grey_values
from vesuvius_kit.models import Normalisation
from vesuvius_kit.models.normalisation import Affine, measure_grey_values
from vesuvius_kit.models.preprocess import find_frame, prepare
from vesuvius_kit.models.rules import PredictionRules


class ShownImage:
    """What windows are cut from, and how an answer becomes the probability of the volume."""

    def __init__(
        self,
        volume: NDArray[Any],
        rules: PredictionRules,
        normalisation: Normalisation | None,
        spacing: Sequence[float] | None,
        window: tuple[int, int, int],
        skip_empty: bool,
    ) -> None:
        self._rules = rules
        self._empty = find_no_scan(volume) if skip_empty else None
        self.greys = Greys()
        """How the image is normalised while windows are cut."""
        self.image: NDArray[Any] = volume
        """(Z, Y, X) in the network's frame, in no axis shorter than the window."""
        self.no_scan: NDArray[np.bool_] | None = None
        """Where the image holds no scan, if that is known of it; it may be smaller, which pads it."""
        if _needs_another_volume(rules, normalisation, spacing):
            self.image, self._restore = prepare(volume, rules, normalisation, spacing)
        else:
            self._restore = find_frame(volume, rules)
            self.image = np.ascontiguousarray(self._restore.cut(volume))
            self.no_scan = None if self._empty is None else self._restore.cut(self._empty)
            affine = _affine_of(self.image, normalisation)
            if rules.grid == "nnunet" and any(length < edge for length, edge in zip(self.image.shape, window)):
                # nnU-Net pads what is normalised already.
                self.image = affine.apply(self.image)
            else:
                self.greys = Greys.of(affine)
        missing = [max(0, edge - length) for edge, length in zip(window, self.image.shape)]
        # nnU-Net puts a small volume in the middle of a window; the kit, as in training patches, has black behind it.
        before = [lack // 2 if rules.grid == "nnunet" else 0 for lack in missing]
        self._inner = tuple(slice(first, first + length) for first, length in zip(before, self.image.shape))
        if any(missing):
            self.image = np.pad(self.image, [(first, lack - first) for first, lack in zip(before, missing)])
            # Padding is not what `drop_empty` expects of a volume that lies in the middle.
            self.no_scan = None if any(before) else self.no_scan

    def place(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of the volume (Z, Y, X), in [0, 1], of a blended answer (C, z, y, x)."""
        answer = answer[(slice(None), *self._inner)]
        answer = self._restore.resample(answer)
        probability = self._rules.output.probability_of(answer) if self._rules.average == "logits" else answer[0]
        np.clip(probability, 0.0, 1.0, out=probability)
        probability = self._restore.place(probability)
        if self._empty is not None:
            probability[self._empty] = 0.0
        return np.ascontiguousarray(probability)


def _needs_another_volume(
    rules: PredictionRules, normalisation: Normalisation | None, spacing: Sequence[float] | None
) -> bool:
    """Whether voxels are interpolated, or not all of them normalised alike."""
    resamples = rules.resampling is not None and spacing is not None and rules.spacing is not None
    return resamples or (normalisation is not None and normalisation.masked)


def _affine_of(image: NDArray[Any], normalisation: Normalisation | None) -> Affine:
    """How an image is normalised; one with NaN, infinity or a mark for "no data" is refused."""
    if normalisation is not None and normalisation.needs_statistics:
        return normalisation.as_affine(measure_grey_values(image))
    check_grey_values("volume", image)
    return Affine() if normalisation is None else normalisation.as_affine()
