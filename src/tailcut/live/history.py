"""The last snapshots of a server, and the view that each new one gives together with those before. Pure.

Every process is compared with its own earlier counters. Each process publishes at its own times, so a rate is computed
per process, over the time between its own publications, and the rates are then summed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tailcut.live.counts import Key, ModelCounts, ProcessSnapshot, Snapshot, StepCounts
from tailcut.live.percentiles import NO_REQUESTS, latency, since, summed
from tailcut.live.records import MOST_MODELS, WINDOW, Latency, ModelView, ProcessView, StepView, View
from tailcut.live.traces import TraceSample

Bounds = Callable[[int], Sequence[int]]  # of the histogram's buckets in ns, from the latency objective in ns
_NO_TRACES = TraceSample()


class Growth:
    """The growth of one model's counters in one process between two snapshots, and the seconds between them."""

    __slots__ = ("before", "now", "seconds")

    def __init__(self, now: ModelCounts, before: ModelCounts, seconds: float) -> None:
        self.now = now
        if now.requests < before.requests or now.rows < before.rows:
            before = ModelCounts(latency=before.latency)  # reloaded: all counters but the histogram began at zero again
        self.before = before
        self.seconds = seconds

    def count(self, name: str) -> int:
        """By how much a counter has grown."""
        return max(0, int(getattr(self.now, name)) - int(getattr(self.before, name)))


