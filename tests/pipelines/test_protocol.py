"""Messages of a stage's process."""

import pytest

from tailcut.pipelines.protocol import CALL, MOST_BYTES, REGION_BYTES, REPLY, ReplyKind, grown


@pytest.mark.parametrize(("size", "needed", "result"), [(8, 0, 8), (8, 8, 8), (8, 9, 16), (8, 33, 64)])
def test_regions_grow_by_doubling(size: int, needed: int, result: int) -> None:
    assert grown(size, needed) == result


def test_records_carry_the_largest_batch() -> None:
    """There and back."""
    most = grown(REGION_BYTES, MOST_BYTES)
    assert CALL.unpack(CALL.pack(MOST_BYTES, most, most)) == (MOST_BYTES, most, most)
    for kind in ReplyKind:
        assert REPLY.unpack(REPLY.pack(kind, MOST_BYTES, most)) == (kind, MOST_BYTES, most)
