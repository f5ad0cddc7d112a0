"""Traces of requests: what is written is what is read, in order over several timelines, and events by their end."""

import os

from tailcut.runtime.tracing.attribution import COINCIDENCES, KINDS
from tailcut.runtime.tracing.timeline import (
    EVENTS,
    MARKS,
    STAGES,
    WRITTEN,
    Events,
    ProcessEvent,
    Timeline,
    pack_moments,
    pack_shared,
    read,
)


def fill(timeline: Timeline, numbers: range) -> None:
    for number in numbers:
        timeline.record(*(number * 100 + index for index in range(WRITTEN)))


def test_records_come_back_in_order() -> None:
    """Every field of every record, oldest first, and the process that wrote it."""
    timeline = Timeline(8)
    fill(timeline, range(5))
    piece = read([timeline])
    assert piece.records.tolist() == [[*(n * 100 + index for index in range(WRITTEN)), os.getpid()] for n in range(5)]
    assert (piece.next, piece.missed) == ((5,), 0)


def test_a_row_of_a_batch_is_a_record_like_any_other() -> None:
    """Its moments, those that it shares with others, and its sizes."""
    item, other, together = Timeline(4), Timeline(4), Timeline(4)
    for number in range(1, 9):  # more than there are places
        moments = tuple(number * 100 + index for index in range(8))
        item.record(*moments, 1, 32, 1024, 200)
        shared = pack_moments(*moments[1:6])
        other.record_row(moments[0], shared, *moments[6:], 32, 1024)
        together.record_rows([moments[0]], pack_shared(shared, *moments[6:], 32, 1024))
    for timeline in (other, together):
        assert read([timeline]).records.tolist() == read([item]).records.tolist()
        assert read([timeline]).next == read([item]).next == (8,)
    together.record_rows(range(3, 9), pack_shared(shared, *moments[6:], 32, 1024))
    assert read([together]).records[:, 0].tolist() == [6, 7, 8]
    assert read([together]).next == (14,)


def test_a_reader_goes_on_where_it_stopped() -> None:
    """From a cursor for each timeline on; what was overwritten meanwhile is counted; a missing cursor is 0."""
    item, other = Timeline(4), Timeline(8)
    fill(item, range(3))
    cursors = read([item, other]).next
    assert cursors == (3, 0)
    fill(item, range(3, 10))
    fill(other, range(20, 22))
    piece = read([item, other], cursors[:1])
    assert piece.records[:, 0].tolist() == [700, 800, 900, 2000, 2100]
    assert (piece.next, piece.missed) == ((10, 2), 4)
    again = read([item, other], piece.next)
    assert (len(again.records), again.missed) == (0, 0)


def test_several_timelines_are_read_by_the_time_of_the_answer() -> None:
    """Of several writers too, the newest records are the last."""
    item, other = Timeline(8), Timeline(8)
    fill(item, range(0, 6, 2))
    fill(other, range(1, 6, 2))
    assert read([item, other]).records[:, 0].tolist() == [0, 100, 200, 300, 400, 500]


def test_from_now_on() -> None:
    """A cursor below 0 reads nothing and stands where the timeline does."""
    timeline = Timeline(4)
    fill(timeline, range(7))
    piece = read([timeline], [-1])
    assert (len(piece.records), piece.next, piece.missed) == (0, (7,), 0)


def test_stages_lie_between_marks() -> None:
    """One stage fewer than there are moments."""
    assert len(STAGES) == len(MARKS) - 1


def test_events_are_found_by_their_end() -> None:
    """Those that ended after a moment, with all their time where no amount was given."""
    events = Events()
    events.add("gc", 10, 20)
    events.add("loop_wait", 15, 30, 5)
    assert events.since(0) == [
        ProcessEvent("gc", 10, 20, 10, os.getpid()),
        ProcessEvent("loop_wait", 15, 30, 5, os.getpid()),
    ]
    assert [event.kind for event in events.since(20)] == ["loop_wait"]


def test_every_kind_of_event_can_be_charged() -> None:
    """What a server may note is what an explanation knows, and the other way round."""
    spans = [KINDS.get(kind, {("ready", "written"): (kind,)}) for kind in COINCIDENCES]
    assert {name for span in spans for kinds in span.values() for name in kinds} == set(EVENTS)
