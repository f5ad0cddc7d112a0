"""Admission: pure, so every case is a row of a table; the time is an argument."""

import pytest

from tailcut.batching.forecast import Forecast
from tailcut.errors import QueueFullError, TooLargeError
from tailcut.runtime.admission import Admission

MS = 1_000_000
NOW = 1_000 * MS


def admission(*, rows: int = 100, wished_rows: int = 100, fixed: bool = True) -> Admission:
    """Of a model whose batches hold 10 rows and take 10 ms."""
    forecast = Forecast(10, 1)
    for _ in range(200):
        forecast.cost.observe(10, 10 * MS)
    return Admission("m", forecast, rows, wished_rows, 1, fixed)


@pytest.mark.parametrize(("rows", "waiting"), [(1, 0), (1, 99), (100, 0), (10, 90)])
def test_what_has_room_is_admitted(rows: int, waiting: int) -> None:
    """Up to the last row of the queue."""
    admission().refuse_size(rows, waiting, NOW)


@pytest.mark.parametrize(("rows", "waiting"), [(1, 100), (11, 90), (100, 1)])
def test_a_full_queue_says_when_to_try_again(rows: int, waiting: int) -> None:
    """The work that waits is named, and a pause of half of it; the refusal stands for a few milliseconds at most."""
    with pytest.raises(QueueFullError, match=r"of work is waiting") as caught:
        admission().refuse_size(rows, waiting, NOW)
    assert caught.value.retry_after_s == pytest.approx(waiting * 1e-3 / 2, rel=0.1, abs=0.001)
    assert NOW < caught.value.opens_ns <= NOW + 5 * MS


def test_a_full_queue_where_nothing_waits() -> None:
    """All rows are being computed: no work is named."""
    assert str(admission().full(0, NOW)) == "model 'm' has no room for more requests"


def test_more_rows_than_the_queue_ever_holds() -> None:
    """Trying again would not help: the limit is named, with the option where that raises it."""
    with pytest.raises(TooLargeError, match=r"101 rows.*holds 100: send fewer at a time, or raise --queue"):
        admission().refuse_size(101, 0, NOW)
    with pytest.raises(TooLargeError, match="as many as its memory holds"):
        admission(rows=50).refuse_size(51, 0, NOW)


def test_without_a_slab_one_larger_request_has_room() -> None:
    """Alone: it takes no rows that others could have."""
    admission(fixed=False).refuse_size(101, 0, NOW)
    with pytest.raises(TooLargeError):
        admission(fixed=False).refuse_size(101, 1, NOW)


def test_a_deadline_that_has_passed() -> None:
    """Said of one request and of many in the same words."""
    with pytest.raises(QueueFullError, match=r"^the deadline has passed: 30 ms of work is ahead$"):
        admission().refuse_late(1, 30, NOW - MS, NOW, busy=False)


@pytest.mark.parametrize(("ahead", "left_ms"), [(0, 50), (10, 50), (30, 60)])
def test_a_deadline_that_can_be_met(ahead: int, left_ms: int) -> None:
    """Nothing is raised."""
    admission().refuse_late(1, ahead, NOW + left_ms * MS, NOW, busy=False)


@pytest.mark.parametrize(("ahead", "left_ms"), [(100, 20), (50, 10), (30, 5)])
def test_a_deadline_that_cannot_be_met_tells_the_work_ahead(ahead: int, left_ms: int) -> None:
    """And is told to try again before half of the time that it has is over."""
    message = rf"cannot meet the {left_ms} ms deadline: {ahead:g} ms of work is ahead"
    with pytest.raises(QueueFullError, match=message) as caught:
        admission().refuse_late(1, ahead, NOW + left_ms * MS, NOW, busy=False)
    assert 0.001 <= caught.value.retry_after_s <= left_ms / 2000
    assert NOW < caught.value.opens_ns <= NOW + 5 * MS
