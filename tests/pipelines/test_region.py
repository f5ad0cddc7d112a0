"""Memory that a server and a stage's process share: what it keeps after a large batch."""

import os

import numpy as np
import pytest

from tailcut.memory.anonymous import anonymous_file
from tailcut.pipelines.protocol import REGION_BYTES
from tailcut.pipelines.region import MappedRegion, RegionUse

MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        pytest.param([64 * MIB, *[MIB] * 200], 2 * MIB, id="one large call"),
        pytest.param([64 * MIB, *[1] * 200], REGION_BYTES, id="never less than at the start"),
        pytest.param([64 * MIB, *[20 * MIB] * 200], 0, id="a part that is needed"),
        pytest.param([64 * MIB, *[MIB] * 50] * 5, 0, id="large ones come again"),
        pytest.param([MIB // 2, *[1] * 200], 0, id="never large"),
    ],
)
def test_what_is_kept(sizes: list[int], kept: int) -> None:
    """Twice what the newest calls needed, where that is much less than there is; said once."""
    use = RegionUse()
    assert [said for said in map(use.next_call, sizes) if said] == ([kept] if kept else [])


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="holes in files are Linux's")
def test_memory_goes_back_and_the_region_stays() -> None:
    """The file has as many bytes as before and fewer blocks; a later large call finds its place, on both sides."""
    writer = MappedRegion(anonymous_file(REGION_BYTES))
    reader = MappedRegion(os.dup(writer.descriptor))
    try:
        writer.grow(16 * MIB)[:] = 7
        before = reader.hold(writer.size)
        assert before[-1] == 7
        for _ in range(130):
            writer.grow(10)[:10] = 1
        status = os.fstat(writer.descriptor)
        assert status.st_size == writer.size >= 16 * MIB
        assert status.st_blocks * 512 <= 2 * REGION_BYTES
        assert before[-1] == 0
        writer.grow(16 * MIB)[:] = np.uint8(9)
        assert (reader.hold(writer.size)[: 16 * MIB] == 9).all()
    finally:
        writer.close()
        reader.close()
