"""The autoscaler's figure and its rule."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tailcut.ray.plan import CarriedLoad
from tailcut.ray.policy import METRIC, AnswerCounts, ongoing, read_counts, replicas

METRICS = """
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="a",version="1"} 100.0
nv_inference_request_success{model="b",version="1"} 20.0
nv_inference_request_failure{model="b",version="1"} 7.0
nv_inference_request_duration_us{model="a",version="1"} 1.5e+06
nv_inference_request_duration_us{model="b",version="1"} 500000.0
tailcut_queued_rows{model="a",version="1"} 3.0
tailcut_loop_busy_us_total 3e+06
tailcut_loops 2.0
"""


def test_counts_of_all_models_are_added() -> None:
    """As `GET /metrics` has them."""
    assert read_counts(METRICS, 5.0) == AnswerCounts(5.0, 120.0, 2.0, 1.5)


@pytest.mark.parametrize(
    ("now", "rate", "at_rate", "expected"),
    [
        (AnswerCounts(2.0, 1000.0, 0.2, 1.96), None, None, 22.4),  # the loop works all the time: 1.4 times the target
        (AnswerCounts(2.0, 1000.0, 0.2, 0.0014), None, None, 0.1),
        (AnswerCounts(2.0, 10.0, 8.0), None, None, 4.0),  # 8 s of requests in 2 s
        (AnswerCounts(2.0, 1000.0, 0.2), None, None, 0.1),
        (AnswerCounts(2.0, 1000.0, 0.2), 1000.0, 3.0, 1.5),  # half of the rate at which 3 are in flight
        (AnswerCounts(2.0, 10.0, 8.0), 1000.0, 3.0, 4.0),
        (AnswerCounts(0.0, 10.0, 8.0), None, None, 0.0),  # no time has passed
        (AnswerCounts(2.0, -1.0, 8.0), None, None, 0.0),  # the server counts anew
    ],
)
def test_requests_in_flight(now: AnswerCounts, rate: float | None, at_rate: float | None, expected: float) -> None:
    """By the time spent in the server, or by the rate or the time of its event loop where that says more."""
    carried = CarriedLoad(target_ongoing=16.0, rate=rate, ongoing=at_rate)
    assert ongoing(AnswerCounts(0.0, 0.0, 0.0), now, carried) == pytest.approx(expected)


@dataclass
class Context:
    """What Serve's autoscaler hands to a policy, as far as it is read."""

    aggregated_metrics: dict[str, dict[str, float]] | None
    total_queued_requests: float
    config: Any


@dataclass
class Config:
    target_ongoing_requests: float = field(default=2.0)


@pytest.mark.parametrize(
    ("reports", "queued", "expected"),
    [
        ({METRIC: {"r1": 3.0, "r2": 5.0}}, 0.0, 4.0),
        ({METRIC: {"r1": 1.0}}, 5.0, 3.0),
        ({}, 0.0, 0.0),
        (None, 1.0, 0.5),
    ],
)
def test_replicas_for_what_is_in_flight(
    reports: dict[str, dict[str, float]] | None, queued: float, expected: float
) -> None:
    """At all replicas, and at callers that wait for one; divided by the target."""
    assert replicas(Context(reports, queued, Config())) == (expected, {})
