"""What is read of the traces: each request once, evenly spread ones of many, and the slowest of those."""

import numpy as np
import pytest

from tailcut.live.traces import TraceReader
from tailcut.runtime.tracing.timeline import ProcessEvent, Timeline


def answer(timeline: Timeline, begin_us: int, computed_us: int, *, written_us: int | None = None) -> None:
    """A request whose first byte came at a time, which was computed so long after, and written 10 us later."""
    begin, ended = 1000 * begin_us, 1000 * (begin_us + computed_us)
    written = ended + 10_000 if written_us is None else 1000 * (begin_us + written_us)
    timeline.record(begin, begin, begin, begin, ended, ended, ended, written, 1, 4, 64, 200)


def nothing(_since_ns: int) -> list[ProcessEvent]:
    return []


def test_each_request_is_read_once() -> None:
    """Requests traced before the reader was made are left out; without new ones the sample is empty."""
    timeline = Timeline(1 << 10)
    answer(timeline, 5, 900)
    reader = TraceReader([timeline])
    assert reader.read(nothing).count == 0
    for number in range(100):
        answer(timeline, 1000 + number, 100 - number)
    sample = reader.read(nothing)
    assert sample.count == 100
    assert sample.times_ns.tolist() == [1000 * number for number in range(1, 101)]
    assert [item.marks_us["written"] for item in sample.slow] == [110.0, 109.0, 108.0]
    assert (reader.read(nothing).count, reader.read(nothing).slow) == (0, ())


def test_several_processes_are_read_as_one() -> None:
    """The slowest of all, each with the process that answered."""
    timelines = [Timeline(1 << 6), Timeline(1 << 6)]
    reader = TraceReader(timelines)
    answer(timelines[0], 10, 50)
    answer(timelines[1], 10, 70)
    sample = reader.read(nothing)
    assert [item.marks_us["ended"] for item in sample.slow] == [70.0, 50.0]


@pytest.mark.parametrize("requests", [4096, 4097, 9000, 40_000])
def test_of_many_requests_every_kth(requests: int) -> None:
    """A sample has at most 4,096 requests of a process, from the oldest kept to the newest."""
    timeline = Timeline(1 << 15)
    reader = TraceReader([timeline])
    for number in range(requests):
        answer(timeline, number, 1 + number)
    sample = reader.read(nothing)
    assert 2048 <= sample.count <= 4096
    assert 128 <= len(sample.times_ns) <= 256
    kept = min(requests, (1 << 15) - 1)
    assert sample.times_ns[0] >= 1000 * (requests - kept)
    middle = float(np.median(sample.times_ns)) / 1000
    assert abs(middle - (requests - kept / 2)) < 0.02 * requests


def test_what_coincided_is_named() -> None:
    """An event of the same process that overlapped the request; the events asked for begin with the oldest of them."""
    timeline = Timeline(1 << 6)
    reader = TraceReader([timeline])
    answer(timeline, 100, 50)
    process = reader.timelines[0].copy()[0][0, -1]
    asked = []

    def events(since_ns: int) -> list[ProcessEvent]:
        asked.append(since_ns)
        return [
            ProcessEvent("gc", 120_000, 130_000, 10_000, int(process)),
            ProcessEvent("throttled", 0, 90_000, 1, int(process)),
        ]

    assert reader.read(events).slow[0].coincided == ["gc"]
    assert asked == [100_000]
