"""Which engine computes a batch: no clock, no thread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.batching.policy import Dispatch, Wait
from tailcut.batching.routing import Router

FAST, SLOW = 0, 1


def router(fast: int, slow: int, *, instances: tuple[int, int] = (1, 1), most: int = 1) -> Router:
    """Two engines whose rows take so many nanoseconds each."""
    made = Router(most, instances)
    for engine, row_ns in zip(made.engines, (fast, slow), strict=True):
        for size in engine.cost.sizes:
            engine.cost.observe(size, row_ns * size)
    return made


@pytest.mark.parametrize(
    ("ready", "busy", "asked", "takes"),
    [
        (1, False, FAST, True),  # idle and quick
        (1, False, SLOW, False),  # the other one is idle, and quicker
        (1, True, SLOW, False),  # it is busy, and still sooner: 1 + 1 ms against 5
        (3, True, SLOW, False),
        (4, True, SLOW, False),  # the fourth is answered at 1 + 4 ms, as by the slow one
        (5, True, SLOW, True),
        (9, True, SLOW, True),  # far more than the quick one answers in 5 ms
    ],
)
def test_a_slow_engine_takes_what_the_quick_one_would_answer_later(
    ready: int, busy: bool, asked: int, takes: bool
) -> None:
    """Rows that the quick one is done with sooner are left to it, also where they have to wait for it."""
    made = router(1_000_000, 5_000_000)
    if busy:
        made.formed(FAST, "batch", 1, 0)
    choice = made.decide(asked, ready, 0)
    assert isinstance(choice, Dispatch if takes else Wait), choice


def test_equal_engines_take_turns_by_their_number() -> None:
    """Exactly one of two idle ones takes a lone row, so that it is neither taken twice nor left by both."""
    made = router(1_000_000, 1_000_000)
    assert isinstance(made.decide(FAST, 1, 0), Dispatch)
    assert isinstance(made.decide(SLOW, 1, 0), Wait)
    made.formed(FAST, "batch", 1, 0)
    assert made.decide(FAST, 1, 0) is None
    assert isinstance(made.decide(SLOW, 1, 0), Dispatch)


def test_what_stands_still_loses() -> None:
    """A batch that is overdue makes the other engine take what it left, at the time that it was told to look again."""
    made = router(1_000_000, 5_000_000)
    made.formed(FAST, "batch", 1, 0)
    wait = made.decide(SLOW, 1, 0)
    assert isinstance(wait, Wait)
    assert wait.until_ns == 5_000_000  # overdue by 4 ms, it is expected at 9 ms, and its next at 10, as the slow one's
    assert isinstance(made.decide(SLOW, 1, wait.until_ns + 1), Dispatch)


def test_a_call_that_was_given_up_is_not_waited_for() -> None:
    """Nothing is expected of that engine until it takes a batch again."""
    made = router(1_000_000, 5_000_000)
    made.formed(FAST, "batch", 1, 0)
    made.given_up(FAST, "batch")
    assert isinstance(made.decide(SLOW, 1, 0), Dispatch)
    made.formed(FAST, "another", 1, 0)
    assert isinstance(made.decide(SLOW, 1, 0), Wait)


def test_the_cost_follows_a_change() -> None:
    """An engine that has become slow loses what it was given first before."""
    made = router(1_000_000, 5_000_000)
    assert made.leading == FAST
    for number in range(100):
        made.formed(FAST, number, 1, 0)
        made.ended(FAST, number, 1, 50_000_000, learn=True)
    assert made.leading == SLOW
    assert isinstance(made.decide(FAST, 1, 0), Wait)
    assert isinstance(made.decide(SLOW, 1, 0), Dispatch)


def test_a_batch_that_failed_teaches_nothing() -> None:
    """It is over, and the cost is as before."""
    made = router(1_000_000, 5_000_000)
    made.formed(FAST, "batch", 1, 0)
    made.ended(FAST, "batch", 1, 999_000_000, learn=False)
    assert made.engines[FAST].cost.estimate_ns(1) == 1_000_000
    assert isinstance(made.decide(FAST, 1, 0), Dispatch)


def test_a_forgotten_engine_is_tried_again() -> None:
    """Once in a thousand batches, unless it is many times slower."""
    for slow, tried in ((5_000_000, True), (50_000_000, False)):
        made = router(1_000_000, slow)
        for number in range(1024):
            made.formed(FAST, number, 1, 0)
            made.ended(FAST, number, 1, 1_000_000, learn=True)
        assert isinstance(made.decide(SLOW, 1, 0), Dispatch if tried else Wait)
        if tried:
            made.formed(SLOW, "probe", 1, 0)
            made.ended(SLOW, "probe", 1, slow, learn=True)
            assert isinstance(made.decide(SLOW, 1, 0), Wait)


def test_with_nothing_learned_every_engine_takes_what_there_is() -> None:
    """As one engine does."""
    made = Router(8, (1, 1))
    assert made.decide(SLOW, 5, 0) == Dispatch(5)
    assert made.decide(FAST, 50, 0) == Dispatch(8)


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 60),
    st.sampled_from([1, 4]),
)
def test_all_is_computed_and_nothing_ends_later_than_on_the_best_engine_alone(
    fast: int, slow: int, instances: tuple[int, int], requests: int, most: int
) -> None:
    """Simulated with exact costs: no row waits while all are idle, and the last answer is no later."""
    made = router(1_000 * fast, 1_000 * slow, instances=instances, most=most)
    end = simulate(made, requests)
    alone = min(
        simulate(router(1_000 * fast, 1_000 * slow, instances=instances, most=most), requests, only=engine)
        for engine in (FAST, SLOW)
    )
    assert end <= alone


def simulate(made: Router, ready: int, only: int | None = None) -> int:
    """When the last of so many rows that are there at 0 is computed; workers look whenever a batch ends."""
    now, running = 0, []
    while ready or running:
        for engine in range(2) if only is None else (only,):
            while ready:
                item = made.engines[engine]
                choice = (
                    made.decide(engine, ready, now)
                    if only is None
                    else (Dispatch(item.cost.best(ready)) if len(item.ends) < item.instances else None)
                )
                if not isinstance(choice, Dispatch):
                    break
                rows = min(choice.rows, ready)
                took = int(item.cost.estimate_ns(rows))
                batch = (now + took, engine, len(running), ready)
                made.formed(engine, batch, rows, now)
                running.append((now + took, engine, batch, rows))
                ready -= rows
        assert running, "all engines are idle, and none takes a row"
        running.sort(key=lambda item: item[0])
        end, engine, batch, rows = running.pop(0)
        now = max(now, end)
        made.ended(engine, batch, rows, 0, learn=False)
    return now
