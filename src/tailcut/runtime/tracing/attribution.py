"""Explains why the slowest requests were slow, from records and events. Pure.

The slowest one per cent are compared with the requests around the median. The difference in time is split by stage.
Events that coincided (garbage collection, waiting for a CPU, throttling by a quota, a stalled loop) are charged with
the time by which they overlapped the slow requests more than the median ones. The cause is what explains most. Records
and events of several workers may be mixed: each request is compared only with the events and batches of its own
process.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.runtime.tracing.records import Cause, Coincidence, ProcessShare, SlowRequest, StageTimes, Tail, Totals
from tailcut.runtime.tracing.timeline import FIELDS, MARKS, STAGES, ProcessEvent
from tailcut.stats import Sample, percentile, samples_needed

SLOW_SHARE = 0.01
_FEWEST = 50  # requests, below which there is no tail to analyse
_LOOKED_AT = 300  # slow requests for which the batch before them is searched, at most
_WORST = 20  # requests listed one by one
_NAMED = 0.35  # of the time above the median: from this share on, a coincidence is the cause
_NEAR = 0.8  # of the largest share: near enough to prefer the more specific cause
_STOPPED = 0.2  # of the time above the median: from this share on, a quota or a collection explains waiting threads
_BUSY = 0.85  # of the time: if the engine computes for this share, capacity is lacking
_ONE_SIDED = 0.7  # of the slowest requests: from this share on, their process is named
_Kinds = Mapping[tuple[str, str], tuple[str, ...]]
_COLUMN = {name: number for number, name in enumerate(FIELDS)}
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
COINCIDENCES = {  # events of a process: what happened, and what to do about it
    "gc": ("garbage collection", "set memory.gc_freeze in the profile, or make less garbage in the process"),
    "throttled": ("the CPU quota stopping the process", "raise the quota, or run fewer threads than it has CPUs"),
    "cpu_wait": ("waiting for a CPU that was busy", "run fewer threads, or give the server cores of its own"),
    "loop_stall": ("the event loop being held up", "look for blocking calls in the process; use dispatch = 'worker'"),
    "page_fault": ("page faults", "set memory.prefault in the profile, and look for memory pressure"),
}
# Kinds of events that count as one coincidence, by the moments of a request between which they can delay it: a queued
# request waits for the loop to wake a worker, or for the worker to start.
KINDS = {
    "cpu_wait": {
        ("ready", "formed"): ("loop_wait", "engine_wait"),
        ("formed", "ended"): ("engine_wait",),
        ("ended", "written"): ("loop_wait",),
    }
}
_SERVING = ("ready", "written")  # events while the client was still sending did not delay it


def explain(records: np.ndarray, events: Sequence[ProcessEvent] = (), *, max_batch_size: int = 1) -> Tail:
    """What the slowest requests spent their time on, and why.

    Args:
        records: int64 [requests, fields] of the timelines of one model.
        events: of the processes that answered, in any order.
        max_batch_size: of the model, for the advice.
    """
    total = (records[:, len(MARKS) - 1] - records[:, 0]) / 1e3 if len(records) else np.empty(0)
    if len(records) < _FEWEST:
        count = f"{len(records)} request{'' if len(records) == 1 else 's'}"
        verdict = f"{count} in the time observed: too few to have a tail, which takes {_FEWEST}"
        return Tail(requests=len(records), total_us=_percentiles(total), verdict=verdict)
    order = np.argsort(total, kind="stable")
    slow = records[order[-max(3, int(len(order) * SLOW_SHARE)) :]]
    usual = records[order[int(len(order) * 0.45) : int(len(order) * 0.55) + 1]]
    above = float(np.mean(_total_us(slow)) - np.mean(_total_us(usual)))
    stages = {}
    for name in STAGES:
        median, slowest = _stage_us(usual, name), _stage_us(slow, name)
        stages[name] = StageTimes(round(median, 1), round(slowest, 1), round((slowest - median) / above, 3))
    coincided = _coincidences(slow, usual, events)
    cause = _cause(records, slow, usual, coincided, max_batch_size)
    processes = _processes(records, slow)
    verdict = f"{100 * cause.share:.0f} % of the time above the median is {cause.words}: {cause.advice}"
    return Tail(
        requests=len(records),
        total_us=_percentiles(total),
        verdict=verdict + _one_sided(processes),
        above_median_us=round(above, 1),
        stages=stages,
        coincided=coincided,
        cause=cause,
        processes=processes,
        worst=[slow_request(row, events) for row in records[order[: -_WORST - 1 : -1]]],
    )


def _cause(
    records: np.ndarray, slow: np.ndarray, usual: np.ndarray, coincided: Mapping[str, Coincidence], max_batch_size: int
) -> Cause:
    overlaps = {name: entry.share for name, entry in coincided.items()}
    for name in ("throttled", "gc"):
        # Threads stopped by a quota wait for a CPU all the time, and those held up by a collection wake together and
        # wait for one: that would count the same time twice.
        if overlaps.get(name, 0.0) >= _STOPPED:
            overlaps[name] = max(overlaps[name], overlaps.pop("cpu_wait", 0.0))
    most = max(overlaps.values(), default=0.0)
    for name, share in overlaps.items():  # the more specific first: a collection also stalls the loop
        if share >= max(_NAMED, _NEAR * most):
            words, advice = COINCIDENCES[name]
            return Cause(name, share, words, advice)
    above = np.mean(_total_us(slow)) - np.mean(_total_us(usual))
    shares = {name: float((_stage_us(slow, name) - _stage_us(usual, name)) / above) for name in STAGES}
    name = max(shares, key=lambda stage: shares[stage])
    words, advice = _stage_words(name, records, slow, usual, max_batch_size)
    return Cause(name, min(shares[name], 1.0), words, advice)


def _stage_words(
    name: str, records: np.ndarray, slow: np.ndarray, usual: np.ndarray, max_batch_size: int
) -> tuple[str, str]:
    """The cause and the advice for a stage."""
    if name == "queue":
        return _queue_words(records, slow, max_batch_size)
    batch = [float(np.mean(part[:, _COLUMN["batch_rows"]])) for part in (slow, usual)]
    if name == "compute":
        if batch[0] > 1.5 * batch[1]:
            lower = max(1, int(batch[1]))
            return f"computing in larger batches ({batch[0]:.0f} rows, the usual {batch[1]:.0f})", _lower_to(lower)
        return "the engine taking longer for the same work", "see `tailcut doctor` for what disturbs this machine"
    return {
        "receive": ("clients sending slowly", "the server waits for their bytes: a buffering proxy in front helps"),
        "dispatch": ("waking a worker thread", "try io.busy_poll_us or dispatch = 'inline' in the profile"),
        "deliver": ("the event loop getting to the answer", "the loop is busy: give it a core, or use --workers"),
        "encode": ("encoding answers", "ask for binary outputs instead of JSON"),
        "write": ("clients reading slowly", "answers wait in the socket: the client or the network is the limit"),
    }[name]


def _queue_words(records: np.ndarray, slow: np.ndarray, max_batch_size: int) -> tuple[str, str]:
    batches = {process: _batches(records[of_it]) for process, of_it in _by_process(records)}
    computed = sum(float((batch.ended - batch.began).sum()) for batch in batches.values())
    spans = sum(int(batch.ended.max() - batch.began.min()) for batch in batches.values())
    busy = min(1.0, computed / max(1, spans))
    typical = int(np.median(np.concatenate([batch.rows for batch in batches.values()])))
    ahead = [_rows_ahead(record, batches[int(record[_COLUMN["process"]])]) for record in slow[:_LOOKED_AT]]
    largest = int(np.median(ahead or [typical]))
    if largest > max(2 * typical, 1):
        return f"queueing behind batches of {largest}", _lower_to(max(1, largest // 4))
    if busy >= _BUSY:
        more = (
            "more instances, --workers, or a lower rate"
            if largest >= max_batch_size
            else f"max_batch_size above {max_batch_size}"
        )
        return f"queueing, with the engine busy {100 * busy:.0f} % of the time", f"it needs capacity: {more}"
    return "queueing behind bursts of arrivals", "the engine is idle between them: more instances shorten the queue"


@dataclass(frozen=True, slots=True)
class _Batches:
    """The batches of one process, in the order in which they began."""

    began: np.ndarray
    ended: np.ndarray
    rows: np.ndarray


def _batches(records: np.ndarray) -> _Batches:
    began, first = np.unique(records[:, _COLUMN["began"]], return_index=True)  # one record per batch
    return _Batches(began, records[first, _COLUMN["ended"]], records[first, _COLUMN["batch_rows"]])


def _by_process(records: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each process that answered, and the indices of its records."""
    column = records[:, _COLUMN["process"]]
    for process in np.unique(column):
        yield int(process), column == process


