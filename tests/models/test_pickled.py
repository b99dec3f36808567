"""Others' pickles: numbers and weights are read, what could reach beyond them is refused."""

import numpy as np
import pytest
import torch

from vesuvius_kit.checks import InputValueError
from vesuvius_kit.models.pickled import read_pickled


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", "<i2"])
def test_numbers_and_arrays_of_numpy_are_read(tmp_path, kind):
    values = np.arange(6).astype(kind).reshape(2, 3)
    told = [values, values.T, values[1, 2], np.asfortranarray(values)]
    torch.save({"told": told}, tmp_path / "a.pth")
    for own, other in zip(read_pickled(tmp_path / "a.pth")["told"], told, strict=True):
        assert isinstance(own, type(other))
        assert own.dtype.newbyteorder("=") == other.dtype.newbyteorder("=")
        assert np.array_equal(own, other)


@pytest.mark.parametrize(
    "harm",
    [
        # An object at an address that the file names: whoever looks at it crashes, or worse.
        Calls(np.ndarray, (1,), Calls(np.dtype, "O"), b"ABCDEFGH"),
        Calls(np.ndarray, (1,)),
        Calls(np._core.multiarray.scalar, Calls(np.dtype, "O"), b"ABCDEFGH"),
        Calls(np.dtype, "V8"),
        np.array(["text", None], dtype=object),
        np.str_("text"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path, harm):
    torch.save({"trainer_name": harm}, tmp_path / "a.pth")
    with pytest.raises(InputValueError, match=r"checkpoint (must hold plain numbers and weights only|cannot be read)"):
        read_pickled(tmp_path / "a.pth")
