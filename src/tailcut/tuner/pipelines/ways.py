"""What each way to run a step costs, and the expected performance of a pipeline of such steps. Pure.

A bound, not a simulation: the slowest step and the CPUs limit the rate, and batches are as large as the latency limit
allows. It ranks configurations; the race on the real server decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tailcut.runtime.pipeline_settings import StageSettings, StepModelSettings

_WAITING = 1.5  # calls of each step that a request under load sees: its own, and half of the one before it
_TAIL = 3.0  # how much steeper the p99 grows with the load than the mean
_HOPELESS = 0.5  # of the rate of lone rows, if even these take longer than the limit


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a step.

    Args:
        settings: of the step.
        times_ns: time of a call, by its number of rows (for a stage with a free dimension: of requests).
        cpu_ns: CPU time of a call, likewise.
        largest: rows of a call, at most.
        calls: number of simultaneous calls.
        memory_bytes: of all its processes, or of the engine.
    """

    settings: StageSettings | StepModelSettings
    times_ns: dict[int, float] = field(hash=False)
    cpu_ns: dict[int, float] = field(hash=False)
    largest: int
    calls: int = 1
    memory_bytes: int = 0

    @property
    def alone_ns(self) -> float:
        """The time of a call of one row."""
        return self.times_ns[min(self.times_ns)]

    def size_within(self, most: int) -> int:
        """The measured size, up to this many rows, with the least time per row."""
        largest = min(most, self.largest)
        sizes = [size for size in self.times_ns if size <= largest] or [min(self.times_ns)]
        return min(sizes, key=lambda size: self.times_ns[size] / size)

    def rate(self, size: int) -> float:
        """Rows per second in calls of this size."""
        return self.calls * size / self.times_ns[size] * 1e9

    @property
    def best_rate(self) -> float:
        """Rows per second at the best size."""
        return self.rate(self.size_within(max(self.times_ns)))

    @property
    def least_cpu_ns(self) -> float:
        """CPU time per row at the best size."""
        size = self.size_within(max(self.times_ns))
        return self.cpu_ns[size] / size


@dataclass(frozen=True, slots=True)
class Around:
    """What is common to all configurations.

    Args:
        cpus: number of CPUs.
        hand_over_ns: time of a request between its steps, and in the server.
        limit_ms: the latency limit.
        rate: requests per second offered; 0 if none are.
    """

    cpus: float
    hand_over_ns: float
    limit_ms: float
    rate: float


@dataclass(frozen=True, slots=True)
class ExpectedPipeline:
    """The expected performance of a pipeline; the fields are those of `PredictedConfiguration`."""

    rate: float
    capacity: float
    alone_ms: float
    p99_ms: float
    cpu_us: float
    memory_bytes: int


def expect(ways: Sequence[Way], around: Around) -> ExpectedPipeline:
    """The expected performance of a pipeline whose steps run in these ways."""
    alone_ns = sum(way.alone_ns for way in ways) + around.hand_over_ns
    rates = {}
    for most in sorted({size for way in ways for size in way.times_ns}):
        sizes = [way.size_within(most) for way in ways]
        cpu_ns = sum(way.cpu_ns[size] / size for way, size in zip(ways, sizes, strict=True)) + around.hand_over_ns
        slowest = min(way.rate(size) for way, size in zip(ways, sizes, strict=True))
        took_ns = _WAITING * sum(way.times_ns[size] for way, size in zip(ways, sizes, strict=True))
        rates[took_ns + around.hand_over_ns] = min(slowest, around.cpus * 1e9 / cpu_ns)
    capacity = max(rates.values())
    within = [rate for took_ns, rate in rates.items() if took_ns <= around.limit_ms * 1e6]
    load = around.rate / capacity
    return ExpectedPipeline(
        rate=max(within, default=_HOPELESS * min(rates.values())),
        capacity=capacity,
        alone_ms=alone_ns / 1e6,
        p99_ms=alone_ns / 1e6 * (1 + _TAIL * load / (1 - load)) if load < 1 else float("inf"),
        cpu_us=(sum(way.cpu_ns[min(way.cpu_ns)] for way in ways) + around.hand_over_ns) / 1e3,
        memory_bytes=sum(way.memory_bytes for way in ways),
    )


def shortlist(ways: Sequence[Way], most: int) -> list[Way]:
    """The ways that no other beats in rate, CPU time, lone call and memory; at most `most` of them, the fastest."""
    kept: list[Way] = []
    for way in sorted(ways, key=lambda item: (-item.best_rate, item.alone_ns, item.memory_bytes)):
        if not any(_beats(other, way) for other in kept):
            kept.append(way)
    alone = sorted(kept, key=lambda item: item.alone_ns)[: max(1, most // 4)]
    return list(dict.fromkeys([*alone, *kept]))[:most]


def _beats(way: Way, other: Way) -> bool:
    return (
        way.best_rate >= other.best_rate
        and way.alone_ns <= other.alone_ns
        and way.least_cpu_ns <= other.least_cpu_ns
        and way.memory_bytes <= other.memory_bytes
    )
