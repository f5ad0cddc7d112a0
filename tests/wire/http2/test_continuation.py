"""Header blocks in pieces: put together in order, and bounded."""

import pytest

from tailcut.wire.http2.continuation import FRAMES, SplitBlock
from tailcut.wire.http2.fields import BLOCK_BYTES
from tailcut.wire.http2.frames import END_STREAM, ErrorCode, Http2Error


def test_the_pieces_make_the_block() -> None:
    """With the flags that its HEADERS had, in as many frames as are allowed."""
    block = SplitBlock(1, END_STREAM, b"0")
    for number in range(1, FRAMES + 1):
        block.add(1, b"%d" % number)
    assert block.whole() == b"".join(b"%d" % number for number in range(FRAMES + 1))
    assert block.flags == END_STREAM


@pytest.mark.parametrize(
    ("pieces", "over"),
    [([b""] * FRAMES, b""), ([b"x" * (BLOCK_BYTES - 1)], b"x")],
    ids=["frames", "bytes"],
)
def test_a_block_that_does_not_end(pieces: list[bytes], over: bytes) -> None:
    """The first frame over a limit ends the connection, and none before it."""
    block = SplitBlock(1, 0, b"x")
    for piece in pieces:
        block.add(1, piece)
    with pytest.raises(Http2Error, match="does not end") as caught:
        block.add(1, over)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_piece_for_another_stream() -> None:
    """Nothing else may come between the frames of a block: the connection ends."""
    block = SplitBlock(1, 0, b"x")
    with pytest.raises(Http2Error, match="CONTINUATION without HEADERS") as caught:
        block.add(3, b"y")
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR
