"""An archive that is valid at every moment of a run: it begins with an empty mask for each volume, and is replaced as masks
are done.

It is written as a whole beside the old one, which it then replaces in one move. So that this costs next to nothing, masks are
stored as they are, compressed already, and no more often than that a fiftieth of the time goes into it.
"""

import logging
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vesuvius_kit.checks import InputOSError, make_scratch_folder, name_os_errors, one_line
from vesuvius_kit.inference.archive import make_entry
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.io.volume import write_volume

logger = logging.getLogger(__name__)

# Times as long as the last writing took must pass before the next.
_PAUSE = 50.0


class LiveArchive:
    """The archive of a run while it works.

    Parameters
    ----------
    path
        The archive.
    shapes
        Of the masks it must hold, by id.
    clock
        Seconds, never going back.
    """

    def __init__(
        self,
        path: Path | str,
        shapes: Mapping[str, Sequence[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self._clock = clock
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._masks: dict[str, Path] = {}
        self._blanks: dict[tuple[int, ...], bytes] = {}
        self._written_at = 0.0
        self.took = 0.0
        """Seconds of the last writing."""
        self._is_stale = True
        self.writings = 0
        """How often it was written."""

    def put(self, name: str, mask: Path) -> None:
        """Take a mask's file in, and write the archive if the last time was long enough ago.

        A disk that is full is warned of: the archive that is there stays valid.
        """
        self._masks[name] = mask
        self._is_stale = True
        if self.writings and self._clock() - self._written_at < _PAUSE * self.took:
            return
        try:
            self.write()
        except InputOSError as error:
            self._written_at = self._clock()
            logger.warning("the archive stays without %s for now: %s", name, one_line(error))

    def hold(self, masks: Mapping[str, Path]) -> None:
        """Take in the files of masks without writing anything."""
        self._masks |= masks
        self._is_stale = True

    def write(self) -> None:
        """Replace the archive by one with what was put so far, unless it is that already."""
        if not self._is_stale:
            return
        before = self._clock()
        with write_atomically(self.path, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
            for name, shape in self._shapes.items():
                if name in self._masks:
                    with name_os_errors(f"read {self._masks[name]}"):
                        content = self._masks[name].read_bytes()
                    archive.writestr(make_entry(name, zipfile.ZIP_STORED), content)
                else:
                    archive.writestr(make_entry(name), self._blank(shape))
        self._written_at = self._clock()
        self.took = self._written_at - before
        self._is_stale = False
        self.writings += 1

    def _blank(self, shape: tuple[int, ...]) -> bytes:
        """The file of an empty mask."""
        if shape not in self._blanks:
            with make_scratch_folder() as scratch:
                write_volume(scratch / "blank.tif", np.zeros(shape, np.uint8))
                self._blanks[shape] = (scratch / "blank.tif").read_bytes()
        return self._blanks[shape]
