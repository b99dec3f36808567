"""What is asked for ahead changes nothing, whatever the row; that it is asked for shows in the machine code."""

import numba
import numpy as np
import pytest

from vesuvius_kit.voxel.prefetch import prefetch

TYPES = [np.bool_, np.uint8, np.uint16, np.float32, np.float64, np.complex128]


@numba.njit
def copy_rows(rows, out):
    for number in range(len(rows)):
        prefetch(rows[min(number + 2, len(rows) - 1)])
        out[number] = rows[number]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_rows_are_what_they_were(dtype, length):
    rows = np.random.default_rng(0).integers(0, 2, (5, length)).astype(dtype)
    before, out = rows.copy(), np.empty_like(rows)
    copy_rows(rows, out)
    np.testing.assert_array_equal(out, before)
    np.testing.assert_array_equal(rows, before)


def test_the_processor_is_asked():
    copy_rows(np.zeros((2, 64), np.float32), np.zeros((2, 64), np.float32))
    assert all("llvm.prefetch" in code for code in copy_rows.inspect_llvm().values())


def test_plain_python_asks_for_nothing():
    assert prefetch(np.zeros(3)) is None
