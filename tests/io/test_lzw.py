"""The LZW decoder against imagecodecs' encoder, and on damaged data, which must be refused and never read past its end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesuvius_kit.io.lzw import decode_strips

imagecodecs = pytest.importorskip("imagecodecs")


def encode(values):
    return np.frombuffer(imagecodecs.lzw_encode(values.tobytes()), np.uint8)


def decode(coded, size):
    return decode_strips(coded, np.array([0]), np.array([len(coded)]), np.array([size]))


@pytest.mark.parametrize("n", [1, 2, 3, 250, 253, 254, 255, 256, 1000, 3836, 3838, 4000, 70_000])
@pytest.mark.parametrize("levels", [1, 2, 256])
def test_what_was_encoded_comes_back(n, levels):
    # Lengths around the places where codes grow by a bit and where the table is full and cleared.
    values = np.random.default_rng(n).integers(levels, size=n).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(values), n), values)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=400))
def test_any_bytes_come_back(data):
    values = np.frombuffer(data, np.uint8)
    np.testing.assert_array_equal(decode(encode(values), len(values)), values)


def test_strips_come_one_after_the_other_whatever_their_order_in_the_file():
    strips = [np.full(n, n % 251, np.uint8) for n in (5, 700, 1, 90)]
    coded = [encode(strip) for strip in strips]
    data = np.concatenate(coded[::-1])
    counts = np.array([len(part) for part in coded])
    offsets = np.cumsum(counts[::-1])[::-1] - counts
    decoded = decode_strips(data, offsets, counts, np.array([len(strip) for strip in strips]))
    np.testing.assert_array_equal(decoded, np.concatenate(strips))


def test_no_strips_give_no_bytes():
    empty = np.zeros(0, np.int64)
    assert decode_strips(np.zeros(0, np.uint8), empty, empty, empty).shape == (0,)


def test_an_independent_hand_made_stream():
    # Clear, "A", 258 ("AA", the string that is being made), end: 9 bits each, highest first.
    bits = "".join(f"{code:09b}" for code in (256, 65, 258, 257)).ljust(40, "0")
    coded = np.frombuffer(int(bits, 2).to_bytes(5, "big"), np.uint8)
    assert decode(coded, 3).tobytes() == b"AAA"


@pytest.mark.parametrize("codes", [(256, 65, 300), (256, 258), (256, 65, 257), (258,), (256,)])
def test_codes_without_meaning_and_streams_that_end_early_are_refused(codes):
    bits = "".join(f"{code:09b}" for code in codes)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    coded = np.frombuffer(int(bits, 2).to_bytes(len(bits) // 8, "big"), np.uint8)
    with pytest.raises(ValueError, match="strip 0 of 1 is damaged"):
        decode(coded, 10)


def test_a_size_no_stream_can_have_is_refused_before_it_is_allocated():
    with pytest.raises(ValueError, match="is damaged"):
        decode(np.zeros(4, np.uint8), 2**60)


def test_random_damage_is_refused_or_gives_the_size_asked_for():
    values = np.random.default_rng(0).integers(9, size=3000).astype(np.uint8)
    whole, rng, refused = encode(values), np.random.default_rng(1), 0
    for _ in range(3000):
        coded = whole.copy()
        coded[rng.integers(len(coded), size=3)] = rng.integers(256, size=3)
        try:
            assert decode(coded, 3000).shape == (3000,)
        except ValueError:
            refused += 1
    assert refused > 1000
