"""Recorded traffic in files, and what is refused of them."""

from pathlib import Path

import pytest

from tailcut.errors import UsageError
from tailcut.planning.recordings import read_recording

RATES = (False, [0, 300, 600, 900], [0, 36_000, 76_500, 130_500])
TIMES = (True, [0, 1, 3, 4.5], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,120\n300,135\n600,180\n", RATES),
        ("time,rate\n0,120\n300,135\n600,180\n", RATES),
        ("\ufeff0;120\n300;135\n600;180\n", RATES),
        ('"Time","req/s"\n"0","120"\n"300","135"\n"600","180"\n', RATES),
        ("0, 120,\n300, 135,\n600, 180,\n", RATES),
        ("seconds rate\n0\t120\n300\t135\n600\t180\n", RATES),
        ("time\n0.0\n1.0\n3.0\n", TIMES),
        ("arrival time\n0.0\n1.0\n3.0\n", TIMES),
        ("0.0,\n1.0,\n3.0,\n", TIMES),
        ("Time,req/s\n2026-01-31 23:55:00,120\n2026-02-01 00:00:00,135\n2026-02-01 00:05:00,180\n", RATES),
        ('"2026-01-31T23:55Z",120\n"2026-02-01T02:00:00+02:00",135\n"2026-01-31 19:05:00-05",180\n', RATES),
        ("2026-01-01T12:00:00.000Z\n2026-01-01T12:00:01.000Z\n2026-01-01T12:00:03.000Z\n", TIMES),
        ('\ufeff"0.0";\n# a comment\n\n"1.0";\n"3.0";\n', TIMES),
    ],
)
def test_recordings_as_monitoring_systems_export_them(
    tmp_path: Path, text: str, expected: tuple[bool, list[float], list[float]]
) -> None:
    """Rates or times, with commas or semicolons, quotes, and a line of names."""
    path = tmp_path / "day.csv"
    path.write_text(text, encoding="utf-8")
    result = read_recording(path)
    assert (result.replayed, list(result.edges_s), list(result.load)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no traffic: write .*SECONDS RATE, two lines or more"),
        ("# a\n# b\n", "no traffic: write"),
        ("1\n", "only one arrival"),
        ("5\n5\n", "all 2 arrivals are at the same time"),
        ("# a\n3\n1\n2\n", "line 3 is earlier than the one before it: sort the lines by time"),
        ("-5\n-4\n", "line 1 is not a time in seconds, from 0 on"),
        ("1\nx\n", "line 2 is not a time in seconds: write .*SECONDS RATE"),
        ("time,rate\n", "no traffic: write .*SECONDS RATE"),
        ("0.0 ranker\n0.5 tiny\n", "line 1 has 'ranker' for its rate: .* keep the times of one model"),
        ("2026-01-01,5\n2026-01-02,6\n", "not a trace of rates: line 1 "),
        ("2026-13-01 00:00,5\n2026-13-01 00:05,6\n", "line 1 is not a time in seconds"),
        ("2026-01-01 00:05 5\n2026-01-01 00:00 6\n", "must rise: line 2 is not later than the one before it"),
        ("1 2\n2\n", "not a trace of rates: line 2 "),
        ("1 x\n2 3\n", "not a trace of rates: line 1 "),
        ("time,rate\n# a comment\n0,1\n300,\n600,2\n", "not a trace of rates: line 4 "),
        ("time,rate\n0,1\n300,NaN\n600,2\n", "not a trace of rates: line 3 "),
        ("time\n0.0\nx\n", "line 3 .*SECONDS RATE"),
        ("1 2\n", "not a trace of rates"),
        ("1 2\n1 3\n", "must rise: line 2 is not later"),
        ("# a\n0 5\n60 5\n30 5\n", "must rise: line 4 is not later than the one before it: sort the lines by time"),
        ("1 0\n2 0\n", "all rates are 0"),
        ("1 2\n2 -3\n", "line 2 has a rate below 0"),
        ("1 2 3\n2 3 4\n", "line 1"),
        ("1728000000000 5\n1728000060000 6\n", "line 1: 1728000000000 is too large .*: divide milliseconds by 1000"),
        ("1728000000000000000\n1728000000000000001\n", "line 1: .* or nanoseconds by 1000000000"),
        ("0 5\n1e300 5\n", "line 2: 1e300 is too large"),
        ("0 1e300\n1 1\n", "line 1 has a rate above 1,000,000,000 requests per second"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """In one line that names the file."""
    path = tmp_path / "trace.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_recording(path)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    """The error says that it is missing."""
    with pytest.raises(UsageError, match="no such trace"):
        read_recording(tmp_path / "none.txt")
