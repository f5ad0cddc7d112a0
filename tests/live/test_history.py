"""Two snapshots become a view: rates of each process by its own time, counts of the second, sizes of the moment."""

from typing import Any

import numpy as np
import pytest

from tailcut.live.counts import Key, ModelCounts, ProcessSnapshot, Snapshot, StepCounts, counts_of
from tailcut.live.history import History
from tailcut.live.records import MOST_MODELS, WINDOW, View
from tailcut.live.traces import TraceSample

BOUNDS = tuple(2**power for power in range(10, 30))


def never(key: Key) -> TraceSample:
    raise AssertionError(f"{key} had no requests: its traces are not read")


def unseen(_key: Key) -> TraceSample:
    return TraceSample()


def process(at_s: float, models: dict[Key, ModelCounts] | None = None, pid: int = 7, **server: Any) -> ProcessSnapshot:
    by_name: dict[str, Any] = {}
    for (name, version), counts in (models or {}).items():
        by_name.setdefault(name, {})[version] = counts
    counts = counts_of({"at_ns": int(at_s * 1e9), "server": server, "models": {}})
    counts = type(counts)(at_ns=counts.at_ns, server=counts.server, models=by_name)
    return ProcessSnapshot(pid, pid - 7, counts, cpu_ns=int(at_s * 0.5e9), memory_bytes=1 << 20)


def snapshot(at_s: float, *processes: ProcessSnapshot, throttled_us: int = 0) -> Snapshot:
    return Snapshot(int(at_s * 1e9), True, throttled_us, processes)


def view_of(before: Snapshot, now: Snapshot, sample: Any = unseen) -> View:
    history = History(lambda _: BOUNDS)
    assert history.add(before, never) is None
    view = history.add(now, sample)
    assert view is not None
    return view


def test_rates_and_counts_of_one_second() -> None:
    """Counters are differences; queues are as they are now."""
    before = ModelCounts(requests=100, rows=150, batches=50, queue_ns=10**6, compute_ns=10**8, failed=3)
    now = ModelCounts(
        requests=300,
        rows=550,
        batches=150,
        queue_ns=3 * 10**6,
        compute_ns=6 * 10**8,
        failed=4,
        refused=2,
        queued=5,
        queued_rows=9,
        computing=2,
        oldest_ns=4_000_000,
        rows_in_use=11,
        by_rows={4: (100, 1)},
    )
    view = view_of(snapshot(10, process(10, {("m", "1"): before})), snapshot(12, process(12, {("m", "1"): now})))
    model = view.models[0]
    assert (view.seconds, view.window_s, view.rate) == (2.0, 2.0, 100.0)
    assert (model.rate, model.row_rate, model.batches, model.batch_rows) == (100.0, 200.0, 100, 4.0)
    assert (model.failed, model.refused, model.queue_us, model.compute_us, model.busy) == (1, 2, 10.0, 5000.0, 0.25)
    assert (model.queued, model.queued_rows, model.computing, model.oldest_us, model.rows_in_use) == (5, 9, 2, 4000, 11)
    assert model.batch_sizes == {4: 100}
    assert view.processes[0].cpus == 0.5


def test_an_idle_second_has_no_figures_of_requests() -> None:
    """None instead of 0, and the traces are not read."""
    counts = ModelCounts(requests=9, rows=9, batches=9, latency={3: 9})
    view = view_of(snapshot(1, process(1, {("m", "1"): counts})), snapshot(2, process(2, {("m", "1"): counts})), never)
    model = view.models[0]
    assert (model.rate, model.second.requests, model.recent.requests) == (0.0, 0, 0)
    assert (model.second.p50_us, model.batch_rows, model.queue_us, model.compute_us, model.slowest_us) == (None,) * 5


def test_each_process_has_its_own_time() -> None:
    """A worker whose counts are a quarter of a second old has the rate of the time that they are about."""
    key = ("m", "1")

    def at(own_s: float, other_s: float) -> Snapshot:
        mine = process(own_s, {key: ModelCounts(requests=int(1000 * own_s), latency={2: int(1000 * own_s)})})
        theirs = process(other_s, {key: ModelCounts(requests=int(400 * other_s))}, pid=8)
        return snapshot(own_s, mine, theirs)

    view = view_of(at(10, 9.75), at(11, 11.0))  # 1.25 s of the other one's
    assert view.rate == view.models[0].rate == 1400.0
    assert [item.rate for item in view.processes] == [1000.0, 400.0]
    assert view.models[0].second.requests == 1000


