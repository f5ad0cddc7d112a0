"""Decides which of several engines computes a batch: the one that is expected to finish it first. Pure.

A model may be loaded twice, on a device and on the CPU. Each engine has its own cost, learned from the batches that it
computes. An engine that asks for work gets only rows that no other engine would answer earlier, even if the other one
first has to finish its current batch; so a slow engine helps with a long queue and leaves a short one alone.

An engine whose batch is overdue is expected to need as long again as it is late already, so that a hanging engine
loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from tailcut.batching.cost import CostModel
from tailcut.batching.policy import Dispatch, Wait

_PROBE_EVERY = 1024  # batches of other engines, after which an engine gets one again, because its cost may have changed
_PROBE_COST = 8.0  # times the others' cost: an engine that is slower than that is not tried again
_LEAST_WAIT_NS = 100_000


@dataclass(slots=True)
class RoutedEngine:
    """An engine: how many batches it computes at a time, their cost, and when its current ones will end."""

    instances: int
    cost: CostModel
    ends: dict[object, float] = field(default_factory=dict)  # the expected ends of its current batches
    absent: bool = False  # a call of it was given up, and it has not asked for another batch since
    passed: int = 0  # batches of other engines since its last one

    def free_ns(self, now_ns: int) -> list[float]:
        """When each instance is expected to be free."""
        ends = [end if end > now_ns else 2 * now_ns - end for end in self.ends.values()]
        return [*ends, *[float(now_ns)] * (self.instances - len(ends))]

    def rows_before(self, ready: int, end_ns: float, now_ns: int, *, first: bool) -> int:
        """How many of the ready rows it can compute by `end_ns`; those that end then count only if it is `first`."""
        size = self.cost.best(ready)
        took = self.cost.estimate_ns(size)
        if self.absent or not took:
            return 0
        rows = 0
        for free in self.free_ns(now_ns):
            batches = int((end_ns - free) // took) if end_ns > free else 0
            if not first and batches and free + batches * took >= end_ns:
                batches -= 1
            rows += batches * size
        return rows


class Router:
    """Decides for the engines of one model; the time is an argument, monotonic nanoseconds.

    Args:
        max_batch_size: of the model.
        instances: how many batches each engine computes at a time.
    """

    def __init__(self, max_batch_size: int, instances: Sequence[int]) -> None:
        self.engines = tuple(RoutedEngine(count, CostModel(max_batch_size)) for count in instances)

    @property
    def leading(self) -> int:
        """The index of the engine that computes the most rows per time."""
        return min(range(len(self.engines)), key=lambda number: self._row_ns(self.engines[number]))

    def decide(self, engine: int, ready: int, now_ns: int) -> Dispatch | Wait | None:
        """How many of the ready rows an engine computes now; None where all of its instances are busy.

        Other engines are expected to answer the remaining rows earlier. Where it gets none, the result is the time at
        which to ask again, because the other engine would be late by then.
        """
        own = self.engines[engine]
        idle = own.instances - len(own.ends)
        if idle <= 0 or ready <= 0:
            return None
        rows = own.cost.best(-(-ready // idle))
        took = own.cost.estimate_ns(rows)
        if self._is_forgotten(own, rows):
            return Dispatch(rows)
        others = [(number, other) for number, other in enumerate(self.engines) if other is not own]
        before = sum(other.rows_before(ready, now_ns + took, now_ns, first=number < engine) for number, other in others)
        if before < ready:
            return Dispatch(own.cost.best(min(rows, ready - before)))
        return Wait(max(now_ns + _LEAST_WAIT_NS, self._late_ns([other for _, other in others], ready, took, now_ns)))

    def formed(self, engine: int, batch: object, rows: int, now_ns: int) -> None:
        """Note that an engine computes a batch from now on."""
        own = self.engines[engine]
        own.ends[batch] = now_ns + own.cost.estimate_ns(rows)
        own.absent, own.passed = False, 0
        for other in self.engines:
            other.passed += other is not own

    def ended(self, engine: int, batch: object, rows: int, took_ns: int, *, learn: bool) -> None:
        """Note the end of a batch; one that failed (`learn` is False) says nothing about the cost."""
        own = self.engines[engine]
        own.ends.pop(batch, None)
        if learn:
            own.cost.observe(min(rows, own.cost.sizes[-1]), took_ns)

    def given_up(self, engine: int, batch: object) -> None:
        """Note that an engine's call hangs: it is left out until it asks for another batch."""
        own = self.engines[engine]
        own.ends.pop(batch, None)
        own.absent = True

    def _late_ns(self, others: Sequence[RoutedEngine], ready: int, took: float, now_ns: int) -> int:
        """When the engine that is expected to be first would no longer be first."""
        present = [other for other in others if not other.absent]
        firsts = [(min(other.free_ns(now_ns)), other.cost.estimate_ns(other.cost.best(ready))) for other in present]
        return int(min((free + max(0.0, took - theirs) for free, theirs in firsts), default=now_ns + took))

    def _is_forgotten(self, own: RoutedEngine, rows: int) -> bool:
        if own.passed < _PROBE_EVERY:
            return False
        theirs = min(engine.cost.estimate_ns(rows) for engine in self.engines if engine is not own)
        return own.cost.estimate_ns(rows) <= _PROBE_COST * theirs

    @staticmethod
    def _row_ns(engine: RoutedEngine) -> float:
        return engine.cost.limit_ns / engine.cost.limit / engine.instances or inf
