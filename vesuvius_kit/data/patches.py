"""Patches to train on: which volume, which place, which augmentation, decided by (seed, epoch, index) alone.

Decoding a volume costs as much as a hundred patches, so each decoded volume serves several of them and several volumes are
open at once, as in TorchIO's queue (Perez-Garcia et al., "TorchIO", Computer Methods and Programs in Biomedicine 2021,
section 2.3). There is no queue here, though: an index leads to its volume by arithmetic, so that any process can make any
patch of any epoch, in any order.
"""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from vesuvius_kit.checks import InputTypeError, InputValueError, check_integer, check_real, check_size
from vesuvius_kit.constants import SURFACE, UNLABELLED
from vesuvius_kit.io.volume import read_volume

_MAX_DRAWS = 10  # of a place, before the least bad of them is taken
_ORDER, _PATCH = 0, 1  # first word of the key of each random stream


class _Pair(NamedTuple):
    """A decoded chunk: uint8 volumes, flat indices of its surface voxels, mean and deviation of its grey values."""

    image: np.ndarray
    label: np.ndarray
    surface: np.ndarray
    mean: float
    std: float


class PatchDataset(Dataset):
    """Random patches of a list of chunks, the same for the same (seed, epoch, index) in any process and order.

    Consecutive indices go round ``cache_volumes`` open volumes, so that a batch holds different volumes. Each gives
    ``patches_per_volume`` patches and makes way for the next of a shuffled order that runs on over the epochs, so that
    every volume is visited equally often. (Where one shuffled order ends and the next begins, a volume may be open twice.)

    Parameters
    ----------
    chunks : sequence of Chunk
        With labels; see `vesuvius_kit.data.competition`. Nothing is read before the first patch.
    patch_size : int or tuple of int
        Edges in voxels, (z, y, x).
    samples_per_epoch : int
        Length of the data set.
    patches_per_volume : int
        Patches taken from a volume once it is open.
    surface_fraction : float
        Share of patches placed about a random surface voxel, at most a quarter of an edge from the patch's centre unless
        the volume's border comes first; the others lie anywhere. A volume without surface has only such.
    max_unlabelled_fraction : float
        A place with a larger share of label 2 is drawn again, at most nine times; then the best of them is taken.
    normalise : object, optional
        With ``apply(array, volume_mean, volume_std)``, for example `vesuvius_kit.models.normalisation.Normalisation`. None
        leaves grey values as they are.
    augmentation : callable, optional
        ``(image, label, seed) -> (image, label)`` on uint8 arrays, for example `vesuvius_kit.data.augment.Augmentation`.
    seed : int
        Not negative.
    cache_volumes : int
        Volumes open at once, and decoded pairs kept by each process; a pair of 320^3 takes 70 MB. With W loader
        processes and batches of B, each process decodes its own share of the volumes if B x W divides this number, and
        otherwise up to all of them.

    Raises
    ------
    InputTypeError, InputValueError
        An argument of the wrong kind or out of range, no chunk, or a chunk without a label.

    Notes
    -----
    Load it in order (``shuffle=False``): the order is shuffled already. A patch that a volume is too small for starts at
    the volume's first voxel; what is missing at the end is black (0) and label 2, and does not count as unlabelled when
    a place is chosen. Mean and deviation are those of the whole volume, before padding and augmentation.
    """

    def __init__(
        self,
        chunks,
        *,
        patch_size,
        samples_per_epoch,
        patches_per_volume=4,
        surface_fraction=0.5,
        max_unlabelled_fraction=0.9,
        normalise=None,
        augmentation=None,
        seed=0,
        cache_volumes=4,
    ):
        self.chunks = list(chunks)
        if not self.chunks:
            raise InputValueError("chunks must not be empty")
        for chunk in self.chunks:
            if chunk.label_path is None:
                raise InputValueError(f"chunks must have labels, {chunk.id} has none")
        self.patch_size = check_size("patch_size", patch_size)
        self.samples_per_epoch = check_integer("samples_per_epoch", samples_per_epoch, minimum=1)
        self.patches_per_volume = check_integer("patches_per_volume", patches_per_volume, minimum=1)
        self.surface_fraction = check_real("surface_fraction", surface_fraction, minimum=0, maximum=1)
        self.max_unlabelled_fraction = check_real(
            "max_unlabelled_fraction", max_unlabelled_fraction, minimum=0, maximum=1
        )
        if normalise is not None and not hasattr(normalise, "apply"):
            raise InputTypeError(f"normalise must have a method apply, got {type(normalise).__name__}")
        if augmentation is not None and not callable(augmentation):
            raise InputTypeError(f"augmentation must be callable, got {type(augmentation).__name__}")
        self.normalise = normalise
        self.augmentation = augmentation
        self.seed = check_integer("seed", seed, minimum=0)
        self.cache_volumes = check_integer("cache_volumes", cache_volumes, minimum=1)
        # Shared memory, so that loader processes that outlive an epoch learn of the next.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._open = OrderedDict()

    def __len__(self) -> int:
        return self.samples_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose patches are given from now on; 0 at first.

        Call it between two passes of a loader. It reaches the processes of a loader with ``persistent_workers`` too.

        Parameters
        ----------
        epoch : int
            Not negative.

        Raises
        ------
        InputTypeError, InputValueError
            Not an integer, or negative.
        """
        self._epoch[0] = check_integer("epoch", epoch, minimum=0)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one patch of the current epoch.

        Parameters
        ----------
        index : int
            In [0, len).

        Returns
        -------
        dict
            ``image``: float32 (1, Z, Y, X), normalised; ``label``: uint8 (Z, Y, X) of 0, 1 and 2.

        Raises
        ------
        IndexError
            ``index`` is out of range.
        InputNotFoundError, InputValueError
            A file of the chunk cannot be used; the message names it.
        """
        if not 0 <= index < self.samples_per_epoch:
            raise IndexError(f"index must be in [0, {self.samples_per_epoch}), got {index}")
        epoch = int(self._epoch[0])
        pair = self._open_pair(self._find_chunk(epoch, index))
        random = np.random.default_rng([_PATCH, self.seed, epoch, index])
        augmentation_seed = int(random.integers(2**32))
        place = self._choose_place(pair, random)
        image, label = self._cut(pair.image, place, 0), self._cut(pair.label, place, UNLABELLED)
        if self.augmentation is not None:
            image, label = self.augmentation(image, label, augmentation_seed)
        if self.normalise is not None:
            image = self.normalise.apply(image, pair.mean, pair.std)
        image = np.ascontiguousarray(image, dtype=np.float32)
        return {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(np.array(label, order="C"))}

    def __getstate__(self):
        # A loader process that is spawned opens its own volumes.
        return {**self.__dict__, "_open": OrderedDict()}

    def _find_chunk(self, epoch, index) -> int:
        turn, lane = divmod(index, self.cache_volumes)
        visit = turn // self.patches_per_volume
        turns = -(-self.samples_per_epoch // self.cache_volumes)
        visits = -(-turns // self.patches_per_volume)
        place = (epoch * visits + visit) * self.cache_volumes + lane
        # The shuffled order is a new one each time all volumes have been visited.
        lap, position = divmod(place, len(self.chunks))
        return int(np.random.default_rng([_ORDER, self.seed, lap]).permutation(len(self.chunks))[position])

    def _open_pair(self, number) -> _Pair:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            while len(self._open) >= self.cache_volumes:
                self._open.popitem(last=False)
            self._open[number] = _read_pair(self.chunks[number])
        return self._open[number]

    def _choose_place(self, pair, random) -> tuple[slice, ...]:
        """Draw the part of the volume that the patch covers, in slices; shorter than the patch in a small volume."""
        on_surface = len(pair.surface) > 0 and random.random() < self.surface_fraction
        least, best = np.inf, None
        for _ in range(_MAX_DRAWS):
            place = self._draw_place(pair, random, on_surface)
            part = pair.label[place]
            unlabelled = np.count_nonzero(part == UNLABELLED) / part.size
            if unlabelled < least:
                least, best = unlabelled, place
            if least <= self.max_unlabelled_fraction:
                break
        return best

    def _draw_place(self, pair, random, on_surface) -> tuple[slice, ...]:
        edges = np.array(self.patch_size)
        last = np.maximum(np.array(pair.label.shape) - edges, 0)
        if on_surface:
            voxel = np.unravel_index(pair.surface[random.integers(len(pair.surface))], pair.label.shape)
            jitter = random.integers(-(edges // 4), edges // 4 + 1)
            start = np.clip(np.array(voxel) - edges // 2 + jitter, 0, last)
        else:
            start = random.integers(0, last + 1)
        return tuple(slice(int(first), int(first + edge)) for first, edge in zip(start, edges))

    def _cut(self, volume, place, fill) -> np.ndarray:
        part = volume[place]
        if part.shape == self.patch_size:
            return part.copy()
        patch = np.full(self.patch_size, fill, volume.dtype)
        patch[tuple(slice(edge) for edge in part.shape)] = part
        return patch


def _read_pair(chunk) -> _Pair:
    image, label = read_volume(chunk.image_path, "uint8"), read_volume(chunk.label_path, "uint8")
    if image.shape != label.shape:
        raise InputValueError(f"{chunk.label_path} must have its image's shape {image.shape}, got {label.shape}")
    if label.max() > UNLABELLED:
        raise InputValueError(f"{chunk.label_path} must hold labels 0, 1 and 2, got {label.max()} as well")
    # Half the memory of NumPy's int64 indices.
    surface = np.flatnonzero(label == SURFACE).astype(np.int32 if label.size < 2**31 else np.int64)
    return _Pair(image, label, surface, float(image.mean()), float(image.std()))
