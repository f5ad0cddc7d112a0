"""The ring of records: the oldest go first, what is half written is never read, and a successor writes on behind."""

import mmap
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tailcut.memory.anonymous import anonymous_file
from tailcut.runtime.tracing.ring import Ring

WRITER = """
import mmap, os, sys
from tailcut.runtime.tracing.ring import Ring
ring = Ring(2, 64, memoryview(mmap.mmap(int(sys.argv[1]), Ring.size_bytes(2, 64))))
count = int(sys.argv[2])
number = ring.end
while number < count or not count:
    ring.record(number, -number)
    number += 1
"""


def shared() -> tuple[int, Ring]:
    descriptor = anonymous_file(Ring.size_bytes(2, 64))
    return descriptor, Ring(2, 64, memoryview(mmap.mmap(descriptor, Ring.size_bytes(2, 64))))


def writer(descriptor: int, count: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(descriptor), str(count)], pass_fds=[descriptor])


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 1000])
def test_the_last_are_there(count: int) -> None:
    """However often the ring has turned: as many as there are places but one, oldest first, the end behind them."""
    ring = Ring(2, 8)
    for number in range(count):
        ring.record(number, -number)
    records, first = ring.copy()
    kept = list(range(max(0, count - 7), count))
    assert (ring.end, first) == (count, count - len(kept))
    assert records.tolist() == [[number, -number, os.getpid()] for number in kept]


@pytest.mark.parametrize(("cursor", "left"), [(-5, 2), (0, 2), (1, 1), (2, 0), (99, 0)])
def test_a_strange_cursor_is_harmless(cursor: int, left: int) -> None:
    """A cursor from before the start reads all there is, one from the future nothing."""
    ring = Ring(1, 4)
    for number in range(2):
        ring.record(number)
    assert len(ring.copy(cursor)[0]) == left


def test_a_copy_stays_as_it_was() -> None:
    """What was read does not change when the ring turns."""
    ring = Ring(1, 4)
    ring.record(1)
    records, _ = ring.copy()
    for _ in range(6):
        ring.record(9)
    assert records[:, 0].tolist() == [1]


def test_a_capacity_is_a_power_of_two() -> None:
    """Others are refused: the place is found by a mask."""
    for capacity in (0, 1, 3, 100):
        with pytest.raises(ValueError, match="power of two"):
            Ring(1, capacity)


def test_an_untouched_ring_takes_no_memory() -> None:
    """A reader of a ring that was never written touches one page of it."""
    size = Ring.size_bytes(12, 1 << 15)
    descriptor = anonymous_file(size)
    ring = Ring(12, 1 << 15, memoryview(mmap.mmap(descriptor, size)))
    assert (ring.end, len(ring.copy()[0])) == (0, 0)
    assert os.fstat(descriptor).st_blocks * 512 <= 2 * mmap.PAGESIZE
    os.close(descriptor)


def test_a_successor_writes_on() -> None:
    """Records of a process that has ended stay, with its id, and the next process's follow by number."""
    descriptor, ring = shared()
    pids = []
    for count in (40, 90):
        with writer(descriptor, count) as process:
            pids.append(process.pid)
    records, first = ring.copy()
    assert (first, ring.end) == (27, 90)
    assert records[:, 0].tolist() == list(range(27, 90))
    assert records[:, 2].tolist() == [pids[0]] * 13 + [pids[1]] * 50
    os.close(descriptor)


def test_a_reader_beside_a_writer_sees_whole_records_only() -> None:
    """While another process turns the ring hundreds of times and is killed in the middle, no copy holds a torn one."""
    descriptor, ring = shared()
    process = writer(descriptor, 0)
    ends: set[int] = set()
    while not ring.end:
        assert process.poll() is None
        time.sleep(0.005)  # it takes half a second to begin
    while len(ends) < 300 or max(ends) < 20_000:
        assert process.poll() is None
        check(*ring.copy())
        ends.add(ring.end)
    process.kill()
    process.wait()
    records, first = ring.copy()
    check(records, first)
    assert len(records) == 63
    os.close(descriptor)


def check(records: np.ndarray, first: int) -> None:
    """Numbers as they must follow, and each record's halves of one piece."""
    assert (records[:, 0] == np.arange(first, first + len(records))).all()
    assert (records[:, 1] == -records[:, 0]).all()


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8])
def test_the_place_being_written_is_not_read(count: int) -> None:
    """A record without its stamp is what a killed writer leaves behind: neither read nor counted, and written over."""
    memory = memoryview(bytearray(Ring.size_bytes(2, 4)))
    ring = Ring(2, 4, memory)
    for number in range(count):
        ring.record(number, -number)
    at = count % 4 * 24
    memory[at : at + 24] = np.array([12345, 0, 0]).tobytes()
    assert (ring.copy()[0][:, 0].tolist(), ring.end) == ([count - 3, count - 2, count - 1], count)
    successor = Ring(2, 4, memory)
    successor.record(count, -count)
    assert ring.copy()[0][:, 0].tolist() == [count - 2, count - 1, count]


@pytest.mark.parametrize(
    ("written", "cursor", "most", "expected"),
    [
        (0, 0, 4, []),
        (5, 0, 8, [0, 1, 2, 3, 4]),
        (5, 3, 8, [3, 4]),
        (60, 0, 20, list(range(28, 60, 2))),
        (200, 0, 21, list(range(168, 200, 2))),
        (200, 199, 1, [199]),
        (200, 500, 4, []),
    ],
)
def test_a_sample_is_spread_evenly(written: int, cursor: int, most: int, expected: list[int]) -> None:
    """Of what is there from the cursor on, every k-th; reading goes on behind the newest."""
    ring = Ring(1, 64)
    for number in range(written):
        ring.record(number)
    numbers, end = ring.sample(cursor, most)
    assert (numbers.tolist(), end) == (expected, written)
    assert ring.column(numbers, 0).tolist() == expected
    assert ring.rows(numbers).tolist() == [[number, os.getpid()] for number in expected]


def test_a_record_that_was_overwritten_is_no_row() -> None:
    """Its number tells."""
    ring = Ring(1, 8)
    for number in range(20):
        ring.record(number)
    assert ring.rows(np.arange(8, 20)).tolist() == [[number, os.getpid()] for number in range(12, 20)]