def test_processes_that_come_and_go() -> None:
    """A new one has no rate before its second snapshot, and one that is gone has none."""
    counts = {("m", "1"): ModelCounts(requests=50)}
    view = view_of(snapshot(1, process(1, counts)), snapshot(2, process(2, counts, pid=8, connections=3)))
    assert (view.rate, view.processes, view.connections) == (0.0, [], 3)


def test_a_model_that_was_loaded_anew_counts_from_zero() -> None:
    """Its counters begin again; its histogram goes on."""
    before = ModelCounts(requests=1000, rows=1000, latency={5: 1000})
    now = ModelCounts(requests=10, rows=10, latency={5: 1010})
    view = view_of(snapshot(1, process(1, {("m", "1"): before})), snapshot(2, process(2, {("m", "1"): now})))
    assert (view.models[0].rate, view.models[0].second.requests) == (10.0, 10)


def test_ten_seconds_are_kept() -> None:
    """`recent` is over up to ten views: what happened before has no part in it."""
    history, key = History(lambda _: BOUNDS), ("m", "1")
    total: dict[int, int] = {}
    for second in range(15):
        number = 12 if second < 3 else 4  # slow ones in the first seconds
        total[number] = total.get(number, 0) + 100
        counts = ModelCounts(requests=100 * (second + 1), latency=dict(total))
        times = np.full(100, BOUNDS[number] - 1)
        view = history.add(snapshot(second, process(second, {key: counts})), lambda _: TraceSample(100, times))  # noqa: B023
        if second == 5:
            assert view is not None
            assert view.window_s == 5.0
            assert view.models[0].recent.p99_us == (BOUNDS[12] - 1) / 1e3
    assert view is not None
    assert (view.window_s, view.models[0].recent.requests, view.models[0].second.requests) == (WINDOW, 1000, 100)
    assert view.models[0].recent.p99_us == (BOUNDS[4] - 1) / 1e3


def test_steps_of_a_pipeline() -> None:
    """Each by its name, summed over the processes, with what was begun anew."""
    before = StepCounts(requests=10, queue_ns=0, served_ns=0, restarts=1)
    now = StepCounts(requests=30, queue_ns=20_000, served_ns=60_000, restarts=3, queued=2)
    models = [
        {("p", "1"): ModelCounts(rows=counts.requests, batches=2 * counts.requests, stages={"tokenize": counts})}
        for counts in (before, now)
    ]
    view = view_of(
        snapshot(1, process(1, models[0]), process(1, models[0], pid=8)),
        snapshot(2, process(2, models[1]), process(2, models[1], pid=8)),
    )
    (step,) = view.models[0].steps
    assert (step.name, step.rate, step.queue_us, step.compute_us) == ("tokenize", 40.0, 1.0, 3.0)
    assert (step.queued, step.restarts) == (4, 4)
    assert view.models[0].batch_rows is None  # the batches are those of the steps: half a row is in none


def test_replies_by_status() -> None:
    """Those that were given in the second; a status that was not is left out."""
    view = view_of(
        snapshot(1, process(1, replies={"200": 10, "404": 1})),
        snapshot(2, process(2, replies={"200": 25, "404": 1, "503": 2}, grpc_replies={"OK": 3})),
    )
    assert (view.replies, view.grpc_replies) == ({"200": 15, "503": 2}, {"OK": 3})


def test_time_that_a_quota_took() -> None:
    assert view_of(snapshot(1, throttled_us=5_000), snapshot(2, throttled_us=12_500)).throttled_ms == 7.5


@pytest.mark.parametrize("models", [MOST_MODELS, MOST_MODELS + 3])
def test_the_busiest_models_are_shown(models: int) -> None:
    """No more than there is room for, and how many are not."""
    before = {(f"m{number}", "1"): ModelCounts() for number in range(models)}
    now = {(f"m{number}", "1"): ModelCounts(requests=number, latency={3: number}) for number in range(models)}
    view = view_of(snapshot(1, process(1, before)), snapshot(2, process(2, now)))
    assert len(view.models) == MOST_MODELS
    assert view.models_left_out == models - MOST_MODELS
    assert view.models[0].name == f"m{models - 1}"
