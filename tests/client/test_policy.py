"""When a client tries again and when it sends a second copy: no socket, no clock, and the dice are given."""

import pytest

from tailcut.client.policy import Hedge, HedgeClock, RefusedError, Retries, StaleError, Tries
from tailcut.errors import (
    ArgumentTypeError,
    DeadlineExceededError,
    EngineError,
    InvalidInputError,
    QueueFullError,
    UnreachableError,
)

RETRIES = Retries(limit=3, pause_s=1.0, longest_s=3.0)
BUSY = QueueFullError("full", 2)


def test_pauses_are_drawn_below_a_bound_that_doubles() -> None:
    """1, 2, and then the longest; the dice take any part of it; after the limit there is no further try."""
    refused = RefusedError("nobody")
    assert [RETRIES.pause(refused, tries, 100.0, 1.0) for tries in (1, 2, 3, 4)] == [1.0, 2.0, 3.0, None]
    assert RETRIES.pause(refused, 2, 100.0, 0.25) == 0.5


def test_retry_after_comes_before_the_pause() -> None:
    """A busy server is left alone for as long as it says."""
    assert RETRIES.pause(BUSY, 1, 100.0, 0.5) == 2.5


def test_no_pause_goes_past_the_deadline() -> None:
    """What cannot be in time is not waited for."""
    assert RETRIES.pause(BUSY, 1, 2.5, 0.5) is None


@pytest.mark.parametrize(
    "error", [EngineError("x"), InvalidInputError("x"), DeadlineExceededError("x"), UnreachableError("broke off")]
)
def test_other_errors_are_final(error: Exception) -> None:
    """Faults of the input, the model or the time, and an answer that broke off, are raised as they are."""
    with pytest.raises(type(error)) as raised:
        Tries(RETRIES).pause_after(error, 100.0, 0.5)
    assert raised.value is error


def test_a_stale_connection_is_replaced_once() -> None:
    """At once, by a new one, and without counting as a try; a second time it is final."""
    tries = Tries(Retries(limit=0))
    assert not tries.fresh
    assert tries.pause_after(StaleError("closed"), 100.0, 0.5) == 0.0
    assert tries.fresh
    with pytest.raises(StaleError):
        tries.pause_after(StaleError("closed"), 100.0, 0.5)


def test_a_fixed_hedge() -> None:
    """Due after the time that was given, for the share of calls that may be sent twice."""
    clock = HedgeClock(Hedge(after_s=0.5, share=0.25))
    due = []
    for _ in range(12):
        due.append(clock.due_after())
        if due[-1] is not None:
            clock.sent_copy()
    assert sum(item is not None for item in due) == 3
    assert set(due) == {0.5, None}


def test_a_learned_hedge() -> None:
    """Nothing is sent twice before enough is known; then after what 95 of 100 calls took."""
    clock = HedgeClock(Hedge())
    for number in range(100):
        if number < 64:
            assert clock.due_after() is None
        clock.took(number / 100)
    for _ in range(32):  # the percentile is taken anew every 32 calls
        clock.due_after()
        clock.took(0.5)
    due = clock.due_after()
    assert due is not None
    assert 0.9 <= due <= 0.99


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Retries(limit=-1),
        lambda: Retries(pause_s=2.0, longest_s=1.0),
        lambda: Hedge(after_s=-1.0),
        lambda: Hedge(share=0.0),
    ],
)
def test_settings_that_make_no_sense(wrong) -> None:
    """They are refused when they are made."""
    with pytest.raises(InvalidInputError):
        wrong()


@pytest.mark.parametrize("wrong", [{"limit": "3"}, {"limit": None}, {"pause_s": "1"}])
def test_retries_are_numbers(wrong: dict) -> None:
    """Said where they are made."""
    with pytest.raises(ArgumentTypeError, match="retries and pauses must be numbers"):
        Retries(**wrong)
    with pytest.raises(InvalidInputError):
        Retries(pause_s=float("nan"))


@pytest.mark.parametrize("wrong", [{"after_s": "1"}, {"share": None}])
def test_a_hedge_is_of_numbers(wrong: dict) -> None:
    """As above."""
    with pytest.raises(ArgumentTypeError, match="after_s and share of a hedge must be numbers"):
        Hedge(**wrong)
    with pytest.raises(InvalidInputError):
        Hedge(after_s=float("nan"))
