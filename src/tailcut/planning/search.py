"""Finds how many replicas meet a limit at a rate, and the highest rate that a number of replicas sustains.

An `Expect` tells how replicas behave at a rate: a cluster of one model, or several models on shared cores. More
replicas are assumed to be no worse, and a higher rate to be no better. The search is by bisection, and all findings of
a plan are kept in `KnownRates`, so that the noise of simulations does not make its numbers contradict each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from tailcut.errors import UsageError
from tailcut.kernels.queueing import FAR
from tailcut.lab.arrivals import BURST_SHARE, Arrivals, Bursty
from tailcut.planning.cluster import Cluster, simulate_cluster, without_client
from tailcut.planning.demand import Limit, Stretch, even_bursts
from tailcut.planning.words import number
from tailcut.tuner.simulate import Configuration, Prediction, saturation_rate

MOST_REPLICAS = 1000
MOST_SIMULATED = 64  # servers: a larger cluster at the same load per server is no worse
_PER_SERVER, _FEWEST, _MOST = 2000, 40_000, 200_000  # requests of a simulation
_LIMITS = 100  # the least length of a simulation in limits, so that a growing queue shows
_BEYOND = 200  # the fewest requests beyond the percentile
_BEYOND_RARE, _FEWEST_RARE = 10, 200  # the same, and fewest requests, for a model beside others with many more
_BEYOND_LONE, _FEWEST_LONE = 20, 2000  # the same, for requests that never overlap
_FEW = 100  # with fewer requests, arrivals are not stretched to the exact mean rate
_CYCLES = 20  # the fewest bursts of a simulation
_MOST_LONE = 1_000_000
_MOST_UNEVEN, FEWEST_UNEVEN = 800_000, 4  # the most requests, except for this many servers
_SHORTENED, _MOST_LONG = 1_000_000, 6_000_000  # requests at full load: with more, bursts are shortened, or refused
_MOST_ROUNDS = 3_000_000  # the same, for recorded traffic
_SHORTEST_GAPS = 0.01  # of the mean time between two requests: bursts are not shortened further
_WARMUP, _ROUNDS = 0.1, 2  # the share of a simulation that does not count, and the fewest rounds of recorded traffic
_TIGHT, _LEAST = 0.02, 1e-3  # of a bisection of rates: its precision, and the lowest rate as a share of its start
_GROWTH = 1.3
_SATURATED = 64_000  # requests: under a quota, the rate of 5,000 in batches of 64 is off by up to 8 %


@dataclass(frozen=True, slots=True)
class Figures:
    """The expected behaviour of replicas at a rate.

    Args:
        rate: requests per second that arrive.
        mean_ms: mean latency of the requests that were answered; nan without any.
        p50_ms, p99_ms: percentiles of the latency.
        at_ms: the limit's percentile; infinite if more requests are refused than it allows.
        goodput: answers within the limit, per second.
        utilisation: utilisation of the cores, 0 to 1.
        hedged: share of the requests that were sent twice.
        within: whether the limit is met.
        parts: the figures of each model, if there are several.
        asked: number of requests of one model on which its latencies are based; they are nan without any.
        closer: whether these requests were simulated closer together than they arrive.
    """

    rate: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    at_ms: float
    goodput: float
    utilisation: float
    hedged: float
    within: bool
    parts: tuple["Figures", ...] = ()
    asked: int = 0
    closer: bool = False

    @property
    def in_flight(self) -> float:
        """Mean number of requests at all replicas, by Little's law; for several models, their sum."""
        return sum(part.rate * part.mean_ms / 1e3 for part in self.parts or (self,) if math.isfinite(part.mean_ms))


Expect = Callable[[int, float], Figures]  # arguments: the number of replicas, and the rate in requests per second


