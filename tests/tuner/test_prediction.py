"""Predicted configurations from known parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.engines import EngineOptions, open_engine
from tailcut.spec import Rows
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.objective import Objective, ObjectiveKind
from tailcut.tuner.prediction import PredictionParts, predict, simulated
from tailcut.tuner.shapes import ShapeMix
from tailcut.tuner.simulate import WayIn, Ways
from tailcut.tuner.space import SpaceFacts


@pytest.fixture
def parts(tmp_path: Path) -> PredictionParts:
    engine = open_engine(perceptron([4, 3], tmp_path / "m.onnx"), EngineOptions())
    way = WayIn(5_000, 5_000, 10_000, 20_000, 30_000)
    facts = SpaceFacts(replace(engine.spec, rows=Rows.INDEPENDENT), 2, 2, frozenset())
    engine.close()
    return PredictionParts(facts, Ways(dict.fromkeys(("inline", "worker"), way)), 1.0, "auto")


def estimate() -> EngineEstimate:
    """A call of 100 us plus 10 us a row, on one thread."""
    calls = {rows: 100_000 + 10_000 * rows for rows in (1, 2, 4, 8)}
    times = {rows: [np.full(20, call)] for rows, call in calls.items()}
    return EngineEstimate(
        EngineOptions(threads=1),
        times,
        [],
        {rows: float(call) for rows, call in calls.items()},
        1 << 20,
        0.1,
        batched=True,
    )


def test_latency_and_cost_are_predicted_at_the_rate(parts: PredictionParts) -> None:
    """At a low rate a request takes a call of one row, and its CPU time is the call's with the loop's."""
    for kind in ("latency", "cost"):
        for item in predict([estimate()], parts, Objective(kind, limit_ms=50.0, rate=100.0)):
            assert 0.1 < item.p99_ms < 1.0
            assert item.cpu_us == pytest.approx(130, rel=0.15)


@pytest.mark.parametrize("kind", ["goodput", "throughput"])
def test_the_cost_of_a_request_is_that_of_its_batch(parts: PredictionParts, kind: ObjectiveKind) -> None:
    """Near its highest rate eight rows share a call of 180 us: a fraction of what a call of one row takes."""
    result = {
        item.settings.batching.max_batch_size: item.cpu_us
        for item in predict([estimate()], parts, Objective(kind, limit_ms=20.0))
        if item.settings.batching.dispatch == "inline"
    }
    assert result[1] == pytest.approx(130, rel=0.05)
    assert result[8] < 0.5 * result[1]


def test_more_requests_where_a_limit_is_long() -> None:
    """Several limits' worth, so that a queue near saturation has the time to fill, and no more than are quick."""
    assert [simulated(limit_ms, 50_000.0) for limit_ms in (1.0, 10.0, 100.0)] == [3000, 4000, 6000]


def test_a_rare_slow_call_is_in_the_p99(parts: PredictionParts) -> None:
    """Two calls in a hundred that take 20 times as long are a lone request's p99, at a rate where none waits."""
    slow = estimate()
    slow.times_ns[1] = [np.array([110_000] * 98 + [2_200_000] * 2)]
    item = next(iter(predict([slow], parts, Objective("latency", limit_ms=50.0, rate=5.0))))
    assert item.p99_ms > 2.0


def test_throughput_is_predicted_without_a_limit(parts: PredictionParts) -> None:
    """The capacity is that of a server that always has requests, and no less than the rate within a limit."""
    for item in predict([estimate()], parts, Objective("throughput", limit_ms=5.0)):
        assert item.capacity >= 0.95 * item.rate > 0
        assert 5_000 < item.capacity < 60_000


def test_batches_of_many_lengths_are_predicted_where_they_are_padded(parts: PredictionParts) -> None:
    """As they are, requests of 64 lengths hardly share a batch; padded they do, for calls as long as the buckets."""
    lengths = tuple((number,) for number in range(1, 65))
    facts = replace(parts.facts, places={"x": ((1, 0),)}, lengths=lengths)
    several = replace(parts, facts=facts, mix=ShapeMix((1 / 64,) * 64))
    objective = Objective("goodput", limit_ms=2.0)
    rates: dict[bool, float] = {}
    for item in predict([estimate()], several, objective):
        padded = item.settings.batching.padding is not None
        rates[padded] = max(rates.get(padded, 0.0), item.rate)
    alike = max(item.rate for item in predict([estimate()], parts, objective))
    assert rates[False] < 0.5 * rates[True]
    assert rates[True] < 0.95 * alike
