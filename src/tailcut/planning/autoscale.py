"""Simulates recorded traffic on replicas that an autoscaler adds and removes, without a clock or files.

The rule is that of Kubernetes' HorizontalPodAutoscaler
(https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/, "Algorithm details"): at
regular intervals, desired = ceil(replicas x metric / target), unless the ratio is within a tolerance of 1; to scale
down, the highest desired number within a stabilisation window counts. A new replica accepts requests once it has
started; a removed one answers the requests that it has. The simulation begins with as many replicas as its first
interval needs, because there was traffic before it.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tailcut.errors import UsageError
from tailcut.kernels import balancing
from tailcut.kernels.cluster import advance
from tailcut.kernels.queueing import FAR
from tailcut.planning.cluster import Cluster, counted, tables_of
from tailcut.planning.demand import Limit
from tailcut.planning.search import MOST_REPLICAS

_SHOWN = 288  # the most points of the course: one every five minutes of a day
_TOLERANCE = 0.1
_LEAST_EVERY_S, _LEAST_TARGET = 0.1, 0.001
_MOST_FIRST = 100_000  # the most requests of the first interval that are simulated to find how many replicas it needs
_USUAL = 0.6  # the default target, as a share of the utilisation of saturated replicas


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of an autoscaler.

    Args:
        metric: the mean utilisation (0 to 1) of the cores that spinning threads leave free, or the mean number of
            requests in flight per replica.
        target: the metric's target; 0: for utilisation, 0.6 of what saturated replicas reach.
        every_s: time between decisions.
        start_s: time until a new replica takes requests.
        down_s: length of the window whose highest desired number counts when replicas are removed.
        least, most: bounds of the number of replicas.
    """

    metric: Literal["utilisation", "queue"] = "utilisation"
    target: float = 0.0
    every_s: float = 15.0
    start_s: float = 30.0
    down_s: float = 300.0
    least: int = 1
    most: int = 0  # 0: as many as the busiest minute needs

    def resolved(self, replicas: int, saturated: float) -> "Rules":
        """The rules with defaults filled in: at most `replicas`, and a target below the saturated utilisation."""
        target = self.target or _USUAL * saturated
        return replace(self, target=target, most=self.most or max(replicas, self.least))

    def compressed(self, factor: float) -> "Rules":
        """The rules for traffic that is played back faster by this factor."""
        every_s, start_s, down_s = (value / factor for value in (self.every_s, self.start_s, self.down_s))
        return replace(self, every_s=every_s, start_s=start_s, down_s=down_s)

    def desired(self, active: int, asked: int, value: float) -> int:
        """How many replicas the metric asks for.

        When more replicas are needed than there are, starting ones count as idle.

        Args:
            active: number of replicas that take requests.
            asked: number of active and starting replicas.
            value: the metric over the active replicas.
        """
        ratio = value / self.target
        needed = active * ratio
        if abs(ratio - 1) <= _TOLERANCE or (ratio > 1 and needed <= asked * (1 + _TOLERANCE)):
            return asked
        return min(max(self.least, math.ceil(needed - 1e-9)), self.most)


@dataclass(slots=True)
class StabilisationWindow:
    """Remembers desired numbers for a while; the highest of them counts when replicas are removed."""

    length_s: float
    desires: deque[tuple[float, int]] = field(default_factory=deque)

    def settled(self, now_s: float, replicas: int, desired: int) -> int:
        """Add a desired number, and return how many replicas there should be."""
        while self.desires and self.desires[-1][1] <= desired:  # keeps the highest first
            self.desires.pop()
        self.desires.append((now_s, desired))
        while self.desires[0][0] < now_s - self.length_s:
            self.desires.popleft()
        if desired >= replicas:
            return desired
        return min(replicas, self.desires[0][1])


@dataclass(frozen=True, slots=True)
class Moment:
    """A part of the course: means, and the percentile over the requests that arrived in it."""

    at_s: float
    rate: float
    replicas: float
    at_ms: float | None  # None: nothing arrived; infinite: more were refused than the percentile allows
    missed: float  # requests per second that were not answered within the limit


@dataclass(frozen=True, slots=True)
class Course:
    """The result of an autoscaler that follows a recording."""

    requests: int
    missed: int  # not answered within the limit
    at_ms: float  # the percentile over all requests
    replica_hours: float
    most: int
    changes: int  # times that replicas were added or removed
    moments: tuple[Moment, ...]


