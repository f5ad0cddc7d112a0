"""Models taking turns on compute slots: no clock, no thread."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tailcut.batching.share import Share


def test_free_slots_are_taken_at_once() -> None:
    """Alone, or with room for both, nobody waits."""
    share: Share[str] = Share(2)
    assert share.take("heavy", 1)
    assert share.take("light", 1)
    assert not share.take("heavy", 1)


def test_who_has_used_least_goes_next() -> None:
    """A busy model gives way after each of its batches to one that has computed less."""
    share: Share[str] = Share(1)
    assert share.take("heavy", 1)
    assert not share.take("light", 1)
    assert share.give("heavy", 1, 1000) == ["light"]
    assert not share.take("heavy", 1)
    assert share.take("light", 1)
    assert share.give("light", 1, 10) == ["heavy"]
    assert share.take("heavy", 1)
    assert not share.take("light", 1)
    assert share.give("heavy", 1, 1000, more=True) == ["light"]


def test_busy_models_get_equal_compute_time() -> None:
    """One with batches ten times as long gets a tenth of the batches."""
    share: Share[str] = Share(1)
    took = {"long": 100, "short": 10}
    used = dict.fromkeys(took, 0)
    assert share.take("long", 1)
    assert not share.take("short", 1)
    running = "long"
    for _ in range(1000):
        used[running] += took[running]
        (running,) = share.give(running, 1, took[running], more=True)
        assert share.take(running, 1)
    assert 0.9 < used["long"] / used["short"] < 1.1


def test_idle_time_is_not_saved_up() -> None:
    """Who comes back after a long rest is next, and not the only one for as long as it rested."""
    share: Share[str] = Share(1)
    for _ in range(100):
        assert share.take("busy", 1)
        assert share.give("busy", 1, 1000) == []
    assert share.take("busy", 1)
    assert not share.take("rested", 1)
    assert share.give("busy", 1, 1000) == ["rested"]
    assert not share.take("busy", 1)
    assert share.take("rested", 1)
    assert share.give("rested", 1, 1500) == ["busy"]


def test_wide_batches_are_not_overtaken_for_ever() -> None:
    """A batch that needs all slots waits for them while narrow ones that came later wait behind it."""
    share: Share[str] = Share(2)
    assert share.take("a", 1)
    assert share.take("b", 1)
    assert not share.take("wide", 9)
    assert share.give("a", 1, 5) == []
    assert not share.take("a", 1)
    assert share.give("b", 1, 5) == ["wide"]
    assert share.take("wide", 9)
    assert share.give("wide", 9, 5) == ["a"]


def test_a_turn_that_is_not_used_is_passed_on() -> None:
    """Its work was cancelled meanwhile."""
    share: Share[str] = Share(1)
    assert share.take("a", 1)
    assert not share.take("b", 1)
    assert not share.take("c", 1)
    assert share.give("a", 1, 5) == ["b"]
    assert share.decline("b") == ["c"]
    assert share.decline("c") == []
    assert share.take("a", 1)


def test_who_leaves_gives_up_its_turn() -> None:
    """Offered or not, what was set aside for it goes to the next."""
    share: Share[str] = Share(1)
    assert share.take("a", 1)
    assert not share.take("b", 1)
    assert not share.take("c", 1)
    assert share.give("a", 1, 5) == ["b"]
    assert share.leave("b") == ["c"]
    assert share.take("c", 1)
    assert share.leave("a") == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.integers(1, 9)), max_size=80))
def test_slots_are_never_lent_twice_and_nobody_is_forgotten(steps: list[tuple[str, int, int]]) -> None:
    """Whatever the order of calls: who is told can take, and in the end everybody who waits is told."""
    share: Share[str] = Share(3)
    needs = {"a": 1, "b": 2, "c": 3}
    running: list[str] = []
    waiting: set[str] = set()
    told: list[str] = []
    for who, action, took in steps:
        if action < 3 or not running:
            if share.take(who, needs[who]):
                running.append(who)
                waiting.discard(who)
                if who in told:
                    told.remove(who)
            else:
                waiting.add(who)
        else:
            more = took > 4
            if more:
                waiting.add(running[0])
            told += share.give(running[0], needs[running.pop(0)], took, more=more)
        assert sum(needs[one] for one in running + told) <= 3
    while running or told:
        while told:
            one = told.pop()
            assert share.take(one, needs[one])
            waiting.discard(one)
            running.append(one)
        one = running.pop(0)
        told += share.give(one, needs[one], 1)
    assert waiting == set()
