"""The autoscaling policy and its metric. Pure: Serve's controller imports it.

Requests that clients send to replicas directly never pass through Serve, so that Serve's own count of requests in
flight misses them. Replicas therefore report what their servers counted, which includes every request.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tailcut.ray.plan import CarriedLoad

METRIC = "tailcut_ongoing"
_BUSY = 0.7  # share of an event loop's time above which replicas are added, as usual with Kubernetes' autoscalers
_REQUESTS, _SECONDS = "nv_inference_request_success", "nv_inference_request_duration_us"
_LOOP, _LOOPS = "tailcut_loop_busy_us_total", "tailcut_loops"


class AnswerCounts(NamedTuple):
    """A server's counters at a time: answered requests, the time they spent in it, and its event loops' busy time."""

    at_s: float
    requests: float
    seconds: float
    loop_s: float = 0.0  # on average per event loop


def read_counts(text: str, at_s: float) -> AnswerCounts:
    """The counters of all models of a server, from its answer to GET /metrics."""
    sums = dict.fromkeys((_REQUESTS, _SECONDS, _LOOP, _LOOPS), 0.0)
    for line in text.splitlines():
        words, _, value = line.rpartition(" ")
        name = words.partition("{")[0]
        if name in sums:
            sums[name] += float(value)
    return AnswerCounts(at_s, sums[_REQUESTS], sums[_SECONDS] / 1e6, sums[_LOOP] / 1e6 / max(1.0, sums[_LOOPS]))


def ongoing(before: AnswerCounts, now: AnswerCounts, carried: "CarriedLoad") -> float:
    """Requests in flight at a server, averaged over the time between two counts.

    By Little's law, this is the time that requests spent in the server divided by the time that passed. A server that
    computes on its event loop leaves waiting requests in the kernel's buffers, where it cannot count them. Its load is
    therefore also estimated from its rate, where the sustained rate was measured, and from its event loop's busy time:
    a loop that is busy 70 % of the time has as much load as one replica should have. The largest estimate counts.

    Args:
        before, now: the counters at the two times.
        carried: the load that one replica sustains.
    """
    passed_s = now.at_s - before.at_s
    if passed_s <= 0 or now.requests < before.requests:  # the counters of a reloaded model start at 0
        return 0.0
    counted = max(0.0, now.seconds - before.seconds) / passed_s
    busy = max(0.0, now.loop_s - before.loop_s) / passed_s
    by_loop = carried.target_ongoing * busy / _BUSY
    by_rate = 0.0
    if carried.rate and carried.ongoing:
        by_rate = carried.ongoing * (now.requests - before.requests) / passed_s / carried.rate
    return max(counted, by_loop, by_rate)


def replicas(context: Any) -> tuple[float, dict[str, Any]]:
    """How many replicas the requests in flight need, as a policy of Ray Serve's autoscaler.

    Args:
        context: Serve's `AutoscalingContext`, for the replicas' reports, averaged over the window; the requests that
            wait at callers because every replica already has as many as Serve may send it; and the target.

    Returns:
        The number before Serve applies its limits and delays, and an empty state.
    """
    reports = (context.aggregated_metrics or {}).get(METRIC) or {}
    waiting = context.total_queued_requests or 0.0
    return (sum(reports.values()) + waiting) / context.config.target_ongoing_requests, {}
