"""Patches to train on: which volume, which place, which augmentation, decided by (seed, epoch, index) alone.

Decoding a volume costs as much as a hundred patches, so each decoded volume serves several of them and several volumes are
open at once, as in TorchIO's queue (Perez-Garcia et al., "TorchIO", Computer Methods and Programs in Biomedicine 2021,
section 2.3). There is no queue here, though: an index leads to its volume by arithmetic, so that any process can make any
patch of any epoch, in any order.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from vesuvius_kit.checks import InputTypeError, InputValueError, check_integer, check_real, check_size
from vesuvius_kit.config import PatchConfig
from vesuvius_kit.constants import SURFACE, UNLABELLED
from vesuvius_kit.data.folder import Chunk
from vesuvius_kit.io.volume import read_volume

_MAX_DRAWS = 10  # of a place, before the least bad of them is taken
_ORDER, _PATCH = 0, 1  # first word of the key of each random stream


Augment = Callable[[NDArray[np.uint8], NDArray[np.uint8], int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Takes image, label and seed and returns image and label, for example `vesuvius_kit.data.augment.Augmentation`."""


class Normaliser(Protocol):
    """Scales grey values, for example `vesuvius_kit.models.normalisation.Normalisation`."""

    def apply(self, array: NDArray[np.uint8], volume_mean: float, volume_std: float, /) -> NDArray[Any]:
        """Return the scaled grey values of a part of a volume whose mean and standard deviation are given."""


