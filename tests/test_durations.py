"""Durations on the command line and of calls."""

import math

import pytest

from tailcut.durations import parse_duration, parse_latency, parse_limit, seconds_of
from tailcut.errors import InvalidInputError, UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500us", 5e-4), ("10ms", 0.01), ("1.5 s", 1.5), ("2m", 120.0), ("1h", 3600.0), (" 7 ", 7.0)],
)
def test_durations(text: str, seconds: float) -> None:
    """A number and a unit; without one it is seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1s", "1d", "1s2ms", "1e3", "9" * 400])
def test_what_is_no_duration(text: str) -> None:
    """One line that shows how to write it."""
    with pytest.raises(UsageError, match="is not a duration: write 500us, 10ms, 30s, 2m or 1h"):
        parse_duration(text)


def test_a_latency_has_a_unit() -> None:
    """Twenty may be meant as milliseconds; nothing is nothing in any unit."""
    assert parse_latency("20ms", "--deadline") == pytest.approx(0.02)
    assert parse_latency("0", "--deadline") == 0
    with pytest.raises(UsageError, match=r"^--slo 20: 20ms or 20s\?$"):
        parse_latency(" 20 ", "--slo")


@pytest.mark.parametrize("text", ["0ms", "0"])
def test_a_limit_is_greater_than_nothing(text: str) -> None:
    """No answer comes within no time."""
    assert parse_limit("1us", "--slo") == pytest.approx(1e-6)
    with pytest.raises(UsageError, match=f"--slo must be greater than 0, not {text}"):
        parse_limit(text, "--slo")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(2, 2.0), (0.5, 0.5), (math.inf, 1e6), (1e7, 1e6), (10**400, 1e6), (-1, -1.0), (-math.inf, -1e6)],
)
def test_the_time_of_a_call_is_at_most_what_a_server_takes(given: float, seconds: float) -> None:
    """Infinity is eleven days."""
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", [None, math.nan, "2", True])
def test_the_time_of_a_call_is_a_number(given: object) -> None:
    """Said where it is set."""
    with pytest.raises(InvalidInputError, match=r"^timeout_s must be a number of seconds, got "):
        seconds_of(given)