@dataclass(frozen=True)
class PlannedLoad:
    """The load of one model.

    Args:
        make: makes the arrival process for a mean rate.
        limit: the latency limit to meet.
        seed: seed of arrivals, service times and routing.
    """

    make: Callable[[float], Arrivals]
    limit: Limit
    seed: int = 0

    def arrivals(self, rate: float, length_s: float, seed: int = 0) -> np.ndarray:
        """Arrival times for this many seconds, int64 ns, stretched so that their mean rate is exactly the given one.

        Below 100 requests, times are not stretched. Bursts have their share of the time, however few there are.
        """
        process, seed = self.make(rate), self.seed + seed
        if isinstance(process, Bursty):  # no shorter burst has two requests: they are a Poisson process
            process = replace(process, length_s=max(process.length_s, _SHORTEST_GAPS / rate))
        drawn = even_bursts(process, length_s, seed) if isinstance(process, Bursty) else process.times(length_s, seed)
        if rate * length_s < _FEW:
            return drawn
        stretched: np.ndarray = (drawn * (len(drawn) / (rate * length_s))).astype(np.int64)
        return stretched

    def requests(self, rate: float, servers: int) -> int:
        """The number of requests that a simulation needs for the percentile and for queues to show."""
        beyond = _BEYOND / (1 - self.limit.share)
        queues = _LIMITS * rate * self.limit.limit_ms / 1e3
        return int(min(_MOST, max(_FEWEST, _PER_SERVER * servers, queues, beyond)))

    def length_s(self, rate: float, servers: int) -> float:
        """The length of a simulation in seconds: at least twenty bursts, and whole rounds of recorded traffic."""
        wanted_s, round_s = self.requests(rate, servers) / rate, self._round_s
        if not round_s:
            return max(wanted_s, self.least_s)
        return round_s * max(_ROUNDS, 1 + math.ceil((1 - _WARMUP) * wanted_s / round_s))

    @property
    def least_s(self) -> float:
        """The least length in seconds that contains all changes of the traffic over time."""
        process = self.make(1.0)
        return _CYCLES * process.cycle_s if isinstance(process, Bursty) else _ROUNDS * self._round_s

    @property
    def _round_s(self) -> float:
        """The time in seconds after which recorded traffic repeats; 0 if the traffic is not recorded."""
        process = self.make(1.0)
        return process.length_s if isinstance(process, Stretch) else 0.0

    def warmup(self, length_s: float) -> float:
        """The share that is not counted; for recorded traffic, the first round, which begins with empty queues."""
        return self._round_s / length_s or _WARMUP

    @property
    def enough(self) -> int:
        """The fewest requests that the percentile needs."""
        return max(_FEWEST_RARE, math.ceil(_BEYOND_RARE / (1 - self.limit.share) - 1e-6))

    def servers(self, servers: int, rate: float) -> int:
        """How many of these servers to simulate at a rate: uneven traffic takes long, and needs only a few servers."""
        each = rate / servers * self.least_s
        return min(servers, MOST_SIMULATED, max(FEWEST_UNEVEN, int(_MOST_UNEVEN / each)) if each else MOST_SIMULATED)


def expect_cluster(cluster: Cluster, load: PlannedLoad, workers: int = 1) -> Expect:
    """Make the `Expect` of one model, each of whose replicas has `workers` servers; results are cached.

    Args:
        cluster: a cluster of one server, with its routing and hedging.
        load: the model's load.
        workers: servers per replica; each has a core or a share of the replica's cores.
    """

    @cache
    def expect(replicas: int, rate: float) -> Figures:
        servers = replicas * workers
        simulated = load.servers(servers, rate)
        own = rate * simulated / servers
        length_s = load.length_s(own, simulated)
        arrivals, warmup = load.arrivals(own, length_s), load.warmup(length_s)
        result = simulate_cluster(replace(cluster, servers=simulated), arrivals, load.seed, warmup=warmup)
        prediction, share = result.prediction, load.limit.share
        at_ms = prediction.percentile_ms(share)
        return Figures(
            rate,
            mean_ms(prediction),
            prediction.percentile_ms(0.5),
            prediction.percentile_ms(0.99),
            at_ms,
            rate * answered_within(prediction, load.limit),
            result.utilisation,
            result.hedged / max(1, len(arrivals)),
            at_ms <= load.limit.limit_ms,
            asked=len(prediction.latencies_ns) + prediction.refused,
        )

    return expect


def mean_ms(prediction: Prediction) -> float:
    """The mean latency of the requests that were answered, in milliseconds; nan without any."""
    return float(prediction.latencies_ns.mean()) / 1e6 if len(prediction.latencies_ns) else math.nan


def answered_within(prediction: Prediction, limit: Limit) -> float:
    """The share of the requests that were answered within the limit."""
    asked = len(prediction.latencies_ns) + prediction.refused
    return float((prediction.latencies_ns <= limit.limit_ms * 1e6).sum()) / max(1, asked)


