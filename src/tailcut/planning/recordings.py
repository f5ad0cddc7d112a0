"""Reads recorded traffic from files: arrival times, or rates over time, as logs and monitoring systems write them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tailcut.errors import MissingFileError, UsageError
from tailcut.lab.arrivals import in_seconds, trace_of_lines
from tailcut.planning.demand import Recording, replayed

_COLUMNS, _LEAST_LINES = 2, 2  # columns and fewest lines of a recording of rates
_DIVIDERS = re.compile(r'[,;"]')  # separators of a line, besides spaces
_TRACE_LINES = "arrival times in seconds, one per line, or lines of SECONDS RATE"
_DATES = "; a time may be a date such as 2026-01-31T23:55:00Z"
_LATEST_S = 1e11  # since 1970: the year 5138
_MOST_RATE = 1e9  # requests per second


def read_recording(path: Path) -> Recording:
    """Read a file of arrival times in seconds, one per line, or of lines `SECONDS RATE`.

    A time may also be a date with a time (`in_seconds`). A rate holds until the next line, and the last one as long as
    the one before it. After the last arrival, a recording continues for a mean gap. Lines that start with `#` are
    ignored; commas, semicolons, quotes, and column names in the first line are accepted, because monitoring systems
    write them.

    Raises:
        UsageError: the file is missing, has another format, or is too short.
    """
    rows = _rows(path)
    if not rows:
        raise UsageError(f"{path}: no traffic: write {_TRACE_LINES}, two lines or more")
    for number, row in (rows[0], rows[-1]):  # times ascend
        _check_unit(path, number, row[0])
    if not any(len(row) == _COLUMNS for _, row in rows):
        return _arrivals(path, rows)
    values = np.array([_pair(path, number, row) for number, row in rows])
    if len(values) < _LEAST_LINES:
        raise UsageError(f"{path}: not a trace of rates: write two lines or more of SECONDS RATE, all of them numbers")
    seconds, rates = values[:, 0] - values[0, 0], values[:, 1]
    steps = np.diff(seconds)
    if (steps <= 0).any():
        number = rows[int(np.argmax(steps <= 0)) + 1][0]
        raise UsageError(
            f"{path}: the times of a trace of rates must rise: line {number} is not later than the one before it: "
            "sort the lines by time (sort -n), and give one rate for each time"
        )
    if (rates < 0).any():
        raise UsageError(f"{path}: line {rows[int(np.argmax(rates < 0))][0]} has a rate below 0")
    if not rates.any():
        raise UsageError(f"{path}: all rates are 0: there is no traffic to plan for")
    lengths = np.append(steps, steps[-1])
    load = np.concatenate([[0.0], np.cumsum(lengths * rates)])
    return Recording(np.append(seconds, seconds[-1] + lengths[-1]), load, replayed=False)


def _arrivals(path: Path, rows: Sequence[tuple[int, list[str]]]) -> Recording:
    """A recording of arrival times, one per row.

    Raises:
        UsageError: a row is not a time, the times do not ascend, or there are too few.
    """
    for number, row in rows:
        if len(row) != 1 or not _is_number(row[0]):
            raise UsageError(f"{path}: line {number} is not a time in seconds: write {_TRACE_LINES}{_DATES}")
    trace = trace_of_lines(path, ((number, row[0]) for number, row in rows))
    return replayed(trace.seconds, trace.length_s)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The words of each line, with its number from 1, without comments, empty lines and column names.

    Raises:
        UsageError: the file is missing, or not readable.
    """
    try:
        lines = [
            in_seconds(_DIVIDERS.sub(" ", line).strip()).split()
            for line in path.read_text(encoding="utf-8-sig").splitlines()
        ]
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such trace") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a readable trace: {error}") from None
    rows = [(number, line) for number, line in enumerate(lines, 1) if line and not line[0].startswith("#")]
    return rows if not rows or any(map(_is_number, rows[0][1])) else rows[1:]


def _check_unit(path: Path, number: int, time: str) -> None:
    """Check that a time is plausible in seconds.

    Raises:
        UsageError: it is too large.
    """
    if _is_number(time) and _LATEST_S < abs(float(time)) < math.inf:
        raise UsageError(
            f"{path}: line {number}: {time[:64]} is too large for a time in seconds: "
            "divide milliseconds by 1000, or nanoseconds by 1000000000"
        )


def _pair(path: Path, number: int, row: list[str]) -> tuple[float, float]:
    """A time in seconds and a rate in requests per second.

    Raises:
        UsageError: the line has another format.
    """
    if len(row) == _COLUMNS and all(map(_is_number, row)):
        seconds, rate = map(float, row)
        if rate > _MOST_RATE and math.isfinite(rate):
            raise UsageError(f"{path}: line {number} has a rate above {_MOST_RATE:,.0f} requests per second")
        if math.isfinite(seconds) and math.isfinite(rate):
            return seconds, rate
    if len(row) == _COLUMNS and _is_number(row[0]) and not _is_number(row[1]):
        raise UsageError(
            f"{path}: not a trace of rates: line {number} has {row[1][:64]!r} for its rate: where those are names of "
            "models, keep the times of one model, one per line, and plan each model by itself"
        )
    raise UsageError(f"{path}: not a trace of rates: line {number} is not SECONDS RATE, two finite numbers{_DATES}")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
