"""What a tune optimises: how predictions are ranked and blocks are scored."""

import numpy as np
import pytest

from tailcut.lab.load import LoadResult
from tailcut.runtime.settings import Settings
from tailcut.tuner.finalists import PredictedConfiguration, finalists
from tailcut.tuner.heats import NONE
from tailcut.tuner.objective import ALL_LATE, Constraints, Objective, ObjectiveKind
from tailcut.tuner.space import changed


def predicted(size: int, **values: float) -> PredictedConfiguration:
    settings = changed(Settings(), batching={"max_batch_size": size})
    memory = int(values.pop("memory", 1 << 20))
    known = {"rate": 100.0, "alone_ms": 1.0, "cpu_us": 10.0, "p99_ms": 5.0, "capacity": 200.0} | values
    return PredictedConfiguration(settings=settings, memory_bytes=memory, **known)


def result(mode: str, latencies_ms: list[float], errors: int = 0) -> LoadResult:
    latencies = np.array(latencies_ms) * 1e6
    return LoadResult(
        mode=mode,
        duration_s=2.0,
        rate_offered=None,
        rate_achieved=len(latencies) / 2.0,
        concurrency=4,
        latencies_ns=latencies,
        service_ns=latencies,
        errors={"500": errors} if errors else {},
        answered=len(latencies),
    )


RATE = predicted(1, rate=300.0)
QUICK = predicted(2, p99_ms=1.0)
FULL = predicted(3, capacity=900.0)
CHEAP = predicted(4, cpu_us=2.0)
LATE = predicted(5, cpu_us=1.0, p99_ms=50.0)


@pytest.mark.parametrize(
    ("kind", "first"), [("goodput", RATE), ("latency", QUICK), ("throughput", FULL), ("cost", CHEAP)]
)
def test_each_objective_has_its_own_best(kind: ObjectiveKind, first: PredictedConfiguration) -> None:
    """By rate within the limit, p99, capacity, or CPU time; of the last, none whose p99 is over the limit."""
    objective = Objective(kind, limit_ms=10.0, rate=50.0)
    everything = [RATE, QUICK, FULL, CHEAP, LATE]
    assert max(everything, key=objective.rank) is first
    assert finalists(everything, rank=objective.rank)[0] is first


def test_answers_over_the_limit_do_not_count() -> None:
    """Goodput counts answers within the limit, and less of them where more than one in a hundred is late."""
    objective = Objective("goodput", limit_ms=10.0)
    assert objective.score_closed(result("closed", [1.0] * 200)) == 100.0
    assert objective.score_closed(result("closed", [1.0] * 180 + [20.0] * 20)) == pytest.approx(0.9 * 90.0)
    assert Objective("throughput", limit_ms=10.0).score_closed(result("closed", [20.0] * 200)) == 100.0


def test_where_all_answers_are_late_the_shortest_p99_wins() -> None:
    """Such a block scores less than one with a single answer within the limit, and more than one without answers."""
    objective = Objective("goodput", limit_ms=0.05)
    late, later = (objective.score_closed(result("closed", [p99_ms] * 200)) for p99_ms in (1.0, 2.0))
    assert NONE < later < late < ALL_LATE
    assert late == pytest.approx(2 * later)
    assert objective.score_closed(result("closed", [0.01] + [1.0] * 199)) > ALL_LATE
    assert objective.score_closed(result("closed", [])) == NONE
    assert objective.describe(later) == "no answer within 0.05 ms: p99 2 ms"


def test_open_blocks_are_scored_by_p99_or_by_cpu_time() -> None:
    """A shorter p99 and a cheaper request score more; failures and a p99 over the limit score next to nothing."""
    latency, cost = (Objective(kind, limit_ms=10.0, rate=50.0) for kind in ("latency", "cost"))
    short, long = result("open", [1.0] * 100), result("open", [20.0] * 100)
    assert latency.score_open(short, None) == pytest.approx(20 * latency.score_open(long, None))
    assert cost.score_open(short, 1e4) == pytest.approx(2 * cost.score_open(short, 2e4))
    assert cost.score_open(long, 1e4) < 0.1 * cost.score_open(short, 2e4)
    for objective in (latency, cost):
        assert objective.score_open(result("open", [1.0] * 100, errors=1), 1e4) < 1e-6
    assert cost.score_open(short, None) < 1e-6


@pytest.mark.parametrize(
    ("kind", "score", "words"),
    [
        ("goodput", 1234.0, "1,234 answers/s within 10 ms"),
        ("latency", 500.0, "p99 2 ms at 50 req/s"),
        ("throughput", 1234.0, "1,234 answers/s"),
        ("cost", 1e5, "10 us of CPU per request at 50 req/s"),
    ],
)
def test_a_score_in_words(kind: ObjectiveKind, score: float, words: str) -> None:
    """With its unit, and the limit or rate it holds for."""
    assert Objective(kind, limit_ms=10.0, rate=50.0).describe(score).startswith(words)


def test_a_cost_over_the_limit_in_words() -> None:
    """As it was measured, whatever it counts for."""
    cost = Objective("cost", limit_ms=10.0, rate=0.5)
    within, over = (cost.score_open(result("open", [ms] * 100), 511_145_000) for ms in (1.0, 20.0))
    assert cost.describe(within) == "511,145 us of CPU per request at 0.5 req/s"
    assert cost.describe(over) == "511,145 us of CPU per request at 0.5 req/s, p99 over the limit of 10 ms"


@pytest.mark.parametrize("kind", ["latency", "cost"])
def test_failed_requests_in_words(kind: ObjectiveKind) -> None:
    """A block with some of them has no p99, and no cost."""
    objective = Objective(kind, limit_ms=10.0, rate=50.0)
    score = objective.score_open(result("open", [1.0] * 100, errors=1), 1e4)
    assert objective.describe(score) == "requests failed"


def test_what_needs_too_much_memory_is_left_out() -> None:
    """By the engine's estimate; without a limit everything stays."""
    small, large = predicted(1, memory=100 << 20), predicted(2, memory=900 << 20)
    assert Constraints(memory_bytes=500_000_000).allowed([small, large]) == [small]
    assert Constraints().allowed([small, large]) == [small, large]