def lone_ms(configuration: Configuration, limit: Limit, seed: int = 0) -> float:
    """The percentile of requests that never overlap: the lowest possible, however many servers there are."""
    slower = max(1.0, configuration.busy_threads / configuration.free_cores)
    apart_ns = int(slower * (1e9 + 4 * float(configuration.service.quantiles_ns[0].max())))
    count = min(round(max(_FEWEST_LONE, _BEYOND_LONE / (1 - limit.share))), _MOST_LONE, FAR // (2 * apart_ns))
    arrivals = np.arange(count, dtype=np.int64) * apart_ns
    return simulate_cluster(Cluster(configuration), arrivals, seed).prediction.percentile_ms(limit.share)


def simulated_bursts(process: Bursty, limits: Sequence[Limit], capacity: float, servers: int = FEWEST_UNEVEN) -> Bursty:
    """Bursts of which twenty can be simulated: the given ones, or shorter ones of at least a hundred limits.

    Args:
        process: the bursts that the user asked for.
        limits: the latency limits to meet.
        capacity: requests per second of one server.
        servers: number of simulated servers.

    Raises:
        UsageError: even the shorter ones have too many requests.
    """
    each = servers * capacity * _CYCLES / BURST_SHARE  # requests, per second of a burst
    least_s = min(process.length_s, _LIMITS * max(limit.limit_ms for limit in limits) / 1e3)
    if each * least_s > _MOST_LONG:
        raise UsageError(
            f"--arrivals: bursts of {number(process.length_s, 6)} s are too many requests to simulate: plan for the "
            f"bursts' own rate, with --arrivals poisson and {process.factor:g} times the --rate"
        )
    return replace(process, length_s=min(process.length_s, max(least_s, _SHORTENED / each)))


def longest_round_s(capacity: float) -> float:
    """The longest recorded traffic, in seconds, for two simulated rounds; `capacity`: requests/s of one server."""
    return _MOST_ROUNDS / (_ROUNDS * FEWEST_UNEVEN * capacity)


class KnownRates:
    """Remembers which rates a number of replicas met or missed, so that nothing that follows from it is simulated.

    Args:
        expect: tells how replicas behave.
    """

    def __init__(self, expect: Expect) -> None:
        self._expect = expect
        self._met: list[tuple[int, float]] = []
        self._missed: list[tuple[int, float]] = []

    def within(self, replicas: int, rate: float) -> bool:
        """Whether this many replicas meet the limit at a rate; simulates only if that is not known yet."""
        if rate <= self.highest_met(replicas):
            return True
        if rate >= self.lowest_missed(replicas):
            return False
        is_met = self._expect(replicas, rate).within
        (self._met if is_met else self._missed).append((replicas, rate))
        return is_met

    def highest_met(self, replicas: int) -> float:
        """The highest rate that this many replicas, or fewer, were found to meet; 0 without any."""
        return max((rate for count, rate in self._met if count <= replicas), default=0.0)

    def lowest_missed(self, replicas: int) -> float:
        """The lowest rate that this many replicas, or more, were found to miss; infinite without any."""
        return min((rate for count, rate in self._missed if count >= replicas), default=math.inf)


def least_replicas(findings: KnownRates, rate: float, capacity: float) -> int:
    """The least number of replicas that meets the limit at a rate.

    Args:
        findings: tells how replicas behave.
        rate: requests per second.
        capacity: requests per second of one replica, whatever the latency.

    Raises:
        UsageError: even 1,000 replicas do not meet the limit.
    """
    low = max(1, math.ceil(rate / capacity)) - 1 if capacity > 0 else MOST_REPLICAS
    high = low + 1
    while high <= MOST_REPLICAS and not findings.within(high, rate):
        low, high = high, max(high + 1, int(high * _GROWTH))
    if high > MOST_REPLICAS:
        if low < MOST_REPLICAS and findings.within(MOST_REPLICAS, rate):
            high = MOST_REPLICAS
        else:
            asked = number(rate, 6)
            raise UsageError(f"{MOST_REPLICAS:,} replicas do not meet the limit at {asked} requests per second")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if findings.within(middle, rate) else (middle, high)
    return high


def highest_rate(findings: KnownRates, replicas: int, capacity: float, guess: float) -> float:
    """The highest rate, to within 2 %, at which this many replicas meet the limit; 0 if none was found.

    Args:
        findings: tells how replicas behave; the result is at least the highest rate that it knows to be met.
        replicas: number of replicas.
        capacity: requests per second of one replica, whatever the latency.
        guess: the rate at which the search begins.
    """
    low, high, most = 0.0, min(guess, replicas * capacity), replicas * capacity
    least = _LEAST * high
    while high < most and findings.within(replicas, high):
        low, high = high, min(most, high * _GROWTH)
    if findings.within(replicas, high):
        return max(high, findings.highest_met(replicas))
    low, below = max(low, findings.highest_met(replicas)), high / _GROWTH
    while low == 0.0:
        if below < least:
            return 0.0
        if findings.within(replicas, below):
            low = below
        else:
            high, below = below, below / _GROWTH**2
    while high - low > _TIGHT * high:
        rate = (low + high) / 2
        low, high = (rate, high) if findings.within(replicas, rate) else (low, rate)
    return low


def curve_points(replicas: int) -> list[int]:
    """A few numbers of replicas around the needed one, whose highest rates are shown."""
    around = {1, 2, replicas // 2, replicas - 1, replicas, replicas + 1, math.ceil(1.5 * replicas)}
    return sorted(count for count in around if 1 <= count <= MOST_REPLICAS)


def losses(expect: Expect, replicas: int, rate: float, counts: Sequence[int]) -> list[tuple[int, Figures]]:
    """The expected figures for each number of lost replicas that leaves at least one."""
    return [(lost, expect(replicas - lost, rate)) for lost in counts if lost < replicas]


def capacity_of(configuration: Configuration, workers: int = 1) -> float:
    """Requests per second of one saturated replica."""
    return workers * saturation_rate(without_client(configuration), _SATURATED)