def parse_rules(text: str, duration: Callable[[str], float]) -> Rules:
    """Parse optional rules such as `utilisation=0.5,start=30s,down=5m,every=15s,min=1,max=20`, or with `queue=4`.

    Args:
        text: what the user wrote.
        duration: parses a duration into seconds.

    Raises:
        UsageError: a name is unknown, or a value is not valid.
    """
    values: dict[str, str] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        name, _, value = part.partition("=")
        if name not in {"utilisation", "queue", "start", "down", "every", "min", "max"}:
            raise UsageError(
                f"--autoscale: unknown rule {name!r}: write utilisation=0.5,start=30s,down=5m,min=1,max=20"
            )
        values[name] = value
    if "utilisation" in values and "queue" in values:
        raise UsageError("--autoscale: give a target for utilisation or for queue, not for both")
    metric: Literal["utilisation", "queue"] = "queue" if "queue" in values else "utilisation"
    rules = Rules(
        metric,
        _target(metric, values[metric]) if metric in values else 0.0,
        duration(values.get("every", "15s")),
        duration(values.get("start", "30s")),
        duration(values.get("down", "5m")),
        _replicas("min", values.get("min", "1")),
        _replicas("max", values["max"]) if "max" in values else 0,
    )
    if rules.every_s < _LEAST_EVERY_S:
        raise UsageError(f"--autoscale: every must be at least {1e3 * _LEAST_EVERY_S:g} ms")
    if rules.most and rules.most < rules.least:
        raise UsageError("--autoscale: max must be at least min")
    return rules


def _target(metric: str, text: str) -> float:
    """Parse the target of a metric.

    Raises:
        UsageError: it is not a number within its bounds.
    """
    most = 1.0 if metric == "utilisation" else math.inf
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not _LEAST_TARGET <= value <= most or math.isinf(value):
        bounds = f"from {_LEAST_TARGET:g} to 1" if most == 1 else f"from {_LEAST_TARGET:g} on"
        raise UsageError(f"--autoscale: {metric}={text} must be a number {bounds}")
    return value


def _replicas(name: str, text: str) -> int:
    """Parse a number of replicas.

    Raises:
        UsageError: it is not an integer, below 1, or more than can be simulated.
    """
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_REPLICAS)) else 0
    if not 1 <= value <= MOST_REPLICAS:
        raise UsageError(f"--autoscale: {name}={text} must be a whole number from 1 to {MOST_REPLICAS:,}")
    return value


class _ScaledCluster:
    """The replicas of a running simulation, including starting ones."""

    def __init__(self, cluster: Cluster, arrivals: np.ndarray, rules: Rules, begin: int, seed: int) -> None:
        self._tables, self._arrivals, self._rules = tables_of(cluster), arrivals, rules
        self.state = balancing.new_state(
            len(arrivals), rules.most, begin, cluster.configuration.instances, hedged=cluster.hedge_ns > 0
        )
        self._cores = cluster.configuration.free_cores
        self._starting: deque[float] = deque()  # when each is ready, in seconds
        self._busy_ns = 0.0
        self.replica_s = 0.0
        balancing.seed_draws(seed)

    @property
    def active(self) -> int:
        """Number of replicas that take requests."""
        return balancing.active_of(self.state)

    @property
    def asked(self) -> int:
        """Number of active and starting replicas."""
        return self.active + len(self._starting)

    def run(self, since_s: float, until_s: float) -> None:
        """Simulate until a time; replicas that become ready before then take requests from that moment on."""
        while self._starting and self._starting[0] <= until_s:
            ready_s = self._starting[0]
            self._advance(since_s, ready_s)
            self._starting.popleft()
            balancing.activate(self.state, int(self.state.order[self.active]))
            since_s = max(since_s, ready_s)
        self._advance(since_s, until_s)

    def metric(self, length_s: float) -> float:
        """The metric since the last call, `length_s` ago."""
        busy_ns = float(self.state.totals[:, : balancing.BATCHES].sum())
        spent, self._busy_ns = busy_ns - self._busy_ns, busy_ns
        if self._rules.metric == "queue":
            return float(self.state.flying.sum()) / self.active
        return spent / (length_s * 1e9 * self._cores * self.active)

    def needed(self, length_s: float) -> int:
        """How many replicas the metric asks for after the first `length_s` seconds."""
        self.run(0.0, length_s)
        return self._rules.desired(self.active, self.asked, self.metric(length_s))

    def change(self, now_s: float, replicas: int) -> None:
        """Ask for this many replicas; starting ones are removed first."""
        while self.asked < replicas:
            self._starting.append(now_s + self._rules.start_s)
        while self.asked > replicas and self._starting:
            self._starting.pop()
        while self.active > replicas:
            balancing.drain(self.state, int(self.state.order[self.active - 1]))

    def _advance(self, since_s: float, until_s: float) -> None:
        self.replica_s += max(0.0, until_s - since_s) * self.asked
        advance(self._tables, self.state, self._arrivals, int(until_s * 1e9))

    def finish(self) -> None:
        """Simulate until all requests that arrived are answered."""
        advance(self._tables, self.state, self._arrivals, FAR)


