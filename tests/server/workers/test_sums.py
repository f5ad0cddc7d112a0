"""What workers have counted, added up: what each counter's sum is, and what is left of a worker that is gone."""

from typing import Any

import pytest

from tailcut.server.workers.sums import Counts, add_up, brief, concise, lasting

COUNTERS = (
    *("at_ns", "last_ms", "limit_ns", "oldest_ns", "exemplars", "batch_exemplars", "queued", "rows_in_use"),
    *("connections", "fast_path", "loops", "server", "models", "stages", "stage_batches", "by_rows", "loop_stall_ns"),
)


def published(server: Counts | None = None, model: str = "m", **counts: Any) -> Counts:
    """What a worker with one model publishes."""
    defaults: Counts = {"stages": {}, "stage_batches": {}, "by_rows": {}}
    return {"at_ns": 1, "server": server or {}, "models": {model: {"1": defaults | counts}}}


def of_model(counts: Counts, model: str = "m") -> Counts:
    """Without what is empty."""
    return {name: value for name, value in counts["models"][model]["1"].items() if value != {}}


def test_counters_are_added() -> None:
    """Numbers by name, batches by their rows, replies by their status; a missing name counts nothing."""
    item = published({"accepted": 1, "replies": {"200": 5}}, requests=2, by_rows={"4": [1, 30]})
    two = published({"accepted": 10, "replies": {"200": 1, "404": 2}}, requests=3, late=1, by_rows={"4": [2, 70]})
    both = add_up(item, {}, two)
    assert both["server"] == {"accepted": 11, "replies": {"200": 6, "404": 2}}
    assert of_model(both) == {"requests": 5, "late": 1, "by_rows": {"4": [3, 100]}}
    assert add_up() == add_up({}, {}) == {}


def test_the_largest_where_a_sum_means_nothing() -> None:
    """Times of the newest answer, the longest stall, the age of the oldest request, the limit."""
    item = published({"loop_stall_ns": 7}, last_ms=5, oldest_ns=3, limit_ns=9, stages={"s": {"last_ms": 5, "rows": 1}})
    two = published({"loop_stall_ns": 6}, last_ms=4, oldest_ns=8, limit_ns=9, stages={"s": {"last_ms": 6, "rows": 1}})
    both = add_up(item, two)
    assert both["server"] == {"loop_stall_ns": 7}
    assert of_model(both) == {"last_ms": 5, "oldest_ns": 8, "limit_ns": 9, "stages": {"s": {"last_ms": 6, "rows": 2}}}


def test_the_latest_exemplar_of_each_bucket() -> None:
    """They are not added up: of each bucket that any worker has one for, the latest stays."""
    item = published(exemplars={"3": [10.5, 100, "a"], "4": [11.0, 200, "b"]})
    two = published(exemplars={"3": [10.75, 90, "c"], "5": [9.0, 400, "d"]})
    latest = {"3": [10.75, 90, "c"], "4": [11.0, 200, "b"], "5": [9.0, 400, "d"]}
    assert of_model(add_up(item, two)) == {"exemplars": latest}


def test_what_was_true_of_the_moment_does_not_last() -> None:
    """Open connections and what waits or is computed end with their worker; totals stay."""
    counts = published(
        {"connections": 3, "accepted": 9}, rows_in_use=4, rows=5, computing=1, stages={"s": {"queued": 2, "failed": 1}}
    )
    past = lasting(counts)
    assert past["server"] == {"connections": 0, "accepted": 9}
    assert of_model(past) == {"rows_in_use": 0, "rows": 5, "computing": 0, "stages": {"s": {"queued": 0, "failed": 1}}}
    assert lasting({}) == {}


def test_sizes_of_batches_stay_in_their_buckets() -> None:
    """However many sizes there are, few are published; those of up to 128 rows as they are, others at most 1/8 off."""
    by_rows = {str(rows): [1, 10] for rows in range(1, 4097)}
    exact = published(by_rows=by_rows, stage_batches={"s": by_rows}, exemplars={"3": [10.5, 100, "a"]})
    counts = of_model(concise(exact))
    assert list(counts["by_rows"])[:130] == [*map(str, range(1, 129)), "144", "160"]
    assert len(counts["by_rows"]) == 128 + 5 * 8
    assert counts["by_rows"]["4096"] == [256, 2560]
    powers = {"1": [1, 10]} | {str(2 * half): [half, 10 * half] for half in (2**power for power in range(12))}
    assert counts["stage_batches"] == {"s": powers}
    assert of_model(brief(concise(exact))) == {"by_rows": powers, "stage_batches": {"s": powers}}


@pytest.mark.parametrize("name", COUNTERS)
def test_models_and_steps_may_have_the_name_of_a_counter(name: str) -> None:
    """Their counts are added up and kept like any other's."""
    batches = {name: {"8": [1, 10]}}
    counts = published(model=name, requests=2, stages={name: {"requests": 2}}, stage_batches=batches)
    both = add_up(lasting(counts), counts)
    assert of_model(both, name) == {
        "requests": 4,
        "stages": {name: {"requests": 4}},
        "stage_batches": {name: {"8": [2, 20]}},
    }
