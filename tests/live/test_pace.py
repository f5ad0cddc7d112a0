"""How often views are sent to the watchers."""

import pytest

from tailcut.live.pace import EVERY_S, SHARE, Pace


def test_cheap_ticks_come_each_second() -> None:
    """Those that take less than their share of it."""
    pace = Pace()
    assert {pace.after(0.9 * SHARE * EVERY_S) for _ in range(30)} == {EVERY_S}


def test_dear_ticks_come_so_seldom_that_they_keep_to_their_share() -> None:
    """In the long run, whatever they take."""
    pace = Pace()
    waits = [pace.after(0.003) for _ in range(50)]
    assert waits[-1] == pytest.approx(3.0)
    assert 40 * 0.003 / sum(waits[10:]) <= 1.001 * SHARE


def test_one_slow_tick_hardly_counts() -> None:
    """A pause of the collector, say: the next view is two seconds late, not twenty."""
    pace = Pace()
    assert pace.after(0.02) == pytest.approx(2.0)
    waits = [pace.after(0.0) for _ in range(12)]
    assert max(waits) <= 2.0
    assert waits[-1] == EVERY_S
