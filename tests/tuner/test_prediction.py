"""Predicted configurations from known parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.engines import EngineOptions, open_engine
from tailcut.spec import Rows
from tailcut.tuner.estimate import EngineEstimate
from tailcut.tuner.objective import Objective
from tailcut.tuner.prediction import Parts, predict
from tailcut.tuner.simulate import WayIn, Ways
from tailcut.tuner.space import Facts


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    engine = open_engine(perceptron([4, 3], tmp_path / "m.onnx"), EngineOptions())
    way = WayIn(5_000, 5_000, 10_000, 20_000, 30_000)
    facts = Facts(replace(engine.spec, rows=Rows.INDEPENDENT), 2, 2, frozenset())
    engine.close()
    return Parts(facts, Ways(dict.fromkeys(("inline", "worker"), way)), 1.0, "auto")


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


def test_latency_and_cost_are_predicted_at_the_rate(parts: Parts) -> None:
    """At a low rate a request takes a call of one row, and its CPU time is the call's with the loop's."""
    for kind in ("latency", "cost"):
        for one in predict([estimate()], parts, Objective(kind, limit_ms=50.0, rate=100.0)):
            assert 0.1 < one.p99_ms < 1.0
            assert one.cpu_us == pytest.approx(130, rel=0.15)


def test_throughput_is_predicted_without_a_limit(parts: Parts) -> None:
    """The capacity is that of a server that always has requests, and no less than the rate within a limit."""
    for one in predict([estimate()], parts, Objective("throughput", limit_ms=5.0)):
        assert one.capacity >= 0.95 * one.rate > 0
        assert 5_000 < one.capacity < 60_000
