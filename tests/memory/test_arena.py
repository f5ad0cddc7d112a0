"""The bump allocator: alignment, order, overflow, and marks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.errors import CapacityError, InvalidInputError
from tailcut.memory.arena import Arena

PIECES = st.tuples(
    st.lists(st.integers(0, 5), max_size=3).map(tuple), st.sampled_from([np.uint8, np.int16, np.float64])
)


@given(st.lists(PIECES, max_size=12))
def test_pieces_are_aligned_and_apart(pieces: list) -> None:
    """Whatever is cut, each array starts on a cache line and no two share a byte."""
    arena = Arena(1 << 16)
    arrays = [arena.alloc(shape, dtype) for shape, dtype in pieces]
    for number, array in enumerate(arrays):
        array[...] = number
    for number, (array, (shape, dtype)) in enumerate(zip(arrays, pieces, strict=True)):
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.ctypes.data % 64 == 0
        assert (array == number).all()


def test_overflow_names_the_sizes() -> None:
    """What does not fit is refused with what was asked for, what is left, and the whole; the arena stays usable."""
    arena = Arena(256)
    arena.alloc(16, np.float32)
    with pytest.raises(CapacityError, match=r"256 bytes for \[8, 8\] of float32 do not fit: 192 of 256 are left"):
        arena.alloc((8, 8))
    assert arena.alloc(48).nbytes == 192
    assert arena.used_bytes == arena.size_bytes == 256


def test_reset_to_a_mark() -> None:
    """A reset takes back what was cut since its mark, and only that."""
    arena = Arena(1024)
    kept = arena.alloc(4)
    kept[:] = 1
    mark = arena.mark()
    first = arena.alloc(8)
    arena.reset(mark)
    again = arena.alloc(8)
    again[:] = 5
    assert again.ctypes.data == first.ctypes.data
    assert (kept == 1).all()
    arena.reset()
    assert arena.used_bytes == 0


def test_wrong_mark() -> None:
    """A mark ahead of the present place, or below zero, is refused."""
    arena = Arena(1024)
    arena.alloc(4)
    ahead = arena.mark()
    arena.reset()
    for mark in (ahead, -1):
        with pytest.raises(InvalidInputError, match=f"mark {mark} is not between 0 and 0"):
            arena.reset(mark)


def test_wrong_requests() -> None:
    """No empty arena, no negative dimension (two of them multiply to a size that exists), no Python objects."""
    with pytest.raises(InvalidInputError, match="at least one byte"):
        Arena(0)
    for shape in [(-1,), (-2, -3)]:
        with pytest.raises(InvalidInputError, match="negative"):
            Arena(64).alloc(shape)
    with pytest.raises(InvalidInputError, match="Python objects"):
        Arena(64).alloc(4, object)


def test_size_is_rounded_up_to_cache_lines() -> None:
    """An arena of one byte holds a cache line."""
    assert Arena(1).size_bytes == 64
