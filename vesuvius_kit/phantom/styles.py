"""The named scrolls of the phantom: what differs from one scroll, and one scan, to the next."""

from typing import NamedTuple


class Style(NamedTuple):
    """How one imaginary scroll is wound, damaged and scanned. Lengths are in voxels, grey values in 0..255.

    Attributes
    ----------
    scroll_id
        The number that stands in the ``scroll_id`` column of the competition's tables.
    spacing
        Typical distance from one wrap to the next; the local distance lies between ``nearest`` and ``farthest``.
    spacing_spread
        Standard deviation of the logarithm of the distance from wrap to wrap.
    thickness
        Typical thickness of a sheet.
    waviness
        Amplitude of the bends that all wraps follow together.
    folds
        Mean number of sharp folds in a chunk of 320^3.
    gap_grey, sheet_grey
        Mean grey value of the air and of the papyrus.
    recto_excess
        How much brighter than the mean the papyrus is at its recto face, and darker at its verso face.
    texture
        Contrast of the fibres, as a fraction of the contrast between papyrus and air.
    fray
        Roughness of the verso face; the recto face has about a third of it.
    holes
        Share of a sheet's area where the papyrus is missing, about.
    splits
        Share of a sheet's area where its two layers come apart, about.
    debris
        Strength of the fragments that lie in the gaps.
    specks
        Bright mineral grains in a million voxels.
    blur
        Standard deviation of the scanner's point spread.
    noise
        Standard deviation of the scanner's noise in the finished image.
    laminae
        Layers of a sheet that come apart and rejoin a neighbour; 0: sheets of two layers that split in the middle only.
    parting
        Share of a sheet's area where its outer laminae leave it, about.
    vessels
        Share of the places of a lamina that hold a hollow vessel.
    nearest, farthest
        Least and largest distance from one wrap to the next.
    tears
        Share of a sheet's area that is torn away and lets the next wrap move in, about.
    swirls
        Mean number of places in a chunk of 320^3 where sheets double back.
    restless
        Amplitude of the short bends, as a share of ``waviness``.
    tilt
        Largest slope of the scroll's axis against z.
    streaks, rings, drift
        Grey values of the streaks beside bright grains, of the rings about the scanner's axis, and by which the brightness
        drifts across the chunk.
    halo
        Strength of the dark rim that the scanner's sharpening leaves beside papyrus.
    """

    scroll_id: int
    spacing: float
    spacing_spread: float
    thickness: float
    waviness: float
    folds: float
    gap_grey: float
    sheet_grey: float
    recto_excess: float
    texture: float
    fray: float
    holes: float
    splits: float
    debris: float
    specks: float
    blur: float
    noise: float
    laminae: int = 0
    parting: float = 0.0
    vessels: float = 0.0
    nearest: float = 8.0
    farthest: float = 40.0
    tears: float = 0.0
    swirls: float = 0.0
    restless: float = 0.08
    tilt: float = 0.3
    streaks: float = 0.0
    rings: float = 0.0
    drift: float = 0.0
    halo: float = 0.25


_TABLE = {
    #                id     spac spread thick wave folds gap  sheet exc tex  fray holes split debris specks blur noise
    "even": Style(70101, 19.0, 0.32, 10.0, 8.0, 1.0, 56.0, 122.0, 24.0, 0.28, 1.3, 0.03, 0.35, 0.6, 15.0, 0.85, 3.0),
    "dense": Style(70202, 16.0, 0.32, 9.5, 8.0, 1.0, 62.0, 118.0, 24.0, 0.30, 1.3, 0.03, 0.30, 0.5, 22.0, 0.95, 3.2),
    "wavy": Style(70303, 19.5, 0.38, 10.0, 18.0, 4.0, 54.0, 126.0, 24.0, 0.28, 1.5, 0.04, 0.40, 0.8, 18.0, 0.80, 3.4),
    "ragged": Style(70404, 19.5, 0.40, 10.5, 11.0, 2.0, 55.0, 122.0, 24.0, 0.31, 2.0, 0.07, 0.45, 1.2, 25.0, 0.90, 3.6),
    "loose": Style(70505, 44.0, 0.36, 18.0, 12.0, 1.5, 50.0, 132.0, 24.0, 0.28, 1.6, 0.05, 0.40, 1.0, 12.0, 0.85, 2.8,
                   0, 0.0, 0.0, 8.0, 80.0),
    "faint": Style(70606, 18.5, 0.36, 10.5, 10.0, 2.0, 66.0, 112.0, 20.0, 0.30, 1.5, 0.05, 0.40, 0.8, 18.0, 1.05, 4.2),
}  # fmt: skip
_HARD = {
    #                 id     spac spread thick wave folds gap  sheet exc tex  fray holes split debris specks blur noise
    #                 lam part vess near far tears swirl rest tilt streak rings drift halo
    "pressed": Style(70707, 15.5, 0.40, 11.0, 4.0, 0.5, 64.0, 132.0, 26.0, 0.24, 1.1, 0.02, 0.0, 0.25, 3.0, 1.08, 2.0,
                     3, 0.09, 0.20, 3.0, 40.0, 0.03, 0.3, 0.05, 0.35, 8.0, 0.6, 6.0, 0.45),
    "laminar": Style(70808, 39.0, 0.32, 12.5, 3.6, 0.3, 80.0, 138.0, 30.0, 0.26, 1.2, 0.02, 0.0, 0.12, 3.0, 1.10, 1.6,
                     4, 0.07, 0.20, 4.0, 80.0, 0.03, 0.2, 0.05, 0.35, 10.0, 0.5, 6.0, 0.45),
    "torn": Style(70909, 24.0, 0.40, 11.5, 4.5, 0.6, 33.0, 130.0, 30.0, 0.26, 1.2, 0.02, 0.0, 0.25, 4.0, 1.05, 5.6,
                  3, 0.12, 0.20, 3.0, 60.0, 0.05, 0.4, 0.06, 0.4, 6.0, 0.8, 8.0, 0.45),
}  # fmt: skip
_REPORT = {
    "charred": Style(71010, 22.0, 0.42, 11.5, 4.5, 0.8, 48.0, 140.0, 28.0, 0.26, 1.3, 0.02, 0.0, 0.25, 3.5, 1.08, 3.2,
                     4, 0.11, 0.22, 3.0, 55.0, 0.05, 0.4, 0.05, 0.4, 8.0, 0.8, 8.0, 0.45),
    "crushed": Style(71111, 15.0, 0.44, 10.5, 5.5, 1.2, 66.0, 138.0, 26.0, 0.25, 1.2, 0.03, 0.0, 0.25, 3.5, 1.05, 2.6,
                     3, 0.12, 0.22, 3.0, 40.0, 0.06, 0.7, 0.06, 0.4, 9.0, 0.8, 7.0, 0.45),
}  # fmt: skip
STYLES = _TABLE | _HARD | _REPORT
"""All styles by name."""
REPORT_STYLES = tuple(_REPORT)
"""Names of the styles for reports only: nothing is developed or tuned on these."""


def list_styles() -> tuple[str, ...]:
    """Return the names of the styles to develop on: ``"even"``, the default, first, the hard ones last, no `REPORT_STYLES`."""
    return (*_TABLE, *_HARD)
