"""The search finds the highest rate that is shown to meet a limit, and believes nothing that does not repeat."""

import pytest

from tailcut.lab.saturation import PRECISION, Saturation, Shown, judge, saturate
from tailcut.stats import Interval


@pytest.mark.parametrize(
    ("interval", "errors", "behind", "shown"),
    [
        (Interval(8, 7, 9), 0, False, Shown.MEETS),
        (Interval(8, 7, 9), 1, False, Shown.ERRORS),
        (Interval(9, 7, 11), 0, False, Shown.UNCLEAR),
        (Interval(12, 11, 14), 0, False, Shown.MISSES),
        (Interval(12, 11, 14), 0, True, Shown.CLIENT_BEHIND),
        (Interval(8, 7, 9), 0, True, Shown.MEETS),  # lateness is in the latency: on time it would be less
        (None, 0, False, Shown.UNCLEAR),
    ],
)
def test_what_a_run_shows(interval: Interval | None, errors: int, behind: bool, shown: Shown) -> None:
    """Only an interval that lies wholly within the limit, with nothing failed, meets it."""
    assert judge(interval, 10.0, errors=errors, client_behind=behind) is shown


@pytest.mark.parametrize("first", [1.0, 50.0, 690.0, 701.0, 5000.0])
def test_the_knee_is_found_from_anywhere(first: float) -> None:
    """From below and above, within the precision, in at most 24 probes, the last of which is the confirmation."""
    search = saturate(first, lambda rate: Shown.MEETS if rate <= 700 else Shown.MISSES)
    assert search.confirmed
    assert search.low is not None
    assert 700 / (1 + PRECISION) <= search.low <= 700
    assert search.limited_by is Shown.MISSES
    assert len(search.probes) <= 24
    assert [rate for rate, _ in search.probes].count(search.low) == 2


def test_luck_does_not_repeat() -> None:
    """A rate that met the limit once and not again is given up for a lower one that meets it twice."""
    seen = set()

    def probe(rate: float) -> Shown:
        lucky = rate <= 760 and round(rate, 6) not in seen
        seen.add(round(rate, 6))
        return Shown.MEETS if rate <= 700 or lucky else Shown.MISSES

    search = saturate(500, probe)
    assert search.confirmed
    assert search.low is not None
    assert search.low <= 700


def test_nothing_meets() -> None:
    """A limit under the bare service time ends the search without an answer."""
    search = saturate(500, lambda rate: Shown.MISSES)
    assert (search.confirmed, search.low) == (False, None)
    assert search.limited_by is Shown.MISSES
    assert min(rate for rate, _ in search.probes) >= 0.5


def test_a_late_client_is_tried_again_and_then_named() -> None:
    """One disturbance costs a probe; a client that cannot send faster bounds the search, and the answer says so."""
    disturbed = iter([Shown.CLIENT_BEHIND])
    search = saturate(500, lambda rate: next(disturbed, Shown.MEETS if rate <= 700 else Shown.MISSES))
    assert search.confirmed
    assert search.probes[0] == (500, Shown.CLIENT_BEHIND)
    assert search.probes[1] == (500, Shown.MEETS)
    search = saturate(500, lambda rate: Shown.MEETS if rate <= 600 else Shown.CLIENT_BEHIND)
    assert search.confirmed
    assert search.limited_by is Shown.CLIENT_BEHIND


def test_the_search_is_a_pure_state() -> None:
    """It asks for a rate and takes the result; nothing else changes its state."""
    search = Saturation(100)
    assert search.next_rate() == search.next_rate() == 100
    search.observe(100, Shown.MEETS)
    assert search.next_rate() == 150
    search.observe(150, Shown.UNCLEAR)
    assert search.next_rate() == pytest.approx((100 * 150) ** 0.5)
