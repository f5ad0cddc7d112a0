"""The four scenarios of MLPerf Inference by name, as its rules define them (mlcommons/inference_policies).

What differs from an official result is said in every record: the runs are shorter than 600 seconds, the samples are the
user's or made up, and LoadGen is not used. A percentile comes with its confidence interval where MLPerf adds a
penalty for few queries (its early stopping).
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Arrivals, Poisson
from tailcut.lab.load import LoadResult
from tailcut.lab.session import Session
from tailcut.stats import Interval
from tailcut.stats.serial import serial_percentile_interval

OFFLINE_SAMPLES = 24_576
OFFLINE_ROWS = 32  # samples that one request carries: the query is cut up for the wire
_OFFLINE_CONNECTIONS = 16
_OFFLINE_PATIENCE_S = 600.0
_NOTE = "MLPerf's definition, not an MLPerf result: shorter runs, no LoadGen, samples of your own or made up"


class Scenario(StrEnum):
    """By the names that the rules use."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    SERVER = "server"
    OFFLINE = "offline"


def samples_per_query(scenario: Scenario) -> int:
    """Rows of a request."""
    return {Scenario.MULTI_STREAM: 8, Scenario.OFFLINE: OFFLINE_ROWS}.get(scenario, 1)


def run_scenario(
    session: Session,
    scenario: Scenario,
    *,
    slo_ms: float | None = None,
    rate: float | None = None,
    samples: int = OFFLINE_SAMPLES,
) -> dict[str, Any]:
    """Run a scenario; its metric as a JSON object, with `slo` as `Session.saturate` gives it for the server's.

    Raises:
        UsageError: the server scenario without a limit of the latency.
    """
    record: dict[str, Any] = {"name": scenario.value, "samples_per_query": samples_per_query(scenario), "note": _NOTE}
    if scenario is Scenario.SINGLE_STREAM:
        return record | _stream(session.closed(1), 0.90)
    if scenario is Scenario.MULTI_STREAM:
        return record | _stream(session.closed(1), 0.99)
    if scenario is Scenario.OFFLINE:
        queries = -(-samples // OFFLINE_ROWS)
        result = session.at_once(queries, _OFFLINE_CONNECTIONS, _OFFLINE_PATIENCE_S)
        value = round(result.samples * OFFLINE_ROWS / result.duration_s, 2)
        return record | {"metric": "samples_per_s", "value": value, "interval": None}
    if slo_ms is None:
        raise UsageError("the server scenario needs a limit for p99: add --slo 10ms")
    make: Callable[[float], Arrivals] = Poisson
    slo = session.saturate(make, slo_ms) if rate is None else session.meets(make(rate), slo_ms)
    return record | {"metric": "queries_per_s", "value": slo["highest_rate"], "interval": None, "slo": slo}


def _stream(result: LoadResult, q: float) -> dict[str, Any]:
    interval: Interval | None = serial_percentile_interval(result.latencies_ns / 1e6, q)
    return {
        "metric": f"p{q * 100:.0f}_ms",
        "value": None if interval is None else round(interval.point, 4),
        "interval": None if interval is None else [round(interval.low, 4), round(interval.high, 4)],
    }