def simulate_autoscaler(  # noqa: PLR0913  when a recording ends is not in its arrivals
    cluster: Cluster, arrivals_ns: np.ndarray, rules: Rules, limit: Limit, seed: int = 0, *, length_s: float = 0.0
) -> Course:
    """Simulate an autoscaler that follows a recording.

    Args:
        cluster: a cluster of one replica, with its routing and hedging.
        arrivals_ns: arrival times since the beginning of the recording, int64 [n], ascending.
        rules: rules of the autoscaler, with `most` and `target` set.
        limit: the latency limit of the requests.
        seed: seed of service times and routing.
        length_s: length of the recording, if it goes on after the last arrival.
    """
    begin = first_replicas(cluster, arrivals_ns, rules, seed)
    scaled = _ScaledCluster(replace(cluster, servers=rules.most), arrivals_ns, rules, begin, seed)
    window, changes, most = StabilisationWindow(rules.down_s), 0, begin
    end_s = max(length_s, int(arrivals_ns[-1]) / 1e9)
    ticks = max(1, math.ceil(end_s / rules.every_s - 1e-9))
    counts = np.zeros(ticks)
    for tick in range(ticks):
        since_s, now_s = tick * rules.every_s, min((tick + 1) * rules.every_s, max(end_s, rules.every_s))
        scaled.run(since_s, now_s)
        counts[tick] = scaled.active
        asked = scaled.asked
        wanted = window.settled(now_s, asked, rules.desired(scaled.active, asked, scaled.metric(now_s - since_s)))
        if wanted != asked:
            changes += 1
            scaled.change(now_s, wanted)
        most = max(most, scaled.asked)
    scaled.finish()
    answered, hours = scaled.state.answered, scaled.replica_s / 3600
    whole = counted(arrivals_ns, answered, scaled.state.totals.sum(axis=0))
    late = (answered < 0) | (answered - arrivals_ns > limit.limit_ms * 1e6)
    moments = _course(_Answers(arrivals_ns, answered, late), counts, rules.every_s, limit)
    return Course(len(arrivals_ns), int(late.sum()), whole.percentile_ms(limit.share), hours, most, changes, moments)


def first_replicas(cluster: Cluster, arrivals_ns: np.ndarray, rules: Rules, seed: int = 0) -> int:
    """The smallest number of replicas, within the rules' bounds, that the first interval would not increase."""
    first = arrivals_ns[: np.searchsorted(arrivals_ns, int(rules.every_s * 1e9))][:_MOST_FIRST]
    if not len(first):
        return rules.least
    length_s = rules.every_s if len(first) < _MOST_FIRST else int(first[-1]) / 1e9
    low, high = rules.least - 1, rules.most
    while high - low > 1:
        middle = (low + high) // 2
        tried = _ScaledCluster(replace(cluster, servers=middle), first, rules, middle, seed)
        low, high = (low, middle) if tried.needed(length_s) <= middle else (middle, high)
    return high


@dataclass(frozen=True)
class _Answers:
    """Arrivals and answers of all requests, int64 ns, and which of them are late."""

    arrivals: np.ndarray
    answered: np.ndarray
    late: np.ndarray

    def moment(self, begin_s: float, length_s: float, replicas: float, share: float) -> Moment:
        """The figures of the requests that arrived in a part of the course."""
        first, last = np.searchsorted(self.arrivals, [int(begin_s * 1e9), int((begin_s + length_s) * 1e9)])
        own = counted(self.arrivals[first:last], self.answered[first:last], np.zeros(3))
        at_ms = own.percentile_ms(share) if last > first else None
        missed = float(self.late[first:last].sum()) / length_s
        return Moment(begin_s, float(last - first) / length_s, replicas, at_ms, missed)


def _course(answers: _Answers, counts: np.ndarray, every_s: float, limit: Limit) -> tuple[Moment, ...]:
    """The course in at most 288 parts; `counts` are the replicas at each decision."""
    together = -(-len(counts) // _SHOWN)
    parts = ((first, counts[first : first + together]) for first in range(0, len(counts), together))
    return tuple(
        answers.moment(first * every_s, len(part) * every_s, float(part.mean()), limit.share) for first, part in parts
    )
