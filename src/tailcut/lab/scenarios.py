"""The four scenarios of MLPerf Inference, as its rules define them (mlcommons/inference_policies).

Every record states the differences from an official result: runs are shorter than 600 seconds, samples are the user's
or generated, and LoadGen is not used. Percentiles have confidence intervals, where MLPerf adds a penalty for few
queries (early stopping).
"""

from collections.abc import Callable

from msgspec import UNSET, UnsetType

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Arrivals, Poisson
from tailcut.lab.records import Bounds, Scenario, ScenarioResult, SloResult, bounds_of
from tailcut.lab.session import LoadSession
from tailcut.stats.serial import serial_percentile_interval

OFFLINE_SAMPLES = 24_576
OFFLINE_ROWS = 32  # samples in one request: the query is split for the wire
_OFFLINE_CONNECTIONS = 16
_OFFLINE_PATIENCE_S = 600.0
_NOTE = "MLPerf's definition, not an MLPerf result: shorter runs, no LoadGen, your own or generated samples"


def samples_per_query(scenario: Scenario) -> int:
    """The number of rows in a request."""
    return {Scenario.MULTI_STREAM: 8, Scenario.OFFLINE: OFFLINE_ROWS}.get(scenario, 1)


def run_scenario(
    session: LoadSession,
    scenario: Scenario,
    *,
    slo_ms: float | None = None,
    rate: float | None = None,
    samples: int = OFFLINE_SAMPLES,
) -> tuple[ScenarioResult, SloResult | UnsetType]:
    """Run a scenario; returns its metric and, for the server scenario, the search for the highest rate.

    Raises:
        UsageError: the server scenario has no limit for the latency.
    """

    def result(metric: str, value: float | None, interval: Bounds | None = None) -> ScenarioResult:
        return ScenarioResult(scenario, samples_per_query(scenario), _NOTE, metric, value, interval)

    if scenario in {Scenario.SINGLE_STREAM, Scenario.MULTI_STREAM}:
        q = 0.90 if scenario is Scenario.SINGLE_STREAM else 0.99
        interval = serial_percentile_interval(session.closed(1).latencies_ns / 1e6, q)
        point = None if interval is None else round(interval.point, 4)
        return result(f"p{q * 100:.0f}_ms", point, bounds_of(interval)), UNSET
    if scenario is Scenario.OFFLINE:
        queries = -(-samples // OFFLINE_ROWS)
        load = session.at_once(queries, _OFFLINE_CONNECTIONS, _OFFLINE_PATIENCE_S)
        return result("samples_per_s", round(load.samples * OFFLINE_ROWS / load.duration_s, 2)), UNSET
    if slo_ms is None:
        raise UsageError("the server scenario needs a limit for p99: add --slo 10ms")
    make: Callable[[float], Arrivals] = Poisson
    slo = session.saturate(make, slo_ms) if rate is None else session.meets(make(rate), slo_ms)
    return result("queries_per_s", slo.highest_rate), slo
