"""The autoscaler's rule, and the figure that it goes by. Pure: Serve's controller imports it.

Requests on the way that clients take directly never pass Serve, so Serve's own count of requests in flight misses them.
Replicas report what their server counted instead, whichever way requests came.
"""

from typing import Any, NamedTuple

METRIC = "tailcut_ongoing"


class AnswerCounts(NamedTuple):
    """What a server has counted until a time: answered requests, and their time in it."""

    at_s: float
    requests: float
    seconds: float


def read_counts(text: str, at_s: float) -> AnswerCounts:
    """The counts of all models of a server from what it answers to GET /metrics."""
    sums = {"nv_inference_request_success": 0.0, "nv_inference_request_duration_us": 0.0}
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if name in sums:
            sums[name] += float(rest.rpartition(" ")[2])
    return AnswerCounts(at_s, sums["nv_inference_request_success"], sums["nv_inference_request_duration_us"] / 1e6)


def ongoing(before: AnswerCounts, now: AnswerCounts, rate: float | None, at_rate: float | None) -> float:
    """Requests in flight at a server, averaged over the time between two counts.

    By Little's law it is the time that requests spent in the server, per time that passed. A server that computes on
    its event loop leaves waiting requests in the kernel's buffers, where it cannot count them; it is known by its rate.

    Args:
        before, now: the counts.
        rate: requests per second that a server carries within its limit; None where it is not measured.
        at_rate: requests in flight at this rate.
    """
    passed_s = now.at_s - before.at_s
    if passed_s <= 0 or now.requests < before.requests:  # the counts of a model that was loaded again start at 0
        return 0.0
    counted = max(0.0, now.seconds - before.seconds) / passed_s
    if not rate or not at_rate:
        return counted
    return max(counted, at_rate * (now.requests - before.requests) / passed_s / rate)


def replicas(context: Any) -> tuple[float, dict[str, Any]]:
    """How many replicas the requests in flight need, as a policy of Ray Serve's autoscaler.

    Args:
        context: Serve's `AutoscalingContext`. Of it are read the replicas' reports, averaged over the window; the
            requests that wait at callers because every replica has as many as it takes; and the target.

    Returns:
        The number before Serve's own limits and delays, and no state.
    """
    reports = (context.aggregated_metrics or {}).get(METRIC) or {}
    waiting = context.total_queued_requests or 0.0
    return (sum(reports.values()) + waiting) / context.config.target_ongoing_requests, {}
