"""Copies in another order of axes, of any layout, against NumPy."""

import itertools

import numpy as np
import pytest

from vesuvius_kit.voxel.layout import copy_contiguous


def layouts(volume):
    for order in itertools.permutations(range(3)):
        yield volume.transpose(order)
    yield volume[1:, ::2, 3:]
    yield volume[::-1, :, ::-1]
    yield np.broadcast_to(volume[:1], volume.shape)
    yield volume[:, :0].transpose(2, 1, 0)


@pytest.mark.parametrize("number", range(10))
def test_any_layout(number):
    view = list(layouts(np.random.default_rng(1).integers(0, 256, (35, 40, 67)).astype(np.uint8)))[number]
    before = view.copy()
    copied = copy_contiguous(view)
    assert copied.flags.c_contiguous
    np.testing.assert_array_equal(copied, before)


def test_what_is_in_order_is_not_copied():
    volume = np.zeros((2, 3, 4), np.float32)
    assert copy_contiguous(volume) is volume
