"""Chooses the settings of a model without a profile from measured times of its engine on this machine. Pure.

`measured.py` measures them; decision 037 has the reasons and the figures. Only the way of computing is chosen: threads,
instances, spinning, dispatch and the largest batch. The engine and its precision stay as they are, and so do the
answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from statistics import median
from typing import Literal

import msgspec

from tailcut.batching.cost import CostModel
from tailcut.runtime.settings import BatchingSettings, Settings

USUAL_BATCH = 32
SAFE_SETTINGS = Settings(batching=BatchingSettings(max_batch_size=USUAL_BATCH))  # where nothing is measured
LARGEST_BATCH = 128  # the largest size that is measured
LEAST_BATCH = 8  # the smallest choice, unless it computes inline: not all sizes of a slow model are measured
PARALLEL_NS = 100_000  # a shorter call is not worth waking another thread
LONG_NS = 3_000_000  # a longer call cannot be timed between the time slices of other processes
ADAPTIVE_NS = 2_000_000  # adaptive dispatch leaves any batch to its worker that turns out to take over 0.5 ms
# How long a batch that is computed inline may keep the event loop from other requests, and from other models.
INLINE_NS = 250_000
INLINE_AMONG_OTHERS_NS = 100_000
_DRAIN_NS = 5_000_000  # the same limit for a full queue, batch after batch
# The cost per row of using a worker, at the usual batch size: longer rows are better computed beside the event loop.
_HAND_OVER_NS = 4_000
_BATCH_NS = 60_000  # the server's time for each batch, without the engine's call
_QUICK_NS = 20_000_000  # a usual batch up to this time is allowed even if it may not pay: serving finds out
_BETTER = 0.9  # more threads must reduce the time of short calls to this share, and spinning that of all calls
_AGREEING = 3  # the number of comparisons that have to agree
_NEAR_BEST = 1.1  # times the least time per row: the smallest size within that becomes the largest batch
_BEYOND = 4  # times the largest measured size, where the time per row was still falling
_INLINE_NEAR_BEST = 1.5  # the same for a batch that computes inline, and so must be short


@dataclass(frozen=True, slots=True)
class ServingPlace:
    """Where a model will serve.

    Args:
        cpus: the number of CPUs that its process may use.
        threads: how many threads one engine call may use: one for each core of these CPUs.
        alone: whether no other model is in the process.
        quota: whether a quota limits the CPU time, so that spinning threads take it from others.
        max_batch_size: the largest batch that the user asks for; None leaves it to the measurement.
    """

    cpus: int
    threads: int
    alone: bool = True
    quota: bool = False
    max_batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known about a model without measuring it.

    Args:
        batched: whether rows of several requests may share a call.
        timed: whether a call's time depends only on its rows, because nothing else in a request varies in size.
        most_rows: the largest batch that memory has room for.
        queue_rows: how many rows may wait at a time, of one request or of many.
        endless: an operator whose run time depends on the values of a request; "" where there is none.
    """

    batched: bool
    timed: bool
    most_rows: int = 1 << 16
    queue_rows: int = 1024
    endless: str = ""


@dataclass(frozen=True, slots=True)
class ConfigurationEstimate:
    """The times of one configuration of an engine.

    Args:
        threads, spinning: the configuration.
        call_ns: nanoseconds of an undisturbed call, by its rows.
        busy_ns: the same beside a busy thread; empty for a model whose requests share no call.
        cpu_ns: CPU nanoseconds of a call with one row; 0 where unknown.
    """

    threads: int
    spinning: bool
    call_ns: Mapping[int, float]
    busy_ns: Mapping[int, float] = field(default_factory=dict)
    cpu_ns: float = 0.0


class DefaultChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen settings, and why.

    `alone` says whether they are for a model without others in its process; `otherwise` has those for the other case.
    """

    threads: int
    spinning: bool
    dispatch: Literal["worker", "inline", "adaptive"]
    max_batch_size: int
    instances: int = 1
    reason: str = ""
    alone: bool = True
    otherwise: "DefaultChoice | None" = None

    @classmethod
    def of(cls, settings: Settings, reason: str) -> "DefaultChoice":
        """The choice that equals given settings."""
        engine, batching = settings.engine, settings.batching
        return cls(
            threads=engine.threads,
            spinning=engine.spinning,
            dispatch=batching.dispatch,
            max_batch_size=batching.max_batch_size,
            instances=engine.instances,
            reason=reason,
        )

    def among(self, models: int) -> "DefaultChoice":
        """The choice for this many models in the process, from the same measurements."""
        if self.otherwise is None or self.alone == (models == 1):
            return self
        return msgspec.structs.replace(self.otherwise, otherwise=msgspec.structs.replace(self, otherwise=None))

    def within(self, around: ServingPlace) -> "DefaultChoice":
        """The same choice, with no more threads than can be used here."""
        threads = min(self.threads, around.threads)
        instances = max(1, min(self.instances, around.threads // max(1, threads)))
        return msgspec.structs.replace(self, threads=threads, instances=instances)

    def apply(self, base: Settings) -> Settings:
        """`base` with these settings in it."""
        engine = msgspec.structs.replace(
            base.engine, threads=self.threads, spinning=self.spinning, instances=self.instances
        )
        routed = base.batching.second is not None and base.batching.second.use == "route"
        dispatch = "worker" if routed else self.dispatch  # each engine has workers of its own
        batching = msgspec.structs.replace(base.batching, dispatch=dispatch, max_batch_size=self.max_batch_size)
        return msgspec.structs.replace(base, engine=engine, batching=batching)

    def describe(self) -> str:
        """The settings in the words of a profile."""
        words = [f"threads={self.threads or 'auto'}"]
        words += [f"instances={self.instances}"] if self.instances > 1 else []
        words += [f"spinning={str(self.spinning).lower()}"] if self.threads != 1 else []
        return " ".join([*words, f"dispatch={self.dispatch}", f"max_batch_size={self.max_batch_size}"])

    def line(self) -> str:
        """The settings and the reason, for a log."""
        return f"{self.describe()}: {self.reason}"


def choose(facts: ModelFacts, best: ConfigurationEstimate, around: ServingPlace) -> DefaultChoice:
    """Choose dispatch, instances and the largest batch for the best engine configuration."""
    dispatch, largest, reason = _choose_dispatch(facts, best.call_ns, around)
    instances = 1
    if dispatch == "worker" and not facts.batched:
        instances = max(1, around.threads // best.threads)
    if instances > 1:
        reason += f"; requests share no call, so {instances} are computed at a time"
    return DefaultChoice(
        threads=best.threads,
        spinning=best.spinning,
        dispatch=dispatch,
        max_batch_size=largest,
        instances=instances,
        reason=reason,
        alone=around.alone,
    )


@dataclass(frozen=True, slots=True)
class TimeComparison:
    """The time of the second of two configurations as a ratio to the first, and when the second counts as better.

    Args:
        alone: the ratio for a single client, that is, of the latency.
        crowded: the ratio for many clients, that is, of the time per request.
        enough: the largest geometric mean of both ratios with which the second is chosen.
    """

    alone: float
    crowded: float
    enough: float

    @property
    def better(self) -> bool:
        """Whether the second configuration is chosen; both cases have the same weight."""
        return sqrt(self.alone * self.crowded) <= self.enough


def compare(estimate: ConfigurationEstimate, other: ConfigurationEstimate) -> TimeComparison:
    """Compare an estimate with another, which has more threads or spins.

    The largest batch beside a busy thread, which simulates the event loop, represents many clients. Where requests
    share no call, the comparison is between cores that each compute one request, and all cores computing one together.

    Other processes interrupt long calls, and a call on several threads waits for the slowest of them. So more threads
    are also judged by CPU time, as if all of them computed all the time, which other processes do not affect; and then
    they only need to be no worse.
    """
    long = other.threads > estimate.threads and estimate.call_ns[1] >= LONG_NS
    cpu = other.cpu_ns / estimate.cpu_ns if long and estimate.cpu_ns and other.cpu_ns else inf
    alone = min(other.call_ns[1] / estimate.call_ns[1], cpu * estimate.threads / other.threads)
    if estimate.busy_ns and other.busy_ns:
        rows = max(estimate.busy_ns)
        crowded = min(other.busy_ns[rows] / estimate.busy_ns[rows], cpu)
    else:
        crowded = alone * other.threads / estimate.threads
    return TimeComparison(alone, crowded, 1.0 if long else _BETTER)


def is_clear(comparisons: Sequence[TimeComparison]) -> bool:
    """Whether successive comparisons of the same two agree, so that no more are needed."""
    return len(comparisons) >= _AGREEING and len({comparison.better for comparison in comparisons}) == 1


def middle(comparisons: Sequence[TimeComparison]) -> TimeComparison:
    """The median of several comparisons of the same two."""
    return TimeComparison(
        median(comparison.alone for comparison in comparisons),
        median(comparison.crowded for comparison in comparisons),
        median(comparison.enough for comparison in comparisons),
    )


def describe_comparison(estimate: ConfigurationEstimate, other: ConfigurationEstimate, result: TimeComparison) -> str:
    """The time of the second as a ratio to the first, in words, for one client and for many."""
    spins, asleep = (" spinning", " asleep") if other.spinning else ("", "")
    return (
        f"{other.threads} threads{spins} beside {estimate.threads}{asleep}: "
        f"x{result.alone:.2f} of the time for one client, x{result.crowded:.2f} for many"
    )


def may_spin(around: ServingPlace) -> bool:
    """Whether spinning threads leave a core to the event loop, and take none from other models."""
    return around.alone and around.cpus > 2 and not around.quota


def sizes_to_try(facts: ModelFacts, around: ServingPlace) -> list[int]:
    """The batch sizes to measure, ascending; only 1 where the time of a call does not depend only on its rows."""
    if not (facts.timed and facts.batched):
        return [1]
    sizes = CostModel(around.max_batch_size or LARGEST_BATCH).sizes
    return [size for size in sizes if size <= facts.most_rows] or [1]


def _choose_dispatch(
    facts: ModelFacts, call_ns: Mapping[int, float], around: ServingPlace
) -> tuple[Literal["worker", "inline", "adaptive"], int, str]:
    usual = around.max_batch_size or SAFE_SETTINGS.batching.max_batch_size
    if not facts.timed:
        return "worker", usual, "a call's time depends on the size of a request"
    if facts.endless:
        return "worker", usual, f"operator {facts.endless} may run for any time"
    largest = _choose_batch(facts, call_ns, around)
    inline = _inline_batch(facts, call_ns, around, largest)
    if inline:
        return "inline", inline, f"{_takes(call_ns, inline)}: short enough for the event loop's own thread"
    if around.alone and call_ns[1] <= (ADAPTIVE_NS if facts.batched else PARALLEL_NS):
        return "adaptive", largest, f"{_takes(call_ns, largest)}: short batches run on the event loop's own thread"
    reason = "long enough for a thread of its own" if around.alone else "too long for an event loop shared with others"
    return "worker", largest, f"{_takes(call_ns, largest)}: {reason}"


def _choose_batch(facts: ModelFacts, call_ns: Mapping[int, float], around: ServingPlace) -> int:
    """The smallest size with about the least time per row, or a larger one where that was the largest measured.

    It is only a limit: the cost model learns while serving which size within it pays.
    """
    if not facts.batched:
        return 1
    if around.max_batch_size is not None:
        return around.max_batch_size
    row_ns = {size: (took_ns + _BATCH_NS) / size for size, took_ns in call_ns.items()}
    good = min(size for size in row_ns if row_ns[size] <= _NEAR_BEST * min(row_ns.values()))
    bound = _BEYOND * good if good == max(call_ns) else good
    last = max(call_ns)
    quick = call_ns[last] / last * USUAL_BATCH <= _QUICK_NS
    return min(facts.most_rows, LARGEST_BATCH, max(USUAL_BATCH if quick else LEAST_BATCH, bound))


def _inline_batch(facts: ModelFacts, call_ns: Mapping[int, float], around: ServingPlace, largest: int) -> int:
    """The largest batch to compute inline; 0 where that does not pay."""
    bound = INLINE_NS if around.alone else INLINE_AMONG_OTHERS_NS
    short = [size for size, took_ns in call_ns.items() if size <= largest and took_ns <= bound]
    if not short:
        return 0
    inline = max(short)
    if around.max_batch_size is not None and facts.batched and inline < around.max_batch_size:
        return 0
    row_ns = call_ns[inline] / inline
    least = min(took_ns / size for size, took_ns in call_ns.items() if size <= largest)
    fits = row_ns <= _INLINE_NEAR_BEST * least and row_ns * facts.queue_rows <= _DRAIN_NS
    return inline if fits and (around.cpus == 1 or row_ns <= _HAND_OVER_NS) else 0


def _takes(call_ns: Mapping[int, float], largest: int) -> str:
    """Words for the times of one row, and of the largest measured batch up to `largest`."""
    rows = max(size for size in call_ns if size <= largest)
    single = f"1 row takes {_time(call_ns[1])}"
    return single if rows == 1 else f"{single}, {rows} take {_time(call_ns[rows])}"


def _time(took_ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if took_ns >= size:
            return f"{took_ns / size:.3g} {unit}"
    return f"{took_ns / 1e3:.3g} us"