class _Pair(NamedTuple):
    """A decoded chunk."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    surface: NDArray[np.signedinteger[Any]]
    """Flat indices of the surface voxels."""
    mean: float
    std: float


class PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Random patches of a list of chunks, the same for the same (seed, epoch, index) in any process and order.

    An item is a dict: ``image``, float32 (1, Z, Y, X), normalised, and ``label``, uint8 (Z, Y, X) of 0, 1 and 2.

    Consecutive indices go round ``cache_volumes`` open volumes, so that a batch holds different volumes. Each gives
    ``patches_per_volume`` patches and makes way for the next of a shuffled order that runs on over the epochs, so that
    every volume is visited equally often. (Where one shuffled order ends and the next begins, a volume may be open twice.)

    Parameters
    ----------
    chunks
        With labels, as `Competition.train` has them. Nothing is read before the first patch.
    patch_size
        Edges in voxels, (z, y, x); one integer means a cube.
    samples_per_epoch
        Length of the data set.
    patches_per_volume
        Patches taken from a volume once it is open.
    surface_fraction
        Share of patches placed about a random surface voxel, at most a quarter of an edge from the patch's centre unless
        the volume's border comes first; the others lie anywhere. A volume without surface has only such.
    max_unlabelled_fraction
        A place with a larger share of label 2 is drawn again, at most nine times; then the best of them is taken.
    normalise
        None leaves grey values as they are.
    augmentation
        None changes nothing.
    seed
        Not negative.
    cache_volumes
        Volumes open at once, and decoded pairs kept by each process; a pair of 320^3 takes 70 MB. With W loader
        processes and batches of B, each process decodes its own share of the volumes if B x W divides this number, and
        otherwise up to all of them.

    Notes
    -----
    Load it in order (``shuffle=False``): the order is shuffled already. A patch that a volume is too small for starts at
    the volume's first voxel; what is missing at the end is black (0) and label 2, and does not count as unlabelled when
    a place is chosen. Mean and deviation are those of the whole volume, before padding and augmentation.

    Examples
    --------
    >>> import tempfile
    >>> import vesuvius_kit as vk
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     competition = vk.Competition(vk.write_competition(scratch, train=1, test=0, deprecated=0, shape=24))
    ...     patches = vk.PatchDataset(competition.train, patch_size=16, samples_per_epoch=8, seed=1)
    ...     item = patches[3]
    >>> tuple(item["image"].shape), tuple(item["label"].shape), str(item["label"].dtype)
    ((1, 16, 16, 16), (16, 16, 16), 'torch.uint8')
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        *,
        patch_size: int | Sequence[int],
        samples_per_epoch: int,
        patches_per_volume: int = PatchConfig.per_volume,
        surface_fraction: float = PatchConfig.surface_fraction,
        max_unlabelled_fraction: float = PatchConfig.max_unlabelled_fraction,
        normalise: Normaliser | None = None,
        augmentation: Augment | None = None,
        seed: int = 0,
        cache_volumes: int = PatchConfig.cache_volumes,
    ) -> None:
        self.chunks = list(chunks)
        if not self.chunks:
            raise InputValueError("chunks must not be empty")
        for chunk in self.chunks:
            chunk.require_label()
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
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call] # torch has no types for it
        self._open: OrderedDict[int, _Pair] = OrderedDict()

    def __len__(self) -> int:
        return self.samples_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch given from the next pass of a loader on, 0 at first; its persistent workers learn of it too."""
        self._epoch[0] = check_integer("epoch", epoch, minimum=0)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one patch of the current epoch; an unreadable volume raises `InputError`."""
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

    def __getstate__(self) -> dict[str, Any]:
        # A loader process that is spawned opens its own volumes.
        return {**self.__dict__, "_open": OrderedDict()}

    def _find_chunk(self, epoch: int, index: int) -> int:
        turn, lane = divmod(index, self.cache_volumes)
        visit = turn // self.patches_per_volume
        turns = -(-self.samples_per_epoch // self.cache_volumes)
        visits = -(-turns // self.patches_per_volume)
        place = (epoch * visits + visit) * self.cache_volumes + lane
        # The shuffled order is a new one each time all volumes have been visited.
        lap, position = divmod(place, len(self.chunks))
        return int(np.random.default_rng([_ORDER, self.seed, lap]).permutation(len(self.chunks))[position])

    def _open_pair(self, number: int) -> _Pair:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            while len(self._open) >= self.cache_volumes:
                self._open.popitem(last=False)
            self._open[number] = _read_pair(self.chunks[number])
        return self._open[number]

    def _choose_place(self, pair: _Pair, random: np.random.Generator) -> tuple[slice, ...]:
        """Draw the part of the volume that the patch covers, in slices; shorter than the patch in a small volume."""
        on_surface = len(pair.surface) > 0 and random.random() < self.surface_fraction
        best: tuple[slice, ...] = ()
        least = np.inf
        for _ in range(_MAX_DRAWS):
            place = self._draw_place(pair, random, on_surface)
            part = pair.label[place]
            unlabelled = np.count_nonzero(part == UNLABELLED) / part.size
            if unlabelled < least:
                least, best = unlabelled, place
            if least <= self.max_unlabelled_fraction:
                break
        return best

    def _draw_place(self, pair: _Pair, random: np.random.Generator, on_surface: bool) -> tuple[slice, ...]:
        edges = np.array(self.patch_size)
        last = np.maximum(np.array(pair.label.shape) - edges, 0)
        if on_surface:
            voxel = np.unravel_index(pair.surface[random.integers(len(pair.surface))], pair.label.shape)
            jitter = random.integers(-(edges // 4), edges // 4 + 1)
            start = np.clip(np.array(voxel) - edges // 2 + jitter, 0, last)
        else:
            start = random.integers(0, last + 1)
        return tuple(slice(int(first), int(first + edge)) for first, edge in zip(start, edges))

    def _cut(self, volume: NDArray[np.uint8], place: tuple[slice, ...], fill: int) -> NDArray[np.uint8]:
        part = volume[place]
        if part.shape == self.patch_size:
            return part.copy()
        patch = np.full(self.patch_size, fill, volume.dtype)
        patch[tuple(slice(edge) for edge in part.shape)] = part
        return patch


def _read_pair(chunk: Chunk) -> _Pair:
    image, label = read_volume(chunk.image_path, "uint8"), read_volume(chunk.require_label(), "uint8")
    if image.shape != label.shape:
        raise InputValueError(f"{chunk.label_path} must have its image's shape {image.shape}, got {label.shape}")
    if label.max() > UNLABELLED:
        raise InputValueError(f"{chunk.label_path} must hold labels 0, 1 and 2, got {label.max()} as well")
    # Half the memory of NumPy's int64 indices.
    kind: type[np.signedinteger[Any]] = np.int32 if label.size < 2**31 else np.int64
    surface = np.flatnonzero(label == SURFACE).astype(kind)
    return _Pair(image, label, surface, float(image.mean()), float(image.std()))
