"""Counts of grey values and copies in another order of axes, of any layout, against NumPy."""

import itertools

import numpy as np
import pytest

from vesuvius_kit.checks import InputTypeError
from vesuvius_kit.voxel.histogram import copy_contiguous, count_values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (0, 3, 3), (4, 0, 4), (37, 33, 65)])
def test_counts_are_numpys(dtype, shape):
    volume = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
    counts = count_values(volume)
    assert counts.shape == (np.iinfo(dtype).max + 1,)
    np.testing.assert_array_equal(counts, np.bincount(volume.ravel(), minlength=len(counts)))


def layouts(volume):
    for order in itertools.permutations(range(3)):
        yield volume.transpose(order)
    yield volume[1:, ::2, 3:]
    yield volume[::-1, :, ::-1]
    yield np.broadcast_to(volume[:1], volume.shape)


@pytest.mark.parametrize("number", range(9))
def test_any_layout(number):
    view = list(layouts(np.random.default_rng(1).integers(0, 256, (35, 40, 67)).astype(np.uint8)))[number]
    before = view.copy()
    np.testing.assert_array_equal(count_values(view), np.bincount(before.ravel(), minlength=256))
    copied = copy_contiguous(view)
    assert copied.flags.c_contiguous
    np.testing.assert_array_equal(copied, before)


def test_what_is_in_order_is_not_copied():
    volume = np.zeros((2, 3, 4), np.float32)
    assert copy_contiguous(volume) is volume


@pytest.mark.parametrize("dtype", [np.uint32, np.int8, np.float32])
def test_other_types_are_refused(dtype):
    with pytest.raises(InputTypeError, match="volume must"):
        count_values(np.zeros((2, 2, 2), dtype))