class History:
    """Makes a view from each snapshot but the first.

    Args:
        bounds: gives the bounds of the histogram's buckets in ns, from the latency objective in ns (0: none).
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._snapshots: deque[Snapshot] = deque(maxlen=WINDOW + 1)
        self._times: deque[dict[Key, np.ndarray]] = deque(maxlen=WINDOW)

    def add(self, snapshot: Snapshot, sample: Callable[[Key], TraceSample]) -> View | None:
        """Make the view of what happened since the last snapshot; None for the first snapshot.

        Args:
            snapshot: the current one.
            sample: gives what was traced of a model's requests since it was last called for that model; called only
                for models that had requests.
        """
        self._snapshots.append(snapshot)
        if len(self._snapshots) < 2:
            return None
        before, oldest = self._snapshots[-2], self._snapshots[0]
        processes = [_process_view(*pair) for pair in _pairs(before, snapshot)]
        recent, last = _grown(oldest, snapshot), _grown(before, snapshot)
        keys = dict.fromkeys(key for process in snapshot.processes for key in process.models())
        busiest = sorted(keys, key=lambda key: -_total(last.get(key, []), "requests"))[:MOST_MODELS]
        samples = {key: sample(key) for key in busiest if _total(last.get(key, []), "requests")}
        self._times.append({key: traces.times_ns for key, traces in samples.items()})
        models = [self._model_view(key, last.get(key, []), recent.get(key, []), samples.get(key)) for key in busiest]
        totals = [process.counts.server for process in snapshot.processes]
        return View(
            clock_s=snapshot.at_ns / 1e9,
            seconds=(snapshot.at_ns - before.at_ns) / 1e9,
            window_s=(snapshot.at_ns - oldest.at_ns) / 1e9,
            ready=snapshot.ready,
            rate=sum(_rate(grown, "requests") for grown in last.values()),
            replies=_replies(before, snapshot, "replies"),
            grpc_replies=_replies(before, snapshot, "grpc_replies"),
            connections=sum(total.connections for total in totals),
            fast_path=sum(total.fast_path for total in totals),
            buffered_bytes=sum(total.buffered_bytes for total in totals),
            throttled_ms=max(0, snapshot.throttled_us - before.throttled_us) / 1e3,
            processes=sorted(processes, key=lambda process: (process.worker or 0, process.pid)),
            models=models,
            models_left_out=len(keys) - len(busiest),
        )

    def _latency(self, grown: Sequence[Growth], times_ns: np.ndarray) -> Latency:
        if all(growth.now.latency == growth.before.latency for growth in grown):
            return NO_REQUESTS
        limit_ns = grown[0].now.limit_ns
        counts = summed([since(growth.now.latency, growth.before.latency) for growth in grown])
        return latency(counts, self._bounds(limit_ns), times_ns, limit_ns=limit_ns)

    def _model_view(
        self, key: Key, grown: Sequence[Growth], recent: Sequence[Growth], sample: TraceSample | None
    ) -> ModelView:
        seen = sample or _NO_TRACES
        times = [times[key] for times in self._times if key in times]
        requests, batches = _total(grown, "requests"), _total(grown, "batches")
        slow, steps = list(seen.slow), _steps(grown)
        written = max((request.marks_us["written"] for request in slow), default=None)
        return ModelView(
            name=key[0],
            version=key[1],
            rate=_rate(grown, "requests"),
            row_rate=_rate(grown, "rows"),
            second=self._latency(grown, seen.times_ns),
            recent=self._latency(recent, np.sort(np.concatenate(times)) if times else _NO_TRACES.times_ns),
            slowest_us=written,
            failed=_total(grown, "failed"),
            refused=_total(grown, "refused"),
            expired=_total(grown, "expired"),
            late=_total(grown, "late"),
            batches=batches,
            batch_rows=_total(grown, "rows") / batches if batches and not steps else None,  # steps have their own
            batch_sizes=dict(sorted(summed([_batch_sizes(growth) for growth in grown]).items())),
            queued=_now(grown, "queued"),
            queued_rows=_now(grown, "queued_rows"),
            computing=_now(grown, "computing"),
            oldest_us=max((growth.now.oldest_ns / 1e3 for growth in grown), default=0.0),
            rows_in_use=_now(grown, "rows_in_use"),
            queue_us=_total(grown, "queue_ns") / requests / 1e3 if requests else None,
            compute_us=_total(grown, "compute_ns") / batches / 1e3 if batches else None,
            busy=_rate(grown, "compute_ns") / 1e9,
            steps=steps,
            looked_at=seen.count,
            slow=slow,
        )


def _pairs(before: Snapshot, now: Snapshot) -> Iterator[tuple[ProcessSnapshot, ProcessSnapshot, float]]:
    """Each process that is in both snapshots, with the seconds between; a new process has no rate yet."""
    known = {process.pid: process for process in before.processes}
    for process in now.processes:
        earlier = known.get(process.pid)
        if earlier is not None and process.counts.at_ns > earlier.counts.at_ns:
            yield earlier, process, (process.counts.at_ns - earlier.counts.at_ns) / 1e9


def _grown(before: Snapshot, now: Snapshot) -> dict[Key, list[Growth]]:
    """The growth of the counters between two snapshots, by model, one entry per process."""
    result: dict[Key, list[Growth]] = {}
    for earlier, later, seconds in _pairs(before, now):
        old = earlier.models()
        for key, counts in later.models().items():
            result.setdefault(key, []).append(Growth(counts, old.get(key, ModelCounts()), seconds))
    return result


def _process_view(before: ProcessSnapshot, now: ProcessSnapshot, seconds: float) -> ProcessView:
    old = before.models()
    answered = [Growth(counts, old.get(key, ModelCounts()), seconds) for key, counts in now.models().items()]
    used = None if now.cpu_ns is None or before.cpu_ns is None else (now.cpu_ns - before.cpu_ns) / 1e9 / seconds
    return ProcessView(
        pid=now.pid,
        worker=now.worker,
        rate=_rate(answered, "requests"),
        connections=now.counts.server.connections,
        cpus=used,
        memory_bytes=now.memory_bytes,
    )


def _replies(before: Snapshot, now: Snapshot, name: str) -> dict[str, int]:
    result: dict[str, int] = {}
    for earlier, later, _ in _pairs(before, now):
        old: dict[str, int] = getattr(earlier.counts.server, name)
        for status, count in getattr(later.counts.server, name).items():
            if count > old.get(status, 0):
                result[status] = result.get(status, 0) + count - old.get(status, 0)
    return dict(sorted(result.items()))


def _batch_sizes(grown: Growth) -> dict[int, int]:
    now, before = grown.now.by_rows, grown.before.by_rows
    return since(
        {rows: batches for rows, (batches, _) in now.items()}, {rows: batches for rows, (batches, _) in before.items()}
    )


def _steps(grown: Sequence[Growth]) -> list[StepView]:
    """Each step of a pipeline, over all processes."""
    names = dict.fromkeys(name for growth in grown for name in growth.now.stages)
    return [_step(name, [growth for growth in grown if name in growth.now.stages]) for name in names]


def _step(name: str, grown: Sequence[Growth]) -> StepView:
    pairs = [
        (growth.now.stages[name], growth.before.stages.get(name, StepCounts()), growth.seconds) for growth in grown
    ]

    def total(field: str) -> int:
        return sum(max(0, getattr(now, field) - getattr(before, field)) for now, before, _ in pairs)

    requests = total("requests")
    return StepView(
        name=name,
        rate=sum(max(0, now.requests - before.requests) / seconds for now, before, seconds in pairs),
        queue_us=total("queue_ns") / requests / 1e3 if requests else None,
        compute_us=total("served_ns") / requests / 1e3 if requests else None,
        queued=sum(now.queued for now, _, _ in pairs),
        failed=total("failed"),
        restarts=total("restarts"),
    )


def _rate(grown: Sequence[Growth], name: str) -> float:
    return sum(growth.count(name) / growth.seconds for growth in grown)


def _total(grown: Sequence[Growth], name: str) -> int:
    return sum(growth.count(name) for growth in grown)


def _now(grown: Sequence[Growth], name: str) -> int:
    return sum(int(getattr(growth.now, name)) for growth in grown)