def _processes(records: np.ndarray, slow: np.ndarray) -> list[ProcessShare]:
    """The share of each process in all requests and in the slowest."""
    return [
        ProcessShare(
            process=process,
            requests=int(of_it.sum()),
            slowest=int((slow[:, _COLUMN["process"]] == process).sum()),
            total_us=_percentiles(_total_us(records[of_it])),
        )
        for process, of_it in _by_process(records)
    ]


def _one_sided(processes: Sequence[ProcessShare]) -> str:
    """Words that name the process with nearly all of the slowest requests; empty where there is none."""
    answered, slowest = sum(process.requests for process in processes), sum(process.slowest for process in processes)
    for process in processes:
        share, usual = process.slowest / slowest, process.requests / answered
        if share >= _ONE_SIDED and share >= 1.5 * usual:
            return (
                f" ({100 * share:.0f} % of the slowest are from process {process.process}, "
                f"which answered {100 * usual:.0f} % of all)"
            )
    return ""


def _rows_ahead(record: np.ndarray, batches: _Batches) -> int:
    """The size of the batch, in the request's own process, for which it waited longest."""
    began, ended, rows = batches.began, batches.ended, batches.rows
    ready, own = int(record[_COLUMN["ready"]]), int(record[_COLUMN["began"]])
    window = slice(*np.searchsorted(began, [ready - int((ended - began).max()), own]))
    shared = np.minimum(ended[window], own) - np.maximum(began[window], ready)
    return (
        int(rows[window][shared.argmax()]) if len(shared) and shared.max() > 0 else int(record[_COLUMN["batch_rows"]])
    )


