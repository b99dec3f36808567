from collections import deque
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesuvius_kit.checks import InputError
from vesuvius_kit.voxel.spreading import spread_labels


def spread_plainly(seeds, mask):
    labels = np.where(mask, seeds, 0)
    queue = deque(map(tuple, np.argwhere(labels > 0)))
    while queue:
        voxel = queue.popleft()
        for step in product((-1, 0, 1), repeat=3):
            other = tuple(np.add(voxel, step))
            inside = all(0 <= place < size for place, size in zip(other, mask.shape))
            if inside and mask[other] and labels[other] == 0:
                labels[other] = labels[voxel]
                queue.append(other)
    return labels


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 6)] * 3))
def test_it_equals_the_plain_search(seed, shape):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.5
    seeds = np.where(rng.random(shape) < 0.1, rng.integers(1, 4, shape), 0)
    np.testing.assert_array_equal(spread_labels(seeds, mask), spread_plainly(seeds, mask))


def test_it_leaves_its_arguments_alone_and_refuses_others():
    seeds, mask = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), bool)
    seeds[0, 0, 0] = 7
    assert (spread_labels(seeds, mask) == 7).all()
    assert seeds.sum() == 7
    assert spread_labels(seeds[:0], mask[:0]).shape == (0, 3, 4)
    with pytest.raises(InputError, match="same shape"):
        spread_labels(seeds, mask[:1])
    with pytest.raises(InputError, match="mask"):
        spread_labels(seeds, seeds)
