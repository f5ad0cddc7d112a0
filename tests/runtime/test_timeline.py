"""The ring of records: what is written is what is read, the oldest go first, and a reader knows what it missed."""

import pytest

from tailcut.runtime.timeline import FIELDS, MARKS, STAGES, Events, Timeline


def fill(timeline: Timeline, numbers: range) -> None:
    for number in numbers:
        timeline.record(*(number * 100 + place for place in range(len(FIELDS))))


def test_records_come_back_in_order() -> None:
    """Every field of every record, oldest first."""
    timeline = Timeline(8)
    fill(timeline, range(5))
    piece = timeline.since()
    assert piece.records.tolist() == [[n * 100 + place for place in range(len(FIELDS))] for n in range(5)]
    assert (piece.next, piece.missed) == (5, 0)


def test_a_reader_goes_on_where_it_stopped() -> None:
    """From the cursor on; what was overwritten meanwhile is counted."""
    timeline = Timeline(4)
    fill(timeline, range(3))
    cursor = timeline.since().next
    fill(timeline, range(3, 10))
    piece = timeline.since(cursor)
    assert piece.records[:, 0].tolist() == [600, 700, 800, 900]
    assert piece.missed == 3
    again = timeline.since(piece.next)
    assert len(again.records) == 0
    assert again.missed == 0


@pytest.mark.parametrize("cursor", [-5, 99])
def test_a_strange_cursor_is_harmless(cursor: int) -> None:
    """A cursor from before the start reads all there is, one from the future nothing."""
    timeline = Timeline(4)
    fill(timeline, range(2))
    assert len(timeline.since(cursor).records) == (2 if cursor < 0 else 0)


def test_a_copy_stays_as_it_was() -> None:
    """What was read does not change when the ring turns."""
    timeline = Timeline(2)
    fill(timeline, range(2))
    records = timeline.since().records
    fill(timeline, range(2, 6))
    assert records[:, 0].tolist() == [0, 100]


def test_a_capacity_is_a_power_of_two() -> None:
    """Others are refused: the place is found by a mask."""
    for capacity in (0, 3, 100):
        with pytest.raises(ValueError, match="power of two"):
            Timeline(capacity)


def test_stages_lie_between_marks() -> None:
    """One stage fewer than there are moments."""
    assert len(STAGES) == len(MARKS) - 1


def test_events_are_found_by_their_end() -> None:
    """Those that ended after a moment, with all their time where no amount was given."""
    events = Events()
    events.add("gc", 10, 20)
    events.add("cpu_wait", 15, 30, 5)
    assert [(event.kind, event.amount_ns) for event in events.since(0)] == [("gc", 10), ("cpu_wait", 5)]
    assert [event.kind for event in events.since(20)] == ["cpu_wait"]
