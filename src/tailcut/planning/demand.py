"""The demand on the servers: rates, arrival processes, limits and recordings, and their command-line forms.

A recording consists of arrival times or of rates over time; it can be scaled to another mean rate.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.arrivals import BURST_SHARE, Arrivals, Bursty, Constant, Poisson

MOST_REQUESTS = 10_000_000  # the most requests of a recording that are simulated
_MOST_LITTLE = 1.1  # up to this factor, a recording of arrivals is scaled gap by gap
SMOOTHED = 100  # beyond it, the mean rates of this many arrivals are scaled
_LEAST_RATE = 0.01  # requests per second; with fewer, a simulation exceeds the range of its clock
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,4})?)\Z")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")
_MOST_HEADROOM, _MOST_SHARE = 100.0, 4.0  # times the rate; a number above the second must end in %
_KINDS = ("poisson", "constant", "bursty")


@dataclass(frozen=True, slots=True)
class Limit:
    """A latency limit for a percentile."""

    percentile: str  # as the user wrote it, such as p99
    limit_ms: float

    @property
    def share(self) -> float:
        """The percentile as a share of the requests, 0 to 1."""
        return float(self.percentile[1:]) / 100


def parse_limit(text: str, duration: Callable[[str], float]) -> Limit:
    """Parse a limit such as `p99=10ms`.

    Args:
        text: what the user wrote.
        duration: parses a duration into seconds.

    Raises:
        UsageError: the text has another form, an unknown percentile, or a limit of 0.
    """
    name, equals, value = text.strip().partition("=")
    if not equals:
        raise UsageError(f"--slo: {text!r} has no percentile: write p99=10ms")
    check_percentile(name.strip(), "--slo")
    limit = Limit(name.strip(), round(duration(value) * 1e3, 6))
    if limit.limit_ms <= 0:
        raise UsageError("--slo: the limit must be greater than 0")
    return limit


def check_percentile(name: str, option: str) -> None:
    """Check that a word is a percentile.

    Args:
        name: what the user wrote, such as "p99".
        option: name of the option, for the message.

    Raises:
        UsageError: it is not p1 to p99.9999.
    """
    match = _PERCENTILE.match(name)
    if not match or float(match[1]) <= 0:
        raise UsageError(f"{option}: unknown percentile {name!r}: write p50, p95, p99, p99.9 or another one")


def parse_rates(text: str) -> list[float]:
    """Parse requests per second, such as `5000` or `5000,200`.

    Raises:
        UsageError: one is not a number, or below 0.01.
    """
    rates = []
    for part in text.split(","):
        try:
            rate = float(part)
        except ValueError:
            rate = 0.0
        if not _LEAST_RATE <= rate < float("inf"):
            if _THOUSANDS.match(text.strip()):
                raise UsageError(
                    f"--rate: {text.strip()!r} is several rates, one of each profile: write {text.replace(',', '')}"
                )
            raise UsageError(
                f"--rate: {part.strip()!r} is not a rate: write requests per second, at least {_LEAST_RATE:g}"
            )
        rates.append(rate)
    return rates


def parse_headroom(text: str) -> float:
    """Parse an additional share of the rate, such as `0.2` or `20%`.

    Raises:
        UsageError: the text is neither, is above 100 times the rate, or most likely lacks a per cent sign.
    """
    number = text.strip()
    is_percent = number.endswith("%")
    try:
        share = float(number.removesuffix("%")) / (100 if is_percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= _MOST_HEADROOM:
        raise UsageError(f"--headroom: {number!r} is not a share of the rate: write 0.2 or 20%, up to 10000%")
    if share > _MOST_SHARE and not is_percent:
        raise UsageError(
            f"--headroom: {number} is {100 * share:,.0f} %, as 0.2 is 20 %: write {number}%, or {100 * share:g}%"
        )
    return share


def parse_arrivals(text: str, duration: Callable[[str], float]) -> Callable[[float], Arrivals]:
    """Parse `poisson`, `constant`, `bursty` or `bursty:FACTOR[:LENGTH]` into an arrival process for a mean rate.

    Raises:
        UsageError: the text has another form, or no traffic can have such bursts.
    """
    kind, *words = text.strip().split(":")
    if kind not in _KINDS or (words and kind != "bursty") or len(words) > 2:
        raise UsageError(f"--arrivals: {text!r} is unknown: write poisson, constant, bursty or bursty:FACTOR:LENGTH")
    if kind != "bursty":
        return Poisson if kind == "poisson" else Constant
    try:
        factor = float(words[0]) if words else 5.0
    except ValueError:
        raise UsageError(f"--arrivals: {words[0]!r} is not a factor: write bursty:5:200ms") from None
    length_s = duration(words[1]) if len(words) > 1 else 0.2
    Bursty(1.0, factor, length_s)  # raises if such bursts are impossible
    return lambda rate: Bursty(rate, factor, length_s)


@dataclass(frozen=True)
class Recording:
    """Recorded traffic.

    Args:
        edges_s: times in seconds at which the number of requests so far is known, float64 [n], ascending from 0.
        load: number of requests before each of these times, float64 [n], ascending from 0.
        replayed: whether the edges are the arrivals themselves, followed by the end.
    """

    edges_s: np.ndarray
    load: np.ndarray
    replayed: bool

    @property
    def length_s(self) -> float:
        """The length of the recording in seconds."""
        return float(self.edges_s[-1])

    @property
    def requests(self) -> float:
        """The number of requests."""
        return float(self.load[-1])

    @property
    def rate(self) -> float:
        """The mean rate in requests per second."""
        return self.requests / self.length_s

    def scaled_up(self, rate: float | None) -> bool:
        """Whether the recording consists of arrivals and this rate is more than a tenth above theirs."""
        return self.replayed and rate is not None and rate > _MOST_LITTLE * self.rate

    def smoothed(self) -> "Recording":
        """The rate over time, as mean rates of about a hundred arrivals each.

        If single gaps between arrivals were scaled up, each would get many requests, and a short gap would become a
        burst. The last part has twice as many arrivals, because only an assumed mean gap follows the last arrival, with
        which a short part would become a burst.
        """
        last = len(self.load) - 1
        kept = np.linspace(0, last, max(1, last // SMOOTHED) + 1).round().astype(np.int64)
        kept = np.append(kept[:-2], last) if last >= 2 * SMOOTHED else kept
        return Recording(self.edges_s[kept], self.load[kept], replayed=False)

    def compression(self, rate: float | None) -> float:
        """The factor by which time has to run faster for a short simulation, at the recorded or another mean rate."""
        return max(1.0, (self.rate if rate is None else rate) * self.length_s / MOST_REQUESTS)

    def compressed(self, factor: float) -> "Recording":
        """The same rates, each for a time that is shorter by this factor."""
        return Recording(self.edges_s / factor, self.load / factor, replayed=False)

    def times(self, rate: float | None, seed: int) -> np.ndarray:
        """Arrival times, int64 ns: as recorded or, with a rate, scaled to that mean with the same course."""
        scale = 1.0 if rate is None else rate / self.rate
        if self.replayed and scale == 1.0:
            return _nanoseconds(self.edges_s[:-1])
        if self.replayed:
            return _scaled(scale, self, scale, np.random.default_rng(seed))
        return _drawn(scale, self.load, self.edges_s, np.random.default_rng(seed))


def replayed(seconds: np.ndarray, length_s: float) -> Recording:
    """A recording of arrival times in seconds, ascending from 0."""
    return Recording(np.append(seconds, length_s), np.arange(len(seconds) + 1.0), replayed=True)


@dataclass(frozen=True)
class Stretch:
    """Repeating arrivals: the busiest part of a recording, at its own rate or scaled to another one.

    Args:
        seconds: arrival times, float64 [n], ascending from 0.
        length_s: length of the part in seconds.
        rate: mean requests per second.
        drawn: whether the arrivals were drawn at random from rates over time, so that short gaps are not bursts.
    """

    seconds: np.ndarray
    length_s: float
    rate: float
    drawn: bool = False
    name: str = "trace"

    def times(self, duration_s: float, seed: int) -> np.ndarray:
        """Arrival times for a duration, int64 ns: the part repeats, with requests removed or added to match the rate.

        Recorded bursts grow by a tenth at most; further requests are added by the rate over time.
        """
        own = len(self.seconds) / self.length_s
        scale, rounds = self.rate / own, int(duration_s / self.length_s) + 1
        again = [self.seconds + number * self.length_s for number in range(rounds)]
        whole = replayed(np.concatenate(again), rounds * self.length_s)
        nanos = _scaled(scale, whole, 1.0 if self.drawn else _MOST_LITTLE, np.random.default_rng(seed))
        return nanos[nanos < int(duration_s * 1e9)]


def even_bursts(process: Bursty, duration_s: float, seed: int) -> np.ndarray:
    """Arrival times for a duration, int64 ns, with the expected number of bursts, which fill a tenth of the duration.

    The lengths of the bursts and of the times between them are a stratified sample of the exponential distribution:
    one from each of as many equally probable parts, so that twenty bursts are never mostly short or mostly long.
    """
    random = np.random.default_rng(seed)
    cycles = max(1, round(duration_s / process.cycle_s))
    shares = (1 - BURST_SHARE) * _even_lengths(cycles, random), BURST_SHARE * _even_lengths(cycles, random)
    lengths = duration_s * np.stack(shares, axis=1)
    load = lengths * [process.calm_rate, process.factor * process.rate]
    asked, edges_s = (np.concatenate([[0.0], np.cumsum(values)]) for values in (load, lengths))
    nanos = _drawn(1.0, asked, edges_s, random)
    begin = int(random.random() * duration_s * 1e9)  # within a burst or between two
    rotated: np.ndarray = np.sort((nanos + begin) % int(duration_s * 1e9))
    return rotated


def _even_lengths(count: int, random: np.random.Generator) -> np.ndarray:
    """A stratified sample of the exponential distribution in random order, float64 [count], scaled to a sum of 1."""
    lengths = -np.log1p(-(np.arange(count) + random.random(count)) / count)
    shuffled: np.ndarray = random.permutation(lengths / lengths.sum())
    return shuffled


def _drawn(scale: float, load: np.ndarray, edges_s: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A Poisson process whose rate over time is that of `load` over `edges_s`, times `scale`; int64 ns."""
    most = scale * float(load[-1])
    units = np.cumsum(random.exponential(1.0, int(most + 10 * most**0.5 + 10)))
    return _nanoseconds(np.interp(units[units < most] / scale, load, edges_s))


