"""Compressed bodies in steps."""

import gzip
import zlib
from collections.abc import Generator

import pytest

from tailcut.errors import InvalidInputError, TooLargeError
from tailcut.wire.inflate import inflate, inflate_in_steps


def finish(steps: Generator[None, None, bytearray]) -> tuple[int, bytearray]:
    """How many steps there were, and the result."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value
        count += 1


PLAIN = bytes(range(256)) * 4000


@pytest.mark.parametrize(
    "packed", [gzip.compress(PLAIN), zlib.compress(PLAIN), gzip.compress(PLAIN, 0)], ids=["gzip", "deflate", "stored"]
)
def test_what_comes_out_is_charged_as_it_comes(packed: bytes) -> None:
    """The plain bytes, and each of them charged, in pieces of 128 KB at most."""
    charged: list[int] = []
    count, plain = finish(inflate_in_steps(packed, len(PLAIN), charged.append))
    assert plain == PLAIN
    assert sum(charged) == len(PLAIN)
    assert max(charged) <= 128 * 1024
    assert count >= len(PLAIN) // (128 * 1024)


def test_a_bomb_stops_at_the_limit() -> None:
    """Nothing is inflated far past it."""
    charged: list[int] = []
    steps = inflate_in_steps(gzip.compress(bytes(50 << 20)), 1 << 20, charged.append)
    with pytest.raises(TooLargeError, match="1048576"):
        for _ in steps:
            pass
    assert sum(charged) <= 1 << 20


def test_who_charges_may_refuse() -> None:
    """Its error ends the work."""

    def refuse(_: int) -> None:
        raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        next(inflate_in_steps(gzip.compress(PLAIN), len(PLAIN), refuse))


@pytest.mark.parametrize(
    "packed",
    [b"rubbish", b"", gzip.compress(PLAIN)[:-9], gzip.compress(PLAIN)[:100]],
    ids=["rubbish", "nothing", "no end", "a beginning"],
)
def test_what_is_no_stream(packed: bytes) -> None:
    """Is refused."""
    with pytest.raises(InvalidInputError):
        inflate(packed, 1 << 30)


@pytest.mark.parametrize("pad", [b"", bytes(20_000)], ids=["exact", "padded"])
def test_a_stream_of_several_members(pad: bytes) -> None:
    """As `cat a.gz b.gz` makes it, wherever the second one begins; zeros may follow."""
    for size in (0, 1, 16 * 1024 - 30, len(PLAIN)):
        first = gzip.compress(PLAIN[:size], 0)
        assert inflate(first + gzip.compress(b"more") + gzip.compress(b"") + pad, 1 << 30) == PLAIN[:size] + b"more"
    with pytest.raises(InvalidInputError, match="cut short"):
        inflate(gzip.compress(PLAIN) + gzip.compress(PLAIN)[:-4], 1 << 30)
    with pytest.raises(TooLargeError):
        inflate(gzip.compress(PLAIN) * 2, len(PLAIN) + 1)


@pytest.mark.parametrize("packed", [gzip.compress(PLAIN), zlib.compress(PLAIN)], ids=["gzip", "deflate"])
def test_what_is_behind_a_stream_is_not_dropped(packed: bytes) -> None:
    """Whoever sent it meant something by it."""
    with pytest.raises(InvalidInputError, match=r"not valid|data after"):
        inflate(packed + b"rubbish", 1 << 30)
    with pytest.raises(InvalidInputError, match=r"not valid|data after"):
        inflate(packed + zlib.compress(b"more"), 1 << 30)


def test_empty_members_are_bounded() -> None:
    """Each costs some microseconds, and brings nothing."""
    with pytest.raises(InvalidInputError, match="data after"):
        inflate(gzip.compress(b"") * 70_000, 1 << 30)
