"""The verdict on made-up tails: each cause that is put in comes out by name."""

import numpy as np
import pytest
from msgspec import UNSET

from tailcut.runtime.tracing.attribution import explain
from tailcut.runtime.tracing.timeline import MARKS, STAGES, ProcessEvent

US, MS = 1000, 1_000_000
USUAL_US = {"receive": 20, "queue": 30, "dispatch": 10, "compute": 200, "deliver": 15, "encode": 5, "write": 10}


def traced(count: int = 2000, *, every: int = 50, compute_us: float = 200, **slow_us: float) -> np.ndarray:
    """Requests a millisecond apart; each `every`th spends `slow_us` more in the stages named."""
    random = np.random.default_rng(0)
    usual = USUAL_US | {"compute": compute_us}
    spent = np.array([[usual[stage] for stage in STAGES]] * count, float) * random.uniform(0.9, 1.1, (count, 7))
    for stage, more in slow_us.items():
        spent[::every, STAGES.index(stage)] += more
    start = np.arange(count) * MS
    marks = start[:, None] + np.concatenate([np.zeros((count, 1)), np.cumsum(spent, axis=1)], axis=1) * US
    rest = np.tile([1, 1, 1024, 200, 0], (count, 1))
    return np.concatenate([marks, rest], axis=1).astype(np.int64)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("receive", "clients sending slowly"),
        ("compute", "the engine taking longer"),
        ("deliver", "the event loop"),
        ("encode", "encoding"),
        ("write", "clients reading slowly"),
        ("dispatch", "waking a worker"),
    ],
)
def test_a_stage_is_named(stage: str, words: str) -> None:
    """The stage in which slow requests lost their time, with its share and advice."""
    result = explain(traced(**{stage: 5000}))
    assert result.cause.name == stage
    assert result.cause.share > 0.95
    assert words in result.verdict
    assert result.stages[stage].slowest_us > 5000 > result.stages[stage].median_us


def test_shares_add_up() -> None:
    """The stages' shares of the time above the median are all of it."""
    result = explain(traced(queue=3000, compute=1000))
    assert sum(stage.share for stage in result.stages.values()) == pytest.approx(1.0, abs=0.01)
    assert result.total_us.p50 < result.total_us.p99


@pytest.mark.parametrize("kind", ["gc", "throttled", "loop_stall", "page_fault"])
def test_what_coincided_is_named(kind: str) -> None:
    """An event over the slow requests, and not over the others, is the cause before the stage it fell into."""
    records = traced(deliver=8000)
    slow = records[::50]
    events = [ProcessEvent(kind, int(row[0]) + MS, int(row[0]) + 8 * MS, 7 * MS) for row in slow]
    result = explain(records, events)
    assert result.cause.name == kind
    assert result.coincided[kind].slowest_hit == 1.0
    assert result.worst[0].coincided == [kind]


@pytest.mark.parametrize(("kind", "stage"), [("engine_wait", "compute"), ("loop_wait", "deliver")])
def test_waiting_for_a_cpu_counts_where_it_was_needed(kind: str, stage: str) -> None:
    """A worker's wait explains computing, the loop's wait what follows it; neither explains the other."""
    records = traced(**{stage: 8000})
    spans = [(int(row[0]) + MS, int(row[0]) + 8 * MS) for row in records[::50]]
    assert explain(records, [ProcessEvent(kind, *span, 7 * MS) for span in spans]).cause.name == "cpu_wait"
    other = "loop_wait" if kind == "engine_wait" else "engine_wait"
    assert explain(records, [ProcessEvent(other, *span, 7 * MS) for span in spans]).cause.name == stage


@pytest.mark.parametrize("kind", ["engine_wait", "loop_wait"])
def test_waiting_for_a_cpu_explains_a_queue(kind: str) -> None:
    """A worker that does not come, and a loop that does not get to wake it."""
    records = traced(queue=8000)
    spans = [(int(row[0]) + MS, int(row[0]) + 8 * MS) for row in records[::50]]
    assert explain(records, [ProcessEvent(kind, *span, 7 * MS) for span in spans]).cause.name == "cpu_wait"


def test_a_quota_is_named_before_the_waiting_that_it_makes() -> None:
    """Threads that a quota stops wait for a CPU all the while: the quota is the cause, with all of their time."""
    records = traced(compute=8000)
    spans = [(int(row[0]) + MS, int(row[0]) + 8 * MS) for row in records[::50]]
    events = [ProcessEvent("engine_wait", *span, 7 * MS) for span in spans] + [
        ProcessEvent("throttled", *s, 3 * MS) for s in spans
    ]
    cause = explain(records, events).cause
    assert cause.name == "throttled"
    assert cause.share > 0.7