def _lower_to(rows: int) -> str:
    return f"lower max_batch_size to {rows}"


def _coincidences(slow: np.ndarray, usual: np.ndarray, events: Sequence[ProcessEvent]) -> dict[str, Coincidence]:
    coincidences: dict[str, Coincidence] = {}
    above_us = float(np.mean(_total_us(slow)) - np.mean(_total_us(usual)))
    for name in COINCIDENCES:
        kinds = KINDS.get(name, {_SERVING: (name,)})
        mine = [event for event in events if any(event.kind in names for names in kinds.values())]
        if not mine:
            continue
        hit, spent = _overlap(slow, mine, kinds)
        usual_hit, usual_spent = _overlap(usual, mine, kinds)
        coincidences[name] = Coincidence(
            events=len(mine),
            longest_us=round(max(event.amount_ns for event in mine) / 1e3, 1),
            slowest_hit=round(hit, 3),
            median_hit=round(usual_hit, 3),
            share=round(min(1.0, max(0.0, (spent - usual_spent) / max(above_us, 1e-9))), 3),
        )
    return coincidences


def _overlap(records: np.ndarray, events: Sequence[ProcessEvent], kinds: _Kinds) -> tuple[float, float]:
    """The share of requests that an event of their process overlapped, and the mean microseconds it may have cost."""
    cost = np.zeros(len(records))
    for process, of_it in _by_process(records):
        own = [event for event in events if event.process == process]
        for span, names in kinds.items():
            begin, finish = (records[of_it, _COLUMN[mark]][:, None] for mark in span)
            spent = [_spent(begin, finish, [event for event in own if event.kind == name]) for name in names]
            cost[of_it] += np.max(spent, axis=0)  # two threads waiting at once delay it no longer than one
    return float((cost > 0).mean()), float(cost.mean()) / 1e3


def _spent(begin: np.ndarray, finish: np.ndarray, events: Sequence[ProcessEvent]) -> np.ndarray:
    """The delay that events of one kind may have caused each request between two of its moments, in nanoseconds."""
    if not events:
        return np.zeros(len(begin))
    start, end, amount = np.array([(event.start_ns, event.end_ns, event.amount_ns) for event in events], np.int64).T
    spent: np.ndarray = np.clip(np.minimum(finish, end) - np.maximum(begin, start), 0, amount).sum(axis=1)
    return spent


def slow_request(row: np.ndarray, events: Sequence[ProcessEvent]) -> SlowRequest:
    """One request with its moments in microseconds from its start, and the kinds of events that overlapped it.

    Args:
        row: int64 [fields], its record.
        events: of the processes that answered.
    """
    start, end = int(row[0]), int(row[len(MARKS) - 1])
    process = int(row[_COLUMN["process"]])
    mine = [event for event in events if event.process == process]
    return SlowRequest(
        start_ns=start,
        marks_us={name: round((int(row[number]) - start) / 1e3, 1) for number, name in enumerate(MARKS)},
        **{name: int(row[_COLUMN[name]]) for name in ("rows", "batch_rows", "body_bytes", "status")},
        process=process,
        coincided=sorted({event.kind for event in mine if event.start_ns < end and event.end_ns > start}),
    )


def _percentiles(values: np.ndarray) -> Totals:
    known: dict[str, float | None] = dict.fromkeys([*_QUANTILES, "max"])
    if len(values) >= 2:
        sample = Sample.of(values)
        for name, q in _QUANTILES.items():
            if len(sample) >= samples_needed(q):
                known[name] = round(percentile(sample, q), 1)
        known["max"] = round(float(sample.values[-1]), 1)
    return Totals(**known)


def _total_us(records: np.ndarray) -> np.ndarray:
    return np.asarray((records[:, len(MARKS) - 1] - records[:, 0]) / 1e3)


def _stage_us(records: np.ndarray, stage: str) -> float:
    number = STAGES.index(stage)
    return float(np.mean(records[:, number + 1] - records[:, number])) / 1e3