def _scaled(scale: float, arrivals: Recording, most: float, random: np.random.Generator) -> np.ndarray:
    """Recorded arrivals with some removed or others added at random; int64 ns.

    Up to the scale `most`, requests are added to each gap alike; beyond it, by the rate over time.
    """
    seconds = arrivals.edges_s[:-1]
    if scale <= 1:
        return _nanoseconds(seconds[random.random(len(seconds)) < scale])
    course, by_gaps = arrivals.smoothed(), min(scale, most)
    together: np.ndarray = np.sort(
        np.concatenate(
            [
                _nanoseconds(seconds),
                _drawn(by_gaps - 1, arrivals.load, arrivals.edges_s, random),
                _drawn(scale - by_gaps, course.load, course.edges_s, random),
            ]
        )
    )
    return together


def _nanoseconds(seconds: np.ndarray) -> np.ndarray:
    nanos: np.ndarray = (seconds * 1e9).astype(np.int64)
    return nanos


def busiest(arrivals_ns: np.ndarray, window_s: float) -> np.ndarray:
    """The arrivals in the busiest window, in seconds since its beginning, float64.

    Args:
        arrivals_ns: arrival times, int64 [n], ascending.
        window_s: length of the window in seconds.
    """
    ends = np.searchsorted(arrivals_ns, arrivals_ns + int(window_s * 1e9))
    first = int(np.argmax(ends - np.arange(len(arrivals_ns))))
    result: np.ndarray = (arrivals_ns[first : ends[first]] - arrivals_ns[first]) / 1e9
    return result