def test_what_happens_all_the_time_explains_nothing() -> None:
    """Events that overlap the median requests as much as the slow ones are not the cause."""
    records = traced(compute=5000)
    events = [ProcessEvent("loop_stall", int(row[0]), int(row[0]) + MS, 100 * US) for row in records]
    assert explain(records, events).cause.name == "compute"


def test_a_collection_is_named_before_the_stall_that_it_makes() -> None:
    """Of two events over the same requests the more telling one is named."""
    records = traced(deliver=8000)
    spans = [(int(row[0]), int(row[0]) + 8 * MS) for row in records[::50]]
    events = [ProcessEvent(kind, *span, 8 * MS) for span in spans for kind in ("loop_stall", "gc")]
    assert explain(records, events).cause.name == "gc"


def test_queueing_behind_large_batches() -> None:
    """Slow requests that came while a batch of 32 computed: the advice is a smaller batch."""
    records = traced(queue=6000)
    records[:, 9] = 2
    for number in range(0, len(records) - 1, 50):
        big = records[number].copy()
        ready = int(records[number, 1])
        big[3], big[4], big[9] = ready - MS, ready + 6 * MS, 32
        records[number + 1] = big
        records[number + 1, 0] = records[number + 1, 7] - 300 * US
    result = explain(records, max_batch_size=32)
    assert result.cause.name == "queue"
    assert "queueing behind batches of 32: lower max_batch_size to 8" in result.verdict


def test_queueing_for_want_of_capacity() -> None:
    """An engine that computes all the time is the limit, and the advice says so."""
    verdict = explain(traced(queue=6000, compute_us=950), max_batch_size=8).verdict
    assert "the engine busy 9" in verdict
    assert "needs capacity" in verdict


def test_larger_batches_that_compute_longer() -> None:
    """Slow requests in batches of 30 where the usual has 3."""
    records = traced(compute=5000)
    records[:, 9] = 3
    records[::50, 9] = 30
    assert "lower max_batch_size to 3" in explain(records, max_batch_size=32).verdict


@pytest.mark.parametrize("count", [0, 1, 49])
def test_too_few(count: int) -> None:
    """Under fifty requests there is no tail, and no percentile is made up."""
    result = explain(traced(2000)[:count])
    assert result.verdict.startswith(f"{count} request{'s' * (count != 1)} in the time observed: too few")
    assert result.total_us.p99 is None
    assert result.cause is UNSET


def test_the_worst_are_shown_one_by_one() -> None:
    """Twenty requests, slowest first, with their moments from their own start."""
    worst = explain(traced(compute=5000)).worst
    assert len(worst) == 20
    totals = [entry.marks_us["written"] for entry in worst]
    assert totals == sorted(totals, reverse=True)
    assert set(worst[0].marks_us) == set(MARKS)


def of_process(records: np.ndarray, process: int) -> np.ndarray:
    """The same requests, answered by that process."""
    records = records.copy()
    records[:, -1] = process
    return records


def test_an_event_costs_its_own_process_only() -> None:
    """What stopped one worker explains nothing of another's slow requests at the same moments."""
    records = of_process(traced(deliver=8000), 7)
    spans = [(int(row[0]) + MS, int(row[0]) + 8 * MS, 7 * MS) for row in records[::50]]
    mine = explain(records, [ProcessEvent("gc", *span, 7) for span in spans])
    others = explain(records, [ProcessEvent("gc", *span, 8) for span in spans])
    assert (mine.cause.name, others.cause.name) == ("gc", "deliver")
    assert (mine.worst[0].coincided, others.worst[0].coincided) == (["gc"], [])


def test_two_engines_half_busy_are_not_one_that_is_full() -> None:
    """Capacity is looked at process by process: their engines compute beside each other."""
    item = traced(queue=6000, compute_us=500)
    both = np.concatenate([of_process(item, 7), of_process(item, 8)])
    assert "bursts" in explain(both).verdict


def test_a_tail_of_one_process_is_reported() -> None:
    """Each process's part of the slowest stands beside its part of all; a lopsided tail is in the verdict."""
    result = explain(np.concatenate([of_process(traced(compute=9000), 7), of_process(traced(every=9999), 8)]))
    assert [(process.process, process.requests, process.slowest) for process in result.processes] == [
        (7, 2000, 40),
        (8, 2000, 0),
    ]
    assert "100 % of the slowest are from process 7, which answered 50 % of all" in result.verdict
    assert "process" not in explain(traced(compute=9000)).verdict
