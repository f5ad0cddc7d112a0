"""Durations on the command line."""

import pytest

from tailcut.durations import parse_duration
from tailcut.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500us", 5e-4), ("10ms", 0.01), ("1.5 s", 1.5), ("2m", 120.0), ("1h", 3600.0), (" 7 ", 7.0)],
)
def test_durations(text: str, seconds: float) -> None:
    """A number and a unit; without one it is seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1s", "1d", "1s2ms", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    """One line that shows how to write it."""
    with pytest.raises(UsageError, match="is not a duration: write 500us, 10ms, 30s, 2m or 1h"):
        parse_duration(text)
