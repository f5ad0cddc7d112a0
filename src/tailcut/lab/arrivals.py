"""Arrival processes: the times of requests, as pure functions of a rate, a duration and a seed. No clock here.

Times are sorted int64 nanoseconds from the start. A load test plans its sends before it begins, so that the server
cannot influence them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from tailcut.errors import MissingFileError, UsageError

BURST_SHARE = 0.1  # share of the time with a burst
_TRACE_LIMIT = 10_000_000
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(?: ?(Z|UTC|[+-]\d\d(?::?\d\d)?))?(?!\S)")
_MOST_REQUESTS = 100_000_000  # in a run: their times alone take 800 MB


class Arrivals(Protocol):
    """An arrival process."""

    @property
    def name(self) -> str:
        """Its name in records."""

    @property
    def rate(self) -> float:
        """Mean requests per second."""

    def times(self, duration_s: float, seed: int) -> np.ndarray:
        """The arrivals within a duration, int64 nanoseconds [requests], sorted."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Equal gaps, as of a machine that polls."""

    rate: float
    name: str = "constant"

    def times(self, duration_s: float, seed: int) -> np.ndarray:
        """Times every 1/rate seconds, beginning at 0."""
        return _whole(np.arange(int(self.rate * duration_s) + 1) / self.rate, duration_s)


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent exponential gaps with mean 1/rate, as of very many independent users."""

    rate: float
    name: str = "poisson"

    def times(self, duration_s: float, seed: int) -> np.ndarray:
        """A seeded draw of the process."""
        return _whole(_unit_poisson(self.rate * duration_s, np.random.default_rng(seed)) / self.rate, duration_s)


@dataclass(frozen=True, slots=True)
class Bursty:
    """A Markov-modulated Poisson process with two states and the given mean rate.

    For a tenth of the time, there is a burst, at `factor` times the mean rate; the rest is calm, at the rate that keeps
    the mean. Bursts last `length_s` on average; the durations of both states are exponential, as in a Markov chain
    (Fischer and Meier-Hellstern, The Markov-modulated Poisson process cookbook, Performance Evaluation 18, 1993).
    """

    rate: float
    factor: float = 5.0
    length_s: float = 0.2
    name: str = "bursty"

    def __post_init__(self) -> None:
        if not 1 < self.factor <= 1 / BURST_SHARE or self.length_s <= 0:
            raise UsageError(
                f"the burst factor must be above 1 and at most {1 / BURST_SHARE:g}, and the burst length above 0"
            )

    @property
    def cycle_s(self) -> float:
        """The mean time from one burst to the next."""
        return self.length_s / BURST_SHARE

    @property
    def calm_rate(self) -> float:
        """Requests per second between bursts."""
        return self.rate * (1 - BURST_SHARE * self.factor) / (1 - BURST_SHARE)

    def times(self, duration_s: float, seed: int) -> np.ndarray:
        """A seeded draw of the process, including its first state."""
        random = np.random.default_rng(seed)
        edges, in_burst = [0.0], bool(random.random() < BURST_SHARE)
        load = [0.0]  # expected arrivals up to each change of state
        calm_rate, calm_length_s = self.calm_rate, self.cycle_s - self.length_s
        while edges[-1] < duration_s:
            lasts = random.exponential(self.length_s if in_burst else calm_length_s)
            edges.append(edges[-1] + lasts)
            load.append(load[-1] + lasts * (self.rate * self.factor if in_burst else calm_rate))
            in_burst = not in_burst
        # A Poisson process of rate 1 on the scale of expected arrivals is the wanted process on the scale of time.
        return _whole(np.interp(_unit_poisson(load[-1], random), load, edges), duration_s)


@dataclass(frozen=True)
class Replayed:
    """Recorded arrivals, in seconds from the first one."""

    seconds: np.ndarray
    name: str = "trace"

    @property
    def rate(self) -> float:
        """The mean rate of the trace."""
        return len(self.seconds) / self.length_s

    @property
    def length_s(self) -> float:
        """The time from the first arrival to the last, plus a mean gap."""
        last = float(self.seconds[-1])
        return last * len(self.seconds) / (len(self.seconds) - 1)

    def times(self, duration_s: float, seed: int) -> np.ndarray:
        """The recorded times within the duration."""
        return _whole(self.seconds, duration_s)


@dataclass(frozen=True)
class RecordingWindow:
    """Recorded arrivals of one model among several, in seconds of a recording of length `length_s`.

    A run uses a window of the recording, which wraps around at its end; the seed determines where it starts. Models
    with the same seed have the same window, so that arrivals that were simultaneous still are.
    """

    seconds: np.ndarray
    length_s: float
    name: str = "trace"

    @property
    def rate(self) -> float:
        """The mean rate of the recording."""
        return len(self.seconds) / self.length_s

    def times(self, duration_s: float, seed: int) -> np.ndarray:
        """The recorded times in a window of the recording."""
        start_s = float(np.random.default_rng(seed).random()) * self.length_s
        rounds = int((start_s + duration_s) / self.length_s) + 1
        again = np.concatenate([self.seconds + number * self.length_s for number in range(rounds)])
        return _whole(again[again >= start_s] - start_s, duration_s)


def poisson_times(rate: float, duration_s: float, seed: int) -> np.ndarray:
    """The times of `Poisson(rate)`."""
    return Poisson(rate).times(duration_s, seed)


def check_count(rate: float, duration_s: float) -> None:
    """Check that a run does not have more requests than can be planned.

    Raises:
        UsageError: it does.
    """
    if rate * duration_s > _MOST_REQUESTS:
        raise UsageError(
            f"{rate:,g} requests/s for {duration_s:g} s are {rate * duration_s:,.3g} requests, and a run has at most "
            f"{_MOST_REQUESTS:,}: lower the rate or the duration"
        )


def plan(arrivals: Arrivals, warmup_s: float, duration_s: float, seed: int) -> np.ndarray:
    """All arrivals of a run, including those before `warmup_s`, which do not count; for a trace, these are Poisson.

    Raises:
        UsageError: there are too many.
    """
    check_count(arrivals.rate, warmup_s if isinstance(arrivals, Replayed) else warmup_s + duration_s)
    if not isinstance(arrivals, Replayed):
        return arrivals.times(warmup_s + duration_s, seed)
    before = poisson_times(arrivals.rate, warmup_s, seed)
    return np.concatenate([before, arrivals.times(duration_s, seed) + int(warmup_s * 1e9)])


def in_seconds(line: str) -> str:
    """A line whose date and time at its beginning (ISO 8601; UTC where it names no zone) became seconds since 1970."""
    found = _MOMENT.match(line)
    if found is None:
        return line
    zone = (found[2] or "Z").replace("UTC", "Z")
    try:
        return f"{datetime.fromisoformat(found[1] + zone).timestamp()!r}{line[found.end() :]}"
    except ValueError:  # such as a 13th month
        return line


def read_trace(path: Path) -> Replayed:
    """Read a file of arrival times, one per line, not decreasing; lines that start with `#` are ignored.

    Times are in seconds, or dates with times (`in_seconds`).

    Raises:
        UsageError: the file is missing, has fewer than two arrivals, or a line that is not a time.
    """
    return trace_of_lines(path, _trace_lines(path))


def trace_of_lines(path: Path, lines: Iterable[tuple[int, str]]) -> Replayed:
    """The trace in numbered lines of a file, each of them a time.

    Raises:
        UsageError: there are fewer than two arrivals, or a line is not a time.
    """
    seconds: list[float] = []
    for number, line in lines:
        seconds.append(_trace_time(path, number, line, seconds[-1] if seconds else 0.0))
    _check_trace(path, seconds)
    return Replayed(np.asarray(seconds) - seconds[0])


def read_trace_of_models(path: Path, models: Sequence[str]) -> list[RecordingWindow]:
    """Read a file with an arrival time and a model's name per line; returns windows in the order of `models`.

    Raises:
        UsageError: as in `read_trace`, or a line names an unknown model, or a model has no arrival.
    """
    seconds: list[float] = []
    own: dict[str, list[float]] = {name: [] for name in models}
    for number, line in _trace_lines(path):
        at, _, name = line.strip().partition(" ")
        seconds.append(_trace_time(path, number, at, seconds[-1] if seconds else 0.0))
        if name.strip() not in own:
            message = f"names no model {name.strip()[:64]!r}" if name.strip() else "names no model"
            raise UsageError(f"{path}: line {number} {message}: write SECONDS NAME, with one of {', '.join(models)}")
        own[name.strip()].append(seconds[-1])
    _check_trace(path, seconds)
    silent = [name for name, times in own.items() if not times]
    if silent:
        raise UsageError(f"{path}: no arrivals for {', '.join(silent)}: leave the model out, or add arrivals for it")
    length_s = Replayed(np.asarray(seconds) - seconds[0]).length_s
    return [RecordingWindow(np.asarray(own[name]) - seconds[0], length_s) for name in models]


def _trace_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not comments, with their numbers from 1."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such trace") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a readable trace: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            yield number, in_seconds(line.strip())


def _trace_time(path: Path, number: int, text: str, before: float) -> float:
    try:
        at = float(text)
    except ValueError:
        at = -1.0
    if not 0 <= at < float("inf"):
        raise UsageError(f"{path}: line {number} is not a time in seconds, from 0 on")
    if at < before:
        raise UsageError(f"{path}: line {number} is earlier than the one before it: sort the lines by time (sort -n)")
    return at


def _check_trace(path: Path, seconds: Sequence[float]) -> None:
    if not seconds:
        raise UsageError(f"{path}: no arrivals: the file is empty, or has only comments")
    if len(seconds) == 1:
        raise UsageError(f"{path}: only one arrival: a trace needs two or more")
    if seconds[-1] == seconds[0]:
        raise UsageError(f"{path}: all {len(seconds):,} arrivals are at the same time, which is not a rate")
    if len(seconds) > _TRACE_LIMIT:
        raise UsageError(
            f"{path}: {len(seconds):,} arrivals, and a trace has up to {_TRACE_LIMIT:,}: give a part of it"
        )


def _unit_poisson(length: float, random: np.random.Generator) -> np.ndarray:
    """Arrivals of a Poisson process of rate 1, up to `length` and slightly beyond."""
    return np.cumsum(random.exponential(1.0, int(length + 10 * length**0.5 + 10)))


def _whole(seconds: np.ndarray, duration_s: float) -> np.ndarray:
    nanos = (seconds * 1e9).astype(np.int64)
    return nanos[nanos < int(duration_s * 1e9)]
