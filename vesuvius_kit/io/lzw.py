"""The LZW decoder of TIFF pages, safe on damaged data.

The competition's volumes are LZW TIFFs, and the usual decoder reads and writes outside its buffers when a byte of them is
wrong, which ends the process. This one refuses. It is also faster, because it keeps no dictionary of strings: each entry of
the table is a stretch of what was decoded already, so an entry is a start and a length and decoding is copying.

T. A. Welch, "A technique for high-performance data compression", Computer 17(6), 1984; TIFF 6.0, section 13.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import config
from numpy.typing import NDArray

from vesuvius_kit.voxel.compilation import compiled

_CLEAR, _END, _FIRST_FREE, _TABLE_SIZE = 256, 257, 258, 4096


def decode_strips(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], byte_counts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Decode LZW strips of a TIFF file into one row of bytes, on up to four threads.

    A damaged strip (a code without meaning, too few bytes or too many) raises a plain ``ValueError``.

    Parameters
    ----------
    data
        Shape (n,): the file.
    offsets, byte_counts
        Shape (n_strips,): where each strip starts in ``data`` and how many bytes it has there; inside ``data``.
    sizes
        Shape (n_strips,): how many bytes each strip decodes to.
    """
    # A code of 9 to 12 bits stands for fewer than 4,096 bytes, so a damaged size is seen before it is allocated.
    if (sizes > byte_counts * _TABLE_SIZE).any():
        raise ValueError(f"strip {int(np.argmax(sizes > byte_counts * _TABLE_SIZE))} of {len(sizes)} is damaged")
    ends = np.cumsum(sizes)
    decoded = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    # Ordinary threads: a loader process is a fork, in which numba's own may not run.
    n_threads = min(4, config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined] # numba sets it while it is imported
    shares = [slice(i * len(ends) // n_threads, (i + 1) * len(ends) // n_threads) for i in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool:
        damaged = pool.map(
            lambda share: _decode_all(
                data, offsets[share], byte_counts[share], (ends - sizes)[share], ends[share], decoded
            ),
            shares,
        )
        for share, strip in zip(shares, damaged):
            if strip >= 0:
                raise ValueError(f"strip {share.start + strip} of {len(ends)} is damaged")
    return decoded


@compiled(nogil=True)
def _decode_all(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    byte_counts: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    decoded: NDArray[np.uint8],
) -> int:
    """Decode strips and return the number of the first that is damaged, or -1."""
    for strip in range(len(offsets)):
        coded = data[offsets[strip] : offsets[strip] + byte_counts[strip]]
        if not _decode(coded, decoded[starts[strip] : ends[strip]]):
            return strip
    return -1


@compiled(nogil=True)
def _decode(coded: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> bool:
    """Fill ``decoded``; False if the codes are damaged or give fewer or more bytes."""
    start = np.empty(_TABLE_SIZE, np.int64)
    length = np.empty(_TABLE_SIZE, np.int64)
    place = 0  # of the next coded byte
    window = np.uint64(0)  # coded bits not yet used, the last of them lowest
    n_bits = 0
    width = 9
    free = _FIRST_FREE
    filled = 0
    previous_start, previous_length = 0, 0  # no previous string after a clear
    while filled < len(decoded):
        while n_bits < width:
            if place == len(coded):
                return False
            window = (window << np.uint64(8)) | np.uint64(coded[place])
            place += 1
            n_bits += 8
        n_bits -= width
        code = np.int64((window >> np.uint64(n_bits)) & np.uint64((1 << width) - 1))
        if code == _CLEAR:
            width, free, previous_length = 9, _FIRST_FREE, 0
            continue
        if code == _END:
            return False
        if previous_length and free < _TABLE_SIZE:
            # The previous string and the first byte of this one, which is about to follow it.
            start[free], length[free] = previous_start, previous_length + 1
            free += 1
        if code < _CLEAR:
            decoded[filled] = code
            size = 1
        else:
            if code >= free:
                return False
            source, size = start[code], length[code]
            if filled + size > len(decoded):
                return False
            # Byte by byte forwards: the string may reach into the bytes that it writes.
            for i in range(size):
                decoded[filled + i] = decoded[source + i]
        previous_start, previous_length = filled, size
        filled += size
        # One code early, as TIFF has it.
        if free + 1 >= (1 << width) and width < 12:
            width += 1
    return True
